"""One question after the other to one project of a store: what is known of the data, a plan, its answer, kept answers.

Loaded with the first question, as a program that only records needs none of it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from gnomon.access import Note
from gnomon.catalog import EVENTS
from gnomon.config import Settings
from gnomon.errors import InvalidValue, StoreDamaged, StoreUnavailable
from gnomon.query.answer import Answer, Ask, decode_cursor
from gnomon.query.compile import compile_plan
from gnomon.query.gaps import read_alive, with_own
from gnomon.query.model import Query
from gnomon.query.plan import Facts, Plan, make_plan, shifted
from gnomon.query.result import Result
from gnomon.query.rolling import rolling_result, rolling_statement
from gnomon.query.sources import RolledUp, lost_spans
from gnomon.query.timeline import Seen, seen, statements
from gnomon.store import Store, Table
from gnomon.store.aliveness import ALIVE, Span, joined, slack_us
from gnomon.store.dialect import quoted
from gnomon.store.pruning import LOST_PEOPLE, LOST_SUMS
from gnomon.store.rollups import PRUNED, SIGHTED, STATE, any_late
from gnomon.timerange import US_DAY, Clock, to_us

if TYPE_CHECKING:
    from gnomon.query.shared import SharedAnswers

MOST_TRIES = 20


class Inquiry:
    """Answers checked questions of one project; remembers what it knows of the data, and answers, by data version."""

    def __init__(self, settings: Settings, clock: Clock, zone: ZoneInfo, own_span: Callable[[], Span | None],
                 took: Callable[[float], None]) -> None:  # fmt: skip
        """`own_span` says since when the asking engine itself was there to record; `took` is told of each question
        that the store answered how many seconds it took."""
        self._settings, self._clock, self._zone, self._own_span, self._took = settings, clock, zone, own_span, took
        self._answers = AnswerCache(settings.cache_entries, settings.cache_seconds)
        self._shared = _shared_answers(settings) if settings.cache_url else None
        self._known: tuple[Any, ...] | None = None  # by data version

    def drop_shared(self, store: Store) -> None:
        """Remove what is kept of this project outside of the process: somebody was forgotten."""
        if self._shared is not None:
            self._shared.drop(store, self._settings.project)

    def patient(self, seconds: float) -> Inquiry:
        """One of the same project that may take longer for a question, and keeps no answers."""
        settings = replace(self._settings, query_timeout_seconds=seconds, cache_entries=0)
        return Inquiry(settings, self._clock, self._zone, self._own_span, self._took)

    @property
    def zone(self) -> ZoneInfo:
        """The first zone of the project."""
        return self._zone

    def answer(self, query: Query, store: Store, note: Note) -> Result:
        """Answer a question from the store, and note for the audit of what range and how much was told."""
        cursor = None if query.after is None else decode_cursor(query.after)
        for _ in range(MOST_TRIES):
            facts = replace(self._facts(store, query.data.name), as_of=cursor[0] if cursor else None)
            plan = make_plan(query, self._settings.project, facts, cursor[1] if cursor else None)
            note.range = plan.range
            result = Answer(self._ask, store, plan, facts, cursor).result()
            if self._still_holds(plan, facts, store, cursor[1] if cursor else None):
                note.rows = len(result)
                return result
        raise _restless()

    def several(self, queries: Sequence[Query], store: Store) -> list[Result | InvalidValue]:
        """Answers to several questions about events, all from one snapshot, each as one page and without comparison.

        In the place of what only pruned rows could answer stands the error. What else is wrong with a question raises.
        """
        for _ in range(MOST_TRIES):
            facts = self._facts(store, EVENTS.name)
            plans = [self._plan_or_refusal(query, facts) for query in queries]
            sound = [plan for plan in plans if isinstance(plan, Plan)]
            made = [Answer(self._ask, store, plan, facts, None, pages=False) for plan in sound]
            parts = [answer.statements() for answer in made]
            ask = _reading(parts, *self._ask(store, [text for part in parts for text in part], facts.version))
            for answer in made:
                answer.ask = ask
            results = iter(made)
            answers = [next(results).result() if isinstance(plan, Plan) else plan for plan in plans]
            if all(self._still_holds(plan, facts, store, None) for plan in sound):
                return answers
        raise _restless()

    def _plan_or_refusal(self, query: Query, facts: Facts) -> Plan | InvalidValue:
        try:
            return make_plan(query, self._settings.project, facts)
        except InvalidValue as error:
            if error.code != "raw-rows-gone":
                raise
            return error

    def rolling(self, query: Query, window: int, store: Store, note: Note) -> Result:
        """People by day over the `window` days that end with each; see `query.rolling`."""
        for _ in range(MOST_TRIES):
            facts = self._facts(store, query.data.name)
            plan = make_plan(query, self._settings.project, facts)
            note.range = plan.range
            sql = rolling_statement(plan, store.dialect, window)
            (table,), cached = self._ask(store, [sql], facts.version)
            if self._still_holds(plan, facts, store, None):
                result = rolling_result(plan, window, table.rows, to_us(facts.now), sql, cached=cached)
                note.rows = len(result)
                return result
        raise _restless()

    def person(self, ids: Sequence[str], recent: int, store: Store) -> Seen:
        """What the store knows of a person who may be kept under any of these ids."""
        asked = statements(self._settings.project, ids, recent)
        return seen(self._ask(store, asked, store.data_version(), shared=False)[0])  # it is all about one person

    def earliest(self, store: Store) -> Callable[[], int | None]:
        """When the first event was, for ranges that begin with it; asked only if it is called."""
        return lambda: self._earliest(store, EVENTS.name)

    def _still_holds(self, plan: Plan, facts: Facts, store: Store, span: tuple[int, int] | None) -> bool:
        """Whether the answer just given rests on what it was planned for, though something was stored meanwhile.

        What is rolled up, pruned, weighted or sighted only ever grows, so a plan that would be made again just so
        was right all along. Who is there goes on by itself, and is not looked at.
        """
        if facts.settled and store.data_version() == facts.version:
            return True
        known = self._facts(store, plan.query.data.name)
        again = replace(known, now=facts.now, version=facts.version, as_of=facts.as_of, alive=facts.alive)
        same = make_plan(plan.query, self._settings.project, again, span) == plan
        return same and (plan.query.compare is None or shifted(plan, again) == shifted(plan, facts))

    def explain(self, query: Query, store: Store, note: Note) -> str:
        """The plan's steps and its SQL."""
        plan = make_plan(query, self._settings.project, self._facts(store, query.data.name))
        note.range = plan.range
        return "\n".join([*plan.steps, compile_plan(plan, store.dialect)])

    def plan(self, query: Query, store: Store) -> Plan:
        """How a question would be answered now, for what reads the same rows in another way."""
        return make_plan(query, self._settings.project, self._facts(store, query.data.name))

    def _facts(self, store: Store, table: str) -> Facts:
        version = store.data_version()
        known = self._known
        if known is None or known[0] != version:
            known = (version, *self._look(store))
            if version % 2 == 0 and store.data_version() == version:
                self._known = known
        _, spans, rolled_up, late, pruned, sighted, alive = known
        return Facts(
            now=self._clock(), zone=self._zone, earliest_us=lambda: self._earliest(store, table),
            weighted_spans=spans, version=version, max_buckets=self._settings.max_buckets,
            max_rows=self._settings.max_rows, rolled_up=rolled_up, late=late, pruned=pruned, sighted=sighted,
            settled=known is self._known, alive=self._alive(store, alive),
        )  # fmt: skip

    def lost(self, store: Store) -> list[tuple[int, int]]:
        """The spans of time of which rollups were lost, for the health of the project."""
        asked = PRUNED.format(quoted(self._settings.project))
        try:
            (pruned,) = store.ask([asked], self._settings.query_timeout_seconds)
        except StoreDamaged:
            return []  # which is told by itself
        return lost_spans(((kind, first, before) for kind, first, before in pruned.rows), (LOST_SUMS, LOST_PEOPLE))

    def alive(self, store: Store) -> tuple[Span, ...]:
        """When somebody was there to record, for the health of the project."""
        settings = self._settings
        return self._alive(store, read_alive(store, settings.project, settings.query_timeout_seconds))

    def _alive(self, store: Store, known: tuple[Span, ...]) -> tuple[Span, ...]:
        """When somebody was there. Beats that only go on do not change the data version: this engine was there itself
        since it was opened; one that was not looks again."""
        settings = self._settings
        if not settings.heartbeat_seconds:
            return ()
        own = self._own_span()
        if own is None and known:
            known = read_alive(store, settings.project, settings.query_timeout_seconds)
        return with_own(known, own, slack_us(settings))

    def _look(self, store: Store) -> tuple[Any, ...]:
        me = quoted(self._settings.project)
        asked = [_spans_sql(me), *(words.format(me) for words in (STATE, PRUNED, SIGHTED))]
        spans, state, pruned, sighted = store.ask(asked, self._settings.query_timeout_seconds)
        weighted = tuple((first, last) for kind, first, last in spans.rows if kind == "weighted")
        alive = tuple(joined([(first, last) for kind, first, last in spans.rows if kind == "alive"], 0))
        rolled = _rolled_up(state)
        # Asked after the state, so that it can only be true too often where something happens in between.
        late = rolled is not None and self._any_late(store, rolled)
        return weighted, rolled, late, tuple(pruned.rows), bool(sighted.rows[0][0]), alive

    def _any_late(self, store: Store, rolled: RolledUp) -> bool:
        asked = any_late(self._settings.project, rolled.until_us, rolled.version)
        return bool(store.ask([asked], self._settings.query_timeout_seconds)[0].rows)

    def _earliest(self, store: Store, table: str) -> int | None:
        me = f"project = {quoted(self._settings.project)}"
        sql = f"SELECT epoch_us(min(ts)) FROM {table} WHERE {me}"
        if table == "events":  # raw rows may be gone
            hours, days = (f"(SELECT min(ts) FROM rolled WHERE {me} AND tier {tier})" for tier in _TIERS)
            rolled = f"CASE WHEN {hours} < {days} + INTERVAL '36 hours' THEN {hours} ELSE {days} END"
            seen = f"SELECT epoch_us(min(ts)) FROM sightings WHERE {me}"
            lost = f"SELECT min(epoch_us(before)) - {US_DAY} FROM pruned WHERE {me} AND kind = {quoted(LOST_SUMS)}"
            sql = f"SELECT least(({sql}), ({seen}), epoch_us({rolled}), ({lost}))"
        else:  # what came late for a time that was pruned is not all of it
            pruned = f"SELECT max(before) FROM pruned WHERE {me} AND kind = 'sample'"
            sql += f" AND ts >= coalesce(({pruned}), make_timestamp(0))"
        found: int | None = store.ask([sql], self._settings.query_timeout_seconds)[0].rows[0][0]
        return found

    def _ask(self, store: Store, statements: list[str], version: int, *, shared: bool = True
             ) -> tuple[list[Table], bool]:  # fmt: skip
        """Answers to the statements, from memory or Redis where they are kept."""
        key = (tuple(statements), version)
        kept = self._answers.get(key)
        if kept is not None:
            return kept, True
        answers, place = self._shared if shared else None, None
        if answers is not None:
            known, place = answers.find(store, self._settings.project, statements, version)
            if known is not None:
                self._answers.put(key, known)
                return known, True
        began = time.monotonic()
        tables = store.ask(statements, self._settings.query_timeout_seconds)
        self._took(time.monotonic() - began)
        if answers is not None:
            answers.put(place, store, tables)
        if version % 2 == 0 and store.data_version() == version:
            self._answers.put(key, tables)
        return tables, False


