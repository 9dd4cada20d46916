"""Locations of fleets: what a URL says, and that no password leaves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_audit.errors import ConfigError
from otel_audit.fleet.location import Location, is_fleet, parse_location, shown_url
from otel_audit.fleet.rows import read_found
from otel_audit.opening import open_archive


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("clickhouse://h", Location("h", None, False, False, "default", "otel_logs")),
        ("ClickHouse://u@h:1/d", Location("h", 1, False, False, "d", "otel_logs", "u")),
        ("clickhouses://u:p%40%2F@[::1]/d%20e?table=t&ca=/x.pem",
         Location("::1", None, True, False, "d e", "t", "u", "p@/", "/x.pem")),
        ("chdb://memory", Location("", None, False, True, "default", "otel_logs")),
        ("chdb:///var/x?database=d&table=t", Location("/var/x", None, False, True, "d", "t")),
    ],
)  # fmt: skip
def test_what_a_url_says(url: str, expected: Location) -> None:
    """Host, port, database, table, user, password and TLS are read from the URL."""
    assert is_fleet(url)
    assert parse_location(url) == expected


def test_the_password_from_elsewhere() -> None:
    """A password that is given apart is used where the URL holds none, and only there."""
    assert parse_location("clickhouse://u@h", "p").password == "p"
    assert parse_location("clickhouse://u:q@h", "p").password == "q"
    assert parse_location("clickhouse://u:@h", "p").password == ""


def test_files_are_no_fleets() -> None:
    """A path, even one that looks like a URL, is no fleet."""
    assert not any(map(is_fleet, ("audit.db", "clickhouse", "clickhouse:/x", "file:///x", "", None, b"clickhouse://h")))


@given(
    st.text(st.characters(codec="utf-8"), min_size=6),
    st.sampled_from(["", "u", "u:x"]),
    st.text("abc/@:?#", max_size=5),
)
def test_no_password_is_shown(password: str, user: str, rest: str) -> None:
    """Whatever stands in the URL, escaped or not, neither the location nor an error shows what precedes the last @."""
    secret = f"hunter2{password.replace('@', '')}"
    url = f"clickhouse://{user}:{secret}@h{rest.replace('@', '')}"
    assert "hunter2" not in shown_url(url)
    try:
        place = parse_location(url)
        said = f"{place} {place!r}"
    except ConfigError as error:
        said = str(error)
    assert "hunter2" not in said


def test_a_mistyped_scheme_is_no_file() -> None:
    """An address that is none of a fleet is refused where a file is opened, and its password is not shown."""
    with pytest.raises(ConfigError) as caught:
        open_archive("clickhous://u:hunter2@h/d")
    assert "clickhous://" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_rows_that_somebody_altered() -> None:
    """A row whose sequence, id or list of marks is no such thing is read all the same."""
    logged = {"audit.record.id": "x", "audit.sequence.number": "9" * 40, "otel_audit.altered": "[1", "user.name": "u"}
    found = read_found((5, "", "", 0, "", 0, "", {}, "", "", logged, "t"))
    assert (found.sequence, found.stream_id, found.log.observed, found.log.body) == (0, "", 5, None)
    assert found.log.attributes == {"otel_audit.altered": ("[1",), "user.name": "u"}
    for record_id in ("z" * 32, "01a20089-eec4-4998-9f80-961a142ab774", "zzzzzzzz-zzzz-7998-9f80-961a142ab774"):
        logged["audit.record.id"] = record_id
        assert read_found((5, "", "", 0, "", 9, "", {}, "", "", logged, "t")).log.observed == 5
    logged.update({"audit.record.id": "01a20089-eec4-7998-9f80-961a142ab774", "otel_audit.altered": "{}"})
    found = read_found((5, "", "", 0, "", 9, "", {}, "", "", logged, "t"))
    assert found.log.observed == 0x01A20089EEC4 * 1_000_000
    assert (found.log.body, found.log.attributes["otel_audit.altered"]) == ("", ("{}",))
