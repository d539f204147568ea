"""Copies and backups read PostgreSQL by slices of a key: each slice reads its own rows, not the table."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import psycopg
import pytest
from on_postgres import DEFAULTS

from gnomon.errors import GnomonError
from gnomon.store.carrying import TABLES, Carried
from gnomon.store.migrations.postgres import steps
from gnomon.store.postgres import PostgresStore, opening
from gnomon.store.postgres.faults import translated
from gnomon.store.postgres.months import LOCK

ROWS = 60_000
KEYS = 500
#: About as large as rows are.
VALUES = {"text": "repeat('x', 20)", "time": "make_timestamp(0)", "integers": "ARRAY[1, 2, 3]",
          "reals": "ARRAY[1, 2, 3]", "boolean": "true"}  # fmt: skip
KEYED = ["samples", "sightings", "rolled", "activity", "active_days", "people"]


@pytest.fixture
def con(postgres, schema):
    with postgres.connect() as found:
        found.execute(f"SET search_path = {schema}, pg_temp")
        yield found


def fill(con, table: Carried) -> None:
    """Rows of many projects, so that no index which begins with one can be skipped through; those of versions one key
    behind the other, as they are written, the others mixed."""
    number = f"n / {ROWS // KEYS}" if table.key == "version" else f"n % {KEYS}"
    values = {name: VALUES.get(kind, "0") for name, kind in table.columns.items()}
    values |= {"project": "'p' || n * 7919 % 4999", table.key: number}
    if table.columns[table.key] == "time":
        values[table.key] = f"make_timestamp(({number}) * 3600000000)"
    rows = f"SELECT {', '.join(values.values())} FROM generate_series(0, {ROWS - 1}) AS n"
    con.execute(f"INSERT INTO {table.name} ({', '.join(values)}) {rows}")
    con.execute(f"VACUUM ANALYZE {table.name}")


def blocks(con, table: Carried) -> int:
    """How many blocks the longest of three slices reads."""
    unit = 3_600_000_000 if table.columns[table.key] == "time" else 1
    most = 0
    for after in (1, KEYS // 2, KEYS - 5):
        asked = table.read_slice(after * unit, (after + 4) * unit)
        ((plan,),) = con.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {asked}").fetchall()
        read = plan[0]["Plan"]
        most = max(most, read["Shared Hit Blocks"] + read["Shared Read Blocks"])
    return most


@pytest.mark.parametrize("name", KEYED)
def test_a_slice_reads_its_own_rows(url, con, name):
    PostgresStore(url, DEFAULTS).close()
    table = TABLES[name]
    fill(con, table)
    ((pages,),) = con.execute("SELECT relpages FROM pg_class WHERE oid = %s::regclass", [name]).fetchall()
    mine = blocks(con, table)
    assert mine < pages / 3
    con.execute(f"DROP INDEX {name}_by_key")
    assert blocks(con, table) > 2 * mine  # the whole table, or a whole index that begins with something else


@pytest.mark.parametrize("honest", [True, False], ids=["waits", "broken"])
def test_an_upgrade_waits_for_a_change_and_not_in_a_circle(postgres, url, con, monkeypatch, honest):
    monkeypatch.setattr(opening, "KNOWN", 2)
    PostgresStore(url, DEFAULTS).close()
    monkeypatch.undo()
    if not honest:
        whole = steps.text_of
        monkeypatch.setattr(steps, "text_of", lambda file: whole(file).replace("FOR UPDATE", ""))
    told: list[GnomonError] = []

    def upgrade():
        try:
            PostgresStore(url, DEFAULTS).close()
        except GnomonError as error:
            told.append(error)

    con.execute("BEGIN")
    con.execute(LOCK)
    con.execute("DELETE FROM people")
    upgrading = threading.Thread(target=upgrade)
    upgrading.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with postgres.connect() as other:  # a transaction sees the sessions as they were when it first looked
        while other.execute(waiting).fetchone() == (0,):
            time.sleep(0.01)
    try:
        con.execute("DELETE FROM samples")
        con.execute("COMMIT")
    except psycopg.errors.DeadlockDetected as error:
        con.execute("ROLLBACK")
        told.append(translated(error))
    upgrading.join()
    assert (told == []) is honest


def test_what_the_docs_say_to_make_before_an_upgrade_is_what_it_makes(postgres, url, schema, con, monkeypatch):
    made = "SELECT indexname, replace(indexdef, %s, '') FROM pg_indexes WHERE schemaname = %s ORDER BY 1"
    new = postgres.url()
    PostgresStore(new, DEFAULTS).close()
    monkeypatch.setattr(opening, "KNOWN", 2)
    PostgresStore(url, DEFAULTS).close()
    monkeypatch.undo()
    text = (Path(__file__).parents[2] / "docs" / "upgrading.md").read_text("utf-8")
    (block,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    for statement in filter(str.strip, block.replace("= gnomon", f"= {schema}").split(";")):
        con.execute(statement)
    name = new.rpartition("schema=")[2]
    wanted = con.execute(made, [f" {name}.", name]).fetchall()
    assert con.execute(made, [f" {schema}.", schema]).fetchall() == wanted
    PostgresStore(url, DEFAULTS).close()
    assert con.execute(made, [f" {schema}.", schema]).fetchall() == wanted
