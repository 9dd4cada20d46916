"""A Collector's configuration is read with the line of each value, and a hostile file does no harm."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from otel_audit.doctor.yaml_tree import Reference, read_configuration
from otel_audit.errors import ConfigError


def write(folder: Path, text: str, name: str = "collector.yaml") -> str:
    """Write a file and return its path."""
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_values_have_their_lines(tmp_path: Path) -> None:
    """A value in a mapping has the line of its key, an item of a list its own; text, boolean and null differ."""
    root = read_configuration([write(tmp_path, "a:\n  b:\n    - x\n    - y\nc: true\nd: yes\ne:\nf: 'true'\ng: 12\n")])
    items = root.nearest("a", "b").items
    assert [(item.text, item.line) for item in items] == [("x", 3), ("y", 4)]
    assert root.nearest("a", "b").line == 2
    values = {name: (root.nearest(name).value, root.nearest(name).line) for name in "cdefg"}
    # As the Collector's own reader: `yes` is a text.
    assert values == {"c": (True, 5), "d": ("yes", 6), "e": (None, 7), "f": ("true", 8), "g": ("12", 9)}
    assert root.at("a", "z") is None
    assert root.nearest("a", "z").line == 1


def test_references_are_opaque(tmp_path: Path) -> None:
    """What holds ``${…}`` is unknown, however it is written; an escaped one is a text."""
    root = read_configuration([write(tmp_path, "a: ${env:X}\nb: 'x-${file:y}-z'\nc: $${env:X}\nd: $$${env:X}\n")])
    assert [root.nearest(name).unknown for name in "abcd"] == [True, True, False, True]
    assert root.nearest("a").value == Reference("${env:X}")
    assert root.nearest("a").text == "${env:X}"


def test_aliases_and_merge_keys(tmp_path: Path) -> None:
    """An alias stands for what it names, and what a merge key brings is weaker than what stands there."""
    text = "a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  y: 3\nd:\n  <<: [{x: 7}, *a]\n"
    root = read_configuration([write(tmp_path, text)])
    assert root.nearest("b", "x").text == "1"
    assert {key: node.text for key, node in root.nearest("c").mapping.items()} == {"x": "1", "y": "3"}
    assert {key: node.text for key, node in root.nearest("d").mapping.items()} == {"x": "7", "y": "2"}


def test_only_the_first_document_counts(tmp_path: Path) -> None:
    """As for the Collector, what follows the first document is not there."""
    root = read_configuration([write(tmp_path, "a: 1\n---\na: 2\n")])
    assert root.nearest("a").text == "1"


def test_files_are_joined(tmp_path: Path) -> None:
    """Mappings are joined, everything else is replaced, also by null; each value knows its file."""
    one = write(tmp_path, "a: {b: 1, c: [1, 2], d: {e: 1}}\n", "one.yaml")
    two = write(tmp_path, "a:\n  c: [3]\n  d:\n", "two.yaml")
    root = read_configuration([one, two])
    assert [item.text for item in root.nearest("a", "c").items] == ["3"]
    assert root.nearest("a", "d").value is None
    assert (root.nearest("a", "b").file, root.nearest("a", "c").file) == (one, two)
    assert read_configuration([one, write(tmp_path, "# nothing\n", "three.yaml")]).nearest("a", "b").text == "1"


def bomb(levels: int, form: str) -> str:
    """Return YAML of which each level holds the one before ten times."""
    lines = [form.format(name="a0", items=", ".join(["k: v"] if "{{" in form else ["v"]))]
    for level in range(1, levels):
        names = [f"*a{level - 1}"] * 10
        items = [f"k{number}: {name}" for number, name in enumerate(names)] if "{{" in form else names
        lines.append(form.format(name=f"a{level}", items=", ".join(items)))
    return "".join(lines)


@pytest.mark.parametrize("form", ["{name}: &{name} [{items}]\n", "{name}: &{name} {{{items}}}\n"])
def test_bombs_of_aliases_cost_nothing(tmp_path: Path, form: str) -> None:
    """A hundred levels of aliases, each ten times the one before, are read and joined with themselves."""
    file, other = write(tmp_path, bomb(100, form)), write(tmp_path, bomb(100, form), "other.yaml")
    assert len(read_configuration([file]).nearest("a99").value) == 10
    assert len(read_configuration([file, other]).nearest("a99").value) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]\n", ":1 holds itself"),
        ("x: 1\na: &a\n  b: {c: *a}\n", ":2 holds itself"),
        ("[" * 100_000, "is nested too deeply"),
        ("- " * 100_000 + "x", "is nested too deeply"),
        ("a: [1\nb: 2\n", "is no YAML"),
        ("a: *nobody\n", ":1 is no YAML: found undefined alias"),
        ("a: 1\nb: 2\na: 3\n", ":3 has the key 'a' again"),
        ("? [1, 2]\n: 3\n", ":1 has a key that is no text"),
        ("a: \x07\n", "is no YAML"),
        ("just text\n", "holds no settings"),
        ("- a\n- b\n", "holds no settings"),
        ("x: " + "a" * 300_000, "is larger than 256 KiB"),
    ],
)
def test_what_the_collector_would_refuse(tmp_path: Path, text: str, message: str) -> None:
    """A file that is no configuration is an error that names the file and, where there is one, the line."""
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_configuration([file])
    assert caught.value.message.startswith(file)
    assert message in caught.value.message
    assert caught.value.hint


def test_tags_run_nothing(tmp_path: Path) -> None:
    """A tag that asks for a Python object is a text like any other."""
    mark = tmp_path / "ran"
    text = f"a: !!python/object/apply:os.system ['touch {mark}']\nb: !!binary 'x'\nc: !unknown {{d: 1}}\n"
    root = read_configuration([write(tmp_path, text)])
    assert not mark.exists()
    assert root.nearest("b").text == "x"
    assert root.nearest("c", "d").text == "1"


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "bytes", "nul"])
def test_files_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    """What is no file, or no text, is an error with the path; a pipe is not waited for."""
    file = tmp_path / "file"
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "bytes":
        file.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError) as caught:
        read_configuration([f"{file}\0" if kind == "nul" else str(file)])
    assert str(file) in caught.value.message


def test_a_mark_of_the_byte_order_is_no_part_of_it(tmp_path: Path) -> None:
    """A file from an editor that begins with a byte order mark is read."""
    assert read_configuration([write(tmp_path, "\ufeffa: 1\n")]).nearest("a").text == "1"


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyYAML the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"extra `doctor`.*otel-audit\[doctor\]"):
        read_configuration([write(tmp_path, "a: 1\n")])
