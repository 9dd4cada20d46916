"""Answers to requests, in the encoding that the request came in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from otel_audit.archive.received import Kept
from otel_audit.protobuf import FIXED64, VARINT, delimited, varint

__all__ = ["JSON", "PROTOBUF", "accepted", "receipts", "refused"]

JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"

_RECEIPTS: Final = 1_000
"""Field of the receipts in the answer: far from what OTLP may add to it."""
_CODES: Final = {400: 3, 401: 16, 404: 5, 405: 12, 409: 6, 413: 3, 415: 3, 503: 14}
"""The ``google.rpc.Code`` of each refusal."""


def accepted(form: str) -> Response:
    """Return the answer to a request on ``/v1/logs`` that is committed."""
    return Response(b"{}" if form == JSON else b"", 200, media_type=form)


def receipts(form: str, kept: Sequence[Kept]) -> Response:
    """Return the answer to a request on ``/v1/audit`` that is committed: a receipt for each record, in their order."""
    if form == JSON:
        return Response(json.dumps({"receipts": [_plain(one) for one in kept]}), 200, media_type=form)
    return Response(b"".join(delimited(_RECEIPTS, _message(one)) for one in kept), 200, media_type=form)


def refused(form: str, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer to a request that was not, or not wholly, recorded: a ``google.rpc.Status``."""
    code = _CODES[status]
    if form == JSON:
        body = json.dumps({"code": code, "message": message}).encode()
    else:
        body = varint(1 << 3 | VARINT) + varint(code) + delimited(2, message.encode())
    return Response(body, status, dict(headers or {}), media_type=JSON if form == JSON else PROTOBUF)


def _plain(kept: Kept) -> dict[str, Any]:
    receipt = kept.receipt
    # As protobuf's JSON has it: 64-bit numbers are text.
    return {
        "recordId": receipt.record_id,
        "sequenceNumber": str(receipt.sequence),
        "integrityHash": receipt.integrity_hash,
        "timeUnixNano": str(receipt.timestamp),
        "repeat": kept.outcome == "repeat",
    }


def _message(kept: Kept) -> bytes:
    receipt = kept.receipt
    return b"".join((
        delimited(1, receipt.record_id.encode()),
        varint(2 << 3 | VARINT) + varint(receipt.sequence or 0),
        delimited(3, (receipt.integrity_hash or "").encode()),
        varint(4 << 3 | FIXED64) + (receipt.timestamp or 0).to_bytes(8, "little"),
        varint(5 << 3 | VARINT) + b"\1" if kept.outcome == "repeat" else b"",
    ))  # fmt: skip
