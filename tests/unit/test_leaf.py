"""The leaf hash against a second implementation, written from the description of its format."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit._version import __version__
from otel_audit.archive.leaf import EVENT, commitment, header_digest, leaf_hash
from otel_audit.archive.query import open_archive
from otel_audit.otlp import encode_resource, encode_scope
from otel_audit.provider import AuditProvider
from otel_audit.record import Session

names = st.text(max_size=255).filter(lambda text: len(text.encode()) <= 255)


def second_leaf(kind: int, position: tuple[int, int], identity: bytes, names: tuple[str, str], content: bytes) -> bytes:
    """Hash a leaf as RFC 6962 does, over the input of version 1."""
    whole = b"OAL1" + struct.pack(">BQQ", kind, *position) + identity
    for name in names:
        whole += struct.pack(">B", len(name.encode("utf-8"))) + name.encode("utf-8")
    return hashlib.sha256(b"\x00" + whole + content).digest()


numbers = st.integers(0, 2**64 - 1)
hashes = st.binary(min_size=32, max_size=32)


@given(
    st.integers(1, 6), st.tuples(numbers, numbers), st.binary(min_size=16, max_size=16), st.tuples(names, names), hashes
)
def test_leaf(kind: int, position: tuple[int, int], identity: bytes, texts: tuple[str, str], content: bytes) -> None:
    """Both implementations agree on any leaf."""
    ours = leaf_hash(kind, *position, identity, *texts, content)
    assert ours == second_leaf(kind, position, identity, texts, content)


@given(hashes, hashes, st.binary())
def test_commitment(salt: bytes, header: bytes, otlp: bytes) -> None:
    """The commitment covers its own label, salt, header digest and the stored bytes."""
    expected = hashlib.sha256(b"otel-audit/v1/commit\x00" + salt + header + otlp).digest()
    assert commitment(salt, header, otlp) == expected


@given(st.binary(), st.binary())
def test_header_digest(resource: bytes, scope: bytes) -> None:
    """Resource and scope are told apart: the same bytes divided elsewhere give another digest."""
    length = struct.pack(">I", len(resource))
    assert header_digest(resource, scope) == hashlib.sha256(length + resource + scope).digest()
    if resource:
        assert header_digest(resource[:-1], resource[-1:] + scope) != header_digest(resource, scope)


def test_too_long_a_name_is_an_error() -> None:
    """A name that its length byte cannot count is refused rather than cut."""
    with pytest.raises(ValueError, match="256"):
        leaf_hash(EVENT, 1, 1, b"\0" * 16, "x" * 256, "t", b"\0" * 32)


def test_the_receipt_s_hash_can_be_computed_from_the_archive(archive_path: Path) -> None:
    """What the receipt calls `integrity_hash` is the leaf over the row, its salt and its resource."""
    with AuditProvider(archive=archive_path, resource={"service.name": "shop"}) as provider:
        log = provider.get_logger("mod_auth", host="example.com")
        receipts = [
            log.audit("user.login.failure", user=user, session=Session(ip="::1"), custom={"g": {"f": 1.5}})
            for user in ("alice", "\ud800", "é" * 10_000)
        ]
        scope = encode_scope("otel_audit", __version__)
    resource = encode_resource({"service.name": "shop"})
    with open_archive(archive_path) as archive:
        rows = archive._all("SELECT sequence, observed, record_id, host, type, salt, otlp, leaf FROM record ORDER BY 1")
    assert [row[0] for row in rows] == [receipt.sequence for receipt in receipts] == [1, 2, 3]
    digest = hashlib.sha256(struct.pack(">I", len(resource)) + resource + scope).digest()
    for receipt, (sequence, observed, identity, host, type_, salt, otlp, leaf) in zip(receipts, rows, strict=True):
        content = hashlib.sha256(b"otel-audit/v1/commit\x00" + salt + digest + otlp).digest()
        assert second_leaf(1, (sequence, observed), identity, (host, type_), content) == leaf
        assert receipt.integrity_hash == leaf.hex()
        assert receipt.record_id.replace("-", "") == identity.hex()
    assert len({row[5] for row in rows}) == 3
