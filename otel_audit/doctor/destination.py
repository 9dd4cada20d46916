"""Examines the delivery: what it left undone, whether the collector answers, and a record sent to it as a probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from otel_audit.archive.administration import Administration, Own, operator, process_fields
from otel_audit.archive.leaf import ADMINISTRATION
from otel_audit.archive.query import open_archive
from otel_audit.archive.status import DestinationStatus, Status
from otel_audit.doctor.findings import Finding
from otel_audit.otlp_settings import OtlpSettings, is_loopback

if TYPE_CHECKING:
    from otel_audit.config import Config

__all__ = ["PROBE", "examine_delivery", "examine_endpoint", "send_probe"]

PROBE: Final = "audit.probe"
_NAME: Final = "otlp"


def examine_delivery(status: Status, now: int, longest: int) -> Iterator[Finding]:
    """Iterate over what the delivery left undone.

    Args:
        status: The archive's.
        now: Nanoseconds since the epoch.
        longest: Nanoseconds that a record may wait for its delivery.
    """
    for one in status.destinations:
        if one.dead_letters:
            yield Finding(
                "error",
                "dead-letters",
                f"{one.name} refused {one.dead_letters} records for good; its last error: {one.last_error or 'none'}",
                "they are in the archive alone",
                f"find out why, then put them back: otel-audit requeue --destination {one.name}",
            )
        if one.blocked is not None:
            yield Finding(
                "error",
                "blocked",
                f"{one.name} is blocked: {one.blocked}",
                "nothing is delivered; nothing is lost before the disk is full",
                _remedy(one.blocked),
            )
    waited = 0 if status.oldest_undelivered is None else now - status.oldest_undelivered
    if waited > longest:
        errors = [one.last_error for one in status.destinations if one.last_error is not None]
        yield Finding(
            "warning",
            "lag",
            f"{status.backlog} records wait for their delivery, the oldest for {waited // 1_000_000_000} s"
            + (f"; the last error: {errors[0]}" if errors else ""),
            "they are in the archive alone",
            "see that the collector runs, and that a process ships: the application, or otel-audit ship",
        )


def examine_endpoint(config: Config, status: Status | None, timeout: float) -> tuple[list[Finding], bool]:
    """Return what is wrong with the destination, and whether a probe may be sent there.

    An empty request is sent, which collectors answer without keeping anything.

    Args:
        config: The settings.
        status: The archive's; None: there is no archive yet.
        timeout: Seconds for the request.
    """
    known = next((one for one in status.destinations if one.name == _NAME), None) if status is not None else None
    if config.otlp is None or not config.sending:
        return ([] if config.otlp is not None or config.exporters else [_none(known)]), False
    from otel_audit.delivery.factory import make_sender  # start-up time: slow to import
    from otel_audit.delivery.sender import Verdict

    found = list(_in_clear(config.otlp))
    sender = make_sender(config.otlp)
    try:
        answer = sender.send(b"", min(timeout, config.otlp.timeout))
        endpoint = sender.endpoint
    finally:
        sender.close()
    if known is not None and known.endpoint not in {"", endpoint}:
        found.append(
            Finding(
                "warning",
                "destination-differs",
                f"records went to {known.endpoint} so far, and the environment names {endpoint}",
                "a shipper with this environment sends there what is still to be delivered; no probe was sent",
                "run doctor with the environment of the application",
            )
        )
    if answer.verdict in {Verdict.RETRY, Verdict.BLOCKED}:
        blocked = answer.verdict is Verdict.BLOCKED
        found.append(
            Finding(
                "error",
                "destination-refuses" if blocked else "destination-unreachable",
                f"{endpoint} {'refuses us' if blocked else 'cannot be reached'}: {answer.reason}",
                "nothing is delivered; nothing is lost before the disk is full",
                _remedy(answer.reason),
            )
        )
    return found, all(one.code == "destination-clear" for one in found)


def _none(known: DestinationStatus | None) -> Finding:
    if known is not None:
        return Finding(
            "note",
            "destination-unset",
            f"records go to {known.endpoint or 'a collector'}, and the environment names no destination here",
            "it was not examined",
            "run doctor with the environment of the application",
        )
    return Finding(
        "note",
        "destination-none",
        "there is no destination: archive only",
        "whoever owns this machine has the only copy",
        "set OTEL_EXPORTER_OTLP_ENDPOINT",
    )


def _in_clear(settings: OtlpSettings) -> Iterator[Finding]:
    whole = settings.endpoint if "//" in settings.endpoint else f"//{settings.endpoint}"
    host = urlsplit(whole).hostname or ""
    if (settings.insecure or whole.startswith("http://")) and not is_loopback(host):
        yield Finding(
            "warning",
            "destination-clear",
            f"records are sent in clear to {settings.endpoint}",
            "whoever is on the way reads them and what is in the headers, and can answer in the collector's place",
            "use https://",
        )


def _remedy(reason: str) -> str:
    if "certificate" in reason or "TLS" in reason:
        return "see OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE, _CLIENT_KEY and the scheme of the endpoint"
    if any(status in reason for status in ("401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED")):
        return "see OTEL_EXPORTER_OTLP_HEADERS: the collector wants other credentials"
    return "see that the collector runs, and OTEL_EXPORTER_OTLP_ENDPOINT and _PROTOCOL"


def send_probe(config: Config, open_administration: Callable[[], Administration], timeout: float) -> Finding:
    """Record a probe, ship it as any record is shipped, and return what became of it.

    Args:
        config: The settings, with a destination.
        open_administration: Opens what appends the archive's own records.
        timeout: Seconds to wait for the delivery. The probe is delivered later, where they are not enough.

    Raises:
        ArchiveError: It could not be recorded.
        ConfigError: A setting is wrong.
    """
    from otel_audit.delivery.service import make_shippers  # start-up time: slow to import

    path = Path(config.archive)
    with open_administration() as administration:
        sequence = administration.append(
            lambda _connection, _tree: [Own(ADMINISTRATION, PROBE, {"process": process_fields()}, operator())]
        )
    (shipper,) = make_shippers(replace(config, exporters={}))
    try:
        before, _ = shipper.outbox.left(sequence)
        started = time.monotonic()
        delivered = shipper.flush([(sequence, sequence)], timeout)
        seconds = time.monotonic() - started
        refused = not delivered and shipper.outbox.outcome([(sequence, sequence)]) is False
        left, _ = shipper.outbox.left(sequence)
    finally:
        shipper.stop(1.0)
    with open_archive(path) as archive:
        known = next((one for one in archive.status().destinations if one.name == _NAME), None)
    return _fate(sequence, known, accepted=delivered, refused=refused, seconds=seconds, left=left, moving=left < before)


def _fate(
    sequence: int,
    known: DestinationStatus | None,
    *,
    accepted: bool,
    refused: bool,
    seconds: float,
    left: int,
    moving: bool,
) -> Finding:
    endpoint = known.endpoint if known is not None and known.endpoint else "the collector"
    reason = (known.blocked or known.last_error if known is not None else None) or "no answer yet"
    probe = f"the probe, record {sequence},"
    if accepted:
        what = f"{probe} was accepted by {endpoint} after {seconds:.1f} s"
        return Finding(
            "note", "probe-accepted", what, "whether it can be found behind the collector, doctor cannot see"
        )
    if refused:
        remedy = "find out why: other records will fare the same"
        return Finding("error", "probe-refused", f"{probe} was refused by {endpoint}: {reason}", "", remedy)
    if moving:
        what = f"{probe} waits behind others: {left} records are to be delivered before and with it"
        return Finding("warning", "probe-waiting", what, "the delivery goes on, and it with it", "give --timeout")
    what = f"{probe} was not accepted by {endpoint} within {seconds:.0f} s: {reason}"
    return Finding("error", "probe-waiting", what, "nothing is delivered", _remedy(reason))
