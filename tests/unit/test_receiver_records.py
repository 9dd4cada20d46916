"""What was received becomes a record, whatever it holds; what it claims is kept apart from what is known."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit import privacy
from otel_audit.archive.query import open_archive
from otel_audit.archive.received import Foreign, keep
from otel_audit.foreign import ForeignLog
from otel_audit.otlp import decode
from otel_audit.producer import ProducerKey
from otel_audit.provider import AuditProvider
from otel_audit.receiver.messages import LogGroup, Oversized
from otel_audit.receiver.records import Translator
from otel_audit.testing import Collector
from tests.archive_material import provider_at
from tests.receiving import COMPLETE, TIME
from tests.recording import texts

ID = "0192f0c4-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditProvider]:
    """A provider whose host is set."""
    with provider_at(tmp_path_factory.mktemp("records") / "audit.db", ship=False) as made:
        yield made


def group(*logs: ForeignLog, **fields: Any) -> LogGroup:
    return LogGroup(**{"resource": {"service.name": "shop"}, "scope_name": "orders", **fields}, logs=list(logs))


def log(record_id: Any = ID, **fields: Any) -> ForeignLog:
    attributes = {**COMPLETE, "audit.record.id": record_id, **fields.pop("attributes", {})}
    return ForeignLog(**{"time": TIME, "event_name": "order.deleted", "attributes": attributes, **fields})


def translated(provider: AuditProvider, *groups: LogGroup) -> Foreign:
    (foreign,) = Translator(provider).records(groups, rename=False)
    return foreign


def test_what_the_producer_said_is_kept_apart(provider: AuditProvider) -> None:
    """Sequence, signature, marks and time of observation of the producer stand in a group of their own."""
    claims = {
        "audit.sequence.number": 7, "audit.sequence.stream_id": "theirs", "audit.integrity.value": "c2ln",
        "audit.integrity.signer": "producer", "otel_audit.altered": ("user:control",), "otel_audit.unsigned": "no",
        "otel_audit.custom.origin.sequence_number": 666, "otel_audit.custom.otel.scope": "x",
    }  # fmt: skip
    foreign = translated(provider, group(log(attributes=claims, observed=TIME + 1)))
    record = foreign.record
    assert record.custom["origin"] == {
        "sequence_number": 7, "sequence_stream_id": "theirs", "integrity_value": "c2ln", "integrity_signer": "producer",
        "altered": ("user:control",), "unsigned": "no", "observed_time_unix_nano": TIME + 1,
    }  # fmt: skip
    assert record.custom["otel"]["attributes"] == {
        "otel_audit.custom.origin.sequence_number": 666,
        "otel_audit.custom.otel.scope": "x",
    }
    assert (record.altered, record.signature, record.record_id) == ((), None, ID)
    assert decode(foreign.otlp, ID) == record


@pytest.mark.parametrize(
    ("given_id", "kept", "marks"),
    [
        (ID.upper(), ID, ()),
        (ID.replace("-", ""), ID, ()),
        ("550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440000", ()),
        ("order-7", None, ("record_id:malformed",)),
        ("ali\udcffce", None, ("record_id:malformed", "custom.origin.record_id:escaped")),
        (7, None, ("record_id:malformed",)),
        ("00000000-0000-0000-0000-000000000000", None, ("record_id:malformed",)),
        (ID.replace("-", "", 1), None, ("record_id:malformed",)),
        ("", None, ("record_id:missing",)),
        (None, None, ("record_id:missing",)),
    ],
)
def test_ids(provider: AuditProvider, given_id: Any, kept: str | None, marks: tuple[str, ...]) -> None:
    """A UUID is kept, however it is written; any other id always gives the same; without one there is a new one."""
    first, second = (translated(provider, group(log(given_id))).record for _ in range(2))
    assert first.altered == marks
    assert uuid.UUID(first.record_id).version in {4, 7, 8}
    assert (first.record_id == second.record_id) == (marks != ("record_id:missing",))
    if kept is not None:
        assert first.record_id == kept
    elif given_id:
        assert "record_id" in first.custom["origin"]


def test_the_second_best_id(provider: AuditProvider) -> None:
    """`log.record.uid` is the id of a record without the draft's; beside another one it stays an attribute."""
    other = str(uuid.uuid4())
    alone = translated(provider, group(log(None, attributes={"log.record.uid": other}))).record
    assert (alone.record_id, alone.altered) == (other, ())
    beside = translated(provider, group(log(attributes={"log.record.uid": other}))).record
    assert (beside.record_id, beside.custom["otel"]["attributes"]) == (ID, {"log.record.uid": other})


