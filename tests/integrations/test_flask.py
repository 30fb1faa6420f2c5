"""Flask: the app by `current`, sagas in the session's own transaction, our errors as answers."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, has_app_context
from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker

from standfast import (
    ConfigurationError,
    Context,
    Refused,
    Saga,
    SagaNotFound,
    SagaParked,
    Standfast,
    StandfastError,
    step,
)
from standfast.errors import RateLimited, StoreUnavailable
from standfast.integrations.flask import FlaskExtension, current


class Greet(Saga[str]):
    """Greets."""

    @step(no_compensation="said is said")
    async def say(self, name: str, ctx: Context) -> str:
        return f"hello {name}"


@pytest.fixture
def app(tmp_path) -> Standfast:
    """An app with a table of the user's own."""
    made = Standfast(f"sqlite:///{tmp_path}/app.db").add(Greet())

    async def set_up() -> None:
        async with made, made.transaction() as tx:
            await tx.execute("CREATE TABLE orders (id text PRIMARY KEY)")

    asyncio.run(set_up())
    return made


@pytest.fixture
def session(app) -> Iterator[Any]:
    """As Flask-SQLAlchemy's ``db.session`` is, without the package."""
    engine = create_engine(app.database.url)
    made = scoped_session(sessionmaker(engine))
    yield made
    made.remove()
    engine.dispose()


def count(app: Standfast) -> tuple[int, int]:
    """How many orders there are, and how many sagas."""

    async def ask() -> tuple[int, int]:
        async with app, app.transaction() as tx:
            orders = await tx.fetch_value("SELECT count(*) FROM orders")
            return orders, sum((await app.sagas.store.count("saga")).values())

    return asyncio.run(ask())


def placing(web: Flask, session: Any) -> None:
    """The application that the how-to has."""

    @web.post("/orders/<key>")
    def place(key: str) -> tuple[str, int]:
        session.execute(text("INSERT INTO orders (id) VALUES (:id)"), {"id": key})
        current.adopt(session).start(Greet, key, key=key)
        if key == "refused":
            raise Refused("not that one")
        session.commit()
        return "", 202

    @web.teardown_appcontext
    def end(error: BaseException | None) -> None:
        session.remove()


@pytest.mark.parametrize("later", [True, False], ids=["init_app", "at once"])
def test_a_row_and_a_saga_are_committed_by_the_session(app, session, later):
    web = Flask("shop")
    if later:
        FlaskExtension(app).init_app(web)
    else:
        FlaskExtension(app, web)
    placing(web, session)
    client = web.test_client()
    assert client.post("/orders/7").status_code == 202
    assert count(app) == (1, 1)
    assert client.post("/orders/refused").status_code == 409
    assert count(app) == (1, 1)


@pytest.mark.parametrize(
    ("error", "status", "wait"),
    [
        (RateLimited("secret", retry_after=1.5), 429, "2"),
        (StoreUnavailable("secret"), 503, "1"),
        (SagaNotFound("secret"), 404, None),
        (ConfigurationError("secret"), 500, None),
        (SagaParked("secret"), 500, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_our_errors(app, caplog, error, status, wait):
    web = Flask("shop")
    FlaskExtension(app, web)

    @web.get("/")
    def index() -> str:
        raise error

    answer = web.test_client().get("/")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, wait)
    assert "secret" not in answer.text
    if status == 500:
        assert "secret" in caplog.text  # by Flask
    else:
        assert answer.content_type == "application/problem+json"
        assert answer.json["status"] == status


def test_errors_may_be_left_alone(app):
    web = Flask("shop")
    FlaskExtension(app, web, answer_errors=False)
    assert StandfastError not in web.error_handler_spec[None].get(None, {})


def test_each_application_has_its_own_app(app):
    other = Standfast("memory://")
    first, second = Flask("first"), Flask("second")
    extension = FlaskExtension(app, first)
    extension.init_app(first)  # again, by a factory that is called twice
    FlaskExtension(other, second)
    with first.app_context():
        assert current.database is app.database
    with second.app_context():
        assert current.database is other.database


def test_what_goes_wrong(app):
    web = Flask("shop")
    with web.app_context(), pytest.raises(ConfigurationError, match="'shop' has no app"):
        print(current.database)
    FlaskExtension(app, web)
    with pytest.raises(ConfigurationError, match="has an app already"):
        FlaskExtension(Standfast("memory://"), web)
    with pytest.raises(ConfigurationError, match="give a Standfast"):
        FlaskExtension(web)  # type: ignore[arg-type]
    assert not has_app_context()
    with pytest.raises(RuntimeError, match="application context"):
        print(current.database)


def test_the_sync_client(app):
    web = Flask("shop")
    FlaskExtension(app, web)

    @web.post("/greet/<name>")
    def greet(name: str) -> dict[str, bool]:
        return {"created": current.blocking.start(Greet, name, key=name).created}

    client = web.test_client()
    assert [client.post("/greet/ann").json["created"] for _ in range(2)] == [True, False]
    app.blocking.close()


def test_an_async_view_awaits_it(app):
    web = Flask("shop")
    FlaskExtension(app, web)

    @web.post("/greet/<name>")
    async def greet(name: str) -> dict[str, bool]:
        async with app:
            return {"created": (await current.start(Greet, name, key=name)).created}

    assert web.test_client().post("/greet/ann").json == {"created": True}


@pytest.mark.parametrize("method", ["start", "saga"])
def test_what_sync_code_can_not_await_is_refused(app, method):
    web = Flask("shop")
    FlaskExtension(app, web)
    with (
        web.app_context(),
        pytest.raises(ConfigurationError, match=rf"current\.blocking\.{method}"),
    ):
        getattr(current, method)
