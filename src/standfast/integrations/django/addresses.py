"""An entry of ``settings.DATABASES`` as the URL of a database of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from standfast.errors import ConfigurationError

_SESSION_OF_DJANGO = frozenset(
    {
        *("assume_role", "client_encoding", "cursor_factory", "isolation_level", "pool"),
        *("prepare_threshold", "server_side_binding"),
    }
)
"""What Django, or its driver, does with a connection of its own."""
_WIRE = frozenset(
    {
        *("fallback_application_name", "keepalives", "keepalives_count", "keepalives_idle"),
        *("keepalives_interval", "load_balance_hosts", "sslcompression", "tcp_user_timeout"),
    }
)
"""What asyncpg doesn't have, and nobody's security rests on. All else that it lacks is refused."""


def address(vendor: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The URL of the database that `given` describes; `vendor` is Django's word for its kind.

    `options` win over those of `given`, and one that is None is left out. Raises
    `ConfigurationError`, which shows no secret.
    """
    if vendor == "postgresql":
        return _of_postgres(given, options)
    if vendor == "sqlite":
        return _of_sqlite(given, options)
    raise ConfigurationError(
        f"Django speaks {vendor} here, and Standfast keeps its data in PostgreSQL or SQLite: name "
        'the alias of such a database in settings: STANDFAST = {"DATABASE": "…"}'
    )


def _of_sqlite(given: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    name = str(given["NAME"])
    if name.startswith("file:"):
        raise ConfigurationError(
            f"NAME={name!r}: write the path of the file itself, which several connections share"
        )
    own = {}
    if "timeout" in (given.get("OPTIONS") or {}):
        own["busy_timeout"] = f"{given['OPTIONS']['timeout']}s"
    path = str(Path(name).absolute()).replace("?", "%3F")
    return f"sqlite:///{path}{_query({**own, **options})}"


def _of_postgres(given: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    asked = dict(given.get("OPTIONS") or {})
    role = asked.get("assume_role")
    user = given.get("USER") or asked.pop("user", "")
    password = given.get("PASSWORD") or asked.pop("password", "")
    host = str(given.get("HOST") or asked.pop("host", ""))
    port = str(given.get("PORT") or asked.pop("port", ""))
    name = given.get("NAME") or asked.pop("dbname", "")
    kept = {
        option: value
        for option, value in asked.items()
        if option not in _SESSION_OF_DJANGO and option not in _WIRE
    }
    if role:
        kept["role"] = role
    login = quote(str(user), safe="") + (f":{quote(str(password), safe='')}" if password else "")
    where = ""
    if host.startswith(("/", "@")) or (port and not host):  # a socket's folder, or the default one
        kept.update({"host": host} if host else {}, **({"port": port} if port else {}))
    elif host:
        where = _hosts(host.split(","), port.split(","))
    at = f"{login}@" if login else ""
    return f"postgresql://{at}{where}/{quote(str(name), safe='')}{_query({**kept, **options})}"


def _hosts(hosts: list[str], ports: list[str]) -> str:
    """Each host with its port, as libpq pairs them: a single port is for all."""
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise ConfigurationError(
            f"HOST names {len(hosts)} hosts and PORT {len(ports)} ports: give one port, or one for "
            "each host"
        )
    named = [f"[{host}]" if ":" in host else host for host in hosts]
    return ",".join(
        f"{host}:{port}" if port else host for host, port in zip(named, ports, strict=True)
    )


def _query(options: Mapping[str, Any]) -> str:
    kept = {name: str(value) for name, value in options.items() if value is not None}
    return f"?{urlencode(kept, quote_via=quote)}" if kept else ""
