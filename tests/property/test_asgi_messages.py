"""Any run of ASGI messages goes through the middleware unchanged and in order, and leaves exactly one event.

The oracle is the same application without the middleware: what the server is sent, what the application is told and
how it ends must be equal. What the event says is worked out again here from the messages alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gnomon.instrument.asgi import NOTES, RecordingMiddleware

BODIES = st.binary(max_size=20)
ODD = st.sampled_from(
    [
        {},
        {"type": "what.ever"},
        {"type": "http.response.start"},
        {"type": None, "body": 7},
        {"type": "http.response.body", "body": 5},
        {"type": "http.response.start", "status": "x"},
    ]
)
START = st.fixed_dictionaries(
    {"type": st.just("http.response.start"), "status": st.sampled_from([200, 204, 302, 404, 500, 503]),
     "headers": st.just([(b"a", b"b")])})  # fmt: skip
BODY = st.fixed_dictionaries(
    {"type": st.just("http.response.body")}, optional={"body": BODIES, "more_body": st.booleans()}
)
SENT = st.one_of(START, BODY, BODY, ODD)
COMING = st.one_of(
    st.fixed_dictionaries({"type": st.just("http.request")}, optional={"body": BODIES, "more_body": st.booleans()}),
    st.just({"type": "http.disconnect"}), ODD)  # fmt: skip
FRAME = st.one_of(st.fixed_dictionaries({"text": st.text(max_size=9)}), st.fixed_dictionaries({"bytes": BODIES}))
WS_SENT = st.one_of(
    st.just({"type": "websocket.accept"}), FRAME.map(lambda frame: {"type": "websocket.send", **frame}),
    st.sampled_from([{"type": "websocket.close"}, {"type": "websocket.close", "code": 4000}]),
    st.just({"type": "websocket.http.response.start", "status": 401, "headers": []}),
    st.just({"type": "websocket.http.response.body", "body": b"no"}), ODD)  # fmt: skip
WS_COMING = st.one_of(
    st.just({"type": "websocket.connect"}), FRAME.map(lambda frame: {"type": "websocket.receive", **frame}),
    st.just({"type": "websocket.disconnect", "code": 1001}), ODD)  # fmt: skip


class Failure(Exception):
    pass


class Stopped(BaseException):
    """As other event loops cancel."""


ENDS = st.sampled_from([None, Failure, asyncio.CancelledError, Stopped, OSError])


def steps_of(sent, coming):
    return st.lists(st.one_of(sent.map(lambda m: ("send", m)), coming.map(lambda m: ("receive", m))), max_size=8)


class Engine:
    def __init__(self):
        self.records = []

    def record_request(self, **fields):
        self.records.append(fields)


def play(steps, end, breaks_at, kind, wrap):
    """Run an application that takes these steps; everything that both sides saw, as they saw it."""
    seen = []
    coming = iter([message for step, message in steps if step == "receive"])

    async def app(scope, receive, send):
        for step, message in steps:
            if step == "send":
                await send(message)
            else:
                seen.append(("told", await receive()))
        if end is not None:
            raise end("the end")

    async def receive():
        return next(coming)

    async def send(message):
        seen.append(("sent", message, dict(message)))
        if sum(entry[0] == "sent" for entry in seen) == breaks_at:
            raise OSError("gone")

    scope = {"type": kind, "method": "GET", "path": "/x", "headers": []}
    try:
        asyncio.run(wrap(app)(scope, receive, send))
    except (Failure, Stopped, OSError, asyncio.CancelledError) as error:
        seen.append(("raised", type(error), str(error)))
    scope.pop(NOTES, None)
    assert scope == {"type": kind, "method": "GET", "path": "/x", "headers": []}
    return seen


def same(steps, end, breaks_at, kind):
    engine = Engine()
    middleware = []

    def wrap(app):
        middleware.append(RecordingMiddleware(app, engine))
        return middleware[0]

    bare, recorded = (play(steps, end, breaks_at, kind, each) for each in (lambda app: app, wrap))
    assert bare == recorded
    for one, other in zip(bare, recorded, strict=True):
        assert one[0] == "raised" or one[1] is other[1]  # the very objects
    assert len(engine.records) == 1
    assert set(middleware[0].faults) <= {"message"}
    return bare, engine.records[0]


@given(steps_of(SENT, COMING), ENDS, st.integers(0, 6))
def test_http_messages_pass_unchanged_and_leave_one_event(steps, end, breaks_at):
    seen, event = same(steps, end, breaks_at, "http")
    assert event["type"] == "request" and event["endpoint"] == "(unmatched)" and event["duration_ms"] >= 0
    sent = [entry[1] for entry in seen if entry[0] == "sent"]
    left = any(entry[0] == "told" and entry[1].get("type") == "http.disconnect" for entry in seen)
    raised = next((entry[1] for entry in seen if entry[0] == "raised"), None)
    if breaks_at and len(sent) == breaks_at:
        sent.pop()  # did not arrive
    status, size, done = None, 0, False
    for message in sent:
        kind = message.get("type")
        if kind == "http.response.start" and isinstance(message.get("status"), int) and status is None:
            status = message["status"]
        if kind == "http.response.body" and status is not None and not done and message.get("body") != 5:
            size += len(message.get("body", b""))
            done = not message.get("more_body")
    assert event["bytes_sent"] == size
    if status is not None and not (done and status < 500):
        assert event["status_code"] in ((status, 499) if left else (status,))
    if done and status is not None and status < 500 and event["error_code"] is None:
        assert event["status_code"] == status and event["success"] is None
    if status is None and raised is Failure and event["error_code"] != "client-disconnected":
        assert (event["status_code"], event["error_code"], event["success"]) == (500, "failure", False)
    if raised is Stopped and not done:
        assert event["error_code"] in ("cancelled", "client-disconnected")
    if status is None and raised is None and event["error_code"] != "client-disconnected":
        assert (event["status_code"], event["error_code"]) == (500, "no-response")


@given(steps_of(WS_SENT, WS_COMING), ENDS, st.integers(0, 6))
def test_websocket_messages_pass_unchanged_and_leave_one_event(steps, end, breaks_at):
    seen, event = same(steps, end, breaks_at, "websocket")
    assert event["type"] == "websocket" and event["method"] is None
    assert event["status_code"] in (101, 401, 403, 499, 500)
    accepted = any(entry[0] == "sent" and entry[1].get("type") == "websocket.accept" for entry in seen)
    assert accepted or event["status_code"] != 101


@given(steps_of(SENT, COMING), ENDS)
def test_a_scope_that_cannot_be_recorded_is_answered_all_the_same(steps, end):
    """No path, no method, notes of another kind: the application is the one to judge its scope."""

    async def app(scope, receive, send):
        for step, message in steps:
            if step == "send":
                await send(message)

    async def once(scope):
        sent = []

        async def send(message):
            sent.append(message)

        engine = Engine()
        middleware = RecordingMiddleware(app, engine, faults=Counter())
        await middleware(scope, None, send)
        assert sent == [message for step, message in steps if step == "send"]
        return len(engine.records) + middleware.faults.total()

    for scope in ({"type": "http"}, {"type": "http", "path": None}, {"type": "http", "path": "/", NOTES: 7}):
        assert asyncio.run(once(scope)) >= 1
