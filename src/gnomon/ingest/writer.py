"""The one thread that moves journal batches into the store: in order, each exactly once, many in one transaction.

Rows, books and the journal position are written together, so a crash at any moment leaves the store at a position
from which the journal continues. A batch that the store refuses for good is counted and set aside, so that it
cannot hold up those behind it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from gnomon.config import Settings
from gnomon.errors import GnomonError, StoreDamaged, StoreUnavailable
from gnomon.event import AT, Batch, row_text
from gnomon.ingest.journal import Journal, open_sealed
from gnomon.store import Mending, Store

log = logging.getLogger("gnomon.writer")

MOST_ROWS = 20_000  #: rows in one store transaction; times `Store.bulk`, as the next two
MOST_BATCHES = 256
POLL_SECONDS = 0.1  #: how long a batch of another process may wait unnoticed
GATHER_SECONDS = 0.1  #: small batches wait this long for others, as a transaction costs milliseconds of its own
IDLE_SECONDS = 3_600.0  #: beats alone make a checkpoint due after this: an idle host's disk is left in peace
ROWS_IN_HAND = 60_000  #: rows handed over in memory, at least a transaction; more are read back from the journal


class Writer:
    """Owns the store's write side. `start()` begins draining; `wait_for(position)` returns once it is queryable."""

    def __init__(self, store: Store, journal: Journal, settings: Settings, beat: Callable[[], None] = lambda: None,
                 took: Callable[[float], None] = lambda _: None) -> None:  # fmt: skip
        """`beat` is called at every turn of the thread, `took` with the seconds of a transaction; neither may raise."""
        self._beat, self._took = beat, took
        self._store, self._bulk = store, store.bulk
        self._journal = journal
        self._settings = settings
        self._in_hand: OrderedDict[int, Batch] = OrderedDict()
        self._rows_in_hand = 0
        self._watched: dict[int, Counter[str]] = {}
        self._lately: OrderedDict[int, Counter[str]] = OrderedDict()  #: as `left_out`, of the batches written last
        # Entered as a plain lock: Ctrl-C in `Condition.__enter__`, which is Python, can leave it held for ever.
        self._guard = threading.RLock()
        self._changed = threading.Condition(self._guard)
        self._work = threading.RLock()  # held while a transaction runs
        self._turn = threading.Lock()  # held by the one thread that waits for _work
        self._worker = 0  #: the thread that has _work
        self._rest = threading.Lock()  # held while the store's file must not change; taken behind _work
        self._position = store.position(journal.id)
        self._reached = self._position
        self._in_doubt = False  #: after a fault the store may be back at its last checkpoint
        self._checkpointed = time.monotonic()
        self._since_checkpoint = 0
        self._only_beats = False  #: beats came in since the checkpoint, which are no reason for one
        self._stopping = False
        self._hurried = False  #: somebody waits for what is there
        self._thread: threading.Thread | None = None
        self.fault: GnomonError | None = None

    @property
    def catching_up(self) -> bool:
        """Whether the store fell back to a checkpoint and has not yet again all that it had."""
        return self._position < self._reached

    @property
    def position(self) -> int:
        """The journal position up to which the store has everything."""
        return self._position

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="gnomon-writer", daemon=True)
        self._thread.start()

    def catch_up(self) -> None:
        """Write everything that waits, before anyone asks."""
        while self.drain():
            pass

    def offer(self, positions: list[int], batches: list[Batch], *, watch: bool = False) -> None:
        """Hand over batches that this process just made durable, to spare reading them back.

        With `watch` it is kept how many of their rows were not stored, until `left_out()` asks for it.
        """
        with self._guard:
            for position, batch in zip(positions, batches, strict=True):
                stored = position <= self._position  # it was read back from the journal before it was offered
                if watch:
                    self._watched[position] = self._lately.get(position, Counter()) if stored else Counter()
                if self._rows_in_hand < ROWS_IN_HAND and not stored:
                    self._in_hand[position] = batch
                    self._rows_in_hand += len(batch.rows)
            self._changed.notify_all()

    def left_out(self, positions: Iterable[int]) -> Counter[str]:
        """How many rows of the watched batches were not stored, by reason; they are watched no longer."""
        with self._guard:
            return sum((self._watched.pop(position, Counter()) for position in positions), Counter[str]())

    def wait_for(self, position: int, timeout: float) -> bool:
        """Wait until the store has everything up to `position`. False when it takes longer than `timeout` seconds."""
        with self._guard:
            self._hurried |= self._position < position
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._position >= position or self._stopping, timeout)
            return self._position >= position

    def stop(self) -> None:
        """Drain what is there, checkpoint, end the thread."""
        with self._guard:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        try:
            self.catch_up()
            self.checkpoint()
        except GnomonError as error:
            log.warning("what was recorded stays in the journal: %s", error)

    def _gather(self) -> None:
        """Let small batches come together, unless somebody waits for them."""
        with self._guard:
            if self._in_hand and not self._hurried:
                self._changed.wait_for(self._is_urgent, GATHER_SECONDS * self._bulk)
            self._hurried = False

    def _is_urgent(self) -> bool:
        return self._hurried or self._stopping or self._rows_in_hand >= MOST_ROWS * self._bulk

    def _run(self) -> None:
        wait = POLL_SECONDS
        while not self._stopping:
            self._beat()
            try:
                self._gather()
                drained = self.drain()
                self._checkpoint_if_due()
                if not drained:
                    with self._guard:
                        if not self._in_hand and not self._stopping:
                            self._changed.wait(wait)
                wait, self.fault = POLL_SECONDS, None
            except Exception as error:  # noqa: BLE001  the thread must live on: the journal keeps what waits
                self.fault = error if isinstance(error, GnomonError) else StoreUnavailable(type(error).__name__)
                log.warning("the store does not take what was recorded, it waits in the journal: %s", error)
                wait = min(5.0, wait * 2)
                self._start_over(wait)

    def _start_over(self, wait: float) -> None:
        """After a fault, and a while, go on from wherever the store is then."""
        with self._guard:
            self._in_doubt = True
            self._let_go()
            self._changed.wait_for(lambda: self._stopping, wait)

    def drain(self) -> bool:
        """Write the next batches in one transaction; False when there were none."""
        with self.paused():
            self._follow_journal()
            work = self._next_work()
            if not work:
                return False
            began = time.monotonic()
            try:
                left_out = self._store.write(work, self._journal.id)
            except (StoreUnavailable, StoreDamaged):
                raise
            except Exception:  # noqa: BLE001  a batch that breaks the store must not hold up those behind it
                left_out = self._one_by_one(work)
            self._took(time.monotonic() - began)
            self._advance(work, left_out)
            return True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the store to the caller: nothing is written meanwhile, recording and questions go on.

        Who has just left it and enters again comes behind those who wait: upkeep in many small steps lets batches be
        stored between them. A lock alone goes to whoever runs, which is the one that let it go.
        """
        if self._worker == threading.get_ident():
            yield
            return
        with ExitStack() as held:
            with self._turn:
                held.enter_context(self._work)
            held.callback(setattr, self, "_worker", 0)
            self._worker = threading.get_ident()
            yield

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Keep the store's file as the last checkpoint left it, for a copy: checkpoints wait, everything else goes on.

        Enter it within `paused()`, leave the pause, and do not ask the writer for anything inside.
        """
        with self._rest:
            yield

    def look_again(self) -> None:
        """Call within `paused()` after the store went back to a checkpoint: go on from wherever it is."""
        with self._guard:
            self._in_doubt = True
            self._let_go()

    def content_replaced(self) -> None:
        """Call within `paused()` after other content was put into the store: go on from the position it names."""
        with self._guard:
            self._position = self._reached = self._store.position(self._journal.id)
            self._since_checkpoint = 0
            self._lately.clear()
            self._let_go()
            self._changed.notify_all()

    def checkpoint(self, *, compact: bool = False) -> None:
        """Make the store durable by itself, then let the journal forget what it holds. Also within `paused()`.

        With `compact` the file is written anew, so that nothing that was deleted is left in it.
        """
        with self.paused(), self._rest:
            self._follow_journal()
            self._checkpointed = time.monotonic()
            self._since_checkpoint, self._only_beats = 0, False  # also when it fails: the next try is when it is due
            self._in_doubt = True  # a failed one takes the store back to the one before
            self._store.checkpoint(compact=compact)
            if not (isinstance(self._store, Mending) and self._store.damaged):  # the next opening needs what it holds
                self._journal.forget_up_to(self._store.position(self._journal.id))
            self._in_doubt = False

    def part_with_journal(self) -> None:
        """Before rows are counted in rollups, pruned or erased: have the journal forget them, where a store that is
        mended would put back what it holds. They would count twice, or rise again. Raises `StoreDamaged` until then."""
        if isinstance(self._store, Mending):
            if self._store.damaged:
                raise StoreDamaged(
                    "the store is damaged, and its journal is needed to mend it",
                    remedy="Close it and open it again: that mends it.", code="store-damaged",
                )  # fmt: skip
            self.checkpoint()

    def _checkpoint_if_due(self) -> None:
        if self._rest.locked():
            return
        age = time.monotonic() - self._checkpointed
        rows_due = self._settings.checkpoint_bytes // 256
        crowded = self._journal.file_bytes() > self._settings.journal_max_bytes // 2
        aged = age > self._settings.checkpoint_seconds
        due = self._since_checkpoint and (aged or crowded or self._since_checkpoint > rows_due)
        if due or (self._only_beats and (crowded or age > IDLE_SECONDS)):
            self.checkpoint()

    def _follow_journal(self) -> None:
        """Notice a journal that was replaced, as its positions are others, and a store that went back."""
        known = self._journal.id
        self._journal.positions(self._position, 1)
        if self._in_doubt or self._journal.id != known:
            position = self._store.position(self._journal.id)
            with self._guard:  # a commit whose answer was lost may have brought what somebody waits for
                self._position = position
                self._changed.notify_all()
            self._in_doubt = False
            self._let_go()
        if self._journal.id != known:
            self._reached = self._position

    def _let_go(self) -> None:
        self._in_hand.clear()
        self._rows_in_hand = 0

    def _next_work(self) -> list[tuple[int, Batch]]:
        waiting = self._journal.positions(self._position, MOST_BATCHES * self._bulk)
        work: list[tuple[int, Batch]] = []
        rows = 0
        for position in waiting:
            batch = self._take(position)
            work.append((position, batch))
            rows += len(batch.rows) + len(batch.sightings)
            if rows >= MOST_ROWS * self._bulk:
                break
        return work

    def _take(self, position: int) -> Batch:
        with self._guard:
            batch = self._in_hand.pop(position, None)
            if batch is not None:
                self._rows_in_hand -= len(batch.rows)
                return batch
        ((_, crc, body),) = self._journal.read(position - 1, 1)
        try:
            batch = open_sealed(crc, body)
            batch.replayed = True
            return batch
        except StoreDamaged:
            return self._damaged(position)

    def _damaged(self, position: int) -> Batch:
        """A batch whose body does not read back: its summary says what it held, and the books say that it is gone."""
        log.error("journal batch %d fails its checksum; its events are booked as rejected", position)
        stub = Batch("default")
        for project, kind, source, outcome, reason, n in self._journal.summary(position):
            stub.project = project
            lost = outcome == "pending"
            stub.counts.append(
                [kind, source, "rejected" if lost else outcome, "journal-damaged" if lost else reason, n]
            )
        return stub

    def _one_by_one(self, work: list[tuple[int, Batch]]) -> dict[int, Counter[str]]:
        """A group failed: write each batch alone, and set aside the one that the store refuses."""
        left_out: dict[int, Counter[str]] = {}
        for position, batch in work:
            try:
                left_out.update(self._store.write([(position, batch)], self._journal.id))
            except (StoreUnavailable, StoreDamaged):
                raise
            except Exception as error:  # noqa: BLE001  as in drain
                reason = type(error).__name__
                log.error("the store refuses journal batch %d (%s): set aside in the quarantine", position, reason)
                self._store.write([(position, _set_aside(batch))], self._journal.id)
                left_out[position] = Counter({"store-refused": len(batch.rows)})
        return left_out

    def _advance(self, work: list[tuple[int, Batch]], left_out: dict[int, Counter[str]]) -> None:
        with self._guard:
            self._position = work[-1][0]
            self._reached = max(self._reached, self._position)
            counted = [len(batch.rows) for _, batch in work if not batch.only_beats]
            self._since_checkpoint += sum(counted) + bool(counted)
            self._only_beats |= len(counted) < len(work)
            for position in self._watched.keys() & {position for position, _ in work}:
                self._watched[position] = left_out.get(position, Counter())
            self._lately.update(left_out)
            while len(self._lately) > MOST_BATCHES * self._bulk:
                self._lately.popitem(last=False)
            while self._in_hand and next(iter(self._in_hand)) <= self._position:
                self._rows_in_hand -= len(self._in_hand.popitem(last=False)[1].rows)
            self._changed.notify_all()


def _set_aside(batch: Batch) -> Batch:
    refused = [[row[AT["received_at"]], "store-refused", "the store refused this row", row[AT["source"]], row[0],
                row_text(row)] for row in batch.rows]  # fmt: skip
    counts = [["event", row[AT["source"]], "rejected", "store-refused", 1] for row in batch.rows]
    if batch.samples:
        counts.append(["sample", None, "rejected", "store-refused", len(batch.samples)])
    return Batch(batch.project, refused=batch.refused + refused, counts=batch.counts + counts)
