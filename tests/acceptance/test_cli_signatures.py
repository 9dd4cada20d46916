"""Signed records on the command line: made by `record`, shown by `show`, checked by `verify`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import otel_audit
from tests.signing import KINDS, certificate_of, key_file, make_key, private_file, public_file


def record(archive: Path, user: str, **variables: str) -> None:
    otel_audit("record", "--archive", archive, "example.com", "user.logout", "--user", user, status=0, **variables)


def verified(archive: Path, *options: str | Path, status: int = 0, **variables: str) -> dict[str, Any]:
    done = otel_audit("verify", "--archive", archive, "-o", "json", *options, status=status, **variables)
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def counts(verified: int = 0, consistent: int = 0, unchecked: int = 0, unsigned: int = 0) -> dict[str, int]:
    return {"verified": verified, "consistent": consistent, "unchecked": unchecked, "unsigned": unsigned}


def variables_of(secret: Path, kind: str) -> dict[str, str]:
    variables = {"OTEL_AUDIT_INTEGRITY_KEY": str(secret)}
    return {**variables, "OTEL_AUDIT_INTEGRITY_ALGORITHM": kind} if kind == "HMAC-SHA256" else variables


@pytest.mark.parametrize("kind", KINDS)
def test_signed_and_verified(archive_path: Path, tmp_path: Path, kind: str) -> None:
    """What `record` signs with the environment's key verifies with it, with the key that is given, and in processes."""
    secret, public = key_file(tmp_path, kind)
    variables = variables_of(secret, kind)
    record(archive_path, "alice", **variables)
    record(archive_path, "bob")
    assert verified(archive_path, status=0, **variables)["signatures"] == counts(verified=1, unsigned=1)
    assert verified(archive_path, "--producer-key", public)["signatures"] == counts(verified=1, unsigned=1)
    assert verified(archive_path, "--producer-key", public, "--jobs", "2")["signatures"] == counts(1, unsigned=1)
    assert verified(archive_path)["signatures"] == counts(unchecked=1, unsigned=1)
    text = otel_audit("verify", "--archive", archive_path, "--producer-key", public).stdout
    assert "signatures  1 verified, 0 by the records' own certificate, 0 not checked\nunsigned    1 records\n" in text


def test_keys_that_are_given(archive_path: Path, tmp_path: Path) -> None:
    """A key may be given as text; with several each signature must be by one of them; a wrong one is a fault."""
    secret, public = key_file(tmp_path, "EdDSA")
    record(archive_path, "alice", **variables_of(secret, "EdDSA"))
    lines = public.read_text().splitlines()
    assert verified(archive_path, "--producer-key", "".join(lines[1:-1]))["signatures"] == counts(verified=1)
    other = public_file(tmp_path / "other", make_key("ES256"))
    both = verified(archive_path, "--producer-key", other, "--producer-key", public)
    assert both["signatures"] == counts(verified=1)
    report = verified(archive_path, "--producer-key", other, status=1)
    assert report["faults"] == [{"code": "signature", "place": "record 1", "detail": "not by a key that was given"}]
    text = otel_audit("verify", "--archive", archive_path, "--producer-key", other, status=1).stdout
    assert text.endswith("faults      1\nsignature: record 1: not by a key that was given\n")


def test_the_records_own_certificate(archive_path: Path, tmp_path: Path) -> None:
    """With a certificate in the resource signatures are checked without any key, and counted apart."""
    private = make_key("ES256")
    (tmp_path / "cert").write_bytes(certificate_of(private))
    variables = variables_of(private_file(tmp_path / "key", private), "ES256")
    record(archive_path, "alice", **variables, OTEL_AUDIT_INTEGRITY_CERTIFICATE=str(tmp_path / "cert"))
    assert verified(archive_path)["signatures"] == counts(consistent=1)
    assert verified(archive_path, "--producer-key", tmp_path / "cert")["signatures"] == counts(verified=1)
    request = json.loads(otel_audit("show", "--archive", archive_path, "-o", "otlp").stdout)
    resource = request["resourceLogs"][0]["resource"]["attributes"]
    shown = {pair["key"]: pair["value"]["stringValue"] for pair in resource}
    assert shown["audit.integrity.algorithm"] == "ES256"
    assert base64.b64decode(shown["audit.integrity.certificate"])[:1] == b"\x30"


@pytest.mark.parametrize("text", ["nowhere", "", "\x1b[31m", "A" * 60, "a\nb"])
def test_keys_that_are_none(archive_path: Path, text: str) -> None:
    """What is no key is wrong usage, said in one harmless line."""
    record(archive_path, "alice")
    done = otel_audit("verify", "--archive", archive_path, "--producer-key", text, status=3)
    assert done.stdout == ""
    assert "--producer-key" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_a_key_that_others_can_read(archive_path: Path, tmp_path: Path) -> None:
    """Nothing is recorded with a key that others can read; the message says what to do."""
    secret, _ = key_file(tmp_path, "EdDSA")
    secret.chmod(0o644)
    done = otel_audit(
        "record", "--archive", archive_path, "example.com", "user.logout", status=2, **variables_of(secret, "EdDSA")
    )
    assert "is open to others (mode 0644): chmod 600 it" in done.stderr
    assert not archive_path.exists()


def test_what_is_shown(archive_path: Path, tmp_path: Path) -> None:
    """JSON shows the signature of signed records; the field can be asked for; nothing changes for others."""
    secret, _ = key_file(tmp_path, "EdDSA")
    record(archive_path, "alice")
    record(archive_path, "bob", **variables_of(secret, "EdDSA"))
    bob, alice = json.loads(otel_audit("show", "--archive", archive_path, "-o", "json").stdout)
    assert "signature" not in alice
    assert len(base64.b64decode(bob["signature"], validate=True)) == 64
    lines = otel_audit(
        "show", "--archive", archive_path, "-o", "jsonl", "--fields", "sequence,signature"
    ).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"sequence": 2, "signature": bob["signature"]},
        {"sequence": 1, "signature": None},
    ]
    received = tmp_path / "received.jsonl"
    received.write_text(otel_audit("show", "--archive", archive_path, "--reverse", "-o", "otlp").stdout)
    assert verified(archive_path, "--against", received)["collector"]["matching"] == 2
