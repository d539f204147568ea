"""The WSGI middleware: the same semantics as its ASGI twin, behind a real server and the standard's own validator."""

from __future__ import annotations

import io
import threading
import urllib.error
import urllib.request
import wsgiref.util
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import django
import pytest
from flask import Flask, Response
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from gnomon.instrument.wsgi import NOTES, RecordingMiddleware


class Engine:
    def __init__(self):
        self.records = []

    def record_request(self, **fields):
        self.records.append(fields)

    @property
    def only(self):
        assert len(self.records) == 1, self.records
        return self.records.pop()


@pytest.fixture
def engine():
    return Engine()


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


def get(app, path="/", **headers):
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()
        finally:
            thread.join(10)


def environ(**more):
    found = {}
    wsgiref.util.setup_testing_defaults(found)
    return {**found, "wsgi.errors": io.StringIO(), **more}


def drive(app, take=None, **more):
    """What a server does with an application: start, take parts, close."""
    started = []

    def start_response(status, headers, exc_info=None):
        started.append((status, headers, exc_info))
        return lambda data: None

    parts = app(environ(**more), start_response)
    taken = []
    try:
        for part in parts:
            taken.append(part)
            if take is not None and len(taken) >= take:
                break
    finally:
        if hasattr(parts, "close"):
            parts.close()
    return started, taken


def test_through_a_server_and_the_validator_of_the_standard(engine):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    recording = validator(RecordingMiddleware(validator(app), engine, application="site"))
    status, _, body = get(recording)
    assert (status, body) == (200, b"hello")
    fields = engine.only
    assert (fields["status_code"], fields["bytes_sent"], fields["method"]) == (200, 5, "GET")
    assert (fields["application"], fields["endpoint"], fields["error_code"]) == ("site", "(unmatched)", None)
    assert get(RecordingMiddleware(app, engine))[1]["Content-Length"] == "5"  # as the server does it without us


def test_a_generator_that_starts_late_and_is_closed_once(engine):
    closed = []

    class Parts:
        def __init__(self, start_response):
            self.start_response, self.left = start_response, [b"two", b"one"]

        def __iter__(self):
            return self

        def __next__(self):
            if len(self.left) == 2:
                self.start_response("201 Created", [])
            if not self.left:
                raise StopIteration
            return self.left.pop()

        def close(self):
            closed.append(len(engine.records))

    app = RecordingMiddleware(lambda environ, start_response: Parts(start_response), engine)
    started, taken = drive(app)
    assert (started[0][0], taken, closed) == ("201 Created", [b"one", b"two"], [0])
    assert (engine.records[0]["status_code"], engine.only["bytes_sent"]) == (201, 6)


def test_failures(engine):
    def at_once(environ, start_response):
        raise KeyError("secret")

    def midway(environ, start_response):
        start_response("200 OK", [])
        yield b"one"
        raise ValueError("secret")

    def silent(environ, start_response):
        return []

    def told(environ, start_response):
        start_response("200 OK", [])
        try:
            raise LookupError("secret")
        except LookupError:
            import sys

            start_response("500 Oh", [], sys.exc_info())
        return [b"sorry"]

    for app, code, status in ((at_once, "key-error", 500), (midway, "value-error", 200)):
        with pytest.raises((KeyError, ValueError)):
            drive(RecordingMiddleware(app, engine))
        fields = engine.only
        assert (fields["error_code"], fields["status_code"], fields["success"]) == (code, status, False)
        assert "secret" not in repr(fields)
    drive(RecordingMiddleware(silent, engine))
    assert (engine.records[0]["status_code"], engine.only["error_code"]) == (500, "no-response")
    assert len(drive(RecordingMiddleware(told, engine))[0]) == 2
    assert (engine.records[0]["error_code"], engine.only["status_code"]) == ("lookup-error", 500)


def test_a_client_that_goes_away(engine):
    def app(environ, start_response):
        start_response("200 OK", [])
        return (b"part" for _ in range(10))

    drive(RecordingMiddleware(app, engine), take=3)
    assert (engine.records[0]["error_code"], engine.only["bytes_sent"]) == ("client-disconnected", 12)

    def sized(environ, start_response):
        start_response("200 OK", [("content-length", "8")])
        return (b"part" for _ in range(2))

    drive(RecordingMiddleware(sized, engine), take=2)  # a server need not ask for what cannot come
    assert engine.only["error_code"] is None
    drive(RecordingMiddleware(app, engine), take=1, REQUEST_METHOD="HEAD")
    assert (engine.records[0]["error_code"], engine.only["bytes_sent"]) == (None, 0)


