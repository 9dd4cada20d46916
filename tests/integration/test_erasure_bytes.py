"""After an erasure no byte of the person's data is in the files; nothing is lost beside it, and nothing half done."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from otel_audit import Actor, AuditProvider, Session
from otel_audit.archive import index
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.database import Database
from otel_audit.archive.erasure import Order, erase
from otel_audit.archive.leaf import PRUNE
from otel_audit.archive.merkle import Frontier
from otel_audit.archive.query import open_archive
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.archive.subjects import Subject
from otel_audit.archive.vacuum import is_pending, vacuum
from otel_audit.archive.verify import verify
from tests.archive_material import assert_sound, connect, forked, provider_at, wait_until

ORDER = Order("request 7", None, Actor("operator"), {})
NAME = re.compile(rb"u\d{5}x")
ADDRESS = re.compile(rb"10\.(\d+)\.(\d+)\.\d+")
USERS = 300


def name(user: int) -> str:
    return f"u{user:05d}x"


def record(provider: AuditProvider, first: int, records: int) -> None:
    """Record events of all users in turn; every value tells whose it is, and some take pages of their own."""
    chance = random.Random(first)
    log = provider.get_logger("shop")
    for n in range(first, first + records):
        user = n * 7919 % USERS
        who = name(user)
        address = f"10.{user // 256 + 1}.{user % 256}.{n % 250}"
        size = chance.choice((12_000, 5_000)) if n % 41 == 0 else chance.randrange(400)
        log.audit(
            "user.login.failure",
            user=who,
            session=Session(f"s-{who}-{n}", "http", address, f"Client of {who}"),
            custom={"order": {"token": f"{who}{'z' * size}{who}", "at": n}},
        )


def files(path: Path) -> bytes:
    """Return the bytes of all files beside the archive, which are those of the archive alone."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


def found(path: Path) -> set[int]:
    """Return the users of whom something is in the files."""
    content = files(path)
    users = {int(text[1:6]) for text in NAME.findall(content)}
    return users | {(int(a) - 1) * 256 + int(b) for a, b in ADDRESS.findall(content)}


def erase_user(administration: Administration, user: int) -> int:
    return erase(administration, Subject(name(user), "example.com"), ORDER).records


def prune(administration: Administration, first: int, last: int) -> None:
    def make(connection: apsw.Connection, _tree: Frontier) -> Iterator[Own]:
        remove(connection, [(first, last)])
        return (Own(PRUNE, "audit.records.pruned", fields) for fields in removal_fields([(first, last)]))

    administration.append(make)


def fold(path: Path) -> None:
    connection = connect(path)
    while index.fold(connection):
        pass


def test_no_byte_is_left(archive_path: Path) -> None:
    """Of users erased from an archive with folds, large records, pruned and erased ones nothing is in any file."""
    with provider_at(archive_path, durability="queued") as provider:
        record(provider, 0, 9_000)
        assert provider.force_flush(20)
        fold(archive_path)
        with Administration(archive_path, b"", b"") as administration:
            for user in range(20):
                assert erase_user(administration, user) >= 30
            prune(administration, 1_001, 3_000)
        # A page that is full of moved rows, and rows beside erased ones.
        record(provider, 9_000, 9_000)
        assert provider.force_flush(20)
        fold(archive_path)
        gone = set(range(60))
        with Administration(archive_path, b"", b"") as administration:
            for user in gone:
                assert erase_user(administration, user)
            assert gone & found(archive_path)
            vacuum(administration.database, 20.0)
        # Others have it open: all of its files are there.
        assert Path(f"{archive_path}-wal").exists()
        assert found(archive_path) == set(range(60, USERS))
        record(provider, 18_000, 1)
        assert provider.force_flush(20)
    report = verify(archive_path)
    assert report.intact, report.faults
    first = {n for n in range(9_000) if n * 7919 % USERS < 20}
    pruned = set(range(1_000, 3_000)) - first
    assert report.pruned == len(pruned)
    assert report.erased == len({n for n in range(18_000) if n * 7919 % USERS in gone} - pruned)
    with open_archive(archive_path) as archive:
        assert list(archive.query(user=name(5))) == []
        kept = [record.custom["order"]["at"] for record in archive.query(user=name(60), oldest_first=True)]
    assert kept == [n for n in range(18_001) if n * 7919 % USERS == 60 and n not in pruned]


