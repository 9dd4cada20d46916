"""Random edits of archives, all found: `tests.edits` says which; here 20,000 of them, with `make faults` more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.edits import run
from tests.owner_edits import KINDS

EDITS = 5_000


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_every_edit_is_found(tmp_path: Path, seed: int) -> None:
    """Each edit of any table, the schema or the whole file gives its reason code; undone, the archive is intact."""
    made = run(EDITS, seed, tmp_path)
    assert made.total() == EDITS
    # Each kind was made often enough to mean something.
    assert min(made[kind] for kind in ("cell", "delete", "insert", "swap", "truncate", "schema", "delivery")) > 100
    assert made["restore"] > 20
    assert min(made[f"owner {kind.__name__.strip('_')}"] for kind in KINDS) > 30
