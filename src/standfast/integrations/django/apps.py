"""What Django reads of an installed app."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.db.backends.signals import connection_created
from django.utils.module_loading import autodiscover_modules

from standfast.errors import ConfigurationError


class StandfastConfig(AppConfig):
    """Standfast, as Django knows it."""

    name = "standfast.integrations.django"
    label = "standfast"
    verbose_name = "Standfast"

    def ready(self) -> None:
        """Import the module ``sagas`` of each installed app, and those that the settings name."""
        from standfast.integrations.django import checks, whole
        from standfast.integrations.django.current import modules

        register(checks.check_settings)
        register(checks.check_tables, Tags.database)
        register(checks.check_requests, deploy=True)
        connection_created.connect(whole.join)
        autodiscover_modules("sagas")
        for module in modules():
            _import(module)


def _import(module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and what it imports isn't
        raise ConfigurationError(f"settings.STANDFAST['SAGAS'] has {module!r}: {error}") from error
