"""``otel-audit record``: one audit event from a shell script or cron."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

import click

from otel_audit.catalog import Outcome
from otel_audit.cli.options import archive_option, chosen_archive, form_option
from otel_audit.cli.values import Host, Moment
from otel_audit.errors import InvalidRecord
from otel_audit.record import Session, rfc3339
from otel_audit.safe import escape, json_text

__all__ = ["command"]


@click.command(short_help="Record an event.")
@click.argument("host", type=Host())
@click.argument("type_", metavar="TYPE")
@click.option("--user", metavar="NAME", help="The account; without it the record is host-wide.")
@click.option("--source", default="shell", show_default=True, metavar="NAME", help="The component that records.")
@click.option("--session-id", metavar="ID", help="Session id.")
@click.option("--session-type", metavar="TYPE", help="Session type, e.g. ssh.")
@click.option("--ip", metavar="ADDRESS", help="The client's address.")
@click.option("--client", metavar="TEXT", help="The client's name, e.g. its user agent.")
@click.option("--outcome", type=click.Choice(get_args(Outcome)), help="Outcome.  [default: the type's]")
@click.option("--action", metavar="VERB", help="What was done, e.g. DELETE.  [default: the type's]")
@click.option("--actor", metavar="ID", help="Who acted.  [default: the user, else the source]")
@click.option("--target", metavar="ID", help="What was acted upon.")
@click.option("--message", metavar="TEXT", help="Text for people.  [default: a sentence made from the rest]")
@click.option(
    "--timestamp", type=Moment(), metavar="TIME", help="When it happened, as for show --since.  [default: now]"
)
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="GROUP.FIELD=VALUE",
    help="A custom field: = gives text, and GROUP.FIELD:=JSON a number, boolean, list or map. Repeatable.",
)
@form_option
@archive_option
def command(
    *,
    host: str,
    type_: str,
    user: str | None,
    source: str,
    session_id: str | None,
    session_type: str | None,
    ip: str | None,
    client: str | None,
    outcome: Outcome | None,
    action: str | None,
    actor: str | None,
    target: str | None,
    message: str | None,
    timestamp: int | None,
    fields: Sequence[str],
    form: str,
    archive: str | None,
) -> None:
    """Record an event of TYPE at HOST, and print its receipt when it is on disk.

    Nothing is sent: the shipper of the application, or otel-audit ship, delivers it. Arguments that are no UTF-8 are
    recorded with backslash escapes.
    """
    if timestamp is not None and not 0 < timestamp < 2**63:
        # Recorded with a mark where it may be a client's clock; here it is a slip of whoever types it.
        raise click.BadParameter("it must lie between 1970 and 2262.", param_hint="--timestamp")
    session = Session(session_id, session_type, ip, client)
    custom = _custom(fields)
    from otel_audit.cli.complaints import log_to_stderr
    from otel_audit.provider import AuditProvider  # start-up time: wrong usage is reported at once

    log_to_stderr()
    with AuditProvider(
        archive=chosen_archive(archive), ship=False, durability="commit", on_failure="raise"
    ) as provider:
        receipt = provider.get_logger(source, host=host).audit(
            type_,
            user=user,
            session=None if session == Session() else session,
            outcome=outcome,
            action=action,
            actor=actor,
            target=target,
            message=message,
            timestamp=timestamp,
            custom=custom or None,
        )
    if form == "json":
        text = json_text({
            "record_id": receipt.record_id,
            "sequence": receipt.sequence,
            "integrity_hash": receipt.integrity_hash,
            "timestamp": None if receipt.timestamp is None else rfc3339(receipt.timestamp),
        })  # fmt: skip
    else:
        text = escape(f"recorded {receipt.record_id} as {receipt.sequence}")
    sys.stdout.write(text + "\n")


def _custom(fields: Sequence[str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for text in fields:
        name, separator, given = text.partition("=")
        value: Any = given
        if name.endswith(":"):
            name, value = name[:-1], _json(text, given)
        group, dot, field = name.partition(".")
        if not separator or not dot or not group or not field:
            raise InvalidRecord(
                f"--field {text!r} is no GROUP.FIELD=VALUE", "write for example --field reason.text=expired"
            )
        if repr(groups.setdefault(group, {}).setdefault(field, value)) != repr(value):
            raise InvalidRecord(f"--field gives two values for {name!r}", "give each field once")
    return groups


def _json(text: str, value: str) -> Any:
    """Return the value of ``GROUP.FIELD:=JSON``."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(value, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(
            f"--field {text!r} gives no JSON behind := ({error})", "write for example --field backup.size:=7"
        ) from None