def test_without_writing_anew_copies_remain(archive_path: Path) -> None:
    """Why the file is written anew: after the erasures alone, copies are in its pages, the log set aside."""
    # Each slice is sorted in among the former ones, so that rows of the look-up tables move.
    for first in range(0, 12_000, 750):
        with provider_at(archive_path, durability="queued") as provider:
            record(provider, first, 750)
            assert provider.force_flush(20)
        fold(archive_path)
    with Administration(archive_path, b"", b"") as administration:
        for user in range(0, USERS, 2):
            erase_user(administration, user)
        with administration.database as connection:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            assert is_pending(connection)
        remnants = {user for user in found(archive_path) if user % 2 == 0}
        vacuum(administration.database, 20.0)
        assert found(archive_path) == set(range(1, USERS, 2))
    assert remnants


def test_beside_four_writers(archive_path: Path) -> None:
    """Four processes record while users are erased and the file is written anew: nothing is lost, no call fails."""
    with provider_at(archive_path) as first:
        first.get_logger("shop").audit("server-started")
    reading, writing = os.pipe()
    told, telling = os.pipe()

    def write(seed: int) -> None:
        with provider_at(archive_path) as provider:
            log = provider.get_logger(f"process-{seed}")
            count = 0
            os.set_blocking(reading, False)
            while not stopped():
                log.audit("user.login.success", user=name(count % 12), session=Session(f"{seed}-{count}"))
                count += 1
            os.write(telling, f"{count}\n".encode())

    def stopped() -> bool:
        # The parent closes its end when it is done.
        try:
            return os.read(reading, 1) == b""
        except BlockingIOError:
            return False

    def child(seed: int) -> None:
        os.close(writing)
        write(seed)

    children = [forked(lambda seed=seed: child(seed)) for seed in range(4)]  # type: ignore[misc]

    def records() -> int:
        return int(connect(archive_path).execute("SELECT count(*) FROM record").get)

    wait_until(lambda: records() > 200)
    erased = 0
    with Administration(archive_path, b"", b"") as administration:
        for user in range(6):
            erased += erase_user(administration, user)
            vacuum(administration.database, 20.0)
            before = records()
            wait_until(lambda before=before: records() > before + 50)  # type: ignore[misc]
        os.close(writing)
        assert [os.waitpid(process, 0)[1] for process in children] == [0] * 4
        os.close(reading)
        os.close(telling)
        with os.fdopen(told) as lines:
            counts = [int(line) for line in lines]
        for user in range(6):
            erased += erase_user(administration, user)
        vacuum(administration.database, 20.0)
        assert not found(archive_path) & set(range(6))
    assert_sound(archive_path)
    report = verify(archive_path)
    assert report.intact, report.faults
    assert report.erased == erased
    assert len(counts) == 4
    assert min(counts) > 10
    assert connect(archive_path).execute("SELECT count(*) FROM record WHERE kind = 1").get == 1 + sum(counts)
    with open_archive(archive_path) as archive:
        left = len(list(archive.query(host_wide=False)))
    assert left == sum(count - sum(n % 12 < 6 for n in range(count)) for count in counts)


def test_killed_at_any_moment(archive_path: Path) -> None:
    """However often the process is killed, each user is erased as a whole or not at all, and the next run completes."""
    users, each, chance = 24, 40, random.Random(7)
    with provider_at(archive_path, durability="queued") as provider:
        log = provider.get_logger("shop")
        for n in range(users * each):
            log.audit("user.login.success", user=name(n % users), custom={"a": {"b": f"{name(n % users)}-{n}" * 40}})
        assert provider.force_flush(20)
    fold(archive_path)
    with Administration(archive_path, b"", b"") as administration:
        assert erase_user(administration, 0) == each  # the first of the archive's own records is there now

    def work() -> None:
        with Administration(archive_path, b"", b"") as administration:
            for user in range(users):
                erase_user(administration, user)
                with administration.database as connection:
                    pending = is_pending(connection)
                if pending:
                    vacuum(administration.database, 20.0)

    kills = 0
    for _ in range(25):
        process = forked(work)
        time.sleep(chance.uniform(0.005, 0.03))
        os.kill(process, signal.SIGKILL)
        kills += os.waitpid(process, 0)[1] == signal.SIGKILL
        left = dict(connect(archive_path).execute("SELECT user, count(*) FROM record WHERE kind = 1 GROUP BY 1"))
        whole = {user: count for user, count in left.items() if user is not None}
        assert set(whole.values()) <= {each}
        report = verify(archive_path)
        assert report.intact, report.faults
        assert report.erased == (users - len(whole)) * each
        # What was erased and not yet written anew is known to be so.
        if {name(user) for user in found(archive_path)} - set(whole):
            assert is_pending(connect(archive_path))
    assert kills > 10
    work()
    database = Database(archive_path, "write", must_exist=True)
    vacuum(database, 20.0)
    database.close()
    assert found(archive_path) == set()
    assert verify(archive_path).erased == users * each
