"""What a test sees of what an application recorded, and how a failed assertion reads."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

import otel_audit
from otel_audit import Actor, AuditProvider, EventType, Session, Target
from otel_audit import provider as provider_module
from otel_audit.archive.query import open_archive
from otel_audit.testing import AuditCapture, capture_audit
from tests.archive_material import forked

log = otel_audit.get_logger("shop")


@pytest.fixture
def no_global(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without a global provider, and shut down what the test leaves."""
    monkeypatch.setattr(provider_module, "_global", None)
    yield
    if provider_module._global is not None:
        provider_module._global.shutdown()


@pytest.fixture
def audit(no_global: None) -> Iterator[AuditCapture]:
    with capture_audit() as captured:
        yield captured


def complaint(audit: AuditCapture, type: str = "*", **expected: Any) -> str:
    """Return how it reads that no such record was made."""
    with pytest.raises(AssertionError) as raised:
        audit.assert_recorded(type, **expected)
    return str(raised.value)


def test_records_are_captured(audit: AuditCapture) -> None:
    """Records of loggers made before are there in their order; an assertion returns the last that matches."""
    log.audit("user.login.failure", user="alice")
    log.audit("user.login.success", user="alice")
    log.audit("user.login.success", user="bob")
    assert [record.user for record in audit] == ["alice", "alice", "bob"]
    assert audit.assert_recorded("user.login.success", count=2).user == "bob"
    assert [record.type for record in audit.find("user.login.*", user="alice", host="test")] == [
        "user.login.failure",
        "user.login.success",
    ]
    audit.assert_not_recorded("user.logout")
    audit.assert_not_recorded("user.login.failure", user="bob")
    assert "#3 'user.login.success' user='bob'" in repr(audit)


def test_every_field_can_be_expected(audit: AuditCapture) -> None:
    """Fields, ids in place of actor and target, parts of the session, and custom fields among others."""
    session = Session("s-1", "http", ip_address("203.0.113.7"), "curl/8")
    log.audit(
        "order.deleted", user="alice", session=session, target=Target("o-1", "order"), actor=Actor("cron", "service"),
        custom={"reason": {"condition": "x", "codes": [1, 2], "inner": {"a": 1, "b": True}}, "other": {"n": 1}},
        message="Order o-1 deleted",
    )  # fmt: skip
    audit.assert_recorded(
        "order.deleted", session=session, target="o-1", actor="cron", session_id="s-1", session_type="http",
        ip="203.0.113.7", client=re.compile("^curl/"), message=re.compile("o-1"), user=ANY, source="shop",
        custom={"reason": {"condition": "x", "codes": [1, 2], "inner": {"b": True}}}, altered=(),
    )  # fmt: skip
    audit.assert_recorded(target=Target("o-1", "order"), actor=Actor("cron", "service"))
    wrong: dict[str, Any]
    for wrong in (
        {"target": Target("o-1")}, {"actor": "alice"}, {"ip": "203.0.113.8"}, {"client": re.compile("wget")},
        {"custom": {"reason": {"inner": {"b": 1}}}}, {"custom": {"none": {}}},
        {"custom": {"reason": {"missing": None}}},
        {"session": None}, {"user": None}, {"user": re.compile("bob")},
    ):  # fmt: skip
        audit.assert_not_recorded("order.deleted", **wrong)


def test_a_wrong_field_is_the_tests_error(audit: AuditCapture) -> None:
    """A misspelt field raises, also where an assertion that nothing matches would have held."""
    for function in (audit.find, audit.assert_recorded, audit.assert_not_recorded):
        with pytest.raises(TypeError, match="no field usr: there are action, actor"):
            function("t", usr="alice")
    with pytest.raises(ValueError, match="assert_not_recorded"):
        audit.assert_recorded("t", count=0)


