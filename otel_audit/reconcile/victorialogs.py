"""Reads what a VictoriaLogs holds of an archive, over its HTTP API.

Source: VictoriaLogs' documentation, *Querying* and *LogsQL*: ``/select/logsql/query`` answers with JSON lines,
all values text, in no order; what is empty is not kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import requests

from otel_audit import attributes as keys
from otel_audit.archive.held import Held, same_text
from otel_audit.errors import ArchiveError, ConfigError
from otel_audit.fleet.windows import Windows
from otel_audit.reconcile.numbers import sequence_of
from otel_audit.record import Value, rfc3339

__all__ = ["read_logs"]

_MOST: Final = 65_536
"""Most records that are asked for at once: by default VictoriaLogs takes half a minute at most for an answer."""
_TIMEOUT: Final = (10.0, 120.0)
_HINT: Final = "write victorialogs://user:password@host:9428, or victorialogss:// for TLS"
_UNNAMED: Final = {"Unspecified": ""}
"""What VictoriaLogs calls a severity that is not there."""


def read_logs(
    location: str, password: str | None = None
) -> Callable[[str, int, int, Callable[[int, int], None]], Iterator[Held]]:
    """Return what reads the records of a VictoriaLogs, one of them in memory at a time.

    Args:
        location: ``victorialogs://user:password@host:port/path``, ``victorialogss://`` with TLS.
        password: The password, where the location holds none.

    Raises:
        ConfigError: The location cannot be understood.
    """
    try:
        parts = urlsplit(location)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("the location of VictoriaLogs has no valid host and port", _HINT) from None
    if not host or parts.query or parts.fragment:
        raise ConfigError("the location of VictoriaLogs names no host, or more than a path", _HINT)
    secure = parts.scheme.lower() == "victorialogss"
    place = f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port or 9428}"
    given = password or "" if parts.password is None else unquote(parts.password)
    logs = _Logs(place + parts.path.rstrip("/"), None if parts.username is None else (unquote(parts.username), given))
    return logs.read


class _Logs:
    def __init__(self, base: str, auth: tuple[str, str] | None) -> None:
        self._base = base
        self._auth = auth

    def read(self, stream_id: str, first: int, last: int, progress: Callable[[int, int], None]) -> Iterator[Held]:
        """Iterate over what is held of an archive."""
        chosen = f"{json.dumps(keys.SEQUENCE_STREAM_ID)}:={json.dumps(stream_id)}"

        def extent(start: int, end: int) -> tuple[int, int, int]:
            asked = f"{_between(start, end)} {chosen} | stats count() n, min(_time) first, max(_time) last"
            try:
                (answer,) = self._ask(asked)
                count = int(answer["n"])
                return count, *((_moment(answer["first"]), _moment(answer["last"])) if count else (0, 0))
            except (ValueError, KeyError) as error:
                raise self._strange() from error

        start, end, done = max(first, 0), min(last + 1, 2**63 - 1), 0
        total = extent(start, end)[0]
        for low, high in Windows(extent, rows=_MOST, most=_MOST).over(start, end):
            expected, came = extent(low, high)[0], 0
            for fields in self._ask(f"{_between(low, high)} {chosen}"):
                try:
                    held = _held(fields)
                except ValueError as error:
                    raise self._strange() from error
                yield held
                came += 1
            # An answer that took too long ends early, and says nothing of it.
            if came < expected:
                raise ArchiveError(
                    f"{self._base} answered with {came} of {expected} records", "raise its -search.maxQueryDuration"
                )
            done += came
            progress(done, total)

    def _ask(self, query: str) -> Iterator[Mapping[str, Any]]:
        """Iterate over the lines of an answer.

        Raises:
            ArchiveError: There is no answer, or it breaks off.
        """
        try:
            with requests.post(
                f"{self._base}/select/logsql/query",
                data={"query": query},
                auth=self._auth,
                stream=True,
                timeout=_TIMEOUT,
                # User and password are for this place alone.
                allow_redirects=False,
            ) as answer:
                if answer.status_code != 200:
                    text = answer.raw.read(300, decode_content=True).decode("utf-8", "replace").strip()
                    if self._auth is not None and self._auth[1]:
                        text = text.replace(self._auth[1], "***")
                    raise ArchiveError(f"{self._base} answered {answer.status_code}: {text}", "check place and user")
                for line in answer.iter_lines(65_536):
                    if line:
                        yield _line(line)
        except requests.RequestException as error:
            reason = str(error).partition("(Caused by ")[2].rstrip(")") or type(error).__name__
            raise ArchiveError(f"{self._base}: {reason[:200]}", "check host and port, and that it runs") from None
        except ValueError as error:
            raise self._strange() from error

    def _strange(self) -> ArchiveError:
        return ArchiveError(f"{self._base} answers otherwise than VictoriaLogs does", "check the port")


def _line(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("no object of texts")
    return value


def _between(start: int, end: int) -> str:
    return f"_time:[{rfc3339(start)}, {rfc3339(end - 1)}]"


def _moment(text: Any) -> int:
    """Return a time in RFC 3339 as nanoseconds since the epoch."""
    seconds, _, rest = str(text).removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    return whole * 1_000_000_000 + int(rest.ljust(9, "0")[:9])


def _held(fields: Mapping[str, Any]) -> Held:
    # Releases of 2025 have neither number nor scope, and call the text so.
    severity = fields.get("severity_text", fields.get("severity", ""))
    log: dict[str, Any] = {
        "timeUnixNano": _moment(fields.get("_time", "")), "body": fields.get("_msg", ""),
        "traceId": fields.get("trace_id", ""), "spanId": fields.get("span_id", ""),
        "severityText": _UNNAMED.get(severity, severity),
    }  # fmt: skip
    if "severity_number" in fields:
        log["severityNumber"] = int(fields["severity_number"])
    if "event_name" in fields:
        # Those leave it out, too: the Collector can make an attribute of it.
        log["eventName"] = fields["event_name"]
    scope = (fields["scope.name"], fields.get("scope.version", "")) if "scope.name" in fields else None
    return Held(
        fields.get(keys.SEQUENCE_STREAM_ID),
        sequence_of(fields.get(keys.SEQUENCE_NUMBER)),
        fields.get(keys.RECORD_ID),
        log["timeUnixNano"],
        log,
        fields,
        None,
        scope,
        _same,
        absent="",
    )


def _same(value: Value, text: Any) -> bool:
    # A map becomes fields of its own, and not every list can be told from its text.
    return isinstance(value, Mapping) or (isinstance(value, tuple) and _untold(value)) or same_text(value, text)


def _untold(values: tuple[Value, ...]) -> bool:
    """Tell whether the text of a list is no JSON: it holds what VictoriaLogs writes without quotes, or not at all."""
    return any(
        item is None
        or isinstance(item, bytes | Mapping)
        or (isinstance(item, float) and not math.isfinite(item))
        or (isinstance(item, tuple) and _untold(item))
        for item in values
    )
