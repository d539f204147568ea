"""The statements of a store on a cluster, and what the cluster has to be (docs/decisions/0041).

Rows lie in Replicated tables named `<table>_<number>`, on every shard, made by `ON CLUSTER`. `<table>` itself is a
Distributed table over them, on the one server that the store's URL names. Where a row lies is a matter of balance only:
no answer, and no search for repeats, rests on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gnomon.errors import InvalidValue, StoreUnavailable
from gnomon.store.clickhouse.connecting import FAILED, Connection, Settings
from gnomon.store.clickhouse.faults import code_of
from gnomon.store.clickhouse.opening import KNOWN, statements
from gnomon.store.clickhouse.tables import BATCHED, BLOCKS, DURABLE
from gnomon.store.texts import quoted

FIRST = 1  #: the number of the tables that a new store begins with
PLACE = "place:"  #: of the keys of the state: the number of the table that holds the rows of one name
COORDINATOR = "coordinator"  #: which server has the Distributed tables, and so the lock
LOG = "state_log"

#: By what rows are spread. A repeat meets its first on one shard, a person's days are together.
SHARD_KEYS = {
    "events": "cityHash64(project, id)",
    "samples": "cityHash64(project, name, ts)",
    "rolled": "cityHash64(project, rollup, ts)",
    "people": "cityHash64(project, number)",
    "activity": "cityHash64(project, person)",
    "active_days": "cityHash64(project, person)",
    "sightings": "cityHash64(project, actor)",
    LOG: "0",  # one insert commits, so it goes to one shard
}
PARTITIONS = dict.fromkeys(("events", "samples", "rolled", "sightings"), "toYYYYMM(ts)") | dict.fromkeys(
    ("activity", "active_days"), "intDiv(day, 32)"
)

#: Of every replicated table, beside `DURABLE`: a fetched part is on the disk before it counts for the quorum.
REPLICATED: dict[str, int] = {
    "min_compressed_bytes_to_fsync_after_fetch": 1,
    "replicated_deduplication_window": 1_000,
    "replicated_deduplication_window_seconds": 604_800,
}

#: Of every statement of a store on a cluster. What the server does not take is an error at the start.
CLUSTER_SESSION: dict[str, str | int | float] = {
    "distributed_foreground_insert": 1,  # said to be stored is stored, not queued for a shard
    "insert_quorum": "auto",  # on most replicas of the shard
    "insert_quorum_parallel": 0,  # reads are consistent with quorums in sequence only
    "insert_quorum_timeout": 60_000,
    "insert_distributed_one_random_shard": 0,
    "insert_shard_id": 0,
    "parallel_distributed_insert_select": 0,
    "select_sequential_consistency": 1,  # a replica that lacks what a quorum took does not answer
    "skip_unavailable_shards": 0,  # an answer of some shards is none
    "fallback_to_stale_replicas_for_distributed_queries": 0,
    "prefer_global_in_and_join": 1,  # the other side of a join or IN is that of all shards, sent to each
    "distributed_product_mode": "global",
    "optimize_skip_unused_shards": 0,
    "optimize_distributed_group_by_sharding_key": 0,
    "distributed_group_by_no_merge": 0,  # states of aggregates are merged, so that a person of two shards is one
    "enable_parallel_replicas": 0,
    "optimize_rewrite_aggregate_function_with_if": 0,  # see `without_filters`
    "optimize_rewrite_sum_if_to_count_if": 0,
    "alter_sync": 2,  # done is done on every replica
    "mutations_sync": 2,
    "distributed_ddl_task_timeout": 180,
    "distributed_ddl_output_mode": "none",  # as `throw`, without rows
}

#: Asked at the start; a replica that does not answer fails the statement.
SERVERS = "SELECT shard_num, replica_num, internal_replication FROM system.clusters WHERE cluster = {}"
MACROS = """SELECT serverUUID(), hostName(), anyIf(substitution, macro = 'shard'),
anyIf(substitution, macro = 'replica') FROM clusterAllReplicas({}, system.macros) GROUP BY ALL"""
SETTINGS_NOW = "SELECT name, value FROM system.settings WHERE name IN ({})"
ALIVE = "SELECT count() FROM clusterAllReplicas({}, system.one)"
TABLES_THERE = """SELECT DISTINCT name, engine, create_table_query FROM clusterAllReplicas({}, system.tables)
WHERE database = {}"""

_CREATE = re.compile(r"CREATE TABLE (\w+) \((.*)\)\s*ENGINE = (.*)", re.DOTALL)
_PHYSICAL = re.compile(rf"({'|'.join((*BATCHED, LOG))})_(\d+)")


@dataclass(frozen=True)
class Cluster:
    """The statements of one store: `database` on every server of the cluster `name`."""

    name: str
    database: str
    _made: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        words = {
            "merge_tree": "ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')",
            "durable": ", ".join(f"{name} = {value}" for name, value in (DURABLE | BLOCKS | REPLICATED).items()),
        }
        for number in range(1, KNOWN + 1):
            for statement in statements(number, words):
                if found := _CREATE.match(statement):
                    self._made[found[1]] = (found[2], found[3])

    def everywhere(self, verb: str, name: str, rest: str = "") -> str:
        """A statement for every server. The one place where `ON CLUSTER` is written."""
        return f"{verb} {name} ON CLUSTER {quoted(self.name)} {rest}".rstrip()

    def local(self, table: str, number: int) -> str:
        """The replicated table of a name and number."""
        return f"{self.database}.{table}_{number}"

    def database_made(self) -> str:
        """Make the database."""
        return self.everywhere("CREATE DATABASE IF NOT EXISTS", self.database)

    def made(self, table: str, number: int, suffix: str = "") -> str:
        """Make a replicated table. Its path in Keeper holds its UUID, so that a number may be used again."""
        columns, engine = self._made[table]
        return self.everywhere("CREATE TABLE", self.local(table, number) + suffix, f"({columns}) ENGINE = {engine}")

    def spread(self, place: str, table: str, number: int, suffix: str = "") -> str:
        """Have the name of a table in `place`, on this server, stand for the rows of a number on all shards."""
        columns = self._made[table][0].partition(" INDEX ")[0].rstrip().rstrip(",")
        key = SHARD_KEYS.get(table, "cityHash64(project)")
        target = f"{quoted(self.name)}, {quoted(self.database)}, {quoted(f'{table}_{number}{suffix}')}"
        return f"CREATE OR REPLACE TABLE {place}.{table}{suffix} ({columns}) ENGINE = Distributed({target}, {key})"

    def copied(self, table: str, old: int, number: int) -> list[str]:
        """Fill a new table with the parts of another; one replica of each shard does, when all have what there is."""
        return [
            f"SYSTEM SYNC REPLICA ON CLUSTER {quoted(self.name)} {self.local(table, old)}",
            self.changed(table, number, f"ATTACH PARTITION ALL FROM {self.local(table, old)}"),
        ]

    def changed(self, table: str, number: int, change: str) -> str:
        """An `ALTER`: of one replica of each shard, which the others follow."""
        return self.everywhere("ALTER TABLE", self.local(table, number), change)

    def emptied(self, table: str, number: int) -> str:
        """A `TRUNCATE`. Of the Distributed table it would remove nothing."""
        return self.everywhere("TRUNCATE TABLE", self.local(table, number))

    def dropped(self, name: str) -> str:
        """Remove a replicated table, with its bytes, from every server."""
        return self.everywhere("DROP TABLE IF EXISTS", name, "SYNC")

    def view_of_state(self) -> str:
        """The newest of each key."""
        return (
            f"CREATE OR REPLACE VIEW {self.database}.state AS SELECT key, argMax(value, batch) AS value "
            f"FROM {self.database}.{LOG} GROUP BY key"
        )


def physical(name: str) -> tuple[str, int] | None:
    """The name and number of a replicated table; None of any other."""
    found = _PHYSICAL.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def places_of(state: Mapping[str, str]) -> dict[str, int]:
    """The number of the tables that hold the rows now."""
    return {table: int(state.get(PLACE + table, FIRST)) for table in BATCHED} | {LOG: FIRST}


# -- what the cluster has to be ---------------------------------------------------------------------------------------


def check_cluster(con: Connection, cluster: Cluster, settings: Settings) -> None:
    """Raises `InvalidValue` with code `cluster-setup` where promises could not be kept, and `StoreUnavailable` with
    `cluster-degraded` where a server does not answer."""
    servers = con.run(SERVERS.format(quoted(cluster.name)), settings).rows
    if not servers:
        raise _setup(f"the server knows no cluster {cluster.name}", "Name one of system.clusters in the store's URL.")
    if not all(internal for _, _, internal in servers):
        raise _setup(
            "a shard of the cluster has no internal_replication, so rows would be written to it twice",
            "Set internal_replication to true for each shard of it in remote_servers.",
        )
    check_alive(con, cluster, settings, len(servers))
    found = con.run(MACROS.format(quoted(cluster.name)), settings).rows
    pairs = {(shard, replica) for _, _, shard, replica in found if shard and replica}
    if len(pairs) != len(servers) or len({shard for shard, _ in pairs}) != len({shard for shard, _, _ in servers}):
        raise _setup(
            "the servers of the cluster have no macros shard and replica that tell them apart",
            "Give each server <macros> with its shard and its replica.",
        )
    _check_settings(con, settings)


def check_alive(con: Connection, cluster: Cluster, settings: Settings, servers: int | None = None) -> None:
    """Every replica answers. A change needs all of them: what it removes has to be gone everywhere."""
    try:
        ((answering,),) = con.run(ALIVE.format(quoted(cluster.name)), settings).rows
    except FAILED as error:
        if code_of(error) not in _NOT_REACHED:
            raise
        answering = 0
    if answering < (1 if servers is None else servers):
        raise StoreUnavailable(
            "a replica of the cluster does not answer, and changes are made when all do", code="cluster-degraded",
            remedy="Bring it back, or take it out of remote_servers; recording and questions go on.",
        )  # fmt: skip


_NOT_REACHED = (209, 210, 279, 519)  #: time-out of a socket, network, all connections failed, all replicas lost


def _check_settings(con: Connection, settings: Settings) -> None:
    names = ", ".join(map(quoted, CLUSTER_SESSION))
    now = dict(con.run(SETTINGS_NOW.format(names), settings).rows)
    wrong = sorted(name for name, value in CLUSTER_SESSION.items() if now.get(name) != str(value))
    if wrong:
        raise _setup(
            f"the server does not take the settings that a cluster needs: {', '.join(wrong)}",
            "Let the user change them (no constraints, no readonly profile), and use ClickHouse 25.8 or newer.",
        )


def check_tables(con: Connection, cluster: Cluster, settings: Settings) -> None:
    """On every server the tables are durable and tell repeats; a new replica has been given them. Tables of versions
    before have other blocks, until a change makes them anew."""
    wanted = DURABLE | REPLICATED
    for name, engine, made in con.run(
        TABLES_THERE.format(quoted(cluster.name), quoted(cluster.database)), settings
    ).rows:
        if physical(name) is None or "MergeTree" not in engine:
            continue
        lacking = [f"{key} = {value}" for key, value in wanted.items() if not re.search(rf"{key} = {value}\b", made)]
        if lacking or not engine.startswith("Replicated"):
            raise _setup(
                f"the table {name} is not one of those that Gnomon made: {engine}, without {', '.join(lacking)}",
                f"Run ALTER TABLE {cluster.database}.{name} ON CLUSTER {cluster.name} MODIFY SETTING with them.",
            )


def _setup(said: str, remedy: str) -> InvalidValue:
    return InvalidValue(said, remedy=remedy, code="cluster-setup")


# -- questions ---------------------------------------------------------------------------------------------------------

_PIECE = re.compile(r"'(?:[^'\\]|\\.|'')*'|`[^`]*`|\"[^\"]*\"|\(|\)|\bFILTER\s*\(\s*WHERE\b", re.DOTALL | re.IGNORECASE)
_CALLED = re.compile(r"(\w+)\s*(?:\([^()]*\))?\s*$")


def without_filters(text: str) -> str:
    """`sum(x) FILTER (WHERE c)` as `sum(CASE WHEN c THEN x END)`, which is the same for what leaves out nulls.

    With `aggregate_functions_null_for_empty` the first server calls the one `sumOrNullIf`, and a shard, which is told
    that name and the setting, `sumOrNullOrNullIf`: ClickHouse then misses a column. Counts have the same name in both.
    """
    before = len(text)
    while (found := _last_filter(text, before)) is not None:
        before, opened, closed, where, end = found
        name, value = _CALLED.search(text[:opened]), text[opened + 1 : closed]
        if name is None or name[1].lower().startswith(("count", "uniq")) or value.strip() == "*":
            continue
        text = f"{text[:opened]}(CASE WHEN {text[where:end].strip()} THEN {value} END){text[end + 1 :]}"
    return text


def _last_filter(text: str, before: int) -> tuple[int, int, int, int, int] | None:
    """Of the last filter that starts before a place: where it does, the brackets of what is filtered, its condition."""
    if "filter" not in text[:before].lower():
        return None
    stack: list[int] = []
    pairs: dict[int, int] = {}  # of a closing bracket: the opening one
    filters: list[tuple[int, int]] = []
    for piece in _PIECE.finditer(text):
        if piece[0] == ")" and stack:
            pairs[piece.start()] = stack.pop()
        elif piece[0] == "(":
            stack.append(piece.start())
        elif piece[0][-1] in "eE":
            stack.append(piece.end())
            if piece.start() < before:
                filters.append((piece.start(), piece.end()))
    for start, where in reversed(filters):
        closed = len(text[:start].rstrip()) - 1
        end = next((close for close, opened in pairs.items() if opened == where), None)
        if closed in pairs and end is not None:
            return start, pairs[closed], closed, where, end
    return None


def all_statements(cluster: Cluster, tables: Sequence[str] = (*BATCHED, LOG)) -> list[str]:
    """Every statement that defines a store, for review and for a run by hand."""
    made = [cluster.database_made(), *(cluster.made(table, FIRST) for table in tables)]
    return [*made, *(cluster.spread(cluster.database, table, FIRST) for table in tables), cluster.view_of_state()]
