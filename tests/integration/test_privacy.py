"""What was taken out is in no byte of the archive's files, and is found by who may look for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_audit import privacy
from otel_audit.archive.query import open_archive
from otel_audit.archive.stats import counts
from otel_audit.provider import AuditProvider
from otel_audit.record import Actor, Session, Target
from tests.command_line import fill, json_lines, on_terminal, otel_audit
from tests.mmdb import write_mmdb

KEY = b"0123456789abcdef"
P = privacy.Pseudonyms(KEY)
# Digests: what is in the files by chance is no trace.
LETTERS = st.integers(0, 2**64).map(lambda number: f"x{hashlib.sha256(str(number).encode()).hexdigest()[:19]}Y")
SECRETS = ("password={}", "Authorization: Bearer {}", "X-Api-Key: {}", '{{"client_secret": "{}"}}', "ftp://x:{}@y/")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditProvider]:
    path = tmp_path_factory.mktemp("privacy") / "audit.db"
    names = ["user", "user_id", "actor", "target", "session.id", "order.customer", "context.mail"]
    with AuditProvider(
        archive=path, host="example.com", redact=True, ip_prefix=24, pseudonym_key=KEY, pseudonymise=names, ship=False
    ) as opened:
        yield opened


def files(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def present(path: Path, secret: str) -> bool:
    return secret.lower().encode() in files(path).lower()


@settings(max_examples=25)
@given(
    secret=LETTERS,
    name=LETTERS,
    address=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(lambda ip: ip.packed[-1] and ip.packed[-2]),
    form=st.sampled_from(SECRETS),
    card=st.sampled_from(["4111111111111111", "5500000000000004", "340000000000009", "6011000000000004"]),
)
def test_nothing_of_it_is_in_the_files(  # noqa: PLR0917 - the strategies
    provider: AuditProvider, secret: str, name: str, address: Any, form: str, card: str
) -> None:
    """Names, addresses and secrets in any place leave no trace in tables, indexes, bodies or the WAL."""
    text = f"{name.upper()} from {address}: {form.format(secret)}, paid with {card}"
    custom: dict[str, Any] = {
        "order": {"customer": name, "note": text, "password": secret, "card": int(card), "raw": text.encode()},
        "http": {"headers": [["Cookie", secret], {"authorization": secret}], text: {text: (text,)}},
    }
    log = provider.get_logger("shop", mail=f"{name}@example.net", api_key=secret, peer=address)
    first = log.audit(
        "order.paid", user=name, user_id=name, actor=Actor(name), target=Target(name, name), message=text,
        custom=custom,
        session=Session(name, text, address, text),
    )  # fmt: skip
    second = log.audit("order.paid", user=name, session=Session(name, ip=f"{address}"))
    path = provider.config.archive
    for hidden in (secret, name, f"{name}@example.net", card, str(address), address.exploded):
        assert not present(path, hidden), hidden
    assert present(path, P(name))
    with open_archive(path) as archive:
        found = [record.record_id for record in archive.query(user=name, session=name, pseudonym=P, limit=2)]
        assert found == [second.record_id, first.record_id]
        assert not list(archive.query(user=name))


def test_the_search_for_traces_finds_them(archive_path: Path) -> None:
    """Without the measures the same search finds all of it, in the WAL of the open archive as well."""
    with AuditProvider(archive=archive_path, host="h", ship=False) as provider:
        provider.get_logger("s").audit("t", user="alice-example", session=Session(ip="203.0.113.7"))
        assert present(archive_path, "alice-example")
        assert present(archive_path, "203.0.113.7")


def test_a_truncated_address_is_found(archive_path: Path) -> None:
    """An address and every network around it find what is left of it, folded or not, and no other."""
    with AuditProvider(archive=archive_path, host="h", ip_prefix=(24, 48), ship=False) as provider:
        log = provider.get_logger("s")
        for ip in ("203.0.113.7", "203.0.114.7", "2001:db8:1:2::7", "::ffff:198.51.100.7", "localhost"):
            log.audit("t", session=Session(ip=ip))
    with open_archive(archive_path) as archive:

        def found(address: str) -> list[int | None]:
            return [record.sequence for record in archive.query(address=address)]

        assert found("203.0.113.7") == found("203.0.113.250") == found("203.0.113.0/24") == [1]
        assert found("203.0.115.7") == found("203.0.115.0/24") == []
        assert found("203.0.0.0/16") == [2, 1]
        assert found("2001:db8:1:ffff::1") == found("2001:db8::/32") == [3]
        assert found("::ffff:198.51.100.9") == found("198.51.100.9") == [4]
        assert found("localhost") == [5]
        assert dict(counts(archive, "address"))["203.0.113.0/24"] == 1


def test_the_command_line_finds_pseudonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key, records of before and after are found by user, session, address and field."""
    path, key = tmp_path / "audit.db", tmp_path / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    event = {"user": "alice", "session": Session("s-1", ip="203.0.113.7"), "custom": {"g": {"f": "x y"}}}
    fill(path, [event, {"user": "bob"}])
    monkeypatch.setenv("OTEL_AUDIT_PSEUDONYM_KEY", str(key))
    monkeypatch.setenv("OTEL_AUDIT_PSEUDONYMISE", "user,session.id,session.ip,g.f")
    fill(path, [event, {"user": "bob"}])
    monkeypatch.delenv("OTEL_AUDIT_PSEUDONYM_KEY")
    for options in (
        ("alice@example.com",), ("--ip", "203.0.113.7"), ("--ip", "::ffff:cb00:7107"), ("--session", "s-1"),
        ("--where", "user=alice"), ("--where", "g.f=x y"),
        ("alice@example.com", "--session", "s-1", "--ip", "203.0.113.7"),
    ):  # fmt: skip
        arguments = ("show", "--archive", path, "-o", "jsonl", "--fields", "sequence", *options)
        with_key = [line["sequence"] for line in json_lines(otel_audit(*arguments, "--pseudonym-key", str(key)).stdout)]
        by_variable = json_lines(otel_audit(*arguments, OTEL_AUDIT_PSEUDONYM_KEY=str(key)).stdout)
        without = [line["sequence"] for line in json_lines(otel_audit(*arguments).stdout)]
        mapped = "::ffff" in options[-1]
        assert (with_key, without) == (([], []) if mapped else ([3, 1], [1])), options
        assert [line["sequence"] for line in by_variable] == with_key
    shown = json.loads(
        otel_audit("stats", "--archive", path, "alice@example.com", "--pseudonym-key", key, "-o", "json").stdout
    )
    assert shown["records"] == 2
    key.chmod(0o644)
    refused = otel_audit("show", "--archive", path, "alice@example.com", "--pseudonym-key", key, status=2)
    assert "chmod 600" in refused.stderr
    assert otel_audit("show", "--archive", path, OTEL_AUDIT_PSEUDONYM_KEY=str(key)).stdout


