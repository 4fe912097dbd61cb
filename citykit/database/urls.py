"""Database URLs, with libpq's options, and how they are shown without passwords. No I/O."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from citykit.errors import DatabaseUnavailableError, did_you_mean

DATABASE = "postgres"  # the embedded server's default one, and the name of its superuser

_SEVERAL_HOSTS = re.compile(r"([^:/?#]+://(?:[^/?#]*@)?)([^/?#@]*,[^/?#@]*)((?:[/?#].*)?)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(\[.*\]|[^:]*)(?::(\d*))?")

# Options of libpq that asyncpg.connect takes in a URL and not as arguments.
_BY_URL = (
    "application_name", "datestyle", "geqo", "gsslib", "krbsrvname", "options", "passfile", "sslcert",
    "sslcrl", "sslkey", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslnegotiation",
    "sslrootcert", "target_session_attrs", "timezone",
)  # fmt: skip
# Options of libpq that set an option of the TCP socket: its name in Python's socket module.
_BY_SOCKET = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
_VERIFIED = "sslmode=verify-full with sslrootcert=FILE checks the server"
_BY_CONTEXT = "give connect_args={'ssl': context} with an ssl.SSLContext"
_BY_THE_SYSTEM = "name a file, or give connect_args={'ssl': ssl.create_default_context()}"
# Options of libpq that asyncpg lacks: the values that may be ignored, and what to type in place of others.
_LACKING: dict[str, tuple[tuple[str, ...], str]] = {
    "channel_binding": (("disable", "prefer"), _VERIFIED),
    "client_encoding": (("utf8", "utf-8", "unicode", "auto"), "leave it out: text travels as UTF-8"),
    "gssdelegation": (("0",), "leave it out: no credentials are passed on"),
    "gssencmode": (("disable", "prefer"), "leave it out and encrypt with sslmode=require"),
    "hostaddr": ((), "write the address as the host: postgresql://user@192.0.2.1/database"),
    "load_balance_hosts": (("disable",), "leave it out: the hosts are tried in their order"),
    "max_protocol_version": (("3.0", "3.2", "latest"), "leave it out: the version is 3.0"),
    "min_protocol_version": (("3.0",), "leave it out: the version is 3.0"),
    "require_auth": ((), _VERIFIED),
    "requirepeer": ((), f"connect to a host, where {_VERIFIED}"),
    "requiressl": (("0",), "write sslmode=require"),
    "service": ((), "write what the service file says into the URL"),
    "servicefile": ((), "write what the service file says into the URL"),
    "sslcertmode": (("allow",), f"{_BY_CONTEXT} that has loaded the certificate to send, or none"),
    "sslcompression": (("0", "1"), "leave it out: nothing is compressed"),
    "sslcrldir": ((), "write sslcrl=FILE, with all revocation lists in one file"),
    "sslpassword": ((), f"{_BY_CONTEXT} that has loaded the key"),
    "sslsni": (("1",), "leave it out: the server is told the host's name"),
}
# Variables of libpq that asyncpg does not read, and the options that they stand for.
_BY_ENVIRONMENT = {
    "PGAPPNAME": "application_name",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGDATESTYLE": "datestyle",
    "PGGEQO": "geqo",
    "PGOPTIONS": "options",
    "PGSSLROOTCERT": "sslrootcert",  # asyncpg reads it, and takes "system" for a file
    "PGTZ": "timezone",
}
# Parts of a URL, and the variables that asyncpg reads in their place.
_BY_ASYNCPG = {"username": "PGUSER", "password": "PGPASSWORD", "database": "PGDATABASE"}
# PGREQUIRESSL is honoured; PGSERVICEFILE asks for nothing without PGSERVICE; sslpassword has no variable.
_NOT_OF_THE_ENVIRONMENT = {"requiressl", "servicefile", "sslpassword"}
_BY_ENVIRONMENT |= {
    f"PG{name.replace('_', '').upper()}": name for name in _LACKING if name not in _NOT_OF_THE_ENVIRONMENT
}
# Options that citykit, asyncpg or SQLAlchemy's dialect for it handles.
_KNOWN = {
    *_BY_URL, *_BY_SOCKET, "command_timeout", "connect_timeout", "database", "direct_tls",
    "fallback_application_name", "host", "keepalives", "max_cacheable_statement_size",
    "max_cached_statement_lifetime", "password", "port", "prepared_statement_cache_size", "ssl", "sslmode",
    "statement_cache_size", "timeout", "user",
}  # fmt: skip
# Options of asyncpg's that it takes as an int.
_SIZES = {"max_cacheable_statement_size", "max_cached_statement_lifetime", "statement_cache_size"}
_NUMBERS = {*_BY_SOCKET, *_SIZES, "command_timeout", "connect_timeout", "keepalives", "timeout"}
_BOOLEANS = {
    **dict.fromkeys(("0", "false", "no", "off"), False),
    **dict.fromkeys(("1", "true", "yes", "on"), True),
}


def asyncpg_url(url: str | URL) -> URL:
    """Return a URL in the form that SQLAlchemy needs for asyncpg; raise if it cannot be used."""
    hosts = ""
    if isinstance(url, URL) and "," in (url.host or ""):
        url = url.render_as_string(hide_password=False)
    if isinstance(url, str) and (several := _SEVERAL_HOSTS.fullmatch(url)):
        url, hosts = several[1] + several[3], several[2]
    try:
        target = make_url(url)
    except (ArgumentError, ValueError):
        raise _unreadable() from None  # SQLAlchemy's message repeats the URL with its password
    if isinstance(url, str) and _has_an_at_left(url, target):
        raise _unreadable()
    if target.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseUnavailableError(
            f"citykit speaks to PostgreSQL, and the URL is for {target.drivername}. "
            "It looks like postgresql://user:password@host:5432/database.",
            transient=False,
        )
    _check_characters(target)
    query: dict[str, Any] = {}
    for name, (where, value) in _given(target).items():
        if name in _LACKING:
            accepted, instead = _LACKING[name]
            if str(value).lower() not in accepted:
                raise _refused(where, f"is not supported: {instead}")
        elif name not in _KNOWN:
            raise _refused(where, "is not known" + did_you_mean(name, sorted({*_KNOWN, *_LACKING})))
        elif name == "sslrootcert" and value == "system":
            raise _refused(where, f"cannot be 'system': {_BY_THE_SYSTEM}")
        elif name in _NUMBERS and not str(value).isdecimal():
            raise _refused(where, "must be a whole number")
        elif name == "direct_tls" and str(value).lower() not in _BOOLEANS:
            raise _refused(where, "must be 1 or 0")
        else:
            query["ssl" if name == "sslmode" else name] = value
    if os.environ.get("PGREQUIRESSL", "").startswith("1") and not os.environ.get("PGSSLMODE"):
        query.setdefault("ssl", "require")
    _set_several_hosts(query, hosts)
    if fallback := query.pop("fallback_application_name", None):
        query.setdefault("application_name", fallback)
    if isinstance(password := query.pop("password", None), str):  # SQLAlchemy hides only the one before the @
        target = target.set(password=password)
    host, port = _decoded(target.host or ""), target.port
    if host.startswith("/"):  # a socket's directory, which could not be read again in the place of a host
        query = {"host": host, **({"port": str(port)} if port else {}), **query}
        host, port = "", None
    return URL.create(
        "postgresql+asyncpg", target.username, target.password, host or None, port, target.database, query
    )


def _check_characters(url: URL) -> None:
    """Refuse what no message of the protocol can carry; asyncpg's errors would say something else."""
    parts = {f"option {name!r} of the database URL": str(value) for name, value in url.query.items()}
    parts["host of the database URL"] = url.host or ""
    for name, variable in _BY_ASYNCPG.items():
        if given := getattr(url, name):
            parts[f"{name} of the database URL"] = given
        else:
            parts[f"environment variable {variable!r}"] = os.environ.get(variable, "")
    for where, value in parts.items():
        try:
            sent = value.encode()
        except UnicodeEncodeError:
            raise _refused(where, "is not UTF-8 (it has a lone surrogate)") from None
        if b"\0" in sent:
            raise _refused(where, "has a NUL character")


