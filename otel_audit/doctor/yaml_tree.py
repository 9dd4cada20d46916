"""Reads a Collector's configuration: YAML with the line of each value, several files merged as the Collector does it.

Nothing is constructed from tags, aliases are shared and not copied, and what stands in ``${…}`` is not looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_audit.errors import ConfigError

if TYPE_CHECKING:
    import yaml

__all__ = ["Node", "Reference", "read_configuration"]

_LARGEST: Final = 262_144
"""Bytes of a file: those that people write have a tenth of it, and a hostile one of that size takes six seconds."""
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_MERGE: Final = "<<"


@dataclass(frozen=True, slots=True)
class Reference:
    """A value that is not known here, as ``${env:NAME}``.

    Args:
        text: How it is written.
    """

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value of the configuration, and where it stands.

    Args:
        value: A mapping or list of nodes, a text, a boolean, None, or a `Reference`. Numbers are texts.
        file: The file.
        line: The line, from 1; in a mapping that of the key.
    """

    value: Any
    file: str
    line: int

    @property
    def mapping(self) -> Mapping[str, Node]:
        """The values by their keys; empty where this is no mapping."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> Sequence[Node]:
        """The values of a list; empty where this is none."""
        return self.value if isinstance(self.value, list) else ()

    @property
    def text(self) -> str:
        """The value as it is written; empty for mappings, lists and null."""
        if isinstance(self.value, Reference):
            return self.value.text
        if isinstance(self.value, bool):
            return str(self.value).lower()
        return self.value if isinstance(self.value, str) else ""

    @property
    def unknown(self) -> bool:
        """Whether the value comes from elsewhere."""
        return isinstance(self.value, Reference)

    def at(self, *path: str) -> Node | None:
        """Return what stands below some keys; None where one of them is missing."""
        node: Node | None = self
        for key in path:
            node = None if node is None else node.mapping.get(key)
        return node

    def nearest(self, *path: str) -> Node:
        """Return what stands below as many of the keys as there are: where a missing one is to be written."""
        node = self
        for key in path:
            if key not in node.mapping:
                break
            node = node.mapping[key]
        return node


def read_configuration(files: Sequence[str]) -> Node:
    """Return a Collector's configuration.

    Args:
        files: Paths; of values that several files have, the last one's counts, save that mappings are joined.

    Raises:
        ConfigError: A file cannot be read, is no YAML, or the Collector would not read it either.
    """
    root = Node({}, files[0], 1)
    for file in files:
        try:
            above = _read(file)
            root = _Merger().merge(root, above) if above.mapping else root
        except RecursionError:
            raise ConfigError(f"{file} is nested too deeply", "give a configuration of the Collector") from None
    return root


def _read(file: str) -> Node:
    try:
        import yaml  # an extra
    except ImportError as error:
        raise ConfigError(
            "reading a Collector's configuration needs the extra `doctor`", "pip install 'otel-audit[doctor]'"
        ) from error
    text = _text(file)
    try:
        # Not the loader in C: it has no limit to its depth but the stack. As the Collector, the first document alone.
        composed = next(yaml.compose_all(text, yaml.SafeLoader), None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = file if mark is None else f"{file}:{mark.line + 1}"
        raise ConfigError(f"{place} is no YAML: {error.problem}", "correct it there") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is no YAML: {' '.join(str(error).split())}", "correct it there") from None
    root = Node({}, file, 1) if composed is None else _Converter(file).convert(composed, 1)
    if root.value is None:
        root = Node({}, file, 1)
    if not isinstance(root.value, dict):
        raise ConfigError(f"{file} holds no settings", "give a configuration of the Collector")
    return root


def _text(file: str) -> str:
    try:
        path = Path(file)
        if not path.is_file():
            # A pipe would be waited for.
            reason = "it is no regular file" if path.exists() else "there is no such file"
            raise ConfigError(f"{file} cannot be read: {reason}", "give the path of a Collector's configuration")
        with path.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ConfigError(f"{file} is larger than {_LARGEST >> 10} KiB", "give a Collector's configuration")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is no UTF-8", "give a Collector's configuration") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{file} cannot be read: {reason}", "check the path and its permissions") from None


class _Converter:
    """Makes our nodes of PyYAML's; each of those once, however many aliases there are."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()

    def convert(self, node: yaml.Node, line: int) -> Node:
        if id(node) not in self._made:
            if id(node) in self._open:
                raise ConfigError(f"{self._file}:{_line(node)} holds itself", "remove the alias")
            self._open.add(id(node))
            self._made[id(node)] = self._value(node)
        return Node(self._made[id(node)], self._file, line)

    def _value(self, node: Any) -> Any:
        match node.id:
            case "scalar":
                return _scalar(node)
            case "sequence":
                return [self.convert(item, _line(item)) for item in node.value]
            case _:
                return dict(self._pairs(node))

    def _pairs(self, node: Any) -> Iterator[tuple[str, Node]]:
        found: dict[str, Node] = {}
        for key, value in node.value:
            if key.id != "scalar":
                raise ConfigError(f"{self._file}:{_line(key)} has a key that is no text", "correct it there")
            if key.value in found:
                raise ConfigError(
                    f"{self._file}:{_line(key)} has the key {key.value!r} again", "the Collector refuses it: remove one"
                )
            found[key.value] = self.convert(value, _line(key))
        merged = found.pop(_MERGE, None)
        for source in () if merged is None else reversed(merged.items or (merged,)):
            yield from source.mapping.items()
        yield from found.items()


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def _scalar(node: Any) -> Any:
    text: str = node.value
    if re.search(r"(?<!\$)(?:\$\$)*\$\{", text):
        return Reference(text)
    # As Go's YAML takes them: yes, no, on and off are texts.
    if node.style is None:
        if text in _NULL:
            return None
        return _BOOLEANS.get(text, text)
    return text


class _Merger:
    """Joins mappings, each pair once, however many aliases there are."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], dict[str, Node]] = {}

    def merge(self, below: Node, above: Node) -> Node:
        if not isinstance(below.value, dict) or not isinstance(above.value, dict):
            return above  # also null, which takes away what was there
        pair = id(below.value), id(above.value)
        if pair not in self._made:
            self._made[pair] = {
                **below.value,
                **{
                    key: self.merge(below.value[key], value) if key in below.value else value
                    for key, value in above.value.items()
                },
            }
        return Node(self._made[pair], above.file, above.line)
