"""Promises 1, 2, 4 and 6 at the moments that matter: the process dies right before, in and right after each step
between the buffer and the checkpoint, and in the middle of a repair."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gnomon
from gnomon.ingest.recovery import found_damage

pytestmark = pytest.mark.timeout(120)
PROGRAM = Path(__file__).with_name("crashing.py")
JOURNAL, STORE = "gnomon.ingest.journal:Journal", "gnomon.store.duckdb:DuckDBStore"
STEPS = [
    (f"{JOURNAL}._insert@after", 3),  # within the transaction of the journal
    (f"{JOURNAL}._write@before", 4),
    (f"{JOURNAL}._write@after", 5),  # durable, and nobody was told
    (f"{STORE}.write@before", 3),
    ("gnomon.store.duckdb.writing:Writing._append@after", 4),  # within the transaction of the store
    (f"{STORE}._set_state@before", 6),
    (f"{STORE}.write@after", 3),
    (f"{STORE}.checkpoint@before", 2),
    (f"{STORE}.checkpoint@during", 1),
    (f"{STORE}.checkpoint@during", 2),
    (f"{STORE}.checkpoint@during", 3),
    (f"{STORE}.checkpoint@after", 2),  # checkpointed, and the journal has not forgotten
    (f"{JOURNAL}.forget_up_to@during", 2),
    (f"{JOURNAL}.forget_up_to@after", 2),
    (f"{JOURNAL}.continue_after@before", 1),  # while the next process starts
    ("gnomon.ingest.writer:Writer.catch_up@during", 1),
]


class Victim:
    """One store and the children that die on it."""

    def __init__(self, folder: Path) -> None:
        self.store, self.ledger = folder / "c.duckdb", folder / "ledger"
        self.first = 0

    def die_at(self, step: str, nth: int) -> None:
        words = [sys.executable, str(PROGRAM), str(self.store), str(self.ledger), step, str(nth), str(self.first)]
        ended = subprocess.run(words, timeout=60, capture_output=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        self.first += 200

    def promised(self) -> list[int]:
        numbers = [int(line) for line in self.ledger.read_text().split()] if self.ledger.exists() else []
        return [number * 5 + part for number in numbers for part in range(5)]

    def check(self) -> dict[str, int]:
        """How much is wrong; the answer is all zeros."""
        with gnomon.open(self.store) as engine:
            events, samples = engine._hold.store.ask(
                [
                    "SELECT json_extract(properties, '/n')::BIGINT, count(*) FROM events GROUP BY 1",
                    "SELECT value::BIGINT, count(*) FROM samples GROUP BY 1",
                ],
                60.0,
            )
            books, sample_books = engine.books(), engine.books("sample")
            found, sampled = dict(events.rows), dict(samples.rows)
            return {
                "lost": sum(n not in found for n in self.promised()),
                "lost samples": sum(n not in sampled for n in self.promised()),
                "doubled": sum(n > 1 for n in found.values()),
                "doubled samples": sum(n > 1 for n in sampled.values()),
                "not in the books": abs(books.stored - sum(found.values())),
                "books open": int(not books.closes()) + int(not sample_books.closes()),
                "false alarms": len(found_damage(self.store)),
            }


SOUND = dict.fromkeys(
    ("lost", "lost samples", "doubled", "doubled samples", "not in the books", "books open", "false alarms"), 0
)


def test_death_at_every_step(tmp_path):
    victim = Victim(tmp_path)
    for place, (step, nth) in enumerate(STEPS):
        victim.die_at(step, nth)
        if place % 4 == 3:
            assert victim.check() == SOUND, step
    assert len(victim.promised()) > 100
    assert victim.check() == SOUND


def test_a_journal_that_forgets_before_the_checkpoint_would_be_found(tmp_path, monkeypatch):
    victim = Victim(tmp_path)
    program = PROGRAM.read_text().replace(
        "    arm(step, nth)\n",
        "    from gnomon.ingest.writer import Writer\n"
        "    honest = Writer.checkpoint\n"
        "    Writer.checkpoint = lambda self: (self._journal.forget_up_to(self._position), honest(self))\n"
        "    arm(step, nth)\n",
    )
    broken = tmp_path / "broken.py"
    broken.write_text(program.replace("checkpoint_seconds=0.02", "checkpoint_seconds=1.0"))  # some flushes before it
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", broken)
    victim.die_at(f"{STORE}.checkpoint@before", 1)
    assert victim.check()["lost"] > 0


@pytest.mark.parametrize("what, nth", [("store", 1), ("store", 2), ("journal", 1), ("journal", 2), ("journal", 3)])
def test_death_in_the_middle_of_a_repair(tmp_path, what, nth):
    """Whatever step of a repair is the last one, the next start goes on from there and loses nothing more."""
    victim = Victim(tmp_path)
    victim.die_at(f"{STORE}.write@after", 20)
    if what == "store":
        with victim.store.open("r+b") as file:
            file.write(b"garbage!" * 1_536)  # all three headers
    else:
        log = Path(f"{victim.store}.journal-wal")
        with log.open("r+b") as file:
            file.write(b"garbage!" * 4)  # its header: SQLite would drop it whole without a word
    victim.die_at("pathlib:Path.rename@after", nth)
    verdict = victim.check()
    assert verdict.pop("false alarms") == (1 if what == "store" else 3)  # a journal is set aside with its log and index
    lost = verdict.pop("lost") + verdict.pop("lost samples")
    assert what == "store" or lost == 0
    verdict.pop("not in the books")  # what only the damaged store had is gone from both, or from the rows
    assert set(verdict.values()) == {0}
