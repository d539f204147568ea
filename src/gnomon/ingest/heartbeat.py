"""The heartbeat of one engine: once a period it says that it was there to record, whether or not anything happened.

Each beat tells only of the time since the one before, so that one which is lost costs its own period and nothing else.
An engine counts as alive from its opening to its end, across any jump of the clock. Nothing here touches a disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from gnomon.config import Settings
from gnomon.timerange import US_SECOND

Beat: TypeAlias = tuple[int, int, bool]  #: as in `Batch.beats`

#: The last beat of an engine is left out where it would tell of less.
LEAST_US = US_SECOND


class Heartbeat:
    """When an engine was there. One that cannot record (`enabled=False`) never is."""

    def __init__(self, settings: Settings, clock_us: Callable[[], int]) -> None:
        self._clock_us = clock_us
        self._period_us = int(settings.heartbeat_seconds * US_SECOND)
        self._beats = settings.enabled and self._period_us > 0
        #: A thread that waits looks this often, so that no two beats are two periods apart; None: it need not.
        self.look_seconds = settings.heartbeat_seconds / 2 if self._beats else None
        # Re-entrant, as a signal handler may flush in the middle of a flush.
        self._lock = threading.RLock()
        self._first = self._since = self._now()  # None: the clock failed
        self._told = False
        self._inherited = False  #: forked, and has not recorded since: what is to be told is told by the parent
        self._ending = False

    def due(self, *, recorded: bool) -> bool:
        """Whether the next batch should carry a beat; `recorded` says that it also carries something recorded."""
        if not self._beats or (self._inherited and not recorded):
            return False
        with self._lock:
            now = self._now()
            if now is None or self._since is None or not self._told:
                return now is not None
            ahead = now - self._since
            return ahead < 0 or ahead >= (LEAST_US if self._ending else self._period_us)

    def take(self) -> list[Beat]:
        """What is to be told now; the next beat goes on from there."""
        with self._lock:
            now = self._now()
            if not self._beats or now is None:
                return []
            since = now if self._since is None or now < self._since else self._since  # the clock may be set back
            self._first = since if self._first is None else min(self._first, since)
            self._since, self._told, self._inherited = now, True, False
            return [(since, now, True)]

    def give_back(self, beats: list[Beat]) -> None:
        """It could not be told: the next beat begins where this one did."""
        with self._lock:
            for first, _, _ in beats:
                self._since, self._told = first, False

    def span(self) -> tuple[int, int] | None:
        """From the opening to now; None for an engine that is no collector."""
        with self._lock:
            now = self._now()
            if not self._beats or now is None:
                return None
            return (now if self._first is None else min(self._first, now)), now

    def restart(self) -> None:
        """From now on, as what was recorded until now is gone: a restore put other content in its place."""
        with self._lock:
            self._first = self._since = self._now()
            self._told = False

    def end(self) -> None:
        """The engine closes: what is left to tell is due."""
        self._ending = True

    def forked(self) -> None:
        """Go on in a forked child, which was there as long as its parent."""
        self._lock = threading.RLock()
        self._inherited = True

    def _now(self) -> int | None:
        try:
            return self._clock_us()
        except Exception:  # noqa: BLE001  the clock is the host's, and who asks by it is told; recording must go on
            return None
