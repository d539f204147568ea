"""A child that makes or restores a backup and kills itself at a named step (see crashing.py), while it records.

Run as a program: `python dying.py STORE WHAT ARCHIVE STEP NTH`; WHAT is backup or restore. BROKEN as a sixth word
exchanges the files in a way that is not atomic, to show that the check sees it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crashing import arm, die


def not_atomic(file: Path, path: Path, aside: Path) -> None:
    path.rename(aside)
    die()


def run(store: str, what: str, archive: str, step: str, nth: int, broken: bool) -> None:
    import gnomon
    import gnomon.store.duckdb
    import gnomon.upkeep.restore  # armed below

    if broken:
        gnomon.store.duckdb.put_in_place = not_atomic
    engine = gnomon.open(store, settings=gnomon.Settings(threads=1))
    arm(step, nth)
    if what == "backup":
        engine.trigger_backup()
    else:
        engine.restore_backup(archive)
    die()  # the step was never reached, or it is the end


if __name__ == "__main__":
    run(*sys.argv[1:5], int(sys.argv[5]), len(sys.argv) > 6)
