"""Saga classes that are made by a call, for tests that need many alike."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from standfast import Saga


def saga_class(base: Any, body: Mapping[str, Any], name: str = "Odd") -> type[Saga[Any]]:
    """What ``class Odd(base): …`` makes."""
    return types.new_class(name, (base,), {}, lambda namespace: namespace.update(body))
