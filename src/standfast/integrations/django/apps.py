"""What Django reads of an installed app."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.utils.module_loading import autodiscover_modules


class StandfastConfig(AppConfig):
    """Standfast, as Django knows it."""

    name = "standfast.integrations.django"
    label = "standfast"
    verbose_name = "Standfast"

    def ready(self) -> None:
        """Import the module ``sagas`` of each installed app, and those that the settings name."""
        from standfast.integrations.django import checks
        from standfast.integrations.django.current import modules

        register(checks.check_settings)
        register(checks.check_tables, Tags.database)
        register(checks.check_requests, deploy=True)
        autodiscover_modules("sagas")
        for module in modules():
            import_module(module)
