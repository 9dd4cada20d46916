"""The options that commands share."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from otel_audit.archive.filters import Filter
from otel_audit.cli.fields import similar
from otel_audit.cli.values import ArchiveFile, Moment, Recorded
from otel_audit.errors import ConfigError

__all__ = [
    "archive_option",
    "chosen_archive",
    "chosen_source",
    "filter_options",
    "form_option",
    "limit_option",
    "load_pseudonyms",
    "make_filter",
    "source_option",
    "split_target",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OUTCOMES: Final = ("success", "failure", "unknown")
_WHERE: Final = (
    "host", "user", "source", "type", "outcome", "action", "trace_id", "span_id", "record_id", "message", "event_name",
    "body",
)  # fmt: skip
"""What ``--where`` can ask for beside names with a dot: attributes, and custom fields."""


def archive_option(command: _Command) -> _Command:
    """Give a command the option ``--archive``."""
    option = click.option(
        "--archive",
        type=ArchiveFile(),
        metavar="FILE",
        help="The archive.  [default: $OTEL_AUDIT_ARCHIVE, else audit.db in the user's state directory]",
    )
    return option(command)


def form_option(command: _Command) -> _Command:
    """Give a command the option ``--output``, for what is text to people and JSON to programs."""
    option = click.option(
        "-o", "--output", "form", type=click.Choice(("text", "json")), default="text", help="Form.  [default: text]"
    )
    return option(command)


def limit_option(command: _Command) -> _Command:
    """Give a command the option ``--limit``, for how many faults it lists."""
    option = click.option(
        "--limit",
        type=click.IntRange(0, 1_000_000),
        default=100,
        show_default=True,
        help="Most faults to list; all are counted.",
    )
    return option(command)


def source_option(command: _Command) -> _Command:
    """Give a command the option ``--archive``, which may name a fleet."""
    option = click.option(
        "--archive",
        type=ArchiveFile(),
        metavar="FILE|URL",
        help="The archive, or a fleet's: clickhouse://user@host:8123/database, the password in"
        " $OTEL_AUDIT_CLICKHOUSE_PASSWORD.  [default: $OTEL_AUDIT_ARCHIVE, else audit.db in the user's state"
        " directory]",
    )
    return option(command)


def chosen_archive(given: str | None) -> Path:
    """Return the archive's path: the option's, else the environment's, else the default.

    Raises:
        ConfigError: The option names a fleet.
    """
    source = chosen_source(given)
    if isinstance(source, str):
        from otel_audit.fleet.location import shown_url  # for this message only

        raise ConfigError(f"{shown_url(source)!r} is a fleet, and no archive", "give the archive's file")
    return source


def chosen_source(given: str | None) -> str | Path:
    """Return the location of a fleet where the option names one, else the archive's path as `chosen_archive` does.

    Raises:
        ConfigError: It is another URL.
    """
    if given is not None:
        if "://" in given:
            from otel_audit.fleet.location import is_fleet  # start-up time: for what looks like a fleet

            if is_fleet(given):
                return given
            if not os.path.lexists(given):
                from otel_audit.paths import file_path  # likewise

                return file_path(given, "--archive")
        return Path(given)
    from otel_audit.paths import archive_path  # start-up time

    return archive_path(os.environ)


def filter_options(command: _Command) -> _Command:
    """Give a command the target and the options that choose records; `make_filter` reads them."""
    text, moment = Recorded(), Moment()
    for option in (
        click.option("--until", type=moment, metavar="TIME", help="Events before this time."),
        click.option(
            "--since",
            type=moment,
            metavar="TIME",
            help="Events not before this time: 2026-01-31, 2026-01-31T12:00:00Z (local without a zone), today,"
            " yesterday, now, or an age such as 30s, 15m, 2h, 7d, 1w.",
        ),
        click.option("--grep", metavar="REGEX", type=text, help="Some text of the record matches, ignoring case."),
        click.option(
            "--where",
            multiple=True,
            type=text,
            metavar="FIELD=VALUE",
            help="A field has this value: a JSON name (target.id), a custom field (reason.condition) or any attribute"
            " (audit.target.id). Repeatable; each must hold.",
        ),
        click.option("--id", "record_id", metavar="UUID", type=text, help="The record with this id."),
        click.option("--trace-id", metavar="HEX", type=text, help="Records of this trace."),
        click.option(
            "--ip", "address", metavar="ADDRESS", type=text, help="Session address, or a network: 10.0.0.0/8."
        ),
        click.option(
            "--pseudonym-key",
            metavar="FILE",
            help="Key of the pseudonyms in the archive: users, addresses, sessions and values of --where are also found"
            " by theirs.  [default: $OTEL_AUDIT_PSEUDONYM_KEY]",
        ),
        click.option("--session", metavar="ID", type=text, help="Session id."),
        click.option("--outcome", type=click.Choice(_OUTCOMES), help="Outcome of the event."),
        click.option("--source", "sources", multiple=True, type=text, metavar="PATTERN", help="Source, likewise."),
        click.option(
            "--type",
            "types",
            multiple=True,
            type=text,
            metavar="PATTERN",
            help="Event type; * matches any text. Repeatable; one must match.",
        ),
        click.option(
            "--admin",
            is_flag=True,
            help="The archive's own records instead: who read it, what was erased or pruned, checkpoints.",
        ),
        click.option("--global/--no-global", "host_wide", default=None, help="Only, or no, records without a user."),
        click.argument("target", required=False, type=text, metavar="[HOST|USER@HOST]"),
    ):
        command = option(command)
    return command


def make_filter(given: dict[str, Any]) -> Filter:
    """Take the values of `filter_options` out of a command's arguments and return what they ask for.

    Args:
        given: The command's arguments; the filter's are removed.

    Raises:
        ConfigError: Two of them contradict each other, or one cannot be understood.
    """
    user, host = split_target(given.pop("target"))
    admin = given.pop("admin")
    if admin and host is not None:
        _check_own(user, host)
    host_wide = given.pop("host_wide")
    if host_wide and user is not None:
        raise ConfigError("--global asks for records without a user, the target names one", "give the host alone")
    trace_id = given.pop("trace_id")
    key = given.pop("pseudonym_key") or os.environ.get("OTEL_AUDIT_PSEUDONYM_KEY")
    named = user is not None or any(given[name] for name in ("session", "address", "where"))
    return Filter(
        host=host,
        user=user,
        host_wide=host_wide,
        types=given.pop("types"),
        sources=given.pop("sources"),
        outcome=given.pop("outcome"),
        session=given.pop("session"),
        address=_address(given.pop("address")),
        trace_id=None if trace_id is None else trace_id.lower(),
        record_id=given.pop("record_id"),
        where=_where(given.pop("where")),
        grep=given.pop("grep"),
        since=given.pop("since"),
        until=given.pop("until"),
        admin=admin,
        pseudonym=load_pseudonyms(key) if key and named else None,
    )


def load_pseudonyms(key: str) -> Callable[[str], str]:
    """Return what turns a text into its pseudonym.

    Args:
        key: Path of the key's file.

    Raises:
        ConfigError: The key cannot be used.
    """
    from otel_audit.privacy.pseudonyms import Pseudonyms  # start-up time: for archives with pseudonyms only

    return Pseudonyms(key)


def split_target(target: str | None) -> tuple[str | None, str | None]:
    """Return the user and the host of a target ``HOST`` or ``USER@HOST``, None for what it does not name.

    Raises:
        ConfigError: It names no host.
    """
    if target is None:
        return None, None
    # A user's name may hold an @, a host cannot.
    user, separator, host = target.rpartition("@")
    if not host:
        raise ConfigError(f"the target {target!r} names no host", "give HOST or USER@HOST")
    return user if separator else None, host


def _check_own(user: str | None, host: str) -> None:
    from otel_audit.archive.administration import HOST  # start-up time: for this combination only

    if user is not None or host != HOST:
        raise ConfigError(
            "--admin asks for the archive's own records, which belong to no host or user of yours",
            "leave out the target; --where actor.id=NAME asks for who acted",
        )


def _where(pairs: tuple[str, ...]) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for pair in pairs:
        field, separator, value = pair.partition("=")
        if not separator or not field:
            raise ConfigError(
                f"--where {pair!r} is no FIELD=VALUE", "write for example --where reason.condition=expired"
            )
        _check_field(field)
        if wanted.setdefault(field, value) != value:
            raise ConfigError(f"--where asks for two values of {field!r}", "give each field once")
    return wanted


def _check_field(field: str) -> None:
    # Any name with a dot can be an attribute or a custom field; of the others all are known.
    if "." in field or field in _WHERE:
        return
    if field in {"actor", "target"}:
        raise ConfigError(f"--where {field!r} is a group", f"give {field}.id or {field}.type")
    raise ConfigError(
        f"--where {field!r} is no field that can be asked for{similar(field, _WHERE)}",
        f"give {', '.join(_WHERE)}, GROUP.FIELD or an attribute such as audit.target.id",
    )


def _address(address: str | None) -> str | None:
    # Text that is no address can be recorded and so be asked for; a mistyped network finds nothing, silently.
    if address is not None and re.fullmatch(r"[0-9.]+/.*|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*/.*", address):
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            raise ConfigError(f"--ip {address!r} is no network ({error})", "give one such as 10.0.0.0/8") from None
    return address
