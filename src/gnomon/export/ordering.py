"""What was ordered, checked: a format, and events of a range or the answer to a question, planned before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gnomon.access import Note
from gnomon.errors import InvalidValue, unknown_name
from gnomon.export import find_format
from gnomon.export.reading import AnswerRows, EventRows, Rows, position
from gnomon.pseudonyms import Pseudonyms
from gnomon.query.extract import event_fields
from gnomon.query.inquiry import Inquiry
from gnomon.query.model import Query
from gnomon.query.outline import outline
from gnomon.query.usage import usage_filters
from gnomon.query.widening import widened
from gnomon.store import Store

_PARTS = ("metrics", "dimensions", "date_range", "filters", "timezone", "order_by", "limit", "dataset", "basis")


class Order:
    """One order; making it raises `InvalidValue`, `UnknownName` and `MissingExtra` for what cannot be done."""

    def __init__(self, time_range: Any, format: str, fields: Any, filters: Any, query: Any, after: Any = None,
                 ahead: int = 0) -> None:  # fmt: skip
        self.form = find_format(format)
        self.after = None if after is None else position(after)
        self.of_events, self.ahead = query is None, ahead
        self.version: int | None = None  #: of the data, where it was ordered before
        if self.of_events:
            given = usage_filters(filters) if isinstance(filters, Mapping) else filters
            self.fields = event_fields(fields)
            self.query = Query.build(["events"], (), time_range, given, basis="raw")
            return
        if not (fields is None and filters is None and after is None):
            raise InvalidValue("fields, filters and after belong to events", code="bad-query",
                               remedy="Put the filters into the query.")  # fmt: skip
        self.query = _question(query, time_range)

    def outline(self) -> dict[str, Any]:
        """What the audit keeps of it."""
        told = {**outline(self.query), "format": self.form.name}
        if self.of_events:
            del told["metrics"]
            told["fields"] = [field.name for field in self.fields]
        return told


def _question(query: Any, time_range: Any) -> Query:
    if isinstance(query, Query):
        return query
    if not isinstance(query, Mapping) or "metrics" not in query:
        raise InvalidValue(
            "query holds the arguments of engine.query", remedy='At least {"metrics": [...]}.', code="bad-query"
        )
    for name in query:
        if name not in _PARTS:
            raise unknown_name("part of an exported query", name, _PARTS)
    named = {("dataset_name" if name == "dataset" else name): value for name, value in query.items()}
    return Query.build(**{"date_range": time_range, **named})


def planned(order: Order, note: Note, store: Store, inquiry: Inquiry, pseudonyms: Pseudonyms | None,
            timeout: float) -> Rows:  # fmt: skip
    """The rows of an order, as of now; says what they are in `note`. Raises `InvalidValue`, also `raw-rows-gone`."""
    note.detail = order.outline()
    try:
        plan = inquiry.plan(widened(order.query, pseudonyms), store)
    except InvalidValue as error:
        if error.code != "raw-rows-gone" or not order.of_events:
            raise
        raise InvalidValue(
            "events of that time were pruned, so a file of them would be incomplete",
            remedy="Export a later range, or the answer to a query: rollups hold its numbers.", code="raw-rows-gone",
        ) from None  # fmt: skip
    note.range = plan.range
    if order.version is not None:
        plan = replace(plan, version=order.version)
    if not order.of_events:
        return AnswerRows(plan, store, inquiry)
    return EventRows(plan, store, order.fields, timeout, order.after, order.ahead)