def _decoded(host: str) -> str:
    """Return a host of a URL; libpq has a socket's directory there as %2Frun%2Fpostgresql."""
    return unquote(host) if host[:3].upper() == "%2F" else host


def _given(url: URL) -> dict[str, tuple[str, Any]]:
    """Return where each option stands and its value; the environment gives those that the URL leaves out."""
    given = {name: (f"option {name!r} of the database URL", value) for name, value in url.query.items()}
    for variable, name in _BY_ENVIRONMENT.items():
        value = os.environ.get(variable)
        if value and not (name == "connect_timeout" and "timeout" in given):
            given.setdefault(name, (f"environment variable {variable!r}", value))
    return given


def _has_an_at_left(url: str, target: URL) -> bool:
    """Tell whether an @ is left of a password, whose end would be shown as the host or as an option."""
    after = url.partition("@")[2].partition("?")[2].split("&")
    unknown = [part for part in after if part.partition("=")[0] not in {*_KNOWN, *_LACKING}]
    return "@" in f"{target.host}{target.database}{unknown}"


def with_database(url: URL, name: str) -> URL:
    """Return a URL with another database, whose name may have any characters."""
    if not can_name_database(name):
        raise DatabaseUnavailableError(
            f"database={name!r} is not valid: a database's name has 1 to 63 bytes, no NUL and no lone "
            "surrogate; nothing was sent.",
            transient=False,
        )
    return url.difference_update_query(["database"]).set(database=name)


