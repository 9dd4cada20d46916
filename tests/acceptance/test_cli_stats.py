"""``otel-audit stats`` counts what `show` would show."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.command_line import HOSTILE, fill, json_lines, otel_audit

NOON = 1_769_860_800 * 10**9  # 2026-01-31T12:00:00Z
HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stats") / "audit.db"
    events: list[dict[str, Any]] = [
        {
            "user": ("alice", "bob", None)[n % 3],
            "type": ("user.login.success", "user.login.failure")[n % 5 == 0],
            "host": ("example.com", "other.example")[n % 4 == 0],
            "timestamp": NOON + n * HOUR,
            "custom": {"n": {"odd": n % 2}},
        }
        for n in range(48)
    ]
    fill(path, events)
    return path


def stats(archive: Path, *arguments: str) -> dict[str, Any]:
    result = json.loads(otel_audit("stats", "--archive", archive, "-o", "json", *arguments).stdout)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("example.com",),
        ("alice@example.com",),
        ("--global",),
        ("--type", "*.failure"),
        ("--outcome", "success", "--since", "2026-02-01"),
        ("--since", "2026-01-31T20:00:00Z", "--until", "2026-02-01T20:00:00Z"),
        ("--until", "2026-02-01T00:00:00Z"),
        ("--where", "n.odd=1", "--since", "2026-01-31T20:30:00Z"),
    ],
)
def test_counts_are_those_of_show(archive: Path, arguments: tuple[str, ...]) -> None:
    """Whatever the filter, every count is that of the records that `show` finds."""
    records = json_lines(otel_audit("show", "--archive", archive, "-o", "jsonl", *arguments).stdout)
    counted = stats(archive, *arguments)
    assert counted["records"] == len(records) > 0
    for key, field in (("types", "type"), ("users", "user"), ("outcomes", "outcome")):
        assert {entry["value"]: entry["records"] for entry in counted[key]} == Counter(
            record[field] for record in records
        )
    buckets = counted["histogram"]
    assert [bucket["records"] for bucket in buckets] == [
        sum(bucket["since"] <= record["time"] < bucket["until"] for record in records) for bucket in buckets
    ]
    assert sum(bucket["records"] for bucket in buckets) == len(records)


def test_the_range_is_what_was_asked_for(archive: Path) -> None:
    """With --since and --until the histogram reaches from one to the other, in equal, round buckets."""
    buckets = stats(archive, "--since", "2026-01-31T00:00:00Z", "--until", "2026-02-01T00:00:00Z")["histogram"]
    assert buckets[0]["since"] == "2026-01-31T00:00:00.000000000Z"
    assert buckets[-1]["until"] == "2026-02-01T00:00:00.000000000Z"
    assert len(buckets) == 24


def test_without_a_range_nothing_is_left_out(archive: Path, tmp_path: Path) -> None:
    """Events that were recorded late or lie in the future are within the histogram."""
    path = tmp_path / "audit.db"
    fill(path, [{"timestamp": 1}, {}, {"timestamp": 2**62}])
    counted = stats(path)
    assert sum(bucket["records"] for bucket in counted["histogram"]) == counted["records"] == 3


def test_charts_show_the_counts(archive: Path) -> None:
    """The text has a line with its number and a bar for each bucket, type, user and outcome."""
    text = otel_audit("stats", "--archive", archive).stdout
    assert text.startswith("48 records\n")
    assert re.search(r"^user\.login\.success +38  #+$", text, re.MULTILINE)
    assert re.search(r"^\(host-wide\) +16  #+$", text, re.MULTILINE)
    assert re.search(r"^success +38  #+$", text, re.MULTILINE)
    assert re.search(r"^2026-01-31 15:00:00Z +3  #+$", text, re.MULTILINE)
    assert all(len(line) <= 100 for line in text.splitlines())
    bars = [line.count("#") for line in text.splitlines() if line.startswith(("success", "failure"))]
    assert bars[0] > bars[1] > 0


@pytest.mark.parametrize("width", ["30", "60", "100"])
def test_charts_are_harmless_and_fit(tmp_path: Path, width: str) -> None:
    """Names that clients sent show as escapes, and no line is longer than the width."""
    path = tmp_path / "audit.db"
    fill(path, [{"user": text, "type": "user.password.reset.requested"} for text in HOSTILE.values()])
    text = otel_audit("stats", "--archive", path, "--top", "100", COLUMNS=width).stdout
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\\u202e" in text or width == "30"
    assert max(map(cell_len, text.splitlines())) <= int(width)


def test_top_limits_the_lists(archive: Path) -> None:
    """--top says how many types and users are listed; all others count all the same."""
    counted = stats(archive, "--top", "1")
    assert len(counted["types"]) == len(counted["users"]) == 1
    assert counted["records"] == 48
    assert otel_audit("stats", "--archive", archive, "--top", "0", status=2).stderr


def test_an_empty_answer(archive: Path) -> None:
    """Where nothing matches, the counts are empty and valid."""
    counted = stats(archive, "nowhere.example")
    assert counted == {"records": 0, "histogram": [], "types": [], "users": [], "outcomes": []}
    assert otel_audit("stats", "--archive", archive, "nowhere.example").stdout == "0 records\n"
