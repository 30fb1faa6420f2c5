"""Addresses as users write them: what is wrong is told, a password never; several hosts work."""

import asyncio
import errno
import time
import traceback
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from standfast import Standfast
from standfast.backends import open_database
from standfast.backends.postgres import PostgresDatabase
from standfast.backends.postgres.errors import translate
from standfast.backends.postgres.options import each_host, parse
from standfast.errors import ConfigurationError, StandfastError, StoreUnavailable

PASSWORDS = [
    "s3c#ret",
    "s3c/ret",
    "s3c@ret",
    "s3c[ret",
    "s3c]ret",
    "s3c?ret",
    "s3c%ret",
    "12?3s3cret",
]


def everything_told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("url_of", [lambda url: url, lambda url: f"{url}?sslmode=disable"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_special_character_in_a_password(password, url_of):
    """It was printed, or came out as a bare ValueError, or as an unknown host."""
    with pytest.raises(ConfigurationError, match="percent-encode") as caught:
        Standfast(url_of(f"postgresql://ann:{password}@db.example:5432/shop"))
    told = everything_told(caught.value)
    assert not [part for part in ("s3c", "ret@", "3s3") if part in told]
    database = open_database(url_of(f"postgresql://ann:{quote(password, safe='')}@db/shop"))
    assert "s3c" not in database.url + repr(database)


@pytest.mark.parametrize("password", ["pass wörd", "ключ", "a:b", "a+b&c=d;e!'\"$"])
def test_other_characters_need_no_encoding(password):
    database = PostgresDatabase(f"postgresql://ann:{password}@db:5432/shop")
    assert database.url == "postgresql://ann:***@db:5432/shop"


async def test_the_password_arrives(postgres_server):
    """Against a server that asks for one."""
    admin = await asyncpg.connect(postgres_server.dsn)
    secrets = {f"u{n}": text for n, text in enumerate([*PASSWORDS, "pass wörd", "a+b"])}
    for name, text in secrets.items():
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{text}'")
    await admin.execute("ALTER SYSTEM SET password_encryption = 'scram-sha-256'")
    rules = (postgres_server.data / "pg_hba.conf").read_text()
    (postgres_server.data / "pg_hba.conf").write_text(
        f"host all /^u[0-9]+$ 127.0.0.1/32 scram-sha-256\n{rules}"
    )
    host = f"127.0.0.1:{postgres_server.port}"
    if await admin.fetchval("SHOW server_version_num") < "160000":  # no patterns for users yet
        names = ",".join(secrets)
        (postgres_server.data / "pg_hba.conf").write_text(
            f"host all {names} 127.0.0.1/32 scram-sha-256\n{rules}"
        )
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    for name, text in secrets.items():
        database = PostgresDatabase(
            f"postgresql://{name}:{quote(text, safe='')}@{host}/postgres", min_size=1
        )
        await database.open()
        await database.close()
    wrong = PostgresDatabase(f"postgresql://u0:hunter2@{host}/postgres")
    with pytest.raises(StoreUnavailable, match="check user and password") as caught:
        await wrong.open()
    assert "hunter2" not in everything_told(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://h:5432x/shop", "name:5432"),
        ("postgresql://h:70000/shop", "name:5432"),
        ("postgresql://h1,,h2/shop", "name:5432"),
        ("postgresql://h/shop?sslmode=yes", "must be one of disable, allow"),
        ("postgresql://h/shop?target_session_attrs=master", "must be one of any, primary"),
        ("postgresql://h/shop?ssl=true", "sslmode=require"),
        ("postgresql://h/shop?channel_binding=require", "leave it out"),
        ("postgresql://h/shop?hostaddr=10.0.0.1", "as the host"),
        ("postgresql:///shop?host=h&port=x", "whole number"),
        ("postgresql+asyncpg://h/shop", "no backend for 'postgresql\\+asyncpg' URLs"),
        ("h:5432/shop", "no backend for 'h' URLs"),
        ("shop", "no database's URL"),
    ],
)
def test_what_is_wrong_is_told(url, told):
    with pytest.raises(ConfigurationError, match=told):
        open_database(url)


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
async def test_a_missing_file(name, postgres_dsn, monkeypatch):
    """It read "check host and port"."""
    database = PostgresDatabase(f"{postgres_dsn}?sslmode=verify-full&{name}=/nowhere/x.pem")
    with pytest.raises(ConfigurationError, match=f"{name}='/nowhere/x.pem'.*no such file"):
        await database.open()
    monkeypatch.setenv(f"PG{name.upper()}", "/nowhere/y.pem")
    database = PostgresDatabase(f"{postgres_dsn}?sslmode=verify-full")
    with pytest.raises(ConfigurationError, match=r"/nowhere/y\.pem"):
        await database.open()


async def test_no_certificate_to_verify_with(postgres_dsn, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    database = PostgresDatabase(f"{postgres_dsn}?sslmode=verify-ca")
    with pytest.raises(ConfigurationError, match="root certificate"):
        await database.open()


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
async def test_modes_that_need_no_tls(mode, postgres_dsn):
    database = PostgresDatabase(f"{postgres_dsn}?sslmode={mode}")
    await database.open()
    await database.close()


async def test_a_server_without_tls(postgres_dsn):
    database = PostgresDatabase(f"{postgres_dsn}?sslmode=require")
    with pytest.raises(StoreUnavailable, match=r"offers no TLS .*sslmode=prefer") as caught:
        await database.open()
    assert caught.value.for_good
    assert "check that it runs" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql://u@nowhere.invalid/x", "check the host in the URL, and DNS"),
        ("postgresql://u@/x?host={folder}", "there is no such socket"),
        ("postgresql://u@127.0.0.1:1/x", "check that it runs, host and port"),
    ],
)
async def test_what_cant_be_reached_has_a_remedy_of_its_own(address, told, tmp_path):
    with pytest.raises(StoreUnavailable, match=told):
        await PostgresDatabase(address.format(folder=tmp_path)).open()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (PermissionError(errno.EACCES, "Permission denied"), "the socket's rights"),
        (
            ConnectionError("server sent an error response during SSL exchange"),
            "the reason is in the server's log",
        ),
        (
            asyncpg.InvalidAuthorizationSpecificationError(
                'no pg_hba.conf entry for host "::1", user "u", database "x", no encryption'
            ),
            "sslmode=require",
        ),
        (
            asyncpg.InvalidAuthorizationSpecificationError(
                "connection requires a valid client certificate"
            ),
            "give sslcert and sslkey",
        ),
        (
            asyncpg.InvalidAuthorizationSpecificationError('role "u" does not exist'),
            "check user, password and pg_hba.conf",
        ),
    ],
)
def test_the_remedy_fits_the_cause(error, told):
    assert told in str(translate(error, "postgresql://u@h/x"))


