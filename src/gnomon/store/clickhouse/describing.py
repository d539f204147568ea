"""What the doctor is told of a ClickHouse store."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from gnomon.errors import StoreDamaged
from gnomon.store import PRUNED, Sizes, Table
from gnomon.store.clickhouse.tables import BATCHED
from gnomon.store.texts import quoted

_SPAN = """SELECT toUnixTimestamp64Micro(min(ts)), toUnixTimestamp64Micro(max(ts)),
toUnixTimestamp64Micro(min(received_at)) FROM events"""

_CHECK = "CHECK TABLE {} SETTINGS check_query_single_value_result = 1"


def described(ask: Callable[[Sequence[str], float], list[Table]], database: str, schema: int) -> dict[str, Any]:
    """See `Store.describe`."""
    me = quoted(database)
    counts, server = ask(
        [
            "SELECT (SELECT count() FROM events), (SELECT count() FROM samples), (SELECT count() FROM quarantine)",
            f"SELECT version(), (SELECT coalesce(sum(bytes_on_disk), 0) FROM system.parts WHERE database = {me}), "
            f"(SELECT count() FROM system.parts WHERE database = {me} AND active), "
            f"(SELECT count() FROM system.detached_parts WHERE database = {me})",
        ],
        60.0,
    )
    (version, bytes_, parts, detached) = server.rows[0]
    first = last = received = None
    try:
        first, last, received = ask([_SPAN], 60.0)[0].rows[0]
        readable = not detached and all(ask([_CHECK.format(table)], 600.0)[0].rows[0][0] for table in BATCHED)
    except StoreDamaged:
        readable = False
    return {
        "readable": readable,
        "store": "clickhouse",
        "store_version": version,
        "schema": schema,
        "events": counts.rows[0][0],
        "samples": counts.rows[0][1],
        "quarantined": counts.rows[0][2],
        "first_ts_us": first,
        "last_ts_us": last,
        "first_received_us": received,
        "bytes": bytes_,
        "parts": parts,
        "detached_parts": detached,
    }


_NUMBER = re.compile(r"_\d+$")  #: of a table of a cluster that was made anew
_ROWS = "SELECT " + ", ".join(f"(SELECT count() FROM {table})" for table in PRUNED)


def sizes(ask: Callable[[Sequence[str], float], list[Table]], parts: str) -> Sizes:
    """See `Store.sizes`; `parts` is where the parts of the store's tables are named."""
    rows, found = ask(
        [_ROWS, f"SELECT table, sum(if(active, bytes_on_disk, 0)), sum(if(active, 0, bytes_on_disk)) FROM {parts} "
                "GROUP BY table"], 600.0,
    )  # fmt: skip
    taken: Counter[str] = Counter()
    for name, size, _ in found.rows:
        taken[_NUMBER.sub("", name)] += int(size)
    kept = {name: (int(n), taken[name]) for name, n in zip(PRUNED, rows.rows[0], strict=True)}
    return Sizes(kept, sum(int(spare) for _, _, spare in found.rows))


def size_of(ask: Callable[[Sequence[str], float], list[Table]], parts: str) -> int:
    """See `Store.disk_bytes`."""
    return int(ask([f"SELECT coalesce(sum(bytes_on_disk), 0) FROM {parts}"], 60.0)[0].rows[0][0])


def parts_of(database: str) -> str:
    """Where the parts of a store on one server are named."""
    return f"system.parts WHERE database = {quoted(database)}"
