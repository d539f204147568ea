"""One moment of a store that is no file, for a backup: its rows in a DuckDB file, every value of both compared.

They travel as those of a copy do (docs/decisions/0039), so the file is a store as any other, of the same data version.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.errors import StoreDamaged
from gnomon.store import Store
from gnomon.store.carrying import NOTE, CopyNote
from gnomon.store.memory import aside
from gnomon.upkeep.copying import CopyOrder, Run, compared, differs, moment_of, name_of
from gnomon.upkeep.destination import begin, open_destination

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold


def file_of_rows(hold: Hold, store: Store, file: Path, asked: CopyOrder) -> tuple[int, float]:
    """Put what the store holds into a new file, within `Hold.alone()`; `asked` has the settings of the store. Returns
    the position of the journal up to which it holds everything, and for how many seconds the store took nothing in.
    Raises `StoreDamaged`, `OSError`, and what `asked.told` raises."""
    there = aside(asked.settings).but(database_url=str(file), data_dir="")
    order = replace(asked, settings=there)
    with open_destination(there, store, hold.file) as (taking, _), moment_of(hold, store, asked.settings) as taken:
        target = begin(taking, file, there, CopyNote(name_of(hold, store), taken.version, order.release))
        Run(taken, target, order).carry()
        found = compared(taken, taking, order)
        if found.differing:
            raise StoreDamaged(
                f"{differs(found)}", code="backup-damaged", remedy="Run it again; check disk and memory."
            )
        target.taking.fill("books", lambda: (), [], {"version": str(taken.version), NOTE: None})
        target.taking.settle(done=True, compact=False)
    return taken.position, taken.paused_seconds
