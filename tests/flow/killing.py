"""A child that records and flushes under load until killed, and the ledger that says what `flush()` returned for.

Run as a program: `python killing.py STORE LEDGER CYCLE [BROKEN]`. The ledger gets a line `from to` (event numbers, end
exclusive) after each returned flush; a line that was not finished when the kill came promises nothing.
"""

from __future__ import annotations

import os
import random
import sys


def break_it(kind: str) -> None:
    """Deliberately broken builds, to show that the check sees them."""
    if kind == "ack-before-commit":
        from gnomon.ingest import journal

        kept: list[object] = []

        def lazy(self, group):
            kept.extend(group)
            for waiting in group:
                waiting.positions = [self.made + place + 1 for place in range(len(waiting.encoded))]
                self.made += len(waiting.encoded)
            if len(kept) >= 4:
                honest(self, list(kept))
                kept.clear()

        journal.Journal.made = 0
        honest, journal.Journal._write = journal.Journal._write, lazy
        from gnomon.ingest.writer import Writer

        Writer.wait_for = lambda self, position, timeout: True
    elif kind == "no-position":
        from gnomon.ingest import journal
        from gnomon.store.duckdb import DuckDBStore
        from gnomon.store.duckdb.writing import Writing

        set_state = DuckDBStore._set_state
        DuckDBStore._set_state = lambda self, key, value: (
            None if key.startswith("journal:") else set_state(self, key, value)
        )
        Writing._repeats = lambda self, *args: set()
        # The window between a checkpoint and the journal's forgetting is too short to be hit by ten kills.
        journal.Journal.forget_up_to = lambda self, position: None


def run(store: str, ledger: str, cycle: int, broken: str | None) -> None:
    if broken:
        break_it(broken)
    import gnomon

    rng = random.Random(cycle)
    settings = gnomon.Settings(flush_seconds=0.005, checkpoint_seconds=0.05, threads=1)
    engine = gnomon.open(store, settings=settings, project="kill")
    out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    number = cycle * 1_000_000
    os.write(1, b"up\n")
    while True:
        count = rng.choice((1, 3, 40, 400))
        for n in range(number, number + count):
            engine.track("tick", user_id=f"u{n % 7}", source=f"s{n % 3}", properties={"n": n})
        engine.flush()
        os.write(out, f"{number} {number + count}\n".encode())
        number += count


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
