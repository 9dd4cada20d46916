"""Runs a command line and turns every outcome into an exit status and at most one line on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from otel_audit._version import __version__
from otel_audit.cli.group import LazyGroup
from otel_audit.cli.values import ArchiveFile
from otel_audit.errors import AuditError
from otel_audit.safe import escape

__all__ = ["EPILOG", "command_line", "run"]

EPILOG: Final = """\
Exit status: 0 done; 1 something needs an operator (status, doctor), not all was delivered (ship --once), a record is no
dead letter (requeue), copies of what was erased may remain (erase), a backend lacks something (reconcile), or the
archive or proof does not hold (verify, verify-proof); 2 wrong usage or setting, or an archive that cannot be used; 3
wrong usage of verify, reconcile, prove and verify-proof, so that 2 always says there: not verifiable; 70 a fault of
otel-audit itself; 130 interrupted.
"""


@click.group(
    cls=LazyGroup,
    commands_in="otel_audit.cli",
    names=(
        "checkpoint",
        "doctor",
        "erase",
        "export",
        "hold",
        "import",
        "keys",
        "prove",
        "prune",
        "receive",
        "reconcile",
        "record",
        "requeue",
        "ship",
        "show",
        "stats",
        "status",
        "subject-export",
        "verify",
        "verify-proof",
    ),
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--archive",
    type=ArchiveFile(),
    metavar="FILE",
    help="The archive; also accepted after the command.  [default: $OTEL_AUDIT_ARCHIVE, else audit.db in the user's"
    " state directory]",
)
@click.version_option(__version__, "-V", "--version", message="otel-audit %(version)s")
def command_line(archive: str | None) -> None:
    """Search, watch, ship, verify and prune an archive of audit records.

    Works while the application runs, and when it does not. Options may stand anywhere on the line. Commands that show
    records leave one in the archive: who read, and what was asked for (show --admin; OTEL_AUDIT_READS=off for none).
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Args:
        arguments: What follows the program's name.

    Returns:
        The exit status.
    """
    try:
        # Not click's own `main`: it turns a closed pipe into an error.
        with command_line.make_context("otel-audit", list(arguments)) as context:
            status = command_line.invoke(context)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message() + "\n")
        return 2
    except click.ClickException as error:
        return _complain(_usage(error), _usage_status(error))
    except click.exceptions.Exit as end:
        return end.exit_code
    except AuditError as error:
        return _complain(str(error), 2)
    except BrokenPipeError:
        # Whoever read has enough. The interpreter's own last flush must find a file that takes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else "standard output: "
        return _complain(f"{where}{error.strerror or error}: check the path, its permissions and the disk", 2)
    except Exception as error:  # noqa: BLE001 - a traceback tells an operator nothing, and may quote what clients sent
        return _complain(f"unexpected {type(error).__name__}: {error}: please report this as a fault", 70)
    return status if isinstance(status, int) else 0


def _usage(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        # click's own idea of similar finds --ip in --tpye.
        import difflib  # for this message only

        names = [option.strip("-") for option in error.possibilities]
        near = difflib.get_close_matches(error.option_name.strip("-"), names, 1, 0.7)
        error = click.NoSuchOption(error.option_name, possibilities=[f"--{name}" for name in near], ctx=error.ctx)
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}: see {context.command_path} --help" if context is not None else message


def _usage_status(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    return getattr(context.command, "usage_status", 2) if context is not None else 2


def _complain(message: str, status: int) -> int:
    # Messages quote arguments, file names and answers of servers.
    sys.stderr.write(f"otel-audit: {escape(message)}\n")
    return status
