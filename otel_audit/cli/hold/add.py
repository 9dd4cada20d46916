"""``otel-audit hold add``: puts records under a hold."""

from __future__ import annotations

import os
import sys

import click

from otel_audit.cli.options import archive_option, chosen_archive, load_pseudonyms
from otel_audit.cli.values import Moment, Recorded
from otel_audit.errors import ConfigError

__all__ = ["command"]


@click.command(short_help="Put records under a hold.")
@click.option("--user", type=Recorded(), metavar="NAME", help="Records of this user, as user, actor or target.")
@click.option("--host", type=Recorded(), metavar="HOST", help="Records of this host.")
@click.option(
    "--type", "type_", type=Recorded(), metavar="PATTERN", help="Records of this event type; * matches any text."
)
@click.option(
    "--since",
    type=Moment(),
    metavar="TIME",
    help="Records not before this time, as for show, by the event's time or that of recording.",
)
@click.option("--until", type=Moment(), metavar="TIME", help="Records before this time, likewise.")
@click.option("--reason", type=Recorded(), required=True, metavar="TEXT", help="Why; recorded, and shown by hold list.")
@click.option(
    "--pseudonym-key",
    metavar="FILE",
    help="Key of the pseudonyms in the archive: records of the user's are held as well.  [default:"
    " $OTEL_AUDIT_PSEUDONYM_KEY]",
)
@archive_option
def command(
    *,
    archive: str | None,
    user: str | None,
    host: str | None,
    type_: str | None,
    since: int | None,
    until: int | None,
    reason: str,
    pseudonym_key: str | None,
) -> int:
    """Keep the content of records until the hold is removed; those included that are still to come.

    Each criterion that is given must hold, and at least one must be given. Prints the id of the hold. The hold is a
    record of the archive's own, with its criteria, the reason, and who added it.
    """
    if since is not None and until is not None and since >= until:
        raise ConfigError("--since is not before --until", "no record would be held: exchange them")
    from otel_audit.archive.administration import operator, process_fields  # start-up time
    from otel_audit.archive.holds import add_hold
    from otel_audit.cli.operating import open_administration

    key = pseudonym_key or os.environ.get("OTEL_AUDIT_PSEUDONYM_KEY")
    pseudonym = load_pseudonyms(key)(user) if key and user is not None else None
    with open_administration(chosen_archive(archive)) as administration:
        hold = add_hold(
            administration, reason, operator(), {"process": process_fields()},
            user=user, pseudonym=pseudonym, host=host, type=type_, since=since, until=until,
        )  # fmt: skip
    sys.stdout.write(f"added hold {hold.id}\n")
    return 0
