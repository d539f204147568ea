"""What the doctor is told of a PostgreSQL store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gnomon.store import PRUNED, Sizes, Table

EXACT_UP_TO = 5_000_000  #: rows; beyond, the server's own estimate is told, and that it is one

_SIZES = """SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint,
coalesce(sum(greatest(c.reltuples, 0)) FILTER (WHERE c.relname LIKE 'events%'), 0)::bigint
FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'm')"""
_TABLES = "SELECT " + ", ".join(
    f"(SELECT count(*) FROM {table}), "
    f"(SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_partition_tree('{table}'))"
    for table in PRUNED
)
_SERVER = """SELECT current_setting('server_version'), current_setting('fsync'), current_setting('data_checksums'),
pg_is_in_recovery(), (SELECT count(*) FROM events_default)"""


def described(ask: Callable[[Sequence[str], float], list[Table]], schema: int) -> dict[str, Any]:
    """See `Store.describe`; not whether every block is readable, as nobody has read them."""
    sizes, server, counts = ask([_SIZES, _SERVER, "SELECT (SELECT count(*) FROM samples), "
                                 "(SELECT count(*) FROM quarantine)"], 60.0)  # fmt: skip
    (bytes_, estimate) = sizes.rows[0]
    exact = estimate <= EXACT_UP_TO
    events = ask(["SELECT count(*) FROM events"], 60.0)[0].rows[0][0] if exact else estimate
    first, last = ask(["SELECT epoch_us(min(ts)), epoch_us(max(ts)) FROM events"], 60.0)[0].rows[0]
    received = ask(["SELECT epoch_us(min(received_at)) FROM events"], 60.0)[0].rows[0][0] if exact else first
    version, fsync, checksums, standby, unsorted = server.rows[0]
    return {
        "store": "postgresql",
        "store_version": version,
        "schema": schema,
        "events": events,
        "events_estimated": not exact,
        "samples": counts.rows[0][0],
        "quarantined": counts.rows[0][1],
        "first_ts_us": first,
        "last_ts_us": last,
        "first_received_us": received,
        "bytes": bytes_,
        "fsync": fsync == "on",
        "checksums": checksums == "on",
        "standby": standby,
        "default_partition_rows": unsorted,
    }


def size_of(ask: Callable[[Sequence[str], float], list[Table]]) -> int:
    """See `Store.disk_bytes`."""
    return int(ask([_SIZES], 60.0)[0].rows[0][0])


def sizes(ask: Callable[[Sequence[str], float], list[Table]]) -> Sizes:
    """See `Store.sizes`."""
    found = iter(ask([_TABLES], 600.0)[0].rows[0])
    return Sizes(dict(zip(PRUNED, zip(found, found, strict=True), strict=True)))
