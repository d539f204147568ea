"""What a process needs beside a store that others use as well: to wait for its server, to know that it is the same one,
and to keep what was set elsewhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gnomon.errors import GnomonError, InvalidValue, StoreDamaged, StoreUnavailable
from gnomon.ingest.journal import SHARED, Journal
from gnomon.store import Served, Store
from gnomon.store.carrying import note_of, unfinished_copy

log = logging.getLogger("gnomon.hold")

KEPT_STORE = "store"  #: the kept value of a journal that names the database it belongs to


class Unopened:
    """A store that is not opened any more in this process, while recording goes on into the journal."""

    def __init__(self, error: GnomonError) -> None:
        self._error = error

    def refusal(self) -> GnomonError:
        """Why it could not be opened when it was last tried."""
        kind = StoreDamaged if isinstance(self._error, StoreDamaged) else StoreUnavailable
        return kind(self._error.message, remedy=self._error.remedy, code=self._error.code)

    def stop(self) -> None:
        """Nothing goes on."""


class Waiting(Unopened):
    """A thread that tries to open a store until it can be reached."""

    def __init__(self, open_it: Callable[[], None], error: GnomonError) -> None:
        super().__init__(error)
        self._open_it = open_it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gnomon-waiting", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wait = 0.5
        while not self._stop.wait(wait):
            try:
                self._open_it()
                return
            except GnomonError as error:
                if error.code != self._error.code:
                    log.error("the store cannot be opened, recording goes on into the journal: %s", error)
                self._error, wait = error, min(5.0, wait * 2)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


def check_same(store: Served, journal: Journal) -> None:
    """What waits in a journal goes into no other database than the one it was recorded for, unless that is new."""
    known = journal.kept(KEPT_STORE)
    if known not in (None, store.store_id) and store.is_used():
        raise InvalidValue(
            "the files in data_dir belong to another database than the store's URL names",
            remedy="Set another data_dir (GNOMON_DATA_DIR), or correct the URL.",
            code="other-store",
        )
    if known != store.store_id:
        journal.keep(KEPT_STORE, store.store_id)
    there = take_kept(store, journal)
    for key, value in journal.all_kept().items():
        if key.startswith(SHARED) and key not in there:
            store.keep(key, value)  # kept before the database was, or in the one before it


def check_finished(store: Store) -> None:
    """Nobody uses a store into which another one is still being copied. Raises `StoreUnavailable`, for that to end."""
    note = note_of(store)
    if note is not None and not note.done:
        raise unfinished_copy()


def take_kept(store: Served, journal: Journal) -> dict[str, str]:
    """Keep here what was kept elsewhere for every process of a store on a server; returns that."""
    here, there = journal.all_kept(), store.all_kept()
    for key, value in there.items():
        if here.get(key) != value:
            journal.keep_here(key, value)
    return there
