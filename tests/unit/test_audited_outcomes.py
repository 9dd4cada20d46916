"""The outcome of an audited call that returned: from responses, from Flask's tuples, or judged by the application."""

from __future__ import annotations

from typing import Any

import pytest

from otel_audit.integrations import flask as flask_integration
from otel_audit.integrations.audited import audited
from tests.recording import Tape, bound_logger


@pytest.fixture
def tape() -> Tape:
    return Tape()


def test_responses(tape: Tape) -> None:
    """A response with status 400 and above is a failure; other results are none, whatever numbers they hold."""

    class Response:
        def __init__(self, status: Any) -> None:
            self.status_code = status

    act = audited("t", logger=bound_logger(tape))(lambda given: given)
    expected: list[tuple[Any, str, Any]] = [
        (Response(200), "success", {}), (Response(303), "success", {}),
        (Response(403), "failure", {"error": {"status": 403}}), (Response(500), "failure", {"error": {"status": 500}}),
        (Response("403"), "success", {}), (Response(True), "success", {}), (("x", 403), "success", {}),
        (None, "success", {}), (500, "success", {}),
    ]  # fmt: skip
    for result, outcome, custom in expected:
        assert act(result) is result
        assert (tape.record.outcome, tape.record.custom) == (outcome, custom)


def test_results_of_views(tape: Tape) -> None:
    """Flask's tuples of body and status are responses for Flask's decorator."""
    act = flask_integration.audited("t", logger=bound_logger(tape))(lambda given: given)
    expected: list[tuple[Any, str]] = [
        ("x", "success"), (("x", 200), "success"), (("x", 403), "failure"), (("x", "403 FORBIDDEN", {}), "failure"),
        (("x", {"h": "v"}), "success"), (("x", True), "success"), (("x", "nonsense"), "success"),
    ]  # fmt: skip
    for result, outcome in expected:
        act(result)
        assert (tape.record.outcome, result) == (outcome, result)


def test_the_outcome_can_be_judged(tape: Tape) -> None:
    """`outcome` decides on what was returned; a word that is none is recorded as unknown, and marked."""
    answers: dict[Any, Any] = {1: "failure", 2: "success", 3: "maybe", 4: None}
    act = audited("t", outcome=lambda result: answers[result], logger=bound_logger(tape))(lambda given: given)
    for given in answers:
        act(given)
    assert [record.outcome for record, _ in tape.written] == ["failure", "success", "unknown", "unknown"]
    assert tape.record.altered == ("outcome:unresolved:NoneType",)


def test_own_groups_stay(tape: Tape) -> None:
    """The group `error` of the application is joined with ours, whose type wins."""

    @audited("t", custom={"error": {"hint": "h", "type": "fake"}, "g": {"f": 1}}, logger=bound_logger(tape))
    def act() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        act()
    assert tape.record.custom == {"error": {"hint": "h", "type": "ValueError"}, "g": {"f": 1}}
