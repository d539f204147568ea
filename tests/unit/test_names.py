"""The names of a project: those of the store count, no process writes over another's, none outlives a person."""

from __future__ import annotations

import pytest

import gnomon
from gnomon.ingest.keptnames import key_of, opened
from gnomon.ingest.rules import Refusal
from gnomon.server.names import KnownNames
from gnomon.store import names as sql


def known(engine, **changes):
    return KnownNames(engine.settings.but(**changes), engine._hold.journal)


def looked(engine, names):
    while not names.looked:
        names.look_back(engine._hold.store)
    return names


def vet(names, type_, *keys):
    names.vet({"type": type_, "properties": dict.fromkeys(keys, 1)})


def kept(engine):
    return opened(engine._journal.kept(key_of("default")))


@pytest.fixture
def engine(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", sampling=False) as found:
        for n in range(30):
            found.track(f"t{n}", properties={f"k{n}": 1, 'a "quoted" key': 1})
            found.flush()
        yield found


def test_names_that_never_came_over_http_count(engine, monkeypatch):
    monkeypatch.setattr("gnomon.server.names.FIRST_STEP", 4)
    names = looked(engine, known(engine, max_types=31, max_property_keys=32))
    assert names._types == {f"t{n}" for n in range(30)}
    assert names._keys == {f"k{n}" for n in range(30)} | {'a "quoted" key'}
    vet(names, "t3", "k7")
    vet(names, "new", "also new")
    with pytest.raises(Refusal):
        vet(names, "one too many")
    with pytest.raises(Refusal):
        vet(names, "t1", "one too many")


def test_a_store_that_is_not_looked_at_would_let_too_many_in(engine, monkeypatch):
    monkeypatch.setattr(sql, "types", lambda *_: "SELECT NULL WHERE false")
    with pytest.raises(AssertionError):
        test_names_that_never_came_over_http_count(engine, monkeypatch)


def test_more_than_there_is_room_for_are_known_as_far_as_it_goes_the_newest_first(engine):
    names = known(engine, max_types=5, max_property_keys=5)
    names._step = 4
    looked(engine, names)
    assert len(names._types) == len(names._keys) == 5 and "t29" in names._types
    vet(names, "t29")
    with pytest.raises(Refusal):
        vet(names, "t0")


def test_it_is_looked_at_once_and_then_only_at_what_came_since(engine, monkeypatch):
    looked(engine, known(engine)).save(now=True)
    engine.track("since", properties={"since": 1})
    engine.flush()
    asked = []
    monkeypatch.setattr(sql, "keys", lambda *words, keys=sql.keys: asked.append(words) or keys(*words))
    names = looked(engine, known(engine))
    assert len(asked) == 1 and asked[0][1] == kept(engine).looked + 1
    assert {"since", "t3"} <= names._types and {"since", "k3"} <= names._keys
    names.save(now=True)
    assert looked(engine, known(engine)).looked and len(asked) == 1


def test_types_of_pruned_time_count(tmp_path):
    from gnomon.testing import ManualClock

    clock = ManualClock()
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, sampling=False) as engine:
        engine.track("old")
        engine.flush()
        clock.advance(days=10)
        engine.trigger_aggregation()
        engine.set_retention_policy(raw_data_days=1)
        assert engine.prune().raw == 1
        assert looked(engine, known(engine))._types == {"old"}


def test_two_processes_keep_the_names_of_both(engine):
    one, other = known(engine), known(engine)
    for n in range(3):
        vet(one, f"one {n}", f"key of one {n}")
        vet(other, f"other {n}")
        one.save(now=True)
        other.save(now=True)
    found = kept(engine)
    assert found.types == sorted(f"{who} {n}" for who in ("one", "other") for n in range(3))
    assert found.keys == [f"key of one {n}" for n in range(3)]


def test_no_process_brings_back_the_name_of_a_person_who_was_forgotten(engine):
    here, elsewhere = known(engine), known(engine)
    vet(here, "anna", "anna", "kept")
    here.save(now=True)
    vet(elsewhere, "t", "anna")  # not kept yet
    engine.forget("anna")
    assert kept(engine).types == [] and kept(engine).keys == ["kept"]
    for names in (elsewhere, here):
        vet(names, "later")
        names.save(now=True)
        names.save(now=True)
    vet(here, "still later", "still later")
    here.save(now=True)
    assert kept(engine).types == ["still later"] and kept(engine).keys == ["kept", "still later"]


def test_a_process_that_overlooks_an_erasure_is_found(engine, monkeypatch):
    honest = KnownNames._take_up

    def careless(self):
        self._erased = kept(engine).erased
        honest(self)

    monkeypatch.setattr(KnownNames, "_take_up", careless)
    with pytest.raises(AssertionError):
        test_no_process_brings_back_the_name_of_a_person_who_was_forgotten(engine)


def test_a_list_of_the_version_before_reads_back(engine):
    engine._journal.keep(key_of("default"), '{"types":["a"],"keys":["k"]}')
    names = looked(engine, known(engine))
    assert {"a", "t0"} <= names._types and {"k", "k0"} <= names._keys