def _reading(parts: list[list[str]], tables: list[Table], cached: bool) -> Ask:
    """Tells the tables of the statements of each part, which were asked in a row."""
    rest = iter(tables)
    told = {tuple(part): [next(rest) for _ in part] for part in parts}

    def ask(_store: Store, statements: list[str], _version: int) -> tuple[list[Table], bool]:
        return told[tuple(statements)], cached

    return ask


def _shared_answers(settings: Settings) -> SharedAnswers | None:
    from gnomon.query.shared import shared_answers  # deferred: most programs have no Redis

    return shared_answers(settings)


def _restless() -> StoreUnavailable:
    return StoreUnavailable("rollups or pruning went on throughout the question", remedy="Ask it again.")


def _rolled_up(state: Table) -> RolledUp | None:
    if not state.rows:
        return None
    until, version, width, rollups, zones = state.rows[0]
    return RolledUp(until, version, width, tuple(rollups.split(",")), tuple(zones.split(",")))


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


def _spans_sql(me: str) -> str:
    """Both kinds of spans in one statement: another one would cost as much as the shortest question (0.2 ms)."""
    weighted = f"SELECT 'weighted', epoch_us(first_ts), epoch_us(last_ts) FROM weighted WHERE project = {me}"
    return f"{weighted} UNION ALL SELECT 'alive', * FROM ({ALIVE.format(me)}) AS alive"
