"""Sagas in Django's admin: a list to search, and the story of each. Nothing can be changed."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.db import connections
from django.db.models import CharField, F, Func, Q, QuerySet, Value
from django.db.models.functions import Cast, Replace, Upper
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from standfast.errors import StandfastError
from standfast.ids import SHORTEST, parse_id
from standfast.integrations.django.current import alias, app
from standfast.integrations.django.models import Instance

_ID_END = re.compile(rf"[0-9A-F]{{{SHORTEST},32}}")


class NameFilter(admin.SimpleListFilter):
    """The sagas of this process, rather than a search of the whole table for what there is."""

    title = "saga"
    parameter_name = "name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """See `SimpleListFilter.lookups`."""
        return [(name, name) for name in _names()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Instance]) -> QuerySet[Instance]:
        """See `SimpleListFilter.queryset`."""
        return queryset.filter(name=self.value()) if self.value() else queryset


@admin.register(Instance)
class InstanceAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Looking at sagas. What acts on them is ``manage.py standfast sagas``."""

    list_display = ("id", "name", "version", "key", "status", "started", "cause")
    list_filter = ("status", NameFilter)
    search_fields = ("key",)
    search_help_text = "A whole id or its end, a whole key, or name/key."
    show_full_result_count = False
    fields = (
        *("id", "name", "version", "key", "correlation_id", "status", "step", "cause"),
        *("started", "finished", "timeline"),
    )
    readonly_fields = ("started", "finished", "timeline")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """See `ModelAdmin.has_add_permission`."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """See `ModelAdmin.has_change_permission`."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """See `ModelAdmin.has_delete_permission`."""
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Instance], search_term: str
    ) -> tuple[QuerySet[Instance], bool]:
        """See `ModelAdmin.get_search_results`: by what has an index, then by the end of an id."""
        term = search_term.strip()
        if not term:
            return queryset, False
        name, _, key = term.partition("/")
        wanted = Q(name__in=_names(), key=term) | Q(name=name, key=key)
        if id := parse_id(term):  # a key may look like one
            wanted |= Q(id=id)
        found = queryset.filter(wanted)
        end = term.replace("-", "").upper()
        if _ID_END.fullmatch(end) and not found.exists():
            found = queryset.annotate(digits=Upper(_digits())).filter(digits__endswith=end)
        return found, False

    @admin.display(ordering="created_at")
    def started(self, one: Instance) -> datetime:
        """When it was started."""
        return datetime.fromtimestamp(one.created_at, UTC)

    @admin.display(ordering="finished_at")
    def finished(self, one: Instance) -> datetime | None:
        """When it ended, if it has."""
        return None if one.finished_at is None else datetime.fromtimestamp(one.finished_at, UTC)

    def timeline(self, one: Instance) -> SafeString:
        """What happened to it, and what it does or waits for now."""
        try:
            told = str(app.blocking.operations.timeline(str(one.id)))
        except StandfastError as error:
            told = str(error)
        return format_html("<pre>{}</pre>", told)


def _digits() -> Func:
    """An instance's id in hexadecimal digits without dashes."""
    if connections[alias()].vendor == "sqlite":
        return Func(F("id"), function="hex", output_field=CharField())
    return Replace(Cast("id", CharField()), Value("-"), Value(""))


def _names() -> list[str]:
    return sorted({definition.name for definition in app.sagas.definitions.by_kind.values()})
