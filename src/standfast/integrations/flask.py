"""An extension for Flask: the app by `current`, and our errors as problem details.

::

    shop = Standfast("postgresql://…").add(PlaceOrder())
    web = Flask(__name__)
    FlaskExtension(shop, web)


    @web.post("/orders/<key>")
    def place(key: str) -> tuple[str, int]:
        db.session.add(Order(id=key))
        current.adopt(db.session).start(PlaceOrder, key, key=key)
        db.session.commit()  # the row and the saga
        return "", 202
"""

from __future__ import annotations

from typing import Any

from standfast.affinity import running_loop
from standfast.app import Standfast
from standfast.checks import is_async
from standfast.errors import ConfigurationError, StandfastError
from standfast.integrations.problems import problem_of
from standfast.lazy import extra

with extra("flask"):
    from flask import Flask, Response, current_app
    from werkzeug.local import LocalProxy

_NAME = "standfast"


class FlaskExtension:
    """Gives a Flask application its app, which `current` is then, and answers our errors.

    ``FlaskExtension(app, flask)``, or `init_app` later, for each of several Flask applications.
    The app needn't be open for `Standfast.adopt`, and ``current.blocking`` opens it when it is used
    first. Nothing of it belongs to a request, so there is nothing to tear down: your session's
    transaction ends with your session, as if nothing had been adopted.

    `answer_errors`: answer errors as `answer_error` says. Raises `ConfigurationError` for what is
    no app.
    """

    def __init__(
        self, app: Standfast, flask: Flask | None = None, *, answer_errors: bool = True
    ) -> None:
        given: object = app
        if not isinstance(given, Standfast):
            raise ConfigurationError(f"FlaskExtension({given!r}): give a Standfast(…)")
        self._app = app
        self._answer_errors = answer_errors
        if flask is not None:
            self.init_app(flask)

    def init_app(self, flask: Flask) -> None:
        """Join a Flask application. Raises `ConfigurationError` for one that has another app."""
        if flask.extensions.setdefault(_NAME, self._app) is not self._app:
            raise ConfigurationError(
                f"init_app({flask!r}): it has an app already: give one that has all sagas"
            )
        if self._answer_errors:
            flask.register_error_handler(StandfastError, answer_error)


def answer_error(error: StandfastError) -> Response:
    """An error handler for Flask: as that of `standfast.integrations.starlette`, error by error.

    What is the server's affair is raised again, so that Flask logs it and answers 500.
    """
    problem = problem_of(error)
    if problem is None:
        raise error
    body = problem.body()
    fields = [(name.decode(), value.decode()) for name, value in problem.headers(body)]
    return Response(body, problem.status, fields)


def _current() -> Standfast:
    app: Standfast | None = current_app.extensions.get(_NAME)
    if app is None:
        raise ConfigurationError(
            f"{current_app.name!r} has no app: write FlaskExtension(app, flask)"
        )
    return app


class _Current(LocalProxy[Standfast]):
    def __getattr__(self, name: str) -> Any:
        found = getattr(_current(), name)
        if is_async(found) and running_loop() is None:
            raise ConfigurationError(
                f"current.{name} in sync code, which can't await it, so that nothing would be "
                f"done: write current.blocking.{name}, or current.adopt(…) for your transaction"
            )
        return found


current: Standfast = _Current(_current)  # type: ignore[assignment]
"""The app of the Flask application at work. Raises `ConfigurationError` where it has none, for its
async methods in sync code, and what Flask raises outside an application context."""
