"""FastAPI: the app for the server's life, a transaction for each request, and our errors."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.exceptions import DependencyScopeError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from standfast import (
    ConfigurationError,
    Context,
    Refused,
    Saga,
    SagaCompensated,
    SagaConflict,
    SagaNotFound,
    SagaParked,
    Standfast,
    StandfastError,
    Transaction,
    step,
    wait,
)
from standfast.doors.blocking import BlockingTransaction
from standfast.errors import (
    CircuitOpen,
    CodecError,
    MigrationNeeded,
    RateLimited,
    StoreFull,
    StoreUnavailable,
    TimedOut,
    TransactionConflict,
)
from standfast.integrations.fastapi import AppDep, TransactionDep, adopted, current_app
from standfast.integrations.starlette import answer_error
from standfast.saga.definition import Unreadable


class Greet(Saga[str]):
    """Greets."""

    @step(no_compensation="said is said")
    async def say(self, name: str, ctx: Context) -> str:
        return f"hello {name}"


class Asks(Saga[str]):
    """Waits for a number."""

    number = wait("number", type=int)


@pytest.fixture
async def app(tmp_path) -> Standfast:
    """An app with a table of the user's own."""
    made = Standfast(f"sqlite:///{tmp_path}/app.db").add(Greet(), Asks())
    async with made, made.transaction() as tx:
        await tx.execute("CREATE TABLE orders (id text PRIMARY KEY)")
    return made


async def orders(app: Standfast) -> list[str]:
    async with app, app.transaction() as tx:
        return [row["id"] for row in await tx.fetch("SELECT id FROM orders ORDER BY id")]


async def sagas(app: Standfast) -> int:
    async with app:
        return sum((await app.sagas.store.count("saga")).values())


def client(api: Any) -> httpx.AsyncClient:
    """One that answers 500 as a server does."""
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://shop")


def an_api(app: Standfast) -> FastAPI:
    """One whose lifespan runs elsewhere: httpx runs none."""
    api = FastAPI()
    api.state.standfast = app
    api.add_exception_handler(StandfastError, answer_error)
    return api


# -- the lifespan --------------------------------------------------------------------------------


async def test_the_app_is_open_while_the_server_lives(app, serve):
    api = FastAPI(lifespan=app.lifespan)

    @api.post("/greet/{name}")
    async def greet(name: str, found: AppDep) -> bool:
        assert found is app
        return (await found.start(Greet, name, key=name)).created

    async with serve(api) as url, httpx.AsyncClient() as web:
        answers = [(await web.post(f"{url}/greet/ann")).json() for _ in range(2)]
        app.check_open()
    assert answers == [True, False]
    assert not hasattr(api.state, "standfast")
    with pytest.raises(ConfigurationError, match="isn't open"):
        app.check_open()


@pytest.mark.parametrize("framework", [FastAPI, Starlette])
async def test_a_lifespan_of_ones_own_is_inside_and_keeps_its_state(app, serve, framework):
    log = []

    @asynccontextmanager
    async def mine(asgi: Any) -> AsyncIterator[dict[str, Any]]:
        app.check_open()
        log.append(asgi)
        yield {"greeting": "hello"}
        app.check_open()
        log.append("end")

    async def index(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.greeting)

    api = framework(lifespan=app.lifespan(inner=mine), routes=[Route("/", index)])
    async with serve(api) as url, httpx.AsyncClient() as web:
        assert (await web.get(url)).text == "hello"
    assert log == [api, "end"]


async def test_it_also_works_if_it_is_asked_to(app, serve):
    api = FastAPI(lifespan=app.lifespan(running=True, drain=2))

    @api.get("/greet/{name}")
    async def greet(name: str, found: AppDep) -> str:
        handle = await found.start(Greet, name)
        said: str = (await handle.result("10s"))[Greet.say]
        return said

    async with serve(api) as url, httpx.AsyncClient() as web:
        assert (await web.get(f"{url}/greet/ann")).json() == "hello ann"
    assert app.supervisor is None


async def test_a_server_that_fails_to_start_leaves_nothing_open(app):
    @asynccontextmanager
    async def mine(asgi: Any) -> AsyncIterator[None]:
        raise OSError("no port")
        yield

    api = FastAPI()
    with pytest.raises(OSError, match="no port"):
        async with app.lifespan(inner=mine)(api):
            pass
    assert not hasattr(api.state, "standfast")
    with pytest.raises(ConfigurationError, match="isn't open"):
        app.check_open()