async def test_a_certificate_that_is_none(postgres_dsn, tmp_path):
    (tmp_path / "root.crt").write_text("this is no certificate")
    database = PostgresDatabase(f"{postgres_dsn}?sslmode=require&sslrootcert={tmp_path}/root.crt")
    with pytest.raises(StoreUnavailable, match="check sslmode, sslrootcert"):
        await database.open()


def test_hosts_are_taken_apart():
    dsn, _ = parse("postgresql://ann:pw@h1:1,h2,[::1]:3/shop?sslmode=disable&max_size=4")
    assert each_host(dsn) == [
        f"postgresql://ann:pw@{host}/shop?sslmode=disable" for host in ("h1:1", "h2", "[::1]:3")
    ]
    assert len(each_host(f"{dsn}&target_session_attrs=prefer-standby")) == 1


async def test_the_host_that_answers_is_taken(postgres_dsn, tcp_proxy):
    """Also when the first swallows all that is sent: each host has its own time to connect."""
    proxy = await tcp_proxy(postgres_dsn)
    proxy.blackhole()
    parts = urlsplit(postgres_dsn)
    hosts = f"127.0.0.1:1,127.0.0.1:{proxy.port},{parts.hostname}:{parts.port}"
    database = PostgresDatabase(
        f"postgresql://postgres@{hosts}{parts.path}", min_size=1, connect_timeout="300ms"
    )
    began = time.monotonic()
    await database.open()
    async with asyncio.timeout(5), database.transaction() as tx:
        assert await tx.fetch_value("SELECT 1") == 1
    assert time.monotonic() - began < 3
    await database.close()


