"""Promises 1, 2 and 4 on a ClickHouse server: two processes at a time, each killed again and again in its writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_kill import Torture

import gnomon
from gnomon.config import Settings
from gnomon.store import open_store
from gnomon.store.clickhouse import leases

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
BROKEN_SECONDS, RENEWED_SECONDS = 1, 0.3  # else each kill would take twenty seconds
#: `killing.py`, or another such program, with leases that end soon.
CHILD = f"""
import importlib, sys
sys.path.insert(0, sys.argv[1])
from gnomon.store.clickhouse import leases
leases.BROKEN_SECONDS, leases.RENEWED_SECONDS = {BROKEN_SECONDS}, {RENEWED_SECONDS}
importlib.import_module(sys.argv[5]).run(sys.argv[2], sys.argv[3], int(sys.argv[4]), None)
"""


class Served(Torture):
    """See `Torture`; a process with a `data_dir` of its own, all of them on one database."""

    RUNS, STARTS = 1.0, 2.0

    def __init__(self, folder: Path, seed: int, url: str, program: str = "killing") -> None:
        super().__init__(folder, seed)
        self.program = program
        self.folder, self.url, self.cycle = folder / f"d{seed}", url, seed * 500
        self.folder.mkdir()

    def start(self) -> None:
        self.cycle += 1
        flow = str(Path(__file__).parent)
        words = [sys.executable, "-c", CHILD, flow, self.url, str(self.ledger), str(self.cycle), self.program]
        self.child = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=self.folder)


def verdict(racks, url):
    """What is wrong once every journal is drained."""
    for rack in racks:
        with gnomon.open(url, project="kill", settings=Settings(data_dir=str(rack.folder / "gnomon-data"))) as engine:
            engine._hold.writer.wait_for(engine._hold.journal.last_position(), 60.0)
            assert engine.books().pending == 0
            closes, stored, asked = engine.books().closes(), engine.books().stored, engine.query(["events"])
    store = open_store(url, Settings())
    rows = store.ask(["SELECT JSONExtractInt(properties, 'n'), count(*) FROM events GROUP BY 1"], 60.0)[0].rows
    store.close()
    counts, promised = dict(rows), {n for rack in racks for n in rack.promised()}
    wrong = {"lost": len(promised - counts.keys()), "doubled": sum(count > 1 for count in counts.values()),
             "unbooked": int(not closes) + abs(stored - len(counts)),
             "queryable": abs(asked[0]["events"] - len(counts))}  # fmt: skip
    return wrong, len(promised)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_nothing_acknowledged_is_lost_or_doubled_however_often_two_processes_are_killed(
    clickhouse, tmp_path, monkeypatch
):
    soon_broken(monkeypatch)
    url = clickhouse.url()
    tortured([Served(tmp_path, seed, url) for seed in (0, 1)], int(os.environ.get("CLICKHOUSE_KILLS", "60")), verdict)


def soon_broken(monkeypatch):
    """Leases of this process end as soon as those of its children."""
    monkeypatch.setattr(leases, "BROKEN_SECONDS", BROKEN_SECONDS)
    monkeypatch.setattr(leases, "RENEWED_SECONDS", RENEWED_SECONDS)


def tortured(racks, kills, judged):
    """Kill the racks side by side, and look at what there is now and then."""
    rounds = kills // len(racks)
    for place in range(rounds):
        for rack in racks:
            rack.start()
        for rack in racks:
            rack.kill()
        if place % 10 == 9 or place == rounds - 1:
            time.sleep(BROKEN_SECONDS + 1)
            wrong, promised = judged(racks, racks[0].url)
            assert not any(wrong.values()), wrong
    assert promised > rounds
