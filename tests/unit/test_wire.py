"""Bodies: measured before they are parsed, and the quick way of a usual batch is the exact one's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.config import Settings
from gnomon.ingest.calls import WireCalls
from gnomon.ingest.intake import Sender, take_events
from gnomon.server import wire
from gnomon.server.names import KnownNames
from gnomon.server.problems import Problem
from gnomon.testing import ManualClock

LIMITS = Settings()


@pytest.fixture(scope="module")
def engine():
    with gnomon.open(":memory:", clock=ManualClock(), sampling=False) as found:
        yield found


TEXTS = st.sampled_from(["a", "", "é", 'q"\\', "{[", "a:b", "\u0000", "x" * 201, "1", "2026-01-15T11:00:00Z", "@"])
PLAIN = st.one_of(TEXTS, st.none(), st.booleans(), st.sampled_from([0, 1, -1, 200, 2**63 - 1, 1.0, 1.5]))
DEEP = st.one_of(PLAIN, st.lists(PLAIN, max_size=2), st.dictionaries(TEXTS, PLAIN, max_size=2))
FIELD = st.sampled_from(["type", "id", "ts", "user_id", "weight", "status_code", "success", "endpoint", "src", "nope"])


def pairs(names, values, most):
    """An object as the text of JSON, in which a key may stand twice."""
    inner = st.lists(st.tuples(names, values), max_size=most)
    return inner.map(lambda found: "{" + ",".join(f"{json.dumps(k)}: {v}" for k, v in found) + "}")


TOLD = PLAIN.map(json.dumps)
PROPERTIES = pairs(TEXTS, st.one_of(TOLD, DEEP.map(json.dumps)), 3)
USUAL = st.fixed_dictionaries(
    {"type": st.sampled_from(["a", "b"])},
    optional={"id": st.sampled_from(["1", "2"]), "user_id": st.sampled_from(["u1", "u2"]),
              "properties": st.dictionaries(st.sampled_from(["k", "l"]), PLAIN, max_size=2), "weight": st.just(1)},
).map(json.dumps)  # fmt: skip
ODD = st.tuples(pairs(FIELD, TOLD, 4), PROPERTIES, st.booleans()).map(
    lambda parts: (
        parts[0][:-1] + ("," if len(parts[0]) > 2 else "") + f'"properties":{parts[1]}' + "}" if parts[2] else parts[0]
    )
)
BODIES = st.lists(st.one_of(USUAL, USUAL, ODD, TOLD), max_size=4).map(lambda all: f"[{' , '.join(all)}]".encode())


def outcome(engine, events, subject):
    known = KnownNames(engine.settings, engine._journal)
    known.vet({"type": "a", "properties": {"k": 1}})
    taken = take_events(engine, events, [Sender(subject, weights=subject is None), known])
    rows = [row[1:2] + row[3:] if len(row[0]) > 30 else row for row in taken.batch.rows]
    return rows, [(one.index, one.code) for one in taken.refused]


@settings(max_examples=300)
@given(BODIES, st.sampled_from([None, "u1"]))
def test_the_quick_way_and_the_exact_one_come_to_the_same(engine, body, subject):
    try:
        events, _ = wire.decoded(body, LIMITS)
    except Problem as error:
        assert error.code in ("bad-json", "too-deep")
        return
    exactly = json.loads(body, object_pairs_hook=wire._object)
    exact = [wire._marked(event) for event in exactly]
    assert outcome(engine, events, subject) == outcome(engine, exact, subject)


def test_a_usual_batch_goes_the_quick_way_and_others_do_not():
    usual = b'[{"type":"a","properties":{"k":1}},{"type":"b","id":"1"}]'
    for body in (usual, b'{"type":"a"}', b' [ { "type" : "a" } ] ', rb'[{"type":"a\"\\","id":"\u0022"}]'):
        assert isinstance(wire.decoded(body, LIMITS)[0], WireCalls), body
    for body in (
        b'[{"type":"a","type":"b"}]',
        b'[{"type":"a","properties":{"k":1,"k":2}}]',
        b'[{"type":"a","id":null}]',
        b'[{"type":"a","nope":1}]',
        b'[{"type":"a","properties":{"k":[]}}]',
        b"[]",
        b"{}",
        b'{"type":"a","weight":1,"weight":2}',
        b'{"type":"a","success":true,"success":false}',
        b'{"type":"a","status_code":200.0}',
    ):
        assert not isinstance(wire.decoded(body, LIMITS)[0], WireCalls), body


@settings(max_examples=200)
@given(
    st.recursive(PLAIN, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)))
)
def test_depth_is_measured_as_it_is(value):
    def depth(one) -> int:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    outside = wire._outside(json.dumps(value).encode())
    for levels in range(5):
        assert wire._deeper(outside, levels) == (depth(value) > levels)


def test_gzip_of_several_members_and_what_is_none():
    import gzip

    whole = gzip.compress(b'[{"type"') + gzip.compress(b':"a"}]')
    assert wire.unpacked(whole, "gzip", LIMITS) == b'[{"type":"a"}]'
    for body in (b"nope", whole[:-1], whole + b"rest", b"\x1f\x8b"):
        with pytest.raises(Problem):
            wire.unpacked(body, "gzip", LIMITS)
    with pytest.raises(Problem) as caught:
        wire.unpacked(gzip.compress(bytes(200)), "gzip", LIMITS.but(max_unpacked_bytes=100))
    assert caught.value.status == 413


@pytest.mark.parametrize("part", [b"{}", b'""', b"1", b'{"a":1,"a":2}', b"[]"])
def test_a_body_of_very_many_values_is_refused_before_it_is_decoded(part, monkeypatch):
    monkeypatch.setattr(wire, "_LIST_DECODER", None)
    monkeypatch.setattr(wire, "_QUICK_DECODER", None)
    with pytest.raises(Problem) as caught:
        wire.decoded(b"[" + (part + b",") * 500_001 + part + b"]", LIMITS)
    assert (caught.value.status, caught.value.code) == (413, "body-too-large")
