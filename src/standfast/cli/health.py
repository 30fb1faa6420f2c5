"""``standfast run --health``: a small HTTP server that tells whether the process lives and works.

It has a thread of its own, so that it answers while the event loop is blocked.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from standfast.coordination.health import Facts, Report, liveness, readiness
from standfast.coordination.supervisor import Supervisor
from standfast.errors import ConfigurationError, StandfastError
from standfast.resilience.forking import survives_fork

log = logging.getLogger("standfast.health")

PAGES: Mapping[str, Callable[[Facts], Report]] = {"/healthz": liveness, "/readyz": readiness}
ALLOWED = "GET, HEAD"
LONGEST_BODY = 65536
"""Bytes of a request's body that are read, only to be thrown away."""


def parse_address(text: str) -> tuple[str, int]:
    """The host and port of ``PORT`` or ``HOST:PORT``. Raises `ConfigurationError`."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(
            f"--health {text!r}: write PORT or HOST:PORT, such as 8080 or 0.0.0.0:8080"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def observe(supervisor: Supervisor | None, lease: float) -> Facts:
    """What is known at this moment of a process; None before it has begun. Any thread may ask."""
    if supervisor is None:
        return Facts(
            lease=lease,
            has_begun=False,
            is_stopping=False,
            blocked_for=0.0,
            is_beating=False,
            beat_age=0.0,
            lease_held=False,
            store_answers=False,
            services=(),
        )
    watchdog = supervisor.watchdog
    return Facts(
        lease=supervisor.membership.lease,
        has_begun=supervisor.has_begun,
        is_stopping=supervisor.is_stopping,
        blocked_for=0.0 if watchdog is None else watchdog.blocked_for,
        is_beating=supervisor.is_beating,
        beat_age=supervisor.beat_age,
        lease_held=supervisor.membership.is_held,
        store_answers=supervisor.store_answers,
        services=supervisor.services,
        hindrances=supervisor.hindrances,
    )


class _Server(ThreadingHTTPServer):
    """Never waits for a client: neither when it is asked, nor when it ends."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, facts: Callable[[], Facts]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), partial(_Handler, facts))

    def server_bind(self) -> None:
        """Bind, without asking DNS for a name as the base class does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def after_fork(self) -> None:
        """A child that outlives the process must not keep its port: nobody would answer there."""
        self.socket.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of the process."""
        log.debug("a request from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = 5.0

    def __init__(self, facts: Callable[[], Facts], *connection: Any) -> None:
        self._facts = facts
        super().__init__(*connection)  # which answers

    def version_string(self) -> str:
        """For the header: the name, and no version."""
        return "standfast"

    def do_GET(self) -> None:
        """Answer with a report."""
        look = self._page()
        if look is None:
            return
        report = look(self._facts())
        checks = {one.name: {"ok": one.ok, "reason": one.reason} for one in report.checks}
        self._answer(200 if report.ok else 503, {"ok": report.ok, "checks": checks})

    def do_HEAD(self) -> None:
        """Answer as to GET, without the report."""
        self.do_GET()

    def do_POST(self) -> None:
        """Answer that a probe is only read."""
        self._discard_body()
        if self._page() is not None:
            told = {"error": f"{self.command} isn't for probes: read them with {ALLOWED}"}
            self._answer(405, told, Allow=ALLOWED)

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815 - http.server's names

    def _page(self) -> Callable[[Facts], Report] | None:
        """The page that was asked for; None, and it was answered, if there is none."""
        look = PAGES.get(self.path.partition("?")[0])
        if look is None:
            self._answer(404, {"error": f"there is nothing here but {' and '.join(PAGES)}"})
        return look

    def _discard_body(self) -> None:
        """Read what was sent: a connection that is closed before may lose the answer."""
        length = self.headers.get("Content-Length", "")
        if length.isascii() and length.isdecimal():
            self.rfile.read(min(int(length), LONGEST_BODY))

    def _answer(self, status: int, value: Mapping[str, Any], **headers: str) -> None:
        body = json.dumps(value, indent=2).encode() + b"\n"
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """To the log, and no further than debug: probes come every few seconds."""
        log.debug(format, *args)


def _advice(error: OSError, host: str) -> str:
    """What to do about an address that can't be had."""
    every = "[::]" if ":" in host else "0.0.0.0"  # noqa: S104 - only told
    if isinstance(error, socket.gaierror):
        return f"give an address of this machine's, or {every} for all of them"
    match error.errno:
        case errno.EADDRINUSE:
            return "give another port, or 0 for any that is free"
        case errno.EADDRNOTAVAIL:
            return f"that isn't this machine's: give an address of its own, or {every} for all"
        case errno.EACCES:
            return "the system keeps that port for itself: give one of 1024 or more"
        case _:
            return "give another address or port"


@contextmanager
def serving(address: str, facts: Callable[[], Facts]) -> Iterator[str]:
    """Answer at an address (``PORT`` or ``HOST:PORT``) during the block; yields the URL.

    Port 0 takes a free one. Raises `ConfigurationError` for what is no address, `StandfastError`
    for one that can't be had.
    """
    host, port = parse_address(address)
    try:
        server = _Server(host, port, facts)
    except OSError as error:
        raise StandfastError(
            f"--health {address!r}: can't listen on {host} port {port} "
            f"({error.strerror or error}): {_advice(error, host)}"
        ) from error
    survives_fork(server)
    thread = threading.Thread(
        target=server.serve_forever,
        kwargs={"poll_interval": 0.1},
        name="standfast-health",
        daemon=True,
    )
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{server.server_address[1]}"
    finally:
        server.shutdown()  # within the poll interval: requests under way aren't waited for
        server.server_close()
