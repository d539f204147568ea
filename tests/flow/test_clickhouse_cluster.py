"""A ClickHouse store on a cluster of two shards (`clickhouse_cluster` says what of it is real, and what is not)."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_clickhouse import AFTER, CHANGE, batch, changed, held
from test_forgotten_files import ID, ROLLUPS, TEXTS, holding

import gnomon
from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue, StoreUnavailable
from gnomon.store import open_store
from gnomon.store.clickhouse import changing, cluster, clustered, opening, served
from gnomon.store.clickhouse.address import address_of
from gnomon.store.clickhouse.cluster import Cluster, all_statements
from gnomon.store.clickhouse.connecting import Remote
from gnomon.store.clickhouse.tables import BATCHED
from gnomon.testing import ManualClock

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
SPAN = ["2026-03-01", "2026-03-22"]
QUESTIONS = [
    {"metrics": ["events", "people", "mean_duration_ms", "p95_duration_ms"], "dimensions": ["source"]},
    {"metrics": ["events", "people"], "dimensions": ["time:day", "type"]},
    {"metrics": ["people", "sessions", "success_rate"], "dimensions": []},
    {"metrics": ["events"], "dimensions": ["properties.n"], "filters": [["is", "type", ["click"]]]},
]


@pytest.fixture
def place(cluster):
    return cluster.url()


@pytest.fixture
def store(place):
    opened = open_store(place, Settings())
    yield opened
    opened.close()


def direct(store, text):
    """An answer of the engine about what lies on the shards."""
    return store._connect().run(text, {"database": "default"}).rows


def opened(url, folder, **more):
    return gnomon.open(url, data_dir=str(folder), clock=ManualClock(NOW), sampling=False, cache_entries=0,
                       rollup_lag_seconds=0, **more)  # fmt: skip


def record(engine, numbers=range(150), weights=(1.0,)):
    for n in numbers:
        engine.track(
            ["request", "click"][n % 2], id=f"e{n}", ts=NOW - timedelta(hours=n, minutes=n % 60), user_id=f"u{n % 13}",
            session_id=f"s{n % 40}", source=[None, "web", "app"][n % 3], duration_ms=n / 8, status_code=200 + n % 300,
            properties={"n": n % 5}, weight=weights[n % len(weights)],
        )  # fmt: skip
    engine.flush()


def answers(engine, basis=None):
    more = {} if basis is None else {"basis": basis}
    return [engine.query(**question, date_range=SPAN, **more).to_dicts() for question in QUESTIONS]


# -- the same answers -------------------------------------------------------------------------------------------------


def test_two_shards_answer_as_one_file_does(place, tmp_path):
    found = []
    for url in (":memory:", place):
        with opened(url, tmp_path / str(len(found))) as engine:
            record(engine)
            record(engine)  # every one of them once more
            found.append((answers(engine), engine.books()))
            assert isinstance(engine._hold.store, clustered.ClusteredClickHouse) == (url == place)
            if url == place:
                database = address_of(url).database
                counts = [direct(engine._hold.store, f"SELECT count() FROM {database}__{k}.events_1") for k in (1, 2)]
    assert found[0] == found[1] and found[1][1].duplicate == 150
    assert sum(rows[0][0] for rows in counts) == 150 and all(rows[0][0] > 30 for rows in counts)


@pytest.mark.slow
def test_whatever_upkeep_does_two_shards_answer_as_one_file_does(place, tmp_path):
    found = []
    for url in (":memory:", place):
        with opened(url, tmp_path / str(len(found)), rollups=ROLLUPS) as engine:
            record(engine)
            told = [answers(engine)]
            engine.trigger_aggregation()
            record(engine, range(150, 190))  # late
            told += [answers(engine), answers(engine, "raw")]
            engine.trigger_aggregation()
            engine.forget("u3")
            engine.forget("u5", delete_events=True)
            told += [answers(engine), answers(engine, "raw")]
            engine.set_retention_policy(raw_data_days=3)
            engine.prune()
            told += [engine.query(["events", "people"], ["time:day", "source"], SPAN).to_dicts(), engine.books()]
            found.append(told)
    for one, other in zip(*found, strict=True):
        assert one == other


@pytest.mark.slow
def test_rows_that_stand_for_several_are_rolled_up_on_two_shards(place, tmp_path):
    with opened(place, tmp_path) as engine:
        record(engine, weights=(1.0, 2.5))
        engine.trigger_aggregation()
        for dimensions in ([], ["source"], ["time:day", "type"]):
            question = {"metrics": ["events", "mean_duration_ms", "success_rate"], "dimensions": dimensions}
            rolled, raw = (engine.query(**question, date_range=SPAN, basis=basis) for basis in ("auto", "raw"))
            assert rolled.basis.source != "raw" and rolled.to_dicts() == raw.to_dicts()


@pytest.mark.slow
def test_a_change_with_filters_of_aggregates_would_fail(place, tmp_path, monkeypatch):
    monkeypatch.setattr(clustered, "without_filters", lambda text: text)
    with pytest.raises(StoreUnavailable, match="code 8"):
        test_rows_that_stand_for_several_are_rolled_up_on_two_shards(place, tmp_path)


@pytest.mark.slow
def test_states_that_are_not_merged_would_be_found(place, tmp_path):
    question = {"metrics": ["people"], "dimensions": ["source"], "date_range": SPAN}
    with opened(place, tmp_path) as engine:
        record(engine, range(40))
        whole = engine.query(**question).to_dicts()
        engine._hold.store._session["distributed_group_by_no_merge"] = 1
        with suppress(GnomonError):  # as rows that should be one are two
            assert engine.query(**question).to_dicts() != whole
        engine._hold.store._session["distributed_group_by_no_merge"] = 0


# -- once -------------------------------------------------------------------------------------------------------------


def sent_twice(monkeypatch, *, token=True):
    """Every insert is sent again, as after an answer that was lost."""
    honest = Remote.put

    def put(self, table, columns, settings):
        plain = dict(settings)
        if not token:
            plain |= {"insert_deduplicate": 0, "deduplicate_insert": "disable"}
            plain.pop("insert_deduplication_token", None)
        honest(self, table, columns, plain)
        honest(self, table, columns, plain)

    monkeypatch.setattr(Remote, "put", put)


@pytest.mark.slow
def test_an_insert_that_is_sent_again_is_there_once_on_each_shard(store, monkeypatch):
    sent_twice(monkeypatch)
    store.write([(1, batch(*(f"i{n}" for n in range(40))))], "j")
    assert held(store) == ((40, 40), {"received": 40, "stored": 40})


@pytest.mark.slow
def test_without_tokens_it_would_be_there_twice(store, monkeypatch):
    sent_twice(monkeypatch, token=False)
    store.write([(1, batch(*(f"i{n}" for n in range(40))))], "j")
    assert held(store)[0] == (80, 40)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["events", "books", "state_log"])
@pytest.mark.parametrize("landed", [False, True])
def test_a_write_that_fails_anywhere_is_seen_whole_or_not_at_all(store, monkeypatch, table, landed):
    store.write([(1, batch("a"))], "j")
    honest, left = Remote.put, [1]

    def put(self, name, columns, settings):
        if name != table or not left:
            return honest(self, name, columns, settings)
        left.pop()
        if landed:
            honest(self, name, columns, settings)
        raise OSError("the connection is gone")

    monkeypatch.setattr(Remote, "put", put)
    with pytest.raises(StoreUnavailable):
        store.write([(2, batch("b", "c"))], "j")
    committed = landed and table == "state_log"
    assert held(store)[0] == ((3, 3) if committed else (1, 1))
    if store.position("j") == 1:
        store.write([(2, batch("b", "c"))], "j")
    assert held(store) == ((3, 3), {"received": 3, "stored": 3}) and store.position("j") == 2
    store.checkpoint(compact=True)
    database = store._address.database
    lying = sum(direct(store, f"SELECT count() FROM {database}__{k}.events_{n}")[0][0] for k in (1, 2) for n in [
        int(name.removeprefix("events_"))
        for (name,) in direct(store, f"SELECT name FROM system.tables WHERE database = '{database}__{k}' "
                                     "AND match(name, '^events_[0-9]+$')")
    ])  # fmt: skip
    assert lying == 3  # nothing lies hidden


# -- changes ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_change_that_is_cut_short_at_any_statement_is_there_whole_or_not_at_all(cluster, monkeypatch):
    honest, place, outcomes = Remote.run, 0, set()
    while True:
        url = cluster.url()
        first = open_store(url, Settings())
        first.write([(1, batch("a", "b"))], "j")
        before, left = changed(first), [place]

        def run(self, text, settings, left=left):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return honest(self, text, settings)

        monkeypatch.setattr(Remote, "run", run)
        try:
            first.change(CHANGE)
            finished = True
        except Killed:
            finished = False
        monkeypatch.undo()
        first.close()
        second = open_store(url, Settings())
        found = changed(second)
        assert found in (before, AFTER)
        outcomes.add(found == AFTER)
        second.write([(2, batch("x"))], "j")
        second.change(["DELETE FROM events WHERE id_text = 'x'"])
        assert changed(second)[0] == found[0]
        numbers = leftovers(second)
        assert all(len(each) == 1 for each in numbers.values()) and set(numbers) >= set(BATCHED)
        second.close()
        if finished:
            break
        place += 5  # not every statement: what lies between is of the same kind
    assert outcomes == {False, True} and place > 20


def leftovers(store):
    """The numbers of the tables that lie on the first shard, by name."""
    asked = f"SELECT name FROM system.tables WHERE database = '{store._address.database}__1'"
    found: dict[str, set[int]] = {}
    for (name,) in direct(store, asked):
        physical = cluster.physical(name)
        assert physical is not None, name
        found.setdefault(physical[0], set()).add(physical[1])
    return found


@pytest.mark.slow
def test_rows_of_a_table_that_is_emptied_are_gone_from_every_shard(store):
    store.write([(1, batch(*(f"i{n}" for n in range(40))))], "j")
    store.change(["TRUNCATE TABLE events", "TRUNCATE TABLE books"])
    assert held(store) == ((0, 0), {})


@pytest.mark.slow
def test_to_empty_the_distributed_table_would_remove_nothing(store, monkeypatch):
    monkeypatch.setattr(clustered.ClusterChanging, "_one", changing.Changing._one)
    with pytest.raises(AssertionError):
        test_rows_of_a_table_that_is_emptied_are_gone_from_every_shard(store)


@pytest.mark.slow
def test_parts_that_each_replica_attaches_are_noticed(store, monkeypatch):
    store.write([(1, batch("a", "b"))], "j")
    before, honest = changed(store), Cluster.copied
    monkeypatch.setattr(Cluster, "copied", lambda *told: [*honest(*told), honest(*told)[-1]])
    with pytest.raises(StoreUnavailable) as raised:
        store.change(CHANGE)
    assert raised.value.code == "cluster-copy" and changed(store) == before


def erased(running, folder, **how):
    url = running.url()
    with gnomon.open(url, data_dir=str(folder), sampling=False, rollups=ROLLUPS) as engine:
        for user in (ID, "other"):
            for name in TEXTS:
                engine.track(**{"type": "t", "user_id": user, name: ID})
            engine.track("t", user_id=user, properties={"a": {ID: [ID]}})
        engine.record_metric(name="m", value=1, labels={"a": ID})
        engine.track("", source=ID)
        engine.flush()
        engine.trigger_aggregation()
        before = engine.query(["events"])[0]["events"]
        assert "data.bin" in holding(Path(running.folder))
        engine.forget(ID, **how)
        after = engine.query(["events"])[0]["events"]
        assert after < before if how else after == before
        assert engine.books().closes()
    return holding(Path(running.folder))


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"delete_events": True}])
def test_no_byte_of_a_person_who_is_forgotten_is_left_on_any_shard(cluster, tmp_path, how):
    assert erased(cluster, tmp_path, **how) == set()


@pytest.mark.slow
def test_tables_that_were_replaced_would_hold_it(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(clustered, "drop_tables", lambda *_, **__: None)
    assert "data.bin" in erased(cluster, tmp_path)


# -- what a cluster has to be -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, statement, code",
    [
        ("SERVERS", "SELECT 1, 1, 0 WHERE '{}' != ''", "cluster-setup"),
        ("MACROS", "SELECT 1, 'h', '1', '1' WHERE '{}' != ''", "cluster-setup"),
        ("ALIVE", "SELECT 1 WHERE '{}' != ''", "cluster-degraded"),
        ("SETTINGS_NOW", "SELECT name, '7' FROM system.settings WHERE name IN ({})", "cluster-setup"),
    ],
)
def test_a_cluster_that_could_not_keep_the_promises_is_refused(place, monkeypatch, name, statement, code):
    monkeypatch.setattr(cluster, name, statement.replace("'{}'", "{}"))
    with pytest.raises((InvalidValue, StoreUnavailable)) as raised:
        open_store(place, Settings()).close()
    assert raised.value.code == code and raised.value.remedy


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_refused(place):
    with pytest.raises(InvalidValue) as raised:
        open_store(place.replace("cluster=two", "cluster=three"), Settings())
    assert raised.value.code == "cluster-setup"


@pytest.mark.parametrize(
    "setting, refused", [("max_compress_block_size", False), pytest.param("fsync_after_insert", True, id="durable")]
)
def test_tables_of_a_version_before_are_taken_and_those_that_are_not_durable_refused(
    place, monkeypatch, setting, refused
):
    store = open_store(place, Settings())
    store._connect().run(f"ALTER TABLE {store._address.database}__1.events_1 RESET SETTING {setting}", {})
    store.close()
    of_a_shard = """SELECT name, 'ReplicatedMergeTree', create_table_query FROM clusterAllReplicas({}, system.tables)
