"""Who is active: people by day, week or month, and over the days that end with each day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from gnomon.access import Note
from gnomon.errors import unknown_name
from gnomon.pseudonyms import Pseudonyms
from gnomon.query.inquiry import Inquiry
from gnomon.query.model import Query
from gnomon.query.outline import outline
from gnomon.query.result import Result
from gnomon.query.widening import widened
from gnomon.store import Store
from gnomon.timerange import DateRange, Grain, period_number, period_start_us, resolve_range

#: Days that a rolling window has, its last day included.
WINDOWS = {"day": 1, "week": 7, "month": 30}


def active_users(inquiry: Inquiry, store: Store, note: Note, pseudonyms: Pseudonyms | None, date_range: Any, grain: str,
                 zone: ZoneInfo, now: datetime, filters: Sequence[Any] | None, rolling: bool) -> Result:  # fmt: skip
    """See `Reporting.active_users`."""
    if grain not in WINDOWS:
        raise unknown_name("grain of active users", grain, WINDOWS)
    window = WINDOWS[grain] if rolling else 1
    asked = resolve_range(date_range, now=now, zone=zone, earliest_us=inquiry.earliest(store))
    span = whole_buckets(asked, Grain.DAY if rolling else Grain(grain), window - 1)
    name = "time:day" if rolling else f"time:{grain}"
    query = Query.build(["people"], [name], span, filters)
    note.detail = {**outline(query), **({"window_days": window} if window > 1 else {})}
    query = widened(query, pseudonyms)
    return inquiry.rolling(query, window, store, note) if window > 1 else inquiry.answer(query, store, note)


def whole_buckets(span: DateRange, grain: Grain, before: int = 0) -> DateRange:
    """The span widened to whole buckets, and by so many more in front."""
    zone = span.zone
    first, last = period_number(grain, span.start_us, zone) - before, period_number(grain, span.end_us - 1, zone)
    return DateRange(period_start_us(grain, first, zone), period_start_us(grain, last + 1, zone), zone)
