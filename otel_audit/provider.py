"""One archive with its writer and its shippers; and the global one, which `configure` sets."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

# What `Config.load` imports late, for the command line's sake: a daemon that changed its user or its root by then may
# not be able to.
import platformdirs  # noqa: F401

from otel_audit import (
    forksafe,
    otlp_settings,  # noqa: F401
    privacy_settings,  # noqa: F401
)
from otel_audit._version import __version__
from otel_audit.archive.administration import Administration
from otel_audit.archive.commit import Committer
from otel_audit.archive.database import Database
from otel_audit.archive.diskwatch import measure
from otel_audit.archive.highwater import read_mark
from otel_audit.archive.safety import warn_of_group
from otel_audit.archive.writer import Writer
from otel_audit.catalog import Catalog
from otel_audit.config import Config, Settings
from otel_audit.delivery.service import make_shippers
from otel_audit.errors import AuditError, InvalidRecord
from otel_audit.logger import AuditLogger, Recorder
from otel_audit.metrics import Metrics
from otel_audit.otlp import encode_resource, encode_scope
from otel_audit.record import AuditRecord
from otel_audit.tasks import make_tasks, verifier
from otel_audit.upkeep import Upkeep

if TYPE_CHECKING:
    from otel_audit.delivery.shipper import Shipper

__all__ = [
    "AuditProvider",
    "configure",
    "configure_late",
    "current_provider",
    "get_logger",
    "global_provider",
    "redirected",
]

_log = logging.getLogger("otel_audit")


class AuditProvider(forksafe.ForkAware):
    """Records into one archive and ships it to its destinations; a context manager.

    Args:
        **settings: See `Settings`; they win over the environment.

    Raises:
        TypeError: There is no such setting.
        ConfigError: A setting is wrong.
        ArchiveError: The archive cannot be opened or created.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        # Iterators give their items once, and `redirected` takes the settings again.
        again = {name: tuple(value) if isinstance(value, Iterator) else value for name, value in settings.items()}
        self.settings = settings = cast("Settings", again)
        config = Config.load(**settings)
        self.config = config
        self.catalog = Catalog(config.event_types)
        self.profile = config.profile
        self.durability = config.durability
        self.on_failure = config.on_failure
        self.block_timeout = config.block_timeout
        self.host = config.host
        self.processors = config.processors
        self._shippers = make_shippers(config) if config.sending else []
        # Threads and meters hold the shippers, not the provider: one that nobody holds any more can warn.
        self._observed = list(self._shippers)
        self._watched = [config.archive.absolute()]
        disk = partial(measure, self._watched, config.disk)
        self._metrics = metrics = Metrics(partial(_waiting, self._observed), disk)
        scope = b"" if config.profile == "signal" else encode_scope("otel_audit", __version__)
        database = Database(config.archive, "write", busy_timeout=min(10.0, config.block_timeout))
        with database:
            pass  # what is wrong with the archive shows here, not at the first event
        warn_of_group(database.path.parent)
        resource = encode_resource(config.resource)
        signer = None if config.integrity is None else config.integrity.signed
        floor = partial(read_mark, config.high_water)
        committer = Committer(database, resource, scope, floor, signer)
        opener = partial(
            Administration,
            database.path,
            resource,
            scope,
            profile=config.profile,
            signer=signer,
            verifier=partial(verifier, config),
            floor=floor,
        )
        self._upkeep = upkeep = Upkeep(make_tasks(config, committer, opener))
        self.writer = Writer(committer, partial(_committed, metrics, self._shippers, upkeep))
        for shipper in self._shippers:
            shipper.on_export = partial(metrics.exported, shipper.name)
            shipper.start()
        self._closed = False
        self._ending = False
        self._endings: dict[Callable[[], None], Recorder] = {}
        # A signal handler may call shutdown() while its own thread is in it.
        self._shutdown_lock = threading.RLock()
        forksafe.register(self)
        # The interpreter's end must not keep a provider alive that nobody else holds.
        self._at_exit = partial(_shut_down, weakref.ref(self), self.writer)
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        """Return the provider."""
        return self

    def __exit__(self, *_: object) -> None:
        """Shut it down."""
        self.shutdown()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        """Warn of a provider that was never shut down."""
        if not getattr(self, "_closed", True):
            _warn(f"unclosed {self!r}: call shutdown()", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        """Return where it records to."""
        return f"<AuditProvider {self.config.archive}>"

    def get_logger(self, source: str, host: str | None = None, **bound: Any) -> AuditLogger:
        """Return a logger.

        Args:
            source: The component that records, e.g. ``billing.api``.
            host: The tenant or virtual host; default: ``OTEL_AUDIT_HOST``, or given at the call's `bind`.
            **bound: Further bound values, see `AuditLogger.bind`.

        Raises:
            InvalidRecord: The source is empty or no str.
        """
        return _logger(lambda: self, source, host, bound)

    def force_flush(self, timeout: float = 30.0) -> bool:
        """Wait until every destination accepted all that this process recorded before the call.

        Args:
            timeout: Seconds to wait.

        Returns:
            Whether that came true, whoever shipped the records. False also where one of them became a dead letter.
        """
        deadline = time.monotonic() + timeout
        if not self.writer.flush(timeout):
            return False
        ranges = self.writer.committed()
        if not ranges:
            return True
        # All of them are asked, so that each hurries.
        outcomes = [shipper.flush(ranges, max(0.0, deadline - time.monotonic())) for shipper in self._shippers]
        return all(outcomes)

    def shutdown(self, timeout: float = 5.0) -> bool:
        """Write and ship what is left, and stop; recording afterwards raises, and what was not shipped stays archived.

        Args:
            timeout: Seconds to wait for the destinations.

        Returns:
            What `force_flush` would have returned; True at a second call.
        """
        with self._shutdown_lock:
            if self._closed:
                return True
            deadline = time.monotonic() + timeout
            self._end()
            self.writer.flush(timeout)
            # Before the last look at what waits: a checkpoint is to be shipped, too.
            self._upkeep.stop(max(0.1, deadline - time.monotonic()))
            delivered = self.force_flush(max(0.0, deadline - time.monotonic()))
            self._closed = True
            self._observed.clear()  # meters go on asking
            self._watched.clear()
            written = self.writer.close(max(timeout, 1.0))
            for shipper in self._shippers:
                shipper.stop(1.0)
            atexit.unregister(self._at_exit)
            return delivered and written

    def before_shutdown(self, recorder: Recorder, function: Callable[[], None]) -> bool:
        """Call a function when this provider shuts down; see `AuditLogger.before_shutdown`."""
        # Registered first, looked at then: a shutdown that comes between calls it.
        self._endings.setdefault(function, recorder)
        return not self._ending

    def _end(self) -> None:
        """Let the sources record what they still hold, the last one first."""
        self._ending = True
        while self._endings:
            function, recorder = self._endings.popitem()
            try:
                current = recorder()
                if current is self:
                    function()
                else:
                    # Configured anew: what records through the global provider goes on.
                    current.before_shutdown(recorder, function)
            except Exception:  # noqa: BLE001 - the records of others, and the shutdown itself, must not suffer
                _log.exception("what was to be recorded before the shutdown of %s failed", self.config.archive)

    def dropped(self, record: AuditRecord, error: AuditError) -> None:
        """Log and count a record that could not be recorded, under failure policy ``log``."""
        self._metrics.dropped()
        if _reporting.get():
            return  # this very report is being audited, by a handler of the application
        token = _reporting.set(True)
        try:
            self._report(record, error)
        finally:
            _reporting.reset(token)

    def _report(self, record: AuditRecord, error: AuditError) -> None:
        _log.error("audit record %s (%s) was not recorded: %s", record.record_id, record.type, error)

    def after_fork_in_child(self) -> None:
        """Forget a shutdown that another thread of the parent is in."""
        self._ending = self._closed
        self._shutdown_lock = threading.RLock()


def _committed(metrics: Metrics, shippers: Iterable[Shipper], upkeep: Upkeep, records: int, head: int) -> None:
    metrics.emitted(records)
    upkeep.notify()
    for shipper in shippers:
        shipper.notify(head)


def _waiting(shippers: Iterable[Shipper]) -> Iterator[tuple[str, int, int | None, int]]:
    for shipper in shippers:
        try:
            yield (shipper.name, *shipper.outbox.waiting())
        except AuditError as error:
            _log.warning("cannot tell what waits for %s: %s", shipper.name, error)


def _shut_down(reference: weakref.ref[AuditProvider], writer: Writer) -> None:
    provider = reference()
    if provider is not None:
        provider.shutdown()
    else:
        writer.close(5.0)  # nobody shut it down, and some of what it queued may still be in memory


_reporting: ContextVar[bool] = ContextVar("otel_audit_reporting", default=False)
_lock = threading.RLock()
_global: AuditProvider | None = None
_overrides: Settings = {}
_defaults: Callable[[], Settings] = Settings
"""Gives the settings of a global provider that nobody configured."""


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - a thread that held it in the parent is not here
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def configure(**settings: Unpack[Settings]) -> AuditProvider:
    """Make the global provider, which `get_logger` records through, and return it.

    A provider that was configured before is shut down once the new one is there. Loggers follow, whenever they were
    made.

    Args:
        **settings: As for `AuditProvider`; what is not given comes from the environment.

    Raises:
        ConfigError: A setting is wrong.
        ArchiveError: The archive cannot be opened or created.
    """
    global _global  # noqa: PLW0603 - the one global, as in logging and OpenTelemetry
    with _lock:
        # Where this fails, the old one stays in place: records must not go to a default archive instead.
        replaced: Any = {**settings, **_overrides}
        new = AuditProvider(**replaced)
        old = _global
        _global = new
        if old is not None:
            old.shutdown()
        return new


def configure_late(settings: Callable[[], Settings]) -> None:
    """Let the global provider be made with these settings where it is used before anything configured it.

    For frameworks, which know the settings long before a process knows whether it will record: nothing is opened here,
    and `configure` goes on to win. The function is called in `current_provider`, which raises what it raises.

    Args:
        settings: Returns them.
    """
    global _defaults  # noqa: PLW0603 - see `configure`
    _defaults = settings


def global_provider() -> AuditProvider | None:
    """Return the global provider; None where nothing was configured or recorded yet."""
    return _global


@contextmanager
def redirected(**overrides: Unpack[Settings]) -> Iterator[AuditProvider]:
    """Let the global provider record elsewhere for a while, for tests.

    A new one takes its place, with its settings, some of them replaced; they are replaced, too, for providers that
    `configure` makes meanwhile. The provider that was there neither records nor is shut down, and is back at the end.

    Args:
        **overrides: The settings to replace.

    Raises:
        ConfigError: A setting is wrong.
        ArchiveError: The archive cannot be opened or created.
    """
    global _global, _overrides  # noqa: PLW0603 - see `configure`
    with _lock:
        old, old_overrides = _global, _overrides
        replaced: Any = {**(_defaults() if old is None else old.settings), **overrides}
        _global = AuditProvider(**replaced)
        _overrides = overrides
    try:
        yield _global
    finally:
        with _lock:
            last, _global, _overrides = _global, old, old_overrides
        if last is not None:
            last.shutdown()


def current_provider() -> AuditProvider:
    """Return the global provider; where nothing was configured yet, make it, as the first event would.

    Raises:
        ConfigError: A setting is wrong.
        ArchiveError: The archive cannot be opened or created.
    """
    global _global  # noqa: PLW0603 - see `configure`
    if _global is not None:
        return _global
    with _lock:
        # Of several threads that record a first event, one configures.
        if _global is None:
            _global = AuditProvider(**_defaults())
            origin = "from the environment" if _defaults is Settings else "late"
            _log.info("otel_audit configured itself %s: records go to %s", origin, _global.config.archive)
        return _global


def get_logger(source: str, host: str | None = None, **bound: Any) -> AuditLogger:
    """Return a logger that records through the global provider.

    It may be made before `configure` is called; where that never happens, the first event configures from what
    `configure_late` was given, else from the environment.

    Args:
        source: The component that records, e.g. ``billing.api``.
        host: The tenant or virtual host that events belong to; default: ``OTEL_AUDIT_HOST``, or bound later.
        **bound: Further bound values, see `AuditLogger.bind`.

    Raises:
        InvalidRecord: The source is empty or no str.
    """
    return _logger(current_provider, source, host, bound)


def _logger(recorder: Any, source: str, host: str | None, bound: dict[str, Any]) -> AuditLogger:
    if not source or not isinstance(source, str):
        raise InvalidRecord(f"source={source!r} cannot be recorded", "name the recording component, e.g. 'billing.api'")
    context = {"source": source} if host is None else {"source": source, "host": host}
    return AuditLogger(recorder, (), context).bind(**bound)