WHERE database = concat({}, '__1')"""
    monkeypatch.setattr(cluster, "TABLES_THERE", of_a_shard)
    with pytest.raises(InvalidValue, match=setting) if refused else nullcontext():
        open_store(place, Settings()).close()


@pytest.mark.slow
def test_a_store_of_one_server_and_one_of_a_cluster_are_not_taken_for_each_other(cluster):
    for make, ask in (("?", "?cluster=two"), ("?cluster=two", "?")):
        url = cluster.url().partition("?")[0]
        open_store(url + make, Settings()).close()
        with pytest.raises(InvalidValue) as raised:
            open_store(url + ask, Settings())
        assert raised.value.code == "foreign-file"


@pytest.mark.slow
def test_a_replica_that_is_away_stops_changes_and_not_writes(store, monkeypatch):
    store.write([(1, batch("a", "b"))], "j")
    before = changed(store)
    monkeypatch.setattr(cluster, "ALIVE", "SELECT 0 WHERE {} != ''")
    with pytest.raises(StoreUnavailable) as raised:
        store.change(CHANGE)
    assert raised.value.code == "cluster-degraded" and changed(store) == before
    store.write([(2, batch("c"))], "j")
    assert held(store)[0] == (3, 3)
    monkeypatch.undo()
    store.change(CHANGE)
    assert changed(store)[0] == AFTER[0]


@pytest.mark.slow
def test_another_server_leads_only_when_it_is_told_to(place, monkeypatch):
    first = open_store(place, Settings())
    first.write([(1, batch("a", "b"))], "j")
    monkeypatch.setattr(clustered, "IDENTITY", "SELECT 'second 1'")
    with pytest.raises(StoreUnavailable) as raised:
        open_store(place, Settings())
    assert raised.value.code == "store-coordinator"
    second = open_store(f"{place}&coordinator=take", Settings())
    assert held(second)[0] == (2, 2)
    second.write([(2, batch("c"))], "j")
    for refused in (lambda: first.write([(3, batch("d"))], "j"), lambda: held(first)):
        with pytest.raises(StoreUnavailable) as raised:
            refused()
        assert raised.value.code == "store-coordinator"
    first.close()
    second.close()
    third = open_store(place, Settings())
    assert held(third)[0] == (3, 3)
    third.close()


@pytest.mark.slow
def test_the_doctor_is_told_of_all_shards(store):
    store.write([(1, batch(*(f"i{n}" for n in range(20))))], "j")
    told = store.describe()
    assert told["readable"] and told["cluster"] == "two" and told["events"] == 20 and told["parts"] > 2
    assert told["bytes"] > 0


# -- the statements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [
    "clickhouse://h/d?cluster=", "clickhouse://h/d?cluster=a'b", "clickhouse://h/d?coordinator=take",
    "clickhouse://h/d?cluster=c&coordinator=x", "chdb://p?cluster=c",
])  # fmt: skip
def test_urls_that_say_something_else(url):
    with pytest.raises(InvalidValue) as raised:
        address_of(url)
    assert raised.value.code == "bad-store"


def test_a_url_names_the_cluster_and_who_leads():
    found = address_of("clickhouse://u:p@h/d?cluster=my-cluster&coordinator=take")
    assert (found.cluster, found.take, found.database) == ("my-cluster", True, "d")
    plain = address_of("clickhouse://h/d")
    assert (plain.cluster, plain.take) == (None, False)


def test_every_statement_of_a_store_has_what_a_session_of_a_cluster_needs():
    found = opening.session(address_of("clickhouse://h/d?cluster=c"), Settings())
    assert cluster.CLUSTER_SESSION.items() <= found.items()
    assert not cluster.CLUSTER_SESSION.items() <= opening.session(address_of("clickhouse://h/d"), Settings()).items()


def test_every_table_is_spread_by_what_its_rows_have():
    made = Cluster("c", "d")
    for table in (*BATCHED, cluster.LOG):
        columns = made._made[table][0]
        key = cluster.SHARD_KEYS.get(table, "cityHash64(project)")
        named = key.removeprefix("cityHash64(").rstrip(")").split(", ")
        assert key == "0" or all(f"{name} " in f" {columns}" for name in named), table
        assert "ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')" in made.made(table, 1)
    assert served.ServedClickHouse in clustered.ClusteredClickHouse.__mro__
    assert all("ON CLUSTER 'c'" in each for each in all_statements(made)[: len(BATCHED) + 2])