def test_one_resource_of_many_scopes(provider: AuditProvider) -> None:
    """It is stored for each scope: where that is too much, the request is to be split, before it fills the disk."""
    resource = {f"key{number}": "x" * 16_000 for number in range(15)}
    groups = [LogGroup(resource, f"scope{number}", logs=[log()]) for number in range(60)]
    assert len(Translator(provider).records(groups, rename=False)) == 60
    empty = [LogGroup(resource, "empty")] * 100
    assert len(Translator(provider).records([*empty, *groups], rename=False)) == 60
    with pytest.raises(Oversized, match="each resource as often as it has scopes"):
        Translator(provider).records([*groups, *groups], rename=False)


def test_what_is_shipped_on_is_signed_once(archive_path: Path) -> None:
    """The producer's claims on record and resource do not collide with this archive's own, nor are they lost."""
    key = ProducerKey("HMAC-SHA256", lambda payload: payload[:32].ljust(32, b"."))
    claims = {"audit.integrity.value": "dGhlaXJz", "audit.sequence.number": 9}
    first = "otel_audit.origin.audit.integrity.algorithm"
    resource = {"service.name": "shop", "audit.integrity.algorithm": "EdDSA", first: "ES256"}
    with Collector() as collector:
        with provider_at(archive_path, endpoint=collector.endpoint, integrity_key=key) as provider:
            keep(provider.writer, [translated(provider, group(log(attributes=claims), resource=resource))])
            assert provider.force_flush(20)
            stream = open_archive(archive_path)
        (came,) = collector.records
        with stream:
            archive_id = stream.id
    request = collector.calls[0].message()
    keys = [pair.key for pair in request.resource_logs[0].scope_logs[0].log_records[0].attributes]
    assert len(keys) == len(set(keys))
    assert came.attributes["audit.sequence.number"] == 1
    assert came.attributes["audit.sequence.stream_id"] == archive_id
    assert came.attributes["audit.integrity.value"] != "dGhlaXJz"
    assert came.attributes["otel_audit.custom.origin.integrity_value"] == "dGhlaXJz"
    assert came.attributes["otel_audit.custom.origin.sequence_number"] == 9
    assert came.resource["audit.integrity.algorithm"] == "HMAC-SHA256"
    assert came.resource[first] == "EdDSA"
    assert came.resource[f"otel_audit.origin.{first}"] == "ES256"


def test_privacy_comes_before_the_disk(tmp_path: Path) -> None:
    """What the processors take out of the library's own records is taken out of received ones."""
    key = b"0123456789abcdef0123456789abcdef"
    with provider_at(tmp_path / "audit.db", ship=False, processors=[privacy.pseudonymise(key)]) as provider:
        foreign = translated(provider, group(log(attributes={"user.name": "alice"})))
    assert b"alice" not in foreign.otlp
    assert foreign.record.user is not None
    assert foreign.record.user.startswith("psn-")


KEYS = st.one_of(
    st.sampled_from([
        *COMPLETE, "user.name", "user.id", "client.address", "session.id", "audit.target.id", "audit.sequence.number",
        "audit.sequence.Number", "audit.integrity.value", "otel_audit.altered", "otel_audit.source", "log.record.uid",
        "otel_audit.custom.origin.a", "otel_audit.custom.g.f", "audit.schema.version", "audit.record.id",
    ]),
    texts(),
)  # fmt: skip
ANY = st.recursive(
    st.none() | texts() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts(), inner, max_size=3),
    max_leaves=6,
)
"""What both readers can give."""


@given(
    st.dictionaries(KEYS, ANY, max_size=6), st.dictionaries(KEYS, ANY, max_size=3),
    st.fixed_dictionaries({}, optional={
        "event_name": texts(), "body": ANY, "severity_text": texts(), "severity_number": ANY,
        "time": st.integers(), "observed": st.integers(), "trace_id": st.integers() | texts(),
        "span_id": st.integers() | texts(), "trace_flags": st.integers(), "dropped": st.integers(0, 2**32 - 1),
    }),
    texts(),
)  # fmt: skip
def test_whatever_it_holds_it_is_recorded(
    provider: AuditProvider, attributes: dict[str, Any], resource: dict[str, Any], fields: dict[str, Any], scope: str
) -> None:
    """No value of any field keeps a record from being made, encoded, committed and read again."""
    given_group = group(
        ForeignLog(attributes=attributes, **fields), resource=resource, scope_name=scope, scope=dict(resource)
    )
    foreign = translated(provider, given_group)
    (kept,) = keep(provider.writer, [foreign._replace(rename=True)])
    assert kept.outcome in {"recorded", "repeat"}
    with open_archive(provider.config.archive) as archive:
        (record,) = archive.query(record_id=kept.receipt.record_id)
    assert record.record_id == kept.receipt.record_id
