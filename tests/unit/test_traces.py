"""Each record carries the trace that it happened in, sampled or not, from threads and tasks as well."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags

from otel_audit.archive.query import open_archive
from otel_audit.provider import AuditProvider
from otel_audit.record import AuditRecord
from tests.recording import Tape, bound_logger


@pytest.fixture
def tape() -> Tape:
    return Tape()


def ids_of(record: AuditRecord) -> tuple[str | None, str | None, int]:
    return record.trace_id, record.span_id, record.trace_flags


def expected(span: Span) -> tuple[str, str, int]:
    own = span.get_span_context()
    return f"{own.trace_id:032x}", f"{own.span_id:016x}", int(own.trace_flags)


@pytest.mark.parametrize(("sampler", "flags"), [(ALWAYS_ON, 1), (ALWAYS_OFF, 0)])
def test_the_current_span(tape: Tape, sampler: Sampler, flags: int) -> None:
    """Trace id, span id and flags of the current span are recorded, whether it is sampled or not."""
    tracer = TracerProvider(sampler=sampler).get_tracer("t")
    log = bound_logger(tape)
    with tracer.start_as_current_span("outer") as outer:
        log.audit("t")
        assert ids_of(tape.record) == expected(outer)
        assert tape.record.trace_flags & 1 == flags
        with tracer.start_as_current_span("inner") as inner:
            log.audit("t")
            assert ids_of(tape.record) == expected(inner)


def test_without_a_span(tape: Tape) -> None:
    """Outside of any span there are no ids."""
    bound_logger(tape).audit("t")
    assert ids_of(tape.record) == (None, None, 0)


@pytest.mark.parametrize(("trace_id", "span_id"), [(0, 5), (5, 0), (1 << 128, 5)])
def test_invalid_spans(tape: Tape, trace_id: int, span_id: int) -> None:
    """A span whose ids are invalid counts as none."""
    broken = NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(1)))
    with trace.use_span(broken):
        bound_logger(tape).audit("t")
    assert ids_of(tape.record) == (None, None, 0)


def test_remote_parents(tape: Tape) -> None:
    """The ids of a caller elsewhere are recorded where only they are known."""
    remote = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1)))
    with trace.use_span(remote):
        bound_logger(tape).audit("t")
    assert ids_of(tape.record) == (f"{0xABC:032x}", f"{0xDEF:016x}", 1)


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_threads(tape: Tape) -> None:
    """A thread has the ids when its context was handed over, by contextvars or by OpenTelemetry, and none otherwise."""
    log = bound_logger(tape)
    with TracerProvider().get_tracer("t").start_as_current_span("outer") as span:
        current, own = contextvars.copy_context(), context.get_current()

        def attached() -> None:
            token = context.attach(own)
            log.audit("attached")
            context.detach(token)

        in_thread(lambda: current.run(log.audit, "copied"))
        in_thread(attached)
        in_thread(lambda: log.audit("alone"))
    assert {record.type: ids_of(record) for record, _ in tape.written} == {
        "copied": expected(span),
        "attached": expected(span),
        "alone": (None, None, 0),
    }


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF])
def test_tasks_and_queries(archive_path: Path, sampler: Sampler) -> None:
    """Each asyncio task records its own span, and the archive finds the records of a trace, not sampled ones too."""
    tracer = TracerProvider(sampler=sampler).get_tracer("t")

    async def request(name: str) -> tuple[str, str, int]:
        with tracer.start_as_current_span(name) as span:
            await asyncio.sleep(0.001)
            await log.aaudit(name)
            await asyncio.gather(log.aaudit(name), asyncio.to_thread(log.audit, name))
            return expected(span)

    async def main() -> list[tuple[str, str, int]]:
        return await asyncio.gather(*(request(f"r{n}") for n in range(5)))

    with AuditProvider(archive=archive_path, host="h") as provider:
        log = provider.get_logger("s")
        spans = asyncio.run(main())
        with open_archive(archive_path) as archive:
            for number, span in enumerate(spans):
                found = list(archive.query(trace_id=span[0]))
                assert [(record.type, ids_of(record)) for record in found] == [(f"r{number}", span)] * 3
