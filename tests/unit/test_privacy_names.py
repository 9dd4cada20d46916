"""Pseudonyms and secrets: what is taken out, what stays, and who may hold the key."""

from __future__ import annotations

import ipaddress
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_audit import privacy
from otel_audit.config import Config
from otel_audit.errors import ConfigError
from otel_audit.record import PSEUDONYM, Actor, AuditRecord, Session, Target
from tests.recording import Tape, bound_logger, texts

KEY = b"0123456789abcdef"
P = privacy.Pseudonyms(KEY)


def recorded(*processors: Any, bound: Any = (), **call: Any) -> AuditRecord:
    tape = Tape(processors=processors)
    bound_logger(tape, **dict(bound)).audit("user.login.success", **call)
    return tape.record


@given(texts().filter(bool), texts().filter(bool))
def test_pseudonyms_are_equal_for_equal_texts_only(one: str, other: str) -> None:
    """The same key gives the same pseudonym each time, another key or text another one."""
    assert P(one) == privacy.Pseudonyms(KEY)(one)
    assert PSEUDONYM.fullmatch(P(one))
    assert privacy.Pseudonyms(KEY + b"x")(one) != P(one)
    assert (P(one) == P(other)) == (recorded(user=one).user == recorded(user=other).user)
    record = recorded(privacy.pseudonymise(KEY), user=one)
    assert (record.user, record.actor.id) == (P(one), P(one))


def test_user_actor_and_mentions() -> None:
    """The user's name goes from every text, whatever its case; components keep theirs."""
    record = recorded(
        privacy.pseudonymise(KEY), user="alice", user_id="4711", actor="root", target="/home/Alice",
        message="ALICE (alice@x), malice",
        session=Session("alice-1", client="alice's phone"),
        custom={"g": {"by": "alice", "list": [b"alice", {"Alice": 1}]}},
    )  # fmt: skip
    alice = P("alice")
    assert (record.user, record.user_id, record.actor) == (alice, P("4711"), Actor(P("root")))
    assert record.target == Target(f"/home/{alice}")
    assert record.message == f"{alice} ({alice}@x), malice"
    assert record.session == Session(f"{alice}-1", client=f"{alice}'s phone")
    assert record.custom == {"g": {"by": alice, "list": (alice.encode(), {alice: 1})}}
    assert {"user:pseudonym", "message:pseudonym", "custom.g.by:pseudonym"} < {*record.altered}
    assert recorded(privacy.pseudonymise(KEY), actor=Actor("cron", "service")).actor == Actor("cron", "service")
    assert recorded(privacy.pseudonymise(KEY)).actor == Actor("mod_auth", "system")


def test_the_display_sentence_holds_the_pseudonym() -> None:
    """The body that stands in for a message is made of what is kept."""
    record = recorded(privacy.truncate_ip(), privacy.pseudonymise(KEY), user="alice", session=Session(ip="203.0.113.7"))
    assert record.message == f"user.login.success (success) {P('alice')}@example.com from 203.0.113.0/24"


def test_other_fields() -> None:
    """Sessions, targets, custom fields and bound values can have pseudonyms, of numbers and objects, too."""
    number = uuid.UUID(int=5)
    fields = [
        "target",
        "session.id",
        "session.ip",
        "session.client",
        "order.customer",
        "custom.order.by",
        "context.mail",
    ]
    record = recorded(
        privacy.pseudonymise(KEY, fields), bound={"mail": "a@example.net", "other": "x"}, user="alice",
        target=Target("t-1", "file"), session=Session("s-1", "http", ipaddress.ip_address("2001:db8::1"), "Agent"),
        custom={"order": {"customer": 42, "by": number, "note": "for a@example.net"}},
    )  # fmt: skip
    assert (record.user, record.target) == ("alice", Target(P("t-1"), "file"))
    assert record.session == Session(P("s-1"), "http", P("2001:db8::1"), P("Agent"))
    assert record.custom == {
        "order": {"customer": P("42"), "by": P(str(number)), "note": f"for {P('a@example.net')}"},
        "context": {"mail": P("a@example.net"), "other": "x"},
    }
    assert "session.ip:not-an-address" not in record.altered
    assert P("2001:0db8::0001") == P("2001:db8::1")


