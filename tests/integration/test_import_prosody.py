"""``otel-audit import prosody`` on archives that a real Prosody wrote: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from otel_audit.archive.query import open_archive
from otel_audit.archive.received import Foreign, keep
from otel_audit.errors import ArchiveError
from otel_audit.otlp import encode
from otel_audit.prosody.importing import Importer, open_source
from otel_audit.record import AuditRecord
from tests.archive_material import assert_sound, provider_at, wait_until
from tests.command_line import json_lines, on_terminal, otel_audit, popen
from tests.prosody import HOST, Prosody
from tests.xmpp import visit

STAND_IN = Path(__file__).parents[1] / "prosody_modules"
SEEDED = 40
SQL = 'storage = "sql"\nsql = { driver = "SQLite3", database = "prosody.sqlite" }'


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Let a real Prosody write the same events into both of its storages, and return its data directories."""
    folders = {}
    for storage in ("internal", "sql"):
        folder = tmp_path_factory.mktemp(storage)
        settings = f"audit_seed = {SEEDED}\n{SQL if storage == 'sql' else ''}"
        with Prosody(folder, settings, modules=("audit",), plugins=(STAND_IN,)) as prosody:
            seeded(prosody)
        folders[storage] = prosody.folder / "data"
    return folders


def seeded(prosody: Prosody) -> None:
    wait_until(lambda: "seeded" in prosody.log)


