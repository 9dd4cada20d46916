"""What is known of the event types, and what follows from the name of an unknown one."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from otel_audit.catalog import BUILT_IN, ActorType, Catalog, Durability, EventType, Outcome
from otel_audit.errors import ArchiveError, ConfigError
from tests.recording import Tape, bound_logger

ANY_TYPE: Any = EventType

# The types of Prosody's modules.
MOD_AUDIT = {
    "authentication-success": "success", "authentication-failure": "failure", "new-client": "success",
    "user-registered": "success", "user-deregistered": "success", "user-deregistered-pending": "success",
    "user-enabled": "success", "user-disabled": "success", "token-grant-created": "success",
    "token-grant-revoked": "success", "token-revoked": "success", "server-started": "success",
    "server-stopped": "success", "server-crashed": "failure",
}  # fmt: skip


@pytest.mark.parametrize(("name", "outcome"), MOD_AUDIT.items())
def test_the_types_of_mod_audit(name: str, outcome: str) -> None:
    """Every type of the `mod_audit` family is built in, with its outcome and a description."""
    catalog = Catalog()
    assert name in catalog
    assert catalog[name].outcome == outcome
    assert catalog[name].description


@pytest.mark.parametrize(
    "pattern",
    [
        r"user\.login\.", r"user\.logout", r"user\.password\.changed", r"user\.mfa\.", r"role\.", r"permission\.",
        r"token\.created", r"token\.refreshed", r"token\.revoked", r"data\.exported", r"config\.changed",
    ],
)  # fmt: skip
def test_the_usual_types_of_web_applications(pattern: str) -> None:
    """Login, logout, passwords, second factors, roles, permissions, tokens, exports and settings are built in."""
    assert [known.name for known in Catalog() if re.match(pattern, known.name)]


def test_built_in_types_are_consistent() -> None:
    """Each built-in type stands once, with an upper-case action, allowed words, and custom fields as `group.field`."""
    names = [known.name for known in BUILT_IN]
    assert len(set(names)) == len(names)
    for known in BUILT_IN:
        assert known.action == known.action.upper() != ""
        assert known.outcome in get_args(Outcome)
        assert known.actor_type in {None, *get_args(ActorType)}
        assert known.description.endswith(".")
        assert known.ocsf_class is None or 1_000 < known.ocsf_class < 10_000
        assert all(re.fullmatch(r"[a-z-]+\.[a-z_]+", field) for field in known.custom)
        if known.name.endswith(("failure", "success")):
            assert known.name.endswith(known.outcome)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("payment-success", "success"),
        ("payment.success", "success"),
        ("payment-failure", "failure"),
        ("payment.failure", "failure"),
        ("payment_failure", "unknown"),
        ("failure", "unknown"),
        ("payment.failure.noted", "unknown"),
        ("payment", "unknown"),
    ],
)
def test_the_outcome_of_unknown_types(name: str, outcome: str) -> None:
    """An unknown type is recorded; its outcome comes from the suffix, else it is `unknown`."""
    tape = Tape()
    bound_logger(tape).audit(name)
    assert name not in tape.catalog
    assert (tape.record.type, tape.record.outcome) == (name, outcome)


def test_own_types_win() -> None:
    """An application's type replaces the built-in one of the same name, and adds to the others."""
    own = EventType("user.logout", "BYE", "unknown")
    catalog = Catalog([own, EventType("invoice.approved", "APPROVE")])
    assert catalog["user.logout"] is own
    assert "invoice.approved" in catalog
    assert len(list(catalog)) == len(BUILT_IN) + 1
    tape = Tape(catalog=catalog)
    bound_logger(tape).audit("user.logout", user="alice")
    assert (tape.record.action, tape.record.outcome) == ("BYE", "unknown")


def test_durability_of_a_type() -> None:
    """A type's durability wins over the provider's, in both directions."""
    types = [EventType("page.viewed", "READ", durability="queued"), EventType("key.used", "READ", durability="commit")]
    durabilities: tuple[Durability, ...] = ("commit", "queued")
    for durability in durabilities:
        tape = Tape(catalog=Catalog(types), durability=durability)
        log = bound_logger(tape)
        assert log.audit("page.viewed").sequence is None
        assert log.audit("key.used").sequence == 2
        assert (log.audit("other").sequence is None) == (durability == "queued")


class FullDisk:
    closed = False

    def write(self, *_: Any) -> Any:
        raise ArchiveError("the disk is full")


def test_failure_policy_of_a_type() -> None:
    """A type's failure policy wins over the provider's, in both directions."""
    types = [EventType("page.viewed", "READ", on_failure="log"), EventType("key.used", "READ", on_failure="raise")]
    for policy in ("raise", "log"):
        tape = Tape(catalog=Catalog(types), on_failure=policy, writer=FullDisk())  # type: ignore[arg-type]
        log = bound_logger(tape)
        assert log.audit("page.viewed").sequence is None
        assert [record.type for record, _ in tape.let_go] == ["page.viewed"]
        with pytest.raises(ArchiveError):
            log.audit("key.used")


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (["user.logout"], "event_types holds 'user.logout': give otel_audit.EventType"),
        ([ANY_TYPE("", "READ")], "the name of .* is ''"),
        ([ANY_TYPE("t", "")], "the action of .* is ''"),
        ([ANY_TYPE(5, "READ")], "the name of .* is 5"),
        ([ANY_TYPE("t", "READ", "good")], "'t' has outcome='good': use 'success' or 'failure'"),
        ([ANY_TYPE("t", "READ", actor_type="robot")], "'t' has actor_type='robot': use None or 'user'"),
        ([ANY_TYPE("t", "READ", durability="disk")], "'t' has durability='disk': use None or 'commit'"),
        ([ANY_TYPE("t", "READ", on_failure="ignore")], "'t' has on_failure='ignore': use None or 'raise'"),
        ([ANY_TYPE("t", "READ", ["success"])], "'t' has outcome="),
    ],
)
def test_wrong_types_are_refused(types: list[Any], words: str) -> None:
    """An event type that could not be recorded as it says is refused when the catalog is made, by its name."""
    with pytest.raises(ConfigError, match=words):
        Catalog(types)
