"""What a service tells of its calls: refusals stand in the audit, and each call in the log by project and code."""

from __future__ import annotations

import re
import time

import pytest
from serving import API, bearer, served

from gnomon.errors import StoreUnavailable

KEY, PAGE = "X-Gnomon-Key", "https://shop.example"
QUESTION = {"metrics": ["events"]}


@pytest.fixture(scope="module")
def service():
    with served() as found:
        yield found


def refusals(service, who):
    return [(entry.project, entry.operation, entry.outcome) for entry in service.engine.get_access_log(user_filter=who)
            if entry.outcome != "ok"]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "operation"),
    [
        (lambda s, **claims: s.get("/summary?project=far", claims=claims), "summary"),
        (lambda s, **claims: s.post("/ingest?project=far", {"type": "x"}, claims=claims), "ingest"),
        (lambda s, **claims: s.post("/samples?project=far", {"name": "x", "value": 1}, claims=claims), "samples"),
        (lambda s, **claims: s.post("/query", {**QUESTION, "site_id": "far"}, claims=claims), "query"),
    ],
)
def test_asking_for_another_project_is_audited_in_ones_own(service, call, operation):
    who = f"curious-{operation}"
    answer = call(service, sub=who)
    assert (answer.status_code, answer.json()["type"]) == (403, "foreign-project")
    assert refusals(service, who) == [("default", operation, "foreign-project")]


def test_a_missing_scope_is_audited_once_and_where_the_call_goes(service):
    assert service.post("/ingest", {"type": "x"}, claims={"sub": "reader", "scope": "read"}).status_code == 403
    assert service.get("/admin/keys", claims={"sub": "reader"}).status_code == 403
    assert service.client.get("/metrics", headers=bearer(sub="reader")).status_code == 403
    kinds = [(operation, outcome) for _, operation, outcome in reversed(refusals(service, "reader"))]
    assert kinds == [("ingest", "forbidden"), ("keys", "forbidden"), ("metrics", "forbidden")]


def test_a_key_on_a_foreign_page_is_audited(service):
    made = service.post("/admin/keys", {"name": "shop", "origins": [PAGE]}, claims={"scope": "admin"}).json()
    service.app_keys().forget()
    for method, path, body in (("POST", "/ingest", {"type": "x"}), ("GET", "/summary", None)):
        answer = service.client.request(method, API + path, json=body,
                                        headers={KEY: made["key"], "Origin": "https://evil.example"})  # fmt: skip
        assert (answer.status_code, answer.json()["type"]) == (403, "foreign-origin")
    fine = service.post("/ingest", {"type": "x"}, headers={KEY: made["key"], "Origin": PAGE})
    assert fine.status_code == 200
    found = [entry for entry in service.engine.get_access_log() if entry.outcome == "foreign-origin"]
    assert {(entry.project, entry.operation) for entry in found} == {("default", "ingest"), ("default", "summary")}


def test_repeated_refusals_are_one_more_entry(service):
    """A write key is public: a page of somebody else could fill the audit with the calls of its visitors."""
    made = service.post("/admin/keys", {"name": "twice", "origins": [PAGE]}, claims={"scope": "admin"}).json()
    service.app_keys().forget()
    for _ in range(30):
        foreign = service.post("/ingest", {"type": "x"}, headers={KEY: made["key"], "Origin": "https://evil.example"})
        assert foreign.status_code == 403

    def entries():
        return [entry for entry in service.engine.get_access_log() if made["id"] in entry.who]

    assert [(entry.outcome, entry.detail) for entry in entries()] == [("foreign-origin", {})]
    service.app.state.service.refusals.write(all=True)
    newest = entries()[0]
    assert (newest.outcome, newest.detail) == ("foreign-origin", {"calls": 29})
    service.app.state.service.refusals.write(all=True)
    assert len(entries()) == 2


def line_of(caplog, service, method, path, json=None, headers=None, **named):
    """What the log says of a call."""
    caplog.clear()
    with caplog.at_level("INFO", "gnomon.server"):
        answer = service.client.request(method, API + path, json=json, headers=headers, **named)
        until = time.monotonic() + 10  # the line comes behind the answer
        while not (found := [one for one in caplog.records if hasattr(one, "operation")
                             and one.name == "gnomon.server"]) and time.monotonic() < until:  # fmt: skip
            time.sleep(0.005)
    (line,) = found
    told = f"{line.getMessage()} {vars(line)}"
    assert "secret" not in told and (headers or {}).get("Authorization", "no token") not in told
    assert line.status == answer.status_code
    return line.status, line.project, line.error


