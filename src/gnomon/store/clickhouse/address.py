"""The URL of a ClickHouse store, embedded (`chdb://path`) or on a server, and a name of it that may be shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from gnomon.errors import InvalidValue

DATABASE = "gnomon"  #: where the tables are, unless the URL names another
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_CLUSTER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_TAKEN = ("system", "information_schema", "default")
_OF_A_CHANGE = re.compile(r".*_next_[0-9]+")  #: what databases are called in which a store makes its changes


@dataclass(frozen=True)
class Address:
    """`path` of an embedded store, else `host` and the rest; its text never holds the password."""

    database: str
    path: str | None = None
    host: str = "localhost"
    port: int = 8123
    user: str = "default"
    password: str = ""
    secure: bool = False
    cluster: str | None = None  #: over whose servers the store is spread
    take: bool = False  #: this server leads the store from now on

    def __repr__(self) -> str:
        return f"Address({self.name!r})"

    @property
    def name(self) -> str:
        """For people: where it is, and the database there."""
        return f"{self.path or f'{self.host}:{self.port}'} (database {self.database})"

    @property
    def file(self) -> Path | None:
        """The name beside which everything else of an embedded store lies."""
        if self.path is None:
            return None
        return Path(self.path if self.database == DATABASE else f"{self.path}.{self.database}")


def address_of(url: str) -> Address:
    """Take a URL apart. Raises `InvalidValue` (bad-store), never with the URL in its text."""
    if url.startswith("chdb://"):
        path, _, query = url.removeprefix("chdb://").partition("?")
        options = dict(parse_qsl(query))
        if not path or set(options) - {"database"}:
            raise _bad("Write chdb://path, or chdb://path?database=name.")
        return Address(_checked(options.get("database", DATABASE)), path=os.path.realpath(path))
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise _bad() from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if host is None or set(options) - {"secure", "cluster", "coordinator"}:
        raise _bad()
    cluster = options.get("cluster")
    if cluster is not None and not _CLUSTER.fullmatch(cluster):
        raise _bad("Give cluster= the name that the cluster has in system.clusters: letters, digits, _ and -.")
    if options.get("coordinator", "take") != "take" or ("coordinator" in options and cluster is None):
        raise _bad("Write ?cluster=name&coordinator=take to have this server lead the store.")
    secure = options.get("secure", "false") in ("1", "true")
    return Address(
        _checked(parts.path.strip("/") or DATABASE),
        host=host,
        port=port or (8443 if secure else 8123),
        user=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        secure=secure,
        cluster=cluster,
        take="coordinator" in options,
    )


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise InvalidValue(
            "the database in the store's URL is not one that can be used",
            remedy="Use small letters, digits and _, and none of ClickHouse's own databases.", code="bad-store",
        )  # fmt: skip
    if _OF_A_CHANGE.fullmatch(name):
        raise InvalidValue(
            "the database in the store's URL is called as those in which another store makes its changes",
            remedy="Use a name that does not end in _next_ and a number (RENAME DATABASE).", code="bad-store",
        )  # fmt: skip
    return name


def _bad(remedy: str = "Write clickhouse://user:password@host:8123/database, with special characters percent-encoded.",
         ) -> InvalidValue:  # fmt: skip
    return InvalidValue("the URL of the ClickHouse store cannot be read", remedy=remedy, code="bad-store")
