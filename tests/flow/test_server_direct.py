"""Ingestion past the framework answers as the framework would, and small bodies that share a batch as alone."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from serving import API, SECRET, bearer

import gnomon
from gnomon.config import Settings
from gnomon.ingest.intake import Sender
from gnomon.server import direct
from gnomon.server import intake as intakes
from gnomon.server.ingest import _Rules

EVENT = {"id": "e1", "type": "page_view", "properties": {"n": 1}}
GOOD = json.dumps(EVENT).encode()
LATER = int(time.time()) + 3_600
LASTING = bearer(exp=LATER)
BODIES = st.sampled_from([
    GOOD, json.dumps([EVENT, {"type": ""}]).encode(), b"[]", b"{}", b'{"type":"a","type":"b"}', b"[1]", b"nope", b"",
    b'{"type":"x","user_id":"other"}', b'{"type":"x","weight":3}', gzip.compress(GOOD), b'{"type":"\xff"}', b"[" * 40,
])  # fmt: skip
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "authorization": st.sampled_from([LASTING["Authorization"], bearer(scope="read", exp=LATER)["Authorization"],
                                          bearer(project="other", exp=LATER)["Authorization"], "Bearer x", "Basic y"]),
        "content-type": st.sampled_from(["application/json", "application/json; charset=utf-8", "text/plain"]),
        "content-encoding": st.sampled_from(["gzip", "br", "identity"]),
        "origin": st.sampled_from(["https://page.example", "https://else.example"]),
        "content-length": st.sampled_from(["-1", "99999999"]),
    },
)  # fmt: skip
PATHS = st.sampled_from(["/ingest", "/samples", "/ingest?project=default", "/ingest?project=other", "/ingest?key=k",
                         "/other"])  # fmt: skip
METHODS = st.sampled_from(["POST", "POST", "POST", "GET", "OPTIONS", "HEAD"])
WHOLE = {"authorization": LASTING["Authorization"], "content-type": "application/json"}


@pytest.fixture(scope="module")
def app():
    given = Settings(jwt_secret_key=(SECRET,), rate_limit_per_minute=100_000, cors_origins=("https://page.example",))
    with gnomon.open(settings=given.but(database_url=":memory:")) as engine:
        yield gnomon.create_app(engine)


def asked(app, method, path, body, headers, root=""):
    async def ask():
        at = httpx.ASGITransport(app=app, root_path=root)
        async with httpx.AsyncClient(transport=at, base_url="http://x") as client:
            return await client.request(method, root + API + path, content=body, headers=headers)

    found = asyncio.run(ask())
    told = {name: value for name, value in found.headers.items() if not name.startswith("ratelimit-r")}
    return found.status_code, found.content, told, "ratelimit-remaining" in found.headers


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METHODS, PATHS, BODIES, HEADERS)
@example("POST", "/ingest", GOOD, WHOLE)
@example("POST", "/ingest", GOOD, {**WHOLE, "origin": "https://page.example"})
def test_the_direct_way_and_that_through_the_framework_answer_alike(app, method, path, body, headers):
    assert asked(app, method, path, body, headers) == asked(app, method, path, body, headers, root="/mounted")


def test_a_call_goes_the_direct_way(app, monkeypatch):
    went = []
    honest = direct.Request
    monkeypatch.setattr(direct, "Request", lambda *given: went.append(1) or honest(*given))
    asked(app, "POST", "/ingest", GOOD, WHOLE)
    asked(app, "POST", "/samples", b"[]", WHOLE)
    assert len(went) == 2
    asked(app, "POST", "/ingest", GOOD, WHOLE, root="/mounted")
    asked(app, "GET", "/ingest", GOOD, WHOLE)
    asked(app, "POST", "/query", b"{}", WHOLE)
    assert len(went) == 2


def test_a_direct_way_that_lets_errors_through_would_be_found(app, monkeypatch):
    monkeypatch.setattr(direct, "GnomonError", ZeroDivisionError)
    with pytest.raises(AssertionError):
        test_the_direct_way_and_that_through_the_framework_answer_alike.hypothesis.inner_test(
            app, "POST", "/ingest", b"nope", WHOLE)  # fmt: skip


# -- small bodies that meet -------------------------------------------------------------------------------------------

SMALL = st.sampled_from([
    {"type": "page_view"}, {"type": "click", "user_id": "u1"}, [{"type": "click"}, {"type": "page_view"}],
    {"type": "x", "user_id": "u2"}, {"type": ""}, {"type": "page_view", "ts": "1999-01-01T00:00:00Z"}, [], "nope",
    [{"type": "page_view"}, {"type": "click", "ts": "1999-01-01T00:00:00Z"}],
])  # fmt: skip


def came_of(service, bodies, subjects=("u1",)):
    """The answers of bodies that one thread takes at once; their senders are these subjects in turn."""

    async def at_once():
        loop = asyncio.get_running_loop()
        rules = [_Rules(service, Sender(subject)) for subject in subjects]
        answers = [loop.create_future() for _ in bodies]
        jobs = [intakes.Job("default", body, "", False, rules[n % len(rules)], loop, answer.set_result)
                for n, (body, answer) in enumerate(zip(bodies, answers, strict=True))]  # fmt: skip
        await asyncio.to_thread(service.intake._work, jobs)
        return await asyncio.wait_for(asyncio.gather(*answers), 60)

    return [
        (one.accepted, [(r.index, r.code) for r in one.refused], one.alone)
        if isinstance(one, intakes.Outcome) else (one.status, one.code)
        for one in asyncio.run(at_once())
    ]  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SMALL, min_size=2, max_size=12), st.sampled_from([("u1",), ("u1", "u2"), (None, "u1", None)]))
def test_bodies_that_share_a_batch_are_answered_as_alone(app, made, subjects):
    service, engine = app.state.service, app.state.service.projects.home
    bodies = [json.dumps(one).encode() for one in made]
    before = engine.books()
    alone = [came_of(service, [body], [subjects[n % len(subjects)]])[0] for n, body in enumerate(bodies)]
    engine.flush()
    between = engine.books()
    together = came_of(service, bodies, subjects)
    engine.flush()
    after = engine.books()
    assert together == alone
    for name in ("received", "stored"):
        assert getattr(after, name) - getattr(between, name) == getattr(between, name) - getattr(before, name)
    assert after.rejected - between.rejected == between.rejected - before.rejected
    assert after.closes()


def test_good_small_bodies_share_a_batch_and_one_bad_event_parts_them(app, monkeypatch):
    service, kept = app.state.service, []
    honest = intakes.keep
    monkeypatch.setattr(intakes, "keep", lambda taken: kept.append(len(taken)) or honest(taken))
    good, bad = b'{"type":"page_view"}', b'{"type":"page_view","ts":"1999-01-01T00:00:00Z"}'
    came_of(service, [good])
    assert came_of(service, [good] * 3) == [(1, [], True)] * 3
    came_of(service, [good, bad, good])
    assert kept == [1, 1, 3]


def test_sharing_that_forgets_a_refusal_would_be_found(app, monkeypatch):
    same = test_bodies_that_share_a_batch_are_answered_as_alone.hypothesis.inner_test
    for name, subjects in (("gathered", ["u1"]), ("take_together", ["u1", "u2"])):
        honest = getattr(intakes, name)
        with monkeypatch.context() as broken:
            broken.setattr(intakes, name, lambda *given, honest=honest: honest(*given[:-1], given[-1][:1]))
            with pytest.raises(AssertionError):
                same(app, [{"type": "page_view"}] * 3, subjects)
