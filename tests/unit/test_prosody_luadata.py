"""Lua data is read as Prosody writes it, and never run; whatever else stands there, nothing is lost or raised."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.prosody.luadata import Item, read_items

ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 39: "\\'", 92: "\\\\"}


def lua(value: Any) -> str:
    """Return a value as Prosody's util.serialization writes it."""
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        return '"' + "".join(ESCAPES.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03d}") for b in data) + '"'
    if isinstance(value, dict):
        return "{\n" + "".join(f"\t[{lua(key)}] = {lua(inner)};\n" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "{\n" + "".join(f"\t{lua(inner)};\n" for inner in value) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if math.isinf(value):
            return "(1/0)" if value > 0 else "(-1/0)"
        return f"{value:.18g}"
    return str(value)


def item(value: Any) -> bytes:
    return f"item({lua(value)});\n".encode()


def read(data: bytes) -> list[Item]:
    return list(read_items(io.BytesIO(data)))


def plain(value: Any) -> Any:
    """Return a value with lists as the tables that they are in Lua."""
    if isinstance(value, list):
        return {number: plain(inner) for number, inner in enumerate(value, 1)}
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value


TEXTS = st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape"))
SCALARS = TEXTS | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.booleans()
KEYS = TEXTS.filter(bool)
TABLES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
    ),
    max_size=6,
)


@given(st.lists(TABLES, max_size=5))
def test_what_prosody_writes_is_read(tables: list[dict[str, Any]]) -> None:
    """Every table comes back as it was written, with the line it begins at: bytes, numbers and nesting included."""
    data = b"".join(map(item, tables))
    found = read(data)
    assert [entry.table for entry in found] == [plain(table) for table in tables]
    assert [entry.fault for entry in found] == [""] * len(tables)
    for entry in found:
        assert data.splitlines(keepends=True)[entry.line - 1].startswith(b"item(")


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"item(", b"item({", b"});\n", b'"', b"\\", b"\n"])))
def test_anything_is_taken(parts: list[bytes]) -> None:
    """Whatever bytes a file holds, none raise, and all but white space stand in some item."""
    data = b"".join(parts)
    found = read(data)
    assert b"".join(b"".join(entry.raw.split()) for entry in found) == b"".join(data.split())
    assert all((entry.table is None) == bool(entry.fault) for entry in found)


GOOD = {"name": "x", "attr": {}}


@pytest.mark.parametrize(
    "text",
    [
        b"item(os.execute('x'));\n",
        b"item((function() while true do end end)());\n",
        b"item({[os.exit()]=1});\n",
        b"item({[[long]]});\n",
        b"item({'single'});\n",
        b"item({name='x'});\n",
        b"item({} .. {});\n",
        b"; os.exit();\n",
        b"item(7);\n",
        b'item("text");\n',
        b'item({"\\q"});\n',
        b'item({"\\300"});\n',
        b"item({1e});\n",
        b"item({--[[ ]]});\n",
        b"item({[{}]=1});\n",
        b"item(" + b"{" * 200 + b"}" * 200 + b");\n",
        b"item(" + b"{" * 100_000 + b"\n",
        b"item({" + b"9" * 5000 + b"});\n",
        b"item({1 2});\n",
        b"return {};\n",
        b"\x00\xff\n",
    ],
)
def test_what_is_no_data_is_a_fault(text: bytes) -> None:
    """Code, other notations, deep nesting and garbage are faults, with their text; the entries around them are read."""
    found = read(item(GOOD) + text + item(GOOD))
    assert [entry.table for entry in found] == [GOOD, None, GOOD]
    assert found[1].fault
    assert found[1].raw.strip() == text.strip()
    assert found[1].line == item(GOOD).count(b"\n") + 1


@pytest.mark.parametrize("length", [1, 6, 20, 40])
def test_an_entry_that_was_cut_off(length: int) -> None:
    """What a crash cut off does not hide the entry that follows it on the same line, nor at the end of the file."""
    whole = item({"name": "audit-event", "attr": {"type": "a", "source": "b"}})
    torn = whole[:length]
    found = read(whole + torn + whole)
    assert [entry.table is None for entry in found] == [False, True, False]
    assert found[1].raw == torn.strip()
    assert [entry.table is None for entry in read(whole + torn)] == [False, True]


def test_spaces_of_a_failed_append() -> None:
    """The spaces that Prosody leaves where an append failed are no entry, and none is lost behind them."""
    data = item(GOOD) + b" " * 300 + item(GOOD) + b"   \n" + b" " * 10
    assert [entry.table for entry in read(data)] == [GOOD, GOOD]


def test_a_text_that_looks_like_an_entry() -> None:
    """What a client sent cannot pass for an entry: neither within a whole one nor within one that was cut off."""
    forged = 'item({["name"]="audit-event";["attr"]={["type"]="forged"}});\nitem({});'
    whole = item({"name": "x", "attr": {"client": forged}})
    assert [entry.table for entry in read(whole)] == [{"name": "x", "attr": {"client": forged}}]
    tables = [entry.table for entry in read(whole[:-6] + item(GOOD)) if entry.table is not None]
    assert GOOD in tables
    assert all("attr" not in table or table == GOOD for table in tables)


def test_an_entry_without_end() -> None:
    """An entry of more than 4 MiB is read in parts, each a fault, and does not fill the memory."""
    found = read(b'item({"' + b"x" * (9 << 20) + b'"});\n' + item(GOOD))
    assert found[-1].table == GOOD
    assert all(entry.table is None and len(entry.raw) <= 4 << 20 for entry in found[:-1])
