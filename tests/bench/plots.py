"""What grows with an archive, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench.table import Row

__all__ = ["as_section", "draw"]


def as_section(rows: Sequence[Row], machine: Iterable[tuple[str, str]], *, picture: str) -> str:
    """Return a part of a page: the figures at each size, the last against the first, and a link to the picture.

    Args:
        rows: Figures with their series.
        machine: Where and when they were measured.
        picture: Name of the file beside the page.
    """
    sizes = [size for size, _ in rows[0].series]
    lines = [
        "One archive that grows, the last size beside the first; `python -m tests.bench --only growth` measures it.",
        "",
        "| records | " + " | ".join(f"{size:,}" for size in sizes) + " | last / first |",
        "|---|" + "--:|" * (len(sizes) + 1),
        *(
            f"| {_name(row)} | " + " | ".join(row.value(value) for _, value in row.series) + f" | {row.ratio:.2f} |"
            for row in rows
        ),
        "",
        f"![Inserts, look-ups, verification and pruning at each size]({picture})",
        "",
        *(f"- {_name(row)}: {row.note}" for row in rows if row.note),
        "",
        "; ".join(f"{name}: {value}" for name, value in machine if name in {"CPU", "file system", "run"}) + ".",
    ]
    return "\n".join(lines) + "\n"


def _name(row: Row) -> str:
    return row.figure.removeprefix("growth: ").partition(", at ")[0]


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw the series, a panel for each of inserts, look-ups, verification and pruning, into a PNG file.

    Args:
        rows: Figures with their series.
        file: Where to write it.
    """
    # Takes a second to load, and only whoever writes a page needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault("look-ups" if row.unit == "ms" else _name(row), []).append(row)
    figure = Figure(figsize=(9, 6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, shown) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(2, (len(panels) + 1) // 2, number)
        for row in shown:
            sizes, values = zip(*row.series, strict=True)
            axes.plot([size / 1e6 for size in sizes], values, marker="o", label=_name(row))
        axes.set_title(title)
        axes.set_xlabel("records in the archive, millions")
        axes.set_ylabel(shown[0].unit)
        axes.set_xlim(left=0)
        # Room for the legend above the lines.
        room = 2.0 if len(shown) > 1 else 1.25
        axes.set_ylim(bottom=0, top=max(value for row in shown for _, value in row.series) * room)
        axes.yaxis.set_major_formatter("{x:,.10g}")
        axes.grid(alpha=0.3)
        if len(shown) > 1:
            axes.legend(fontsize="small", loc="upper left")
    # Without the date and the version, the same figures make the same file.
    figure.savefig(file, dpi=100, metadata={"Software": None})
