"""What the doctor is told of a PostgreSQL store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gnomon.store import PRUNED, Sizes, Table
from gnomon.store.postgres.months import ATTACHED

EXACT_UP_TO = 5_000_000  #: rows; beyond, the server's own estimate is told, and that it is one

_SIZES = """SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint,
coalesce(sum(greatest(c.reltuples, 0)) FILTER (WHERE c.relname LIKE 'events%'), 0)::bigint,
coalesce(sum(greatest(c.reltuples, 0)) FILTER (WHERE c.relname = 'samples'), 0)::bigint
FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'm')"""
_TABLES = "SELECT " + ", ".join(
    f"(SELECT count(*) FROM {table}), "
    f"(SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_partition_tree('{table}'))"
    for table in PRUNED
)
_SERVER = """SELECT current_setting('server_version'), current_setting('fsync'), current_setting('data_checksums'),
pg_is_in_recovery(), (SELECT count(*) FROM events_default)"""
#: The first or last moment of one partition: from project to project, a look into the index for each.
_END = """WITH RECURSIVE each AS (
(SELECT project, ts FROM {0} ORDER BY project {1}, ts {1} LIMIT 1)
UNION ALL
SELECT next.project, next.ts FROM each CROSS JOIN LATERAL (
SELECT e.project, e.ts FROM {0} e WHERE e.project {2} each.project ORDER BY e.project {1}, e.ts {1} LIMIT 1) AS next)
SELECT epoch_us({3}(ts)) FROM each"""
_FIRST, _LAST = ("ASC", ">", "min"), ("DESC", "<", "max")


def described(ask: Callable[[Sequence[str], float], list[Table]], schema: int) -> dict[str, Any]:
    """See `Store.describe`; not whether every block is readable, as nobody has read them."""
    sizes, server, quarantine = ask([_SIZES, _SERVER, "SELECT count(*) FROM quarantine"], 60.0)
    (bytes_, estimate, more) = sizes.rows[0]
    exact, counted = estimate <= EXACT_UP_TO, more <= EXACT_UP_TO
    events = ask(["SELECT count(*) FROM events"], 60.0)[0].rows[0][0] if exact else estimate
    samples = ask(["SELECT count(*) FROM samples"], 60.0)[0].rows[0][0] if counted else more
    first, last = _ends(ask)
    received = ask(["SELECT epoch_us(min(received_at)) FROM events"], 60.0)[0].rows[0][0] if exact else first
    version, fsync, checksums, standby, unsorted = server.rows[0]
    return {
        "store": "postgresql",
        "store_version": version,
        "schema": schema,
        "events": events,
        "events_estimated": not exact,
        "samples": samples,
        "samples_estimated": not counted,
        "quarantined": quarantine.rows[0][0],
        "first_ts_us": first,
        "last_ts_us": last,
        "first_received_us": received,
        "bytes": bytes_,
        "fsync": fsync == "on",
        "checksums": checksums == "on",
        "standby": standby,
        "default_partition_rows": unsorted,
    }


def _ends(ask: Callable[[Sequence[str], float], list[Table]]) -> tuple[int | None, int | None]:
    """The first and the last moment of all events: of the first and last month that has any, and of those in none."""
    months = sorted({name for (name,) in ask([ATTACHED], 60.0)[0].rows} - {"events_default"})

    def end(names: Sequence[str], direction: str, sign: str, pick: str) -> int | None:
        told = (ask([_END.format(name, direction, sign, pick)], 60.0)[0].rows[0][0] for name in names)
        return next((us for us in told if us is not None), None)

    firsts = [end(names, *_FIRST) for names in (months, ["events_default"])]
    lasts = [end(names, *_LAST) for names in (months[::-1], ["events_default"])]
    return (min((us for us in firsts if us is not None), default=None),
            max((us for us in lasts if us is not None), default=None))  # fmt: skip


def size_of(ask: Callable[[Sequence[str], float], list[Table]]) -> int:
    """See `Store.disk_bytes`."""
    return int(ask([_SIZES], 60.0)[0].rows[0][0])


def sizes(ask: Callable[[Sequence[str], float], list[Table]]) -> Sizes:
    """See `Store.sizes`."""
    found = iter(ask([_TABLES], 600.0)[0].rows[0])
    return Sizes(dict(zip(PRUNED, zip(found, found, strict=True), strict=True)))
