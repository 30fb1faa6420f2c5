"""A world to act on, and a small file system that is really full."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.saga.engine.world import World
from tests.servers.fixtures import without
from tests.servers.process import ServerMissing


@pytest.fixture
def world() -> World:
    return World()


class SmallDisk:
    """A file system of its own, that can be filled to the last byte and emptied again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(b"\1" * size)
                except OSError:
                    continue

    def clear(self) -> None:
        """Free it again."""
        self._ballast.unlink()


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    """4 MB, where mounting is allowed (as root, say); elsewhere as with a missing server.

    Not in pytest's own folder: a server that runs as another user must get into it, and any other
    run of pytest that begins closes that folder to others.
    """
    folder = Path(tempfile.mkdtemp(prefix="standfast-small-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        folder.rmdir()
        without(ServerMissing(f"a small file system can't be mounted: {mounted.stderr.strip()}"))
    os.chmod(folder, 0o777)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()
