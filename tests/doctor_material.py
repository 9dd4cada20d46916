"""What tests of ``otel-audit doctor`` share."""

from __future__ import annotations

from pathlib import Path

from otel_audit.archive.files import file_system
from otel_audit.cli.operating import open_administration
from otel_audit.doctor.examine import examine
from otel_audit.doctor.findings import Finding

__all__ = ["HOUR", "SOUND", "calm", "doctor"]

HOUR = 3_600_000_000_000

SOUND = """\
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:4318
      grpc:
exporters:
  otlp_grpc:
    endpoint: collector.example.com:4317
    retry_on_failure:
      max_elapsed_time: 0
    sending_queue:
      storage: file_storage
      block_on_overflow: true
      batch:
extensions:
  file_storage:
    directory: /var/lib/otelcol
    fsync: true
service:
  extensions: [file_storage]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [otlp_grpc]
    logs:
      receivers: [otlp]
      processors: []
      exporters: [otlp_grpc]
"""
"""A Collector's configuration that loses nothing."""


def doctor(path: Path, *, probe: bool = True, longest: int = HOUR, timeout: float = 10.0) -> dict[str, Finding]:
    """Return what is found, by its code, save what depends on the machine's file system and the lack of a collector."""
    found = examine(path, (lambda: open_administration(path)) if probe else None, longest=longest, timeout=timeout)
    usual = {"destination-none", "container-file-system", "memory-file-system"}
    return {one.code: one for one in found if one.code not in usual}


def calm(path: Path) -> int:
    """Return what doctor exits with where all is well but the file system, which tests may have in memory."""
    kind = file_system(path.resolve(), Path("/proc/self/mounts").read_text())
    return int(kind in {"ramfs", "tmpfs"})
