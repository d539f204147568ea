"""What every store must do. One suite over all of them: a new store is one more line in `STORES`.

A store is made by a function of a folder that may be called again to open the same store a second time; `lasting`
says that a second opening finds what the first one wrote.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlglot import exp

import embedded
from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue, QueryTimeout
from gnomon.event import AT, FIELDS, ROW, Batch
from gnomon.store import Repeated, Store, Table, names, open_store
from gnomon.store.deadline import Deadlines
from gnomon.store.dialect import Dialect

SETTINGS = Settings(query_timeout_seconds=20.0)


@dataclass(frozen=True)
class Kind:
    """How to open one kind of store."""

    name: str
    url: str  #: `{folder}` stands for an empty folder of the test, the others for what is named after it
    lasting: bool
    slow_query: str  #: a statement that runs for minutes
    server: Any = None

    def open(self, folder) -> Store:
        served = self.server and self.server.url(f"t_{zlib.crc32(str(folder).encode())}")
        chdb = embedded.url(f"t_{zlib.crc32(str(folder).encode())}")
        places = {"postgres": served, "chdb": chdb, "clickhouse": served, "cluster": served}
        return open_store(self.url.format(folder=folder, **places), SETTINGS)


_ENDLESS = "SELECT count(*) FROM range(10000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
_PG_ENDLESS = "SELECT count(*) FROM generate_series(1, 10000000) a, generate_series(1, 1000000) b WHERE a % 7 = b % 5"
_CH_ENDLESS = "SELECT count(*) FROM numbers(10000000) AS a, numbers(1000000) AS b WHERE a.number % 7 = b.number % 5"
STORES = [
    Kind("duckdb file", "{folder}/store.duckdb", True, _ENDLESS),
    Kind("duckdb memory", ":memory:", False, _ENDLESS),
    Kind("postgres", "{postgres}", True, _PG_ENDLESS),
    Kind("chdb", "{chdb}", True, _CH_ENDLESS),
    pytest.param(Kind("clickhouse", "{clickhouse}", True, _CH_ENDLESS), marks=pytest.mark.slow),
    pytest.param(Kind("cluster", "{cluster}", True, _CH_ENDLESS), marks=pytest.mark.slow),
]


def _served(kind: Kind, request) -> Kind:
    name = kind.url.strip("{}")
    return (
        replace(kind, server=request.getfixturevalue(name)) if name in ("postgres", "clickhouse", "cluster") else kind
    )


@pytest.fixture(params=STORES, ids=lambda kind: kind.name.replace(" ", "-"))
def kind(request):
    return _served(request.param, request)


@pytest.fixture
def store(kind, tmp_path):
    opened = kind.open(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=STORES, ids=lambda kind: kind.name.replace(" ", "-"))
def shared(request, tmp_path_factory):
    """One store for the many small tests of its words."""
    opened = _served(request.param, request).open(tmp_path_factory.mktemp("shared"))
    yield opened
    opened.close()


PROJECTS = map("project {}".format, itertools.count())


def alone(store: Store, *rows: tuple[Any, ...]) -> str:
    """Write rows into a project of their own and return its name."""
    project = next(PROJECTS)
    store.write([(1, batch(*rows, project=project))], project)
    return project


NOW = 1_768_478_400_000_000


def row(id_, **values):
    values = {"id": id_, "ts": NOW, "received_at": NOW, "type": "t", "weight": 1.0, **values}
    return tuple(values.get(name) for name in ROW)


def batch(*rows, project="p", **more):
    more.setdefault(
        "counts", [["event", source, "received", "", n] for source, n in Counter(r[AT["source"]] for r in rows).items()]
    )
    return Batch(project, rows=list(rows), checked_ids=True, **more)


def select(
    store: Store, *columns: str, table: str = "events", project: str = "p", where: str | None = None
) -> list[tuple[Any, ...]]:
    """Rows of a table in the words of the store, sorted."""
    found = exp.select(*columns).from_(table).where(exp.column("project").eq(exp.Literal.string(project)))
    found = found if where is None else found.where(where)
    return sorted(store.ask([found.sql(dialect=store.dialect.sqlglot)], 20.0)[0].rows, key=repr)


def ids(store: Store, project: str = "p") -> list[str]:
    return [text for (text,) in select(store, store.dialect.id_text, project=project)]


def books(store: Store, kind: str = "event", project: str = "p") -> dict[tuple[Any, ...], int]:
    found: Counter[tuple[Any, ...]] = Counter()
    for source, outcome, reason, n in select(
        store, "source", "outcome", "reason", "n", table="books", project=project, where=f"kind = '{kind}'"
    ):
        found[source, outcome, reason] += n
    return dict(found)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_new_store_is_empty(store):
    assert isinstance(store.dialect, Dialect)
    assert store.position("journal") == 0
    assert ids(store) == []
    found = store.describe()
    assert {
        "store",
        "store_version",
        "schema",
        "events",
        "samples",
        "quarantined",
        "first_ts_us",
        "last_ts_us",
        "first_received_us",
        "bytes",
    } <= found.keys()
    assert (found["events"], found["first_ts_us"]) == (0, None)


def test_rows_books_and_position_come_together(store):
    version = store.data_version()
    assert store.write([(7, batch(row("a"), row("b", source="s")))], "journal") == {}
    assert ids(store) == ["a", "b"]
    assert books(store) == {
        (None, "received", ""): 1,
        ("s", "received", ""): 1,
        (None, "stored", ""): 1,
        ("s", "stored", ""): 1,
    }
    assert store.position("journal") == 7
    assert store.position("another journal") == 0
    assert store.data_version() > version


FULL = {
    "user_id": "u",
    "device_id": "d",
    "session_id": "x",
    "source": "s",
    "application": "a",
    "domain": "example.com",
    "endpoint": "/é\U0001f600",
    "method": "GET",
    "status_code": 599,
    "duration_ms": 0.1,
    "bytes_sent": 2**63 - 1,
    "bytes_received": 0,
    "success": False,
    "error_code": "'\"\\",
    "weight": 3.5,
    "properties": '{"a":1,"b":"\\u0007","é":[1.5,null,true,"\\""]}',
}


@pytest.mark.parametrize(
    "values", [{}, FULL, {"success": True, "properties": "{}", "ts": 0}, {"ts": NOW + 1, "received_at": NOW + 999_999}]
)
def test_every_field_is_kept_as_it_was(store, values):
    store.write([(1, batch(row("0198C0DE-0000-7000-8000-0123456789AB", **values)))], "j")
    words = [
        store.dialect.id_text
        if f.name == "id"
        else store.dialect.epoch_us(exp.column(f.name))
        if f.kind == "time"
        else f.name
        for f in FIELDS
    ]
    assert select(store, *words) == [row("0198C0DE-0000-7000-8000-0123456789AB", **values)]


def test_repeats_are_found_within_a_batch_between_batches_and_later(store):
    work = [(1, batch(row("a"), row("a"), row("A"))), (2, batch(row("a"), row("b", source="s")))]
    assert store.write(work, "j") == {1: {"duplicate": 1}, 2: {"duplicate": 1}}
    assert store.write([(3, batch(row("b", source="s", ts=NOW + 5), row("a"), row("c")))], "j") == {3: {"duplicate": 2}}
    assert ids(store) == ["A", "a", "b", "c"]
    assert books(store)[None, "duplicate", ""] == 3 and books(store)["s", "duplicate", ""] == 1
    assert books(store)[None, "received", ""] == books(store)[None, "stored", ""] + books(store)[None, "duplicate", ""]


def test_the_same_id_with_another_time_is_a_repeat_for_a_day(store):
    day = 86_400_000_000
    store.write([(1, batch(row("a")))], "j")
    assert store.write([(2, batch(row("a", ts=NOW + 1, received_at=NOW + day)))], "j") == {2: {"duplicate": 1}}
    assert not store.write([(3, batch(row("a", ts=NOW + 2, received_at=NOW + day + 1)))], "j").get(3)
    assert len(ids(store)) == 2


def test_projects_never_mix(store):
    store.write(
        [
            (1, batch(row("a"), project="p")),
            (2, batch(row("a"), project="q")),
            (3, batch(row("a"), row("b"), project="p")),
        ],
        "j",
    )
    assert (ids(store, "p"), ids(store, "q"), ids(store, "p'; --")) == (["a", "b"], ["a"], [])


def test_refused_events_are_kept_aside(store):
    refused = [
        [NOW, "too-long", "type: longer", "s", "id'1", '{"type":"\'x"}'],
        [NOW + 1, "bad-time", "ts: none", None, None, "x" * 2_000],
    ]
    store.write([(1, batch(refused=refused, counts=[["event", "s", "rejected", "too-long", 1]]))], "j")
    assert select(store, "code", "detail", "source", "id", "event", table="quarantine") == [
        tuple(entry[1:]) for entry in reversed(refused)
    ]
    assert books(store) == {("s", "rejected", "too-long"): 1}
    assert store.describe()["quarantined"] == 2


def test_samples_are_kept_all_of_them(store):
    samples = [
        (NOW, NOW, "m", "gauge", 1.5, None),
        (NOW, NOW, "m", "gauge", 1.5, None),
        (NOW, NOW, "m", "counter", -1e300, '{"a":"é"}'),
    ]
    store.write([(1, Batch("p", samples=samples))], "j")
    store.write([(2, Batch("p", samples=samples[:1]))], "j")
    assert len(select(store, "name", "kind", "value", "labels", table="samples")) == 4
    assert books(store, "sample") == {(None, "stored", ""): 4}


def test_replayed_samples_are_not_kept_twice(store):
    samples = [(NOW, NOW, "m", "gauge", 1.5, '{"a":1}'), (NOW, NOW + 1, "m", "gauge", 1.5, None)]
    store.write([(1, Batch("p", samples=samples))], "j")
    store.write([(1, Batch("p", samples=samples, replayed=True))], "a new journal")
    assert len(select(store, "name", table="samples")) == 2


def test_samples_with_an_id_are_kept_once(store):
    first = (NOW, NOW, "m", "gauge", 1.5, None, "a")
    later = (NOW + 5, NOW + 24 * 3_600_000_000, "m", "gauge", 1.5, None, "a")  # within a day of the first
    fresh = (NOW + 5, NOW + 24 * 3_600_000_000 + 1, "m", "gauge", 1.5, None, "a")
    store.write([(1, Batch("p", samples=[first, first, (*first[:-1], None), first[:-1]]))], "j")
    store.write([(2, Batch("p", samples=[later])), (3, Batch("q", samples=[first]))], "j")
    store.write([(4, Batch("p", samples=[fresh, first]))], "j")
    assert [id_ for (id_,) in select(store, "id", table="samples")] == ["a", "a", None, None]
    assert books(store, "sample") == {(None, "stored", ""): 4, (None, "duplicate", ""): 3}
    assert books(store, "sample", "q") == {(None, "stored", ""): 1}


def test_an_empty_batch_moves_the_position_only(store):
    store.write([(4, Batch("p"))], "j")
    assert store.position("j") == 4 and ids(store) == []


def test_spans_of_weights_are_noted(store):
    store.write([(1, batch(row("a"), row("b", weight=2.0, ts=NOW - 5), row("c", weight=3.0, ts=NOW + 5)))], "j")
    first, last = (store.dialect.epoch_us(exp.column(name)) for name in ("first_ts", "last_ts"))
    assert select(store, first, last, table="weighted") == [(NOW - 5, NOW + 5)]
    store.write([(2, batch(row("d")))], "j")
    assert len(select(store, first, table="weighted")) == 1


def test_a_write_that_fails_leaves_nothing(store):
    good = batch(row("a"), refused=[[NOW, "x", "y", None, None, "z"]], counts=[["event", None, "received", "", 1]])
    bad = batch(row("b"), samples=[(NOW, NOW, "m", "gauge", None, None)])  # a value is required
    version = store.data_version()
    with pytest.raises(GnomonError):
        store.write([(1, good), (2, bad)], "j")
    assert (ids(store), books(store), store.position("j"), store.data_version()) == ([], {}, 0, version)
    store.write([(1, good)], "j")
    assert ids(store) == ["a"]


# -- asking -----------------------------------------------------------------------------------------------------------


def test_several_statements_see_one_moment(store):
    stop, seen = threading.Event(), []
    count = "SELECT count(*) AS n FROM events"

    def ask():
        while not stop.is_set():
            first, second = store.ask([count, count], 20.0)
            seen.append((first.rows[0][0], second.rows[0][0]))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(25):
        store.write([(n + 1, batch(*(row(f"{n}-{i}") for i in range(10))))], "j")
    stop.set()
    for thread in threads:
        thread.join()
    assert all(first == second and first % 10 == 0 for first, second in seen)  # nor is part of a batch ever seen


def test_an_answer_has_its_columns(store):
    assert store.ask(["SELECT 1 AS a, 'x' AS b"], 20.0) == [Table(["a", "b"], [(1, "x")])]


def test_a_repeated_statement_sees_what_was_written_since(store):
    """What a plan took from the data at first, how large values are or that a condition always holds, must not stay."""
    found = "SELECT source FROM events WHERE version <= {} AND ts >= $1 AND ts < $2 ORDER BY ts, source"
    wide = (f"make_timestamp({NOW - 10**6})", f"make_timestamp({NOW + 10**13})")
    store.write([(1, batch(*(row(f"a{n}", ts=NOW, source="s") for n in range(3))))], "j")
    first = store.data_version()
    old, none = Repeated(found.format(first), wide), Repeated(found.format(first), wide[1:] * 2)
    every = Repeated(found.format(10**9), wide)
    assert [len(table.rows) for table in store.ask([old, none, every], 20.0)] == [3, 0, 3]
    long = "a source of a name far longer than any before"
    store.write([(2, batch(*(row(f"b{n}", ts=NOW + 10**12 * n, source=long) for n in range(3))))], "j")
    assert [len(table.rows) for table in store.ask([old, none], 20.0)] == [3, 0]
    assert [name for (name,) in store.ask([every], 20.0)[0].rows] == [long] + ["s"] * 3 + [long] * 2


def test_a_question_that_takes_too_long_is_ended(store, kind):
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        store.ask([kind.slow_query], 0.2)
    assert time.monotonic() - started < 10
    assert store.ask(["SELECT 1"], 20.0)[0].rows == [(1,)]


def test_an_interrupt_that_is_lost_is_given_again():
    """DuckDB forgets one that comes while a statement is planned."""
    deadlines, given = Deadlines(), []
    with deadlines.limit(0.01, lambda: given.append(1)):
        started = time.monotonic()
        while len(given) < 3 and time.monotonic() - started < 10:
            time.sleep(0.005)
    assert (count := len(given)) >= 3
    with deadlines.limit(60, lambda: given.append(2)):
        time.sleep(0.12)
    assert 2 not in given and len(given) == count
    deadlines.close()


def test_a_question_that_begins_while_all_are_ended_is_ended_too():
    """The store is closed: nobody waits for a minute, and nobody interrupts it later."""
    deadlines, interrupted = Deadlines(), threading.Event()
    deadlines.end_all()
    with deadlines.limit(60, interrupted.set):
        assert interrupted.wait(10)
    deadlines.close()


@pytest.mark.parametrize(
    "statement", ["SELEC 1", "SELECT nothing FROM nowhere", "SELECT 1 +", "SELECT CAST('x' AS INTEGER)"]
)
def test_a_bad_statement_is_an_error_of_ours(store, statement):
    with pytest.raises(GnomonError):
        store.ask([statement], 20.0)
    assert store.ask(["SELECT 1"], 20.0)[0].rows == [(1,)]


def test_many_threads_may_ask_while_one_writes(store):
    errors = []

    def ask():
        try:
            for _ in range(30):
                store.ask(["SELECT count(*) FROM events", "SELECT max(ts) FROM events"], 20.0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for n in range(15):
        store.write([(n + 1, batch(row(str(n))))], "j")
    for thread in threads:
        thread.join()
    assert errors == [] and len(ids(store)) == 15


# -- lasting ----------------------------------------------------------------------------------------------------------


def test_after_a_checkpoint_a_second_opening_finds_everything(kind, tmp_path):
    if not kind.lasting:
        pytest.skip("it lives in memory")
    store = kind.open(tmp_path)
    store.write([(1, batch(row("a"), row("b", weight=2.0), refused=[[NOW, "x", "y", None, None, "z"]]))], "j")
    store.write([(2, batch(row("a"), samples=[(NOW, NOW, "m", "gauge", 1.0, None)]))], "j")
    before = (ids(store), books(store), books(store, "sample"), store.data_version())
    store.checkpoint()
    assert (ids(store), books(store), books(store, "sample"), store.data_version()) == before
    store.close()
    again = kind.open(tmp_path)
    assert (ids(again), books(again), books(again, "sample"), again.data_version()) == before
    assert again.position("j") == 2
    assert again.write([(3, batch(row("a"), row("c")))], "j") == {3: {"duplicate": 1}}
    assert again.describe()["bytes"] > 0
    again.close()


def test_a_checkpoint_in_memory_does_no_harm(store):
    store.write([(1, batch(row("a")))], "j")
    store.checkpoint()
    assert ids(store) == ["a"]


# -- the words of the store -------------------------------------------------------------------------------------------

WORDS = [
    (lambda d: d.epoch_us(d.moment(exp.Literal.number(NOW))), NOW),
    (lambda d: d.epoch_us(d.moment(exp.Literal.number(0))), 0),
    (lambda d: d.year(d.moment(exp.Literal.number(NOW))), 2026),
    (lambda d: d.month(d.moment(exp.Literal.number(NOW))), 1),
]


@pytest.mark.parametrize(("word", "expected"), WORDS, ids=range(len(WORDS)))
def test_words_of_time(shared, word, expected):
    statement = exp.select(word(shared.dialect)).sql(dialect=shared.dialect.sqlglot)
    assert shared.ask([statement], 20.0)[0].rows == [(expected,)]


@pytest.mark.parametrize(
    ("stored", "key", "text"),
    [
        ('{"a":"x"}', "a", "x"),
        ('{"a/b~c":"x"}', "a/b~c", "x"),
        ('{"a.b":"x"}', "a.b", "x"),
        ('{"":1,"$":"x"}', "$", "x"),
        ('{"\'":"\'"}', "'", "'"),
        ('{"\\"":"\\\\"}', '"', "\\"),
        ('{"é":"\U0001f600"}', "é", "\U0001f600"),
        ('{"0":"x"}', "0", "x"),
        ('{"a":"x"}', "b", None),
        (None, "a", None),
        ('{"a":{"b":"x"}}', "a.b", None),
        ('{"*":"x","a":"y"}', "*", "x"),
        ('{"a":"x"}', "*", None),
    ],
)
def test_words_of_json(shared, stored, key, text):
    project = alone(shared, row("a", properties=stored))
    dialect = shared.dialect
    found = select(
        shared,
        dialect.json_text(exp.column("properties"), key),
        exp.Is(this=dialect.json_at(exp.column("properties"), key), expression=exp.null()),
        project=project,
    )
    assert found == [(text, text is None)]


@pytest.mark.parametrize(
    ("value", "text", "number", "key"),
    [
        ("1", None, 1.0, "1"),
        ("-1", None, -1.0, "-1"),
        ("1.5", None, 1.5, "1.5"),
        ("1.0", None, 1.0, "1"),
        ("-0.0", None, 0.0, "0"),
        ("9223372036854775807", None, 2.0**63, "9223372036854775807"),
        ('"1"', "1", None, '"1"'),
        ('"a\\"b"', 'a"b', None, '"a\\"b"'),
        ("true", None, None, "true"),
        ("null", None, None, None),
        ("[1]", None, None, "[1]"),
        ("10000000000000000", None, 1e16, "10000000000000000"),
        ("1234567890123456.0", None, 1234567890123456.0, "1234567890123456"),
        ("9007199254740992.0", None, 2.0**53, "9007199254740992.0"),
        ("0.00001", None, 1e-5, "0.00001"),
        ('"\u2028"', "\u2028", None, '"\u2028"'),
    ],
)
def test_types_of_json(shared, value, text, number, key):
    project = alone(shared, row("a", properties=f'{{"k":{value}}}'))
    column, dialect = exp.column("properties"), shared.dialect
    words = [dialect.json_text(column, "k"), dialect.json_number(column, "k"), dialect.json_key(column, "k")]
    assert select(shared, *words, project=project) == [(text, number, key)]


def test_json_is_grouped_by_what_it_means(shared):
    """Stores may write it in their own way, as 1e16 and 1e+16."""
    values = [
        "1e16",
        "1e-6",
        "1e22",
        '{"a":1.0,"b":[-0.0,1e16]}',
        '"\\u001f/\\b"',
        '[{"k":"x\\\\u0041"},10000000000000001]',
    ]
    project = alone(shared, *(row(value, properties=f'{{"z":{{"k":7}},"k":{value}}}') for value in values))
    keys = select(shared, shared.dialect.json_key(exp.column("properties"), "k"), project=project)
    assert sorted(repr(json.loads(key)) for (key,) in keys) == sorted(repr(json.loads(value)) for value in values)


@pytest.mark.parametrize(
    ("pattern", "text", "hit"),
    [
        ("a", "xay", True),
        ("^a", "xay", False),
        ("a.b", "a\nb", True),
        ("A", "a", False),
        (r"\d+$", "x12", True),
        ("é", "é", True),
        ("'", "it's", True),
        ("", "x", True),
    ],
)
def test_words_of_search(shared, pattern, text, hit):
    project = alone(shared, row("a", endpoint=text))
    column = exp.column("endpoint")
    assert select(shared, shared.dialect.matches(column, pattern), project=project) == [(hit,)]
    assert select(shared, shared.dialect.contains(column, text[-1]), project=project) == [(True,)]
    assert select(shared, shared.dialect.contains(column, "no such part"), project=project) == [(False,)]


@pytest.mark.parametrize(("q", "expected"), [(0.5, 2.0), (0.01, 1.0), (0.75, 3.0), (0.76, 4.0), (0.95, 4.0)])
def test_the_quantile_is_the_smallest_value_that_reaches_it(shared, q, expected):
    project = alone(shared, *(row(str(n), duration_ms=n) for n in (4.0, 2.0, 3.0, 1.0)), row("none"))
    assert select(shared, shared.dialect.quantile(exp.column("duration_ms"), q), project=project) == [(expected,)]


# -- what opening refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["mysql://x", "sqlite://x", "https://x", "://x"])
def test_a_store_that_nobody_knows(url):
    with pytest.raises(InvalidValue) as caught:
        open_store(url, SETTINGS)
    assert caught.value.code == "bad-store"


def test_a_store_that_drops_a_row_would_be_found(store, monkeypatch):
    write = type(store).write
    monkeypatch.setattr(
        type(store),
        "write",
        lambda self, work, j: write(
            self, [(p, Batch(b.project, b.rows[1:], counts=b.counts, checked_ids=True)) for p, b in work], j
        ),
    )
    with pytest.raises(AssertionError):
        test_rows_books_and_position_come_together(store)


def test_the_names_that_rows_bring(shared):
    project = alone(shared, row("a", type="order", properties='{"b":1,"a":{"c":2}}'), row("b", type="view"))
    (((first, last),), types, keys) = (
        table.rows
        for table in shared.ask(
            [names.span(project), names.types(project, 0, 10**9, 9), names.keys(project, 0, 10**9, 9)], 60.0
        )
    )
    assert first == last and sorted(types) == [("order",), ("view",)] and sorted(keys) == [("a",), ("b",)]
    later = shared.ask([names.keys(project, last + 1, last + 9, 9), names.rolled_types(project, 9)], 60.0)
    assert [table.rows for table in later] == [[], []]