def can_name_database(name: str) -> bool:
    """Tell whether a database can have this name: the server would silently cut one of more than 63 bytes."""
    try:
        return isinstance(name, str) and "\0" not in name and 0 < len(name.encode()) <= 63
    except UnicodeEncodeError:  # a lone surrogate
        return False


def quoted(name: str) -> str:
    """Return a name as a quoted identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def _set_several_hosts(query: dict[str, Any], hosts: str) -> None:
    """Put several hosts into a URL's query in SQLAlchemy's form, which has a port for each."""
    names, ports = [str(query.get("host", ""))], str(query.get("port", "")).split(",")
    if hosts:
        places = [_HOST_AND_PORT.fullmatch(place) for place in hosts.split(",")]
        names = [_decoded(place[1].strip("[]")) for place in places if place]
        ports = [place[2] or "" for place in places if place]
        if len(names) < len(places):
            raise _unreadable()
    elif "," in names[0] and isinstance(query["host"], str):
        names = names[0].split(",")
    else:
        return
    if len(ports) not in (1, len(names)):
        raise _refused(
            "option 'port' of the database URL",
            f"has {len(ports)} ports for {len(names)} hosts: give one, or one for each host",
        )
    default = os.environ.get("PGPORT") or "5432"
    if len(ports) == 1:
        ports *= len(names)
    query |= {"host": ",".join(names), "port": ",".join(port or default for port in ports)}


def _unreadable() -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        "The database URL cannot be read. It looks like postgresql://user:password@host:5432/database, "
        "with @ : / % in a password written as %40 %3A %2F %25; a database whose name has an @ is given by "
        "database='…'.",
        transient=False,
    )


def _refused(where: str, why: str) -> DatabaseUnavailableError:
    unset = " Unset it, in Python by: del os.environ[{}]" if where.startswith("environment") else ""
    return DatabaseUnavailableError(
        f"The {where} {why}; nothing was sent.{unset.format(where.split()[-1])}", transient=False
    )


def check_server_settings(connect_args: Mapping[str, Any]) -> None:
    """Refuse another encoding than UTF-8: parameters and texts of some reads would be taken for UTF-8."""
    settings = connect_args.get("server_settings")
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        accepted, instead = _LACKING["client_encoding"]
        if str(name).lower() == "client_encoding" and str(value).lower() not in accepted:
            raise _refused(f"setting {name!r} of connect_args", f"is not supported: {instead}")


def seconds_to_connect(url: URL) -> float:
    """Return a URL's own limit for opening a connection; 0 if it has none."""
    return float(str(url.query.get("connect_timeout") or url.query.get("timeout") or 0))


def set_url_options(_dialect: object, _record: object, _args: object, parameters: dict[str, Any]) -> None:
    """Turn the URL's options into what asyncpg.connect takes (SQLAlchemy's event ``do_connect``)."""
    for name in ("connect_timeout", "keepalives", *_BY_SOCKET):
        parameters.pop(name, None)  # see `connect` and `socket_options`
    for name in {"command_timeout", "timeout"} & parameters.keys():
        parameters[name] = parameters[name] and float(parameters[name])
    for name in _SIZES:
        if isinstance(size := parameters.get(name), str):  # else it is of connect_args
            parameters[name] = int(size)
    if isinstance(direct := parameters.get("direct_tls"), str):
        parameters["direct_tls"] = _BOOLEANS.get(direct.lower(), direct)
    if given := {name: parameters.pop(name) for name in _BY_URL if name in parameters}:
        parameters["dsn"] = f"postgresql://?{urlencode(given)}"


def socket_options(url: URL, default: Mapping[str, int]) -> dict[str, int]:
    """Return the options of a TCP socket that a URL asks for; none with ``keepalives=0``, as in libpq."""
    if url.query.get("keepalives") == "0":
        return {}
    asked = {word: int(str(url.query[name])) for name, word in _BY_SOCKET.items() if name in url.query}
    return {name: value for name, value in {**default, **asked}.items() if value}  # 0 is the system's default


def shown_url(url: URL) -> str:
    """Return a URL as text, with *** for its passwords."""
    query = {name: "***" if "password" in name.lower() else value for name, value in url.query.items()}
    shown = url.set(drivername="postgresql", query=query).render_as_string(hide_password=True)
    # A socket's path, several hosts and the stars are easier to read without quoting.
    return shown.replace("%2F", "/").replace("%2C", ",").replace("%2A", "*")
