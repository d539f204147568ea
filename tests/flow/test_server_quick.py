"""Small bodies that go straight from their connection are answered, counted and kept as those that go the usual way."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from serving import API, bearer, served

from gnomon.server import quick

EVENT = {"type": "page_view", "properties": {"n": 1}}
GOOD = json.dumps(EVENT).encode()
TOKENS = [bearer(exp=int(time.time()) + 3_600, **claims)["Authorization"] for claims in (
    {}, {"scope": "read"}, {"scope": "ingest:any"}, {"project": "other"}, {"project": "*", "sub": "x"})]  # fmt: skip
BODIES = st.sampled_from([
    GOOD, json.dumps([EVENT, {"type": ""}]).encode(), b"[]", b"{}", b'{"type":"a","type":"b"}', b"[1]", b"nope", b"",
    b'{"type":"x","user_id":"other"}', b'{"type":"x","weight":3}', gzip.compress(GOOD), b'{"type":"\xff"}', b"[" * 40,
    json.dumps([EVENT] * 1_001).encode(), b'{"name":"queue","value":1}', b" " * 3_000,
])  # fmt: skip
HEADERS = st.fixed_dictionaries(
    {"authorization": st.sampled_from([TOKENS[0], *TOKENS, "Bearer x", "Basic y", ""]),
     "content-type": st.sampled_from(["application/json"] * 4 + ["application/json; charset=utf-8", "text/plain", ""])},
    optional={
        "content-encoding": st.sampled_from(["gzip", "br", "identity"]), "x-gnomon-key": st.just("gwk_aaaa_b"),
        "origin": st.sampled_from(["https://page.example", "https://else.example"]), "expect": st.just("100-continue"),
        "connection": st.sampled_from(["close", "keep-alive", "upgrade"]), "transfer-encoding": st.just("chunked"),
    },
)  # fmt: skip
PATHS = st.sampled_from(["/ingest"] * 4 + ["/samples", "/ingest?project=other", "/ingest/", "/%69ngest", "/nowhere"])
METHODS = st.sampled_from(["POST"] * 6 + ["GET", "OPTIONS", "HEAD"])
CHANGING = re.compile(rb"(date|ratelimit-remaining|ratelimit-reset): [^\r]*\r\n")


@pytest.fixture(scope="module", params=[0, 100_000])
def service(request):
    with pytest.MonkeyPatch.context() as still:
        still.setattr("gnomon.server.service.TICK_SECONDS", 600.0)  # it lets go of old figures between two looks
        yield from serving_at(request.param)


def serving_at(limit):
    with served(rate_limit_per_minute=limit, cors_origins=("https://page.example",)) as found:
        yield found


def sent(method, path, version, headers, body):
    chunked = "transfer-encoding" in headers
    headers = {**headers, "host": "x", **({} if chunked else {"content-length": len(body)})}
    lines = [f"{method} {API}{path} HTTP/{version}", *(f"{name}: {value}" for name, value in headers.items() if value)]
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked and body else b"0\r\n\r\n" if chunked else body
    return "\r\n".join([*lines, "", ""]).encode() + framed


def came(service, *parts):
    """Everything that comes back until the service closes, which a last call asks it to."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as link:
        link.settimeout(20)
        found = b""
        for part in parts:
            link.sendall(part)
        link.sendall(b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        try:
            while part := link.recv(65_536):
                found += part
        except ConnectionResetError:  # it closed before the last call was read
            pass
    return CHANGING.sub(b"", found)


def told(service):
    """What the service counts: answers, and the sums of its audit."""
    sums = {key: (s.calls, s.accepted, s.rejected) for key, s in service.app.state.service.sums._sums.items()}
    return dict(service.app.state.service.figures.answers), sums


def both_ways(service, *parts):
    """The answers of the quick way and of the usual one, and what each added to the counts."""
    found = []
    for way in (service.app.state.quick, None):
        before, service.app.state.quick = service.app.state.quick, way
        try:
            counted = told(service)
            answer = came(service, *parts)
            found.append((answer, added(counted[0], told(service)[0]), added(counted[1], told(service)[1])))
        finally:
            service.app.state.quick = before
    settled(service)
    return found


def settled(service):
    """Wait until no body is on its way; what it had reserved is free again."""
    until = time.monotonic() + 20
    while service.app.state.service.intake.in_flight and time.monotonic() < until:
        time.sleep(0.005)
    assert service.app.state.service.intake.in_flight == 0


def added(before, after):
    def less(one, other):
        return tuple(a - b for a, b in zip(one, other, strict=True)) if isinstance(one, tuple) else one - other

    nothing = {key: (0, 0, 0) if isinstance(value, tuple) else 0 for key, value in after.items()}
    return {k: less(v, before.get(k, nothing[k])) for k, v in after.items() if v != before.get(k, nothing[k])}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METHODS, PATHS, st.sampled_from(["1.1", "1.1", "1.1", "1.0"]), HEADERS, BODIES)
