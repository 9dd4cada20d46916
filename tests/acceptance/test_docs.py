"""The documentation is true: its Python runs, and its commands print what it says they print.

Every block of README.md and docs/*.md is run by `tests.documentation`, which says there what it reads and how.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation import DocumentationError, Step, matches, read_blocks, read_steps, run_document

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documentation_is_true(path: Path, tmp_path: Path) -> None:
    """Every block of the document runs, and prints what the document says."""
    run_document(path.name, path.read_text(encoding="utf-8"), tmp_path / "work")


def anchors(document: str) -> set[str]:
    headings = re.findall(
        r"^#+ +(.+?) *$", re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: *(\S+)", text, re.MULTILINE)
    dead = []
    for link in (first or second for first, second in links):
        place, _, anchor = link.partition("#")
        target = path.parent / place if place else path
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


def test_dead_links_are_found(tmp_path: Path) -> None:
    """The search that the next test relies on finds files and headings that are not there, and no others."""
    (tmp_path / "other.md").write_text("# A `b` c\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "## Here\n[a](other.md) [b](other.md#a-b-c) [c](#here) [d](https://x.example/y)\n"
        "[e](none.md) [f](other.md#none) [g](#none)\n\n[h]: none.txt\n\n```\n[i](code.md)\n```\n",
        encoding="utf-8",
    )
    assert dead_links(page) == ["none.md", "other.md#none", "#none", "none.txt"]


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Each relative link of the documentation leads to a file, and to a heading, that is there."""
    assert dead_links(path) == []


def test_readme_shows_python() -> None:
    """README.md holds Python that the test above has run."""
    blocks = read_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    assert any(block.language == "python" for block in blocks)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("", ""),
        ("", "\n\n"),
        ("recorded 3", "recorded 3  \n"),
        ("recorded ... in ... ms", "recorded 3 in 0.4 ms\n"),
        ("first\n...\nlast", "first\nlast\n"),
        ("first\n...\nlast", "first\nsecond\nthird\nlast\n"),
        ("...", "anything\nat all\n"),
        ("...", ""),
        ("a[0] (x|y)* $5.00", "a[0] (x|y)* $5.00\n"),
        ("2026-01-02T03:04:05.678901234Z alice", "2031-11-12T13:14:15.161718192Z alice\n"),
        ("2026-01-02 03:04:05 alice", "2031-11-12 13:14:15 alice\n"),
        ("id 01932f4c-7b1e-7c3a-9d2e-0123456789ab", "id 01932f4c-aaaa-7c3a-9d2e-ffffffffffff\n"),
        ("trace 0af7651916cd43dd8448eb211c80319c", "trace 11111111111111111111111111111111\n"),
    ],
)
def test_matching_output(expected: str, actual: str) -> None:
    """Dots stand for any text of a line or for whole lines, and what differs from run to run matches its form."""
    assert matches(expected, actual)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("", "surprise\n"),
        ("recorded 3", ""),
        ("recorded 3", "recorded 4\n"),
        ("recorded 3", "recorded 3\nand more\n"),
        ("recorded ... in", "recorded 3\nlines in\n"),
        ("first\n...\nlast", "first\nlast\nmore\n"),
        ("one\n\ntwo", "one\ntwo\n"),
        ("a.c", "abc\n"),
        ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05Z\n"),
        ("2026-01-02", "02.01.2026\n"),
        ("id 01932f4c-7b1e-7c3a-9d2e-0123456789ab", "id none\n"),
        ("trace 0af7651916cd43dd8448eb211c80319c", "trace 0af7651916cd43dd\n"),
        ("port 4318", "port 4317\n"),
    ],
)
def test_other_output_does_not_match(expected: str, actual: str) -> None:
    """Any other difference counts: text, lines too many or too few, times and ids of another form."""
    assert not matches(expected, actual)


def test_blocks_are_found() -> None:
    """Blocks are read in order, out of lists too, without other languages and without those that are not to run."""
    document = (
        "# Title\n\n```python\na = 1\n```\n\n1. A step:\n\n   ```console\n   $ ls\n     x\n   ```\n\n"
        "```ini\nkey = value\n```\n\n<!-- not run: needs a network -->\n\n```python\nraise SystemExit\n```\n\n"
        '~~~~python title="nested"\n~~~\n```\n~~~~\n'
    )
    blocks = [(block.language, block.text, block.line) for block in read_blocks(document)]
    assert blocks == [("python", "a = 1\n", 4), ("console", "$ ls\n  x\n", 10), ("python", "~~~\n```\n", 25)]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("```python\na = 1\n", "line 1: the block is not closed"),
        ("text\n```bash\nls\n```\n", "line 2: say `console`"),
        ("<!-- not run: -->\n```py\na = 1\n```\n", "line 2: say `python`"),
    ],
)
def test_unclear_blocks_are_refused(document: str, complaint: str) -> None:
    """A block left open, one that only looks as if it were run, and a missing reason are errors."""
    with pytest.raises(DocumentationError, match=re.escape(complaint)):
        read_blocks(document)


def test_commands_are_read() -> None:
    """A console block gives its commands with their continuations, their output and the status they exit with."""
    text = "$ echo one \\\n  two\none two\n\n$ cat <<END\n> three\n> END\nthree\n$ false  # exit 1\n"
    assert read_steps(text) == [
        Step("echo one \\\n  two", "one two\n", 0),
        Step("cat <<END\nthree\nEND", "three", 0),
        Step("false  # exit 1", "", 1),
    ]


def test_output_without_a_command_is_refused() -> None:
    """A console block that does not begin with a command is an error."""
    with pytest.raises(DocumentationError, match="begins with a command"):
        read_steps("lost output\n")


TRUE_DOCUMENT = """
```python
import asyncio, os
from pathlib import Path
Path("made").write_text("by Python")
print("is free to print")
```

```console
$ cat made
by Python
$ export PLACE=below
$ mkdir "$PLACE" && cd "$PLACE"
$ echo "$PLACE ${OTEL_AUDIT_ARCHIVE-unset}" && basename "$PWD"
below unset
below
$ python -c 'import sys, pytest; print("early"); sys.exit("late")'  # exit 1
early
late
```

```python
await asyncio.sleep(0)
def names() -> list[str]:
    return sorted(os.listdir())
assert names() == ["below", "made"]
assert "OTEL_AUDIT_ARCHIVE" not in os.environ
```
"""


def test_a_true_document_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python shares a namespace and may await, commands share a shell, both a directory, and no settings leak in."""
    monkeypatch.setenv("OTEL_AUDIT_ARCHIVE", "/elsewhere/audit.db")
    run_document("sample.md", TRUE_DOCUMENT, tmp_path / "work")


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("\n```python\na = 1\nassert a == 2\n```\n", 'File "sample.md", line 4'),
        ("```python\nimport os; os._exit(0)\n```\n", "the process ended"),
        ("```python\nimport atexit, os; atexit.register(os._exit, 3)\n```\n", "Python exited with 3"),
        ("```console\n$ echo one\ntwo\n```\n", "documented:\ntwo\n\nprinted:\none"),
        ("```console\n$ echo one; exit 2\none\n```\n", "exit 2, documented 0"),
        ("```console\n$ true  # exit 1\n```\n", "exit 0, documented 1"),
    ],
)
def test_an_untrue_document_fails(document: str, complaint: str, tmp_path: Path) -> None:
    """Code that raises, a process that dies or ends badly, other output and another exit status are all reported."""
    with pytest.raises(DocumentationError, match=re.escape(complaint)):
        run_document("sample.md", document, tmp_path / "work")
