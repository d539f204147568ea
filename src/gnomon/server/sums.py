"""The audit of what comes in, and of what is refused, in sums: an entry for each principal and minute."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from gnomon.access import Note, Principal, speaking_as
from gnomon.engine import AnalyticsEngine
from gnomon.errors import GnomonError

PERIOD_SECONDS = 60.0
MOST_OPEN = 10_000  #: sums that wait for their minute to end; with more all are written
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

    def write(self, *, all: bool = False) -> None:
        """Leave the entries of minutes that are over. Raises what the audit raises; they are tried again then."""
        now = time.monotonic()
        with self._lock:
            all = all or len(self._sums) > MOST_OPEN
            due = [key for key, found in self._sums.items() if all or now - found.began >= PERIOD_SECONDS]
            gone = [(key, self._sums.pop(key)) for key in due]
        while gone:
            (project, principal), found = gone[-1]
            detail = {"calls": found.calls, "rejected": found.rejected, "from": sorted(found.addresses)}
            with speaking_as(Principal(principal)):
                note = Note("ingest", rows=found.accepted, detail=detail)
                try:
                    self._home._audit.audited(project, note).leave("ok")
                except BaseException:
                    self._give_back(gone)
                    raise
            gone.pop()

    def _give_back(self, sums: list[tuple[tuple[str, str], _Sum]]) -> None:
        """What could not be written is tried again, with what has come since."""
        with self._lock:
            for key, found in sums:
                since = self._sums.get(key)
                if since is not None:
                    found.calls, found.accepted = found.calls + since.calls, found.accepted + since.accepted
                    found.rejected += since.rejected
                    found.addresses = {*sorted(found.addresses | since.addresses)[:MOST_ADDRESSES]}
                self._sums[key] = found


class Refusals:
    """Calls that their caller has no right to. The first one of a minute is in the audit at once; those that repeat it
    are one more entry, as a write key is public and any page may have all of its visitors send with it."""

    def __init__(self, home: AnalyticsEngine) -> None:
        self._home = home
        self._open: dict[tuple[str, str, str, str], tuple[float, int]] = {}  #: since when, and how many repeats
        self._lock = threading.Lock()

    def add(self, project: str, principal: Principal, name: str, error: GnomonError) -> None:
        """Note a refused call."""
        key = (project, principal.name, name, error.code)
        with self._lock:
            began, repeats = self._open.get(key, (time.monotonic(), -1))
            self._open[key] = (began, repeats + 1)
        if repeats < 0:
            with speaking_as(principal):
                self._home._audit.refused(project, name, error)

    def write(self, *, all: bool = False) -> None:
        """Leave the entries of minutes that are over."""
        now = time.monotonic()
        with self._lock:
            all = all or len(self._open) > MOST_OPEN
            due = [key for key, (began, _) in self._open.items() if all or now - began >= PERIOD_SECONDS]
        for key in due:  # each leaves the list by itself: an audit that fails takes no other along
            with self._lock:
                _, repeats = self._open.pop(key, (now, 0))
            project, principal, name, code = key
            if repeats:
                with speaking_as(Principal(principal)):
                    self._home._audit.audited(project, Note(name, detail={"calls": repeats})).leave(code)
