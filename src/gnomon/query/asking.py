"""The asking side of the engine: run a query through its plan, fill and page the rows, keep answers for repeats."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

from gnomon.access import Note
from gnomon.config import Settings
from gnomon.errors import StoreUnavailable, unknown_name
from gnomon.query.model import Query
from gnomon.query.outline import outline
from gnomon.query.plan import Facts, Plan, make_plan, shifted
from gnomon.query.result import Result
from gnomon.query.sources import RolledUp
from gnomon.store import Store, Table
from gnomon.store.dialect import quoted
from gnomon.store.rollups import PRUNED, SIGHTED, STATE
from gnomon.timerange import Clock

_SUMMARY_FIELDS = {
    "source": "source", "application": "application", "app": "application", "domain": "domain", "method": "method",
    "endpoint": "endpoint", "type": "type", "success": "success", "status_code": "status_code", "user_id": "user_id",
}  # fmt: skip


class Asking:
    """Questions to the store. Mixed into the engine, which knows the store, the clock and the project."""

    settings: Settings
    clock: Clock
    zone: ZoneInfo

    def _own_or_refuse(self) -> Store:
        raise NotImplementedError

    def _audited(self, operation: str, **said: Any) -> AbstractContextManager[Note]:
        raise NotImplementedError

    def _reset_asking(self) -> None:
        self._answers = AnswerCache(self.settings.cache_entries, self.settings.cache_seconds)
        self._facts_cache: tuple[Any, ...] | None = None  # by data version

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
            return self._run(Query.build(metrics, dimensions, date_range, filters, timezone, order_by, limit, compare,
                                         after, totals, dataset, basis), note)  # fmt: skip

    def run(self, query: Query) -> Result:
        """Answer a checked `Query`."""
        with self._audited("query") as note:
            return self._run(query, note)

    def _run(self, query: Query, note: Note) -> Result:
        from gnomon.query.answer import Answer, decode_cursor  # deferred: building SQL is not needed to record

        note.detail = outline(query)
        store = self._own_or_refuse()
        cursor = None if query.after is None else decode_cursor(query.after)
        for _ in range(MOST_TRIES):
            facts = replace(self._facts(store, query.data.name), as_of=cursor[0] if cursor else None)
            plan = make_plan(query, self.settings.project, facts, cursor[1] if cursor else None)
            note.range = plan.range
            result = Answer(self._ask, store, plan, facts, cursor).result()
            if self._still_holds(plan, facts, store, cursor[1] if cursor else None):
                note.rows = len(result)
                return result
        raise StoreUnavailable("rollups or pruning went on throughout the question", remedy="Ask it again.")

    def _still_holds(self, plan: Plan, facts: Facts, store: Store, span: tuple[int, int] | None) -> bool:
        """Whether the answer just given rests on what it was planned for, though something was stored meanwhile.

        What is rolled up, pruned, weighted or sighted only ever grows, so a plan that would be made again just so
        was right all along.
        """
        if facts.settled and store.data_version() == facts.version:
            return True
        known = self._facts(store, plan.query.data.name)
        again = replace(known, now=facts.now, version=facts.version, as_of=facts.as_of)
        same = make_plan(plan.query, self.settings.project, again, span) == plan
        return same and (plan.query.compare is None or shifted(plan, again) == shifted(plan, facts))

    def explain(self, metrics: Sequence[Any], dimensions: Sequence[str] = (), **rest: Any) -> str:
        """How a question would be answered: the plan's steps and the SQL, without running it."""
        from gnomon.query.compile import compile_plan

        with self._audited("explain") as note:
            store = self._own_or_refuse()
            query = Query.build(
                metrics, dimensions, **{("dataset_name" if k == "dataset" else k): v for k, v in rest.items()}
            )
            note.detail = outline(query)
            plan = make_plan(query, self.settings.project, self._facts(store, query.data.name))
            note.range = plan.range
            return "\n".join([*plan.steps, compile_plan(plan, store.dialect)])

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

    def _facts(self, store: Store, table: str) -> Facts:
        version = store.data_version()
        known = self._facts_cache
        if known is None or known[0] != version:
            known = (version, *self._known_facts(store))
            if version % 2 == 0 and store.data_version() == version:
                self._facts_cache = known
        _, spans, rolled_up, pruned, sighted = known
        return Facts(self.clock(), self.zone, lambda: self._earliest(store, table), spans, version,
                     self.settings.max_buckets, self.settings.max_rows, rolled_up, pruned, sighted,
                     settled=known is self._facts_cache)  # fmt: skip

    def _known_facts(self, store: Store) -> tuple[Any, ...]:
        me = quoted(self.settings.project)
        asked = [_weighted_sql(me), *(words.format(me) for words in (STATE, PRUNED, SIGHTED))]
        weighted, state, pruned, sighted = store.ask(asked, self.settings.query_timeout_seconds)
        return tuple(weighted.rows), _rolled_up(state), tuple(pruned.rows), bool(sighted.rows[0][0])

    def _earliest(self, store: Store, table: str) -> int | None:
        me = f"project = {quoted(self.settings.project)}"
        sql = f"SELECT epoch_us(min(ts)) FROM {table} WHERE {me}"
        if table == "events":  # raw rows may be gone
            hours, days = (f"(SELECT min(ts) FROM rolled WHERE {me} AND tier {tier})" for tier in _TIERS)
            rolled = f"CASE WHEN {hours} < {days} + INTERVAL 36 HOURS THEN {hours} ELSE {days} END"
            seen = f"SELECT epoch_us(min(ts)) FROM sightings WHERE {me}"
            sql = f"SELECT least(({sql}), ({seen}), epoch_us({rolled}))"
        found: int | None = store.ask([sql], self.settings.query_timeout_seconds)[0].rows[0][0]
        return found

    def _ask(self, store: Store, statements: list[str], version: int) -> tuple[list[Table], bool]:
        """Answers to the statements, from memory where they are kept."""
        key = (tuple(statements), version)
        kept = self._answers.get(key)
        if kept is not None:
            return kept, True
        tables = store.ask(statements, self.settings.query_timeout_seconds)
        if version % 2 == 0 and store.data_version() == version:
            self._answers.put(key, tables)
        return tables, False


MOST_TRIES = 20


def _rolled_up(state: Table) -> RolledUp | None:
    if not state.rows:
        return None
    until, version, width, dimensions, zones = state.rows[0]
    return RolledUp(until, version, width, tuple(dimensions.split(",")), tuple(zones.split(",")))


_TIERS = ("= 'hour'", "LIKE 'day:%'")


class AnswerCache:
    """Answers by (statements, data version): the least recently used goes first, and each after `seconds`."""

    def __init__(self, entries: int, seconds: float) -> None:
        self._entries, self._seconds = entries, seconds
        self._kept: OrderedDict[Any, tuple[float, list[Table]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> list[Table] | None:
        """The answer kept under `key`, unless it is too old."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or time.monotonic() - kept[0] > self._seconds:
                return None
            self._kept.move_to_end(key)
            return kept[1]

    def put(self, key: Any, tables: list[Table]) -> None:
        """Keep an answer, unless it is a big one (more than 20,000 rows)."""
        if self._entries and sum(len(table.rows) for table in tables) <= 20_000:
            with self._lock:
                self._kept[key] = (time.monotonic(), tables)
                while len(self._kept) > self._entries:
                    self._kept.popitem(last=False)


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


def _weighted_sql(me: str) -> str:
    return f"SELECT epoch_us(first_ts), epoch_us(last_ts) FROM weighted WHERE project = {me}"
