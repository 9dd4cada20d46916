"""Records signed where they are made: from the call to the collector, in the archive, and under an attacker's hands."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_audit import ArchiveError, ProducerKey, Session
from otel_audit.archive.administration import Own
from otel_audit.archive.leaf import ADMINISTRATION, ERASURE, commitment, leaf_hash
from otel_audit.archive.query import open_archive
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.report import Report
from otel_audit.archive.signatures import Signatures, Trust
from otel_audit.archive.verify import Noted, verify
from otel_audit.cli.operating import open_administration
from otel_audit.producer_keys import ProducerVerifier, load_verifier
from otel_audit.protobuf import delimited
from otel_audit.testing import Collector
from tests.archive_material import assert_sound, connect, forked, provider_at, ship
from tests.signing import KINDS, certificate_of, key_file, make_key, private_file, public_file, reference

Received = list[tuple[LogRecord, dict[str, str]]]


def settings_of(secret: Path, kind: str) -> dict[str, Any]:
    return {"integrity_key": secret, **({"integrity_algorithm": kind} if kind == "HMAC-SHA256" else {})}


def received(collector: Collector) -> Received:
    """Return what a collector received, with the resource's attributes."""
    return [
        (record, {pair.key: pair.value.string_value for pair in logs.resource.attributes})
        for call in collector.calls
        for logs in call.message().resource_logs
        for scope in logs.scope_logs
        for record in scope.log_records
    ]


def check_received(found: Received, verifier: ProducerVerifier) -> None:
    for record, resource in found:
        attributes = {pair.key: pair.value.string_value for pair in record.attributes}
        signature = base64.b64decode(attributes["audit.integrity.value"], validate=True)
        assert verifier.verifies(reference(record), signature)
        assert attributes["audit.integrity.signer"] == "producer"
        assert attributes["audit.integrity.canonicalization"] == "jcs"
        assert resource["audit.integrity.algorithm"] == verifier.algorithm


def trusting(*keys: ProducerVerifier | Path, only: bool = True) -> Noted:
    verifiers = (key if isinstance(key, ProducerVerifier) else load_verifier(str(key)) for key in keys)
    return Noted(producers=Trust(tuple(verifiers), only=only))


def codes(report: Report) -> list[tuple[str, str]]:
    return [(fault.code, fault.place) for fault in report.faults]


