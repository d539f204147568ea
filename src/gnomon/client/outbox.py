"""What waits to be sent to a service: a bounded buffer, and the thread that empties it in batches.

An entry is the JSON of one event, with its id made before it came here, so that whatever is sent twice counts once.
It leaves the buffer for one of three ends, each counted: acknowledged, refused by the service, or lost here. Refuses to
grow beyond its bounds, to keep a caller waiting, and to raise into one.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gnomon.client.posting import Post, Sent

__all__ = ["Delivery", "Limits", "Outbox"]

log = logging.getLogger("gnomon.client")
_JOIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When a batch is sent, and how much may wait. Sizes count the JSON before it is packed."""

    batch_events: int = 500
    batch_bytes: int = 512 * 1024
    flush_seconds: float = 1.0
    most_events: int = 100_000
    most_bytes: int = 64 * 1024**2


@dataclass(slots=True)
class Delivery:
    """Where everything recorded went: `recorded = acknowledged + refused + lost + waiting`, at all times.

    `refused` is counted by the code of the service's reason, `lost` by why it never got there: `buffer-full`,
    `not-sendable` (no JSON can hold it), `closed`.
    """

    recorded: int = 0
    acknowledged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    waiting: int = 0

    def closes(self) -> bool:
        """Whether every recorded event is accounted for."""
        return self.recorded == self.acknowledged + self.refused.total() + self.lost.total() + self.waiting


class Outbox:
    """Entries of one kind on their way to one path. The thread starts with the first entry, and again after a fork."""

    def __init__(self, post: Post, limits: Limits, on_refused: Callable[[str, Any], None] | None) -> None:
        self._post, self._limits, self._on_refused = post, limits, on_refused
        self.reset()

    def reset(self) -> None:
        """Begin empty: at the start, and in a forked child, as the parent still sends its own."""
        self._entries: deque[bytes] = deque()
        self._bytes = 0
        self._numbers = Delivery()
        # Re-entrant, as a recording call may come out of a garbage collection or a signal inside another one.
        self._lock = threading.RLock()
        self._settled = threading.Condition(self._lock)
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put() is re-entrant
        self._thread: threading.Thread | None = None
        self._rung = self._hurry = self._closed = self._over = False
        self._ending = threading.Event()

    # -- on the caller's thread ---------------------------------------------------------------------------------

    def put(self, entry: bytes) -> None:
        """Take one entry, or count it as lost where there is no room."""
        with self._lock:
            self._numbers.recorded += 1
            if self._closed:
                self._numbers.lost["closed"] += 1
                return
            if len(self._entries) >= self._limits.most_events or self._bytes + len(entry) > self._limits.most_bytes:
                self._numbers.lost["buffer-full"] += 1
                return
            self._entries.append(entry)
            self._bytes += len(entry)
            self._numbers.waiting += 1
            if self._thread is None:
                self._start()
            many = len(self._entries) >= self._limits.batch_events or self._bytes >= self._limits.batch_bytes
            if (many or len(self._entries) == 1) and not self._rung:
                self._rung = True
                self._bell.put(None)

    def lose(self, reason: str) -> None:
        """Count an entry that could not even be made."""
        with self._lock:
            self._numbers.recorded += 1
            self._numbers.lost[reason] += 1

    def delivery(self) -> Delivery:
        """The numbers as they are now."""
        with self._lock:
            told = self._numbers
            return Delivery(told.recorded, told.acknowledged, Counter(told.refused), Counter(told.lost), told.waiting)

    def wait(self, timeout: float) -> bool:
        """Send now, and return once everything put before this call has come to an end; False when it takes longer."""
        if threading.current_thread() is self._thread:
            return False  # asked by a callback of the thread that would have to send
        until = time.monotonic() + timeout
        with self._settled:
            goal = self._numbers.recorded
            while self._numbers.recorded - self._numbers.waiting < goal:
                self._hurry = True
                self._bell.put(None)
                left = until - time.monotonic()
                if left <= 0 or self._ending.is_set():
                    return False
                self._settled.wait(min(left, 0.5))
        return True

    def close(self) -> int:
        """End the thread and take nothing more; how many entries were still waiting, which are lost now."""
        with self._lock:
            self._closed = True
        self._ending.set()
        self._post.stop()
        self._bell.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)  # it may be in the middle of a call that takes longer
        with self._lock:
            left = self._numbers.waiting
            self._entries.clear()
            self._over = True
            self._end(left, lost="closed")
            return left

    # -- on the sending thread ----------------------------------------------------------------------------------

    def _start(self) -> None:
        thread = threading.Thread(target=self._carry, name="gnomon-client", daemon=True)
        with suppress(RuntimeError):  # the interpreter ends; close() will count what is left
            thread.start()
            self._thread = thread

    def _carry(self) -> None:
        while not self._ending.is_set():
            try:
                self._await_some()
                while not self._ending.is_set() and (batch := self._next()):
                    self._deliver(batch)
                self._hurry = False
            except Exception as error:  # noqa: BLE001  the thread must survive whatever a library or a callback does
                log.warning("sending failed: %s", type(error).__name__)
                self._ending.wait(self._limits.flush_seconds)

    def _await_some(self) -> None:
        """Until an entry waits, then until many do, its time is over, or somebody waits for it."""
        while not self._entries and not self._ending.is_set():
            self._bell.get()
            self._rung = False  # before the entries are looked at: who came in between did not ring
        until = time.monotonic() + self._limits.flush_seconds
        while not self._hurry and not self._ending.is_set() and len(self._entries) < self._limits.batch_events:
            if self._bytes >= self._limits.batch_bytes:
                return
            try:
                self._bell.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            self._rung = False

    def _next(self) -> list[bytes]:
        """Entries for one batch, out of the buffer but still counted as waiting."""
        batch: list[bytes] = []
        size = 0
        with self._lock:
            while self._entries and len(batch) < self._limits.batch_events:
                if batch and size + len(self._entries[0]) > self._limits.batch_bytes:
                    break
                size += len(self._entries[0])
                batch.append(self._entries.popleft())
            self._bytes -= size
        return batch

    def _deliver(self, batch: list[bytes]) -> None:
        """Send a batch; it goes back into the buffer where something breaks that nobody expected."""
        try:
            sent = self._post.send(batch)
        except BaseException:
            with self._lock:
                if not self._over:
                    self._entries.extendleft(reversed(batch))
                    self._bytes += sum(map(len, batch))
            raise
        self._settle(batch, sent)

    def _settle(self, batch: list[bytes], sent: Sent) -> None:
        with self._lock:
            if self._over:  # close() has counted it
                return
            self._entries.extendleft(reversed(sent.unsent))  # only where it is closing
            refused = Counter(code for code, _ in sent.refused)
            gone = len(batch) - len(sent.unsent)
            self._numbers.refused += refused
            self._end(gone, acknowledged=gone - refused.total())
        if self._on_refused is not None:
            for code, entry in sent.refused:
                try:
                    self._on_refused(code, entry)
                except Exception as error:  # noqa: BLE001  the host's callback may raise anything
                    log.warning("on_refused failed: %s", type(error).__name__)

    def _end(self, count: int, *, acknowledged: int = 0, lost: str | None = None) -> None:
        with self._settled:
            self._numbers.waiting -= count
            self._numbers.acknowledged += acknowledged
            if lost is not None and count:
                self._numbers.lost[lost] += count
            self._settled.notify_all()
