"""The PostgreSQL store: many processes may write into one database and ask it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from gnomon.config import Settings
from gnomon.store import Table
from gnomon.store.dialect import POSTGRES
from gnomon.store.postgres.address import address_of
from gnomon.store.postgres.faults import translated
from gnomon.store.postgres.opening import begin, connect, migrate


class PostgresStore:
    """See `gnomon.store.Store`."""

    dialect = POSTGRES

    def __init__(self, url: str, settings: Settings) -> None:
        self._address = address_of(url)
        self._settings = settings
        self._found = migrate(self._address)

    def ask(self, statements: Sequence[str], timeout: float) -> list[Table]:
        """See `Store.ask`."""
        return self._run(statements, timeout, reading=True)

    def change(self, statements: Sequence[str], timeout: float = 3_600.0) -> list[Table]:
        """See `Store.change`."""
        return self._run(statements, timeout, reading=False)

    def _run(self, statements: Sequence[str], timeout: float, *, reading: bool) -> list[Table]:
        con = connect(self._address)
        try:
            con.execute(begin(self._address, reading=reading, milliseconds=int(timeout * 1_000)))
            tables = []
            for statement in statements:
                cursor = con.cursor(binary=True)
                cursor.execute(statement)
                if cursor.description is None:
                    tables.append(Table(["Count"], [(cursor.rowcount,)]))
                else:
                    tables.append(Table([column.name for column in cursor.description], cursor.fetchall()))
            con.execute("COMMIT")
            return tables
        except psycopg.Error as error:
            raise translated(error) from error
        finally:
            con.close()

    def describe(self) -> dict[str, Any]:
        """See `Store.describe`."""
        return {}

    def close(self) -> None:
        """See `Store.close`."""
