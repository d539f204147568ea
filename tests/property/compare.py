"""Ask the engine, ask the oracle, and say in words what differs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from oracle import PARTS_OF_TIME, Answer, canonical, change, metric_of
from rows import us_of
from worlds import World

from gnomon.query.result import Result

#: An answer longer than this is compared by its beginning.
MOST_READ = 6_000
MOST_A_PAGE = 10_000
NOT_ASKED = ("world", "pages")


def differences(world: World, asked: dict[str, Any]) -> list[str]:
    """What differs between engine and oracle, in words; empty when nothing does."""
    expected = world.oracle.answer(asked)
    return list(_Comparison(world, asked, expected).differences())


class _Comparison:
    def __init__(self, world: World, asked: dict[str, Any], expected: Answer) -> None:
        self.world, self.asked, self.expected = world, asked, expected
        self.dims = ["time:day" if name == "time" else name for name in asked["dimensions"]]
        self.metrics = [metric_of(given) for given in asked["metrics"]]
        self.zone = ZoneInfo(asked.get("timezone") or "UTC")

    def differences(self) -> Iterator[str]:
        keys, whole = [], True
        for result in self.results():
            for row in result:
                key, problem = self.key(row)
                keys.append(key)
                if problem:
                    yield problem
                elif key not in self.expected.rows:
                    yield f"a row too many: {dict(row)}"
                else:
                    yield from self.of_row(key, result, row)
            yield from self.of_result(result)
            whole = result.next is None
        yield from self.of_order(keys, whole)

    def results(self) -> Iterator[Result]:
        """The pages of the answer, as far as they are read."""
        arguments = {name: value for name, value in self.asked.items() if name not in NOT_ASKED}
        size = len(self.expected.order)
        if size > MOST_READ and "limit" not in self.asked:
            arguments["limit"] = MOST_READ // 3
        elif "pages" in self.asked:
            arguments["limit"] = max(1, -(-size // self.asked["pages"]))
        arguments["date_range"] = _with_datetimes(arguments["date_range"])
        result = self.world.engine.query(**arguments)
        self.world.sources[result.basis.source] += 1
        yield result
        read = len(result)
        while result.next is not None and "limit" not in self.asked and read < MOST_READ:
            result = self.world.engine.query(**arguments, after=result.next)
            yield result
            read += len(result)

    def key(self, row: Any) -> tuple[tuple[Any, ...], str | None]:
        """What the oracle calls this row, and what is wrong with its time, if anything."""
        key: list[Any] = []
        problem = None
        for name in self.dims:
            value = row[name]
            if name.startswith("time:") and name.removeprefix("time:") not in PARTS_OF_TIME:
                start = us_of(value)
                fits = datetime.fromtimestamp(start // 1_000_000, self.zone)
                if value.utcoffset() != fits.utcoffset() or value.replace(microsecond=0, tzinfo=None) != fits.replace(
                    tzinfo=None
                ):
                    problem = f"{name} is {value!r}, not {fits!r}"
                value = start
            elif name.startswith("properties."):
                value = None if value is None else canonical(value)
            key.append(value)
        return tuple(key), problem

    def of_row(self, key: tuple[Any, ...], result: Result, row: Any) -> Iterator[str]:
        for metric, value in zip(self.metrics, self.expected.rows[key], strict=True):
            if not same(row[metric.name], value, result.basis.exact):
                yield f"{metric.name} at {key} is {row[metric.name]!r}, not {value!r}"
            if self.asked.get("compare"):
                yield from self.of_change(key, metric, result, row)

    def of_change(self, key: tuple[Any, ...], metric: Any, result: Result, row: Any) -> Iterator[str]:
        there = self.expected.before[key]
        place = self.metrics.index(metric)
        now = self.expected.rows[key][place]
        expected = change(metric, now, None if there is None else there[place])
        got = result.change(metric.name, row)
        pairs = zip((got.now, got.before, got.change, got.points), expected[:4], strict=True)
        # A difference of two near values keeps fewer digits than they have.
        if got.reason != expected[4] or not all(same(a, b, False, least=1e-9) for a, b in pairs):
            yield f"the change of {metric.name} at {key} is {got}, not {expected}"

    def of_result(self, result: Result) -> Iterator[str]:
        if result.basis.exact and not self.expected.exact:
            yield "says exact, but rows of other weights were counted"
        if self.asked.get("totals"):
            for metric, value in zip(self.metrics, self.expected.totals, strict=True):
                if not same(result.totals[metric.name], value, result.basis.exact):
                    yield f"the total of {metric.name} is {result.totals[metric.name]!r}, not {value!r}"

    def of_order(self, keys: list[tuple[Any, ...]], whole: bool) -> Iterator[str]:
        wanted = self.expected.order
        if "limit" in self.asked:
            wanted = wanted[: min(self.asked["limit"], MOST_A_PAGE)]
        elif not whole:
            wanted = wanted[: len(keys)]
        if len(keys) != len(wanted):
            yield f"{len(keys)} rows, not {len(wanted)}"
        if len(set(keys)) < len(keys):
            yield "a row comes twice"
        for place, (got, there) in enumerate(zip(keys, wanted, strict=False)):
            if got != there and not self.tied(got, there):
                yield f"row {place} is {got}, not {there}"
                return
        for one, two in pairwise(keys):
            if one in self.expected.rows and two in self.expected.rows and not self.in_order(one, two):
                yield f"{one} stands before {two}"
                return

    def sort_values(self, key: tuple[Any, ...]) -> list[tuple[Any, bool]]:
        values = (*key, *self.expected.rows.get(key, [None] * len(self.metrics)))
        return [(values[place], descending) for place, descending in self.expected.sort]

    def tied(self, one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
        """Whether two rows differ first in a number that is no number's worth apart."""
        for (a, _), (b, _) in zip(self.sort_values(one), self.sort_values(two), strict=True):
            if a != b:
                return isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9)
        return True

    def in_order(self, one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
        for (a, descending), (b, _) in zip(self.sort_values(one), self.sort_values(two), strict=True):
            if a == b:
                continue
            if a is None or b is None:
                return b is None
            x, y = (a.encode(), b.encode()) if isinstance(a, str) else (a, b)
            if (x > y) == descending:
                return True
            if not (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9)):
                return False
        return True


def same(got: Any, want: Any, exact: bool, least: float = 0.0) -> bool:
    """Whole numbers to the last digit and as whole numbers (in an estimate they are not whole), others to 1e-9."""
    if got is None or want is None:
        return got is want
    if isinstance(got, int) and isinstance(want, int):
        return got == want
    if exact and isinstance(want, int):
        return False
    return math.isclose(got, want, rel_tol=1e-9, abs_tol=least)


def _with_datetimes(date_range: Any) -> Any:
    """Moments written with Kathmandu's offset are handed over as objects, all others as text."""
    if isinstance(date_range, str):
        return date_range
    return [datetime.fromisoformat(v) if isinstance(v, str) and v.endswith("+05:45") else v for v in date_range]
