"""Bad collectors and networks: some of each kind here, all of them in ``make faults``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otel_audit.delivery import http, service
from otel_audit.delivery.factory import make_sender
from otel_audit.delivery.sender import Answer, Sender, Verdict
from tests.faults import answers, delivering
from tests.faults.collectors import COLLECTORS
from tests.faults.delivering import survive_all
from tests.faults.frame import Experiment, Outcome


@pytest.mark.parametrize("experiment", COLLECTORS, ids=lambda experiment: experiment.name)
def test_exactly_the_right_records_arrive(experiment: Experiment, tmp_path: Path) -> None:
    """Whatever is wrong, once it is mended the collector has every record once, duplicates removed, and calls go on."""
    outcome = experiment.perform(tmp_path, quick=True)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.as_promised, outcome
    assert outcome.acknowledged == 14 * outcome.cycles
    assert outcome.refused == outcome.lost == 0


def test_each_kind_has_a_row_of_its_own() -> None:
    """Rows have names and descriptions of their own, and a full run does every fault there is."""
    assert len({experiment.name for experiment in COLLECTORS}) == len(COLLECTORS)
    assert len({experiment.fault for experiment in COLLECTORS}) == len(COLLECTORS)
    assert sum(experiment.full for experiment in COLLECTORS) > 400
    assert len(answers.HTTP["every 4xx"]) == len(answers.HTTP["every 5xx"]) == 100


class _Liar:
    """A sender that takes any answer, and none, for an acceptance: the experiments' teeth are tried on it."""

    def __init__(self, inner: Sender) -> None:
        self.inner = inner
        self.endpoint = inner.endpoint

    def send(self, request: bytes, timeout: float) -> Answer:
        self.inner.send(request, timeout)
        return Answer(Verdict.ACCEPTED)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("kind", ["every 4xx", "dropped before, after reading, acknowledgement lost"])
def test_a_cursor_that_moves_without_an_answer_is_found(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison has teeth: where the answer is not looked at, it reports losses."""
    monkeypatch.setattr(service, "make_sender", lambda settings: _Liar(make_sender(settings)))
    outcome = _perform(tmp_path, answers.HTTP[kind][:1])
    assert outcome.lost > 0
    assert not outcome.as_promised


def test_a_rejection_that_is_not_read_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where a partial success is read as a whole one, as the stock exporters do."""
    monkeypatch.setattr(http, "_success", lambda *_: Answer(Verdict.ACCEPTED))
    rejecting = [fault for fault in answers.HTTP["partial success, with and without rejections"] if "all" in fault.name]
    outcome = _perform(tmp_path, rejecting)
    assert outcome.lost > 0


def test_a_status_that_says_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of which status does not tell is as wrong as a lost record."""
    monkeypatch.setattr(delivering, "_is_told", lambda _path: False)
    outcome = _perform(tmp_path, answers.HTTP["every 5xx"][:1])
    assert not outcome.as_promised
    assert any("status" in what for what in outcome.wrong)


def _perform(folder: Path, faults: Any) -> Outcome:
    experiment = Experiment(
        name="teeth", fault="teeth", run=lambda stage: survive_all(stage, faults), full=len(faults), quick=1
    )
    return experiment.perform(folder, quick=False)
