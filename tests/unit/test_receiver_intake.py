"""What waits for a commit, and whoever gives up waiting."""

from __future__ import annotations

from pathlib import Path

from otel_audit.foreign import ForeignLog
from otel_audit.receiver.intake import Intake
from otel_audit.receiver.messages import LogGroup
from otel_audit.receiver.records import Translator
from tests.archive_material import connect, provider_at
from tests.receiving import COMPLETE, TIME, records


def test_whoever_gives_up_keeps_nobody_from_an_answer(archive_path: Path) -> None:
    """A request that is cancelled while it waits, as at the end, is committed with the others, and they are told."""
    with provider_at(archive_path, ship=False) as provider:
        made = Translator(provider).records(
            [LogGroup(scope_name=name, logs=[ForeignLog(time=TIME, attributes=COMPLETE)]) for name in ("a", "b", "c")],
            rename=True,
        )
        intake = Intake(provider.writer, 60)
        other = connect(archive_path)
        other.execute("BEGIN IMMEDIATE")
        first, given_up, last = (intake.submit([one]) for one in made)
        assert given_up.cancel()
        other.execute("ROLLBACK")
        other.close()
        assert [first.result(60)[0].outcome, last.result(60)[0].outcome] == ["recorded", "recorded"]
        intake.close()
    assert len(records(archive_path)) == 3
