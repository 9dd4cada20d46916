"""What an application recorded during a test, with assertions that say what was there instead."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Unpack

from otel_audit.archive.query import open_archive
from otel_audit.config import Settings
from otel_audit.provider import AuditProvider, global_provider, redirected
from otel_audit.record import AuditRecord
from otel_audit.testing.expectation import Expectation, listing

__all__ = ["AuditCapture", "capture_audit"]

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
_SECONDS: Final = 30.0


class AuditCapture:
    """The records made since `capture_audit` began, or since `clear`. Iterate over it, or use the assertions.

    What to expect is said by keywords: the fields of `AuditRecord` (``user=``, ``host=``, ``outcome=``, …), where
    ``actor=`` and ``target=`` also take the id alone; of the session ``session_id=``, ``session_type=``, ``ip=`` and
    ``client=``; and ``custom={"reason": {"condition": …}}``, where further groups and fields may be there. A value is
    compared with ``==``; a compiled regular expression must match some part of the text. A type may hold ``*``.
    """

    def __init__(self, path: Path, provider: AuditProvider | None = None) -> None:
        self._path = path
        self._provider = provider
        self._after = 0
        self._kept: list[AuditRecord] | None = None

    @property
    def records(self) -> list[AuditRecord]:
        """All of them, in the order of recording; queued ones are waited for."""
        if self._kept is not None:
            return list(self._kept)
        provider = self._provider or global_provider()
        if provider is not None and not provider.writer.closed:
            provider.writer.flush(_SECONDS)
        with open_archive(self._path) as archive:
            return list(archive.query(after=self._after, oldest_first=True))

    def __iter__(self) -> Iterator[AuditRecord]:
        """Iterate over the records, in the order of recording."""
        return iter(self.records)

    def __len__(self) -> int:
        """Return their number."""
        return len(self.records)

    def __bool__(self) -> bool:
        """Return True, also where nothing was recorded: there is a capture."""
        return True

    def __repr__(self) -> str:
        """Return the records, a line each."""
        return f"<AuditCapture\n{listing(self.records)}>"

    def clear(self) -> None:
        """Forget what was recorded so far."""
        records = self.records
        if self._kept is not None:
            self._kept = []
        elif records:
            self._after = records[-1].sequence or 0

    def find(self, type: str = "*", **expected: Any) -> list[AuditRecord]:
        """Return the records that match.

        Args:
            type: The event type.
            **expected: See the class.

        Raises:
            TypeError: There is no such field.
        """
        expectation = Expectation(type, expected)
        return [record for record in self.records if expectation.met_by(record)]

    def assert_recorded(self, type: str = "*", *, count: int | None = None, **expected: Any) -> AuditRecord:
        """Check that a record was made, and return it; of several the last one.

        Args:
            type: The event type.
            count: How many must match, at least 1; default: one or more.
            **expected: See the class.

        Raises:
            AssertionError: There is none, or another number: says what was recorded, and how the nearest one differs.
            TypeError: There is no such field.
            ValueError: `count` is below 1.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        if count is not None and count < 1:
            raise ValueError(f"count={count}: use assert_not_recorded()")
        expectation, records = Expectation(type, expected), self.records
        found = [record for record in records if expectation.met_by(record)]
        if not found:
            raise AssertionError(expectation.missing_among(records))
        if count is not None and len(found) != count:
            raise AssertionError(
                f"{len(found)} records match {expectation}, not {count}:\n{listing(found)}\n"
                f"all {len(records)} records:\n{listing(records)}"
            )
        return found[-1]

    def assert_not_recorded(self, type: str = "*", **expected: Any) -> None:
        """Check that no record matches; without arguments: that nothing was recorded.

        Args:
            type: The event type.
            **expected: See the class.

        Raises:
            AssertionError: There is one: shows it.
            TypeError: There is no such field.
        """
        __tracebackhide__ = True  # as above
        found = self.find(type, **expected)
        if found:
            raise AssertionError(
                f"{len(found)} of the records match {Expectation(type, expected)}, which should have none:\n"
                f"{listing(found)}"
            )

    def finish(self) -> None:
        """Keep the records: the archive is about to go."""
        self._kept = self.records

    def begin_after(self, sequence: int) -> None:
        """Leave out records up to this one."""
        self._after = sequence


@contextmanager
def capture_audit(provider: AuditProvider | None = None, **settings: Unpack[Settings]) -> Iterator[AuditCapture]:
    """Capture what is recorded meanwhile, by this process and the children that it forks.

    Without `provider` the global one is captured: records go to an archive of their own, in memory where the system has
    a file system for that, and nothing is shipped. All else is as configured, also by `otel_audit.configure` within the
    block; where nothing was, the host is ``test``. Afterwards the provider that was there is back, and the capture
    keeps its records.

    Args:
        provider: Capture what this one records, where it records it.
        **settings: Replace settings of the global provider, such as ``event_types=``.

    Raises:
        TypeError: Settings are given with `provider`, or there is no such setting.
        ConfigError: A setting is wrong.
    """
    if provider is not None:
        if settings:
            raise TypeError(f"settings and a provider were given: {', '.join(sorted(settings))}")
        provider.writer.flush(_SECONDS)
        captured = AuditCapture(provider.config.archive, provider)
        captured.begin_after(_last(provider.config.archive))
        try:
            yield captured
        finally:
            captured.finish()
        return
    memory = str(_MEMORY) if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="otel-audit-", dir=memory, ignore_cleanup_errors=True) as directory:
        archive = Path(directory) / "audit.db"
        overrides: Mapping[str, Any] = {
            "checkpoint_interval": 0,
            "exporters": {},
            "high_water": False,
            **settings,
            "archive": archive,
            "ship": False,
        }
        with redirected(**overrides) as temporary:
            temporary.host = temporary.host or "test"
            captured = AuditCapture(archive)
            try:
                yield captured
            finally:
                captured.finish()


def _last(path: Path) -> int:
    with open_archive(path) as archive:
        newest = next(archive.query(limit=1), None)
        own = next(archive.query(limit=1, admin=True), None)
    return max((record.sequence or 0 for record in (newest, own) if record is not None), default=0)
