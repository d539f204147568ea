"""The verbs of asking that the engine has. What answers them is loaded with the first question."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from gnomon.access import Note
from gnomon.config import Settings
from gnomon.query.usage import Usage
from gnomon.store import Store
from gnomon.timerange import Clock

if TYPE_CHECKING:
    from gnomon.pseudonyms import Pseudonyms
    from gnomon.query.inquiry import Inquiry
    from gnomon.query.model import Query
    from gnomon.query.result import Result


class Asking(Usage):
    """Questions to the store. Mixed into the engine, which knows the store, the clock and the project."""

    settings: Settings
    clock: Clock
    zone: ZoneInfo
    _pseudonyms: Pseudonyms | None

    def _own_or_refuse(self) -> Store:
        raise NotImplementedError

    def _audited(self, operation: str, **said: Any) -> AbstractContextManager[Note]:
        raise NotImplementedError

    def _own_span(self) -> tuple[int, int] | None:
        raise NotImplementedError

    def _took(self, seconds: float) -> None:
        raise NotImplementedError

    def _reset_asking(self) -> None:
        self._asked: Inquiry | None = None

    def _inquiry(self) -> Inquiry:
        if self._asked is None:
            from gnomon.query.inquiry import Inquiry  # deferred: 20 ms that a program which only records can do without

            self._asked = Inquiry(self.settings, self.clock, self.zone, self._own_span, self._took)
        return self._asked

    def query(self, metrics: Sequence[Any], dimensions: Sequence[str] = (), date_range: Any = "all",
              filters: Sequence[Any] | None = None, timezone: str | None = None,
              order_by: Sequence[Sequence[str]] | None = None, limit: int | None = None, compare: Any = None,
              after: str | None = None, totals: bool = False, dataset: str = "events",
              basis: str = "auto") -> Result:  # fmt: skip
        """Answer a question; see docs/querying.md for every form.

        `metrics` are names or objects (`{"agg": "p95", "field": "properties.amount", "as": "x"}`), `dimensions`
        names, `time:<grain>` or `properties.<key>`. With time as the only dimension every bucket is returned.
        `compare` is `"previous"`, `"year"` or a range; `after` is `next` of the page before; `totals` adds the row
        over everything; `basis="raw"` never reads rollups. Raises `InvalidValue` and `UnknownName` for a bad question
        (code `raw-rows-gone` where only pruned rows could answer), `RangeTooLarge`, `StoreBusy` where another process
        owns the store, `QueryTimeout`.
        """
        with self._audited("query") as note:
            self._own_or_refuse()  # before anything is loaded: a forked child waits for ever for a thread it has not
            from gnomon.query.model import Query

            query = Query.build(metrics, dimensions, date_range, filters, timezone, order_by, limit, compare, after,
                                totals, dataset, basis)  # fmt: skip
            return self._answer(query, note)

    def run(self, query: Query) -> Result:
        """Answer a checked `Query`."""
        with self._audited("query") as note:
            return self._answer(query, note)

    def _answer(self, query: Query, note: Note) -> Result:
        store = self._own_or_refuse()
        from gnomon.query.outline import outline
        from gnomon.query.widening import widened

        note.detail = outline(query)
        return self._inquiry().answer(widened(query, self._pseudonyms), store, note)

    def explain(self, metrics: Sequence[Any], dimensions: Sequence[str] = (), **rest: Any) -> str:
        """How a question would be answered: the plan's steps and the SQL, without running it."""
        with self._audited("explain") as note:
            store = self._own_or_refuse()
            from gnomon.query.model import Query
            from gnomon.query.outline import outline
            from gnomon.query.widening import widened

            named = {("dataset_name" if name == "dataset" else name): value for name, value in rest.items()}
            query = Query.build(metrics, dimensions, **named)
            note.detail = outline(query)
            return self._inquiry().explain(widened(query, self._pseudonyms), store, note)
