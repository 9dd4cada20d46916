"""What a sender is: bytes of one OTLP request in, the destination's answer out, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

__all__ = ["Answer", "Sender", "Verdict"]


class Verdict(Enum):
    """What a destination's answer means for the records of the request."""

    ACCEPTED = "accepted"
    """All of them were accepted: the cursor moves."""
    RETRY = "retry"
    """Nothing is known to have arrived; send the same again later, for ever."""
    REFUSED = "refused"
    """At least one record makes the request unacceptable (HTTP 400, gRPC INVALID_ARGUMENT, …): bisect."""
    TOO_LARGE = "too-large"
    """The request is too large as a whole (HTTP 413 and the like): bisect."""
    BLOCKED = "blocked"
    """The destination refuses us, whatever we send (401, 403, 404, a certificate): probe until an operator mends it."""
    PARTIAL = "partial"
    """Accepted, save `Answer.rejected` records that are not named: set the batch aside."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The destination's answer to one request.

    Args:
        verdict: What it means.
        reason: One line for a person, e.g. ``HTTP 503 Service Unavailable: warming up``; free of control characters,
            at most 300 characters; empty where all is well.
        retry_after: Seconds that the destination asked us to wait, where it did.
        rejected: How many records were rejected, for `Verdict.PARTIAL`.
    """

    verdict: Verdict
    reason: str = ""
    retry_after: float | None = None
    rejected: int = 0


class Sender(Protocol):
    """Sends the bytes of one ``ExportLogsServiceRequest``."""

    @property
    def endpoint(self) -> str:
        """Where it sends to, for people, without credentials."""

    def send(self, request: bytes, timeout: float) -> Answer:
        """Send one request and wait for the answer.

        Args:
            request: A serialized ``ExportLogsServiceRequest``.
            timeout: Seconds for the whole attempt, from connecting to the last byte of the answer.

        Returns:
            The answer; every failure of network and peer is one too. Raises nothing that a network or a peer can cause.
        """

    def close(self) -> None:
        """Close all connections; safe to call twice, and from another thread while `send` waits."""
