"""What web frameworks are given is what they take: lifespans, dependencies, handlers."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import assert_type

from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette

from standfast import Rejected, SagaHandle, Standfast, StandfastError, Transaction
from standfast.integrations.fastapi import AppDep, TransactionDep
from standfast.integrations.flask import FlaskExtension, current
from standfast.integrations.sse import ProgressResponse
from standfast.integrations.starlette import answer_error, answer_rejection
from standfast.saga import Change
from tests.typing.sagas import PlaceOrder


@asynccontextmanager
async def with_state(_: FastAPI) -> AsyncGenerator[dict[str, int], None]:
    yield {"answer": 42}


@asynccontextmanager
async def without_state(_: Starlette) -> AsyncGenerator[None, None]:
    yield


app = Standfast("memory://")
api = FastAPI(lifespan=app.lifespan)
FastAPI(lifespan=app.lifespan(inner=with_state, running=True, lease="5s"))
Starlette(lifespan=app.lifespan)
Starlette(lifespan=app.lifespan(inner=without_state))
app.lifespan(inner=7)  # type: ignore[call-overload]

api.add_exception_handler(StandfastError, answer_error)
api.add_exception_handler(Rejected, answer_rejection)


@api.get("/")
async def endpoint(found: AppDep, tx: TransactionDep) -> ProgressResponse:
    assert_type(found, Standfast)
    assert_type(tx, Transaction)
    return ProgressResponse(found, await found.saga(PlaceOrder, "7"), tell=Change.as_json)


async def follow(handle: SagaHandle[PlaceOrder]) -> None:
    assert_type(app.progress(handle), AsyncGenerator[Change, None])
    async for change in app.progress(handle, after=3, timeout="1m"):
        assert_type(change, Change)
    async for _ in app.progress(7):  # type: ignore[arg-type]
        pass


FlaskExtension(app, Flask("shop")).init_app(Flask("another"))
assert_type(current, Standfast)
