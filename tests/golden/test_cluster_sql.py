"""The statements that make, change and remove the tables of a cluster, readable in review: `clickhouse_cluster.sql`.

Each is read by the real engine. The replicated tables are also made by it, with a Keeper in its memory: types, engine,
macros and settings are those it knows. It runs neither `ON CLUSTER` nor replication. `REGENERATE_GOLDEN=1` writes the
file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import chdb
import pytest

import embedded
from gnomon.store.clickhouse.cluster import LOG, Cluster, all_statements
from gnomon.store.clickhouse.tables import BATCHED
from gnomon.store.texts import quoted

CLUSTER = Cluster("gnomon", "analytics")
FILE = Path(__file__).with_name("clickhouse_cluster.sql")
CHANGE = [
    CLUSTER.made("events", 7),
    *CLUSTER.copied("events", 1, 7),
    CLUSTER.spread("analytics_next_7", "events", 7),
    CLUSTER.made("events", 7, "_fresh"),
    CLUSTER.changed("events", 7, "DROP PARTITION tuple(202603)"),
    CLUSTER.changed("events", 7, "ATTACH PARTITION tuple(202603) FROM analytics.events_7_fresh"),
    CLUSTER.emptied("books", 7),
    CLUSTER.changed("books", 7, "DELETE WHERE batch IN (5)"),
    CLUSTER.dropped(CLUSTER.local("events", 1)),
]


def written() -> str:
    parts = {"A new store": all_statements(CLUSTER), "A change, and what it replaces": CHANGE}
    text = "-- Written by test_cluster_sql.py, see there.\n"
    for name, statements in parts.items():
        text += f"\n-- {name}\n\n" + "\n\n".join(f"{statement};" for statement in statements) + "\n"
    return text


def test_the_statements_are_those_in_the_file():
    if os.environ.get("REGENERATE_GOLDEN"):
        FILE.write_text(written(), "utf-8")
    assert FILE.read_text("utf-8") == written()


def test_clickhouse_reads_every_one_of_them():
    engine = chdb.connect(embedded.folder())
    try:
        for statement in [*all_statements(CLUSTER), *CHANGE]:
            assert engine.query(f"EXPLAIN AST {statement}", "TabSeparated").bytes(), statement
        with pytest.raises(RuntimeError):
            engine.query("EXPLAIN AST CREATE TABLE a.b IN CLUSTER 'c' (a Int64) ENGINE = Memory")
    finally:
        engine.close()


def test_whatever_is_on_every_server_says_so():
    spread = [CLUSTER.spread("analytics", table, 1) for table in (*BATCHED, LOG)]
    for statement in [*all_statements(CLUSTER), *CHANGE]:
        assert ("ON CLUSTER 'gnomon'" in statement) != ("ENGINE = Distributed" in statement or " VIEW " in statement)
    assert all(f"'{table}_1'" in text for table, text in zip((*BATCHED, LOG), spread, strict=True))


MADE = """
import os, sys, chdb
engine = chdb.connect(sys.argv[1] + "/x?config-file=" + sys.argv[1] + "/config.xml")
for statement in sys.stdin.read().split(";"):
    engine.query(statement)
asked = "SELECT count(), countIf(zookeeper_path LIKE '%/1' AND replica_name = 'r1') FROM system.replicas"
sys.stdout.write(str(engine.query(asked, "TabSeparated")).strip())
sys.stdout.flush()
os._exit(0)  # with this Keeper the engine takes no clean end
"""
CONFIG = """<clickhouse><macros><shard>1</shard><replica>r1</replica></macros>
<zookeeper><implementation>testkeeper</implementation></zookeeper></clickhouse>"""


@pytest.mark.slow
def test_clickhouse_makes_the_replicated_tables(tmp_path):
    (tmp_path / "config.xml").write_text(CONFIG)
    statements = [
        statement.replace(f" ON CLUSTER {quoted(CLUSTER.name)}", "").replace("{uuid}", f"u{n}")
        for n, statement in enumerate(all_statements(CLUSTER)[: len(BATCHED) + 2])
    ]
    done = subprocess.run([sys.executable, "-c", MADE, str(tmp_path)], input=";".join(statements), text=True,
                          capture_output=True, timeout=120, check=False)  # fmt: skip
    assert done.stdout == f"{len(BATCHED) + 1}\t{len(BATCHED) + 1}", done.stderr[-2_000:]
