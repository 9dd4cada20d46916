"""The errors: one base, a message and a remedy."""

from __future__ import annotations

import pytest

from otel_audit import errors
from otel_audit.errors import AuditError


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_an_audit_error(name: str) -> None:
    """One `except AuditError` catches whatever the library raises, and each error says what to do."""
    error = getattr(errors, name)("the disk is full", "free some space")
    assert isinstance(error, AuditError)
    assert (error.message, error.hint) == ("the disk is full", "free some space")
    assert str(error) == "the disk is full: free some space"


def test_without_a_remedy_there_is_the_message_alone() -> None:
    """An error without a hint does not end in a colon."""
    assert str(AuditError("it broke")) == "it broke"


@pytest.mark.parametrize("name", ["InvalidRecord", "ConfigError"])
def test_wrong_values_are_value_errors(name: str) -> None:
    """Errors about a value can be caught like Python's own."""
    assert issubclass(getattr(errors, name), ValueError)
