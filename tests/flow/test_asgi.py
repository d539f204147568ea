"""The ASGI middleware around FastAPI, Starlette and bare applications: one true event a request, nothing changed."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocketDisconnect

from gnomon.instrument.asgi import NOTES, RecordingMiddleware
from gnomon.testing import strict_engine
from recorded import Engine


class Taking(Engine):
    """Each record is looked at once."""

    @property
    def only(self):
        found = super().only
        self.records.clear()
        return found


@pytest.fixture
def engine():
    return Taking()


def call(app, method, path, *, root_path="", raise_app_exceptions=True, **more):
    async def once():
        transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
            return await client.request(method, path, **more)

    return asyncio.run(once())


# --- route templates


async def plain(request):
    return PlainTextResponse("plain")


async def bare(scope, receive, send):
    await PlainTextResponse("bare")(scope, receive, send)


def site(tmp_path):
    inner = APIRouter(prefix="/deep")
    inner.get("/x/{name}")(lambda name: name)
    outer = APIRouter(prefix="/v1")
    outer.get("/items/{item_id}")(lambda item_id: item_id)
    outer.add_route("/plain/{n:int}", plain)
    outer.include_router(inner)
    sub = FastAPI()
    sub.get("/s/{q}")(lambda q: q)
    sub.include_router(outer, prefix="/again")
    star = Starlette(routes=[Route("/p/{n:int}", plain), Mount("/t/{tenant}", routes=[Route("/z/{k}", plain)])])
    app = FastAPI()
    app.include_router(outer, prefix="/api")
    app.include_router(outer, prefix="/old")
    app.mount("/sub", sub)
    app.mount("/wrapped", CORSMiddleware(star, allow_origins=["*"]))
    app.mount("/m/{tenant:int}", sub)
    (tmp_path / "a.txt").write_text("hello")
    app.mount("/files", StaticFiles(directory=tmp_path))
    app.mount("/bare", bare)
    return app


PLACES = {
    "/api/v1/items/3": "/api/v1/items/{item_id}",
    "/old/v1/items/3": "/old/v1/items/{item_id}",
    "/api/plain/7": "/api/plain/{n}",
    "/api/v1/deep/x/secret": "/api/v1/deep/x/{name}",
    "/sub/s/1": "/sub/s/{q}",
    "/sub/again/v1/items/4": "/sub/again/v1/items/{item_id}",
    "/wrapped/p/3": "/wrapped/p/{n}",
    "/wrapped/t/007/z/8": "/wrapped/t/{tenant}/z/{k}",
    "/m/0099/s/1": "/m/{tenant}/s/{q}",
    "/files/a.txt": "/files/{path}",
    "/files/none.txt": "/files/{path}",
    "/bare/what/ever": "/bare/{path}",
    "/openapi.json": "/openapi.json",
    "/.env": "(unmatched)",
    "/sub/.env": "(unmatched)",
    "/m/5/.env": "(unmatched)",
    "/wrapped/.env": "(unmatched)",
    "/wrapped/p/abc": "(unmatched)",
    "/m/notanumber/s/1": "(unmatched)",
}


@pytest.mark.parametrize("root_path", ["", "/behind/proxy"])
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "as middleware"])
def test_the_endpoint_is_the_whole_template_and_never_the_path(engine, tmp_path, outside, root_path):
    app = site(tmp_path)
    if outside:
        app = RecordingMiddleware(app, engine)
    else:
        app.add_middleware(RecordingMiddleware, engine=engine)
    for path, template in PLACES.items():
        call(app, "GET", root_path + path, root_path=root_path)
        assert engine.only["endpoint"] == template, path
    call(app, "DELETE", f"{root_path}/api/v1/items/3", root_path=root_path)
    assert (engine.records[0]["endpoint"], engine.only["status_code"]) == ("/api/v1/items/{item_id}", 405)


def test_any_number_of_paths_is_a_handful_of_endpoints(engine, tmp_path):
    app = RecordingMiddleware(site(tmp_path), engine)
    for n in range(60):
        for start in ("/", "/sub/", "/m/1/", "/wrapped/t/", "/api/v1/items/", "/files/"):
            call(app, "GET", f"{start}{uuid.uuid4()}{n}")
    assert {fields["endpoint"] for fields in engine.records} == {
        "(unmatched)", "/api/v1/items/{item_id}", "/files/{path}",
    }  # fmt: skip


def test_an_answer_given_before_routing_has_the_route_it_was_for(engine):
    async def refuse(request, call_next):
        return PlainTextResponse("no", 401)

    app = FastAPI()
    app.get("/items/{n}")(lambda n: n)
    app.add_middleware(BaseHTTPMiddleware, dispatch=refuse)
    app.add_middleware(RecordingMiddleware, engine=engine)
    call(app, "GET", "/items/4")
    assert engine.only["endpoint"] == "/items/{n}"
    call(app, "GET", "/else/4")
    assert engine.only["endpoint"] == "(unmatched)"


def test_a_route_added_later_is_found(engine, monkeypatch):
    app = FastAPI()
    app.get("/a/{n}")(lambda n: n)
    recording = RecordingMiddleware(app, engine)
    call(recording, "GET", "/a/1")
    app.get("/b/{n}")(lambda n: n)
    monkeypatch.setattr("gnomon.instrument.routes._RETRY_SECONDS", -1.0)
    call(recording, "GET", "/b/1")
    assert [fields["endpoint"] for fields in engine.records] == ["/a/{n}", "/b/{n}"]


# --- what is recorded


def test_sizes_status_method_and_time(engine):
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request):
        await asyncio.sleep(0.03)
        return PlainTextResponse(await request.body(), 201)

    recording = RecordingMiddleware(app, engine, application="site", source="web")
    answer = call(recording, "POST", "/echo", content=b"x" * 70_000)
    assert (answer.status_code, len(answer.content)) == (201, 70_000)
    fields = engine.only
    assert fields["status_code"] == 201 and fields["method"] == "POST" and fields["type"] == "request"
    assert fields["bytes_sent"] == fields["bytes_received"] == 70_000
    assert (fields["application"], fields["source"]) == ("site", "web")
    assert 30 <= fields["duration_ms"] < 5_000
    assert fields["success"] is None and fields["error_code"] is None
    call(recording, "BREW", "/echo")
    assert engine.only["method"] == "(other)"


def test_head_sends_no_body(engine):
    app = Starlette(routes=[Route("/a", plain)])
    call(RecordingMiddleware(app, engine), "HEAD", "/a")
    assert engine.only["bytes_sent"] == 0


def test_a_stream_counts_to_its_last_byte_and_background_work_does_not(engine):
    app = FastAPI()
    order = []

    @app.get("/stream")
    async def stream(later: BackgroundTasks):
        async def parts():
            for _ in range(4):
                await asyncio.sleep(0.02)
                yield b"y" * 1_000

        async def work():
            order.append(len(engine.records))
            await asyncio.sleep(3)

        later.add_task(work)
        return StreamingResponse(parts(), background=later)

    @app.get("/down")
    async def down(later: BackgroundTasks):
        later.add_task(asyncio.sleep, 3)
        return PlainTextResponse("down", 503, background=later)

    call(RecordingMiddleware(app, engine), "GET", "/down")
    assert engine.only["duration_ms"] < 2_500
    call(RecordingMiddleware(app, engine), "GET", "/stream")
    assert order == [1]  # recorded when the last byte was sent, before the task began
    assert 80 <= engine.records[0]["duration_ms"] < 2_500 and engine.only["bytes_sent"] == 4_000


@pytest.mark.parametrize("outside", [True, False], ids=["outside", "as middleware"])
def test_an_exception_is_a_500_with_its_class_and_goes_on(engine, outside):
    class OutOfStock(Exception):
        pass

    app = FastAPI()

    @app.get("/buy")
    def buy():
        raise OutOfStock("a secret text")

    @app.get("/teapot")
    def teapot():
        raise HTTPException(418)

    served = RecordingMiddleware(app, engine) if outside else app
    if not outside:
        app.add_middleware(RecordingMiddleware, engine=engine)
    with pytest.raises(OutOfStock):
        call(served, "GET", "/buy")
    assert call(served, "GET", "/buy", raise_app_exceptions=False).status_code == 500
    for fields in engine.records:
        assert (fields["status_code"], fields["error_code"], fields["success"]) == (500, "out-of-stock", False)
        assert fields["endpoint"] == "/buy" and "secret" not in repr(fields)
    assert len(engine.records) == 2
    engine.records.clear()
    assert call(served, "GET", "/teapot").status_code == 418
    assert (engine.records[0]["status_code"], engine.only["error_code"]) == (418, None)


def test_a_stream_that_breaks_off_failed(engine):
    async def parts():
        yield b"one"
        raise ValueError("broken")

    async def broken(request):
        return StreamingResponse(parts())

    app = RecordingMiddleware(Starlette(routes=[Route("/b", broken)]), engine)
    with pytest.raises(ValueError):
        call(app, "GET", "/b")
    fields = engine.only
    assert (fields["status_code"], fields["success"], fields["error_code"]) == (200, False, "value-error")
    assert fields["bytes_sent"] == 3


def test_two_middlewares_of_one_engine_record_once(engine):
    sub = FastAPI()
    sub.get("/x")(lambda: 1)
    sub.add_middleware(RecordingMiddleware, engine=engine)
    app = FastAPI()
    app.mount("/sub", sub)
    other = Engine()
    call(RecordingMiddleware(RecordingMiddleware(app, engine), other), "GET", "/sub/x")
    assert engine.only["endpoint"] == other.only["endpoint"] == "/sub/x"


# --- who, what kind, what not


class Tokens(AuthenticationBackend):
    async def authenticate(self, conn):
        if conn.headers.get("authorization") == "right":
            return AuthCredentials(), SimpleUser("alice")
        return None


def test_the_user_is_whom_the_application_verified_never_a_header(engine):
    app = Starlette(routes=[Route("/a", plain)], middleware=[Middleware(AuthenticationMiddleware, backend=Tokens())])
    recording = RecordingMiddleware(app, engine)
    call(recording, "GET", "/a", headers={"authorization": "right"})
    assert engine.only["user_id"] == "alice"
    call(recording, "GET", "/a", headers={"X-User-Id": "mallory", "authorization": "wrong", "user": "mallory"})
    assert engine.only["user_id"] is None
    named = RecordingMiddleware(app, engine, user=lambda scope: scope["user"].display_name.upper())
    call(named, "GET", "/a", headers={"authorization": "right"})
    assert engine.only["user_id"] == "ALICE"


def test_the_user_of_the_state_and_of_the_notes(engine):
    app = FastAPI()
    someone = uuid.uuid4()

    def signed_in(request: Request):
        request.state.user_id = someone

    @app.get("/state", dependencies=[Depends(signed_in)])
    def state():
        return 1

    @app.get("/notes")
    def notes(request: Request):
        request.scope[NOTES].update(user_id=17, endpoint="/named", properties={"plan": "pro"})

    recording = RecordingMiddleware(
        app, engine, device=lambda scope: "d1", session=lambda scope: "s1", properties=lambda scope: {"a": 1}
    )
    call(recording, "GET", "/state")
    assert (engine.records[0]["user_id"], engine.only["properties"]) == (str(someone), {"a": 1})
    call(recording, "GET", "/notes")
    fields = engine.only
    assert (fields["user_id"], fields["device_id"], fields["session_id"]) == ("17", "d1", "s1")
    assert (fields["endpoint"], fields["properties"]) == ("/named", {"a": 1, "plan": "pro"})


def test_an_id_that_does_not_fit_leaves_the_request_in(engine):
    app = Starlette(routes=[Route("/a", plain)])
    odd = ["x" * 201, "", "nul\x00", "\ud800", "é" * 150, b"bytes", True]
    recording = RecordingMiddleware(app, engine, device=lambda scope: odd[len(engine.records)])
    for _ in odd:
        call(recording, "GET", "/a")
    assert [fields["device_id"] for fields in engine.records] == [None] * len(odd)
    assert recording.faults == Counter(device=len(odd))


def test_types_by_route_by_method_and_by_callable(engine):
    app = FastAPI()
    app.api_route("/checkout/{n}", methods=["GET", "POST"])(lambda n: n)
    app.get("/a")(lambda: 1)
    recording = RecordingMiddleware(app, engine, types={"POST /checkout/{n}": "purchase", "/a": "look"})
    for method, path in (("GET", "/checkout/1"), ("POST", "/checkout/1"), ("GET", "/a")):
        call(recording, method, path)
    assert [fields["type"] for fields in engine.records] == ["request", "purchase", "look"]
    engine.records.clear()
    told = RecordingMiddleware(app, engine, types=lambda scope: "look" if scope["path"] == "/a" else None)
    call(told, "GET", "/a")
    call(told, "GET", "/checkout/1")
    assert [fields["type"] for fields in engine.records] == ["look", "request"]


def test_exclusions_by_path_prefix_and_callable(engine):
    app = Starlette(routes=[Route("/{path:path}", plain)])
    recording = RecordingMiddleware(app, engine, exclude=["/health", "/static/*"])
    for path in ("/health", "/static/a.css", "/healthy", "/static"):
        assert call(recording, "GET", path).text == "plain"
    assert len(engine.records) == 2
    call(recording, "GET", "/proxy/health", root_path="/proxy")
    assert len(engine.records) == 2
    by_call = RecordingMiddleware(app, engine, exclude=lambda scope: scope["method"] == "OPTIONS")
    call(by_call, "OPTIONS", "/x")
    assert len(engine.records) == 2


def test_no_fault_of_recording_reaches_the_answer(engine):
    def broken(scope):
        raise RuntimeError("no")

    app = Starlette(routes=[Route("/a", plain)])
    recording = RecordingMiddleware(app, engine, user=broken, device=broken, session=broken, properties=broken,
                                    types=broken, exclude=broken)  # fmt: skip
    assert call(recording, "GET", "/a").text == "plain"
    assert engine.only["endpoint"] == "/a"
    assert recording.faults == Counter(user=1, device=1, session=1, properties=1, types=1, exclude=1)

    class Broken:
        def record_request(self, **fields):
            raise RuntimeError("no")

    faults = Counter()
    told = Starlette(routes=[Route("/a", plain)])
    told.add_middleware(RecordingMiddleware, engine=Broken(), faults=faults)
    assert call(told, "GET", "/a").text == "plain"
    assert faults == Counter(record=1)


# --- WebSockets, lifespan


def sockets():
    async def echo(websocket: WebSocket):
        await websocket.accept()
        try:
            while True:
                text = await websocket.receive_text()
                if text == "stop":
                    await websocket.close(4001)
                    return
                if text == "fail":
                    raise LookupError("failed")
                await websocket.send_text(text * 2)
        except WebSocketDisconnect:
            await asyncio.sleep(3)

    async def closed(websocket: WebSocket):
        await websocket.close()

    return Starlette(routes=[WebSocketRoute("/echo/{room}", echo), WebSocketRoute("/closed", closed)])


def converse(app, path, *said):
    """Send texts over a WebSocket, then close it from this side; returns what came back."""
    to_come = [{"type": "websocket.connect"}, *({"type": "websocket.receive", "text": text} for text in said)]
    to_come.append({"type": "websocket.disconnect", "code": 1000})
    back = []

    async def once():
        coming = iter(to_come)

        async def receive():
            return next(coming)

        async def send(message):
            back.append(message)

        await app({"type": "websocket", "path": path, "query_string": b"", "headers": []}, receive, send)

    asyncio.run(once())
    return back


def test_a_websocket_is_one_event_with_its_bytes_and_close_code(engine):
    app = RecordingMiddleware(sockets(), engine)
    back = converse(app, "/echo/7", "häl", "x")
    assert [message.get("text") for message in back] == [None, "hälhäl", "xx"]
    fields = engine.only
    assert (fields["type"], fields["endpoint"], fields["status_code"]) == ("websocket", "/echo/{room}", 101)
    assert (fields["bytes_received"], fields["bytes_sent"]) == (5, 10)
    assert fields["properties"] == {"close_code": 1000} and fields["duration_ms"] < 2_500
    converse(app, "/echo/7", "stop")
    assert engine.only["properties"] == {"close_code": 4001}
    with pytest.raises(LookupError):
        converse(app, "/echo/7", "fail")
    assert (engine.records[0]["error_code"], engine.only["success"]) == ("lookup-error", False)
    converse(app, "/closed")
    assert engine.only["status_code"] == 403
    back = []

    async def waits(scope, receive, send):
        while (await receive())["type"] != "websocket.disconnect":
            back.append(1)

    converse(RecordingMiddleware(waits, engine), "/left")
    assert (engine.records[0]["status_code"], engine.only["error_code"]) == (499, "client-disconnected")
    converse(app, "/none")
    assert (engine.records[0]["status_code"], engine.only["endpoint"]) == (403, "(unmatched)")


def test_websockets_of_fastapi_have_their_template(engine):
    async def talk(websocket: WebSocket, room: str):
        await websocket.accept()
        await websocket.receive_text()
        await websocket.close()

    router = APIRouter(prefix="/v1")
    router.websocket("/rooms/{room}")(talk)
    sub = FastAPI()
    sub.include_router(router, prefix="/again")
    app = FastAPI()
    app.include_router(router, prefix="/api")
    app.mount("/sub", sub)
    app.add_middleware(RecordingMiddleware, engine=engine)
    for path, template in (("/api/v1/rooms/7", "/api/v1/rooms/{room}"),
                           ("/sub/again/v1/rooms/8", "/sub/again/v1/rooms/{room}")):  # fmt: skip
        converse(app, path, "hello")
        assert (engine.records[0]["endpoint"], engine.only["status_code"]) == (template, 101)


def test_lifespan_goes_through_and_its_end_makes_durable(engine):
    seen = []
    engine.flush = lambda timeout: seen.append("flushed")

    async def app(scope, receive, send):
        assert NOTES not in scope
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def once():
        coming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(coming)

        async def send(message):
            seen.append(message)

        await RecordingMiddleware(app, engine)({"type": "lifespan"}, receive, send)

    asyncio.run(once())
    assert seen == [{"type": "lifespan.startup.complete"}, "flushed", {"type": "lifespan.shutdown.complete"}]
    engine.flush = lambda timeout: 1 / 0
    asyncio.run(once())
    assert seen[-1] == {"type": "lifespan.shutdown.complete"} and engine.records == []


def test_what_is_recorded_passes_the_gate_and_answers_questions(tmp_path):
    with strict_engine() as engine:
        app = RecordingMiddleware(site(tmp_path), engine, application="site")
        for path in PLACES:
            call(app, "GET", path)
        engine.flush()
        found = engine.query(["requests", "failures"], ["endpoint"], "24h").to_dicts()
        assert {row["endpoint"] for row in found} == set(PLACES.values())
        assert sum(row["requests"] for row in found) == len(PLACES)
        assert app.faults == Counter()
