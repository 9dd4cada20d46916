"""Records in any number, made quickly and always the same: those of a service with a million events a day."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from otel_audit.archive.commit import Committer
from otel_audit.archive.database import Database
from otel_audit.archive.index import SLICE
from otel_audit.archive.writer import Writer
from otel_audit.catalog import Catalog
from otel_audit.otlp import _TIMES, _TRACE, encode, encode_resource, encode_scope
from otel_audit.record import Actor, AuditRecord, Session
from tests.bench.measure import progress

__all__ = ["DAY", "FREQUENT", "HOSTS", "SPREAD", "USERS", "Filler", "Population"]

USERS: Final = 20_000
HOSTS: Final = 50
FREQUENT: Final = 10
"""Users with nearly one record in 1,000 each: more than 50 in the smallest archive."""
SPREAD: Final = 4
"""Users with 50 records each, at equal distances over the whole archive."""
DAY: Final = 86_400 * 10**9
_STEP: Final = DAY // 1_000_000
_START: Final = 1_767_225_600 * 10**9  # 2026-01-01
_JITTER: Final = 2_000
"""Milliseconds that the time of an event lies off the line: records come nearly in order."""
_TYPES: Final = (
    "authentication-success",
    "authentication-failure",
    "user.login.success",
    "token.issued",
    "user.logout",
)
_MASK: Final = 2**128 - 1


class Population:
    """The records 1, 2, 3, … of an archive.

    Args:
        size: How many there will be.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        catalog = Catalog()
        names = [f"user-{n:05d}" for n in range(USERS)]
        names += [f"frequent-{n}" for n in range(FREQUENT)] + [f"spread-{n}" for n in range(SPREAD)]
        self._users = [_template(n, name, catalog) for n, name in enumerate(names)]
        self._check()

    def user(self, number: int) -> int:
        """Return the position of a record's user among all users."""
        distance = self.size // 50
        if (offset := number % distance) % 7 == 3 and offset // 7 < SPREAD and number <= self.size:
            return USERS + FREQUENT + offset // 7
        if number % 101 == 50:
            return USERS + number // 101 % FREQUENT
        return number * 7919 % USERS

    @staticmethod
    def trace(number: int) -> str:
        """Return a record's trace; ten records have the same."""
        return f"{((number - 1) // 10 + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 & _MASK:032x}"

    def time(self, number: int) -> int:
        """Return when a record happened, in nanoseconds."""
        return _START + number * _STEP + (number * 2_654_435_761 % (2 * _JITTER + 1) - _JITTER) * 1_000_000

    def time_sql(self) -> str:
        """Return `time` in SQL, of a column ``n``."""
        return f"{_START} + n * {_STEP} + (n * 2654435761 % {2 * _JITTER + 1} - {_JITTER}) * 1000000"

    def records(self, first: int) -> Iterator[tuple[AuditRecord, bytes]]:
        """Yield records and their bytes from a number on, for ever."""
        number = first
        while True:
            yield self.record(number)
            number += 1

    def record(self, number: int) -> tuple[AuditRecord, bytes]:
        """Return one record and its bytes, which are put together from its user's."""
        model, content = self._users[self.user(number)]
        moment, trace, span = self.time(number), self.trace(number), f"{number:016x}"
        record = AuditRecord(
            f"{moment // 1_000_000 >> 16:08x}-{moment // 1_000_000 & 0xFFFF:04x}-7000-8000-{number:012x}",
            moment, moment, model.host, model.source, model.type, model.actor, model.action, model.outcome, model.user,
            None, model.session, None, model.custom, model.message, trace, span, 1,
        )  # fmt: skip
        otlp = b"".join((
            _TIMES.pack(0x09, moment, 0x59, moment),
            content,
            _TRACE.pack(0x4A, 16, bytes.fromhex(trace), 0x52, 8, bytes.fromhex(span), 0x45, 1),
        ))  # fmt: skip
        return record, otlp

    def _check(self) -> None:
        """See that the bytes are those that the library makes.

        Raises:
            RuntimeError: They are not: whoever changed the encoder has to change `record`.
        """
        for number in (1, 3, 50, 1234):
            record, otlp = self.record(number)
            if encode(record) != otlp:
                raise RuntimeError(f"the bytes of record {number} are not the library's")

    def fill(self, path: Path) -> str:
        """Make an archive that holds all records; return how fast that went."""
        count = self.size
        stream = self.records(1)
        rates = []
        with Filler(path) as enqueue:
            for start in range(0, count, 100_000):
                began = time.perf_counter()
                for record, otlp in islice(stream, min(100_000, count - start)):
                    enqueue(record, otlp)
                rates.append(min(100_000, count - start) / (time.perf_counter() - began))
                if (start + 100_000) % 1_000_000 == 0:
                    progress(f"    {start + 100_000:,} of {count:,} records, {rates[-1]:,.0f}/s")
        return f"{sum(rates) / len(rates):,.0f}/s, slowest 100,000: {min(rates):,.0f}/s"


class Filler:
    """A writer without a provider; as a context manager it yields the function that queues a record and its bytes.

    Args:
        path: The archive.
    """

    def __init__(self, path: Path) -> None:
        resource = encode_resource({"service.name": "bench"})
        self._database = Database(path, "write")
        self._writer = Writer(Committer(self._database, resource, encode_scope("otel_audit", "1")))

    def __enter__(self) -> Callable[[AuditRecord, bytes], None]:
        return self.enqueue

    def __exit__(self, *_: object) -> None:
        self.close()

    def enqueue(self, record: AuditRecord, otlp: bytes) -> None:
        """Queue one record; waits while the queue is full."""
        self._writer.enqueue(record, otlp, 60.0)

    def flush(self) -> None:
        """Wait until all is committed, and folded as far as it is while records keep coming."""
        if not self._writer.flush(60.0):
            raise RuntimeError("the writer did not commit everything")
        while self._unfolded() >= SLICE:
            time.sleep(0.001)

    def _unfolded(self) -> int:
        with self._database as connection:
            folded = connection.execute("SELECT value FROM meta WHERE key = 'folded'").get
        return self._writer.head - int(folded)

    def close(self) -> None:
        """Commit what is left, and close."""
        if not self._writer.close(60.0):
            raise RuntimeError("the writer did not commit everything")


def _template(number: int, name: str, catalog: Catalog) -> tuple[AuditRecord, bytes]:
    """Return a user's record without times and trace, and its bytes between the two."""
    type_, host = _TYPES[number % len(_TYPES)], f"host-{number % HOSTS:02d}.example"
    known = catalog[type_]
    address = f"198.51.{number // 250 % 250}.{number % 250}"
    record = AuditRecord(
        record_id="",
        time=0,
        observed=0,
        host=host,
        source=("mod_auth", "web.accounts", "billing.api")[number % 3],
        type=type_,
        actor=Actor(name),
        action=known.action,
        outcome=known.outcome,
        user=name,
        session=Session(f"c2s-{number:06x}", "c2s", address, f"Client {number % 17}.{number % 5}"),
        custom={"reason": {"condition": "not-authorized"}} if known.outcome == "failure" else {},
        message=f"{type_} ({known.outcome}) {name}@{host} from {address}",
    )
    return record, encode(record)[_TIMES.size :]