def test_the_command_line_shows_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Country and continent are in JSON, in a column when asked for, can be asked for, and survive --no-show-ip."""
    path = tmp_path / "audit.db"
    places = write_mmdb(
        tmp_path / "places.mmdb", {"203.0.113.0/24": {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}}}
    )
    monkeypatch.setenv("OTEL_AUDIT_GEOIP", str(places))
    monkeypatch.setenv("OTEL_AUDIT_DROP_IP", "true")
    fill(path, [{"session": Session(ip="203.0.113.7")}, {"session": Session("s", ip="192.0.2.1")}])
    lines = json_lines(otel_audit("show", "--archive", path, "-o", "jsonl", "--reverse", "--no-show-ip").stdout)
    nothing = {"id": None, "type": None, "ip": None, "client": None}
    assert [line["session"] for line in lines] == [
        {**nothing, "country": "DE", "continent": "EU"}, {**nothing, "id": "s"},
    ]  # fmt: skip
    assert "DE, EU" in otel_audit("show", "--archive", path, "--show-location").stdout
    assert "DE, EU" in on_terminal("show", "--archive", path, "--show-location")
    assert "DE" not in otel_audit("show", "--archive", path).stdout
    found = otel_audit("show", "--archive", path, "--where", "session.country=DE", "-o", "jsonl").stdout
    assert len(json_lines(found)) == 1
    otlp = otel_audit("show", "--archive", path, "-o", "otlp").stdout
    assert "geo.country.iso_code" in otlp
    assert "geo.continent.code" in otlp


def test_variables_reach_the_record_command(tmp_path: Path) -> None:
    """What scripts record goes through the same measures."""
    path = tmp_path / "audit.db"
    otel_audit(
        "record", "example.com", "t", "--archive", path, "--ip", "203.0.113.7", "--message", "password=hunter2",
        OTEL_AUDIT_REDACT="true", OTEL_AUDIT_IP_PREFIX_V4="16",
    )  # fmt: skip
    (line,) = json_lines(otel_audit("show", "--archive", path, "-o", "jsonl").stdout)
    assert (line["message"], line["session"]["ip"]) == ("password=[redacted]", "203.0.0.0/16")
    assert line["altered"] == ["session.ip:truncated", "message:redacted"]
