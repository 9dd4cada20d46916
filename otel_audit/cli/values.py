"""The types of the values that options take."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from otel_audit.cli.fields import NAMES, similar
from otel_audit.cli.times import parse_duration, parse_time
from otel_audit.errors import ConfigError

__all__ = [
    "ArchiveFile",
    "Beginning",
    "Duration",
    "FieldList",
    "Host",
    "Limit",
    "Moment",
    "NoteFile",
    "NotedRoot",
    "ProducerKeyText",
    "Recorded",
    "Seconds",
    "Whole",
]

if TYPE_CHECKING:
    from otel_audit.archive.report import Root, Since
    from otel_audit.notes import Note
    from otel_audit.producer_keys import ProducerVerifier

    ParamType = click.ParamType[Any]
else:
    # Not generic before click 8.4.
    ParamType = click.ParamType


_LARGEST_NOTE: Final = 1_000_000


class Recorded(ParamType):
    """Text in the form in which it is recorded: bytes that are no UTF-8 as backslash escapes."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return the text as the archive holds it."""
        return str(value).encode(errors="backslashreplace").decode()


class Host(ParamType):
    """The host that a record belongs to."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the host; none and any are errors, and the call's own message is for programmers."""
        if value in {"", "*"}:
            self.fail(f"{value!r} is no host: name the tenant or virtual host that the event belongs to", param, ctx)
        return str(value)


class ArchiveFile(ParamType):
    """A path that SQLite can open."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the path; SQLite takes UTF-8 only."""
        text = str(value)
        if not text or Recorded().convert(text, param, ctx) != text:
            self.fail(f"{text!r} is no path that SQLite can open: give one that is UTF-8", param, ctx)
        return text


class Moment(ParamType):
    """A time expression, as nanoseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the moment."""
        if isinstance(value, int):
            return value
        try:
            return parse_time(str(value), time.time_ns())
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(ParamType):
    """A duration such as ``15m``, as nanoseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the duration."""
        if isinstance(value, int):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Beginning(ParamType):
    """Where a verification begins: a sequence, or a time expression."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Since:
        """Return it."""
        from otel_audit.archive.report import Since  # start-up time

        if isinstance(value, Since):
            return value
        text = str(value)
        if text.isascii() and text.isdecimal():
            if len(text) > 18 or int(text) < 1:
                self.fail(f"{text!r} is no sequence: give 1, 2, …", param, ctx)
            return Since(int(text))
        return Since(observed=Moment().convert(value, param, ctx))


class NotedRoot(ParamType):
    """A root that was noted, as ``SIZE:HEX``."""

    name = "root"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Root:
        """Return the root."""
        from otel_audit.archive.report import Root  # start-up time

        if isinstance(value, Root):
            return value
        match = re.fullmatch("([0-9]{1,18}):([0-9a-fA-F]{64})", str(value))
        if match is None:
            self.fail(f"{value!r} is no root: give SIZE:HEX as otel-audit status prints it", param, ctx)
        return Root(int(match[1]), bytes.fromhex(match[2]))


class NoteFile(ParamType):
    """A file with a checkpoint's note; ``-`` is standard input."""

    name = "note"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Note:
        """Return the note."""
        from otel_audit.notes import Checkpoint, Note, parse_note  # start-up time

        if isinstance(value, Note):
            return value
        try:
            if value == "-":
                text = sys.stdin.buffer.read(_LARGEST_NOTE).decode()
            else:
                with Path(value).open("rb") as file:
                    text = file.read(_LARGEST_NOTE).decode()
            note = parse_note(text)
            Checkpoint.parse(note.text)
        except (ConfigError, UnicodeError):
            self.fail(f"{str(value)[:200]!r} holds no checkpoint: give what otel-audit checkpoint printed", param, ctx)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.fail(f"{str(value)[:200]!r} cannot be read: {reason}", param, ctx)
        return note


class ProducerKeyText(ParamType):
    """A key that checks producers' signatures: the path of its file, or a public key itself."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ProducerVerifier:
        """Return what checks signatures."""
        from otel_audit.producer_keys import ProducerVerifier, load_verifier  # start-up time

        if isinstance(value, ProducerVerifier):
            return value
        try:
            return load_verifier(str(value))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Limit(ParamType):
    """A number of records, or ``all``."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, -1 for ``all``."""
        text = str(value)
        if text == "all":
            return -1
        # A number that SQLite cannot hold asks for all there are.
        if not text.isascii() or not text.isdecimal() or len(text) > 18:
            self.fail(f"{text!r} is no number of records: give 0, 1, 2, … or all", param, ctx)
        return int(text)


class Whole(ParamType):
    """A whole number within a range.

    Args:
        what: What it is, for messages.
        highest: The largest; the smallest is 1.
    """

    name = "number"

    def __init__(self, what: str, highest: int) -> None:
        self._what, self._highest = what, highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        text = str(value)
        if not text.isascii() or not text.isdecimal() or len(text) > 19 or not 1 <= int(text) <= self._highest:
            self.fail(f"{text!r} is no {self._what}: give a number from 1 to {self._highest}", param, ctx)
        return int(text)


class Seconds(ParamType):
    """A positive number of seconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        # A wait without end is what leaving the option out asks for.
        if not 0 < seconds < 1e9:
            self.fail(f"{value!r} is no number of seconds: give one above 0, such as 2.5", param, ctx)
        return seconds


class FieldList(ParamType):
    """Names of fields, separated by commas."""

    name = "fields"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names; one that no record has is an error."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        for name in names:
            custom = name.split(".")
            if name not in NAMES and not (custom[0] == "custom" and all(custom)):
                self.fail(
                    f"{name!r} is no field{similar(name, NAMES)}: give some of {', '.join(sorted(NAMES))},"
                    " custom.GROUP.FIELD",
                    param,
                    ctx,
                )
        return names
