"""The benchmark's section on growth, on archives of thousands of records."""

from __future__ import annotations

from pathlib import Path

from tests.archive_material import connect
from tests.bench.__main__ import QUICK
from tests.bench.growth import growth
from tests.bench.measure import Sizes


def test_one_archive_is_measured_at_each_size(tmp_path: Path) -> None:
    """Each figure has a value at each size, of an archive that held so many records and was pruned at each."""
    sizes = (10_000, 20_000, 30_000)
    rows = growth(Sizes(**{**vars(QUICK), "growth": sizes, "rounds": 1}), tmp_path)
    assert [row.figure.split(",")[0] for row in rows] == [
        "growth: inserts",
        "growth: last 50 of a frequent user",
        "growth: last 50 of one of 20",
        "growth: last 50 of a host",
        "growth: a trace of 10 records",
        "growth: last day by hours",
        "growth: verify",
        "growth: prune",
    ]
    for row in rows:
        assert tuple(size for size, _ in row.series) == sizes
        assert all(value > 0 for _, value in row.series)
        assert (row.other, row.ours) == (row.series[0][1], row.series[-1][1])
    connection = connect(tmp_path / "growing.db")
    assert connection.execute("SELECT count(*) FROM record WHERE kind = 1").get == 30_000
    # A tenth of the smallest size each time, by age: events are recorded nearly in order only.
    pruned = int(connection.execute("SELECT count(*) FROM record WHERE otlp IS NULL").get)
    assert 2_900 <= pruned <= 3_100
