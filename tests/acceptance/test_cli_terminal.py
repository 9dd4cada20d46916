"""On a terminal there are colours, symbols, links and bars; off it, and where nobody wants them, there are none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from otel_audit.record import Session
from tests.command_line import HOSTILE, TRACE, fill, on_terminal, otel_audit

URL = "https://traces.example/{trace_id}"
LINK = re.compile(r"\x1b\]8;[^;]*;(?P<url>[^\x1b]*)\x1b\\(?P<text>.*?)\x1b\]8;;\x1b\\")
# Colours, and the beginning and end of links: all that the command itself may send.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\]8;[^;]*;[^\x1b]*\x1b\\")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal") / "audit.db"
    events = [{"user": text, "message": text, "session": Session(text, text, text, text)} for text in HOSTILE.values()]
    fill(path, [*events, {"type": "x"}, {"type": "user.login.failure", "user": "alice", "trace": TRACE}])
    return path


def test_terminals_get_colours_and_symbols(archive: Path) -> None:
    """Outcomes have a sign and a colour beside their word."""
    text = on_terminal("show", "--archive", archive, "-n", "3")
    assert "\x1b[32m✓ success\x1b[0m" in text
    assert "\x1b[31m✗ failure\x1b[0m" in text
    assert "\x1b[33m? unknown\x1b[0m" in text


def test_no_color_is_heeded(archive: Path) -> None:
    """With NO_COLOR nothing has a colour, and the signs stay."""
    text = on_terminal("show", "--archive", archive, "-n", "3", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text)
    assert "✗ failure" in text


def test_dumb_terminals_get_text(archive: Path) -> None:
    """A terminal that knows no escape sequences gets none."""
    text = on_terminal("show", "--archive", archive, "-n", "3", TERM="dumb")
    assert "\x1b" not in text
    assert "✗ failure" in text


def test_terminals_without_unicode_get_words(archive: Path) -> None:
    """Where the signs cannot be written there are none."""
    text = on_terminal("show", "--archive", archive, "-n", "3", PYTHONIOENCODING="ascii")
    assert text.isascii()
    assert "failure" in text


def test_pipes_get_neither(archive: Path) -> None:
    """Off a terminal there is plain text, whatever the terminal would be."""
    text = otel_audit("show", "--archive", archive, "-n", "3", COLUMNS="200", OTEL_AUDIT_TRACE_URL=URL).stdout
    assert "\x1b" not in text
    assert "✗" not in text
    assert TRACE in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_data_sends_nothing_to_the_terminal(archive: Path, width: int) -> None:
    """Of the escape sequences that clients sent none arrives, and no line is longer than the terminal is wide."""
    text = on_terminal("show", "--archive", archive, "-n", "all", "--show-note", COLUMNS=str(width))
    plain = OWN.sub("", text)
    assert all(line.isprintable() for line in plain.split("\n"))
    assert not LINK.search(text)
    assert max(cell_len(line) for line in plain.split("\n")) <= width
    assert "[bold red]text[/] :smile:"[: width // 8] in plain


def test_machine_forms_are_plain_on_terminals(archive: Path) -> None:
    """JSON and CSV hold no colours, also on a terminal."""
    for form in ("json", "jsonl", "csv"):
        assert "\x1b" not in on_terminal("show", "--archive", archive, "-o", form)


def test_traces_are_links(archive: Path) -> None:
    """With OTEL_AUDIT_TRACE_URL the trace id of a row is a link, on terminals."""
    text = on_terminal("show", "--archive", archive, "-n", "3", OTEL_AUDIT_TRACE_URL=URL, COLUMNS="120")
    (link,) = LINK.finditer(text)
    assert link["url"] == f"https://traces.example/{TRACE}"
    assert TRACE.startswith(OWN.sub("", link["text"]).rstrip("…"))
    assert "Trace" in text
    assert "Trace" not in on_terminal("show", "--archive", archive, "-n", "3", COLUMNS="120")


def test_a_hostile_template_is_harmless(archive: Path) -> None:
    """Escape sequences in the template do not reach the terminal."""
    url = "https://traces.example/{trace_id}\x1b\\\x1b[2J"
    text = on_terminal("show", "--archive", archive, "-n", "3", "--show-note", OTEL_AUDIT_TRACE_URL=url)
    assert "\x1b[2J" not in text


def test_more_records_are_mentioned(archive: Path, tmp_path: Path) -> None:
    """Where the default limit hides records, a person is told; a script is not."""
    path = tmp_path / "many.db"
    fill(path, [{}] * 51)
    assert "there are more than these 50: -n all shows all" in on_terminal("show", "--archive", path)
    assert "there are more" not in on_terminal("show", "--archive", path, "-n", "50")
    assert otel_audit("show", "--archive", path).stderr == ""


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "otlp"])
def test_no_match_is_mentioned(archive: Path, tmp_path: Path, form: str) -> None:
    """A person is told that nothing matches, in every form and after a checkpoint; a script is not."""
    asked = ("show", "--archive", archive, "nowhere.example", "-o", form)
    assert "no record matches" in on_terminal(*asked)
    assert "no record matches" in on_terminal(*asked, "--checkpoint", tmp_path / "seen")
    assert "no record matches" not in on_terminal("show", "--archive", archive, "-o", form)
    assert otel_audit(*asked).stderr == ""


def test_bars_are_blocks_on_terminals(archive: Path) -> None:
    """Charts have blocks on a terminal, and plain signs elsewhere."""
    assert "█" in on_terminal("stats", "--archive", archive)
    assert "#" not in on_terminal("stats", "--archive", archive)
    for text in (
        otel_audit("stats", "--archive", archive).stdout,
        on_terminal("stats", "--archive", archive, PYTHONIOENCODING="ascii"),
    ):
        assert "#####" in text
        assert "█" not in text