def test_a_line_of_the_log_says_which_project_and_what_was_wrong(service, caplog):
    own, every = bearer(project="shop"), bearer(project="*", scope="ingest:any read")
    line = lambda *call, **named: line_of(caplog, service, *call, **named)  # noqa: E731
    event, wrong = {"type": "x"}, {"type": "", "source": "secret"}
    assert line("GET", "/summary", headers=own) == (200, "shop", None)
    assert line("GET", "/summary?project=far", headers=every) == (200, "far", None)
    assert line("POST", "/ingest", event, headers=own) == (200, "shop", None)
    assert line("POST", "/ingest?project=far", event, headers=every) == (200, "far", None)
    assert line("POST", "/ingest", wrong, headers=own) == (422, "shop", "empty-name")
    assert line("POST", "/ingest?project=shop", wrong, headers=own) == (422, "shop", "empty-name")
    assert line("POST", "/query", {"metrics": ["secret"]}, headers=own) == (422, "shop", "unknown-name")
    assert line("GET", "/summary?hours=secret", headers=own) == (422, "shop", "bad-parameter")
    assert line("GET", "/user/secret", headers=own) == (404, "shop", "not-found")
    assert line("GET", "/secret") == (404, None, "not-found")
    assert line("GET", "/admin/keys", headers=own) == (403, "shop", "forbidden")
    assert line("POST", "/ingest", event, headers=bearer(project="shop", scope="read")) == (403, "shop", "forbidden")
    assert line("GET", "/summary?project=secret", headers=own) == (403, "shop", "foreign-project")
    assert line("GET", "/summary?project=secret%00", headers=every) == (422, None, "bad-project")
    assert line("GET", "/summary", headers={"Authorization": "Bearer secret"}) == (401, None, "unauthorized")
    assert line("POST", "/ingest", event, headers={"Authorization": "Bearer secret"}) == (401, None, "unauthorized")


def test_a_call_too_many_says_whose_it_was(caplog):
    with served(rate_limit_per_minute=2) as service:
        for path, body in (("GET", None), ("POST", {"type": "x"})):
            where = "/summary" if body is None else "/ingest"
            found = [line_of(caplog, service, path, where, body, headers=bearer(project="shop", sub=where))
                     for _ in range(3)]  # fmt: skip
            assert found == [(200, "shop", None), (200, "shop", None), (429, "shop", "too-many-calls")]


def test_a_fault_in_a_call_has_its_code_in_the_log_as_well(service, caplog, monkeypatch):
    def broken(_):
        raise RuntimeError("boom")

    monkeypatch.setattr(service.app.state.service.tokens, "caller", broken)
    for method, path in (("GET", "/summary"), ("POST", "/ingest")):
        body = {"type": "x"} if method == "POST" else None
        assert line_of(caplog, service, method, path, body, headers=bearer()) == (500, None, "internal")


def figure(service, name):
    """What /metrics says now."""
    text = service.client.get("/metrics", headers=bearer(scope="admin")).text
    return float(re.search(rf"^{name} (.*)$", text, re.MULTILINE)[1])


@pytest.mark.parametrize(
    ("path", "body"),
    [("/ingest", {"type": "x"}), ("/ingest", {"type": ""}), ("/samples", {"name": "x", "value": 1})],
)
def test_how_long_the_oldest_waits_is_told_while_nothing_is_stored(tmp_path, monkeypatch, path, body):
    """The histogram knows what has arrived, and so says nothing just when it would have to."""

    def refused(*_):
        raise StoreUnavailable("not now")

    with served(tmp_path / "s.duckdb", flush_seconds=0.01) as service:
        engine = service.engine
        engine.flush()
        assert figure(service, "gnomon_journal_waiting_seconds") == 0
        before = figure(service, "gnomon_ingest_to_queryable_seconds_count")
        with monkeypatch.context() as patched:
            patched.setattr(engine._hold.store, "write", refused)
            began = time.time()
            for _ in range(2):
                assert service.post(path, body).status_code in (200, 422)
                time.sleep(0.6)
            waits, most = figure(service, "gnomon_journal_waiting_seconds"), time.time() - began
            assert 1.1 < waits < most and figure(service, "gnomon_journal_behind") >= 2
            assert figure(service, "gnomon_ingest_to_queryable_seconds_count") == before
        engine.flush()
        assert figure(service, "gnomon_journal_waiting_seconds") == figure(service, "gnomon_journal_behind") == 0
