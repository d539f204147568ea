"""Which engine answers for which project: one engine a project, all on one store, at most so many open at a time.

Engines of one process and store share one hold, so another engine costs little. An engine that somebody uses is never
closed; of the others the one that was used longest ago goes first. The engine that the app was made with stays open.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gnomon.engine import AnalyticsEngine, beside

MOST_OPEN = 64


@dataclass(slots=True)
class _Open:
    engine: AnalyticsEngine
    users: int = 0


class Projects:
    """Thread-safe. `home` belongs to the caller; engines of other projects are opened and closed here."""

    def __init__(self, home: AnalyticsEngine, most: int = MOST_OPEN) -> None:
        self.home = home
        self._most = most
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def using(self, project: str) -> Iterator[AnalyticsEngine]:
        """The engine of a project, open for as long as the block lasts. Raises `InvalidValue` (bad-project)."""
        if project == self.home.settings.project:
            yield self.home
            return
        with self._lock:
            found = self._open.get(project)
            if found is None:
                found = self._open[project] = _Open(beside(self.home, project))
            self._open.move_to_end(project)
            found.users += 1
            idle = self._beyond()
        for engine in idle:
            engine.close()
        try:
            yield found.engine
        finally:
            with self._lock:
                found.users -= 1

    def _beyond(self) -> list[AnalyticsEngine]:
        """Engines over the limit that nobody uses, taken out. The lock is held."""
        idle = [name for name, entry in self._open.items() if not entry.users]
        gone = idle[: max(0, len(self._open) - self._most)]
        return [self._open.pop(name).engine for name in gone]

    def opened(self) -> list[AnalyticsEngine]:
        """The engines that are open now, `home` first."""
        with self._lock:
            return [self.home, *(entry.engine for entry in self._open.values())]

    def close(self) -> None:
        """Close the engines that were opened here."""
        with self._lock:
            gone, self._open = list(self._open.values()), OrderedDict()
        for entry in gone:
            entry.engine.close()
