"""What the tables of a DuckDB store take on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gnomon.store import PRUNED, Sizes, Table

#: Small parts of several tables may share a block: each then counts as one of those parts.
_BLOCKS = " UNION ALL ".join(
    f"SELECT '{table}' AS name, unnest(list_prepend(block_id, additional_block_ids)) AS block "
    f"FROM pragma_storage_info('{table}') WHERE persistent" for table in PRUNED
)  # fmt: skip
_BYTES = f"""WITH used AS ({_BLOCKS}), shared AS (SELECT block, count(*) AS n FROM used WHERE block >= 0 GROUP BY 1)
SELECT name, sum(size / n)::BIGINT FROM used JOIN shared USING (block),
(SELECT block_size AS size FROM pragma_database_size() WHERE database_name = 'store') GROUP BY 1"""
_ROWS = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in PRUNED)
_SPARE = "SELECT free_blocks * block_size FROM pragma_database_size() WHERE database_name = 'store'"


def sizes(ask: Callable[[Sequence[str], float], list[Table]]) -> Sizes:
    """See `Store.sizes`."""
    rows, found, spare = (table.rows for table in ask([_ROWS, _BYTES, _SPARE], 600.0))
    taken = dict(found)
    return Sizes({name: (n, taken.get(name, 0)) for name, n in zip(PRUNED, rows[0], strict=True)}, spare[0][0])
