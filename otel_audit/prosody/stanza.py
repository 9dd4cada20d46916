"""The stanzas that Prosody stores: as Lua tables in files, as XML in SQL. Both give the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Final, NamedTuple
from xml.parsers import expat

from otel_audit.prosody.luadata import Table

__all__ = ["Element", "element_of_table", "element_of_xml"]

_DEEPEST: Final = 100
_XML_PREFIX: Final = "http://www.w3.org/XML/1998/namespace "


class Element(NamedTuple):
    """An XML element.

    Args:
        name: Its name without a prefix.
        namespace: Its namespace, from itself or its parent; may be empty.
        attributes: Its attributes; the name of one with a namespace is ``namespace|name``.
        children: Elements and texts, no two texts in a row.
    """

    name: str
    namespace: str
    attributes: Mapping[str, str]
    children: tuple[Element | str, ...]

    def text(self) -> str:
        """Return its own text, without that of its children."""
        return "".join(child for child in self.children if isinstance(child, str))

    def elements(self) -> tuple[Element, ...]:
        """Return its children that are elements."""
        return tuple(child for child in self.children if isinstance(child, Element))

    def child(self, name: str) -> Element | None:
        """Return its first child of a name."""
        return next((child for child in self.elements() if child.name == name), None)

    def canonical(self) -> list[Any]:
        """Return it as plain lists, the same wherever it was stored."""
        inner = [child if isinstance(child, str) else child.canonical() for child in self.children]
        return [self.name, self.namespace, sorted(self.attributes.items()), inner]


def element_of_table(table: Table, namespace: str = "", depth: int = 0) -> Element:
    """Return the stanza that a table of Prosody's internal storage holds.

    Args:
        table: Its name under ``name``, its attributes under ``attr``, its children under 1, 2, …
        namespace: The parent's.
        depth: How deep it stands.

    Raises:
        ValueError: It holds none.
    """
    name, attributes = table.get("name"), table.get("attr")
    if not isinstance(name, str) or not isinstance(attributes, dict):
        raise ValueError("it is no stanza: it has no name, or no attributes")  # noqa: TRY004 - data, no argument
    if depth >= _DEEPEST:
        raise ValueError("it is nested too deeply")
    kept = {
        str(key): value if isinstance(value, str) else str(value)
        for key, value in attributes.items()
        if key != "xmlns" and not isinstance(value, dict)
    }
    own = attributes.get("xmlns")
    namespace = own if isinstance(own, str) else namespace
    children: list[Element | str] = []
    index = 1
    while index in table:
        child = table[index]
        if isinstance(child, dict):
            children.append(element_of_table(child, namespace, depth + 1))
        elif isinstance(child, str):
            children.append(child)
        index += 1
    return Element(name, namespace, kept, _joined(children))


def element_of_xml(text: bytes) -> Element:
    """Return the stanza that a text of Prosody's SQL storage holds.

    Args:
        text: The XML; declarations of document types, with which a parser can be exhausted, are refused.

    Raises:
        ValueError: It holds none.
    """
    parser = expat.ParserCreate("utf-8", " ")
    parser.buffer_text = True
    builder = _Builder()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = builder.refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is no XML: {error}") from None
    return builder.root()


class _Builder:
    def __init__(self) -> None:
        self._open: list[tuple[str, str, dict[str, str], list[Element | str]]] = [("", "", {}, [])]

    def start(self, qualified: str, attributes: dict[str, str]) -> None:
        if len(self._open) > _DEEPEST:
            raise ValueError("it is nested too deeply")
        namespace, _, name = qualified.rpartition(" ")
        kept = {
            (f"xml:{key.removeprefix(_XML_PREFIX)}" if key.startswith(_XML_PREFIX) else key.replace(" ", "|")): value
            for key, value in attributes.items()
        }
        self._open.append((name, namespace, kept, []))

    def end(self, _qualified: str) -> None:
        name, namespace, attributes, children = self._open.pop()
        self._open[-1][3].append(Element(name, namespace, attributes, _joined(children)))

    def text(self, text: str) -> None:
        self._open[-1][3].append(text)

    def refuse(self, *_: object) -> None:
        raise ValueError("it declares a document type")

    def root(self) -> Element:
        (root,) = self._open[0][3]
        if isinstance(root, str):
            raise TypeError("expat lets no text stand outside of the root")
        return root


def _joined(children: Iterable[Element | str]) -> tuple[Element | str, ...]:
    """Return children with texts that follow each other made one; empty ones are left out."""
    joined: list[Element | str] = []
    for is_text, group in groupby(children, lambda child: isinstance(child, str)):
        if not is_text:
            joined += group
        elif text := "".join(map(str, group)):
            joined.append(text)
    return tuple(joined)
