"""Opening a ClickHouse store: what the server must be, the schema by its numbered files, the settings it rests on."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gnomon.config import Settings as Options
from gnomon.errors import InvalidValue, StoreDamaged, StoreUnavailable
from gnomon.store.clickhouse.address import Address, address_of
from gnomon.store.clickhouse.connecting import FAILED, Connection, Remote, Settings, pool_of
from gnomon.store.clickhouse.faults import translated
from gnomon.store.clickhouse.leases import LOCKS
from gnomon.store.clickhouse.ledger import Head, head_of, put_state
from gnomon.store.clickhouse.tables import BATCHED, BLOCKS, DURABLE, SESSION
from gnomon.store.dialect_clickhouse import SETTINGS
from gnomon.store.memory import bytes_of
from gnomon.store.texts import quoted

KNOWN = 1  #: the newest schema that this version knows
OLDEST_SERVER = (25, 8)  #: the first long-term release with all that is used
MERGE_TREE = "MergeTree"


@dataclass(frozen=True)
class Found:
    """What a store is, and the types of its columns by table."""

    schema: int
    store_id: str
    kinds: dict[str, dict[str, str]]


def session(address: Address, settings: Options) -> dict[str, str | int | float]:
    """What every statement of a store is run with; an embedded one takes no more of its host than it may."""
    found = {**SESSION, **SETTINGS, "database": address.database}
    if address.cluster is not None:
        from gnomon.store.clickhouse.cluster import CLUSTER_SESSION

        found |= CLUSTER_SESSION
    if address.path is not None:
        found["max_memory_usage"] = found["max_memory_usage_for_user"] = bytes_of(settings.memory_limit)
        if settings.threads:
            found["max_threads"] = settings.threads
    return found


def opened(con: Connection, address: Address, settings: Settings) -> Found:
    """Look at the server and make the tables, or bring them up to date. Raises `StoreUnavailable`, `InvalidValue`
    with code `newer-schema` or `foreign-file`."""
    try:
        check_server(con)
        con.run(f"CREATE DATABASE IF NOT EXISTS {address.database}", {"database": "default"})
        there = tables_there(con, address, settings)
        if "state_log_1" in there:
            raise InvalidValue(
                "the store is spread over a cluster", remedy="Add ?cluster=name to its URL.", code="foreign-file"
            )
        head = look(con, there, settings)
        if head is None:
            _make(con, there, settings)
            head = look(con, {"state_log"}, settings)
            assert head is not None
        _check_durable(con, address, settings)
        return Found(int(head.state["schema"]), head.state["store_id"], kinds_of(con, address, settings))
    except FAILED as error:
        raise translated(error, writing=True) from error


def check_server(con: Connection) -> None:
    """Raises `StoreUnavailable` with code `store-too-old`."""
    ((version,),) = con.run("SELECT version()", {"database": "default"}).rows
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_SERVER:
        raise StoreUnavailable(
            f"the database is ClickHouse {version}, and Gnomon needs {OLDEST_SERVER[0]}.{OLDEST_SERVER[1]} or newer",
            remedy="Upgrade the database.", code="store-too-old",
        )  # fmt: skip


def identity(url: str) -> str | None:
    """What tells the store at the URL of a server from others, None where there is none; nothing is made. Raises
    `StoreUnavailable`."""
    address = address_of(url)
    con, name, plain = Remote(address, pool_of(address)), address.database, {"database": "default"}
    try:
        there = tables_there(con, address, plain)
        if "state_log" not in there:  # on a cluster it may be another server that has it
            return "" if there else None
        return head_of(con.run(f"SELECT key, value, batch FROM {name}.state_log", plain).rows).state.get("store_id", "")
    except FAILED as error:
        raise translated(error, writing=True) from error
    finally:
        con.close()


def tables_there(con: Connection, address: Address, settings: Settings) -> set[str]:
    """The tables of the database but for its locks."""
    asked = f"SELECT name FROM system.tables WHERE database = {quoted(address.database)}"
    return {str(name) for (name,) in con.run(asked, settings).rows if not str(name).startswith(LOCKS)}


def look(con: Connection, there: set[str], settings: Settings) -> Head | None:
    """The state of what is there; None where it has to be made, also where making it was cut short."""
    if not there:
        return None
    if "state_log" not in there and there - set(BATCHED):
        raise InvalidValue(
            "the database holds tables that Gnomon did not make",
            remedy="Name another one in the store's URL.", code="foreign-file",
        )  # fmt: skip
    if "state_log" not in there:
        return None
    head = head_of(con.run("SELECT key, value, batch FROM state_log", settings).rows)
    if not head.state:
        return None
    if int(head.state["schema"]) > KNOWN:
        raise InvalidValue(
            f"the store has schema {head.state['schema']}, this version knows {KNOWN}",
            remedy="Upgrade gnomon.", code="newer-schema",
        )  # fmt: skip
    return head


def statements(number: int, words: dict[str, str]) -> list[str]:
    """The statements of a numbered file."""
    text = resources.files("gnomon.store.migrations").joinpath(f"clickhouse_{number:04}.sql").read_text("utf-8")
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    return [each.strip().format(**words) for each in plain.split(";") if each.strip()]


def words() -> dict[str, str]:
    """What the files leave open."""
    settings = DURABLE | BLOCKS
    return {"merge_tree": MERGE_TREE, "durable": ", ".join(f"{name} = {value}" for name, value in settings.items())}


def _make(con: Connection, there: set[str], settings: Settings) -> None:
    """Make the tables; the state comes last, and says that all are there."""
    for name in there & set(BATCHED):
        if con.run(f"SELECT 1 FROM {name} LIMIT 1", settings).rows:
            raise StoreDamaged(
                "the tables hold rows, and the log that says what is committed is gone",
                remedy="Restore the database from a backup of its folder.",
            )
    for name in there:
        con.run(f"DROP TABLE IF EXISTS {name} SYNC", settings)
    for number in range(1, KNOWN + 1):
        for statement in statements(number, words()):
            con.run(statement, settings)
    put_state(con, made_state(), 1, settings)


def made_state() -> dict[str, str]:
    """What the log of a new store begins with."""
    return {"schema": str(KNOWN), "store_id": str(uuid.uuid4()), "version": "0", "changes": "0"}


def _check_durable(con: Connection, address: Address, settings: Settings) -> None:
    """Whatever a server's configuration says, what is committed must be on the disk."""
    asked = f"SELECT name, create_table_query FROM system.tables WHERE database = {quoted(address.database)}"
    for name, made in con.run(asked, settings).rows:
        wanted = DURABLE | BLOCKS
        lacking = [f"{key} = {value}" for key, value in wanted.items() if not re.search(rf"{key} = {value}\b", made)]
        if "ENGINE = " in made and lacking and name in (*BATCHED, "state_log"):
            con.run(f"ALTER TABLE {name} MODIFY SETTING {', '.join(lacking)}", settings)
    ((asynchronous,),) = con.run("SELECT toString(getSetting('async_insert'))", settings).rows
    if asynchronous not in ("0", "false"):
        raise StoreUnavailable(
            "the database user may not turn async_insert off, so what is acknowledged could be lost",
            remedy="Let it change that setting, see docs/clickhouse.md.", code="store-rights",
        )  # fmt: skip


def kinds_of(con: Connection, address: Address, settings: Settings) -> dict[str, dict[str, str]]:
    """The types of columns, by table."""
    found: dict[str, dict[str, Any]] = {}
    asked = (
        f"SELECT table, name, type FROM system.columns WHERE database = {quoted(address.database)} ORDER BY position"
    )
    for table, name, kind in con.run(asked, settings).rows:
        found.setdefault(table, {})[name] = kind
    return found


__all__ = ["Found", "KNOWN", "Settings", "opened", "session"]
