"""The store on a cluster: the same numbers, log and changes as on one server, over Distributed tables.

A change makes new replicated tables, fills them while nobody sees them, and commits their numbers together with its
note; then the Distributed tables of the coordinating server are pointed at them, which may be done any number of times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gnomon.config import Settings as Options
from gnomon.errors import InvalidValue, StoreDamaged, StoreUnavailable
from gnomon.store import Table
from gnomon.store.clickhouse.changing import _DELETE, _FIRST, _UPDATE, Change, Changing, _clean, drop_leftovers
from gnomon.store.clickhouse.cluster import (
    COORDINATOR,
    FIRST,
    LOG,
    PARTITIONS,
    PLACE,
    TABLES_THERE,
    Cluster,
    check_alive,
    check_cluster,
    check_tables,
    physical,
    places_of,
    without_filters,
)
from gnomon.store.clickhouse.connecting import Connection, Settings
from gnomon.store.clickhouse.ledger import Head, head_of, put_state, read_head
from gnomon.store.clickhouse.opening import Found, check_server, kinds_of, look, made_state
from gnomon.store.clickhouse.served import ServedClickHouse
from gnomon.store.clickhouse.tables import BATCHED
from gnomon.store.clickhouse.tidying import tidy
from gnomon.store.texts import quoted

_TRUNCATE = re.compile(r"\s*TRUNCATE(?:\s+TABLE)?\s+(\w+)\s*", re.IGNORECASE)
_ALTER_DELETE = re.compile(r"ALTER TABLE (\w+) (DELETE WHERE .*)", re.DOTALL)
_FRESH = "_fresh"
IDENTITY = "SELECT concat(hostName(), ' ', toString(serverUUID()))"  #: of the server that is asked


class ClusterChanging(Changing):
    """A change on a cluster. Its place holds Distributed tables, views and temporary tables, on one server."""

    def __init__(self, con: Connection, settings: Settings, head: Head, cluster: Cluster, batch: int,
                 kinds: dict[str, dict[str, str]]) -> None:  # fmt: skip
        super().__init__(con, settings, head, cluster.database, batch, kinds)
        self._cluster, self._number, self._old = cluster, batch, places_of(head.state)

    def _prepare(self, statements: Sequence[str], anew: Sequence[str]) -> None:
        check_alive(self._con, self._cluster, self._plain)
        self._take_place()
        targets = {*anew, *(found[1] for found in map(_FIRST.match, statements) if found)}
        everything = " ".join(statements)
        for table in (*BATCHED, "state"):
            if table in targets:
                self._touched.append(table)
                self._con.run(self._cluster.made(table, self._number), self._plain)
                for statement in self._cluster.copied(table, self._old[table], self._number):
                    self._con.run(statement, self._plain)
                self._con.run(self._cluster.spread(self.place, table, self._number), self._plain)
                self._same(f"{self._from}.{table}", f"{self.place}.{table}")
            elif re.search(rf"\b{table}\b", everything):
                rows = f"SELECT * FROM {self._from}.{table}"
                self._con.run(f"CREATE VIEW {self.place}.{table} AS {rows}", self._plain)
        seen = self._head.filters(self._from, self.place, self._touched)
        self._settings = {**self._plain, **seen, "database": self.place}

    def _same(self, one: str, other: str, where: str = "") -> None:
        """Parts that were attached on each replica, and not on one of them, would be there several times."""
        asked = f"SELECT (SELECT count() FROM {one}{where}), (SELECT count() FROM {other}{where})"
        ((here, there),) = self._con.run(asked, self._plain).rows
        if here != there:
            raise StoreUnavailable(
                f"a copied table has {there} rows instead of {here}; the change was not made", code="cluster-copy",
                remedy="Look at system.distributed_ddl_queue and system.replication_queue, and report it.",
            )  # fmt: skip

    def noted(self) -> str:
        """What is to be committed: the numbers of the tables that hold the rows from then on."""
        return msgspec.json.encode(Change(self.place, [(table, str(self._number)) for table in self._touched])).decode()

    def entries(self) -> dict[str, str]:
        """What the log keeps of it."""
        return {PLACE + table: str(self._number) for table in self._touched}

    def drop(self) -> None:
        """Remove what a change that was not committed has made. Raises where a server does not do it."""
        drop_leftovers(self._con, self._plain, self._from, self.place)
        drop_tables(self._con, self._cluster, self._plain, self._old, only=self._number)

    def _one(self, statement: str) -> Table:
        if found := _TRUNCATE.fullmatch(statement):
            return self._con.run(self._cluster.emptied(found[1], self._number), self._plain)
        if re.match(r"\s*ALTER\s", statement, re.IGNORECASE) or (
            re.match(r"\s*(?:DELETE|UPDATE)\s", statement, re.IGNORECASE)
            and not (_DELETE.match(statement) or _UPDATE.match(statement))
        ):
            raise StoreUnavailable("a change has a statement that a cluster does not carry out", code="store-refused")
        return super()._one(without_filters(statement))

    def _rewrite(self, table: str, condition: str, words: dict[str, str], *, deleting: bool) -> Table:
        """See `Changing._rewrite`. Nobody sees the table, so that its partition may be gone in between; rows whose
        place another shard is now go there."""
        con, cluster, hit = self._con, self._cluster, f"ifNull(({condition}), false)"
        part = PARTITIONS.get(table)
        found = con.run(f"SELECT DISTINCT {part or 0} FROM {table} WHERE {hit}", self._settings).rows
        names = [*self._kinds[table]]
        chosen = ", ".join(
            f"CASE WHEN {hit} THEN {words[name]} ELSE {name} END AS {name}" if name in words else name for name in names
        )
        fresh, local = table + _FRESH, cluster.local(table, self._number)
        for (value,) in found:
            con.run(cluster.dropped(local + _FRESH), self._plain)
            con.run(cluster.made(table, self._number, _FRESH), self._plain)
            con.run(cluster.spread(self.place, table, self._number, _FRESH), self._plain)
            where = " AND ".join([f"{part} = {value}"] * bool(part) + [f"NOT {hit}"] * deleting) or "true"
            rows = f"SELECT {chosen} FROM {table} WHERE {where}"
            con.run(f"INSERT INTO {fresh} ({', '.join(names)}) SELECT {_clean(self._kinds[table])} FROM ({rows})",
                    self._settings)  # fmt: skip
            named = f"tuple({value})" if part else "tuple()"
            con.run(cluster.changed(table, self._number, f"DROP PARTITION {named}"), self._plain)
            con.run(cluster.changed(table, self._number, f"ATTACH PARTITION {named} FROM {local}{_FRESH}"), self._plain)
            self._same(f"{self.place}.{fresh}", f"{self.place}.{table}", f" WHERE {part} = {value}" if part else "")
            con.run(f"DROP TABLE {self.place}.{fresh} SYNC", self._plain)
            con.run(cluster.dropped(local + _FRESH), self._plain)
        return Table([], [])


def drop_tables(con: Connection, cluster: Cluster, plain: Settings, places: dict[str, int],
                only: int | None = None) -> None:  # fmt: skip
    """Remove replicated tables that hold rows of no name any more, from every server."""
    asked = TABLES_THERE.format(quoted(cluster.name), quoted(cluster.database))
    there = {name for name, _, _ in con.run(asked, plain).rows}
    for name in sorted(there):
        found = physical(name.removesuffix(_FRESH))
        if found is None or (only is not None and found[1] != only):
            continue
        if name.endswith(_FRESH) or places[found[0]] != found[1]:
            con.run(cluster.dropped(f"{cluster.database}.{name}"), plain)


class LocalTables:
    """A connection on which a mutation of a table is one of the replicated tables: Distributed ones take none."""

    def __init__(self, con: Connection, cluster: Cluster, plain: Settings, places: dict[str, int]) -> None:
        self._con, self._cluster, self._plain, self._places = con, cluster, plain, places

    def run(self, text: str, settings: Settings) -> Table:
        """See `Connection.run`."""
        if found := _ALTER_DELETE.fullmatch(text):
            change = self._without_questions(found[2])
            return self._con.run(self._cluster.changed(found[1], self._places[found[1]], change), settings)
        return self._con.run(text, settings)

    def _without_questions(self, change: str) -> str:
        """The newest values of the log, asked here: a replica that mutates asks nobody."""
        found = re.search(r"\(key, batch\) NOT IN \((SELECT .*? GROUP BY key)\)", change)
        if found is None:
            return change
        kept = self._con.run(found[1], self._plain).rows
        listed = ", ".join(f"({quoted(key)}, {batch})" for key, batch in kept) or "('', -1)"
        return change.replace(found[0], f"(key, batch) NOT IN ({listed})")

    def put(self, table: str, columns: Any, settings: Settings) -> None:
        """See `Connection.put`."""
        self._con.put(table, columns, settings)

    def close(self) -> None:
        """See `Connection.close`."""
        self._con.close()


class ClusteredClickHouse(ServedClickHouse):
    """See `gnomon.store.Store`. `url` is `clickhouse://user:password@host/database?cluster=name`."""

    def __init__(self, url: str, settings: Options) -> None:
        self._coordinator = ""
        super().__init__(url, settings)

    @property
    def _cluster(self) -> Cluster:
        assert self._address.cluster is not None
        return Cluster(self._address.cluster, self._address.database)

    # -- opening ----------------------------------------------------------------------------------------------------

    def _opened(self, con: Connection) -> None:
        cluster, settings = self._cluster, self._plain()
        check_server(con)
        check_cluster(con, cluster, settings)
        con.run(cluster.database_made(), {**settings, "database": "default"})
        head = self._laid_out(con)
        check_tables(con, cluster, settings)
        self._take_the_lead(con, head)
        kinds = kinds_of(con, self._address, settings)
        self._found = Found(int(head.state["schema"]), head.state["store_id"], kinds)
        self.store_id = self._found.store_id
        self._settle(con, read_head(con, self._session))

    def _laid_out(self, con: Connection) -> Head:
        """Make the tables, or have this server point at those that are there."""
        cluster, settings = self._cluster, self._plain()
        asked = TABLES_THERE.format(quoted(cluster.name), quoted(cluster.database))
        there = {name for name, _, _ in con.run(asked, settings).rows}
        log = f"{LOG}_{FIRST}"
        if any(name in BATCHED or name == LOG for name in there) and log not in there:
            raise InvalidValue(
                "the database holds tables of a store that is not on a cluster",
                remedy="Name another database, and copy that store into it with gnomon copy.", code="foreign-file",
            )  # fmt: skip
        if log in there:
            con.run(cluster.spread(cluster.database, LOG, FIRST), settings)
            head = head_of(con.run(f"SELECT key, value, batch FROM {LOG}", settings).rows)
            if head.state:
                look(con, {LOG}, settings)  # the schema is one that is known
                self._point(con, places_of(head.state))
                return head
        self._make(con, there)
        return head_of(con.run(f"SELECT key, value, batch FROM {LOG}", settings).rows)

    def _make(self, con: Connection, there: set[str]) -> None:
        """Make all tables; the state comes last, and says that they are there."""
        cluster, settings = self._cluster, self._plain()
        for name in sorted(filter(physical, there)):
            found = physical(name)
            assert found is not None
            con.run(cluster.spread(cluster.database, *found), settings)
            if con.run(f"SELECT 1 FROM {found[0]} LIMIT 1", settings).rows:
                raise StoreDamaged(
                    "the tables hold rows, and the log that says what is committed is gone",
                    remedy="Restore the database from a backup of its servers.",
                )
            con.run(cluster.dropped(f"{cluster.database}.{name}"), settings)
        for table in (*BATCHED, LOG):
            con.run(cluster.made(table, FIRST), settings)
        self._point(con, places_of({}))
        put_state(con, made_state(), 1, settings)

    def _point(self, con: Connection, places: dict[str, int]) -> None:
        """Have the names stand for the tables that hold the rows; those that do so already are left alone."""
        cluster, settings = self._cluster, self._plain()
        asked = f"SELECT name, engine_full FROM system.tables WHERE database = {quoted(cluster.database)}"
        now = {name: str(engine) for name, engine in con.run(asked, settings).rows}
        for table, number in places.items():
            if f"'{table}_{number}'" not in now.get(table, ""):
                con.run(cluster.spread(cluster.database, table, number), settings)
        if "state" not in now:
            con.run(cluster.view_of_state(), settings)

    def _take_the_lead(self, con: Connection, head: Head) -> None:
        """One server has the Distributed tables and the lock; which one is in the log."""
        ((me,),) = con.run(IDENTITY, self._plain()).rows
        self._coordinator = me
        if head.state.get(COORDINATOR, me) != me and not self._address.take:
            raise self._led_elsewhere(head)
        if head.state.get(COORDINATOR) != me:
            head = self._burn(con, head.committed + 1)  # whoever wrote over there may have put rows under it
            self._commit(con, head.committed + 1, {COORDINATOR: me})

    def _led_elsewhere(self, head: Head) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store is led by another server of the cluster ({head.state[COORDINATOR].split(' ')[0]})",
            remedy="Name that one in the store's URL; if it is lost, add &coordinator=take to the URL once.",
            code="store-coordinator",
        )

    def _try(self, texts: Sequence[str], timeout: float) -> list[Table] | None:
        return super()._try([without_filters(text) for text in texts], timeout)

    def _newest(self, con: Connection | None) -> Head:
        head = super()._newest(con)
        if self._coordinator and head.state.get(COORDINATOR, self._coordinator) != self._coordinator:
            raise self._led_elsewhere(head)
        return head

    # -- changes ----------------------------------------------------------------------------------------------------

    def _changing(self, con: Connection, head: Head, timeout: float, batch: int) -> Changing:
        return ClusterChanging(con, self._limited(timeout), head, self._cluster, batch, self._found.kinds)

    def _carry_out(self, con: Connection, head: Head) -> None:
        self._point(con, places_of(head.state))

    def _drop_leftovers(self, con: Connection, head: Head) -> None:
        super()._drop_leftovers(con, head)
        drop_tables(con, self._cluster, self._limited(3_600.0), places_of(head.state))

    def _tidied(self, con: Connection, head: Head, *, compact: bool) -> tuple[list[str], list[str]]:
        plain = self._limited(3_600.0)
        self._drop_leftovers(con, head)  # what a server that was away has kept
        local = LocalTables(con, self._cluster, plain, places_of(head.state))
        settings = {**plain, **head.filters(self._address.database)}
        statements, _ = tidy(local, settings, plain, head, self._slack_us, compact=False, address=self._address)
        return statements, self._with_leftovers(con, plain) if compact else []

    def _with_leftovers(self, con: Connection, plain: Settings) -> list[str]:
        name, database = quoted(self._cluster.name), quoted(self._address.database)
        asked = f"SELECT DISTINCT table FROM clusterAllReplicas({name}, system.parts) WHERE database = {database}"
        found = [physical(table) for (table,) in con.run(f"{asked} AND NOT active", plain).rows]
        return sorted({each[0] for each in found if each is not None and each[0] in BATCHED})

    def describe(self) -> dict[str, Any]:
        """See `Store.describe`; every row of events and samples is read once, of one replica of each shard."""
        return described(self.ask, self._cluster, self._found.schema)

    def _parts(self) -> str:
        return _parts_of(self._cluster)


def _parts_of(cluster: Cluster) -> str:
    return f"clusterAllReplicas({quoted(cluster.name)}, system.parts) WHERE database = {quoted(cluster.database)}"


def described(ask: Any, cluster: Cluster, schema: int) -> dict[str, Any]:
    """See `Store.describe`."""
    name, me = quoted(cluster.name), quoted(cluster.database)
    parts = _parts_of(cluster)
    detached = f"clusterAllReplicas({name}, system.detached_parts) WHERE database = {me}"
    counts, server, span = ask(
        [
            "SELECT (SELECT count() FROM events), (SELECT count() FROM samples), (SELECT count() FROM quarantine)",
            f"SELECT version(), (SELECT coalesce(sum(bytes_on_disk), 0) FROM {parts}), "
            f"(SELECT count() FROM {parts} AND active), (SELECT count() FROM {detached})",
            "SELECT toUnixTimestamp64Micro(min(ts)), toUnixTimestamp64Micro(max(ts)), "
            "toUnixTimestamp64Micro(min(received_at)) FROM events",
        ],
        60.0,
    )
    version, bytes_, active, aside = server.rows[0]
    try:
        ask([f"SELECT sum(ignore(*)) FROM {table}" for table in ("events", "samples")], 600.0)
        readable = not aside
    except StoreDamaged:
        readable = False
    first, last, received = span.rows[0]
    return {
        "readable": readable, "store": "clickhouse", "store_version": version, "schema": schema,
        "cluster": cluster.name, "events": counts.rows[0][0], "samples": counts.rows[0][1],
        "quarantined": counts.rows[0][2], "first_ts_us": first, "last_ts_us": last, "first_received_us": received,
        "bytes": bytes_, "parts": active, "detached_parts": aside,
    }  # fmt: skip
