"""Bad collectors, one row of the table for each kind of fault: exactly the right records, duplicates removed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from tests.faults import answers, networks
from tests.faults.delivering import Fault, survive_all
from tests.faults.frame import Experiment, always

__all__ = ["COLLECTORS"]

QUICK: Final = 2
"""Cycles of a quick run, a kind of fault."""


def _experiment(number: int, group: str, kind: str, faults: Sequence[Fault]) -> Experiment:
    """Return the row of one kind of fault."""
    return Experiment(
        name=f"{group.lower()}-{number}",
        fault=f"{group}: {kind}",
        run=partial(survive_all, faults=faults),
        full=len(faults),
        quick=min(QUICK, len(faults)),
        missing=networks.no_namespaces if group == "link" else always,
    )


COLLECTORS: Final[tuple[Experiment, ...]] = tuple(
    _experiment(number, group, kind, faults)
    for group, kinds in (
        ("HTTP", answers.HTTP),
        ("gRPC", answers.GRPC),
        ("TLS", networks.TLS),
        ("network", networks.NETWORK),
        ("link", networks.NAMESPACES),
    )
    for number, (kind, faults) in enumerate(kinds.items(), 1)
)
"""One for each kind."""
