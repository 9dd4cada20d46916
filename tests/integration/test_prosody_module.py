"""mod_audit_otel in a real Prosody, with a real client: every event arrives once, whatever the receiver does."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.archive_material import wait_until
from tests.json_receiver import JsonReceiver
from tests.prosody import HOST, MODULES, Prosody
from tests.xmpp import visit

ALICE = f"alice@{HOST}"
STAND_IN = Path(__file__).parents[1] / "prosody_modules"
FOLLOWING = ("roster", "saslauth", "register", "audit", "audit_otel")


def settings(receiver: JsonReceiver, *more: str) -> str:
    return "\n".join((f'audit_otel_endpoint = "{receiver.endpoint}/"', *more))


def queued(prosody: Prosody) -> list[Path]:
    return sorted((prosody.host_data / "audit_otel_queue").glob("*.jsonl"))


def types(records: list[dict[str, Any]]) -> list[str]:
    return [record["type"] for record in records]


def assert_each_once(records: list[dict[str, Any]]) -> None:
    ids = Counter(record["audit.record.id"] for record in records)
    assert set(ids.values()) == {1}, ids


def test_events_of_a_session(tmp_path: Path) -> None:
    """Registration, logins right and wrong, deletion, start and stop arrive with all that Prosody knows of them."""
    with JsonReceiver() as receiver:
        with Prosody(tmp_path, settings(receiver)) as prosody:
            assert visit(prosody.port, ALICE, "right", register=True).registered
            wrong = visit(prosody.port, ALICE, "wrong")
            assert not wrong.logged_in
            assert len(wrong.refusals) == 2
            assert visit(prosody.port, ALICE, "right", delete=True).logged_in
            found = receiver.wait_for(8)
        prosody.start()  # what was recorded while it stopped is sent then, at the latest
        found = receiver.wait_for(10)
        prosody.stop()
    assert sorted(types(found[:10])) == sorted([
        "server-started", "user-registered", "authentication-success", "authentication-failure",
        "authentication-failure", "authentication-success", "user.deleted", "user-deregistered", "server-stopped",
        "server-started",
    ])  # fmt: skip
    assert_each_once(found)
    by_type = {record["type"]: record for record in found}
    for record in found:
        assert record["otel_audit.host"] == HOST
        assert record["otel_audit.source"] == "mod_audit_otel"
        assert record["audit.record.id"] == record["log.record.uid"]
        assert record["audit.record.id"][14] == "7"
        assert abs(record["time"] - time.time()) < 60
    for name in ("user-registered", "authentication-success", "authentication-failure", "user-deregistered"):
        record = by_type[name]
        assert record["user.name"] == record["audit.actor.id"] == "alice"
        assert record["session.id"].startswith("c2s")
        assert record["client.address"] == record["audit.source.id"] == "127.0.0.1"
        assert record["audit.source.type"] == "ipv4"
    assert by_type["user-registered"]["otel_audit.session.type"] == "c2s_unauthed"
    failures = [record for record in found if record["type"] == "authentication-failure"]
    assert [record["otel_audit.custom.authentication.method"] for record in failures] == wrong.refusals
    assert {record["otel_audit.custom.reason.condition"] for record in failures} == {"not-authorized"}
    assert failures[0]["audit.outcome"] == "failure"
    assert by_type["server-stopped"]["otel_audit.custom.server.note"] == "Received SIGTERM"
    assert "user.name" not in by_type["server-started"]
    assert by_type["server-started"]["audit.actor.type"] == "system"


def test_outage_and_restart(tmp_path: Path) -> None:
    """What happens while the receiver is away waits on disk over a restart and a crash, and arrives once."""
    receiver = JsonReceiver()
    with receiver:
        prosody = Prosody(tmp_path, settings(receiver))
        with prosody:
            receiver.wait_for(1)
            receiver.stop()
            assert visit(prosody.port, ALICE, "right", register=True).logged_in
            wait_until(lambda: prosody.log.count("Audit events wait on disk") == 1)
            assert queued(prosody)
        prosody.start()
        wait_until(lambda: prosody.log.count("Audit events wait on disk") == 2)
        assert not visit(prosody.port, ALICE, "wrong", mechanism="PLAIN").logged_in
        time.sleep(2)  # for some more tries
        prosody.kill()
        assert len(receiver.records) == 1
        prosody.start()
        receiver.start()
        found = receiver.wait_for(8)
        wait_until(lambda: not queued(prosody))
        prosody.stop()
    assert types(found)[:8] == [
        "server-started", "user-registered", "authentication-success", "server-stopped", "server-started",
        "authentication-failure", "server-crashed", "server-started",
    ]  # fmt: skip
    assert_each_once(found)
    assert found[4]["time"] - 2 <= found[6]["time"] <= found[7]["time"]
    assert prosody.log.count("Audit events wait on disk") <= 3  # once a process, not once a try


@pytest.mark.parametrize(
    "script",
    [(503, 429, 502), (500, 404, 401, 403), ((200, "no json"), 200), (301,)],
    ids=["overload", "blocked", "confused", "moved"],
)
def test_answers_that_pass(script: tuple[int | tuple[int, str], ...], tmp_path: Path) -> None:
    """Whatever a receiver answers but a refusal, the event is sent again under the same id, and leaves after a 200."""
    with JsonReceiver(script[:3]) as receiver, Prosody(tmp_path, settings(receiver)) as prosody:
        if script == ((200, "no json"), 200):
            wait_until(lambda: receiver.statuses == [200, 200])
        else:
            found = receiver.wait_for(1)
            assert types(found) == ["server-started"]
            assert receiver.statuses == [*script[:3], 200]
        wait_until(lambda: not queued(prosody))
        assert "Audit events wait on disk" in prosody.log


def test_refused_for_good(tmp_path: Path) -> None:
    """A record that is refused for good is found and set aside in a file; all others arrive."""
    refusing = JsonReceiver(refuse=lambda record: record["type"] == "user-registered")
    with refusing:
        refusing.stop()  # so that they share a request
        with Prosody(tmp_path, settings(refusing)) as prosody:
            visit(prosody.port, ALICE, "right", register=True)
            refusing.start()
            found = refusing.wait_for(2)
            assert types(found) == ["server-started", "authentication-success"]
            wait_until(lambda: [path.name for path in queued(prosody)] == ["refused.jsonl"])
            (line,) = queued(prosody)[0].read_text(encoding="utf-8").splitlines()
            assert '"user-registered"' in line
            assert "was refused for good" in prosody.log
        with JsonReceiver() as willing:
            folder = prosody.host_data / "audit_otel_queue"
            (folder / "refused.jsonl").rename(folder / "0000000000.jsonl")
            with Prosody(tmp_path, settings(willing)):
                assert "user-registered" in types(willing.wait_for(3))


def test_partial_success(tmp_path: Path) -> None:
    """Records that an answer of 200 rejects are not taken for accepted."""
    rejected = (200, '{"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "no"}}')
    with JsonReceiver([rejected]) as receiver, Prosody(tmp_path, settings(receiver)) as prosody:
        wait_until(lambda: [path.name for path in queued(prosody)] == ["refused.jsonl"])


def test_no_answer(tmp_path: Path) -> None:
    """A receiver that takes a request and never answers is given up, and asked again."""
    with JsonReceiver(silent=1) as receiver, Prosody(tmp_path, settings(receiver, "audit_otel_timeout = 1")) as prosody:
        assert types(receiver.wait_for(1)) == ["server-started"]
        assert "no answer within 1 s" in prosody.log


def test_headers(tmp_path: Path) -> None:
    """A token and further headers go with each request."""
    more = ('audit_otel_token = "s3cret"', 'audit_otel_headers = { ["X-Scope-OrgID"] = "audit" }')
    with JsonReceiver() as receiver, Prosody(tmp_path, settings(receiver, *more)):
        receiver.wait_for(1)
        (headers,) = receiver.headers
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["X-Scope-OrgID"] == "audit"
    assert headers["Content-Type"] == "application/json"
    assert headers["path"] == "/v1/logs"


def test_torn_line(tmp_path: Path) -> None:
    """What a crash cut off in the queue is set aside, and holds nothing up."""
    with JsonReceiver() as receiver:
        prosody = Prosody(tmp_path, settings(receiver))
        folder = prosody.host_data / "audit_otel_queue"
        folder.mkdir(parents=True)
        (folder / "0000000007.jsonl").write_text('{"eventName": "torn', encoding="utf-8")
        with prosody:
            assert types(receiver.wait_for(1)) == ["server-started"]
            wait_until(lambda: [path.name for path in queued(prosody)] == ["refused.jsonl"])
        assert (folder / "refused.jsonl").read_text(encoding="utf-8") == '{"eventName": "torn\n'


def test_queue_that_cannot_be_written(tmp_path: Path) -> None:
    """Where the disk takes nothing, Prosody works on, events wait in memory, and go when there is room again."""
    with JsonReceiver() as receiver:
        prosody = Prosody(tmp_path, settings(receiver))
        prosody.host_data.mkdir(parents=True)
        blocker = prosody.host_data / "audit_otel_queue"
        blocker.write_bytes(b"")  # a file where the folder is to be
        with prosody:
            assert visit(prosody.port, ALICE, "right", register=True).logged_in
            assert "Audit events wait in memory" in prosody.log
            blocker.unlink()
            blocker.mkdir()
            assert visit(prosody.port, ALICE, "right").logged_in
            found = receiver.wait_for(4)
    assert types(found)[:4] == [
        "server-started", "user-registered", "authentication-success", "authentication-success",
    ]  # fmt: skip
    assert_each_once(found)


@pytest.mark.parametrize("storage", ["internal", "sql"])
def test_follows_mod_audit(storage: str, tmp_path: Path) -> None:
    """With mod_audit its archive is followed: from the beginning, each entry once, over restarts and outages.

    One entry holds a character that XML forbids: Prosody's own SQL storage cannot read it again, and says so.
    """
    seeded = 300 if storage == "internal" else 299
    sql = 'storage = "sql"\nsql = { driver = "SQLite3", database = "prosody.sqlite" }' if storage == "sql" else ""
    with JsonReceiver() as receiver:
        prosody = Prosody(
            tmp_path, settings(receiver, "audit_seed = 300", sql), modules=FOLLOWING, plugins=(STAND_IN, MODULES)
        )
        with prosody:
            found = receiver.wait_for(seeded)
            receiver.stop()
            assert visit(prosody.port, ALICE, "right", register=True).logged_in
        receiver.start()
        with prosody:
            found = receiver.wait_for(seeded + 2)
    assert len(found) == seeded + 2
    assert_each_once(found)
    assert types(found[seeded:]) == ["user-registered", "authentication-success"]
    assert not queued(prosody)
    if storage == "internal":
        crashed = found.pop(3)
        assert crashed["otel_audit.custom.details.reason_2"] == "again"
        assert crashed["otel_audit.custom.details.deep"]["values"][0] == {"key": "a", "value": {"stringValue": "1"}}
    else:
        assert prosody.log.count("otel-audit import prosody can") == 1
    started, registered, failed, other = found[:4]
    assert types(found[:4]) == ["server-started", "user-registered", "authentication-failure", "x-success"]
    assert started["time"] == 1700000000
    assert registered["user.name"] == "alice"
    assert registered["otel_audit.source"] == "mod_audit_register"
    assert registered["session.id"] == "c2s1"
    assert registered["client.address"] == "203.0.113.7"
    assert registered["user_agent.original"] == "Gajim 1.9"
    assert registered["geo.country.iso_code"] == "DE"
    assert registered["otel_audit.custom.invite-used.token"] == "t0k3n"
    assert registered["otel_audit.custom.session.location_text"] == "Germany"
    assert failed["audit.outcome"] == "failure"
    assert other["user.name"] == "bob@elsewhere.test"
    assert other["otel_audit.altered"]["values"] == [{"stringValue": "session.ip:truncated"}]
