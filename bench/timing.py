"""Clocks and loops: the same loop text around every call that is compared, with the loop's own cost taken off."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_BULK = """
def bulk(work, clock):
    started = clock()
    for {names} in work:
        {call}
    return clock() - started
"""
_EACH = """
def each(work, clock):
    found = []
    note = found.append
    for {names} in work:
        started = clock()
        {call}
        note(clock() - started)
    return found
"""


class Loop:
    """One call, written out in a loop over `work` so that no wrapper stands between the clock and the call."""

    def __init__(self, call: str, names: str, **known: Any) -> None:
        space: dict[str, Any] = dict(known)
        for text in (_BULK, _EACH):
            exec(text.format(names=names, call=call), space)  # our own text, as timeit does it
        self._bulk: Callable[..., int] = space["bulk"]
        self._each: Callable[..., list[int]] = space["each"]

    def bulk(self, work: Sequence[Any]) -> float:
        """Nanoseconds a call."""
        return self._bulk(work, time.perf_counter_ns) / len(work)

    def each(self, work: Sequence[Any]) -> list[int]:
        """Nanoseconds of every single call, the clock's own cost included."""
        return self._each(work, time.perf_counter_ns)


def percentile(values: Iterable[float], q: float) -> float:
    """The smallest value that a share of `q` of all values does not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -(-int(q * 1e6) * len(ranked) // 1_000_000) - 1))]


median = statistics.median


def seconds(call: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """The median wall seconds of each call, taken in turns so that a noisy moment meets all of them."""
    found: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        places = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        for place in places:
            gc.collect()
            found[place].append(seconds(calls[place]))
    return [median(times) for times in found]


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints for `code`. Raises when it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-400:])
    return done.stdout.strip()