def test_the_write_callable_counts_too(engine):
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"by hand")
        return []

    drive(RecordingMiddleware(app, engine), CONTENT_LENGTH="12")
    assert (engine.records[0]["bytes_sent"], engine.only["bytes_received"]) == (7, 12)


def test_a_file_stays_the_servers_to_send(engine):
    class Wrapper(wsgiref.util.FileWrapper):
        pass

    made = Wrapper(io.BytesIO(b"x" * 50))

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "50")])
        return made

    found = RecordingMiddleware(app, engine)(environ(**{"wsgi.file_wrapper": Wrapper}), lambda *a: None)
    assert found is made
    assert (engine.records[0]["bytes_sent"], engine.only["status_code"]) == (50, 200)


def test_flask_routes_mounts_users_and_exclusions(engine):
    app = Flask("site")
    app.get("/items/<int:n>")(lambda n: str(n))

    @app.get("/fail")
    def fail():
        raise ZeroDivisionError

    @app.get("/named")
    def named():
        from flask import request

        request.environ[NOTES].update(endpoint="/by-hand", properties={"plan": "pro"})
        return Response(iter(["a", "b"]))

    recording = RecordingMiddleware(
        DispatcherMiddleware(app, {"/shop": app}), engine, exclude=["/health", "/static/*"],
        types={"/shop/items/<int:n>": "look"}, device=lambda environ: environ["HTTP_X_DEVICE"],
    )  # fmt: skip
    for path, endpoint in (("/items/3", "/items/<int:n>"), ("/shop/items/4", "/shop/items/<int:n>"),
                           ("/items/x", "(unmatched)"), ("/.env", "(unmatched)"), ("/fail", "/fail"),
                           ("/named", "/by-hand")):  # fmt: skip
        drive(recording, PATH_INFO=path, HTTP_X_DEVICE="d1", REMOTE_USER="alice", HTTP_REMOTE_USER="mallory")
        fields = engine.only
        assert (fields["endpoint"], fields["user_id"], fields["device_id"]) == (endpoint, "alice", "d1")
        assert fields["type"] == ("look" if path == "/shop/items/4" else "request")
        assert fields["status_code"] == (404 if endpoint == "(unmatched)" else 500 if path == "/fail" else 200)
    for path in ("/health", "/static/x"):
        drive(recording, PATH_INFO=path)
    assert engine.records == [] and recording.faults == Counter()
    drive(recording, PATH_INFO="/items/3", HTTP_REMOTE_USER="mallory")
    assert engine.only["user_id"] is None and recording.faults == Counter(device=1)


@pytest.mark.parametrize("place", ["scope", "environ"])
def test_django_tells_its_route_and_the_user_it_has_loaded(place):
    from gnomon.instrument.django import TellRoute

    notes = {}
    request = SimpleNamespace(**{place: {NOTES: notes}}, resolver_match=None)

    def view(request):
        request.resolver_match = SimpleNamespace(route="items/<int:n>/")
        return "answer"

    assert TellRoute(view)(request) == "answer"
    assert notes == {"endpoint": "/items/<int:n>/"}  # nobody asked for the user, so it is not loaded
    kept_by_django = Path(django.__file__).parent / "contrib" / "auth" / "middleware.py"
    assert "    request._cached_user = auth.get_user(request)" in kept_by_django.read_text()
    request._cached_user = SimpleNamespace(is_authenticated=True, pk=7)
    assert TellRoute(view)(request) == "answer"
    assert notes == {"endpoint": "/items/<int:n>/", "user_id": 7}
    bare = SimpleNamespace(**{place: {}}, resolver_match=None)
    assert TellRoute(view)(bare) == "answer"


def test_no_fault_of_recording_reaches_the_answer():
    class Broken:
        def record_request(self, **fields):
            raise RuntimeError

    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"fine"]

    recording = RecordingMiddleware(app, Broken(), exclude=lambda environ: 1 / 0)
    assert drive(recording)[1] == [b"fine"]
    assert recording.faults == Counter(record=1, exclude=1)
