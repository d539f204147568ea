"""A fault of DuckDB 2.0 that loses rows without a word, and the check that no transaction meets it.

Where one transaction fills a table twice, once with no rows and once with more than a row group, scans see nothing of
the large one until the next checkpoint, while `count(*)` counts it (docs/decisions/0013). Statements are written so
that this cannot be; should some do it all the same, they are refused before the commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gnomon.errors import StoreUnavailable
from gnomon.store import Table

ROW_GROUP = 122_880  #: rows; fewer go behind what is there, whatever that is
_FILLS = re.compile(r"INSERT INTO (\w+)|CREATE(?: OR REPLACE)?(?: TEMP)? TABLE (\w+) AS\b")


def check_filled(done: Iterable[tuple[str, Table]]) -> None:
    """Look at the statements of a transaction and what they answered. Raises `StoreUnavailable` (store-lost-rows)."""
    rows: dict[str, list[int]] = {}
    for statement, told in done:
        found = _FILLS.match(statement)
        if found is None or len(told.rows) != 1 or type(told.rows[0][0]) is not int:
            continue
        if found[2]:
            rows[found[2]] = []
        rows.setdefault(found[1] or found[2], []).append(told.rows[0][0])
    for name, counts in rows.items():
        if 0 in counts and max(counts) > ROW_GROUP // 2:
            raise StoreUnavailable(
                f"the database would lose rows that were put into {name}, so nothing was changed",
                code="store-lost-rows", remedy="Please report this; GNOMON_THREADS=1 avoids it.",
            )  # fmt: skip
