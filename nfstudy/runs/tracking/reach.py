"""Whether a tracking address can be one, and whether somebody answers there; asked before anything waits for it.

MLflow itself tries a database for minutes and then shows what its driver raised, and takes any word for a folder.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from nfstudy.core.errors import StoreError, StoreUnavailableError
from nfstudy.core.sqlite_uri import SQLITE
from nfstudy.core.suggest import did_you_mean
from nfstudy.runs.tracking.uris import database_file, is_served, is_sqlite

REACH_SECONDS = 10
"""How long a host may take to answer a connection."""
DATABASES = ("postgresql", "mysql", "mssql")
SCHEMES = ("sqlite", "http", "https", *DATABASES)
EXPECTED = "sqlite:///FILE, http(s)://SERVER, or a database's address such as postgresql+psycopg://USER@HOST/NAME"
INSTALL = {
    "psycopg": "pip install 'nfstudy[cluster]'",
    "psycopg2": "write postgresql+psycopg://, and pip install 'nfstudy[cluster]'",
    "MySQLdb": "write mysql+pymysql://, and pip install pymysql",
}
"""Module of a driver -> how to get it, where that is not `pip install` with its name."""


def require_address(uri: str) -> None:
    """Make sure that a tracking address is one that can be opened, as far as that can be told without opening it.

    Raises:
        StoreError: its scheme is not known, it names a folder or no host, or its driver is not installed.
    """
    scheme, separator, _ = uri.partition("://")
    kind = scheme.partition("+")[0]
    if not separator or kind not in SCHEMES:
        hint = did_you_mean(kind, SCHEMES) if separator else ""
        raise StoreError(f"tracking address {uri}: expected: {EXPECTED}{hint}")
    if is_sqlite(uri):
        _require_file(uri)
    elif is_served(uri):
        _require_host(uri)
    elif kind == "sqlite":
        raise StoreError(f"tracking address {uri}: expected: {SQLITE}FILE, with three slashes (four before a root)")
    else:
        _require_driver(uri)


def require_answer(uri: str) -> None:
    """Make sure that a server or database answers; one in a file has nobody to answer.

    Raises:
        StoreUnavailableError: nobody answers there, or not to this user.
    """
    if is_sqlite(uri):
        return
    try:
        if is_served(uri):
            _connect(uri)
        else:
            _log_in(uri)
    except OSError as error:
        raise StoreUnavailableError(
            f"tracking store {uri}: cannot be reached: {error.strerror or error or 'no answer'}; "
            "hint: start it, or pass another --tracking-uri"
        ) from None


def _require_file(uri: str) -> None:
    name = uri.removeprefix(SQLITE).partition("?")[0]
    try:
        path = database_file(uri)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(path)  # Raises for a name that no file can have, where `Path.exists` says no.
        if not name or path.is_dir():
            raise StoreError(f"tracking address {uri}: {path} is a folder; expected: {SQLITE}FILE")
        if path.is_symlink() and not path.exists():
            raise StoreError(f"{path}: is a link to {os.readlink(path)}, which is not there; expected: a database")
        if path.exists() and not path.is_file():  # Whoever opens a pipe may wait for ever.
            raise StoreError(f"{path}: is a pipe, socket or device; expected: a database, or a new name")
        folder = next(each for each in path.parents if each.exists())
        if not folder.is_dir():
            raise StoreError(f"tracking address {uri}: {folder} is a file; expected: {SQLITE}FILE, in a folder")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"tracking address {uri}: no file can have this name: {reason}") from None


def _require_encoded(uri: str, misplaced: bool) -> None:
    """Raise StoreError for what a password may hold and an address may not: it would be taken for another part."""
    if misplaced or re.search(r"[\s'\"<>]", uri):
        raise StoreError(
            f"tracking address {uri}: holds blanks, quotes, or an @ or / too many; expected: these percent-encoded, "
            "such as @ in a password as %40, / as %2F, a blank as %20"
        )


def _require_host(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        _require_encoded(uri, "@" in parts.path)
        found = parts.hostname and parts.port != 0
    except ValueError:
        found = False
    if not found:
        raise StoreError(f"tracking address {uri}: expected: http(s)://HOST or http(s)://HOST:PORT, ports to 65535")


def _require_driver(uri: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    _require_encoded(uri, uri.partition("?")[0].count("@") > 1)
    try:
        # What SQLAlchemy has for a dialect may itself import the driver.
        make_url(uri).get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise StoreError(f"tracking address {uri}: no such driver; expected: {EXPECTED}") from None
    except ImportError as error:
        name = error.name or str(error)
        how = INSTALL.get(name, f"pip install {name}")
        raise StoreError(f"tracking address {uri}: needs {name}, which is not installed; hint: {how}") from None
    except (ArgumentError, ValueError):
        raise StoreError(f"tracking address {uri}: cannot be read; expected: {EXPECTED}") from None


def _connect(uri: str) -> None:
    """Connect to a server; raises OSError. Behind a proxy only a request can tell."""
    parts = urlsplit(uri)
    host = parts.hostname or ""
    proxies = getproxies()
    if (parts.scheme in proxies or "all" in proxies) and not proxy_bypass(host):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except UnicodeError:
        raise OSError(f"'{host}' is no host's name") from None


def _log_in(uri: str) -> None:
    """Open a connection to a database; raises OSError in the database's own words."""
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    driver = uri.partition("://")[0].partition("+")[2]
    waits = {"connect_timeout": REACH_SECONDS} if driver in ("psycopg", "psycopg2", "pymysql", "mysqldb") else {}
    try:
        with create_engine(uri, poolclass=NullPool, connect_args=waits).connect():
            pass
    except SQLAlchemyError as error:
        spoken = getattr(error, "orig", None) or error
        raise OSError(" ".join(str(spoken).split())[:300]) from None
    except Exception as error:  # A driver may raise anything for an address that it cannot read.
        raise OSError(f"{type(error).__name__}: {error}"[:300]) from None