def test_order_of_processors() -> None:
    """What comes first acts first: a pseudonym of the network, or of the address; a client's name is no pseudonym."""
    both = (privacy.truncate_ip(), privacy.pseudonymise(KEY, ["session.ip"]))
    for processors in (both, privacy.merged(both)):
        assert recorded(*processors, session=Session(ip="203.0.113.7")).session == Session(ip=P("203.0.113.0/24"))
    for processors in (both[::-1], privacy.merged(both[::-1])):
        assert recorded(*processors, session=Session(ip="203.0.113.7")).session == Session(ip=P("203.0.113.7"))
    twice = (privacy.pseudonymise(KEY), lambda _l, _m, values: values, privacy.pseudonymise(KEY))
    assert recorded(*twice, user="alice", actor="bob").user == P("alice")
    assert recorded(privacy.pseudonymise(KEY), user=P("alice")).user == P(P("alice"))


def test_keys(tmp_path: Path) -> None:
    """A key is bytes or a file that others cannot read; anything else is refused, and no error shows it."""
    file = tmp_path / "key"
    file.write_bytes(KEY + b"\n")
    for mode in (0o600, 0o400, 0o640):
        file.chmod(mode)
        assert privacy.load_key(file) == privacy.load_key(str(file)) == privacy.load_key(KEY) == KEY
    for mode in (0o644, 0o604, 0o660, 0o666):
        file.chmod(mode)
        with pytest.raises(ConfigError, match="open to others"):
            privacy.load_key(file)
    file.chmod(0o600)
    file.write_bytes(b"short")
    wrong: Any
    for wrong in (file, tmp_path / "missing", tmp_path, b"short", "", 5, "a\0b"):
        with pytest.raises(ConfigError) as caught:
            privacy.load_key(wrong)
        assert "short" not in str(caught.value).replace("shorter", "")
    assert KEY.decode() not in repr((P, privacy.pseudonymise(KEY), privacy.pseudonymise(KEY).rules))


@pytest.mark.parametrize("fields", ["user", ["host"], ["session"], [5], ["g."], [""], [".f"]])
def test_unknown_fields_are_refused(fields: Any) -> None:
    """A field that cannot have a pseudonym is an error, not a measure that does nothing."""
    with pytest.raises(ConfigError, match="field"):
        privacy.pseudonymise(KEY, fields)


SECRETS = [
    ("password=hunter2", "password=[redacted]"),
    ('{"user": "x", "password": "hun\\"ter2", "a": 1}', '{"user": "x", "password": "[redacted]", "a": 1}'),
    ("{'X-Api-Key': 'abc def'}", "{'X-Api-Key': '[redacted]'}"),
    ("/login?client_secret=abc&next=1", "/login?client_secret=[redacted]&next=1"),
    ("token%3Dabc", "token%3D[redacted]"),
    ("Authorization: Digest username=x, response=y\nHost: z", "Authorization: [redacted]\nHost: z"),
    ("Set-Cookie: a=b; Path=/", "Set-Cookie: [redacted]"),
    ("with Bearer abc.def~ghi", "with Bearer [redacted]"),
    ("Basic YWxpY2U6aHVudGVyMg==", "Basic [redacted]"),
    ("https://alice:hunter2@example.net/x", "https://alice:[redacted]@example.net/x"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "[redacted]"),
    ("-----BEGIN EC PRIVATE KEY-----\nMHc=\n-----END EC PRIVATE KEY-----\nrest", "[redacted]\nrest"),
    ("-----BEGIN PRIVATE KEY-----\nMHc=", "[redacted]"),
    ("key AKIAIOSFODNN7EXAMPLE", "key [redacted]"),
    ("4111 1111 1111 1111, 5500-0000-0000-0004, 340000000000009", "[redacted], [redacted], [redacted]"),
    ("4111 1111 1111 1112, 41111111111111110000000, 1767225600000000000", None),
    ("the token was refused, the password is old, my opinion: none", None),
    ("passing: 5, tokens_used=7, author=me", None),
]


