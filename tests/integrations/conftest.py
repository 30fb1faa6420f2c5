"""A real server for an application of the test's own."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
import uvicorn


@asynccontextmanager
async def _serve(app):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", lifespan="on", ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(30):
            while not server.started:
                assert not task.done(), "the server ended"
                await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@pytest.fixture
def serve():
    return _serve
