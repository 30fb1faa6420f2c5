"""Entries of ``settings.DATABASES`` as URLs of ours."""

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from standfast.backends import open_database
from standfast.errors import ConfigurationError
from standfast.integrations.django.addresses import address

EMPTY = {"HOST": "", "PORT": "", "NAME": "shop", "USER": "", "PASSWORD": "", "OPTIONS": {}}


def postgres(options=(), **given):
    url = address("postgresql", {**EMPTY, **given}, dict(options))
    open_database(url)  # it is understood
    return url


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "postgresql:///shop"),
        ({"HOST": "db", "PORT": 5433}, "postgresql://db:5433/shop"),
        ({"HOST": "db", "USER": "ann"}, "postgresql://ann@db/shop"),
        ({"HOST": "::1", "PORT": "5432"}, "postgresql://[::1]:5432/shop"),
        ({"HOST": "a,b", "PORT": "5432"}, "postgresql://a:5432,b:5432/shop"),
        ({"HOST": "a,b", "PORT": "1,2"}, "postgresql://a:1,b:2/shop"),
        ({"HOST": "/run/pg", "USER": "u"}, "postgresql://u@/shop?host=%2Frun%2Fpg"),
        ({"HOST": "/run/pg", "PORT": 5}, "postgresql:///shop?host=%2Frun%2Fpg&port=5"),
        ({"PORT": "5433"}, "postgresql:///shop?port=5433"),
        ({"NAME": "my shop/1?"}, "postgresql:///my%20shop%2F1%3F"),
        ({"NAME": "", "OPTIONS": {"service": "s"}}, "postgresql:///?service=s"),
        ({"OPTIONS": {"sslmode": "require"}}, "postgresql:///shop?sslmode=require"),
        ({"OPTIONS": {"connect_timeout": 5}}, "postgresql:///shop?connect_timeout=5"),
        ({"OPTIONS": {"assume_role": "r"}}, "postgresql:///shop?role=r"),
        ({"OPTIONS": {"pool": True, "isolation_level": 3}}, "postgresql:///shop"),
        ({"OPTIONS": {"keepalives": 1, "server_side_binding": True}}, "postgresql:///shop"),
        ({"OPTIONS": None}, "postgresql:///shop"),
    ],
)
def test_postgres(given, url):
    assert postgres(**given) == url


def test_odd_passwords_arrive_whole_and_are_shown_nowhere():
    password = "p#s/w@r?d%:[] ü&="
    url = postgres(HOST="db", USER="an@n", PASSWORD=password)
    parts = urlsplit(url)
    assert unquote(parts.password) == password
    assert unquote(parts.username) == "an@n"
    assert open_database(url).url == "postgresql://an%40n:***@db/shop"


def test_options_of_ours_win():
    options = {"max_size": 20, "channel_binding": None, "sslmode": "disable"}
    given = {"channel_binding": "require", "sslmode": "require"}
    url = postgres(options, OPTIONS=given)
    assert url == "postgresql:///shop?sslmode=disable&max_size=20"


@pytest.mark.parametrize(
    ("given", "options", "told"),
    [
        ({"OPTIONS": {"channel_binding": "require"}}, {}, "channel_binding isn't an option"),
        ({"OPTIONS": {"sslmode": "secure"}}, {}, "sslmode='secure'"),
        ({"HOST": "a,b,c", "PORT": "1,2"}, {}, "3 hosts and PORT 2 ports"),
        ({}, {"max_size": "many"}, "max_size='many'"),
        ({"HOST": "db", "PORT": "5432x"}, {}, "malformed"),
    ],
)
def test_what_is_refused_is_told_without_the_password(given, options, told):
    with pytest.raises(ConfigurationError, match=told) as caught:
        postgres(options, USER="ann", PASSWORD="secret", **given)
    assert "secret" not in str(caught.value)


def test_sqlite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def path(name, options=(), **given):
        url = address("sqlite", {"NAME": name, **given}, dict(options))
        return open_database(url).path

    assert path(tmp_path / "db.sqlite3") == str(tmp_path / "db.sqlite3")
    assert path("db.sqlite3") == str(Path.cwd() / "db.sqlite3")
    assert path("what? 50%.db") == str(Path.cwd() / "what? 50%.db")
    assert path("~/x.db") == str(Path.cwd() / "~" / "x.db")
    given = {"NAME": "db", "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"}}
    assert address("sqlite", given, {}).endswith("/db?busy_timeout=20s")
    assert address("sqlite", given, {"readers": 4}).endswith("?busy_timeout=20s&readers=4")
    with pytest.raises(ConfigurationError, match="path of the file"):
        path("file:db?mode=ro")


def test_what_isnt_supported():
    with pytest.raises(ConfigurationError, match=r"mysql.*PostgreSQL or SQLite.*DATABASE"):
        address("mysql", EMPTY, {})


def test_a_real_server_understands_it(postgres_dsn):
    parts = urlsplit(postgres_dsn)
    given = {
        **EMPTY,
        "HOST": parts.hostname,
        "PORT": parts.port,
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username,
        "PASSWORD": "not asked for: #/@?",
        "OPTIONS": {"options": "-c search_path=shop,public", "assume_role": "pg_monitor"},
    }

    async def look():
        database = open_database(address("postgresql", given, {"application_name": "a b"}))
        await database.open()
        try:
            async with database.transaction() as tx:
                return tuple(
                    await tx.fetch_one(
                        "SELECT current_database(), current_setting('search_path'), "
                        "current_user, current_setting('application_name')"
                    )
                )
        finally:
            await database.close()

    found = asyncio.run(look())
    assert found == (given["NAME"], "shop,public", "pg_monitor", "a b")
