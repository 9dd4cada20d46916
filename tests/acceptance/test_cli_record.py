"""``otel-audit record`` records from shell scripts what an application would record."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.record import AuditRecord, to_json
from tests.command_line import otel_audit, popen


def records(path: Path) -> list[AuditRecord]:
    with open_archive(path) as archive:
        return list(archive.query(oldest_first=True))


def test_everything_can_be_given(archive_path: Path) -> None:
    """Each option fills its field."""
    otel_audit(
        "record", "example.com", "backup.made", "--archive", archive_path, "--user", "alice", "--source", "cron",
        "--session-id", "s-1", "--session-type", "ssh", "--ip", "203.0.113.7", "--client", "OpenSSH",
        "--outcome", "failure", "--action", "copy", "--actor", "root", "--target", "/srv", "--message", "Disk full",
        "--timestamp", "2026-01-31T12:00:00Z", "--field", "backup.size=7",
        "--field", "backup.note=a=b", "--field", "job.id=3",
    )  # fmt: skip
    (record,) = records(archive_path)
    shown = to_json(record)
    assert shown["custom"] == {"backup": {"size": "7", "note": "a=b"}, "job": {"id": "3"}}
    assert shown["session"] == {"id": "s-1", "type": "ssh", "ip": "203.0.113.7", "client": "OpenSSH"}
    assert shown["time"] == "2026-01-31T12:00:00.000000000Z"
    assert shown["actor"] == {"id": "root", "type": "user"}
    assert shown["target"] == {"id": "/srv", "type": None}
    assert [shown[key] for key in ("host", "user", "source", "type", "outcome", "action", "message")] == [
        "example.com", "alice", "cron", "backup.made", "failure", "COPY", "Disk full",
    ]  # fmt: skip


def test_fields_can_be_json(archive_path: Path) -> None:
    """:= takes JSON: numbers, booleans, lists and maps keep their type, and = is text always."""
    fields = ("n:=7", "rate:=0.5", "ok:=true", "names:=[1,2]", 'map:={"a": "b"}', 'text:="x=y"', "plain=7", "odd=:=7")
    options = [word for field in fields for word in ("--field", f"g.{field}")]
    otel_audit("record", "example.com", "t", "--archive", archive_path, *options)
    (record,) = records(archive_path)
    assert to_json(record)["custom"] == {
        "g": {
            "n": 7,
            "rate": 0.5,
            "ok": True,
            "names": [1, 2],
            "map": {"a": "b"},
            "text": "x=y",
            "plain": "7",
            "odd": ":=7",
        }
    }
    assert record.altered == ()


def test_the_least_that_is_needed(archive_path: Path) -> None:
    """Host and type are enough: a host-wide record of source shell, its outcome by the catalog."""
    done = otel_audit("record", "example.com", "user.login.failure", "--archive", archive_path)
    (record,) = records(archive_path)
    assert done.stdout == f"recorded {record.record_id} as 1\n"
    assert done.stderr == ""
    assert (record.user, record.source, record.outcome, record.session) == (None, "shell", "failure", None)


def test_the_receipt_is_json_when_asked(archive_path: Path) -> None:
    """The receipt names the record: id, sequence, leaf hash and time of the commit."""
    otel_audit("record", "h", "t", "--archive", archive_path)
    receipt = json.loads(otel_audit("record", "h", "t", "--archive", archive_path, "-o", "json").stdout)
    record = records(archive_path)[1]
    assert receipt["record_id"] == record.record_id
    assert receipt["sequence"] == 2
    assert receipt["integrity_hash"] == record.integrity_hash
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", receipt["timestamp"])


def test_bytes_and_controls_are_recorded(archive_path: Path) -> None:
    """Arguments that are no UTF-8, and control characters, are recorded and marked, wherever they stand."""
    otel_audit(
        "record", b"h\xff", b"t\xfe", "--archive", archive_path, "--user", b"caf\xe9", "--ip", b"\xff",

        "--client", "\x1b[2J", "--target", "a\nb", "--message", b"\x80", "--field", b"g.f\xff=\xff",
        "--source", b"s\xff", "--session-id", "\u202e",
    )  # fmt: skip
    (record,) = records(archive_path)
    assert record.user == "caf\\udce9"
    assert record.host == "h\\udcff"
    assert record.session is not None
    assert record.session.client == "\x1b[2J"
    assert record.custom["g"]["f_"] == "\\udcff"
    assert {mark.split(":")[0] for mark in record.altered} >= {
        "user",
        "host",
        "type",
        "source",
        "message",
        "session.client",
        "target.id",
    }
    for form in ("table", "jsonl"):
        assert "\x1b" not in otel_audit("show", "--archive", archive_path, "-o", form, "--show-note").stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("*", "t"), "Invalid value for 'HOST': '*' is no host"),
        (("", "t"), "Invalid value for 'HOST': '' is no host"),
        (("h", ""), "type='' cannot be recorded"),
        (("h",), "Missing argument 'TYPE'"),
        (("h", "t", "--field", "reason"), "'reason' is no GROUP.FIELD=VALUE"),
        (("h", "t", "--field", "reason=1"), "'reason=1' is no GROUP.FIELD=VALUE"),
        (("h", "t", "--field", "a b.c=1"), "a b"),
        (("h", "t", "--field", "a.b=1", "--field", "a.b=2"), "two values for 'a.b'"),
        (("h", "t", "--field", "a.b:=1", "--field", "a.b:=true"), "two values for 'a.b'"),
        (("h", "t", "--field", "a.b:=7x"), "'a.b:=7x' gives no JSON behind :="),
        (("h", "t", "--field", "a.b:=NaN"), "NaN is no JSON"),
        (("h", "t", "--field", "a.b:=" + "[" * 100_000), "gives no JSON"),
        (("h", "t", "--field", "a:=1"), "'a:=1' is no GROUP.FIELD=VALUE"),
        (("h", "t", "--outcome", "maybe"), "'maybe' is not one of"),
        (("h", "t", "--timestamp", "soon"), "'soon' is no time"),
        (("h", "t", "--timestamp", "1900-01-01"), "timestamp"),
        (("h", "t", "--source", ""), "source='' cannot be recorded"),
    ],
)
def test_wrong_usage_is_explained(archive_path: Path, arguments: tuple[str, ...], complaint: str) -> None:
    """A call that is wrong ends with 2, names the value, and records nothing."""
    done = otel_audit("record", *arguments, "--archive", archive_path, status=2)
    assert complaint in done.stderr
    assert done.stdout == ""
    assert not archive_path.exists() or records(archive_path) == []


def test_an_archive_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    """Where the archive cannot be written the record is not there, and the exit status says so."""
    (tmp_path / "file").touch()
    assert otel_audit("record", "h", "t", "--archive", tmp_path / "file" / "audit.db", status=2).stderr


def test_nothing_is_sent(archive_path: Path) -> None:
    """A record is left to the shipper, also where a collector is configured: the command does not wait for one."""
    otel_audit("record", "h", "t", "--archive", archive_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert len(records(archive_path)) == 1


def test_many_at_once(archive_path: Path) -> None:
    """Scripts that record at the same moment share the archive: each gets a sequence of its own."""
    sequences: list[int] = []

    def run() -> None:
        with popen("record", "h", "t", "--archive", archive_path, "-o", "json") as process:
            out, err = process.communicate(timeout=50)
        assert process.returncode == 0, err
        sequences.append(json.loads(out)["sequence"])

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sequences) == [1, 2, 3, 4, 5, 6]
