"""Bodies that go the quick way become the same rows, and the same refusals, as when each event is looked at."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.ingest.intake import Sender, take_events
from gnomon.server import wire
from gnomon.server.names import KnownNames
from gnomon.server.problems import Problem
from gnomon.testing import ManualClock

NOW = "2026-11-22T10:00:00Z"
values = st.one_of(st.none(), st.booleans(), st.integers(-5, 700), st.floats(-1, 1e9), st.text(max_size=4),
                   st.sampled_from(["u1", "u2", "GET", "https://a:b@x.example/p?q=1", NOW, "x" * 300]),
                   st.lists(st.integers(), max_size=2))  # fmt: skip
likely = {
    "id": st.uuids().map(str), "ts": st.just(NOW), "type": st.sampled_from(["page_view", "click"]),
    "user_id": st.sampled_from(["u1", "u1", "u2"]), "source": st.sampled_from(["web", "a@b"]),
    "endpoint": st.sampled_from(["/p", "/q?token=1"]), "status_code": st.integers(100, 599),
    "duration_ms": st.floats(0, 1e6), "success": st.booleans(),
    "properties": st.dictionaries(st.sampled_from(["plan", "n", "n", "deep"]), st.one_of(
        st.integers(0, 9), st.text(max_size=5), st.dictionaries(st.text(max_size=2), st.integers(0, 3), max_size=2),
        st.just([{"a": 1}, {"a": 2}])), max_size=3),
}  # fmt: skip
good = st.fixed_dictionaries({"type": likely["type"]}, optional={k: v for k, v in likely.items() if k != "type"})
odd = st.fixed_dictionaries(
    {}, optional={**dict.fromkeys([*likely, "weight", "src", "payload", "url", "at_ns"], values)}
)
bodies = st.one_of(good, odd, st.lists(good, max_size=5), st.lists(st.one_of(good, good, odd, values), max_size=5))


@pytest.fixture(scope="module")
def engine():
    with gnomon.open(":memory:", sampling=False, clock=ManualClock(datetime.fromisoformat(NOW))) as found:
        yield found


def known_names(engine):
    """Names of which most are known already, as a batch that brings a new one is looked at event by event."""
    names = KnownNames(engine.settings, engine._hold.journal)
    names._types |= {"page_view", "click", "a", "b"}
    names._keys |= {"plan", "n", "page"}
    return names


def came_of(engine, body, sender):
    """`(rows without ids that are made here, refusals)`, or the problem of the whole body."""
    try:
        events, _ = wire.decoded(body, engine.settings)
    except Problem as problem:
        return problem.code, problem.status
    taken = take_events(engine, events, [sender, known_names(engine)])
    rows = [row[1:] if made_here(row) else row for row in taken.batch.rows]
    return rows, [(one.index, one.code, one.detail, one.source, one.id) for one in taken.refused]


def made_here(row):
    return row[0][14:15] == "7"  # the version of the UUIDs that are made here; those of the test are of version 4


def agree(engine, content, subject, weights=False):
    """Whether the body went the quick way; it comes to the same without one."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    sender, honest, went = Sender(subject, weights=weights), wire._quickly, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_quickly", lambda *given: went.append(honest(*given)) or went[-1])
        quick = came_of(engine, body, sender)
        patch.setattr(wire, "_quickly", lambda *_: None)
        assert came_of(engine, body, sender) == quick
    return any(calls is not None for calls in went)


@settings(max_examples=300)
@given(bodies, st.sampled_from([None, "u1"]), st.booleans())
@example([{"type": "a", "user_id": ["u1"]}], "u1", False)
@example([{"type": "a", "weight": 4}], None, True)
def test_both_ways_come_to_the_same(engine, content, subject, weights):
    agree(engine, content, subject, weights and subject is None)


@pytest.mark.parametrize("content", [
    b'{"type":"a","type":"b"}', b'[{"type":"a","properties":{"n":1,"n":2}}]',
    b'{"type":"a","properties":{"deep":{"x":1,"x":1}}}', b'[{"type":"a","user_id":null,"type":"b"}]',
])  # fmt: skip
def test_a_key_that_stands_twice_never_goes_the_quick_way(engine, content):
    assert not agree(engine, content, None)


def test_what_a_client_sends_goes_the_quick_way(engine):
    event = {"id": "e1", "ts": NOW, "type": "page_view", "user_id": "u1", "properties": {"page": "/", "n": 1}}
    assert agree(engine, [event, {**event, "id": "e2"}], "u1")
    assert agree(engine, [{"type": "click"}], "u1"), "the user is filled in"
    assert agree(engine, [{"type": "fresh"}, {"type": "click", "user_id": "u2"}], "u1"), "what is refused as well"


def test_a_decoder_that_does_not_count_keys_would_be_found(engine, monkeypatch):
    """The last of two keys would win, and nobody would be told."""
    honest = wire._quotes
    monkeypatch.setattr(wire, "_quotes", lambda body: honest(body) - 2)
    with pytest.raises(AssertionError):
        agree(engine, b'[{"type":"a","properties":{"n":1,"n":2}}]', None)
