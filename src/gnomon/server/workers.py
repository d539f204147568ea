"""`gnomon serve --workers N`: processes that answer on one socket, each with an engine and a journal of its own.

The first one's files lie where those of a single process do, those of the others in folders beside them. One that ends
is started again at the same place and takes on what its journal holds. What was acknowledged by workers that are no
longer wanted is brought to the database by a process each. All of them share the folder of exports.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue
from gnomon.ingest.places import DATA_DIR, file_of
from gnomon.server.running import DRAIN_SECONDS

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from gnomon.engine import AnalyticsEngine

log = logging.getLogger("gnomon.server")

PLACE = "worker-{}"  #: in data_dir
END_SECONDS = DRAIN_SECONDS + 15  #: a worker that has not ended so long after it was told to is killed
LOOK_SECONDS = 0.5
#: A worker that ends sooner than `STEADY_SECONDS` after its start is started again after a while that doubles.
STEADY_SECONDS, LONGEST_SECONDS = 10.0, 30.0

_SPAWN = multiprocessing.get_context("spawn")  # a fork would share what the parent has open


def settings_of(settings: Settings, number: int) -> Settings:
    """The settings of a worker, counted from 1."""
    place = Path(settings.data_dir or DATA_DIR)
    exports = settings.export_dir or str(place)
    return settings.but(data_dir=str(place / PLACE.format(number) if number > 1 else place), export_dir=exports)


def left_behind(settings: Settings, workers: int) -> list[Settings]:
    """The settings of workers that there were before, and that `workers` do not include."""
    place = Path(settings.data_dir or DATA_DIR)
    numbers = {_number(found) for found in place.glob(PLACE.format("[0-9]*")) if found.is_dir()}
    chosen = [settings_of(settings, number) for number in sorted(numbers) if number > max(workers, 1)]
    return [each for each in chosen if _has_journal(each)]


def _number(place: Path) -> int:
    return int(place.name.rpartition("-")[2])


@contextmanager
def draining(settings: Settings, workers: int) -> Iterator[list[SpawnProcess]]:
    """Meanwhile a process runs for each journal of workers that are no longer wanted, until it is drained."""
    places = [_Place(each, None, _number(Path(each.data_dir or ""))) for each in left_behind(settings, workers)]
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(LOOK_SECONDS):
            for place in places:
                place.keep_running()

    for place in places:
        place.start()
    keeper = threading.Thread(target=keep, name="gnomon-drains", daemon=True)
    keeper.start()
    try:
        yield [place.process for place in places]
    finally:
        ended.set()
        keeper.join()
        _end(places)


def run_workers(settings: Settings, listening: socket, workers: int, ready: Callable[[], None]) -> None:
    """Run so many until SIGTERM or SIGINT; `ready` is called once all of them answer.

    Raises what the first start of one of them raises.
    """
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    places = [_Place(settings_of(settings, number), listening, number) for number in range(1, workers + 1)]
    try:
        with draining(settings, workers):
            try:
                for place in places:
                    place.start()
                for place in places:
                    place.await_first(ended)
                if not ended.is_set():
                    ready()
                while not ended.is_set():
                    wait([place.process.sentinel for place in places if place.process.is_alive()], LOOK_SECONDS)
                    for place in places:
                        place.keep_running()
            finally:
                _end(places)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Place:
    """Where one worker is, dead or alive."""

    settings: Settings
    listening: socket | None  #: None for one that only drains what is left
    number: int
    process: SpawnProcess = field(init=False)
    began: float = 0.0
    pause: float = 0.0
    again_at: float | None = None
    _ours: Connection | None = None

    def start(self) -> None:
        if self._ours is not None:
            self._ours.close()
        self._ours, theirs = _SPAWN.Pipe()
        target, args = (_drain, ()) if self.listening is None else (_work, (self.listening,))
        self.process = _SPAWN.Process(target=target, args=(self.settings, theirs, *args),
                                      name=f"gnomon worker {self.number}")  # fmt: skip
        self.process.start()
        theirs.close()
        self.began, self.again_at = time.monotonic(), None

    def await_first(self, ended: threading.Event) -> None:
        """Wait until it answers. Raises why it cannot."""
        assert self._ours is not None
        while not self._ours.poll(LOOK_SECONDS):
            if ended.is_set():
                return
        with suppress(EOFError):
            why = self._ours.recv()
            if why is None:
                return
            raise GnomonError(why[0], remedy=why[1], code=why[2])
        raise InvalidValue("a worker ended before it answered", remedy="See the log.", code="worker-failed")

    def keep_running(self) -> None:
        """Start it again where it is gone, unless it has done what it was for."""
        if self.process.is_alive() or (self.listening is None and self.process.exitcode == 0):
            return
        now = time.monotonic()
        if self.again_at is None:
            steady = now - self.began > STEADY_SECONDS
            self.pause = 0.0 if steady else min(LONGEST_SECONDS, self.pause * 2 or 0.25)
            self.again_at = now + self.pause
            log.error("worker %d has ended (%s) and is started again", self.number, self.process.exitcode)
        if now >= self.again_at:
            self.start()


def _end(places: list[_Place]) -> None:
    """Tell all to end, wait until they have answered and drained, and kill what does not end."""
    started = [place.process for place in places if hasattr(place, "process")]
    for process in started:
        if process.is_alive():
            process.terminate()
    until = time.monotonic() + END_SECONDS
    for process in started:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            log.error("a worker does not end and is killed; what it acknowledged is in its journal")
            process.kill()
            process.join()


# -- in the worker --------------------------------------------------------------------------------------------------


def _work(settings: Settings, parent: Connection, listening: socket) -> None:
    """Serve until a signal comes, or the parent is gone."""
    from gnomon.engine import AnalyticsEngine
    from gnomon.log import logging_as
    from gnomon.server.app import create_app
    from gnomon.server.running import run

    with logging_as(settings):
        try:
            with AnalyticsEngine(settings) as engine:
                app = create_app(engine)
                parent.send(None)
                threading.Thread(target=_follow, args=(parent,), daemon=True).start()
                run(app, settings, listening)
        except GnomonError as error:
            with suppress(OSError):
                parent.send((error.message, error.remedy, error.code))


def _follow(parent: Connection) -> None:
    """End as a signal would, when the parent does: it sends nothing, so that there is an end is all that can come."""
    with suppress(EOFError, OSError):
        parent.recv()
    os.kill(os.getpid(), signal.SIGTERM)


def _drain(settings: Settings, parent: Connection) -> None:
    """Bring what a journal holds to the database; a signal, or the end of the parent, ends it, and it stays there."""
    from gnomon.engine import AnalyticsEngine
    from gnomon.log import logging_as

    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    with logging_as(settings):
        try:
            with AnalyticsEngine(settings.but(enabled=False, scheduler=False)) as engine:
                while engine._hold.journal.positions(0, 1) and _brought(engine):
                    pass
        except GnomonError as error:
            log.error("what a worker left in its journal cannot be brought to the database: %s", error)
            raise SystemExit(1) from None


def _brought(engine: AnalyticsEngine) -> bool:
    """Try to bring it; False where a process that still runs there does it."""
    try:
        engine.flush(5.0)
        writer: Any = engine._hold.writer
        if writer is None:
            return False
        writer.checkpoint()
    except GnomonError as error:
        log.warning("what a worker left in its journal waits on: %s", error)
        time.sleep(1.0)
    return True


def _has_journal(settings: Settings) -> bool:
    file = file_of(settings)
    # The second one is that of a repair which was cut short, and has rows that are to be brought in.
    return file is not None and any(
        file.with_name(file.name + end).exists() for end in (".journal", ".journal.unsaved")
    )
