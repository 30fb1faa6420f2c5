"""One server process: started, awaited by its own protocol, stopped, killed, cleaned up after.

Every server has a leash, a small shell that reads a pipe of ours. When this process ends, however
it ends, the kernel closes the pipe; the leash then ends the server and removes its folder. Unlike
a parent death signal this isn't bound to the thread that started the server.
"""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

_FIRST_START_TRIES = 3
_READY_WITHIN = 30.0
_STOP_WITHIN = 10.0

_LEASH = """
while read -r line && [ "$line" != end ]; do pid=$line; done
if [ -n "$pid" ]; then
    kill -s "$1" "$pid"; kill -s CONT "$pid"
    tries=0
    while kill -0 "$pid" && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -s KILL -- "-$pid"
fi
rm -rf -- "$2"
"""


class ServerMissing(Exception):
    """The server's program isn't installed here; the message says how to install it."""


class ServerFailed(Exception):
    """The server didn't start; the message holds the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on.

    It is taken from below the range of outgoing connections, so that a server which is down for a
    while finds its port still free when it comes back.
    """
    while True:
        # Not the shared generator: a test may have seeded it, in every test process alike.
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def known_user(name: str) -> bool:
    """Whether this machine has such a user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


class Server(ABC):
    """A server that tests may take away and bring back: same folder, same port, same data.

    `fsync` makes it durable as in production; without it, writes are only safe from the death of
    the server, which is what most tests need. The methods block for at most some seconds.
    """

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    user: ClassVar[str | None] = None

    def __init__(self, *, fsync: bool = False) -> None:
        self.fsync = fsync
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-"))
        self.log = self.folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._was_ready = False
        self._leash = subprocess.Popen(
            ["/bin/sh", "-c", _LEASH, "leash", self.stop_signal.name[3:], str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if self.run_as is not None:
            shutil.chown(self.folder, self.run_as)

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the server answers in its own protocol."""

    @property
    def run_as(self) -> str | None:
        """The user to run as, for servers that refuse root."""
        return self.user if os.geteuid() == 0 else None

    @property
    def _run_as_group(self) -> int | None:
        return None if self.run_as is None else pwd.getpwnam(self.run_as).pw_gid

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it is stopped."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and return once it answers; raise `ServerFailed` if it does not."""
        if self._process is not None:
            raise ServerFailed(f"{type(self).__name__} already runs as process {self.pid}")
        deadline = time.monotonic() + _READY_WITHIN
        tries = 0
        while not self._start_once(deadline):
            tries += 1
            if self._was_ready:
                # Children of a killed server may still hold its memory for a moment.
                give_up = time.monotonic() > deadline
                time.sleep(0.1)
            else:
                # Someone else may have taken the port in the meantime.
                give_up = tries == _FIRST_START_TRIES
                self.port = free_port()
            if give_up:
                raise ServerFailed(f"{type(self).__name__} ends at once:\n{self._end_of_log()}")
        self._was_ready = True

    def stop(self) -> None:
        """End the server in good order; its data stay."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would; what it had written stays."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End the server and remove its folder. Once more does nothing."""
        assert self._leash.stdin is not None
        if self._leash.stdin.closed:
            return
        self.stop()
        # Told, rather than left to see the pipe's end: a forked child may hold that open.
        self._tell_leash("end")
        self._leash.stdin.close()
        self._leash.wait(2 * _STOP_WITHIN)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, *command: str) -> None:
        """Run a program of the server's to its end, as the server's user."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            user=self.run_as,
            group=self._run_as_group,
            extra_groups=None if self.run_as is None else [],
            env=self._environment(),
            cwd=self.folder,
            check=False,
        )
        if done.returncode != 0:
            raise ServerFailed(f"{command} failed:\n{done.stdout.decode(errors='replace')}")

    def _start_once(self, deadline: float) -> bool:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.run_as,
                group=self._run_as_group,
                extra_groups=None if self.run_as is None else [],
                env=self._environment(),
                cwd=self.folder,
            )
        self._tell_leash(str(self._process.pid))
        while self._process.poll() is None:
            if self.ready():
                return True
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(
                    f"{type(self).__name__} didn't answer on port {self.port} within "
                    f"{_READY_WITHIN:.0f} s:\n{self._end_of_log()}"
                )
            time.sleep(0.02)
        self._tell_leash("")
        self._process = None
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._tell_leash("")
        self._process = None

    def _tell_leash(self, pid: str) -> None:
        assert self._leash.stdin is not None
        self._leash.stdin.write(f"{pid}\n".encode())
        self._leash.stdin.flush()

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(self.folder)}

    def _end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
