"""The sender for given settings."""

from __future__ import annotations

from otel_audit.delivery.sender import Sender
from otel_audit.otlp_settings import OtlpSettings

__all__ = ["make_sender"]


def make_sender(settings: OtlpSettings) -> Sender:
    """Return the OTLP sender for the protocol of `settings`; nothing is connected yet.

    Args:
        settings: As `otel_audit.otlp_settings.resolve` returns them.

    Returns:
        An `HttpSender` or a `GrpcSender`; close it when done.
    """
    # Only the library of the protocol in use is loaded: grpcio takes 45 ms, requests 65 ms, and the CLI has no need of
    # either until it ships.
    if settings.protocol == "grpc":
        from otel_audit.delivery.grpc import GrpcSender

        return GrpcSender(settings)
    from otel_audit.delivery.http import HttpSender

    return HttpSender(settings)
