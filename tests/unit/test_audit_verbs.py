"""The audit's verbs: what an entry says, what it never says, who sees it, how it ages, and how it is checked."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from datetime import UTC, datetime

import pytest

import gnomon
from gnomon import cli
from gnomon.access import Person, Principal
from gnomon.errors import GnomonError, InvalidValue, StoreDamaged
from gnomon.query import outline as outlines
from gnomon.testing import ManualClock
from gnomon.upkeep import anchor as anchors
from gnomon.upkeep import audit as audits
from gnomon.upkeep import chain as chains
from gnomon.upkeep.audit import Audit
from gnomon.upkeep.verify import Head, verify

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
SECRETS = ["ann@example.org", "device-77", "session-88", "+49 170", "secret alias", "platinum", "9876.5"]


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def engine(tmp_path, clock):
    with gnomon.open(tmp_path / "s.duckdb", clock=clock) as opened:
        opened.track("t", user_id="u1")
        opened.flush()
        yield opened


def newest(engine):
    return engine.get_access_log()[0]


# -- what an entry says ---------------------------------------------------------------------------------------------


def test_an_entry_says_who_what_when_range_outcome_and_rows(engine):
    engine.query(["events", "people"], ["source", "time:day"], ["2026-01-01", "2026-02-01"], compare="previous")
    entry = newest(engine)
    assert (entry.number, entry.who, entry.operation, entry.outcome, entry.rows) == (1, "local", "query", "ok", 1)
    assert (entry.at, entry.project) == (NOW, "default") and entry.duration_ms > 0
    assert entry.range == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    assert entry.detail == {"metrics": ["events", "people"], "dimensions": ["source", "time:day"], "compared": True}
    assert json.loads(json.dumps(entry.to_dict()))["at"] == "2026-01-15T12:00:00+00:00"


def test_each_audited_verb_leaves_one_entry(engine, tmp_path):
    (tmp_path / "x.csv").write_text("type,ts\na,2026-01-01T00:00:00Z\nb,nonsense\n")
    engine.run(gnomon.Query.build(["events"]))
    engine.explain(["events"])
    engine.query_usage("24h", group_by="source")
    engine.compare_periods("7d@7d", "7d")
    engine.quarantine()
    engine.import_file(tmp_path / "x.csv")
    engine.prune_audit()
    with pytest.raises(GnomonError):
        engine.query(["events"], date_range="nonsense")
    with pytest.raises(GnomonError):
        engine.import_file(tmp_path / "missing.csv")
    found = [(entry.operation, entry.outcome, entry.rows) for entry in reversed(engine.get_access_log())]
    assert found == [
        ("query", "ok", 1), ("explain", "ok", None), ("query", "ok", 1), ("query", "ok", 1), ("quarantine", "ok", 0),
        ("import", "ok", 1), ("prune_audit", "ok", 0), ("query", "bad-range", None), ("import", "no-such-file", None),
    ]  # fmt: skip
    entry = next(entry for entry in engine.get_access_log() if entry.operation == "import" and entry.outcome == "ok")
    assert entry.detail == {"duplicate": 0, "rejected": 1}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "ok"), (InvalidValue, "invalid-value"), (KeyboardInterrupt, "interrupted"), (OSError, "failed")],
)
def test_the_outcome_is_ok_or_the_code(engine, error, outcome):
    with (
        contextlib.nullcontext() if error is None else pytest.raises(error),
        engine._audited("prune", detail={"dry_run": True}) as note,
    ):
        note.rows = 7
        if error is not None:
            raise error("x")
    entry = newest(engine)
    assert (entry.operation, entry.outcome, entry.rows, entry.detail) == ("prune", outcome, 7, {"dry_run": True})


def test_a_closed_engine_leaves_nothing(engine, tmp_path):
    engine.query(["events"])
    engine.close()
    with pytest.raises(GnomonError):
        engine.query(["events"])
    assert verify(tmp_path / "s.duckdb.audit").entries == 1


def test_engines_in_memory_have_an_audit_of_their_own():
    with gnomon.open(":memory:") as one, gnomon.open(":memory:") as two:
        one.query(["events"])
        assert (one.verify_audit().entries, two.verify_audit().entries) == (1, 0)
        folder = one._hold.file.parent
        assert (folder / "memory.duckdb.audit").exists()
    assert not folder.exists()


# -- what it never says ---------------------------------------------------------------------------------------------


def ask_about_people(engine, tmp_path):
    engine.query(["events", {"agg": "sum", "field": "duration_ms", "as": "secret alias"}], ["source"], "7d", [
        ["is", "user_id", ["ann@example.org"]], ["not", ["contains", "actor", "ann@example.org"]],
        ["or", [["is", "device_id", ["device-77"]], ["is", "session_id", ["session-88", None]]]],
        ["is", "properties.phone", ["+49 170"]], ["is", "source", ["platinum"]], ["gt", "duration_ms", 9876.5],
    ])  # fmt: skip
    where = ["is", "user_id", ["ann@example.org"]]
    engine.query([{"agg": "count", "where": where, "as": "secret alias"}], order_by=["secret alias"])
    engine.acting_as(Principal("ann@example.org", ["read"])).query(["events"])
    with engine._audited("forget", detail={"people": [Person("ann@example.org"), Person("device-77")]}):
        pass
    engine._audit.erase("default", "ann@example.org")


def bytes_of(tmp_path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(tmp_path.glob("s.duckdb.audit*")))


def test_ids_of_people_and_values_of_filters_are_in_no_file(engine, tmp_path):
    ask_about_people(engine, tmp_path)
    held = bytes_of(tmp_path)
    assert [text for text in SECRETS if text.encode() in held] == []
    assert b"user_id" in held and b"properties.phone" in held
    engine.close()
    assert [text for text in SECRETS if text.encode() in bytes_of(tmp_path)] == []


@pytest.mark.parametrize("broken", ["plain", "values", "alias", "kept-name"])
def test_a_build_that_keeps_them_would_be_found(engine, tmp_path, monkeypatch, broken):
    if broken == "plain":
        monkeypatch.setattr(chains.Key, "person", lambda self, project, name: name)
    elif broken == "values":
        monkeypatch.setattr(outlines, "_said", lambda test: [test.op, test.dimension.name, list(test.values)])
    elif broken == "alias":
        monkeypatch.setattr(outlines, "_described", lambda metric: metric.name)
    else:
        monkeypatch.setattr(Audit, "erase", lambda *given: None)
    ask_about_people(engine, tmp_path)
    assert any(text.encode() in bytes_of(tmp_path) for text in SECRETS)


def test_the_same_person_has_the_same_digest_in_a_project_and_another_elsewhere(engine, tmp_path):
    with gnomon.open(tmp_path / "s.duckdb", project="other") as other:
        for one in (engine, engine, other):
            one.query(["events"], filters=[["is", "user_id", ["ann"]]])
        (one,), (two,) = ({entry.detail["filters"][0][2][0] for entry in e.get_access_log()} for e in (engine, other))
    assert one != two and len(one) == 32


def test_long_filters_are_cut(engine):
    engine.query(["events"], filters=[["is", "user_id", [f"u{n}" for n in range(5_000)]]])
    (said,) = newest(engine).detail["filters"]
    assert len(said[2]) == 100 and said[3] == "and 4900 more"
    engine.query(["events"], filters=[["is", "source", ["x"]]] * 80)
    assert newest(engine).detail["filters_left_out"] == 30
    with engine._audited("prune", detail={"x": "y" * 9_000}):
        pass
    assert newest(engine).detail == {"left_out": "too long"}
    with engine._audited("prune", detail={"x": object()}):
        pass
    assert newest(engine).detail == {"left_out": "not plain"}


def test_after_an_erasure_the_chain_verifies_and_the_person_is_a_digest(engine):
    engine.acting_as(Principal("ann", ["read"])).query(["events"])
    with engine._audited("forget", detail={"people": [Person("ann")]}):
        engine._audit.erase("default", "ann")
    assert engine.verify_audit()
    (entry,) = engine.get_access_log(user_filter="ann")  # whoever knows the name still finds what was done
    assert entry.who != "ann" and len(entry.who) == 32
    engine.acting_as(Principal("ann", ["read"])).query(["events"])
    assert engine.verify_audit() and engine.get_access_log(user_filter="ann")[0].who == "ann"


def test_a_name_that_is_gone_without_an_erasure_is_found(engine):
    engine.acting_as(Principal("ann", ["read"])).query(["events"])
    engine._audit.erase("default", "ann")
    verdict = engine.verify_audit()
    assert not verdict and (verdict.first_bad, verdict.reason) == (1, "the name of who did it is missing")


# -- the access log -------------------------------------------------------------------------------------------------


def test_the_log_knows_ranges_limits_and_projects(engine, tmp_path, clock):
    for _ in range(5):
        engine.query(["events"])
        clock.advance(days=1)
    with gnomon.open(tmp_path / "s.duckdb", project="other", clock=clock) as other:
        other.query(["events"])
        assert {entry.project for entry in other.get_access_log()} == {"other"}
    assert len(engine.get_access_log("49h")) == 2
    assert [entry.number for entry in engine.get_access_log(limit=1)] == [8]
    assert len(engine.get_access_log(["2026-01-15", "2026-01-16"])) == 1
    for wrong in ({"limit": 0}, {"limit": True}, {"time_range": "soon"}):
        with pytest.raises(InvalidValue):
            engine.get_access_log(**wrong)


# -- pruning --------------------------------------------------------------------------------------------------------


def test_entries_older_than_audit_days_are_dropped_and_the_rest_verifies(engine, clock, tmp_path):
    engine.query(["events"])
    first = engine.audit_head()
    for _ in range(9):
        clock.advance(days=100)
        engine.query(["events"])
    noted = engine.audit_head()
    assert engine.prune_audit() == 6  # those of day 0 to 500, of 900
    verdict = engine.verify_audit(noted)
    assert verdict and verdict.entries == 5 and verdict.head.count == 11
    assert [entry.number for entry in engine.get_access_log()] == [11, 10, 9, 8, 7]
    assert newest(engine).operation == "access_log" and engine.get_access_log(limit=2)[1].rows == 5
    late = engine.verify_audit(first)
    assert not late and "pruned" in late.reason
    clock.advance(days=4_000)
    assert engine.prune_audit() > 0 and engine.verify_audit().entries == 2
    assert b"ann" not in bytes_of(tmp_path)


def test_entries_are_kept_for_a_year_at_least(tmp_path, clock):
    for wrong in (364, 0, -1):
        with pytest.raises(InvalidValue):
            gnomon.Settings(audit_days=wrong).but(audit_days=wrong)
    with gnomon.open(tmp_path / "s.duckdb", clock=clock, audit_days=400) as engine:
        engine.query(["events"])
        clock.advance(days=399)
        assert engine.prune_audit() == 0
        clock.advance(days=2)
        assert engine.prune_audit() == 1


def test_an_audit_that_was_tampered_with_is_not_pruned(engine, clock, tmp_path):
    for _ in range(4):
        engine.query(["events"])
    with sqlite3.connect(tmp_path / "s.duckdb.audit") as db:
        db.execute("UPDATE entry SET rows = 1000 WHERE number = 2")
    clock.advance(days=1_000)
    with pytest.raises(StoreDamaged) as caught:
        engine.prune_audit()
    assert caught.value.code == "audit-broken" and engine.verify_audit().first_bad == 2
    assert newest(engine).outcome == "audit-broken"


# -- head, verify, copies -------------------------------------------------------------------------------------------


def test_a_head_that_was_noted_proves_what_came_later(engine):
    assert str(engine.audit_head()) == f"0:{'0' * 64}"
    for _ in range(3):
        engine.query(["events"])
    noted = str(engine.audit_head())
    assert noted.startswith("3:") and engine.verify_audit(noted)
    engine.query(["events"])
    assert engine.verify_audit(noted) and engine.verify_audit(Head.parse(noted))
    assert not engine.verify_audit(f"3:{'ab' * 32}") and not engine.verify_audit(f"9:{'ab' * 32}")
    for wrong in ("", "3", "x:y", "-1:" + "a" * 64, "3:" + "A" * 64, "3:" + "a" * 63):
        with pytest.raises(InvalidValue):
            engine.verify_audit(wrong)


def test_a_head_of_a_broken_audit_is_refused(engine, tmp_path):
    for _ in range(3):
        engine.query(["events"])
    with sqlite3.connect(tmp_path / "s.duckdb.audit") as db:
        db.execute("DELETE FROM entry WHERE number = 3")
    with pytest.raises(StoreDamaged):
        engine.audit_head()
    assert engine.verify_audit().first_bad == 3 and not bool(engine.verify_audit())


def test_health_counts_entries_and_names_a_broken_audit(engine, tmp_path):
    for _ in range(3):
        engine.query(["events"])
    assert engine.health().sound and engine.health().facts["audit_entries"] == 3
    with sqlite3.connect(tmp_path / "s.duckdb.audit") as db:
        db.execute("DELETE FROM entry WHERE number > 1")
    engine.query(["events"])
    assert any("audit" in finding.what for finding in engine.health().findings)


def test_a_copy_for_a_backup_verifies_by_itself(engine, tmp_path):
    target = tmp_path / "copy"
    target.mkdir()
    assert engine._audit.copy_to(target) == []
    for _ in range(3):
        engine.query(["events"])
    paths = engine._audit.copy_to(target)
    engine.query(["events"])
    assert sorted(path.name for path in paths) == ["s.duckdb.audit", "s.duckdb.audit.anchor", "s.duckdb.audit.key"]
    verdict = verify(target / "s.duckdb.audit")
    assert verdict and verdict.entries == 3 and (target / "s.duckdb.audit.key").stat().st_mode & 0o077 == 0


def test_files_that_are_replaced_under_a_running_engine_are_used(engine, tmp_path):
    target = tmp_path / "copy"
    target.mkdir()
    engine.query(["events"])
    paths = engine._audit.copy_to(target)
    engine.query(["events"])
    engine._audit.chain.close()
    for path in paths:
        path.rename(tmp_path / path.name)
    engine.query(["events"])
    assert engine.verify_audit().entries == 2


def test_only_the_owner_of_the_files_may_read_them(engine, tmp_path):
    engine.query(["events"])
    for path in tmp_path.glob("s.duckdb.audit*"):
        assert path.stat().st_mode & 0o077 == 0, path


# -- a power cut ----------------------------------------------------------------------------------------------------


def asked_on(engine, count, monkeypatch, run):
    """Ask in a run of the machine; returns the anchor after each entry, and the one on disk, were the power cut."""
    monkeypatch.setattr(anchors, "boot", lambda: run)
    written, on_disk, write = [], [], anchors.AnchorFile.write

    def watched(self, block, *, sync):
        write(self, block, sync=sync)
        if sync:
            on_disk.append(block)

    monkeypatch.setattr(anchors.AnchorFile, "write", watched)
    for _ in range(count):
        engine.query(["events"])
        written.append((engine._audit.chain.anchor_file.path.read_bytes(), on_disk[-1]))
    monkeypatch.setattr(anchors.AnchorFile, "write", write)
    return written


def test_an_anchor_that_a_power_cut_set_back_is_no_tampering(engine, tmp_path, monkeypatch):
    file = tmp_path / "s.duckdb.audit.anchor"
    _, on_disk = asked_on(engine, 150, monkeypatch, "first")[-1]
    assert engine.verify_audit()
    file.write_bytes(on_disk)
    assert not engine.verify_audit()  # the same run of the machine: somebody put an older one there
    monkeypatch.setattr(anchors, "boot", lambda: "second")
    assert engine.verify_audit().entries == 150 and engine.health().sound
    engine.query(["events"])
    assert engine.verify_audit().entries == 151 and engine.health().sound


def test_the_anchor_on_disk_is_never_far_behind(engine, monkeypatch):
    far_behind(engine, monkeypatch)


def far_behind(engine, monkeypatch):
    key = None
    for number, (_, on_disk) in enumerate(asked_on(engine, 200, monkeypatch, "first"), 1):
        key = key or engine._audit.chain.key()
        found = anchors.Anchor.unsealed(on_disk, key)
        assert number - max(found.last, found.pending) < anchors.MOST_BEHIND


def test_an_anchor_that_is_not_synchronised_would_be_found(engine, monkeypatch):
    coming = anchors.Anchor.coming
    monkeypatch.setattr(anchors.Anchor, "coming", lambda self, *given: (coming(self, *given)[0], self.last == 0))
    with pytest.raises(AssertionError):
        far_behind(engine, monkeypatch)


def test_an_anchor_that_is_older_than_a_power_cut_explains_is_found(engine, tmp_path, monkeypatch):
    blocks = [now for now, _ in asked_on(engine, 100, monkeypatch, "first")]
    monkeypatch.setattr(anchors, "boot", lambda: "second")
    for last, sound in ((35, False), (36, True), (99, True)):
        (tmp_path / "s.duckdb.audit.anchor").write_bytes(blocks[last - 1])
        assert bool(engine.verify_audit()) == sound, last


def test_where_the_system_names_no_boot_every_anchor_is_synchronised(engine, monkeypatch):
    for now, on_disk in asked_on(engine, 5, monkeypatch, "-"):
        key = engine._audit.chain.key()
        found, disk = anchors.Anchor.unsealed(now, key), anchors.Anchor.unsealed(on_disk, key)
        assert (found.last, found.head) == (disk.pending, disk.pending_hash)


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_command_verifies_beside_a_running_engine(engine, tmp_path, capsys):
    store = str(tmp_path / "s.duckdb")
    engine.query(["events"])
    assert cli.main(["audit", "head", "--store", store]) == 0
    noted = capsys.readouterr().out.strip()
    assert noted == str(engine.audit_head())
    engine.query(["events"])
    assert cli.main(["audit", "verify", "--store", store, "--expect", noted]) == 0
    assert capsys.readouterr().out.startswith("The audit is sound: 2 entries, head 2:")
    with sqlite3.connect(tmp_path / "s.duckdb.audit") as db:
        db.execute("UPDATE entry SET who = 'x' WHERE number = 1")
    assert cli.main(["audit", "verify", "--store", store]) == 1
    assert "NOT sound at entry 1: it was changed" in capsys.readouterr().out
    assert cli.main(["audit", "verify", "--store", store, "--expect", "nonsense"]) == 2
    assert cli.main(["audit", "verify", "--store", str(tmp_path / "none")]) == 2
    assert cli.main(["audit", "head", "--store", ":memory:"]) == 2


def test_verifying_makes_no_files(tmp_path, capsys):
    (tmp_path / "s.duckdb").touch()
    assert cli.main(["audit", "verify", "--store", str(tmp_path / "s.duckdb")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["s.duckdb"]


def test_a_thread_that_is_stuck_does_not_stop_questions(engine, monkeypatch):
    monkeypatch.setattr(audits, "MOST_WAIT", 0.05)
    engine.query(["events"])
    with engine._audit._lock:
        assert engine.query(["events"])[0]["events"] == 1
        with pytest.raises(GnomonError), engine._audited("prune"):
            raise AssertionError("must not begin")
    engine._audit._retry_at = 0.0
    engine.query(["events"])
    assert engine.verify_audit().entries == 4


def test_another_process_that_holds_the_lock_does_not_stop_questions(engine, tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(chains, "MOST_WAIT", 0.05)
    engine.query(["events"])
    with (tmp_path / "s.duckdb.audit.anchor").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert engine.query(["events"])[0]["events"] == 1
        assert engine.health().facts["audit_entries_waiting"] == 1
    engine._audit._retry_at = 0.0
    engine.query(["events"])
    assert engine.verify_audit().entries == 3
