"""`gnomon serve` ends when it is told to, whenever that is."""

from __future__ import annotations

import os
import signal

import pytest
import uvicorn

from gnomon.config import Settings
from gnomon.server import running


async def app(scope, receive, send):
    """Starts and ends, and answers nothing."""
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["collecting", "beginning"])
def test_a_signal_that_comes_before_uvicorn_looks_for_it_is_not_lost(monkeypatch, moment, number, broken):
    collect, begin, served = running.gc.collect, uvicorn.Server.run, []

    def collecting():
        os.kill(os.getpid(), number)
        return collect()

    def beginning(self, sockets):
        os.kill(os.getpid(), number)
        return begin(self, sockets)

    async def serving(self):
        served.append(True)

    if moment == "collecting":
        monkeypatch.setattr(running.gc, "collect", collecting)
    else:
        monkeypatch.setattr(uvicorn.Server, "run", beginning)
    monkeypatch.setattr(uvicorn.Server, "main_loop", serving)
    if broken:
        monkeypatch.setattr(running, "_ending", lambda _: lambda *_: None)
    before = signal.getsignal(number)
    with running.listen("127.0.0.1", 0) as listening:
        running.run(app, Settings(), listening)
    assert bool(served) is broken and signal.getsignal(number) is before
