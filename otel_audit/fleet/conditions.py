"""What a filter asks for, as conditions over a table of logs; values are bound, never written into a statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from otel_audit import attributes as keys
from otel_audit.archive.administration import HOST, OWN_TYPES
from otel_audit.archive.filters import Filter, names_of
from otel_audit.clean import Cleaner

__all__ = ["FIELDS", "Conditions", "attribute"]

_COLUMNS: Final = {
    "host": keys.HOST, "user": keys.USER_NAME, "source": keys.SOURCE, "outcome": keys.OUTCOME,
    "session": keys.SESSION_ID, "address": keys.CLIENT_ADDRESS,
}  # fmt: skip
"""The archive's columns that are attributes here."""
_PLAIN: Final = {
    "type": "EventName", "event_name": "EventName", "message": "Body", "body": "Body", "trace_id": "TraceId",
    "span_id": "SpanId", "record_id": f"LogAttributes['{keys.RECORD_ID}']",
    keys.RECORD_ID: f"LogAttributes['{keys.RECORD_ID}']",
}  # fmt: skip


def attribute(key: str) -> str:
    """Return what reads one of the library's own attributes; its text, empty where there is none."""
    return f"LogAttributes['{key}']"


def _nullable(key: str) -> str:
    return f"if(mapContains(LogAttributes, '{key}'), {attribute(key)}, NULL)"


FIELDS: Final = {
    "type": "EventName", **{name: _nullable(key) for name, key in _COLUMNS.items() if name != "session"}
}  # fmt: skip
"""What counts can be made by, and what reads it."""

_OWN_NAMES: Final = ", ".join(f"'{own.name}'" for own in OWN_TYPES)
_OWN: Final = f"{attribute(keys.HOST)} = '{HOST}' AND EventName IN ({_OWN_NAMES})"
"""An archive's own records; the kind that an archive knows them by is not sent."""


class Conditions:
    """The conditions of a filter, without its times.

    Where `Filter.needs_content`, they let more records through than match.

    Args:
        filter: What is asked for.
    """

    def __init__(self, filter: Filter) -> None:
        self.values: dict[str, Any] = {}
        self._terms = [f"{attribute(keys.RECORD_ID)} != ''", f"{'' if filter.admin else 'NOT '}({_OWN})"]
        for column, forms in filter.exact.items():
            if column == "trace":
                self._one_of("TraceId", [form.hex() for form in forms if isinstance(form, bytes)])
            else:
                self._attribute(_COLUMNS[column], [str(form) for form in forms])
        if filter.outcome is not None:
            self._attribute(keys.OUTCOME, [filter.outcome])
        if filter.session is not None:
            self._attribute(keys.SESSION_ID, filter.forms(filter.session))
        if filter.host_wide is not None:
            self._terms.append(f"{'NOT ' if filter.host_wide else ''}mapContains(LogAttributes, '{keys.USER_NAME}')")
        self._patterns("EventName", filter.types)
        self._patterns(attribute(keys.SOURCE), filter.sources)
        if filter.record_id is not None:
            digits = filter.record_id.replace("-", "").lower()
            dashed = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            self._one_of(attribute(keys.RECORD_ID), [dashed])
        for sign, bound in ((">", filter.after), ("<", filter.before)):
            if bound is not None:
                number = f"toInt64OrZero({attribute(keys.SEQUENCE_NUMBER)})"
                self._terms.append(f"{number} {sign} {max(-(2**63), min(int(bound), 2**63 - 1))}")
        self._contents(filter)

    @property
    def sql(self) -> str:
        """The conditions, as they stand in a statement."""
        return " AND ".join(self._terms)

    def _bind(self, value: object, type: str) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{type}}}"

    def _one_of(self, column: str, forms: Sequence[str]) -> None:
        if len(forms) == 1:
            self._terms.append(f"{column} = {self._bind(forms[0], 'String')}")
        else:
            self._terms.append(f"{column} IN {self._bind(list(forms), 'Array(String)')}")

    def _attribute(self, key: str, forms: Sequence[str]) -> None:
        self._one_of(attribute(key), forms)
        if "" in forms:
            # What is not there reads as empty.
            self._terms.append(f"mapContains(LogAttributes, '{key}')")

    def _patterns(self, column: str, patterns: Sequence[str]) -> None:
        if not patterns:
            return
        terms = []
        for pattern in patterns:
            text = Cleaner().text(pattern, "")
            if "*" in text:
                like = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
                terms.append(f"{column} LIKE {self._bind(like, 'String')}")
            else:
                terms.append(f"{column} = {self._bind(text, 'String')}")
        self._terms.append(f"({' OR '.join(terms)})")

    def _contents(self, filter: Filter) -> None:
        """Add what a record must have so that a look at it is worth while."""
        if filter.network is not None:
            self._terms.append(f"{attribute(keys.CLIENT_ADDRESS)} != ''")
        for key, wanted in filter.where.items():
            forms = filter.forms(wanted)
            names = names_of(key)
            if "" in forms or keys.ALTERED in names:
                continue  # what is not there may be shown as empty; a list is one text here, and another in an archive
            if key in _PLAIN:
                self._one_of(_PLAIN[key], forms)
                continue
            bound = self._bind(list(forms), "Array(String)")
            terms = [f"LogAttributes[{self._bind(name, 'String')}] IN {bound}" for name in names]
            self._terms.append(f"({' OR '.join(terms)})")
