"""Promises 1, 2, 4: what `flush()` returned for survives `kill -9` at any moment, counts once, the books close."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gnomon

PROGRAM = Path(__file__).with_name("killing.py")
CYCLES_AT_ONCE = 2  # stores that are tortured side by side: starting a child takes longer than killing it


class Torture:
    """One store, one ledger, one child after the other."""

    RUNS = 0.12  #: seconds for which a child that came up may go on, at most
    STARTS = 0.4  #: and one that is killed whether or not it came up

    def __init__(self, folder: Path, seed: int, broken: str | None = None) -> None:
        self.store, self.ledger = folder / f"k{seed}.duckdb", folder / f"k{seed}.ledger"
        self.rng = random.Random(seed)
        self.broken = broken
        self.cycle = 0
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.cycle += 1
        words = [sys.executable, str(PROGRAM), str(self.store), str(self.ledger), str(self.cycle)]
        self.child = subprocess.Popen(words + ([self.broken] if self.broken else []), stdout=subprocess.PIPE)

    def kill(self) -> None:
        assert self.child is not None and self.child.stdout is not None
        # A tenth of the kills hits the start, where the journal is replayed.
        if self.rng.random() > 0.1:
            assert self.child.stdout.readline() == b"up\n", "the child did not come up again by itself"
            time.sleep(self.rng.uniform(0.0, self.RUNS))
        else:
            time.sleep(self.rng.uniform(0.0, self.STARTS))
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.child.stdout.close()

    def promised(self) -> list[int]:
        """Event numbers that a returned flush covered."""
        if not self.ledger.exists():
            return []
        lines = [line.split() for line in self.ledger.read_text().split("\n")[:-1]]
        return [n for line in lines if len(line) == 2 for n in range(int(line[0]), int(line[1]))]

    def verdict(self) -> dict[str, int]:
        """What is wrong with the store: lost and doubled events, and books that do not close."""
        with gnomon.open(self.store, project="kill", settings=gnomon.Settings()) as engine:
            rows = engine._hold.store.ask(
                ["SELECT json_extract(properties, '/n')::BIGINT, count(*) FROM events GROUP BY 1"], 60
            )[0].rows
            counts = dict(rows)
            promised = self.promised()
            books = engine.books()
            return {
                "lost": sum(n not in counts for n in promised),
                "doubled": sum(count > 1 for count in counts.values()),
                "unbooked": int(not books.closes()) + abs(books.stored - sum(counts.values())),
                "queryable": abs(engine.query(["events"])[0]["events"] - sum(counts.values())),
            }


def torture(folder: Path, cycles: int, broken: str | None = None, checks: int = 3) -> tuple[dict[str, int], int]:
    """Run kill cycles; returns the sum of all verdicts and the number of promised events."""
    racks = [Torture(folder, seed, broken) for seed in range(CYCLES_AT_ONCE)]
    wrong = {"lost": 0, "doubled": 0, "unbooked": 0, "queryable": 0}
    rounds = cycles // CYCLES_AT_ONCE
    for place in range(rounds):
        for rack in racks:
            rack.start()
        for rack in racks:
            rack.kill()
        if (place + 1) % max(1, rounds // checks) == 0:
            for rack in racks:
                for name, n in rack.verdict().items():
                    wrong[name] += n
    return wrong, sum(len(rack.promised()) for rack in racks)


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_or_doubled_over_150_kills(tmp_path):
    wrong, promised = torture(tmp_path, 150)
    assert promised > 5_000, "the children hardly recorded anything"
    assert wrong == {"lost": 0, "doubled": 0, "unbooked": 0, "queryable": 0}


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_nothing_acknowledged_is_lost_or_doubled_over_1500_kills(tmp_path):
    wrong, _ = torture(tmp_path, 1_500, checks=20)
    assert wrong == {"lost": 0, "doubled": 0, "unbooked": 0, "queryable": 0}


@pytest.mark.timeout(120)
def test_acknowledging_before_the_commit_would_be_found(tmp_path):
    wrong, promised = torture(tmp_path, 10, "ack-before-commit", checks=1)
    assert promised and wrong["lost"] > 0


@pytest.mark.timeout(120)
def test_forgetting_the_journal_position_would_be_found(tmp_path):
    wrong, promised = torture(tmp_path, 10, "no-position", checks=1)
    assert promised and wrong["doubled"] > 0