def test_a_missing_record_is_explained(audit: AuditCapture) -> None:
    """The complaint shows what was expected, where the nearest record differs, and all that was recorded."""
    log.audit("user.login.success", user="alice")
    log.audit("user.login.failure", user="bob", custom={"reason": {"condition": "locked"}})
    log.audit("user.logout", user="alice")
    bob = "#2 'user.login.failure' user='bob' outcome='failure' host='test' source='shop'"
    bob += " custom={'reason': {'condition': 'locked'}}"
    text = complaint(audit, "user.login.failure", user="alice", custom={"reason": {"condition": "x"}})
    assert text.splitlines() == [
        "no record matches 'user.login.failure', user='alice', custom={'reason': {'condition': 'x'}}",
        "the nearest of 3 differs in (- expected, + recorded):",
        f"  {bob}",
        "    - user='alice'",
        "    + user='bob'",
        "    - custom.reason.condition='x'",
        "    + custom.reason.condition='locked'",
        "all records:",
        "  #1 'user.login.success' user='alice' outcome='success' host='test' source='shop'",
        f"  {bob}",
        "  #3 'user.logout' user='alice' outcome='success' host='test' source='shop'",
    ]
    text = complaint(audit, "user.deleted", user=re.compile("^al"), custom={"a": {"b": 1}})
    assert "user=re.compile('^al')" in text
    assert (
        "    - type='user.deleted'\n    + type='user.logout'\n    - custom.a={'b': 1}\n    + custom.a=(absent)" in text
    )


def test_complaints_stay_short(audit: AuditCapture) -> None:
    """Long values are cut, and of many records the last ones are shown."""
    assert complaint(audit, "t") == "no record matches 't': nothing was recorded"
    for number in range(30):
        log.audit("t", user=f"u{number}" + "x" * 1000)
    text = complaint(audit, "t", user="nobody")
    assert "  … 10 before" in text
    assert "u9x" not in text
    assert max(map(len, text.splitlines())) < 300


def test_other_complaints(audit: AuditCapture) -> None:
    """A wrong number of records, and records that should not be there, are shown."""
    log.audit("t", user="alice")
    with pytest.raises(AssertionError, match=r"1 records match 't', not 2:\n  #1 't' user='alice'"):
        audit.assert_recorded("t", count=2)
    with pytest.raises(AssertionError, match=r"1 of the records match '\*', which should have none:\n  #1 't'"):
        audit.assert_not_recorded()


def test_clearing(audit: AuditCapture) -> None:
    """What was cleared is gone, what comes later is not; the capture keeps its records when it is over."""
    log.audit("before")
    audit.clear()
    audit.assert_not_recorded()
    log.audit("after")
    assert [record.type for record in audit] == ["after"]


def test_afterwards(no_global: None) -> None:
    """The records stay readable, the files are gone, and so is the provider."""
    with capture_audit() as audit:
        log.audit("t")
        directory = audit._path.parent
        assert directory.exists()
    assert not directory.exists()
    assert audit.assert_recorded("t").sequence == 1
    audit.clear()
    assert (len(audit), bool(audit)) == (0, True)
    assert provider_module.global_provider() is None


def test_the_configured_provider_is_spared(archive_path: Path, no_global: None) -> None:
    """Its settings hold in the capture, its archive gets nothing, and afterwards it records again."""

    def upper(_logger: Any, _method: str, values: Any) -> Any:
        return {**values, "user": "ALICE"}

    types = iter([EventType("mine", "APPROVE")])
    provider = otel_audit.configure(archive=archive_path, host="h.example", processors=iter([upper]), event_types=types)
    with capture_audit(profile="signal") as audit:
        log.audit("mine", user="alice")
        audit.assert_recorded("mine", user="ALICE", action="APPROVE", host="h.example", message=None)
    log.audit("later")
    with open_archive(archive_path) as archive:
        assert [record.type for record in archive.query()] == ["later"]
    assert provider_module.global_provider() is provider


