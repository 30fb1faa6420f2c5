"""Addresses of SQLite files as users write them."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from standfast.backends.sqlite import SqliteDatabase
from standfast.errors import ConfigurationError, CorruptRecord, StoreError, StoreUnavailable


def test_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SqliteDatabase("sqlite:///shop.db").path == "shop.db"
    assert SqliteDatabase("sqlite:////var/lib/shop.db").path == "/var/lib/shop.db"
    assert SqliteDatabase("sqlite:///~/shop.db").path == f"{tmp_path}/shop.db"
    assert SqliteDatabase("sqlite:///ü #1%20.db").path == "ü #1%20.db"
    assert SqliteDatabase("sqlite:///what%3F.db?readers=1").path == "what?.db"


async def test_options(tmp_path):
    """A query was taken for a part of the file's name."""
    database = SqliteDatabase(f"sqlite:///{tmp_path}/a.db?readers=1&busy_timeout=2.5", readers=3)
    await database.open()
    await database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    assert database.file._readers._count == 1
    assert database.file._readers._busy_timeout == 2.5


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite://shop.db", "write sqlite:///relative.db"),
        ("sqlite:///", "write sqlite:///relative.db"),
        ("sqlite:///?readers=1", "write sqlite:///relative.db"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///:memory:?cache=shared", "memory://"),
        ("sqlite:///file:shop.db?mode=ro", "a file is needed"),
        ("sqlite:///shop.db?mode=ro", "there is no option mode; there are busy_timeout"),
        ("sqlite:///shop.db?readers=many", "whole number"),
        ("sqlite:///shop.db?readers=0", "at least 1"),
        ("sqlite:///shop.db?busy_timeout=soon", "busy_timeout"),
        ("sqlite:///sh\0op.db", "NUL"),
    ],
)
def test_what_is_wrong_is_told(url, told):
    with pytest.raises(ConfigurationError, match=told):
        SqliteDatabase(url)


async def test_places(tmp_path):
    (tmp_path / "text.db").write_text("no database at all, but a text of some length" * 100)
    for path, kind, told in (
        (f"{tmp_path}/nowhere/shop.db", StoreUnavailable, "the folder .*nowhere doesn't exist"),
        (f"{tmp_path}", StoreUnavailable, "is a folder: name a file in it"),
        (f"{tmp_path}/", StoreUnavailable, "is a folder: name a file in it"),
        (f"{tmp_path}/text.db", CorruptRecord, "not an SQLite database"),
        # Nobody may make a file there, not even root.
        ("/proc/shop.db", StoreUnavailable, "can't be opened: check the folder"),
    ):
        if not path.startswith("/proc") or Path("/proc").is_dir():
            with pytest.raises(kind, match=told):
                async with asyncio.timeout(10):
                    await SqliteDatabase(f"sqlite:///{path}").open()


async def test_what_the_driver_raises_besides_does_not_hang(tmp_path, monkeypatch):
    """A connection that didn't come about for a reason of its own left `open` waiting for ever."""

    def connect(*args, **options):
        raise ValueError("embedded null byte")

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises((StoreError, ValueError), match="null byte"):
        async with asyncio.timeout(10):
            await SqliteDatabase(f"sqlite:///{tmp_path}/a.db").open()
