"""Statement time-outs: one thread that interrupts what runs past its deadline, not a timer thread a statement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: An interrupt that comes before a statement has begun to run, while it is planned, is lost: it is given again.
AGAIN_SECONDS = 0.05


class Deadlines:
    """Calls `interrupt` for a block that runs longer than it may. The thread starts with the first block."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[float, Callable[[], None]]] = {}
        self._guard = threading.RLock()  # entered instead of the condition, see `Writer`
        self._changed = threading.Condition(self._guard)
        self._thread: threading.Thread | None = None
        self._next = 0
        self._waits_until = float("inf")
        self._ending = self._closed = False

    @contextmanager
    def limit(self, seconds: float, interrupt: Callable[[], None]) -> Iterator[None]:
        """Run a block; `interrupt` is called from another thread, until the block ends, if that takes longer than
        `seconds`."""
        until = time.monotonic() + seconds
        with self._guard:
            until = 0.0 if self._ending else until
            self._next += 1
            key = self._next
            self._running[key] = (until, interrupt)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="gnomon-deadlines", daemon=True)
                self._thread.start()
            elif until < self._waits_until:
                self._changed.notify()
        try:
            yield
        finally:
            with self._guard:  # an interrupt is given under the lock, so none can come after this
                self._running.pop(key, None)

    def end_all(self) -> None:
        """Interrupt whatever runs now, and what begins later, as if its time were over."""
        with self._guard:
            self._ending = True
            self._running = {key: (0.0, interrupt) for key, (_, interrupt) in self._running.items()}
            self._changed.notify()

    def close(self) -> None:
        """End the thread, which may still hold on to the last connection that it watched."""
        with self._guard:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        with self._guard:
            while not self._closed:
                now = time.monotonic()
                for key, (until, interrupt) in list(self._running.items()):
                    if until <= now:
                        self._running[key] = (now + AGAIN_SECONDS, interrupt)
                        interrupt()
                self._waits_until = min((until for until, _ in self._running.values()), default=float("inf"))
                self._changed.wait(None if not self._running else self._waits_until - now)
