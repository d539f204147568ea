"""What the middleware adds to each answer of a FastAPI application, beside what other middleware adds in the same run.

The application is called as a server calls it, without a socket, so that the figure is not lost in the noise of one.
Every request is timed alone, bare and with each middleware in turns; the engine's threads are alive, a real file is
behind them, and what they take from the request counts. Peers that are not installed are named and left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.figures import Figure, Size
from bench.timing import percentile

TITLE = "Middleware: microseconds added to a request of FastAPI, in process"
App = Callable[..., Any]


def run(size: Size) -> list[Figure]:
    """Requests of all subjects in random turns."""
    try:
        import fastapi  # noqa: F401
    except ImportError:
        return [Figure("FastAPI", None, note="not installed")]
    import gnomon
    from gnomon.config import Settings

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(gnomon.open(folder / "store.duckdb", settings=Settings(sampling=False)))
        subjects, missing = {"bare": site(), "gnomon": recorded(engine)}, []
        for peer in (opentelemetry, prometheus_instrumentator, apitally):
            try:
                subjects[peer.__name__] = peer()
            except ImportError:
                missing.append(Figure(peer.__name__, None, note="not installed"))
        times = asyncio.run(_measure(subjects, size.pick(12_000, 3_000)))
        engine.flush()
        books = engine.books()
    bare = times.pop("bare")
    figures = list(_figures(bare, times))
    told = len(times["gnomon"]) + WARM_UP
    note = "one event a request" if books.received == told and books.closes() else "the books do not agree"
    return [*figures, Figure("events not in the books", told - books.stored, "", 0, note=note), *missing]


WARM_UP = 300


def _figures(bare: list[int], times: dict[str, list[int]]) -> Iterator[Figure]:
    for name, found in times.items():
        own = name == "gnomon"
        for what, q, goal in (("p50", 0.5, 50.0), ("p99", 0.99, 200.0)):
            base = percentile(bare, q) / 1_000
            added = percentile(found, q) / 1_000 - base
            yield Figure(f"{name}: added to {what}", added, "us", goal if own else None, note=f"bare {base:.0f} us")
        added = (sum(found) / len(found) - sum(bare) / len(bare)) / 1_000
        yield Figure(f"{name}: added to the mean", added, "us")


async def _measure(subjects: dict[str, App], rounds: int) -> dict[str, list[int]]:
    """Nanoseconds of every request."""
    found: dict[str, list[int]] = {name: [] for name in subjects}
    draw, order, clock = random.Random(7), list(subjects), time.perf_counter_ns
    assert gc.isenabled()
    for turn in range(-WARM_UP, rounds):
        draw.shuffle(order)
        for name in order:
            scope = _scope(f"/items/{turn & 0xFFFF}")
            app = subjects[name]
            started = clock()
            await app(scope, _receive, _send)
            took = clock() - started
            if turn >= 0:
                found[name].append(took)
        if turn % 50 == 0:
            await asyncio.sleep(0)
    return found


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_message: dict[str, Any]) -> None:
    pass


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"accept", b"*/*"), (b"user-agent", b"bench")],
        "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 80),
    }  # fmt: skip


def site() -> App:
    """A FastAPI application with 40 routes, of which one is called."""
    from fastapi import FastAPI

    app = FastAPI()
    for number in range(39):
        app.get(f"/other{number}/{{key}}")(_answer)

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> dict[str, int]:
        return {"item": item_id}

    return app


async def _answer(key: str) -> str:
    return key


def recorded(engine: Any) -> App:
    """With Gnomon, and a user to look up."""
    from gnomon.instrument.asgi import RecordingMiddleware

    app: Any = site()
    app.add_middleware(RecordingMiddleware, engine=engine, application="bench", user=lambda scope: "u1")
    return app


# -- peers ------------------------------------------------------------------------------------------------------------


def opentelemetry() -> App:
    """Starlette's own middleware with a tracer that keeps every span and sends none."""
    from opentelemetry.sdk.trace import TracerProvider
    from starlette.middleware.opentelemetry import OpenTelemetryMiddleware

    app: Any = site()
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=TracerProvider())
    return app


def prometheus_instrumentator() -> App:
    """Counters and histograms only: no users, no single requests."""
    from prometheus_fastapi_instrumentator import Instrumentator

    app: Any = site()
    Instrumentator().instrument(app)
    return app


def apitally() -> App:
    """Sends nothing within the run."""
    from apitally.fastapi import ApitallyMiddleware

    app: Any = site()
    app.add_middleware(ApitallyMiddleware, client_id="00000000-0000-4000-8000-000000000000", env="bench")
    return app
