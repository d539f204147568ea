"""The URL of a PostgreSQL store: what the driver is told, the schema in it, and a name that may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from gnomon.errors import InvalidValue

SCHEMA = "gnomon"  #: where the tables are, unless the URL has `schema=`
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
#: A connection that died without a word is noticed within about half a minute; the URL may say otherwise.
_LIVELY = {"connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3",
           "tcp_user_timeout": "20000"}  # fmt: skip


@dataclass(frozen=True)
class Address:
    """`parameters` for libpq; its text never holds the password."""

    parameters: dict[str, Any]
    schema: str

    def __repr__(self) -> str:
        return f"Address({self.name!r})"

    @property
    def quoted(self) -> str:
        """The schema as statements name it: it may be a word of SQL."""
        return f'"{self.schema}"'

    @property
    def database(self) -> str:
        """The name of the database, as the URL has it."""
        return str(self.parameters.get("dbname") or self.parameters.get("user") or "postgres")

    @property
    def name(self) -> str:
        """For people: host, port, database and schema."""
        host, port = self.parameters.get("host", "localhost"), self.parameters.get("port", "5432")
        return f"{host}:{port}/{self.database} (schema {self.schema})"


def address_of(url: str) -> Address:
    """Take a URL apart. Raises `InvalidValue` (bad-store), never with the URL in its text."""
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    try:
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        given = urlencode(
            [pair for pair in query if pair[0] != "schema"], quote_via=quote
        )  # libpq knows no + for a space
        found: dict[str, Any] = conninfo_to_dict("?".join([url.partition("?")[0], *([given] if given else [])]))
    except (Error, ValueError):  # what they say quotes the URL
        raise InvalidValue(
            "the URL of the PostgreSQL store cannot be read",
            remedy="Write postgresql://user:password@host:5432/database, with special characters percent-encoded.",
            code="bad-store",
        ) from None
    schema = dict(query).get("schema", SCHEMA)
    if not _NAME.fullmatch(schema) or schema.startswith("pg_") or schema == "information_schema":
        raise InvalidValue(
            "the schema in the store's URL is not one that can be used",
            remedy="Use small letters, digits and _, for example ?schema=gnomon.",
            code="bad-store",
        )
    return Address({**_LIVELY, "application_name": "gnomon", **found, "client_encoding": "UTF8"}, schema)