@example("POST", "/ingest", "1.1", {"authorization": TOKENS[0], "content-type": "application/json"}, GOOD)
@example("POST", "/ingest", "1.1", {"authorization": TOKENS[1], "content-type": "application/json"}, GOOD)
@example("POST", "/ingest", "1.0", {"authorization": TOKENS[0], "content-type": "application/json"}, GOOD)
def test_the_quick_way_answers_and_counts_as_the_usual_one(service, method, path, version, headers, body):
    quick_way, usual = both_ways(service, sent(method, path, version, headers, body))
    assert quick_way == usual and quick_way[0].startswith(b"HTTP/1.1 ")


WHOLE = {"authorization": TOKENS[0], "content-type": "application/json"}


def test_calls_in_one_piece_in_parts_and_behind_each_other(service):
    one, bad = sent("POST", "/ingest", "1.1", WHOLE, GOOD), sent("POST", "/ingest", "1.1", WHOLE, b"nope")
    for parts in ([one + bad + one], [one[:-5], one[-5:]], [one + bad[:40], bad[40:] + one]):
        quick_way, usual = both_ways(service, *parts)
        assert quick_way == usual
    assert quick_way[0].count(b"HTTP/1.1 200") == 2 and b"HTTP/1.1 400" in quick_way[0]


def test_room_is_given_back_for_a_call_whose_connection_ends_meanwhile(service):
    assert b"HTTP/1.1 400" in came(service, sent("POST", "/ingest", "1.1", WHOLE, GOOD), b"nonsense\r\n\r\n")
    settled(service)


def test_a_call_goes_the_quick_way_and_a_fault_in_it_is_an_answer(service, monkeypatch):
    def fault(_outcome):
        raise ZeroDivisionError

    monkeypatch.setattr(quick, "answer_of", fault)
    quick._accepted.cache_clear()
    answer = came(service, sent("POST", "/ingest", "1.1", WHOLE, GOOD))
    assert answer.startswith(b"HTTP/1.1 500 ") and b"ZeroDivision" not in answer
    assert service.app.state.service.intake.in_flight == 0


def test_who_does_not_read_its_answers_is_waited_for(service, monkeypatch):
    """Answers that nobody reads would pile up in memory: only the usual way waits until they are gone."""
    seen, begin = [], quick.Quick.begin

    def begun(self, cycle, done):
        cycle.more_body = False
        before = self.fits(cycle)
        cycle.flow.write_paused = True
        seen.append((before, self.fits(cycle)))
        cycle.flow.write_paused = False
        begin(self, cycle, done)

    monkeypatch.setattr(quick.Quick, "begin", begun)
    came(
        service, sent("POST", "/ingest", "1.1", {"authorization": TOKENS[0], "content-type": "application/json"}, GOOD)
    )
    assert seen == [(True, False)]


def test_a_quick_way_that_leaves_headers_or_counts_out_would_be_found(service, monkeypatch):
    good = sent("POST", "/ingest", "1.1", WHOLE, GOOD)
    for name in ("dressed", "note"):
        quick._accepted.cache_clear()
        with monkeypatch.context() as broken:
            broken.setattr(quick, name, lambda *given: given[0] if name == "dressed" else None)  # noqa: B023
            quick_way, usual = both_ways(service, good)
            assert quick_way != usual
    quick._accepted.cache_clear()


def test_a_limit_on_calls_holds(tmp_path):
    with served(rate_limit_per_minute=3) as strict:
        answer = came(strict, *[sent("POST", "/ingest", "1.1", WHOLE, GOOD)] * 5)
        assert answer.count(b"HTTP/1.1 200") == 3 and answer.count(b"HTTP/1.1 429") == 2