async def test_of_two_apps_the_outer_one_is_found(app):
    api, other = FastAPI(), Standfast("memory://")
    async with app.lifespan(inner=other.lifespan)(api):
        assert api.state.standfast is app
        other.check_open()


async def test_an_application_without_a_state_will_do(app):
    async with app.lifespan(object()) as state:
        assert state is None
        app.check_open()


async def _generator(asgi: Any) -> AsyncIterator[None]:
    yield


async def _coroutine(asgi: Any) -> None: ...


@contextmanager
def _for_sync_code(asgi: Any) -> Iterator[None]:
    yield


_made = asynccontextmanager(_generator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lease": "10s"}, "need running=True"),
        ({"running": "yes", "lease": "10s"}, "must be True or False"),
        ({"running": "yes"}, "must be True or False"),
        ({"inner": _generator}, "asynccontextmanager"),
        ({"inner": 7}, "asynccontextmanager"),
        ({"inner": _coroutine}, "asynccontextmanager"),
        ({"inner": _for_sync_code}, "asynccontextmanager"),
        ({"inner": _made(None)}, "don't call it"),
        ({"running": True, "lease": "a while"}, "lease"),
        ({"running": True, "poll": -1}, "poll"),
        ({"running": True, "drain": "soon"}, "drain"),
        ({"running": True, "name": ""}, "name"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Standfast("memory://").lifespan(**options)


@pytest.mark.parametrize("mine", [_made, _generator, _coroutine])
def test_a_lifespan_without_its_name_is_refused(mine):
    with pytest.raises(ConfigurationError, match="write inner="):
        Standfast("memory://").lifespan(mine)


def test_an_option_that_there_isnt_is_refused_at_once():
    with pytest.raises(TypeError, match="concurency"):
        Standfast("memory://").lifespan(running=True, concurency=4)


async def test_a_function_may_be_the_application(app):
    async def asgi(scope, receive, send): ...

    async with app.lifespan(asgi):
        app.check_open()


# -- dependencies --------------------------------------------------------------------------------


async def test_without_a_lifespan_one_is_told(app):
    api = FastAPI()

    @api.get("/")
    async def index(found: AppDep) -> None: ...

    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as web:
        with pytest.raises(ConfigurationError, match=r"lifespan=app\.lifespan"):
            await web.get("/")


async def test_another_app_may_take_its_place_in_tests(app):
    api, other = an_api(app), Standfast("memory://")
    api.dependency_overrides[current_app] = lambda: other

    @api.get("/")
    async def index(found: AppDep) -> str:
        return found.database.url

    async with client(api) as web:
        assert (await web.get("/")).json() == other.database.url


async def test_a_mounted_application_is_given_its_app(app):
    mounted = FastAPI()
    mounted.state.standfast = app

    @mounted.get("/")
    async def index(found: AppDep) -> bool:
        return found is app

    async with client(Starlette(routes=[Mount("/sub", mounted)])) as web:
        assert (await web.get("/sub/")).json() is True


async def test_a_transaction_is_committed_before_anything_is_sent(app):
    api = an_api(app)
    later: list[list[str]] = []

    async def note() -> None:
        later.append(await orders(app))

    @api.post("/orders/{key}")
    async def place(key: str, tx: TransactionDep, background: BackgroundTasks) -> Any:
        await tx.execute("INSERT INTO orders (id) VALUES ($1)", key)
        await tx.start(Greet, key, key=key)
        background.add_task(note)

        async def body() -> AsyncIterator[str]:
            yield ",".join(await orders(app))  # as another client would see it
            with pytest.raises(ConfigurationError, match="after the end"):
                tx.on_commit(lambda: None)

        return StreamingResponse(body(), background=background)

    async with app, client(api) as web:
        answer = await web.post("/orders/7")
    assert (answer.status_code, answer.text) == (200, "7")
    assert later == [["7"]]
    assert await sagas(app) == 1


@pytest.mark.parametrize(
    ("ends", "status"),
    [(HTTPException(418), 418), (Refused("no"), 409), (KeyError("x"), 500), ("text", 500)],
    ids=["HTTPException", "ours", "any", "an answer that isn't valid"],
)
async def test_a_transaction_is_rolled_back_with_its_request(app, ends, status):
    api = an_api(app)

    @api.post("/orders/{key}")
    async def place(key: str, tx: TransactionDep) -> int:
        await tx.execute("INSERT INTO orders (id) VALUES ($1)", key)
        await tx.start(Greet, key, key=key)
        if isinstance(ends, Exception):
            raise ends
        return ends

    async with app, client(api) as web:
        assert (await web.post("/orders/7")).status_code == status
    assert await orders(app) == []
    assert await sagas(app) == 0


async def test_an_answer_that_is_returned_commits_whatever_its_status(app):
    api = an_api(app)

    @api.post("/orders/{key}")
    async def place(key: str, tx: TransactionDep) -> JSONResponse:
        await tx.execute("INSERT INTO orders (id) VALUES ($1)", key)
        return JSONResponse({}, 409)

    async with app, client(api) as web:
        assert (await web.post("/orders/7")).status_code == 409
    assert await orders(app) == ["7"]


async def test_a_commit_that_fails_fails_the_request(app, monkeypatch):
    api, begin = an_api(app), app.database.transaction

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        async with begin() as tx:
            yield tx
            raise StoreUnavailable("the network is gone")

    @api.post("/orders")
    async def place(tx: TransactionDep) -> str:
        return "placed"

    async with app, client(api) as web:
        monkeypatch.setattr(app.database, "transaction", transaction)
        answer = await web.post("/orders")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


async def test_starting_through_the_app_inside_the_transaction_is_refused(app):
    api = an_api(app)

    @api.post("/")
    async def place(found: AppDep, tx: TransactionDep) -> None:
        with pytest.raises(ConfigurationError, match="inside its own transaction"):
            await found.start(Greet, "ann")

    async with app, client(api) as web:
        assert (await web.post("/")).status_code == 200


async def told(request: Request, error: Exception) -> PlainTextResponse:
    return PlainTextResponse(f"{error}", 500)


async def test_an_endpoint_that_can_await_nothing_gets_no_transaction_to_be_awaited(app):
    api = an_api(app)
    api.add_exception_handler(ConfigurationError, told)

    @api.post("/def")
    def place(tx: TransactionDep) -> None:
        pytest.fail("called")

    async def placed(tx: TransactionDep) -> None:
        await tx.start(Greet, "ann")

    @api.post("/by-a-dependency", dependencies=[Depends(placed)])
    def place_by_a_dependency() -> None: ...

    @api.post("/def-too", dependencies=[Depends(placed)])
    def place_too(tx: TransactionDep) -> None:
        pytest.fail("called")

    def dialect(tx: TransactionDep) -> str:
        return tx.dialect

    @api.post("/beside-another", dependencies=[Depends(placed)])
    def place_beside_another(told: Annotated[str, Depends(dialect)]) -> str:
        return told

    async with app, client(api) as web:
        assert "place, which is def" in (await web.post("/def")).text
        assert "place_too, which is def" in (await web.post("/def-too")).text
        assert (await web.post("/by-a-dependency")).status_code == 200
        assert (await web.post("/beside-another")).json() == "sqlite"
    assert await sagas(app) == 2


async def test_what_is_to_be_awaited_is_refused_in_a_def(app):
    api = an_api(app)
    api.add_exception_handler(ConfigurationError, told)

    @api.post("/forgotten/{name}")
    def forgotten(name: str, found: AppDep) -> str:
        return str({"start": lambda: found.start(Greet, "ann")}.get(name, lambda: found)())

    @api.post("/get/{name}")
    def get(name: str, found: AppDep) -> str:
        return str(getattr(found, name))

    @api.post("/blocking")
    def blocking(found: AppDep) -> bool:
        assert isinstance(found, Standfast)
        return found.blocking.start(Greet, "ann").created

    def handed_on(found: AppDep) -> Standfast:
        return found

    @api.post("/awaited")
    async def awaited(found: Annotated[Standfast, Depends(handed_on)], same: AppDep) -> bool:
        async with found, same:
            return (await found.start(Greet, "ann")).created

    @api.post("/not-awaited")
    def not_awaited(found: Annotated[Standfast, Depends(handed_on)]) -> str:
        return str(found.start(Greet, "ann"))

    async with app, client(api) as web:
        assert "Write app.blocking.start" in (await web.post("/forgotten/start")).text
        assert "Write app.blocking.start" in (await web.post("/not-awaited")).text
        for name in ("saga", "handle", "operations", "progress", "transaction"):
            assert f"Write app.blocking.{name}" in (await web.post(f"/get/{name}")).text
        assert (await web.post("/get/database")).status_code == 200
        assert (await web.post("/blocking")).json() is True
        assert (await web.post("/awaited")).json() is True
        assert (app._opened, await sagas(app)) == (1, 2)


async def connected(api: Any, path: str) -> list[Any]:
    """What a WebSocket is sent that is opened and closed again."""
    sent: list[Any] = []
    received = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await api(scope, receive, send)
    return sent


async def test_no_transaction_is_as_long_as_a_websocket(app):
    api, begun = an_api(app), []
    engine = create_engine(app.database.url)

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    adopted_dep: Any = Annotated[BlockingTransaction, adopted(Depends(get_session))]

    @api.websocket("/own")
    async def own(socket: WebSocket, tx: TransactionDep) -> None:
        begun.append(tx)

    @api.websocket("/adopted")
    async def ridden(socket: WebSocket, tx: adopted_dep) -> None:
        begun.append(tx)

    @api.websocket("/by-message")
    async def by_message(socket: WebSocket, found: AppDep) -> None:
        await socket.accept()
        async with found.transaction() as tx:
            await tx.start(Greet, "ann")

    async with app:
        with pytest.raises(ConfigurationError, match=r"app\.transaction\(\)` for each message"):
            await connected(api, "/own")
        with pytest.raises(ConfigurationError, match=r"app\.adopt\(session\)` for each message"):
            await connected(api, "/adopted")
        assert [one["type"] for one in await connected(api, "/by-message")] == ["websocket.accept"]
    assert (begun, await sagas(app)) == ([], 1)
    engine.dispose()


@pytest.mark.parametrize(
    ("alias", "name"), [(TransactionDep, "TransactionDep"), (AppDep, "AppDep")]
)
def test_a_dependency_that_is_wrapped_again_is_refused_where_it_is_written(alias, name):
    api, wrapped = FastAPI(), Depends(alias)

    async def index(taken: Any = wrapped) -> None: ...

    with pytest.raises(ConfigurationError, match=f"write `name: {name}`"):
        api.get("/")(index)


@pytest.mark.parametrize("scope", ["function", "request"])
async def test_a_dependency_that_yields_may_take_the_transaction(app, scope):
    api = an_api(app)

    async def repository(tx: TransactionDep) -> AsyncIterator[Transaction]:
        yield tx

    async def place(tx: Annotated[Transaction, Depends(repository, scope=scope)]) -> None:
        await tx.start(Greet, "ann")

    if scope == "request":  # FastAPI's own, for it would outlast the transaction
        with pytest.raises(DependencyScopeError):
            api.post("/")(place)
        return
    api.post("/")(place)
    async with app, client(api) as web:
        assert (await web.post("/")).status_code == 200
    assert await sagas(app) == 1


async def test_a_route_class_that_answers_an_error_commits(app):
    """FastAPI ends what is for the function's time outside of it, and sees no error there."""

    class Answers(APIRoute):
        def get_route_handler(self) -> Any:
            handler = super().get_route_handler()

            async def answer(request: Request) -> Any:
                try:
                    return await handler(request)
                except KeyError:
                    return JSONResponse({}, 400)

            return answer

    api = an_api(app)
    api.router.route_class = Answers

    @api.post("/")
    async def place(tx: TransactionDep) -> None:
        await tx.start(Greet, "ann")
        raise KeyError

    async with app, client(api) as web:
        assert (await web.post("/")).status_code == 400
    assert await sagas(app) == 1


@pytest.mark.parametrize("form", ["Annotated", "Depends"])
@pytest.mark.parametrize("scope", ["function", "request", None])
async def test_an_adopted_async_session(app, form, scope):
    engine = create_async_engine(app.database.url.replace("sqlite://", "sqlite+aiosqlite://"))
    sessions = []

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            sessions.append(session)
            yield session

    depends = Depends(get_session, scope=scope)
    session_dep: Any = Annotated[AsyncSession, depends]
    adopted_dep: Any = Annotated[
        Transaction, adopted(depends if form == "Depends" else session_dep)
    ]
    api = an_api(app)

    @api.post("/orders/{key}")
    async def place(key: str, session: session_dep, tx: adopted_dep, fails: bool = False) -> None:
        await session.execute(text("INSERT INTO orders (id) VALUES (:id)"), {"id": key})
        await tx.start(Greet, key, key=key)
        if fails:
            raise HTTPException(418)
        await session.commit()

    async with app, client(api) as web:
        assert (await web.post("/orders/7?fails=1")).status_code == 418
        assert (await orders(app), await sagas(app)) == ([], 0)
        assert (await web.post("/orders/7")).status_code == 200
    assert (await orders(app), await sagas(app)) == (["7"], 1)
    assert len(sessions) == 2  # one for each request
    await engine.dispose()


async def test_an_endpoint_that_can_await_nothing_adopts_no_async_session(app):
    engine = create_async_engine(app.database.url.replace("sqlite://", "sqlite+aiosqlite://"))

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            yield session

    adopted_dep: Any = Annotated[Transaction, adopted(Depends(get_session))]
    api = an_api(app)
    api.add_exception_handler(ConfigurationError, told)

    @api.post("/def")
    def place(tx: adopted_dep) -> None:
        pytest.fail("called")

    def key(tx: adopted_dep) -> str:
        return tx.dialect

    @api.post("/helped")
    async def helped(key: Annotated[str, Depends(key)]) -> str:
        return key

    async with app, client(api) as web:
        said = (await web.post("/def")).text
        assert "place, which is def" in said
        assert said.endswith("use a sync session")
        assert (await web.post("/helped")).json() == "sqlite"
    await engine.dispose()


async def test_two_transactions_in_one_request_are_refused(app):
    api, engine = an_api(app), create_engine(app.database.url)
    api.add_exception_handler(ConfigurationError, told)

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    adopted_dep: Any = Annotated[BlockingTransaction, adopted(Depends(get_session))]

    async def audit(tx: TransactionDep) -> None:
        await tx.start(Greet, "ann")

    @api.post("/after")
    async def after(tx: TransactionDep, other: adopted_dep) -> None: ...

    @api.post("/before")
    async def before(other: adopted_dep, tx: TransactionDep) -> None: ...

    @api.post("/by-a-dependency", dependencies=[Depends(audit)])
    def by_a_dependency(other: adopted_dep) -> None: ...

    async with app, client(api) as web:
        for path in ("/after", "/before", "/by-a-dependency"):
            assert "Take the adopted one for all" in (await web.post(path)).text
    assert await sagas(app) == 0
    engine.dispose()


async def test_an_adopted_session_that_the_endpoint_begins(app):
    engine = create_async_engine(app.database.url.replace("sqlite://", "sqlite+aiosqlite://"))

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session:
            yield session

    session_dep: Any = Annotated[AsyncSession, Depends(get_session)]
    adopted_dep: Any = Annotated[Transaction, adopted(session_dep)]
    api = an_api(app)

    @api.post("/orders/{key}")
    async def place(key: str, session: session_dep, tx: adopted_dep) -> None:
        async with session.begin():
            await session.execute(text("INSERT INTO orders (id) VALUES (:id)"), {"id": key})
            await tx.start(Greet, key, key=key)

    async with app, client(api) as web:
        assert (await web.post("/orders/7")).status_code == 200
    assert (await orders(app), await sagas(app)) == (["7"], 1)
    await engine.dispose()


async def test_an_adopted_session_of_sync_code(app):
    engine = create_engine(app.database.url)

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    session_dep = Annotated[Session, Depends(get_session)]
    api = an_api(app)

    @api.post("/orders/{key}")
    def place(
        key: str,
        session: session_dep,  # type: ignore[valid-type]
        tx: Annotated[BlockingTransaction, adopted(session_dep)],
    ) -> None:
        session.execute(text("INSERT INTO orders (id) VALUES (:id)"), {"id": key})
        tx.start(Greet, key, key=key)
        session.commit()

    async with app, client(api) as web:
        assert (await web.post("/orders/7")).status_code == 200
    assert (await orders(app), await sagas(app)) == (["7"], 1)
    engine.dispose()


async def test_of_a_session_dependency_that_replaces_another_the_last_counts_as_for_fastapi(app):
    engine = create_engine(app.database.url)

    def get_none() -> None:
        pytest.fail("FastAPI takes the last")

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    first_dep = Annotated[Session, Depends(get_none)]
    session_dep = Annotated[first_dep, Depends(get_session)]
    api = an_api(app)

    @api.post("/")
    def place(
        session: session_dep,  # type: ignore[valid-type]
        tx: Annotated[BlockingTransaction, adopted(session_dep)],
    ) -> None:
        tx.start(Greet, "ann")
        session.commit()

    async with app, client(api) as web:
        assert (await web.post("/")).status_code == 200
    assert await sagas(app) == 1
    engine.dispose()


def test_a_bare_function_is_no_session_dependency():
    with pytest.raises(ConfigurationError, match="another session"):
        adopted(lambda: None)


# -- our errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "wait"),
    [
        (RateLimited("secret", retry_after=1.5), 429, "2"),
        (CircuitOpen("secret"), 503, "1"),
        (StoreUnavailable("secret"), 503, "1"),
        (StoreUnavailable("secret", for_good=True), 503, "30"),
        (TransactionConflict("secret"), 503, "1"),
        (StoreFull("secret"), 503, "30"),
        (SagaNotFound("secret"), 404, None),
        (SagaConflict("secret"), 409, None),
        (SagaCompensated("secret", cause="secret"), 409, None),
        (Refused("secret"), 409, None),
        (CodecError("secret"), 422, None),
        (TimedOut("secret"), 504, None),
        (Unreadable("secret"), 500, None),
        (ConfigurationError("secret"), 500, None),
        (SagaParked("secret", cause="secret"), 500, None),
        (MigrationNeeded("secret"), 500, None),
        (StandfastError("secret"), 500, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("framework", [FastAPI, Starlette])
async def test_our_errors(framework, error, status, wait):
    async def index(request: Request) -> None:
        raise error

    api = framework(routes=[Route("/", index)], exception_handlers={StandfastError: answer_error})
    async with client(api) as web:
        answer = await web.get("/")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, wait)
    assert "secret" not in answer.text
    if status != 500:
        assert answer.headers["Content-Type"] == "application/problem+json"
        told = answer.json()
        assert (told["type"], told["status"]) == ("about:blank", status)
        assert told["title"]
        assert told["detail"]


async def test_errors_of_real_calls(app):
    api = an_api(app)

    @api.post("/greet/{key}/{name}")
    async def greet(key: str, name: str, found: AppDep) -> None:
        await found.start(Greet, name, key=key)

    @api.get("/greet/{key}")
    async def read(key: str, found: AppDep) -> str:
        return await (await found.saga(Greet, key)).status()

    @api.post("/signal/{payload}")
    async def signal(payload: str, found: AppDep) -> None:
        handle = await found.start(Asks, "x", key="x")
        await handle.signal("number", payload)

    async with app, client(api) as web:
        got = [
            (await web.post("/greet/1/ann")).status_code,
            (await web.post("/greet/1/bob")).status_code,
            (await web.get("/greet/1")).status_code,
            (await web.get("/greet/2")).status_code,
            (await web.post("/signal/seven")).status_code,
        ]
    assert got == [200, 409, 200, 404, 422]


@pytest.mark.parametrize(("error", "code"), [(SagaNotFound("x"), 1008), (StoreFull("x"), 1013)])
async def test_a_websocket_is_closed(error, code):
    api = FastAPI(exception_handlers={StandfastError: answer_error})

    @api.websocket("/")
    async def talk(socket: WebSocket) -> None:
        raise error

    sent = await connected(api, "/")
    assert [(one["type"], one["code"]) for one in sent] == [("websocket.close", code)]


async def test_a_store_that_is_away_is_logged(caplog):
    async def index(request: Request) -> None:
        raise StoreUnavailable("db.example: connection refused")

    api = Starlette(routes=[Route("/", index)], exception_handlers={StandfastError: answer_error})
    async with client(api) as web:
        await asyncio.gather(web.get("/"))
    assert "db.example: connection refused" in caplog.text