@pytest.mark.parametrize(("text", "kept"), SECRETS)
def test_secrets_in_texts(text: str, kept: str | None) -> None:
    """Secrets are taken out of any text, what only resembles one stays, and a second time changes nothing."""
    kept = text if kept is None else kept
    values = {"user": text, "message": text, "target": text, "session": Session(text, client=text)}
    record = recorded(privacy.redact(), **values, custom={"g": {"f": [text], "b": text.encode()}})
    assert record.target is not None
    assert record.session == Session(kept, client=kept)
    assert (record.user, record.message, record.target.id) == (kept,) * 3
    assert record.custom == {"g": {"f": (kept,), "b": kept.encode()}}
    assert ("message:redacted" in record.altered) == (kept != text)
    assert recorded(privacy.redact(), message=kept).message == kept
    assert recorded(privacy.redact(), message=kept).altered == tuple(
        m for m in record.altered if m == "message:control"
    )


@pytest.mark.parametrize(
    "key", ["password", "newPassword", "DB_PASSWORD", "password2", "X-Api-Key", "csrf_token", "tokens",
            "Authorization", "Cookie", "userPin", "CVV"],
)  # fmt: skip
def test_secrets_behind_keys(key: str) -> None:
    """What stands under a telling key is taken out whatever it is, at any depth, in pairs, and in bound values."""
    secret: Any
    for secret in ("s3cret-x", b"s3cret-x", 12345, 1.5, ["s3cret-x"], {"a": "s3cret-x"}, uuid.UUID(int=5)):
        custom = {"g": {key: secret, "f": {"x": [{key: secret}], "y": [[key, secret], (key.encode(), secret)]}, "z": 1}}
        record = recorded(privacy.redact(), bound={key: secret}, custom=custom)
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in key)
        pairs = ((key, "[redacted]"), (key.encode(), "[redacted]"))
        assert record.custom == {
            "g": {name: "[redacted]", "f": {"x": ({key: "[redacted]"},), "y": pairs}, "z": 1},
            "context": {name: "[redacted]"},
        }
        assert custom["g"][key] is secret
    assert recorded(privacy.redact(), custom={"g": {key: None, "h": {key: True}}}).altered == ()


def test_groups_and_harmless_keys() -> None:
    """A group that is named after secrets holds them, save for the catalog's `token`; other keys stay."""
    harmless = {
        "token": {"id": "7", "scopes": ["a"]},
        "g": {"token_type": "x", "spin": 1, "passport": "y", "mapping": "z"},
    }
    assert recorded(privacy.redact(), custom=harmless).altered == ()
    record = recorded(
        privacy.redact(), custom={"cookies": {"sid": "abc"}, "g": {"n": 4111111111111111, "m": 4111111111111112}}
    )
    assert record.custom == {"cookies": {"sid": "[redacted]"}, "g": {"n": "[redacted]", "m": 4111111111111112}}


class Evasive(dict[str, Any]):
    """Shows its content to one caller and fails for the next."""

    def items(self) -> Any:
        raise RuntimeError("no items")


def test_a_fault_keeps_neither_the_record_nor_a_secret() -> None:
    """Where values cannot be gone through at all, the event is recorded without them, and says so."""
    call: Any = {"user": "alice", "message": "password=x", "custom": Evasive(g={"f": "secret-x"}), "target": "t"}
    record = recorded(privacy.redact(), bound={"mail": "a@example.net"}, **call)
    assert (record.user, record.custom, record.target) == (None, {}, None)
    assert record.message == "user.login.success (success) example.com"
    assert {"custom:dropped", "user:dropped", "message:dropped"} < {*record.altered}


def test_own_keys_and_patterns() -> None:
    """Keys, patterns and cards are what the application says, and wrong ones are refused."""
    own = privacy.redact(["badge"], [r"EMP-\d+", r"pin (?P<secret>\d+)"], cards=False)
    record = recorded(
        own, message="EMP-17, pin 1234, badge: 9, password=x, 4111111111111111", custom={"g": {"myBadge": 5}}
    )
    assert record.message == "[redacted], pin [redacted], badge: [redacted] password=x, 4111111111111111"
    assert record.custom == {"g": {"myBadge": "[redacted]"}}
    wrong: Any
    for wrong in (
        {"keys": "password"},
        {"keys": [""]},
        {"keys": [5]},
        {"patterns": "x"},
        {"patterns": ["("]},
        {"patterns": [5]},
    ):
        with pytest.raises(ConfigError):
            privacy.redact(**wrong)


