"""An answer of the service made the `Result` that the engine would give, and a problem the error it would raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from gnomon.errors import (
    DiskFull,
    Forbidden,
    GnomonError,
    InvalidValue,
    QueryTimeout,
    RangeTooLarge,
    StoreBusy,
    StoreUnavailable,
    UnknownName,
)
from gnomon.query.result import Basis, Bounds, Result, Row
from gnomon.timerange import Grain, load_zone

__all__ = ["error_of", "result_of"]

_BY_CODE: Mapping[str, type[GnomonError]] = {
    kind.code: kind for kind in (UnknownName, RangeTooLarge, StoreBusy, QueryTimeout)
}
_BY_STATUS: Mapping[int, type[GnomonError]] = {
    400: InvalidValue, 401: Forbidden, 403: Forbidden, 404: InvalidValue, 409: InvalidValue, 413: InvalidValue,
    415: InvalidValue, 422: InvalidValue, 429: StoreUnavailable, 503: StoreUnavailable, 507: DiskFull,
}  # fmt: skip


def error_of(status: int, problem: Mapping[str, Any]) -> GnomonError:
    """The error behind an answer that is no success; one that is not the service's own is `service-fault`."""
    code, detail, remedy = (problem.get(name) for name in ("type", "detail", "remedy"))
    if not isinstance(code, str) or not isinstance(detail, str):
        return StoreUnavailable(f"the address answered {status}, and not as the service does", code="service-fault",
                                remedy="See whether the address is the service's.")  # fmt: skip
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, GnomonError)
    return kind(detail, remedy=remedy if isinstance(remedy, str) else "", code=code)


def result_of(told: Mapping[str, Any], dimensions: Sequence[str], metrics: Sequence[Any]) -> Result:
    """The result that flat rows (`format=rows`) and their `meta` and `query` tell."""
    meta, query = told["meta"], told["query"]
    zone = load_zone(query["timezone"])
    buckets = [name for name in dimensions if name.removeprefix("time:") in _GRAINS]
    rows = [_row(values, place, buckets, zone) for place, values in enumerate(told["rows"])]
    names = [*rows[0]] if rows else [*dimensions, *map(_name, metrics)]
    of_metrics = names[len(dimensions) :]
    totals = meta.get("totals")
    gap_rows = frozenset(meta.get("gap_rows", ()))
    compared = _Compared(meta.get("comparisons"), rows, of_metrics)
    return Result(
        dimensions=names[: len(dimensions)],
        metrics=of_metrics,
        rows=rows,
        basis=_basis(meta, query, zone, len(gap_rows)),
        rates=compared.rates,
        next=meta.get("next"),
        totals=None if totals is None else Row.of([*totals], [*totals.values()], len(rows)),
        bounds=_bounds(meta.get("intervals"), of_metrics),
        reasons=meta.get("no_interval", {}),
        before=compared.before,
        gap_rows=gap_rows,
        gaps_before=compared.gaps - gap_rows,
    )


_GRAINS = {*Grain, "time"}


def _row(values: Mapping[str, Any], place: int, buckets: Sequence[str], zone: ZoneInfo) -> Row:
    told = {name: _moment(value, zone) if name in buckets else value for name, value in values.items()}
    return Row.of([*told], [*told.values()], place)


def _moment(value: Any, zone: ZoneInfo) -> Any:
    return datetime.fromisoformat(value).astimezone(zone) if isinstance(value, str) else value


def _name(metric: Any) -> str:
    if not isinstance(metric, Mapping):
        return str(metric)
    return str(metric.get("as") or "_".join(str(metric[key]) for key in ("agg", "field") if key in metric))


def _basis(meta: Mapping[str, Any], query: Mapping[str, Any], zone: ZoneInfo, gaps: int) -> Basis:
    start, end = (_moment(text, zone) for text in query["date_range"])
    return Basis(
        source=meta["basis"], exact=meta["exact"], data_version=0, start=start, end=end, timezone=query["timezone"],
        steps=(), percentile_error=meta.get("percentile_error", 0.0),
        uncollected_seconds=meta.get("uncollected_seconds", 0.0), gaps=gaps,
    )  # fmt: skip


def _bounds(intervals: Sequence[Any] | None, metrics: Sequence[str]) -> dict[str, list[Bounds | None]]:
    if intervals is None:
        return {}
    return {
        name: [*(None if row[place] is None else (row[place][0], row[place][1]) for row in intervals), None]
        for place, name in enumerate(metrics)
    }


class _Compared:
    """What the other period had: its rows, which metrics are rates, and which of its buckets were not collected."""

    def __init__(self, told: Sequence[Mapping[str, Any]] | None, rows: Sequence[Row], metrics: Sequence[str]) -> None:
        self.before: list[Row | None] | None = None
        self.rates: frozenset[str] = frozenset()
        self.gaps: frozenset[int] = frozenset()
        if told is None:
            return
        found: list[Row | None] = [
            Row.of(metrics, one["metrics"], place) if set(one["metrics"]) != {None} else None
            for place, one in enumerate(told)
        ]
        self.before = [*found, None]  # the last place is that of the totals
        self.rates = frozenset(name for place, name in enumerate(metrics)
                               if any(one["points"][place] is not None for one in told))  # fmt: skip
        self.gaps = frozenset(place for place, one in enumerate(told) if "gap" in one["reasons"])