@pytest.fixture
def signed(archive_path: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return an archive of three records that are signed with EdDSA, and the public key."""
    secret, public = key_file(tmp_path, "EdDSA")
    with provider_at(archive_path, integrity_key=secret) as provider:
        for user in ("alice", "bob", "carol"):
            provider.get_logger("tests").audit("user.login.success", user=user)
    return archive_path, public


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_call_to_the_collector(archive_path: Path, tmp_path: Path, kind: str) -> None:
    """What a collector receives carries a signature that is right for the payload made of what it received."""
    secret, public = key_file(tmp_path, kind)
    verifier = load_verifier(str(public))
    with (
        Collector() as collector,
        provider_at(archive_path, endpoint=collector.endpoint, **settings_of(secret, kind)) as provider,
    ):
        log = provider.get_logger("tests")
        log.audit("user.login.success", user="alice", custom={"g": {"f": 1.5, "m": {"k": [None, b"x", 2**62]}}})
        log.audit("user.login.failure", user="\x00<&>\u2028😀\udc80", message="x" * 20_000)
        assert provider.force_flush(20)
    found = received(collector)
    assert len(found) == 2
    check_received(found, verifier)
    reference_of = verifier.references
    assert {resource.get("audit.integrity.certificate") for _, resource in found} == {(*reference_of, None)[0]}
    assert_sound(archive_path, records=2)
    report = verify(archive_path, noted=trusting(verifier))
    assert (report.intact, report.signatures) == (True, Signatures(verified=2))


def test_ed25519_is_deterministic(signed: tuple[Path, Path], tmp_path: Path) -> None:
    """Signing what was shipped once more gives the same signature: whoever has the key can compare."""
    path, _ = signed
    key = ProducerKey.load(tmp_path / "integrity.key")
    with Collector() as collector:
        assert ship(path, collector)
    for record, _ in received(collector):
        (value,) = [pair.value.string_value for pair in record.attributes if pair.key == "audit.integrity.value"]
        assert base64.b64encode(key.sign(reference(record))).decode() == value


def test_all_ways_of_recording(archive_path: Path, tmp_path: Path) -> None:
    """Records of threads and tasks, queued ones, those of a forked child and the archive's own are all signed."""
    secret, public = key_file(tmp_path, "EdDSA")
    with provider_at(archive_path, integrity_key=secret, durability="queued") as queued:
        for n in range(200):
            queued.get_logger("tests").audit("user.login.success", user=f"queued-{n}")
    with provider_at(archive_path, integrity_key=secret) as provider:
        log = provider.get_logger("tests")
        threads = [
            threading.Thread(target=lambda: [log.audit("user.logout", user="t") for _ in range(20)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        async def tasks() -> None:
            await asyncio.gather(*(log.aaudit("user.logout", user="a") for _ in range(20)))

        asyncio.run(tasks())

        def three() -> None:
            for _ in range(3):
                log.audit("user.logout", user="c")

        child = forked(three)
        assert os.waitpid(child, 0)[1] == 0
    report = verify(archive_path, noted=trusting(public))
    assert (report.intact, report.signatures) == (True, Signatures(verified=303))
    assert_sound(archive_path, records=303)


def test_the_archives_own_records(signed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command appends is signed with the environment's key, and shipped so; what was erased has no signature."""
    path, public = signed
    monkeypatch.setenv("OTEL_AUDIT_INTEGRITY_KEY", str(tmp_path / "integrity.key"))

    def make(connection: apsw.Connection, _tree: object) -> Iterator[Own]:
        remove(connection, [(2, 2)])
        fields = removal_fields([(2, 2)], reason="a test")
        return (Own(ERASURE, "audit.records.erased", custom) for custom in fields)

    with open_administration(path) as administration:
        administration.append(make)
        administration.append(lambda *_: [Own(ADMINISTRATION, "audit.read", {"read": {"command": "show"}})])
    report = verify(path, noted=trusting(public))
    assert (report.intact, report.erased, report.signatures) == (True, 1, Signatures(verified=5))
    with Collector() as collector:
        assert ship(path, collector)
    assert len(collector.records) == 5
    check_received(received(collector), load_verifier(str(public)))


def test_what_nobody_can_sign_is_recorded(archive_path: Path, tmp_path: Path) -> None:
    """A record that JSON cannot hold is recorded beside signed ones, marked, and no fault."""
    secret, public = key_file(tmp_path, "ES256")
    with provider_at(archive_path, integrity_key=secret) as provider:
        log = provider.get_logger("tests")
        log.audit("data.exported", user="alice", custom={"g": {"f": float("inf")}})
        log.audit("data.exported", user="alice")
    report = verify(archive_path, noted=trusting(public))
    assert (report.intact, report.signatures) == (True, Signatures(verified=1, unsigned=1))
    with open_archive(archive_path) as archive:
        second, first = archive.query()
    assert (first.signature, first.altered) == (None, ("signature:not-finite",))
    assert second.signature is not None


def test_the_largest_records(archive_path: Path, tmp_path: Path) -> None:
    """The largest event that a client can cause is too large for a payload; it is recorded all the same, and marked."""
    secret, public = key_file(tmp_path, "EdDSA")
    worst = "\x01" * 16_384
    with provider_at(archive_path, integrity_key=secret) as provider:
        provider.get_logger("tests").audit(
            "data.exported",
            user=worst, user_id=worst, actor=worst, target=worst, message=worst,
            session=Session(worst, worst, worst, worst), custom={"g": {f"f{n}": worst for n in range(16)}},
        )  # fmt: skip
    report = verify(archive_path, noted=trusting(public))
    assert report.intact
    with open_archive(archive_path) as archive:
        (record,) = archive.query()
    assert (record.signature, record.altered[-1]) == (None, "signature:too-large")
    assert report.signatures == Signatures(unsigned=1)


def test_a_key_that_fails(archive_path: Path, tmp_path: Path) -> None:
    """Where the key fails the call raises and nothing is committed; afterwards recording goes on without a gap."""
    private = make_key("EdDSA")
    public = public_file(tmp_path / "pub", private).read_bytes()
    away = [False]

    def sign(payload: bytes) -> bytes:
        if away[0]:
            raise OSError("the service is away")
        signature: bytes = private.sign(payload)
        return signature

    with provider_at(archive_path, integrity_key=ProducerKey("EdDSA", sign, public_key=public)) as provider:
        log = provider.get_logger("tests")
        assert log.audit("user.logout", user="alice").sequence == 1
        away[0] = True
        with pytest.raises(ArchiveError, match="the service is away"):
            log.audit("user.logout", user="bob")
        away[0] = False
        assert log.audit("user.logout", user="carol").sequence == 2
    with open_archive(archive_path) as archive:
        assert [record.user for record in archive.query()] == ["carol", "alice"]
    assert verify(archive_path, noted=trusting(tmp_path / "pub")).signatures == Signatures(verified=2)


def test_queued_records_wait_for_the_key(archive_path: Path, tmp_path: Path) -> None:
    """Queued records that cannot be signed yet wait in memory, and are committed once they can be."""
    private = make_key("EdDSA")
    public = public_file(tmp_path / "pub", private).read_bytes()
    calls = []

    def sign(payload: bytes) -> bytes:
        calls.append(payload)
        if len(calls) < 4:
            raise OSError("the service is away")
        signature: bytes = private.sign(payload)
        return signature

    key = ProducerKey("EdDSA", sign, public_key=public)
    with provider_at(archive_path, integrity_key=key, durability="queued") as provider:
        for n in range(5):
            provider.get_logger("tests").audit("user.logout", user=f"user-{n}")
        assert provider.force_flush(20)
    assert verify(archive_path, noted=trusting(tmp_path / "pub")).signatures == Signatures(verified=5)


def test_which_keys_are_trusted(archive_path: Path, tmp_path: Path) -> None:
    """A signature by another key is wrong for keys that were given, and not checked where one is merely configured."""
    secret, public = key_file(tmp_path, "EdDSA")
    with provider_at(archive_path, integrity_key=secret) as provider:
        provider.get_logger("tests").audit("user.logout", user="alice")
    with provider_at(archive_path) as provider:
        provider.get_logger("tests").audit("user.logout", user="bob")
    other = public_file(tmp_path / "other", make_key("EdDSA"))
    foreign = public_file(tmp_path / "foreign", make_key("RS256"))
    found: Callable[[Noted], Signatures] = lambda noted: verify(archive_path, noted=noted).signatures  # noqa: E731
    assert found(Noted()) == Signatures(unchecked=1, unsigned=1)
    assert found(trusting(public)) == found(trusting(other, public)) == Signatures(verified=1, unsigned=1)
    assert found(trusting(public, only=False)) == Signatures(verified=1, unsigned=1)
    assert found(trusting(other, only=False)) == Signatures(unchecked=1, unsigned=1)
    for key in (other, foreign):
        report = verify(archive_path, noted=trusting(key))
        assert codes(report) == [("signature", "record 1")]
        assert (report.valid, report.invalid, report.signatures) == (1, 1, Signatures(unsigned=1))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_certificates(archive_path: Path, tmp_path: Path, kind: str) -> None:
    """By the certificate that a record came with a signature is consistent; by one that was given it is verified."""
    private = make_key(kind)
    secret, certificate = private_file(tmp_path / "key", private), tmp_path / "cert"
    certificate.write_bytes(certificate_of(private))
    with provider_at(archive_path, integrity_key=secret, integrity_certificate=certificate) as provider:
        for _ in range(2):
            provider.get_logger("tests").audit("user.logout", user="alice")
    other = public_file(tmp_path / "other", make_key(kind))
    assert verify(archive_path).signatures == Signatures(consistent=2)
    assert verify(archive_path, noted=trusting(other, only=False)).signatures == Signatures(consistent=2)
    assert verify(archive_path, noted=trusting(certificate)).signatures == Signatures(verified=2)
    assert verify(archive_path, noted=trusting(certificate), jobs=2).signatures == Signatures(verified=2)
    assert codes(verify(archive_path, noted=trusting(other))) == [("signature", f"record {n}") for n in (1, 2)]


def rewrite(path: Path, sequence: int, change: Callable[[bytes], bytes], user: str | None = None) -> None:
    """Change a record as whoever owns the file could: with its hash made anew; the sequence is the last, and odd."""
    with contextlib.closing(connect(path)) as connection:
        row: Any = connection.execute(
            "SELECT kind, observed, host, type, record_id, digest, salt, otlp"
            " FROM record JOIN resource ON id = record.resource WHERE sequence = ?",
            (sequence,),
        ).fetchone()
        kind, observed, host, type_, record_id, digest, salt, otlp = row
        changed = change(otlp)
        assert changed != otlp
        leaf = leaf_hash(kind, sequence, observed, record_id, host, type_, commitment(salt, digest, changed))
        # What was folded is derived: it is made again at the next chance.
        connection.execute("DELETE FROM posting; DELETE FROM zone; UPDATE meta SET value = 0 WHERE key = 'folded'")
        connection.execute(
            "UPDATE record SET otlp = ?, leaf = ?, user = coalesce(?, user) WHERE sequence = ?",
            (changed, leaf, user, sequence),
        )


def test_a_record_that_was_written_anew(signed: tuple[Path, Path]) -> None:
    """A changed record with all its hashes made anew is found by its signature alone, by all who have the key."""
    path, public = signed
    rewrite(path, 3, lambda otlp: otlp.replace(b"carol", b"mally"), "mally")
    assert verify(path).intact
    for jobs in (1, 2):
        report = verify(path, noted=trusting(public), jobs=jobs)
        assert codes(report) == [("signature", "record 3")]
        assert (report.valid, report.invalid, report.signatures) == (2, 1, Signatures(verified=2))


@pytest.mark.parametrize(
    "text",
    ["", "no base64", "AAAA", "é", base64.b64encode(bytes(64)).decode(), base64.b64encode(bytes(9_000)).decode()],
)
def test_signatures_that_are_none(signed: tuple[Path, Path], text: str) -> None:
    """Whatever stands in a signature's place is wrong, and harms nobody."""
    path, public = signed
    value = delimited(1, b"audit.integrity.value") + delimited(2, delimited(1, text.encode()))
    rewrite(path, 3, lambda otlp: otlp + delimited(6, value))
    assert codes(verify(path, noted=trusting(public))) == [("signature", "record 3")]
    assert codes(verify(path, noted=trusting(public, only=False))) == [("signature", "record 3")]


def test_another_text_of_a_signature(signed: tuple[Path, Path]) -> None:
    """Base64 whose unused bits are not zero is wrong, though it stands for the same signature."""
    path, public = signed

    def change(otlp: bytes) -> bytes:
        end = otlp.index(b"==", otlp.index(b"audit.integrity.value"))
        return otlp[: end - 1] + bytes((otlp[end - 1] + 1,)) + otlp[end:]

    rewrite(path, 3, change)
    assert codes(verify(path, noted=trusting(public))) == [("signature", "record 3")]


def test_a_record_that_nobody_can_have_signed(signed: tuple[Path, Path]) -> None:
    """A number that JSON lacks, behind a signature, is a wrong signature."""
    path, public = signed
    number = delimited(1, b"n") + delimited(2, b"\x21" + b"\xff" * 8)
    rewrite(path, 3, lambda otlp: otlp + delimited(6, number))
    (fault,) = verify(path, noted=trusting(public)).faults
    assert (fault.code, fault.detail) == ("signature", "nobody can sign such a record")


@pytest.mark.parametrize(("number", "content"), [(9, bytes(range(16))), (10, bytes(range(8)))])
def test_what_a_number_hides(signed: tuple[Path, Path], number: int, content: bytes) -> None:
    """A text that is put before a number in its place is read, so it does not fit the signature."""
    path, public = signed
    rewrite(path, 3, lambda otlp: otlp + delimited(number, content) + bytes((number << 3, 0)))
    with contextlib.closing(connect(path)) as connection:
        connection.execute("UPDATE record SET trace = ? WHERE sequence = 3", (content if number == 9 else None,))
    assert verify(path).intact
    assert codes(verify(path, noted=trusting(public))) == [("signature", "record 3")]


def test_a_signature_that_was_taken_off(signed: tuple[Path, Path]) -> None:
    """A record without its signature is counted as unsigned; that is what its count is for."""
    path, public = signed
    rewrite(path, 3, lambda otlp: otlp[: otlp.index(b"audit.integrity.value") - 4])
    report = verify(path, noted=trusting(public))
    assert (codes(report), report.signatures) == ([], Signatures(verified=2, unsigned=1))


def test_a_record_in_another_place(signed: tuple[Path, Path]) -> None:
    """A signed record that is put in another place, by whoever owns the file, is found by its signature."""
    path, public = signed
    with contextlib.closing(connect(path)) as connection:
        row: Any = connection.execute("SELECT otlp, time, observed FROM record WHERE sequence = 1").fetchone()
        connection.execute("UPDATE record SET time = ?, observed = ? WHERE sequence = 3", row[1:])
    rewrite(path, 3, lambda _: row[0], "alice")
    assert verify(path).intact
    assert codes(verify(path, noted=trusting(public))) == [("signature", "record 3")]
