"""Two questions that are asked often, in words of their own: usage in a range, and two periods beside each other.

Whoever can answer `query` has them: the engine here, the client of a service elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gnomon.errors import unknown_name

if TYPE_CHECKING:
    from gnomon.query.result import Result

_SUMMARY_FIELDS = {
    "source": "source", "application": "application", "app": "application", "domain": "domain", "method": "method",
    "endpoint": "endpoint", "type": "type", "success": "success", "status_code": "status_code", "user_id": "user_id",
}  # fmt: skip


class Usage:
    """Mixed into what has `query`."""

    def query(self, metrics: Sequence[Any], dimensions: Sequence[str] = (), date_range: Any = "all",
              filters: Sequence[Any] | None = None, timezone: str | None = None,
              order_by: Sequence[Sequence[str]] | None = None, limit: int | None = None, compare: Any = None,
              after: str | None = None, totals: bool = False, dataset: str = "events",
              basis: str = "auto") -> Result:  # fmt: skip
        raise NotImplementedError

    def query_usage(self, time_range: Any = "24h", filters: Mapping[str, Any] | Sequence[Any] | None = None,
                    group_by: Sequence[str] | str | None = None, metrics: Sequence[Any] | None = None,
                    **rest: Any) -> Result:  # fmt: skip
        """Usage in a range: totals, or by source, application, domain, hour (of day), day or any dimension.

        `filters` may be a mapping (`{"source": "a", "success": True, "min_duration_ms": 10}`) or a list of filters.
        """
        words = {"hour": "time:hour_of_day", "day": "time:day", "app": "application"}
        groups = [group_by] if isinstance(group_by, str) else [] if group_by is None else group_by
        chosen = metrics or ["events", "successes", "failures", "success_rate", "mean_duration_ms", "p50_duration_ms",
                             "p95_duration_ms"]  # fmt: skip
        given = usage_filters(filters) if isinstance(filters, Mapping) else filters
        if isinstance(groups, list | tuple):
            groups = [words.get(name, name) if isinstance(name, str) else name for name in groups]
        return self.query(chosen, groups, time_range, given, **rest)

    def compare_periods(self, period1: Any, period2: Any, dimensions: Sequence[str] = ("source",),
                        metrics: Sequence[Any] | None = None, **rest: Any) -> Result:  # fmt: skip
        """Period 2 with its change from period 1, by each dimension: `r.change("events", row)`."""
        chosen = metrics or ["events", "success_rate", "mean_duration_ms", "p95_duration_ms"]
        return self.query(chosen, dimensions, period2, compare=period1, **rest)


def usage_filters(given: Mapping[str, Any]) -> list[Any]:
    """The filter list of a mapping such as `{"source": ["a", "b"], "min_duration_ms": 5}`. Raises `UnknownName`."""
    found: list[Any] = []
    for name, value in given.items():
        if name in ("min_duration_ms", "max_duration_ms"):
            found.append(["gte" if name.startswith("min") else "lte", "duration_ms", value])
        elif name in _SUMMARY_FIELDS or (isinstance(name, str) and name.startswith("properties.")):
            values = list(value) if isinstance(value, list | tuple | set) else [value]
            found.append(["is", _SUMMARY_FIELDS.get(name, name), values])
        else:
            raise unknown_name("filter", name, [*_SUMMARY_FIELDS, "min_duration_ms", "max_duration_ms"])
    return found
