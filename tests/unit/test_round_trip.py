"""A call with hostile values, through a real archive: it can be found again by each of its values, unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_audit.archive.query import Archive, open_archive
from otel_audit.provider import AuditProvider
from otel_audit.record import AuditRecord
from tests.recording import Tape, bound_logger, custom_groups, sessions, texts

Both = tuple[AuditProvider, Archive]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    path = tmp_path_factory.mktemp("archive") / "audit.db"
    with AuditProvider(archive=path) as provider, open_archive(path) as archive:
        yield provider, archive


calls = st.fixed_dictionaries({
    "user": st.none() | texts(),
    "session": sessions(),
    "custom": custom_groups(),
    "message": st.none() | texts(),
    "timestamp": st.none() | st.integers(1, 2**63 - 2),
    "outcome": st.sampled_from([None, "success", "failure", "unknown"]),
})  # fmt: skip
names = texts().filter(lambda text: text not in {"", "*"})


def criteria(record: AuditRecord) -> Iterator[dict[str, Any]]:
    """Yield queries that must find the record, one by one."""
    yield {"record_id": record.record_id}
    yield {"host": record.host, "outcome": record.outcome}
    yield {"since": record.time, "until": record.time + 1}
    yield {"host_wide": True} if record.user is None else {"user": record.user}
    if record.session is not None and record.session.id is not None:
        yield {"session": record.session.id}
    if record.session is not None and record.session.ip is not None and "/" not in str(record.session.ip):
        yield {"address": str(record.session.ip)}


@settings(max_examples=60)
@given(st.tuples(names, names, names), calls)
def test_call_archive_query(both: Both, fixed: tuple[str, str, str], call: dict[str, Any]) -> None:
    """A recorded call is found by id, host, user, session, address and time, and reads as it was recorded."""
    provider, archive = both
    type_, host, source = fixed
    receipt = provider.get_logger(source, host=host).audit(type_, **call)
    tape = Tape()
    bound_logger(tape, source, host=host).audit(type_, **call)
    (found,) = archive.query(record_id=receipt.record_id)
    assert (found.record_id, found.sequence, found.integrity_hash, found.stream_id) == (*receipt[:3], archive.id)
    own = {
        name: getattr(found, name)
        for name in ("record_id", "time", "observed", "sequence", "integrity_hash", "stream_id")
    }
    assert repr(tape.record._replace(**own)) == repr(found)
    assert found.time == (found.observed if call["timestamp"] is None else call["timestamp"])
    for query in criteria(found):
        assert any(record.record_id == receipt.record_id for record in archive.query(**query)), query
