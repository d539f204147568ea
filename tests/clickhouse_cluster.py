"""A cluster of two shards in one process, for tests: the embedded engine behind HTTP, with real Distributed tables.

The engine has a cluster of two local shards. A shard's tables lie in a database of their own (`D__1`, `D__2`). What a
Distributed table finds on "a server" is a view that looks which shard is asked, and rows for a server go through a
table that hands them to the shard's own. So reading (stages, merged states, global joins, filters) and inserting (keys,
tokens) is ClickHouse's. What is not: replicas and Keeper (an embedded engine does not start replication, so tables are
plain MergeTree here), `ON CLUSTER` (each statement is run for each shard by this file), the network between servers.

Run as a program it serves until its input ends, and prints its port.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

NAME = "two"
SHARDS = (1, 2)
HOSTS = ("127.0.0.1", "localhost")  # by different names, or ClickHouse takes them for one server
CONFIG = """<clickhouse><tcp_port>{port}</tcp_port><remote_servers><two>{shards}</two></remote_servers></clickhouse>"""
SHARD = (
    "<shard><internal_replication>true</internal_replication>"
    "<replica><host>{host}</host><port>{port}</port></replica></shard>"
)
ON = r"ON CLUSTER '\w+'"
TABLE = r"(\w+)\.(\w+)"
_DATABASE = re.compile(rf"CREATE DATABASE IF NOT EXISTS (\w+) {ON}")
_CREATE = re.compile(rf"CREATE TABLE {TABLE} {ON} \((.*)\) ENGINE = ReplicatedMergeTree\([^)]*\)(.*)", re.DOTALL)
_ALTER = re.compile(rf"(ALTER TABLE|TRUNCATE TABLE) {TABLE} {ON}\s*(.*)", re.DOTALL)
_DROP = re.compile(rf"DROP TABLE IF EXISTS {TABLE} {ON} SYNC")
_SYNC = re.compile(rf"SYSTEM SYNC REPLICA {ON} {TABLE}")
_SPREAD = re.compile(
    rf"CREATE OR REPLACE TABLE {TABLE} (\(.*\)) ENGINE = Distributed\((.*), '(\w+)', (.*)\)$", re.DOTALL
)
_DROP_PLACE = re.compile(r"DROP TABLE (\w+\.\w+_fresh) SYNC")
_INSERT = re.compile(r"(\s*INSERT\s+INTO\s+)(`?)(?:(\w+)\.)?(\w+)(`?)", re.IGNORECASE)
_MACROS = re.compile(r"SELECT serverUUID\(\).*\sFROM clusterAllReplicas\('\w+', system\.macros\).*", re.DOTALL)
_PARTS = re.compile(r"(system\.(?:detached_)?parts\) WHERE database) = '(\w+)'")


def translated(text: str, distributed) -> list[str]:
    """What one statement is on this cluster. `distributed(database, table)` says whether a name is spread."""
    if found := _DATABASE.fullmatch(text):
        return [f"CREATE DATABASE IF NOT EXISTS {name}" for name in (found[1], *(f"{found[1]}__{k}" for k in SHARDS))]
    if found := _CREATE.fullmatch(text):
        return _made(*found.groups())
    if found := _ALTER.fullmatch(text):
        verb, database, table, rest = found.groups()
        return [
            f"{verb} {database}__{k}.{table} " + re.sub(rf"\bFROM {database}\.", f"FROM {database}__{k}.", rest)
            for k in SHARDS
        ]
    if found := _DROP.fullmatch(text):
        database, table = found.groups()
        names = [*(f"{database}.{table}__to_{k}" for k in SHARDS), f"{database}.{table}", f"{database}.{table}__in"]
        return [f"DROP TABLE IF EXISTS {name} SYNC" for name in [*names, *(f"{database}__{k}.{table}" for k in SHARDS)]]
    if _SYNC.fullmatch(text):
        return []
    if found := _SPREAD.fullmatch(text):
        database, table, columns, where, target, key = found.groups()
        into = f"CREATE OR REPLACE TABLE {database}.{table}__in {columns} "
        return [text, f"{into} ENGINE = Distributed({where}, '{target}__in', {key})"]
    if found := _DROP_PLACE.fullmatch(text):
        return [text, f"DROP TABLE {found[1]}__in SYNC"]
    if _MACROS.fullmatch(text):
        rows = ", ".join(f"(toUUID('00000000-0000-0000-0000-00000000000{k}'), 's{k}', '{k}', '1')" for k in SHARDS)
        return [f"SELECT (arrayJoin([{rows}]) AS r).1, r.2, r.3, r.4"]
    if found := _INSERT.match(text):
        start, open_, database, table, close = found.groups("")
        if distributed(database, table):
            place = f"{database}." if database else ""
            return [f"{start}{place}{open_}{table}__in{close}{text[found.end() :]}"]
        return [text]
    return [_PARTS.sub(lambda found: f"{found[1]} IN ('{found[2]}__1', '{found[2]}__2')", text)]


def _made(database: str, table: str, columns: str, rest: str) -> list[str]:
    plain = columns.replace("MATERIALIZED", "DEFAULT")  # so that a view hands it on
    made = [f"CREATE TABLE {database}__{k}.{table} ({plain}) ENGINE = MergeTree{rest}" for k in SHARDS]
    rows = " UNION ALL ".join(f"SELECT * FROM {database}__{k}.{table} WHERE shardNum() = {k}" for k in SHARDS)
    key = _key(table)
    taken = plain.partition(" INDEX ")[0].rstrip().rstrip(",")
    return [
        *made,
        f"CREATE VIEW {database}.{table} AS {rows}",
        f"CREATE TABLE {database}.{table}__in ({taken}) ENGINE = Null",
        *(
            f"CREATE MATERIALIZED VIEW {database}.{table}__to_{k} TO {database}__{k}.{table} AS "
            f"SELECT * FROM {database}.{table}__in WHERE {key} % {len(SHARDS)} = {k - 1}"
            for k in SHARDS
        ),
    ]


def _key(table: str) -> str:
    from gnomon.store.clickhouse.cluster import SHARD_KEYS

    return SHARD_KEYS.get(re.sub(r"_\d+(_fresh)?$", "", table), "cityHash64(project)")


# -- the program ------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Serve the cluster until the input ends. The engine takes no clean end with such a configuration."""
    import clickhouse_http
    import embedded

    folder = Path(sys.argv[1])
    port = 9_000  # of nobody: it only says which addresses are this process
    config = folder / "config.xml"
    config.write_text(CONFIG.format(port=port, shards="".join(SHARD.format(host=h, port=port) for h in HOSTS)))
    embedded.folder = lambda: f"{folder}/clickhouse?config-file={config}"
    plain = clickhouse_http._run

    def run(engine, text: bytes) -> bytes:
        def distributed(database: str, table: str) -> bool:
            where = f"'{database}'" if database else "currentDatabase()"
            asked = f"SELECT engine FROM system.tables WHERE database = {where} AND name = '{table}'"
            return str(engine.query(asked, "TabSeparated")).strip() == "Distributed"

        with contextlib.suppress(RuntimeError):
            engine.query("SET deduplicate_blocks_in_dependent_materialized_views = 1")
        head, _, block = text.partition(b"FORMAT Native\n")
        if block or b"FORMAT Native\n" in text:
            (one,) = translated(head.decode(), distributed)
            return plain(engine, one.encode() + b"FORMAT Native\n" + block)
        form = clickhouse_http._FORMAT.search(head.decode())
        words = head.decode()[: form.start()] if form else head.decode()
        found = b""
        for one in translated(words.strip(), distributed):
            found = plain(engine, (one + (form[0] if form else "")).encode())
        return found

    clickhouse_http._run = run
    server = clickhouse_http.Server()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


class Cluster:
    """The program, started. `url(database)` names a store on it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gnomon-cluster-", ignore_cleanup_errors=True)
        self.folder = self._folder.name
        path = [str(Path(__file__).parent), *sys.path]
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._folder.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        )  # fmt: skip
        self.port = int(self._process.stdout.readline())
        self._names = 0

    def url(self, database: str | None = None) -> str:
        from clickhouse_http import PASSWORD, USER

        self._names += 1
        name = database or f"c{self._names}"
        password = PASSWORD.replace(" ", "%20")
        return f"clickhouse://{USER}:{password}@127.0.0.1:{self.port}/{name}?cluster={NAME}"

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._folder.cleanup()


if __name__ == "__main__":
    serve()
