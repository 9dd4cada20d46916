"""The errors that otel_audit raises.

::

    AuditError
    ├── InvalidRecord    the call is wrong: a programmer's error, nothing was recorded
    ├── ArchiveError     the archive cannot be opened, read or written
    ├── DeliveryError    a destination cannot be set up or used
    ├── IntegrityError   the archive does not say what it said before
    └── ConfigError      a setting is wrong, or two contradict each other
"""

__all__ = [
    "ArchiveError",
    "AuditError",
    "ConfigError",
    "DeliveryError",
    "IntegrityError",
    "InvalidRecord",
]


class AuditError(Exception):
    """Base of all errors raised here: says what happened, and in `hint` what to do about it.

    Args:
        message: What happened, naming the value.
        hint: The remedy, as one sentence; empty where there is none.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, followed by the remedy."""
        return f"{self.message}: {self.hint}" if self.hint else self.message


class InvalidRecord(AuditError, ValueError):
    """The audit call is wrong (no host, no type, a wrong argument type): nothing was recorded."""


class ArchiveError(AuditError):
    """The archive cannot be opened, read or written; what was asked for did not happen."""


class DeliveryError(AuditError):
    """A destination cannot be set up, or answered in a way that no rule covers."""


class IntegrityError(AuditError):
    """The archive does not say what it said before."""


class ConfigError(AuditError, ValueError):
    """A setting is wrong, or two settings contradict each other."""
