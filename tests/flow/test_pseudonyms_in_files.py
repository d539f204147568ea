"""The whole way with pseudonyms on: no byte of an id in a file, numbers as without, rotation, asking, forgetting."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

import gnomon
from gnomon.ingest import load, sampling
from gnomon.ingest.gate import Gate
from gnomon.pseudonyms import Pseudonyms
from gnomon.query import asking, widening
from gnomon.testing import ManualClock

K1 = "kT5vX1mQ9wZr3LbYc7NdFhJ8PsRuA2eGi4oC6xQ0zV"
K2 = "Zy7Wn4RkB1tQ8sLpV3mXc6HdJ0fGaE9uTi2oYrNwK5"
START = datetime(2026, 1, 15, 12, tzinfo=UTC)
#: Every raw id and value of a named property holds this.
CANARY = "canary7f3b"
WHO = f"{CANARY}-u1"


def opened(folder, *keys, **changes):
    changes = {"sampling": False, "clock": ManualClock(START), "rollup_lag_seconds": 0, **changes}
    named = {"pseudonym_properties": ["email", "friends"]} if keys else {}
    return gnomon.open(Path(folder) / "x.duckdb", pseudonym_keys=list(keys), **named, **changes)


def leaks(folder, word=CANARY):
    """Files that hold the word, in UTF-8 or as a file might otherwise write it."""
    forms = (word.encode(), word.encode("utf-16-le"), word.encode().hex().encode())
    return [
        str(path.relative_to(folder)) for path in Path(folder).rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]  # fmt: skip


def write_inputs(folder):
    row = {"type": "a", "ts": "2026-01-15T11:00:00Z", "user_id": f"{CANARY}-n", "email": f"{CANARY}@x.org"}
    bad = [{**row, "ts": None}, {**row, "ts": "never"}, {**row, "status_code": 7}, {**row, "user_id": [WHO]}]
    lines = [json.dumps(line) for line in ({**row}, *bad)]
    (folder / "a.ndjson").write_text("\n".join([*lines, f'{{"user_id": "{WHO}"', f'{{"{WHO}": 1, "{WHO}": 2}}']) + "\n")
    (folder / "a.csv").write_text(
        f"ts,type,user,email,n\n2026-01-15T11:00:00Z,a,{WHO},{CANARY}@x.org,1\n"
        f'2026-01-15T11:00:00Z,a,{WHO}\n,a,{WHO},x,1\n2026-01-15T11:00:00Z,a,{WHO},x,"1\n'
    )
    log = '{} - {} [15/Jan/2026:11:00:00 +0000] "GET /a HTTP/1.1" {} 5 "-" "x"\n'
    (folder / "a.log").write_text(
        log.format(f"{CANARY}.host", WHO, 200) + log.format(f"{CANARY}.host", WHO, 99) + f"{WHO} nonsense\n"
    )


def live_a_life(engine, folder):
    """Every way in, good and bad, and everything that writes files."""
    write_inputs(folder)
    for n in range(50):
        engine.record_request(user_id=f"{CANARY}-{n % 7}", device_id=f"{CANARY}-d", session_id=f"{CANARY}-s",
                              properties={"email": f"{CANARY}{n}@x.org", "friends": [WHO, {CANARY: n}]})  # fmt: skip
    engine.track("a", user_id=WHO, status_code=7, properties={"email": f"{CANARY}@x.org"})
    engine.track("a", user_id=WHO * 30)
    engine.track("a", user_id=[WHO])
    engine.track("a", properties=f"{CANARY} as text")
    engine.record_metric("m", 1, labels={"email": f"{CANARY}@x.org"})
    engine.record_metric("m", "x", labels={"email": f"{CANARY}@x.org"})
    engine.flush()
    for name, form in (("a.ndjson", None), ("a.csv", None), ("a.log", "combined")):
        engine.import_file(folder / name, format=form, timezone="UTC")
    engine.query(["events", "people"], ["user_id"], filters=["is", "user_id", [WHO]])
    engine.explain(["events"], filters=["is", "properties.email", [f"{CANARY}@x.org"]])
    engine.clock.advance(days=2)
    engine.trigger_aggregation()


def life(tmp_path, *keys, **changes):
    """The names of files that hold a raw id at any stage."""
    (tmp_path / "in").mkdir()
    store = tmp_path / "store"
    store.mkdir()
    found = []
    with opened(store, *keys, **changes) as engine:
        live_a_life(engine, tmp_path / "in")
        assert engine.books().closes() and len(engine.quarantine()) >= 14
        found += leaks(store)
        engine.trigger_backup(store / "backups")
        engine._hold.writer.checkpoint()
        found += leaks(store)
        engine.forget(f"{CANARY}-3")
        found += leaks(store)
    return found + leaks(store)


def test_no_byte_of_an_id_gets_into_any_file(tmp_path):
    assert life(tmp_path, K1, K2) == []
    assert leaks(tmp_path / "store", K1) == leaks(tmp_path / "store", K2) == []


def test_nor_where_sampling_notes_who_was_seen(tmp_path):
    clock = ManualClock(START)
    with opened(tmp_path, K1, clock=clock, sampling=True, sampling_low=10.0, sampling_high=20.0) as engine:
        for n in range(2_000):
            clock.advance(milliseconds=1)
            engine.record_request(user_id=f"{CANARY}-{n}", status_code=200)
        engine.flush()
        assert engine.books().sampled_out > 1_000
        assert engine.query(["people"]).to_dicts() == [{"people": 2_000}]
        assert (
            engine._hold.store.ask(["SELECT count(*) FROM sightings WHERE actor LIKE '~k%'"], 9.0)[0].rows[0][0] > 999
        )
        assert leaks(tmp_path) == []
    assert leaks(tmp_path) == []


@pytest.mark.parametrize("broken", ["gate", "quarantine", "lines", "timeless", "labels"])
def test_a_way_past_the_digest_is_found(tmp_path, monkeypatch, broken):
    if broken == "gate":
        monkeypatch.setattr(Pseudonyms, "of_event", lambda self, *given: given[:4])
    elif broken == "quarantine":
        monkeypatch.setattr(Pseudonyms, "hidden", lambda self, sent, known: sent)
    elif broken == "lines":
        monkeypatch.setattr(Gate, "shown_line", lambda self, line: line)
    elif broken == "timeless":
        monkeypatch.setattr(
            load.Loader, "_timeless", lambda self, item: load.BadLine(item.line, "missing-time", "", str(item))
        )
    else:
        monkeypatch.setattr(Pseudonyms, "of_properties", lambda self, given, *_, **__: given)
    assert life(tmp_path, K1) != []


def test_sightings_of_raw_rows_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sampling, "sightings_of", lambda rows: [(START.timestamp() * 10**6 // 9e8 * 9e8, WHO, "a", None, None)]
    )
    with pytest.raises(AssertionError):
        test_nor_where_sampling_notes_who_was_seen(tmp_path)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_every_number_is_as_without(tmp_path):
    answers = []
    for name, keys in (("off", ()), ("on", (K1,))):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}-in").mkdir()
        with opened(tmp_path / name, *keys) as engine:
            live_a_life(engine, tmp_path / f"{name}-in")
            told = [engine.query(["events", "people", "sessions"], dims).to_dicts()
                    for dims in ([], ["type"], ["source"], ["time:day"])]  # fmt: skip
            uniques = [{"agg": "unique", "field": f, "as": f} for f in ("user_id", "device_id", "properties.email")]
            told.append(engine.query(uniques).to_dicts())
            answers.append((told, engine.books().to_dict()))
    assert answers[0] == answers[1]
    assert answers[0][0][0][0]["people"] > 7


def test_a_file_imported_again_adds_nothing_and_its_ids_are_keyed(tmp_path):
    ids = []
    (tmp_path / "in").mkdir()
    write_inputs(tmp_path / "in")
    for name, keys in (("off", ()), ("one", (K1,)), ("two", (K2, K1))):
        (tmp_path / name).mkdir()
        with opened(tmp_path / name, *keys) as engine:
            assert engine.import_file(tmp_path / "in" / "a.ndjson").stored == 1
            assert engine.import_file(tmp_path / "in" / "a.ndjson").stored == 0
            ids.append(engine._hold.store.ask(["SELECT id FROM events"], 9.0)[0].rows)
    assert ids[0] != ids[1], "an id without a key lets whoever knows the rest of the line try ids until it fits"
    assert ids[1] == ids[2], "a rotation that keeps the older key keeps the ids"


# -- asking and rotation ----------------------------------------------------------------------------------------------


@pytest.fixture
def rotated(tmp_path):
    """One person before there were pseudonyms, under the first key and the second; and somebody else each time."""
    for keys in ((), (K1,), (K2, K1)):
        with opened(tmp_path, *keys) as engine:
            for who in ("u1", "u2"):
                engine.track("a", user_id=who, properties={"email": f"{who}@x.org", "n": 1, "friends": ["u1", "u3"]})
                engine.track("a", device_id=who, properties={"email": 17})
    with opened(tmp_path, K2, K1) as engine:
        yield engine


def count(engine, *filters, **more):
    return engine.query(["events"], filters=list(filters), **more)[0]["events"]


def test_whoever_knows_an_id_finds_it_under_every_key(rotated):
    assert count(rotated, ["is", "user_id", ["u1"]]) == 3
    assert count(rotated, ["is", "device_id", ["u1", "u2"]]) == 6
    assert count(rotated, ["is", "actor", ["u1"]]) == 6
    assert count(rotated, ["is_not", "actor", ["u1"]]) == 6
    assert count(rotated, ["not", ["is", "actor", ["u1"]]], ["is", "type", ["a"]]) == 6
    assert count(rotated, ["or", [["is", "user_id", [None]], ["is", "user_id", ["u1"]]]]) == 9
    assert count(rotated, ["is", "properties.email", ["u1@x.org"]]) == 3
    assert count(rotated, ["is", "properties.email", [17]]) == count(rotated, ["is", "properties.email", [17.0]]) == 6
    assert count(rotated, ["is", "properties.email", ["17"]]) == 0
    assert count(rotated, ["is", "properties.n", [1]]) == 6
    counted = rotated.query([{"agg": "count", "as": "n", "where": ["is", "user_id", ["u1"]]}])
    assert counted.to_dicts() == [{"n": 3}]
    assert rotated.query_usage("all", {"user_id": "u1"}, metrics=["events"])[0]["events"] == 3
    assert count(rotated, ["is", "user_id", ["u9"]]) == 0


def test_true_is_not_one(tmp_path):
    with opened(tmp_path, K1) as engine:
        for told in (True, 1, 1.0, "1", None):
            engine.track("a", properties={"email": told})
        engine.flush()
        found = [count(engine, ["is", "properties.email", few]) for few in ([True], [1], [1, True], ["1"], [None])]
        assert found == [1, 2, 3, 1, 1]


def test_answers_show_pseudonyms_that_can_be_asked_with(rotated):
    rows = rotated.query(["events"], ["user_id"], filters=["is", "user_id", ["u1"]]).to_dicts()
    assert sorted(row["user_id"][0] for row in rows) == ["u", "~", "~"]
    for row in rows:
        assert count(rotated, ["is", "user_id", [row["user_id"]]]) >= 1


def test_the_same_person_counts_once_for_each_key(rotated):
    """As the docs say: over a range that spans a rotation."""
    assert rotated.query(["people"]).to_dicts() == [{"people": 6}]
    assert rotated.query(["people"], filters=["is", "actor", ["u1"]]).to_dicts() == [{"people": 3}]


def test_the_audit_keeps_one_digest_of_the_id_as_asked(rotated):
    count(rotated, ["is", "user_id", ["u1"]])
    entry = rotated.get_access_log()[0]
    assert len(entry.detail["filters"][0][2]) == 1
    assert "~k" not in json.dumps(entry.detail) and "u1" not in json.dumps(entry.detail)


@pytest.mark.parametrize("delete", [False, True])
def test_forgetting_reaches_every_key_and_the_time_before(rotated, tmp_path, delete):
    known = Pseudonyms((K2, K1), ("email", "friends"), "default")
    certificate = rotated.forget("u1", delete_events=delete)
    assert certificate.rows == 6 and certificate.named == 3, "u2's three events name u1 as a friend"
    assert count(rotated) == (6 if delete else 12)
    assert rotated.query(["people"]).to_dicts() == [{"people": 3}]
    for told in (*known.ids("u1"), *known.mentions("u1")):
        assert count(rotated, ["is", "actor", [told]]) == 0
        if told != "u1":
            assert leaks(tmp_path, told) == []
    assert count(rotated, ["is", "actor", ["u2"]]) == 6
    assert rotated.verify_audit()


def test_a_pseudonym_can_be_forgotten_under_its_own_key(rotated):
    known = Pseudonyms((K2, K1), ("email", "friends"), "default")
    assert rotated.forget(known.ids("u1")[1]).rows == 2
    assert count(rotated, ["is", "actor", ["u1"]]) == 4


def test_rolled_up_people_are_forgotten_too(tmp_path):
    for keys in ((K1,), (K2, K1)):
        with opened(tmp_path, *keys) as engine:
            engine.track("a", user_id="u1")
            engine.track("a", user_id="u2")
            engine.flush()
            engine.clock.advance(days=2)
            engine.trigger_aggregation()
            whole = engine.query(["events", "people"], basis="raw").to_dicts()
            assert engine.query(["events", "people"]).to_dicts() == whole
    with opened(tmp_path, K2, K1) as engine:
        assert engine.forget("u1").rows == 2
        assert engine.query(["events", "people"]).to_dicts() == [{"events": 4, "people": 2}]
        assert engine.query(["events", "people"], basis="raw").to_dicts() == [{"events": 4, "people": 2}]


@pytest.mark.parametrize("method", ["ids", "mentions"])
def test_forgetting_that_knows_the_newest_key_only_is_found(rotated, tmp_path, monkeypatch, method):
    whole = getattr(Pseudonyms, method)
    monkeypatch.setattr(Pseudonyms, method, lambda self, text: whole(self, text)[: 2 if method == "ids" else 0])
    with pytest.raises(AssertionError):
        test_forgetting_reaches_every_key_and_the_time_before(rotated, tmp_path, False)


def test_a_question_that_is_not_widened_is_found(rotated, monkeypatch):
    assert asking
    monkeypatch.setattr(widening, "widened", lambda query, known: query)
    with pytest.raises(AssertionError):
        test_whoever_knows_an_id_finds_it_under_every_key(rotated)
