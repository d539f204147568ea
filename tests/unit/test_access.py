"""Rights: every public name of the engine against every scope, refusals that are audited, and no way around them."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

import gnomon
from gnomon import access
from gnomon.access import RIGHTS, SCOPES, Principal, speaking, speaking_as
from gnomon.engine import AnalyticsEngine
from gnomon.errors import Forbidden, GnomonError, InvalidValue, UnknownName
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)

#: What each scope alone opens, written down a second time: a change of `RIGHTS` has to be meant.
MAY = {
    "ingest": {"track", "record_request", "record_metric", "flush"},
    "ingest:any": {"track", "record_request", "record_metric", "flush", "import_file"},
    "read": {
        "query", "run", "explain", "query_usage", "compare_periods", "books", "quarantine", "health", "waiting",
        "get_access_log", "settings", "clock", "zone", "owns_store", "strict", "sampling_thresholds",
        "get_retention_policy", "active_users", "summary", "user", "dashboard",
        "export_analytics", "get_export_status", "exports", "download_export", "export_file",
        "stream_export",
    },
}  # fmt: skip
MAY["admin"] = MAY["read"] | {
    "audit_head", "verify_audit", "prune_audit", "acting_as", "close", "set_sampling_thresholds",
    "trigger_aggregation", "set_retention_policy", "prune", "trigger_backup", "restore_backup", "copy_to", "forget",
    "set_legal_hold", "run_jobs", "backups", "alerts", "on_alert",
}  # fmt: skip
CALLS = {"acting_as": [Principal("x")], "record_metric": ["m", 1], "track": ["t"], "query": [["events"]]}


@pytest.fixture
def engine():
    with gnomon.open(":memory:", clock=ManualClock(NOW)) as opened:
        yield opened


def public_names(engine: AnalyticsEngine) -> set[str]:
    return {name for name in dir(engine) if not name.startswith("_")}


def unlisted(engine: AnalyticsEngine) -> set[str]:
    return public_names(engine) - set(RIGHTS)


# -- the matrix -----------------------------------------------------------------------------------------------------


def test_every_public_name_has_a_right(engine):
    assert unlisted(engine) == set()
    assert set(RIGHTS.values()) <= set(SCOPES)
    for scope, names in MAY.items():
        assert {name for name in RIGHTS if Principal("x", [scope]).may(RIGHTS[name])} == names


def test_the_page_says_the_same(engine):
    page = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `([a-z:]+)` \| (.*) \|$", page.partition("| scope | opens |")[2].split("\n\n")[0], re.MULTILINE
    )
    told = {name: scope for scope, text in rows for name in re.findall(r"`([a-z_]+)`", text) if name in RIGHTS}
    assert told == {name: RIGHTS[name] for name in public_names(engine)}


def test_a_new_name_without_a_right_is_refused_and_found():
    class Grown(AnalyticsEngine):
        def erase_everything(self):
            return "done"

    grown = Grown(gnomon.Settings(database_url=":memory:"))
    assert unlisted(grown) == {"erase_everything"}
    assert grown.erase_everything() == "done"
    with pytest.raises(Forbidden):
        grown.acting_as(Principal("root", SCOPES)).erase_everything()
    grown.close()


def refused(engine, name: str, scopes) -> bool:
    """Whether the call is refused for want of a right; what else it raises means that it was let in."""
    try:
        found = getattr(engine.acting_as(Principal("someone", scopes)), name)
        if callable(found):
            found(*CALLS.get(name, []))
    except Forbidden:
        return True
    except (GnomonError, TypeError, ValueError):
        pass
    return False


@pytest.mark.parametrize("scopes", [[], *([scope] for scope in SCOPES), ["ingest", "read"], ["ingest:any", "admin"]])
def test_every_public_name_against_every_scope(scopes):
    allowed = set().union(*(MAY[scope] for scope in scopes))
    with gnomon.open(":memory:", clock=ManualClock(NOW)) as engine:
        names = sorted(public_names(engine) - {"close"})
        for name in names:
            assert refused(engine, name, scopes) == (name not in allowed), name
        wanted = [name for name in names if name not in allowed]
        refusals = [entry.operation for entry in engine.get_access_log() if entry.outcome == "forbidden"]
        assert sorted(refusals) == wanted
        assert refused(engine, "close", scopes) == ("close" not in allowed)


def test_a_check_that_lets_everybody_in_would_be_found(monkeypatch):
    monkeypatch.setattr(Principal, "may", lambda self, scope: True)
    with pytest.raises(AssertionError):
        test_every_public_name_against_every_scope(["read"])


def test_nobody_comes_around_the_check(engine):
    reader = engine.acting_as(Principal("reader", "read"))
    for name in ("_hold", "_own_or_refuse", "_audit", "__dict__", "_engine_of"):
        with pytest.raises(AttributeError):
            getattr(reader, name)
    with pytest.raises(AttributeError):
        reader.settings = None
    with pytest.raises(AttributeError):
        _ = reader.nothing_of_that_name
    with pytest.raises(Forbidden):
        reader.acting_as(Principal("boss", ["admin"]))
    assert not hasattr(reader, "__enter__")  # leaving a block would close the host's engine
    assert "reader" in repr(reader)


# -- principals -----------------------------------------------------------------------------------------------------


def test_scopes_come_as_a_collection_or_a_text():
    assert Principal("x", "read ingest").scopes == Principal("x", {"ingest", "read"}).scopes == {"ingest", "read"}
    assert Principal("x", ["admin"]).may("read") and Principal("x", ["ingest:any"]).may("ingest")
    assert not Principal("x", ["admin"]).may("ingest") and not Principal("x", ["ingest"]).may("ingest:any")
    assert not Principal("x", SCOPES).may(None)


@pytest.mark.parametrize("name", ["", "x" * 201, 7, None, "a\x00b", "\ud800"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InvalidValue) as caught:
        Principal(name)
    assert caught.value.code == "bad-principal"


@pytest.mark.parametrize("scopes", [["write"], "read,admin", [None], ["*"]])
def test_an_unknown_scope_is_refused(scopes):
    with pytest.raises(UnknownName):
        Principal("x", scopes)


def test_acting_takes_a_principal_only(engine):
    for wrong in ("admin", None, {"name": "x"}):
        with pytest.raises(InvalidValue):
            engine.acting_as(wrong)
    with pytest.raises(InvalidValue):
        Principal("x", 7)


def test_the_error_is_a_403_with_a_remedy(engine):
    with pytest.raises(Forbidden) as caught:
        engine.acting_as(Principal("x", ["read"])).close()
    assert (caught.value.code, caught.value.status) == ("forbidden", 403)
    assert "`admin`" in caught.value.remedy


# -- in whose name --------------------------------------------------------------------------------------------------


def test_calls_are_in_the_name_of_the_caller_and_only_for_their_time(engine):
    engine.query(["events"])
    engine.acting_as(Principal("ann", ["read"])).query_usage("7d")
    with speaking_as(Principal("bob", ["admin"])):
        engine.query(["events"])
        with contextlib.suppress(Forbidden):
            engine.acting_as(Principal("cid")).query(["events"])
        assert speaking().name == "bob"
    assert speaking() is access.LOCAL
    found = [(entry.who, entry.outcome) for entry in reversed(engine.get_access_log())]
    assert found == [("local", "ok"), ("ann", "ok"), ("bob", "ok"), ("cid", "forbidden")]


def test_recording_in_anothers_name_records(engine):
    sender = engine.acting_as(Principal("sender", ["ingest"]))
    for _ in range(10):
        sender.track("t")
    sender.flush()
    assert engine.query(["events"])[0]["events"] == 10
    assert [entry.operation for entry in engine.get_access_log()] == ["query"]
    with pytest.raises(Forbidden):
        engine.acting_as(Principal("reader", ["read"])).track("t")


def test_a_caller_sees_its_own_entries_an_admin_all(engine):
    ann, bob = (engine.acting_as(Principal(name, ["read"])) for name in ("ann", "bob"))
    boss = engine.acting_as(Principal("boss", ["admin"]))
    ann.query(["events"])
    bob.query(["events"])
    assert {entry.who for entry in ann.get_access_log()} == {"ann"}
    assert {entry.who for entry in bob.get_access_log(user_filter="bob")} == {"bob"}
    with pytest.raises(Forbidden):
        ann.get_access_log(user_filter="bob")
    assert {entry.who for entry in boss.get_access_log()} == {"ann", "bob"}
    assert {entry.who for entry in boss.get_access_log(user_filter="ann")} == {"ann"}
    assert boss.get_access_log(user_filter="nobody") == []
    assert "forbidden" in {entry.outcome for entry in boss.get_access_log(user_filter="ann")}
