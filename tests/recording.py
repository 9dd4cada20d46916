"""Recording without a disk, and values that an attacker would send: for the tests of the recording side."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import strategies as st

from otel_audit.archive.writer import Writer
from otel_audit.catalog import Catalog, Durability, OnFailure
from otel_audit.errors import AuditError
from otel_audit.logger import AuditLogger
from otel_audit.otlp import Profile
from otel_audit.record import AuditRecord, Receipt, Session

__all__ = ["HOSTILE_TEXTS", "Tape", "Unprintable", "bound_logger", "custom_groups", "sessions", "texts", "values"]

HOSTILE_TEXTS = (
    "", "\x00", "a\x00b", "\ud800", "\udfff\ud83d", "pre\udc80post", "\u202egpj.exe", "\u2066x\u2069", "\x1b[2J\x07",
    "\r\n", "\x85", "\u2028", "\u061c", "\ufeff", "😀", "𐀀" * 3, "x" * 16_383, "x" * 16_384, "x" * 16_385, "é" * 8_192,
    "é" * 8_193, "x" + "é" * 8_192, "😀" * 4_096, "😀" * 4_097, "\x00" * 16_384, "\ud800" * 3_000, "y" * 200_000,
    "%s {0} ${x}", "'; DROP--",
)  # fmt: skip


class Unprintable:
    """An object that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class _Chameleon:
    """Answers any attribute with itself, like a mock."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self) -> _Chameleon:
        return self


class _Shouting(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def encode(self, *_: object, **__: object) -> bytes:
        raise RuntimeError("no bytes")


class _Colour(str, enum.Enum):  # noqa: UP042 - what str() says of it differs from its text, as with older enums
    RED = "red"


class _Number(int):
    def __int__(self) -> int:
        raise RuntimeError("no number")


class _Broken(dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")


def _cyclic_list() -> list[Any]:
    items: list[Any] = [1]
    items.append(items)
    return items


def _cyclic_map() -> dict[str, Any]:
    items: dict[str, Any] = {"a": 1}
    items["self"] = items
    return items


def _one_of_these(items: Sequence[Any]) -> st.SearchStrategy[Any]:
    # By number, as the texts of strategies hold their elements, which are long.
    return st.integers(0, len(items) - 1).map(lambda n: items[n])


def texts() -> st.SearchStrategy[str]:
    """Return texts of any characters, lone surrogates and NUL among them, and the worst of them more often."""
    return _one_of_these(HOSTILE_TEXTS) | st.text(st.characters(exclude_categories=()), max_size=40)


def _scalars() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        _one_of_these([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**4_000, -(10**4_000)]),
        st.floats(),
        st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 5e-324]),
        st.binary(max_size=40),
        _one_of_these([b"", b"\0", b"x" * 16_384, b"x" * 16_385, bytearray(b"abc"), memoryview(b"abc")]),
        texts(),
        st.sampled_from([decimal.Decimal("1.10"), uuid.UUID(int=5), dt.date(2026, 1, 31), dt.timedelta(1), object]),
        st.builds(Unprintable),
        st.builds(_Chameleon),
        st.sampled_from([_Shouting("loud"), _Shouting("\ud800"), _Colour.RED, _Number(5), _Number(2**70)]),
        st.builds(_Broken, st.just({"a": 1})),
        st.builds(_cyclic_list),
        st.builds(_cyclic_map),
        st.builds(lambda: [0] * 10_000),
        st.builds(lambda: {f"k{n}": n for n in range(10_000)}),
        st.builds(lambda: ["z" * 16_384] * 40),
    )


def _keys() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.sampled_from(
            ["a", "b", "a_b", "a b", "a.b", "a\x00b", "_", "", "x" * 128, "x" * 129, "x" * 200, "\ud800", "ä"]
        ),
        st.text(max_size=6),
        st.sampled_from([1, "1", None, "None", 1.5, True, b"a", ("a", 1), _Shouting("a")]),
        st.builds(Unprintable),
    )


def values() -> st.SearchStrategy[Any]:
    """Return values that an application could pass on for a custom field, also those that OTLP cannot hold."""
    return st.recursive(
        _scalars(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.tuples(inner, inner),
            st.dictionaries(_keys(), inner, max_size=4),
            st.frozensets(st.integers() | st.text(max_size=5), max_size=4),
        ),
        max_leaves=8,
    )


def custom_groups() -> st.SearchStrategy[dict[str, dict[Any, Any]]]:
    """Return custom groups with hostile field names and values; the groups' names are the programmer's."""
    group = st.dictionaries(_keys(), values(), max_size=5) | st.builds(_Broken, st.just({"a": 1}))
    return st.dictionaries(st.sampled_from(["g", "reason", "x-1_Y", "context"]), group, max_size=3)


def sessions() -> st.SearchStrategy[Session | None]:
    """Return sessions, and none."""
    text = st.none() | texts()
    address = st.one_of(
        text,
        st.ip_addresses(),
        st.ip_addresses().map(str),
        st.sampled_from(["fe80::1%eth0", "::ffff:1.2.3.4", "a.example", "1.2.3"]),
    )
    return st.none() | st.builds(Session, text, text, address, text)


class _MemoryWriter:
    closed = False

    def __init__(self) -> None:
        self.written: list[tuple[AuditRecord, bytes]] = []

    def write(self, record: AuditRecord, otlp: bytes, timeout: float) -> Receipt:
        self.written.append((record, otlp))
        return Receipt(record.record_id, len(self.written), "00" * 32, 1)

    async def write_async(self, record: AuditRecord, otlp: bytes, timeout: float) -> Receipt:  # noqa: ASYNC109
        receipt = self.write(record, otlp, timeout)
        await asyncio.sleep(0)  # the real one waits, too
        return receipt

    def enqueue(self, record: AuditRecord, otlp: bytes, timeout: float) -> None:
        self.written.append((record, otlp))


@dataclass
class Tape:
    """What a logger records through, with a list in place of the archive.

    Args:
        profile: As in `otel_audit.configure`.
        durability: Likewise.
        on_failure: Likewise.
        block_timeout: Likewise.
        host: Likewise.
        processors: Likewise.
        catalog: The event types.
    """

    profile: Profile = "logs"
    durability: Durability = "commit"
    on_failure: OnFailure = "raise"
    block_timeout: float = 5.0
    host: str | None = None
    processors: tuple[Any, ...] = ()
    catalog: Catalog = field(default_factory=Catalog)
    let_go: list[tuple[AuditRecord, AuditError]] = field(default_factory=list)
    endings: list[Callable[[], None]] = field(default_factory=list)
    ending: bool = False
    writer: Writer = field(default_factory=lambda: cast("Writer", _MemoryWriter()))

    def dropped(self, record: AuditRecord, error: AuditError) -> None:
        """Note what the failure policy let go."""
        self.let_go.append((record, error))

    def before_shutdown(self, recorder: Any, function: Callable[[], None]) -> bool:
        """Note what is to be called before a shutdown."""
        if function not in self.endings:
            self.endings.append(function)
        return not self.ending

    @property
    def written(self) -> list[tuple[AuditRecord, bytes]]:
        """Records and their bytes, in order."""
        return cast("_MemoryWriter", self.writer).written

    @property
    def record(self) -> AuditRecord:
        """The last record."""
        return self.written[-1][0]

    @property
    def otlp(self) -> bytes:
        """The last record's bytes."""
        return self.written[-1][1]


def bound_logger(tape: Tape, source: str = "mod_auth", **bound: Any) -> AuditLogger:
    """Return a logger that records on a tape, for host ``example.com`` unless another is given."""
    return AuditLogger(lambda: tape, (), {"source": source, "host": "example.com", **bound})