async def test_the_host_that_served_last_is_asked_first(postgres_dsn, monkeypatch):
    asked, connect = [], asyncpg.connect

    async def noted(dsn, **given):
        asked.append(urlsplit(dsn).port)
        return await connect(dsn, **given)

    monkeypatch.setattr(asyncpg, "connect", noted)
    parts = urlsplit(postgres_dsn)
    hosts = f"127.0.0.1:1,{parts.hostname}:{parts.port}"
    database = PostgresDatabase(f"postgresql://postgres@{hosts}{parts.path}", min_size=1)
    await database.open()
    async with database.transaction() as one, database.transaction() as other:
        for tx in (one, other):
            assert await tx.fetch_value("SELECT 1") == 1
    assert asked[:2] == [1, parts.port]
    assert set(asked[2:]) == {parts.port}
    await database.close()


async def test_a_service(postgres_dsn, tmp_path, monkeypatch):
    parts = urlsplit(postgres_dsn)
    file = tmp_path / "services"
    file.write_text(
        f"[shop]\nhost={parts.hostname}\nport={parts.port}\nuser=postgres\ndbname={parts.path[1:]}\n"
        "[broken]\npassword=hunter%2\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    for url in ("postgresql:///?service=shop", "postgresql://?service=shop"):
        database = PostgresDatabase(url)
        await database.open()
        async with database.transaction() as tx:
            assert await tx.fetch_value("SELECT current_database()") == parts.path[1:]
        await database.close()
    monkeypatch.setenv("PGSERVICE", "shop")
    database = PostgresDatabase("postgresql://")
    await database.open()
    await database.close()
    with pytest.raises(ConfigurationError, match="has no such service"):
        await PostgresDatabase("postgresql:///?service=shopp").open()
    with pytest.raises(ConfigurationError, match="is written %%") as caught:
        await PostgresDatabase("postgresql:///?service=broken").open()
    assert "hunter" not in everything_told(caught.value)


async def test_the_surroundings(postgres_dsn, monkeypatch):
    """PGHOST and the others fill in what the URL leaves out."""
    parts = urlsplit(postgres_dsn)
    for name, value in {
        "PGHOST": parts.hostname,
        "PGPORT": str(parts.port),
        "PGUSER": "postgres",
        "PGDATABASE": parts.path[1:],
        "PGAPPNAME": "till",
    }.items():
        monkeypatch.setenv(name, value)
    database = PostgresDatabase("postgresql://")
    await database.open()
    async with database.transaction() as tx:
        assert await tx.fetch_value("SELECT current_database()") == parts.path[1:]
        assert await tx.fetch_value("SHOW application_name") == "till"
    await database.close()


async def test_a_name_of_the_application(postgres_dsn):
    """The library's own overwrote it."""
    for query, name in (("", "standfast"), ("?application_name=checkout", "checkout")):
        database = PostgresDatabase(postgres_dsn + query)
        await database.open()
        async with database.transaction() as tx:
            assert await tx.fetch_value("SHOW application_name") == name
        await database.close()


async def test_errors_of_the_driver_hold_no_password():
    database = PostgresDatabase("postgresql://ann:hunter2@127.0.0.1:1/shop?password=hunter2")
    with pytest.raises(StandfastError) as caught:
        await database.open()
    assert "hunter2" not in everything_told(caught.value)


async def test_a_misspelt_option_is_told_with_those_there_are(postgres_dsn):
    database = PostgresDatabase(f"{postgres_dsn}{'&' if '?' in postgres_dsn else '?'}maxsize=3")
    with pytest.raises(ConfigurationError, match=r"no option maxsize \(did you mean max_size"):
        await database.open()
