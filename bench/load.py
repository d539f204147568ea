"""A load generator in a process of its own: posts prepared bodies over kept connections, and says how that went.

    python -m bench.load --port 8000 --path /api/analytics/ingest --token T --events 1000 --connections 4 --seconds 5

Several ports, with commas between them, share the connections. One line of JSON comes out: calls, events, seconds,
statuses, and milliseconds until the answer (p50, p99, most).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

MARK = b"@@@@@@@@@@"  #: takes the number of the body, so that every id is sent once


def body(events: int) -> bytes:
    """A batch as a browser's or a service's client sends it, about 240 bytes an event; one event goes bare."""
    now = datetime.now(UTC).isoformat()
    made = [
        {"id": f"{MARK.decode()}-{n:06}", "ts": now, "type": ("page_view", "click", "request")[n % 3],
         "user_id": f"user-{n * 7919 % 5000}", "session_id": f"s-{n % 300}", "source": f"web-{n % 20}",
         "endpoint": f"/pages/{n % 50}", "duration_ms": 12.5 + n % 100,
         "properties": {"plan": "pro", "items": n % 7, "dark": n % 2 == 0}}
        for n in range(events)
    ]  # fmt: skip
    return json.dumps(made if events > 1 else made[0], separators=(",", ":")).encode()


class Run:
    """One run of the generator."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.template = body(given.events)
        self.sent = 0
        self.took: list[float] = []
        self.statuses: dict[str, int] = {}

    async def connection(self, port: str, ends: float) -> None:
        """Post until the time is over, one call after the other."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        head = (
            f"POST {self.given.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.given.token}\r\nContent-Length: {len(self.template)}\r\n\r\n"
        ).encode()
        while time.perf_counter() < ends:
            self.sent += 1
            content = self.template.replace(MARK, b"%05d%05d" % (self.given.run, self.sent))
            began = time.perf_counter()
            writer.write(head + content)
            status = await _answer(reader)
            self.took.append(time.perf_counter() - began)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if self.given.pause:
                await asyncio.sleep(self.given.pause)
        writer.close()

    async def all(self) -> dict[str, Any]:
        """Every connection side by side; the figures of all of them."""
        began = time.perf_counter()
        ends = began + self.given.seconds
        ports = itertools.cycle(self.given.port.split(","))
        await asyncio.gather(*(self.connection(next(ports), ends) for _ in range(self.given.connections)))
        seconds = time.perf_counter() - began
        ordered = sorted(self.took)
        good = self.statuses.get("200", 0)
        return {
            "calls": good, "events": good * self.given.events, "seconds": seconds, "statuses": self.statuses,
            "p50_ms": ordered[len(ordered) // 2] * 1_000, "p99_ms": ordered[int(len(ordered) * 0.99)] * 1_000,
            "most_ms": ordered[-1] * 1_000,
        }  # fmt: skip


async def _answer(reader: asyncio.StreamReader) -> str:
    """Read one answer; its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
    await reader.readexactly(length)
    return lines[0].split()[1]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser()
    for name, kind, usual in (("port", str, "8000"), ("path", str, "/api/analytics/ingest"), ("token", str, ""),
                              ("events", int, 1000), ("connections", int, 4), ("seconds", float, 5.0),
                              ("pause", float, 0.0), ("run", int, 0)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=usual)
    sys.stdout.write(json.dumps(asyncio.run(Run(parser.parse_args()).all())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
