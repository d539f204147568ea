"""A backup brought into a new store that is no file: fetched, checked, unpacked, carried and compared in one go.

Its rows travel as those of a copy do (docs/decisions/0039), so a restore that was cut short goes on, and nobody can
open what is not finished. A store that holds anything is refused: others use it, and their journals know its positions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from gnomon.config import Settings
from gnomon.store import Carrying, Entering, open_store, settle_copy
from gnomon.store.aliveness import slack_us
from gnomon.store.carrying import version_of
from gnomon.upkeep import archive
from gnomon.upkeep.backup import scratch_beside
from gnomon.upkeep.copying import Beside, CopyOrder, CopyProgress, Taken, carry_all
from gnomon.upkeep.destination import check_unused, open_destination
from gnomon.upkeep.encryption import Keys
from gnomon.upkeep.restore import Restored, checked, fetched, put_audit


def restore_into(path: str, settings: Settings, now: datetime, release: str,
                 told: Callable[[CopyProgress], None]) -> Restored:  # fmt: skip
    """Bring a backup into the new store that the settings name. Raises what `AnalyticsEngine.restore_backup` and
    `AnalyticsEngine.copy_to` raise."""
    started = time.perf_counter()
    keys = Keys(settings.backup_key_file) if settings.backup_key_file else None
    with open_destination(settings) as (taking, file), scratch_beside(file) as scratch:
        check_unused(taking)  # before an hour of fetching
        told(CopyProgress("fetching", "the archive", 0, 0))
        packed = fetched(path, file, scratch)
        told(CopyProgress("checking", "the archive", 0, 0))
        manifest = checked(packed, scratch, keys, settings)
        if packed.parent == scratch:
            packed.unlink()
        source, made_at = scratch / archive.STORE, datetime.fromisoformat(manifest.created_at)
        put_audit(source, scratch, manifest)
        kept: dict[str, str] = json.loads((scratch / archive.KEPT).read_text("utf-8"))
        # The same archive has the same name in every run, so that it goes on.
        beside = Beside(f"backup {manifest.members[archive.STORE].sha256}", lambda: kept, source, made_at,
                        "restore_backup")  # fmt: skip
        order = CopyOrder(settings, settings.project, now, release, told)
        with _moment_of(source, settings) as taken:
            run, found = carry_all(taken, taking, file, order, beside)
    counts = {table: rows for table, (rows, _) in found.source.items()}
    return Restored(made_at, counts, 0, time.perf_counter() - started, run.resumed)


@contextmanager
def _moment_of(file: Path, settings: Settings) -> Iterator[Taken]:
    """What an unpacked file holds, in this version's schema, with the books of a restore that replaced nothing."""
    settle_copy(file, settings, Entering("", 0, 0, ""))
    with closing(open_store(str(file), settings)) as store:
        assert isinstance(store, Carrying)
        with store.reading() as reading:
            yield Taken(reading, version_of(reading), store.data_version(), slack_us(settings), 0, 0.0)
