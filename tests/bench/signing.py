"""What a producer's signature costs: in a commit, and when the archive is verified."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otel_audit.archive.commit import Committer, Row, row_of
from otel_audit.archive.database import Database
from otel_audit.archive.signatures import Signatures, Trust
from otel_audit.archive.verify import Noted, verify
from otel_audit.otlp import encode_resource, encode_scope
from otel_audit.producer import ProducerKey
from otel_audit.producer_keys import public_half
from tests.bench import table
from tests.bench.measure import Sizes, alternate, pair_ratio, progress
from tests.bench.population import Population

__all__ = ["signing"]

_BATCH = 1_024


def signing(sizes: Sizes, folder: Path) -> list[table.Row]:
    """Measure commits of signed and of unsigned records, and the verification of both."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = ProducerKey("EdDSA", private.sign, public_key=public)
    found = []
    for batch, commits in ((1, sizes.commits), (_BATCH, max(10, sizes.commits // 100))):
        progress(f"commits of {batch}, signed and not")
        rows = [row_of(*made) for made in islice(Population(batch * commits).records(1), batch * commits)]
        made = {
            "signed": _committer(folder / f"signed-{batch}.db", key),
            "unsigned": _committer(folder / f"unsigned-{batch}.db", None),
        }
        figures = alternate(
            {name: partial(_commits, committer, rows, batch) for name, committer in made.items()}, sizes.rounds
        )
        for committer in made.values():
            committer.database.close()
        found.append(_row(f"commit of {batch:,} signed (EdDSA) / unsigned", figures, _COMMIT))
    # The smaller archive: a signature takes ten times as long to check as all else of its record.
    count = verify(folder / "signed-1.db").last
    noted = Noted(producers=Trust((public_half(public, "the key"),), only=True))
    progress(f"verification of {count:,} signatures")
    figures = alternate(
        {
            "signed": partial(_verified, folder / "signed-1.db", noted, Signatures(verified=count)),
            "unsigned": partial(_verified, folder / "unsigned-1.db", noted, Signatures(unsigned=count)),
        },
        max(1, sizes.rounds // 3),
    )
    found.append(_row(f"complete verify, signed (EdDSA) / unsigned, {count:,} records", figures, _VERIFY))
    return found


_COMMIT: Final = "Microseconds a record of a whole commit, fsync included; the signature is made within."
_VERIFY: Final = "Wall-clock time a record, in one process."


def _row(figure: str, figures: dict[str, list[float]], note: str) -> table.Row:
    signed, unsigned = figures["signed"], figures["unsigned"]
    return table.Row(
        figure=figure,
        unit="µs",
        ours=median(signed),
        other=median(unsigned),
        ratio=pair_ratio(signed, unsigned),
        note=note,
    )


def _committer(path: Path, key: ProducerKey | None) -> Committer:
    resource = encode_resource({"service.name": "bench", **({} if key is None else key.resource)})
    signer = None if key is None else key.signed
    return Committer(Database(path, "write"), resource, encode_scope("bench", "1"), signer=signer)


def _commits(committer: Committer, rows: Sequence[Row], batch: int) -> float:
    """Return the median microseconds a record of commits of `batch` records."""
    taken = []
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        began = time.perf_counter_ns()
        with committer.database:
            committer.commit(some)
        taken.append((time.perf_counter_ns() - began) / len(some))
    return median(taken) / 1000


def _verified(path: Path, noted: Noted, expected: Signatures) -> float:
    """Return the microseconds a record of a complete verification."""
    began = time.perf_counter()
    report = verify(path, noted=noted)
    if not report.intact or report.signatures != expected:
        raise RuntimeError(f"{path.name} is not as expected: {report.signatures}")
    return (time.perf_counter() - began) / report.last * 1e6