@pytest.fixture
def data(originals: dict[str, Path], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of a data directory that Prosody wrote, which the test may change."""
    return Path(shutil.copytree(originals[getattr(request, "param", "internal")], tmp_path / "data"))


def source(data: Path) -> Path:
    database = data / "prosody.sqlite"
    return database if database.exists() else data


def imported(archive: Path, source: Path | str, host: str = HOST, **changes: Any) -> dict[str, Any]:
    result = otel_audit("import", "prosody", source, host, "--archive", archive, "-o", "json", **changes)
    summary = json.loads(result.stdout)
    return {**summary, "unreadable": len(summary["unreadable"]), "said": result.stderr}


def records(archive: Path) -> list[AuditRecord]:
    with open_archive(archive) as opened:
        return list(opened.query(oldest_first=True))


def comparable(record: AuditRecord) -> AuditRecord:
    """Return a record without what differs from import to import."""
    fields = {group: {**values} for group, values in record.custom.items()}
    fields.get("prosody", {}).pop("key", None)
    return record._replace(
        record_id="", observed=0, integrity_hash=None, stream_id=None, custom=fields, altered=(), sequence=None
    )


both = pytest.mark.parametrize("data", ["internal", "sql"], indirect=True)


@both
def test_twice(data: Path, archive_path: Path) -> None:
    """Every entry is recorded with its own time; a second run finds them all there."""
    assert imported(archive_path, source(data)) == {"imported": SEEDED, "there": 0, "unreadable": 0, "said": ""}
    assert imported(archive_path, source(data)) == {"imported": 0, "there": SEEDED, "unreadable": 0, "said": ""}
    found = records(archive_path)
    assert len(found) == SEEDED
    assert [record.time // 1_000_000_000 for record in found] == [
        1700000000, 1700000001, 1700000002, 1699990000, 1700000003, *range(1700000006, 1700000001 + SEEDED),
    ]  # fmt: skip
    assert_sound(archive_path)
    registered = found[1]
    assert (registered.user, registered.type, registered.source) == ("alice", "user-registered", "mod_audit_register")
    assert registered.session is not None
    assert registered.session == ("c2s1", "c2s_unauthed", "203.0.113.7", "Gajim 1.9", "DE", "EU")
    assert registered.custom["invite-used"] == {"token": "t0k3n"}
    assert registered.altered == ()
    crashed = found[3]
    assert crashed.custom["details"] == {
        "code": "7", "reason": 'käthe "quoted" \\ back', "reason_2": "again", "deep": {"a": "1", "inner": "x"},
    }  # fmt: skip
    bob = found[4]
    assert (bob.user, bob.altered) == ("bob@elsewhere.test", ("session.ip:truncated",))
    assert Counter(record.user for record in found)["user1"] == 5


def test_both_storages_give_the_same(originals: dict[str, Path], tmp_path: Path) -> None:
    """What was stored in files and in SQL is recorded alike, but for the character that XML forbids."""
    found = []
    for storage, folder in originals.items():
        imported(tmp_path / storage / "audit.db", source(folder))
        found.append([comparable(record) for record in records(tmp_path / storage / "audit.db")])
    (of_files, of_sql) = found
    assert of_files[3].custom["note"] == {"text": "two\nlines & <more> \x1b[31m"}
    assert of_sql[3].custom["note"] == {"text": "two\nlines & <more> \\x1b[31m"}
    del of_files[3], of_sql[3]
    assert of_files == of_sql


def test_paths(originals: dict[str, Path], tmp_path: Path) -> None:
    """The data directory, the host's directory, the file, the database and its URL all name the archive."""
    folder, database = originals["internal"], originals["sql"] / "prosody.sqlite"
    host_folder = folder / "example%2etest"
    ways: list[Path | str] = [folder, host_folder, host_folder / "audit.list"]
    ways += [database, f"sqlite://{database}", f"SQLite3://{database}"]
    for number, way in enumerate(ways):
        assert imported(tmp_path / str(number) / "audit.db", way)["imported"] == SEEDED


@both
def test_grown(data: Path, archive_path: Path) -> None:
    """What has come since the last run is added, and what mod_audit has removed meanwhile stays."""
    imported(archive_path, source(data))
    settings = f"audit_seed = 0\n{SQL if source(data) != data else ''}"
    # Prosody goes on with its own archive: half of it expires, and a login comes in.
    prosody = Prosody(data.parent, settings, modules=("roster", "saslauth", "register", "audit"), plugins=(STAND_IN,))
    with prosody:
        assert visit(prosody.port, f"carol@{HOST}", "right", register=True).logged_in
    halve(data)
    assert imported(archive_path, source(data))["imported"] == 2
    assert Counter(record.type for record in records(archive_path))["user-registered"] == 2
    assert len(records(archive_path)) == SEEDED + 2


def halve(data: Path) -> None:
    file = data / "example%2etest" / "audit.list"
    if file.exists():
        items = re.split(rb"(?<=\n)(?=item\()", file.read_bytes())
        file.write_bytes(b"".join(items[SEEDED // 2 :]))
    else:
        connection = sqlite3.connect(data / "prosody.sqlite")
        connection.execute("DELETE FROM prosodyarchive WHERE sort_id <= ?", (SEEDED // 2,))
        connection.commit()
        connection.close()


def test_interrupted(data: Path, archive_path: Path) -> None:
    """A run that is killed in the middle is completed by the next one."""
    file = data / "example%2etest" / "audit.list"
    copy(file, 250)
    with popen("import", "prosody", data, HOST, "--archive", archive_path) as process:
        wait_until(lambda: archive_path.exists() and count(archive_path) > 0)
        process.kill()
    before = count(archive_path)
    assert 0 < before < 250 * SEEDED
    assert imported(archive_path, data) == {
        "imported": 250 * SEEDED - before, "there": before, "unreadable": 0, "said": "",
    }  # fmt: skip
    assert len({record.record_id for record in records(archive_path)}) == count(archive_path) == 250 * SEEDED


def copy(file: Path, times: int) -> None:
    """Fill a file with so many copies of what it holds, with keys of their own, as other events have."""
    original = file.read_bytes()
    file.write_bytes(b"".join(original.replace(b'["key"] = "', b'["key"] = "%d' % number) for number in range(times)))


def count(archive: Path) -> int:
    with suppress(ArchiveError), open_archive(archive) as opened:  # which may be in the making
        return sum(1 for _ in opened.query())
    return 0


def test_entries_without_keys(data: Path, archive_path: Path) -> None:
    """Where entries have no key of their own, two that say the same are two, and still each is imported once."""
    file = data / "example%2etest" / "audit.list"
    bare = re.sub(rb'\t\["key"\] = "[^"]*";\n', b"", file.read_bytes())
    file.write_bytes(bare + bare)
    assert imported(archive_path, data)["imported"] == 2 * SEEDED
    assert imported(archive_path, data)["there"] == 2 * SEEDED
    file.write_bytes(bare + bare + bare)
    assert imported(archive_path, data)["imported"] == SEEDED


def test_files_of_accounts(data: Path, archive_path: Path) -> None:
    """Files that belong to one account each are imported for it."""
    folder = data / "example%2etest" / "audit"
    folder.mkdir()
    folder.parent.joinpath("audit.list").rename(folder / "d%c3%a9d%c3%a9.list")
    assert imported(archive_path, data)["imported"] == SEEDED
    started = records(archive_path)[0]
    assert (started.type, started.user) == ("server-started", "dédé")


def test_unreadable(data: Path, archive_path: Path) -> None:
    """What cannot be read is recorded as it stands, named, and harms neither its neighbours nor who reads it."""
    file = data / "example%2etest" / "audit.list"
    whole = file.read_bytes()
    evil = b'item(os.execute("touch /tmp/evil \x1b[31m"));\n'
    file.write_bytes(whole + evil + b'item({["name"] = "torn";')
    found = imported(archive_path, data)
    assert (found["imported"], found["unreadable"]) == (SEEDED + 2, 2)
    assert re.search(r"audit\.list line \d+ is no entry, and recorded as it stands: ", found["said"])
    assert imported(archive_path, data)["there"] == SEEDED + 2
    first, second = records(archive_path)[-2:]
    assert first.type == second.type == "prosody.unreadable"
    assert first.custom["prosody"]["text"] == evil.decode().strip()
    assert "entry:unreadable" in first.altered
    shown = otel_audit("show", "--archive", archive_path, "--show-note", "--type", "prosody.*").stdout
    assert "\x1b" not in shown


def test_rows_of_any_kind(originals: dict[str, Path], archive_path: Path, tmp_path: Path) -> None:
    """Rows with wrong types, bytes that are no UTF-8, and other kinds of values are recorded, none refused."""
    shutil.copytree(originals["sql"], tmp_path / "data")
    database = tmp_path / "data" / "prosody.sqlite"
    connection = sqlite3.connect(database)
    row = ("example.test", "", "audit", "k", 1700000000, "@", "xml", "<a/>")
    strange: list[tuple[int, object]] = [
        (3, b"\xff"), (4, "soon"), (4, 1.5), (5, b"\xfe@example.test"), (6, "json"), (7, "<a>"), (7, b"<a>\xff</a>"),
        (7, "x" * (5 << 20)), (7, 7), (1, "erin"),
    ]  # fmt: skip
    for number, (column, value) in enumerate(strange):
        values: list[object] = [*row]
        values[3] = f"k{number}"
        values[column] = value
        connection.execute(
            'INSERT INTO prosodyarchive ("host", "user", "store", "key", "when", "with", "type", "value")'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
    connection.commit()
    connection.close()
    found = imported(archive_path, database)
    assert found["imported"] == SEEDED + len(strange)
    assert imported(archive_path, database)["there"] == SEEDED + len(strange)
    assert found["unreadable"] == 4  # json, unclosed, too long, a number
    assert records(archive_path)[-1].user == "erin"


def test_an_id_that_is_taken(data: Path, archive_path: Path) -> None:
    """Whoever records something under the id that an entry will get cannot keep the entry out."""
    provider = provider_at(archive_path)
    with open_source(str(data), HOST) as opened:
        entry = next(iter(opened.entries(lambda _done, _total: None)))
    foreign = Importer(provider, HOST)._foreign(entry)
    planted = foreign.record._replace(type="harmless", custom={}, user="mallory")
    ((outcome, _),) = keep(provider.writer, [Foreign(planted, encode(planted))])
    assert outcome == "recorded"
    provider.shutdown()
    assert imported(archive_path, data)["imported"] == SEEDED
    assert imported(archive_path, data)["there"] == SEEDED
    first = next(record for record in records(archive_path) if record.type == "server-started")
    assert f"record_id:taken:{planted.record_id}" in first.altered


def test_privacy_and_later_settings(data: Path, archive_path: Path) -> None:
    """The settings of privacy act on what is imported; other ones at the next run make no second record."""
    imported(archive_path, data, OTEL_AUDIT_DROP_IP="true")
    assert "session.ip:dropped" in records(archive_path)[1].altered
    assert b"203.0.113.7" not in archive_path.read_bytes()
    assert imported(archive_path, data)["there"] == SEEDED
    assert imported(archive_path, data, OTEL_AUDIT_PROFILE="signal")["there"] == SEEDED
    assert len(records(archive_path)) == SEEDED


@both
def test_two_at_once(data: Path, archive_path: Path) -> None:
    """Two imports at the same time record each entry once between them."""
    arguments = ("import", "prosody", source(data), HOST, "--archive", archive_path, "-o", "json")
    processes = [popen(*arguments) for _ in range(2)]
    summaries = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(summary["imported"] for summary in summaries) == SEEDED
    assert sum(summary["there"] for summary in summaries) == SEEDED
    assert len(records(archive_path)) == SEEDED


def test_reads_only(originals: dict[str, Path], archive_path: Path) -> None:
    """Neither the file nor the database is changed."""
    for folder in originals.values():
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        imported(archive_path, source(folder))
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_text_and_progress(data: Path, archive_path: Path) -> None:
    """On a terminal a bar shows how much is done, and a sentence tells what became of it."""
    file = data / "example%2etest" / "audit.list"
    copy(file, 10)
    said = on_terminal("import", "prosody", data, HOST, "--archive", archive_path)
    assert "importing" in said
    assert "100%" in said
    assert f"imported {10 * SEEDED} entries, 0 had been imported before" in said
    once = otel_audit("import", "prosody", data, HOST, "--archive", archive_path)
    assert once.stdout == f"imported 0 entries, {10 * SEEDED} had been imported before\n"


def test_refusals(originals: dict[str, Path], tmp_path: Path) -> None:
    """A source without such an archive is an error that says what there is; no archive of ours is made."""
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("CREATE TABLE t (x)").connection.close()
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    cases: list[tuple[Path | str, str | bytes, str]] = [
        (originals["internal"], "other.test", "it holds those of example.test"),
        (originals["sql"] / "prosody.sqlite", "other.test", "it holds those of example.test"),
        (tmp_path / "none", HOST, "there is no "),
        (empty, HOST, "as prosodyctl about prints it"),
        (other, HOST, "has no table prosodyarchive"),
        (noise, HOST, "cannot be read: "),
        (Path("/etc/hostname"), HOST, "is no archive of mod_audit"),
        (originals["sql"] / "prosody.sqlite", b"\xff", "no archive of mod_audit for "),
        (originals["internal"], b"\xff", "no archive of mod_audit for "),
        ("mysql://root:secret@db/prosody", HOST, "mysql is no database that can be read here"),
        ("sqlite:///none.sqlite", HOST, "there is no /none.sqlite"),
        (originals["internal"], "*", "'*' is no host"),
        (originals["internal"], "", "'' is no host"),
    ]
    archive = tmp_path / "archive" / "audit.db"
    for path, host, expected in cases:
        result = otel_audit("import", "prosody", path, host, "--archive", archive, status=2)
        assert expected in result.stderr
        assert "secret" not in result.stderr
        assert result.stderr.count("\n") == 1
    assert not archive.exists()


def test_shown_by_show(data: Path, archive_path: Path) -> None:
    """What was imported is found like what was recorded here."""
    imported(archive_path, data)
    shown = json_lines(otel_audit("show", f"alice@{HOST}", "--archive", archive_path, "-o", "jsonl").stdout)
    assert [record["type"] for record in shown] == ["authentication-failure", "user-registered"]
