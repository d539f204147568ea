"""A copy whose process is killed at any moment, again and again, goes on and ends with everything, once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from copied_life import all_told, clock_now, live, opened
from own_postgres import OwnPostgres

import gnomon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROGRAM = Path(__file__).with_name("copying_away.py")


@pytest.fixture(scope="module")
def server():
    with OwnPostgres() as own:
        yield own


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A store of some thousand rows, and what it told."""
    file, clock = tmp_path_factory.mktemp("lived") / "lived.duckdb", clock_now()
    live(str(file), clock, n=1_200)
    return file, clock, all_told(file, clock)


def kill_until_done(source, destination, data_dir, chance):
    """Runs that are killed later and later; returns how many there were, and what the last one said."""
    for kills in range(200):
        command = [sys.executable, str(PROGRAM), str(source), str(destination), str(data_dir)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            line = child.stdout.readline()
            if line == "up\n":
                try:
                    out, _ = child.communicate(timeout=chance.uniform(0.01, 0.25) * (1 + kills / 8))
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGKILL)
                    child.communicate()
                    continue
                if out.startswith("done"):
                    return kills, out.split()
            error = child.stderr.read() if child.stderr and not child.stderr.closed else ""
            raise AssertionError(f"{line} {error}")
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["file to file", "file to server", "server to file"])
def test_killed_at_any_moment_it_goes_on(lived, server, tmp_path, kind, seed):
    source, clock, told = lived
    chance, data = random.Random(seed), tmp_path / "data"
    if kind == "server to file":
        source = server.url(f"from_{seed}")
        with opened(lived[0], clock, enabled=False) as engine:
            engine.copy_to(source, data_dir=str(data))
    place = server.url(f"to_{seed}") if kind == "file to server" else tmp_path / "copy.duckdb"
    kills, (_, _, resumed) = kill_until_done(source, place, data, chance)
    assert kills > 2 and resumed == "True"
    assert all_told(place, clock, data) == told


def test_a_server_that_crashes_and_a_connection_that_breaks(lived, server, tmp_path):
    """The copy fails with a reason; the next one goes on."""
    source, clock, told = lived
    place, failures = server.url("crashed"), 0
    for n in range(30):
        hit = []

        def trouble(told, n=n, hit=hit):
            if told.step == "copying" and told.rows > 400 * n and not hit and n < 6:
                hit.append(1)
                if n % 2:
                    server.end_connections()
                else:
                    server.restart()

        try:
            with opened(source, clock, enabled=False) as engine:
                done = engine.copy_to(place, data_dir=str(tmp_path / "d"), on_progress=trouble)
            break
        except gnomon.GnomonError as error:
            assert error.code == "store-unavailable" and error.remedy
            failures += 1
            time.sleep(0.2)
    assert failures and done.same
    assert all_told(place, clock, tmp_path / "d") == told
