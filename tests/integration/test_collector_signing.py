"""Producers' signatures after the real Collector, checked and made again in Go: on its record classes and JCS library.

The Collector's own signing processor is in no release that can be had where this is tested. `tests/signing_go` is what
stands on the same ground: pdata, which reads the records, and gowebpki/jcs, which makes them canonical.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_audit.producer_keys import load_verifier
from otel_audit.record import Session
from tests.archive_material import provider_at
from tests.collector_build import needed
from tests.otelcol import assert_all_arrived, configuration, logs, writing
from tests.recording import custom_groups, sessions, texts
from tests.signing import KINDS, key_file

EVERY_TYPE = {
    "text": "a<b>&\u2028\"\\\x1f", "int": -(2**63), "float": 1e21, "zero": -0.0, "yes": True, "bytes": b"\0\xff",
    "none": None, "list": [1, [2.5, b"x"], {"k": []}], "map": {"": "", "é": {"\U0001f600": 1, "\ufb33": 2}},
}  # fmt: skip


def calls() -> list[dict[str, Any]]:
    """Return random audit calls, and one with every type of value."""
    found: list[dict[str, Any]] = [
        {"user": "alice", "session": Session("s", "http", "2001:db8::1", "a"), "custom": {"every": EVERY_TYPE}}
    ]
    numbers = st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1), max_size=50)

    @settings(max_examples=100, suppress_health_check=list(HealthCheck), database=None)
    @given(
        user=st.none() | texts(), session=sessions(), message=st.none() | texts(), custom=custom_groups(), more=numbers
    )
    def collect(more: list[float], **call: Any) -> None:
        found.append(call)
        found.append({"custom": {"numbers": {"all": more}}})

    collect()
    return found


def checked(kind: str, key: Path, requests: str) -> dict[str, dict[str, Any]]:
    """Return what Go says of each record, by its id."""
    done = subprocess.run(
        (needed("signing"), kind, key), input=requests, capture_output=True, text=True, timeout=60, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {answer["id"]: answer for answer in answers}


@pytest.mark.parametrize("kind", KINDS)
def test_each_side_verifies_the_other(kind: str, archive_path: Path, tmp_path: Path) -> None:
    """What is signed here is verified in Go after the Collector, and the other way round; all but ES256 are equal."""
    key, public = key_file(tmp_path, kind)
    verifier = load_verifier(str(public))
    collector, file = writing(tmp_path, configuration("minimal"))
    chosen = {"integrity_algorithm": kind} if kind == "HMAC-SHA256" else {}
    events = calls()
    with (
        collector,
        provider_at(archive_path, endpoint=collector.http_endpoint, integrity_key=key, **chosen) as provider,
    ):
        for event in events:
            provider.get_logger("tests").audit("any", **event)
        assert provider.force_flush(30)
    assert_all_arrived(archive_path, file, len(events))
    answers = checked(kind, key, file.read_text("utf-8"))
    unsigned = 0
    for log in logs(file):
        attributes = {pair.get("key"): pair["value"].get("stringValue") for pair in log["attributes"]}
        answer = answers[attributes["audit.record.id"]]
        ours = attributes.get("audit.integrity.value")
        if ours is None:
            unsigned += 1
            assert attributes["otel_audit.unsigned"] == "not-finite"
            assert "unsupported value" in answer["error"]
            continue
        assert answer["verified"], answer
        payload, theirs = base64.b64decode(answer["payload"]), base64.b64decode(answer["signature"])
        assert verifier.verifies(payload, theirs)
        # ECDSA draws a random number for each signature.
        assert (base64.b64decode(ours) == theirs) == (kind != "ES256")
    assert unsigned < len(events) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_on_the_way_shows(kind: str, archive_path: Path, tmp_path: Path) -> None:
    """A record that was edited after it was signed is not verified, and another key verifies none."""
    key, _ = key_file(tmp_path, kind)
    (tmp_path / "other").mkdir()
    other, _ = key_file(tmp_path / "other", kind)
    collector, file = writing(tmp_path, configuration("minimal"))
    chosen = {"integrity_algorithm": kind} if kind == "HMAC-SHA256" else {}
    with (
        collector,
        provider_at(archive_path, endpoint=collector.http_endpoint, integrity_key=key, **chosen) as provider,
    ):
        receipts = [provider.get_logger("tests").audit("any", user=user) for user in ("alice", "bob")]
        assert provider.force_flush(30)
    assert_all_arrived(archive_path, file, 2)
    sent = file.read_text("utf-8")
    edited = sent.replace('"user.name","value":{"stringValue":"bob"}', '"user.name","value":{"stringValue":"eve"}')
    assert edited != sent
    first, second = (receipt.record_id for receipt in receipts)
    found = checked(kind, key, edited)
    assert (found[first]["verified"], found[second]["verified"]) == (True, False)
    assert not any(answer["verified"] for answer in checked(kind, other, sent).values())
