"""The audit of what comes in, in sums: one entry for each principal and minute, with how much and from where."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from gnomon.access import Note, Principal, speaking_as
from gnomon.engine import AnalyticsEngine

PERIOD_SECONDS = 60.0
MOST_OPEN = 10_000  #: sums that are kept in memory; with more all are written
MOST_ADDRESSES = 5


@dataclass(slots=True)
class _Sum:
    began: float
    calls: int = 0
    accepted: int = 0
    rejected: int = 0
    addresses: set[str] = field(default_factory=set)


class IngestSums:
    """Thread-safe. Somebody has to call `write` now and then."""

    def __init__(self, home: AnalyticsEngine) -> None:
        self._home = home
        self._sums: dict[tuple[str, str], _Sum] = {}
        self._lock = threading.Lock()

    def add(self, project: str, principal: str, address: str, accepted: int, rejected: int) -> None:
        """Count a call."""
        with self._lock:
            found = self._sums.setdefault((project, principal), _Sum(time.monotonic()))
            found.calls += 1
            found.accepted += accepted
            found.rejected += rejected
            if len(found.addresses) < MOST_ADDRESSES:
                found.addresses.add(address)
            full = len(self._sums) > MOST_OPEN
        if full:
            self.write(all=True)

    def write(self, *, all: bool = False) -> None:
        """Leave the entries of minutes that are over."""
        now = time.monotonic()
        with self._lock:
            due = [key for key, found in self._sums.items() if all or now - found.began >= PERIOD_SECONDS]
            gone = [(key, self._sums.pop(key)) for key in due]
        for (project, principal), found in gone:
            detail = {"calls": found.calls, "rejected": found.rejected, "from": sorted(found.addresses)}
            with speaking_as(Principal(principal)):
                note = Note("ingest", rows=found.accepted, detail=detail)
                self._home._audit.audited(project, note).leave("ok")
