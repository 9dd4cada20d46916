"""The files of `collector-config/grafana`, and what Grafana makes of their queries before it sends them.

Sources: Grafana 12, ``public/app/features/templating`` (variables, and their format ``percentencode``); its ClickHouse
plugin 4.20, ``pkg/macros``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import yaml

from otel_audit.provider import AuditProvider
from otel_audit.record import AuditRecord, Session
from tests.command_line import HOSTILE

__all__ = [
    "DASHBOARDS",
    "FAILURES",
    "FOLDER",
    "HOSTS",
    "Panel",
    "address_of",
    "attempts",
    "dashboard",
    "interpolated",
    "panels",
    "record_logins",
    "rules",
    "totals",
    "with_macros",
]

FOLDER: Final = Path(__file__).parents[1] / "collector-config" / "grafana"
DASHBOARDS: Final = ("clickhouse", "delivery", "loki")
FAILURES: Final = ("authentication-failure", "user.login.failure")
HOSTS: Final = ("example.com", "it's\\", "\\'); DROP TABLE otel_logs --", 'a" "*" }}|=`', "käthe + {a,b} %41")
"""The last ones are made to break out of a query, for those who let hosts be named by whoever asks."""
_USERS: Final = ("alice", "bob", "", *HOSTILE.values())
_ADDRESSES: Final = (None, "10.0.0.1", "10.0.1.2", "2001:db8::1", "not an address'\"\\")
_VARIABLE: Final = re.compile(r"\$\{(\w+):percentencode\}")
_MACRO: Final = re.compile(r"\$__(\w+)(?:\(([^()]*)\))?")


class Panel(NamedTuple):
    """A panel of a dashboard.

    Args:
        title: Its title.
        queries: Its queries, as they stand in the file.
    """

    title: str
    queries: list[dict[str, Any]]


def dashboard(name: str) -> dict[str, Any]:
    """Return a dashboard of the folder."""
    found: dict[str, Any] = json.loads((FOLDER / "dashboards" / f"{name}.json").read_text("utf-8"))
    return found


def panels(name: str) -> dict[str, Panel]:
    """Return the panels of a dashboard by their titles."""
    return {panel["title"]: Panel(panel["title"], panel["targets"]) for panel in dashboard(name)["panels"]}


def rules(name: str) -> list[dict[str, Any]]:
    """Return the alert rules of a file."""
    file = yaml.safe_load((FOLDER / "provisioning" / "alerting" / f"{name}.yaml").read_text("utf-8"))
    return [rule for group in file["groups"] for rule in group["rules"]]


def interpolated(query: str, **variables: str) -> str:
    """Return a query with its variables replaced, as the browser does it."""
    # encodeURIComponent, and what that leaves of !'()*.
    return _VARIABLE.sub(lambda found: quote(variables[found[1]], safe="-_.~"), query)


def with_macros(sql: str, since: int, until: int, *, interval: int = 60) -> str:
    """Return a statement with its macros replaced, as the ClickHouse plugin does it.

    Args:
        sql: The statement.
        since: The time range's start, nanoseconds since the epoch.
        until: Its end, inclusive.
        interval: What the panel takes for one point, in seconds.
    """
    start, end = (f"fromUnixTimestamp64Milli({moment // 1_000_000})" for moment in (since, until))

    def replaced(found: re.Match[str]) -> str:
        name, argument = found.groups()
        match name:
            case "timeFilter_ms":
                return f"{argument} >= {start} AND {argument} <= {end}"
            case "timeInterval":
                return f"toStartOfInterval(toDateTime({argument}), INTERVAL {interval} second)"
        raise AssertionError(f"the plugin's macro {name} is not known here")

    return _MACRO.sub(replaced, sql)


def record_logins(provider: AuditProvider, moments: Iterator[int]) -> None:
    """Record logins of hostile clients, and what else happens in an application.

    Args:
        provider: The provider.
        moments: The times of the events, nanoseconds since the epoch.
    """
    for number in range(240):
        host, address = HOSTS[number % len(HOSTS)], _ADDRESSES[number % 7 % len(_ADDRESSES)]
        session = None if address is None else Session(f"s{number}", "http", address)
        log = provider.get_logger("shop.web", host=host, session=session)
        user = _USERS[number % 11 % len(_USERS)]
        match number % 4:
            case 0 | 1:
                log.audit(FAILURES[number % 3 % 2], user=user, timestamp=next(moments))
            case 2:
                log.audit("user.login.success", user=user, timestamp=next(moments))
            case _:
                log.audit("data.exported", user=None if number % 3 else user, timestamp=next(moments))
    session = Session("s", "http", "10.9.9.9")
    guessed = provider.get_logger("shop.web", host=HOSTS[0], session=session)
    for count in (41, "many", -7):
        guessed.audit(FAILURES[0], user="carol", custom={"repeat": {"count": count}}, timestamp=next(moments))


def address_of(record: AuditRecord) -> str | None:
    """Return the address that a record came from; None where it has none."""
    return str(record.session.ip) if record.session and record.session.ip else None


def attempts(record: AuditRecord) -> int:
    """Return how many logins a record stands for."""
    count = record.custom.get("repeat", {}).get("count")
    return max(1, count) if isinstance(count, int) else 1


def totals(records: Iterable[AuditRecord], key: Callable[[AuditRecord], Any]) -> dict[Any, int]:
    """Return how many logins there were, by what a record has."""
    found: Counter[Any] = Counter()
    for record in records:
        found[key(record)] += attempts(record)
    return dict(found)
