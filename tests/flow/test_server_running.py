"""`gnomon serve` ends when it is told to, whenever that is."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import os, signal, sys
    import uvicorn
    from gnomon.config import Settings
    from gnomon.server import running

    moment, number, broken = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "broken"
    collect, begin, served = running.gc.collect, uvicorn.Server.run, []

    async def app(scope, receive, send):
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    def collecting():
        os.kill(os.getpid(), number)
        return collect()

    def beginning(self, sockets):
        os.kill(os.getpid(), number)
        return begin(self, sockets)

    async def serving(self):
        served.append(True)

    if moment == "collecting":
        running.gc.collect = collecting
    else:
        uvicorn.Server.run = beginning
    uvicorn.Server.main_loop = serving
    if broken:
        running._ending = lambda _: lambda *_: None
    before = signal.getsignal(number)
    with running.listen("127.0.0.1", 0) as listening:
        running.run(app, Settings(), listening)
    assert signal.getsignal(number) is before
    print("served" if served else "ended")
""")  #: in a process of its own, whose signals and logs are those of the service


@pytest.mark.parametrize("how", ["honest", "broken"])
@pytest.mark.parametrize("number", [2, 15])
@pytest.mark.parametrize("moment", ["collecting", "beginning"])
def test_a_signal_that_comes_before_uvicorn_looks_for_it_is_not_lost(moment, number, how):
    words = [sys.executable, "-c", PROGRAM, moment, str(number), how]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "served" if how == "broken" else "ended"), done.stderr
