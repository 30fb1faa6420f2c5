"""A TCP proxy on 127.0.0.1 that makes the network between a client and a server fail.

Distances and breakdowns only: it does not drop, reorder or corrupt single packets.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

from tests.servers.process import free_port

Direction = Literal["both", "to_server", "to_client"]

_CHUNK = 65_536
_IN_FLIGHT = 64
_RESET = struct.pack("ii", 1, 0)


class TcpProxy:
    """Forwards every connection to `host`:`port` until it is told otherwise.

    It runs in the event loop that called `start`.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self._target = (host, port)
        self._delay = 0.0
        self._flows = {"to_server": asyncio.Event(), "to_client": asyncio.Event()}
        self._writers: set[asyncio.StreamWriter] = set()
        self._links: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    def through(self, url: str) -> str:
        """The same address, by way of this proxy."""
        parts = urlsplit(url)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return parts._replace(netloc=f"{user}127.0.0.1:{self.port}").geturl()

    async def start(self) -> None:
        """Listen, and forward both ways."""
        await self.restore()

    def redirect(self, host: str, port: int) -> None:
        """Lead new connections there; those that are open stay where they are."""
        self._target = (host, port)

    async def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in self._writers:
            self._reset(writer)
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def restore(self) -> None:
        """Forward as at first: no delay, nothing held; what was held arrives now, in order."""
        self._delay = 0.0
        for flow in self._flows.values():
            flow.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    def delay(self, seconds: float) -> None:
        """Let everything from now on arrive `seconds` late, in each direction."""
        self._delay = seconds

    def blackhole(self, direction: Direction = "both") -> None:
        """Let nothing arrive, while connections stay open and new ones are accepted.

        `to_client` lets the server act and hides its answer: the outcome is unknown to the client.
        As in TCP, what was held arrives after `restore`; a `cut` loses it.
        """
        for name, flow in self._flows.items():
            if direction in ("both", name):
                flow.clear()

    async def close(self) -> None:
        """Stop listening and reset what is open."""
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        self._writers.add(writer)
        try:
            await self._link(reader, writer)
        except asyncio.CancelledError:
            # By `cut`. Coming out of here, Python 3.11 would log it as an error of a callback.
            pass
        finally:
            self._links.discard(link)
            self._writers.discard(writer)
            writer.close()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self._reset(writer)
            return
        self._writers.add(server_writer)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, server_writer, self._flows["to_server"]))
                both.create_task(self._forward(server_reader, writer, self._flows["to_client"]))
        except* OSError:
            # One side is gone without a word; the other learns it the same way.
            self._reset(writer)
            self._reset(server_writer)
        finally:
            self._writers.discard(server_writer)
            server_writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event
    ) -> None:
        now = asyncio.get_running_loop().time
        in_flight: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)

        async def read() -> None:
            data = None
            while data != b"":
                data = await reader.read(_CHUNK)
                await in_flight.put((now() + self._delay, data))

        async def deliver() -> None:
            data = None
            while data != b"":
                due, data = await in_flight.get()
                await asyncio.sleep(due - now())
                await flow.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        async with asyncio.TaskGroup() as pair:
            pair.create_task(read())
            pair.create_task(deliver())

    @staticmethod
    def _reset(writer: asyncio.StreamWriter) -> None:
        connection: socket.socket = writer.get_extra_info("socket")
        with suppress(OSError):  # the other side may have closed it already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