def test_an_application_that_configures_itself(archive_path: Path, no_global: None) -> None:
    """`configure` within the block sets everything but the archive, and ships nothing."""
    with capture_audit() as audit:
        log.audit("first")
        otel_audit.configure(archive=archive_path, host="own.example", endpoint="http://127.0.0.1:9")
        log.audit("second")
        assert [(record.type, record.host) for record in audit] == [("first", "test"), ("second", "own.example")]
        current = provider_module.global_provider()
        assert current is not None
        assert not current.config.sending
    assert len(audit) == 2
    assert not archive_path.exists()
    assert provider_module.global_provider() is None


def test_captures_nest(audit: AuditCapture) -> None:
    """An inner capture takes the records until it ends."""
    log.audit("outer")
    with capture_audit() as inner:
        log.audit("inner")
        assert [record.type for record in inner] == ["inner"]
    log.audit("outer")
    audit.assert_recorded("outer", count=2)
    audit.assert_not_recorded("inner")


def test_an_explicit_provider(archive_path: Path) -> None:
    """A provider's own archive is looked at from where it was; it goes on afterwards."""
    with AuditProvider(archive=archive_path, host="h", durability="queued") as provider:
        own = provider.get_logger("own")
        own.audit("before")
        with capture_audit(provider) as audit:
            own.audit("within")
            assert [record.type for record in audit] == ["within"]
        own.audit("after")
        assert [record.type for record in audit] == ["within"]
        with pytest.raises(TypeError, match="host"), capture_audit(provider, host="x"):
            pass


def test_queued_records_are_waited_for(no_global: None) -> None:
    """With durability `queued`, too, an assertion sees all that was recorded before it."""
    with capture_audit(durability="queued") as audit:
        for number in range(200):
            log.audit("t", user=str(number))
            assert len(audit) == number + 1


def test_with_asyncio(audit: AuditCapture) -> None:
    """Records of tasks are captured, and assertions can be made between them."""

    async def work() -> None:
        await asyncio.gather(*(log.aaudit("t", user=str(number)) for number in range(20)))
        audit.assert_recorded("t", count=20)
        await log.aaudit("u")

    asyncio.run(work())
    audit.assert_recorded("u", count=1)


def test_forked_children_are_captured(audit: AuditCapture) -> None:
    """What a forked child records is there, too."""
    log.audit("parent")

    def child() -> None:
        log.audit("child")

    _, status = os.waitpid(forked(child), 0)
    assert status == 0
    assert [record.type for record in audit] == ["parent", "child"]


def test_an_error_passes_through(no_global: None) -> None:
    """An exception within the block comes out of it, and everything is put back."""
    captures = []

    def fail() -> None:
        with capture_audit() as audit:
            captures.append(audit)
            log.audit("t")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(captures[0]) == 1
    assert provider_module.global_provider() is None


TESTS = """
import otel_audit
log = otel_audit.get_logger("shop")

def test_recorded(audit):
    log.audit("user.login.failure", user="alice")
    audit.assert_recorded("user.login.failure", user="alice")

def test_each_has_its_own(audit):
    audit.assert_not_recorded()

def test_fails(audit):
    log.audit("user.login.failure", user="bob")
    audit.assert_recorded("user.login.failure", user="alice")
"""


@pytest.mark.parametrize(
    "conftest", ['pytest_plugins = ["otel_audit.testing.plugin"]', "from otel_audit.testing.plugin import audit"]
)
def test_the_fixture(tmp_path: Path, conftest: str) -> None:
    """As a plugin or imported, the fixture captures each test by itself, and a failure shows the test's own line."""
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_shop.py").write_text(textwrap.dedent(TESTS))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        str(tmp_path),
        f"--rootdir={tmp_path}",
    ]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=environ)
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert '>       audit.assert_recorded("user.login.failure", user="alice")' in done.stdout
    assert "E       AssertionError: no record matches 'user.login.failure', user='alice'" in done.stdout
    assert "E           + user='bob'" in done.stdout
    assert "capture.py" not in done.stdout
