"""Sessions of busy periods, counted beside the questions that ask for them.

Sessions are in no rollup, so those of a month of 30 million events take seconds. A dashboard is told the last count
and the moment it was made at, and orders a new one where that is old; nothing is counted where nobody looks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from gnomon.errors import EngineClosed, GnomonError, InvalidValue
from gnomon.timerange import DateRange

log = logging.getLogger("gnomon.dashboard")

#: How often a count is made again: not sooner than this, and so that it takes at most a fiftieth of the time.
LEAST_SECONDS, TIMES_ITS_COST = 60.0, 50.0
#: A count that is older than this many times that is not told any more, nor one of more than an hour unless counting
#: takes so long that the next one is not due much sooner.
STALE, STALE_SECONDS, STALE_AT_LEAST = 4.0, 3_600.0, 2.0
#: How long nothing is counted after a count that failed.
AFTER_FAILURE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class SessionCount:
    """The `sessions` of a period up to the moment `until`; None with the code of a `reason` where there is no count."""

    sessions: int | None
    until: datetime | None = None
    reason: str | None = None


@dataclass(slots=True)
class _Known:
    told: SessionCount
    span: DateRange
    content: object
    again_at: float  #: on the monotonic clock
    stale_at: float

    def holds(self, asked: DateRange, content: object) -> bool:
        """Whether it is of what is asked, apart from the time since: not of yesterday for today."""
        return self.content == content and (asked.calendar is None or self.span.start_us == asked.start_us)


class SessionCounts:
    """The counts of one project. Periods are told apart by a name of the caller's."""

    def __init__(self, count: Callable[[DateRange], int | InvalidValue]) -> None:
        """`count` counts exactly, however long it takes; what it raises is noted as the reason."""
        self._count = count
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._wanted: dict[str, tuple[DateRange, datetime, object]] = {}
        self._counting = False
        self._now: str | None = None  # what is being counted

    def of(self, spans: Mapping[str, DateRange], moment: datetime, content: object) -> dict[str, SessionCount]:
        """What is known of each period, at once. What is old or unknown is counted by a thread of its own, up to this
        `moment`. `content` changes where events went or were replaced, by whomever: no count outlives that."""
        now, told = monotonic(), {}
        with self._lock:
            for name, span in spans.items():
                known = self._known.get(name)
                if known is not None and not (now < known.stale_at and known.holds(span, content)):
                    known = None
                told[name] = SessionCount(None, reason="being-counted") if known is None else known.told
                if name != self._now and (known is None or now >= known.again_at):
                    self._wanted[name] = (span, moment, content)
            start = bool(self._wanted) and not self._counting
            self._counting = self._counting or start
        if start:
            try:
                threading.Thread(target=self._work, name="gnomon-sessions", daemon=True).start()
            except RuntimeError as error:  # no thread is to be had, or the interpreter ends: the next one asks again
                log.warning("the sessions of a dashboard could not be counted: %s", error)
                with self._lock:
                    self._counting = False
        return told

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._counting = False
                    return
                name = self._now = next(iter(self._wanted))
                span, moment, content = self._wanted.pop(name)
            known = None
            try:
                known = self._counted(span, moment, content)
            except EngineClosed:
                pass
            except Exception:  # a fault of ours: without this nothing would ever be counted again
                log.exception("the sessions of a dashboard could not be counted")
            with self._lock:
                self._now = None
                if known is None:
                    self._wanted.clear()
                else:
                    self._known[name] = known

    def _counted(self, span: DateRange, moment: datetime, content: object) -> _Known:
        started = monotonic()
        try:
            found = self._count(span)
        except EngineClosed:
            raise
        except GnomonError as error:
            log.warning("the sessions of a dashboard could not be counted: %s", error)
            told, pause = SessionCount(None, reason=error.code), AFTER_FAILURE_SECONDS
        else:
            told = SessionCount(found, moment) if isinstance(found, int) else SessionCount(None, reason=found.code)
            pause = max(LEAST_SECONDS, TIMES_ITS_COST * (monotonic() - started))
        now = monotonic()
        stale = max(STALE_AT_LEAST * pause, min(STALE * pause, STALE_SECONDS))
        return _Known(told, span, content, now + pause, now + stale)
