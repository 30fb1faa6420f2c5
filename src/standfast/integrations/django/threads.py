"""Django's ORM in async code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections

P = ParamSpec("P")
T = TypeVar("T")


def with_fresh_connections(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, around which connections are closed that are broken or too old.

    As Django does around a request.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return called


def database_sync_to_async(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """``sync_to_async`` for what uses the ORM in a process without requests, in a step that is
    ``async def``. One that is ``def`` needs nothing.

    Around each call, connections that are broken or older than ``CONN_MAX_AGE`` are closed, as
    Django does around a request: else a worker would hold on to one that the server has ended.
    """
    return sync_to_async(with_fresh_connections(function))
