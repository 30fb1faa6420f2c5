"""Django's ORM in async code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections

P = ParamSpec("P")
T = TypeVar("T")


def database_sync_to_async(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """``sync_to_async`` for what uses the ORM in a process without requests, as steps do.

    Around each call, connections that are broken or older than ``CONN_MAX_AGE`` are closed, as
    Django does around a request: else a worker would hold on to one that the server has ended.
    """

    @wraps(function)
    def with_fresh_connections(*args: P.args, **kwargs: P.kwargs) -> T:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return sync_to_async(with_fresh_connections)