def words(config: Config) -> list[str]:
    return [rule.word for processor in config.processors for rule in getattr(processor, "rules", ())]


def test_options_and_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each option and each variable brings its measure, in the right order, and the argument wins."""
    key = tmp_path / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    config = Config.load(redact=True, ip_prefix=(16, 32), pseudonym_key=KEY, processors=[privacy.drop_ip()])
    assert words(config) == ["dropped", "redacted", "truncated", "pseudonym"]
    assert words(Config.load()) == []
    assert words(Config.load(drop_ip=True, ip_prefix=24)) == ["dropped"]
    for name, text, word, off in (
        ("DROP_IP", "true", "dropped", {"drop_ip": False}), ("REDACT", "true", "redacted", {"redact": False}),
        ("REDACT", "badge,pass no", "redacted", {"redact": False}), ("IP_PREFIX_V4", "16", "truncated", {}),
        ("IP_PREFIX_V6", "32", "truncated", {}), ("PSEUDONYM_KEY", str(key), "pseudonym", {"pseudonymise": ()}),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setenv(f"OTEL_AUDIT_{name}", text)
            assert words(Config.load()) == [word]
            assert not off or words(Config.load(**off)) == []
            patch.setenv(f"OTEL_AUDIT_{name}", "")
            assert words(Config.load()) == []
    monkeypatch.setenv("OTEL_AUDIT_IP_PREFIX_V4", "16")
    session = Session(ip="203.0.113.7")
    assert recorded(*Config.load().processors, session=session).session == Session(ip="203.0.0.0/16")
    assert recorded(*Config.load().processors, session=Session(ip="2001:db8:1:2::")).session == Session(
        ip="2001:db8:1::/48"
    )
    assert recorded(*Config.load(ip_prefix=8).processors, session=session).session == Session(ip="203.0.0.0/8")
    monkeypatch.setenv("OTEL_AUDIT_PSEUDONYM_KEY", str(key))
    monkeypatch.setenv("OTEL_AUDIT_PSEUDONYMISE", "session.id, g.f")
    assert recorded(*Config.load().processors, user="u", session=Session("s")).session == Session(P("s"))
    monkeypatch.setenv("OTEL_AUDIT_REDACT", "badge")
    record = recorded(*Config.load().processors, custom={"g": {"badge": "1", "password": "2"}})
    assert record.custom == {"g": {"badge": "[redacted]", "password": "[redacted]"}}


@pytest.mark.parametrize(
    ("argument", "variable"),
    [
        ({"drop_ip": "yes"}, ("DROP_IP", "yes")),
        ({"ip_prefix": "24"}, ("IP_PREFIX_V4", "x")),
        ({"ip_prefix": (24,)}, ("IP_PREFIX_V6", "-1")),
        ({"ip_prefix": 33}, ("IP_PREFIX_V4", "33")),
        ({"pseudonymise": ["user"]}, ("PSEUDONYMISE", "user")),
        ({"redact": "badge"}, None),
        ({"redact": 5}, None),
        ({"pseudonymise": "user", "pseudonym_key": KEY}, None),
        ({"pseudonym_key": 5}, ("PSEUDONYM_KEY", "/missing")),
        ({"geoip": "/missing.mmdb"}, ("GEOIP", "/missing.mmdb")),
    ],
)
def test_wrong_settings_are_refused(argument: Any, variable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measure that was meant and cannot act is an error at once, not an archive full of names."""
    with pytest.raises(ConfigError):
        Config.load(**argument)
    if variable is not None:
        monkeypatch.setenv(f"OTEL_AUDIT_{variable[0]}", variable[1])
        with pytest.raises(ConfigError):
            Config.load()


@settings(max_examples=10)
@given(st.sampled_from(["=", ": ", " : "]), st.text(max_size=30))
def test_long_texts_take_little_time(sign: str, text: str) -> None:
    """No text makes the patterns slow: a megabyte of what begins like a secret is done in a moment."""
    for part in ("://a:", "4 ", "Basic ", "eyJ", "a.", "1:", "password", "-----BEGIN PRIVATE", text or "x"):
        recorded(privacy.redact(), privacy.truncate_ip(), message=(part * 20_000)[:60_000] + sign)
