"""The app: connects the receivers, registers the checks, and tells the global provider its settings."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed

from otel_audit.integrations.django.checks import check_archive, check_middleware, check_setting
from otel_audit.integrations.django.options import forget_options, provider_settings
from otel_audit.provider import configure_late

__all__ = ["AuditConfig"]


class AuditConfig(AppConfig):
    """``otel_audit.integrations.django`` in ``INSTALLED_APPS``."""

    name = "otel_audit.integrations.django"
    label = "otel_audit"
    verbose_name = "Audit log"

    def ready(self) -> None:
        """Connect everything; open nothing, so that commands which record nothing need no archive."""
        # Now that the models are there.
        from otel_audit.integrations.django import accounts, entries, passwords

        configure_late(provider_settings)
        checks.register(check_setting, self.label)
        checks.register(check_archive, self.label)
        checks.register(check_middleware, self.label)
        setting_changed.connect(forget_options)
        accounts.connect()
        passwords.connect()
        entries.connect()
