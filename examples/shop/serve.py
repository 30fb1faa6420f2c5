"""Serve an ASGI app on a free port of this machine, for as long as the parent process lives."""

import os
import socket
import threading
from typing import Any

import uvicorn


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()
            print(f"http://{host}:{port}", flush=True)


def serve(app: Any) -> None:
    """Serve until SIGTERM. Prints the address once it answers there."""
    end_with_parent()
    # On SIGTERM, requests under way have three seconds: what is late still comes to pass.
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(app, lifespan="on", log_level="critical", timeout_graceful_shutdown=3)
    _Server(config).run(sockets=[listener])


def end_with_parent() -> None:
    """End this process at once when the one that started it is gone, however that one ended.

    The parent holds the other end of our standard input; the kernel closes it.
    """

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
