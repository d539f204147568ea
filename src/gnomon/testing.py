"""A kit for tests of programs that record with Gnomon: a strict engine in memory, and a clock that a test moves.

In a strict engine a recording call raises what would otherwise go to the quarantine unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from gnomon.config import Settings
from gnomon.engine import AnalyticsEngine
from gnomon.errors import InvalidValue
from gnomon.event import Row
from gnomon.ingest.gate import Refused


class ManualClock:
    """A clock that stands still until it is moved; pass it as `clock=`."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime(2026, 1, 15, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **parts: float) -> datetime:
        """Move on by a `timedelta(**parts)` and return the new time."""
        self.now += timedelta(**parts)
        return self.now


class StrictEngine(AnalyticsEngine):
    """An engine whose recording calls raise `InvalidValue` for what the gate refuses."""

    strict = True

    def _reset(self) -> None:
        super()._reset()
        if self._settings.enabled:
            self._append, self._append_sample = self._append_checked, self._append_sample_checked

    def _append_checked(self, call: Row) -> None:
        _raise_first(self._gate.admit_calls([call]).refused)
        self._buffer.append(call)

    def _append_sample_checked(self, sample: Row) -> None:
        _raise_first(self._gate.admit_samples([sample])[1])
        self._samples.append(sample)


def _raise_first(refused: list[Refused]) -> None:
    if refused:
        raise InvalidValue(
            refused[0].detail, remedy="The event would have gone to the quarantine.", code=refused[0].code
        )


@contextmanager
def strict_engine(clock: ManualClock | None = None, **changes: Any) -> Iterator[AnalyticsEngine]:
    """A strict engine on a store in memory, closed at the end; `changes` are settings such as `project="shop"`.

    It keeps everything (`sampling=False`): on a clock that stands still any number of requests come at once.
    """
    settings = Settings(database_url=":memory:", sampling=False).but(**changes)
    engine = StrictEngine(settings, clock or ManualClock())
    try:
        yield engine
    finally:
        engine.close()
