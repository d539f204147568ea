"""How long data is kept: the policy, the legal hold, and pruning, which never changes a total.

Raw rows go only after everything of their time is in the rollups, on a UTC midnight; what only raw rows could answer
is refused from then on, and events that come for that time are rejected as sealed. Without a policy nothing goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from gnomon.config import Settings
from gnomon.errors import InvalidValue, StoreUnavailable, unknown_name
from gnomon.ingest.writer import Writer
from gnomon.store import Store
from gnomon.store import pruning as sql
from gnomon.store.dialect import quoted
from gnomon.store.rollups import STATE
from gnomon.timerange import US_DAY, from_us, to_us
from gnomon.upkeep.rollup import roll_up

_KEPT = "retention:"
AS_IT_IS: Any = msgspec.UNSET  #: of a field that is not given


class RetentionPolicy(msgspec.Struct, frozen=True):
    """Days that raw rows, hourly and daily rollups are kept (None: for ever), with raw <= hourly <= daily.

    `by_type` holds days of raw rows for single event types; `metric_days` is for metric samples. What is left out stays
    as it is when the policy is set, a legal hold as well; the policy in force has every field.
    """

    raw_data_days: int | None = AS_IT_IS
    hourly_aggregates_days: int | None = AS_IT_IS
    daily_aggregates_days: int | None = AS_IT_IS
    metric_days: int | None = AS_IT_IS
    by_type: dict[str, int] = AS_IT_IS
    legal_hold_until: datetime | None = AS_IT_IS

    def plain(self) -> dict[str, Any]:
        """The policy as plain values of JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def check(self) -> None:
        """Raises `InvalidValue` (code `bad-policy`) for days below 1 or in the wrong order."""
        if type(self.by_type) is not dict or any(type(name) is not str or not name for name in self.by_type):
            raise _bad("by_type holds days by event type, a text that is not empty")
        days = [self.raw_data_days, self.hourly_aggregates_days, self.daily_aggregates_days]
        for value in [*days, self.metric_days, *self.by_type.values()]:
            if value is not None and (type(value) is not int or not 1 <= value <= 36_500):
                raise _bad("days are whole numbers of 1 to 36500, or None")
        known = [float("inf") if value is None else value for value in days]
        if known != sorted(known) or any(value > known[1] for value in self.by_type.values()):
            raise _bad("raw rows cannot be kept longer than hourly rollups, nor those longer than daily ones")
        until = self.legal_hold_until
        if until is not None and (not isinstance(until, datetime) or until.tzinfo is None):
            raise _bad("the end of a legal hold is a moment with a time zone")


class PruneReport(msgspec.Struct):
    """Rows that went (or would go) by what they were, and the bytes that the store became smaller.

    In a dry run these are an estimate: what rows of the table take in the mean, so it is good to about a factor of two;
    0 where the store is in memory.
    """

    dry_run: bool
    raw: int = 0
    hourly: int = 0
    daily: int = 0
    samples: int = 0
    bytes_freed: int = 0
    seconds: float = 0.0


def key_of(project: str) -> str:
    """Under which key the policy of a project is kept."""
    return _KEPT + project


def read_policy(kept: str | None, settings: Settings) -> RetentionPolicy:
    """The project's policy: the kept one, else what the settings say."""
    if kept is not None:
        return whole(msgspec.json.decode(kept, type=RetentionPolicy))
    return RetentionPolicy(settings.event_retention_days, None, None, settings.metrics_retention_days, {}, None)


def changed(policy: RetentionPolicy, wanted: RetentionPolicy | None, days: dict[str, Any],
            now: datetime) -> RetentionPolicy:  # fmt: skip
    """The policy with the fields that are given changed, and no other.

    Raises `UnknownName` for one that does not exist, `InvalidValue` for a policy that cannot be.
    """
    known = RetentionPolicy.__struct_fields__
    for name in days:
        if name not in known:
            raise unknown_name("field of a policy", name, known)
    given = {**({} if wanted is None else _given(wanted)), **days}
    found = msgspec.structs.replace(policy, **{name: value for name, value in given.items() if value is not AS_IT_IS})
    found.check()
    until = found.legal_hold_until
    if until is not None and until != policy.legal_hold_until and until <= now:
        raise _bad("a legal hold cannot end in the past; None lifts it")
    return found


def whole(policy: RetentionPolicy) -> RetentionPolicy:
    """A policy with every field, as it is where nothing else was ever set: of another version, or of a service."""
    return msgspec.structs.replace(RetentionPolicy(None, None, None, None, {}, None), **_given(policy))


def policy_text(policy: RetentionPolicy) -> str:
    """A policy as it is kept."""
    return msgspec.json.encode(policy).decode()


def prune(store: Store, writer: Writer, settings: Settings, policy: RetentionPolicy, now: datetime,
          dry_run: bool) -> PruneReport:  # fmt: skip
    """Delete what the policy no longer keeps, a day at a time; with `dry_run` only count it. Both roll up first.

    Raises `InvalidValue` with code `legal-hold` while a hold is in force.
    """
    started = time.monotonic()
    report = PruneReport(dry_run)
    if not dry_run:
        check_hold(policy, now)
        writer.part_with_journal()
    run = _Pruning(store, writer, settings.project, dry_run)
    now_us, before = to_us(now), store.disk_bytes()
    raw = policy.raw_data_days is not None or bool(policy.by_type)
    if raw:
        roll_up(store, writer, settings, now_us)
    report.raw = run.raw(policy, now_us) if raw else 0
    report.hourly = run.rolled("hour", _hours_edge(policy, now_us))
    report.daily = run.rolled("day", _edge(now_us, policy.daily_aggregates_days))
    report.samples = run.samples(_edge(now_us, policy.metric_days))
    went = bool(report.raw + report.hourly + report.daily + report.samples)
    if dry_run and went:
        writer.checkpoint()  # so that what was rolled up is in the sizes
        report.bytes_freed = run.estimate(report, _edge(now_us, policy.daily_aggregates_days))
    elif run.changed:  # also where nothing went: what is sealed must stay so after a crash
        writer.checkpoint()  # by itself, so that batches are stored between it and the file being written anew
        if went:
            writer.checkpoint(compact=True)
        report.bytes_freed = max(0, before - store.disk_bytes())
    report.seconds = time.monotonic() - started
    return report


def check_hold(policy: RetentionPolicy, now: datetime) -> None:
    """Raises `InvalidValue` with code `legal-hold` while a hold is in force."""
    if policy.legal_hold_until is not None and now < policy.legal_hold_until:
        raise InvalidValue(
            "a legal hold is in force, nothing may be deleted", code="legal-hold",
            remedy=f"Wait until {policy.legal_hold_until.isoformat()}, or have it lifted by set_legal_hold(None).",
        )  # fmt: skip


class _Pruning:
    def __init__(self, store: Store, writer: Writer, project: str, dry_run: bool) -> None:
        self.store, self.writer, self.project, self.dry_run = store, writer, project, dry_run
        self.changed = False

    def raw(self, policy: RetentionPolicy, now_us: int) -> int:
        """Prune raw rows of every type that has its own days, and of all others together."""
        known: dict[str | None, int] = dict(self._ask(sql.edges(self.project, "raw")))
        own = sorted({*policy.by_type, *(name for name in known if name is not None)})
        gone = 0
        for type_ in [*own, None]:
            days = policy.raw_data_days if type_ is None else policy.by_type.get(type_, policy.raw_data_days)
            edge = _edge(now_us, days)
            done: int = known.get(type_, known.get(None, _NEVER))
            if type_ is not None and type_ not in known and done > _NEVER:  # the others go on without it
                self._change(sql.note_edge(self.project, "raw", type_, done))
            if edge is None:
                continue
            gone += self._raw_of(type_, own, edge, done)
        return gone

    def _raw_of(self, type_: str | None, own: list[str], edge: int, done: int) -> int:
        only = sql.only_type(type_, own)
        gone = 0
        for start, end, rows in self._days(edge, only):
            self._check_rolled(start, end, only)
            gone += rows
            noted = sql.note_edge(self.project, "raw", type_, max(end, done))
            self._change([*noted, *sql.prune_raw(self.project, start, end, only)])
        if edge > done:
            self._change(sql.note_edge(self.project, "raw", type_, edge))
        return gone

    def _check_rolled(self, start: int, end: int, only: str) -> None:
        """What is about to go must be in the rollups. Raises `StoreUnavailable` (rollup-incomplete) where it is not."""
        if self.dry_run:
            return
        ((_, _, _, names, _),) = self._ask(STATE.format(quoted(self.project)))
        ((raw, *kept),) = self._ask(sql.weights(self.project, start, end, only, names.split(",")))
        if min(kept) < raw * (1 - 1e-9):
            raise StoreUnavailable(
                f"the rollups of {from_us(start):%Y-%m-%d} hold less than the raw rows, so these are not pruned",
                code="rollup-incomplete", remedy="Please report this; restore a backup, or keep the raw rows.",
            )  # fmt: skip

    def _days(self, edge: int, only: str) -> Iterator[tuple[int, int, int]]:
        for day, rows in self._ask(sql.raw_days(self.project, edge, only)):
            yield day * US_DAY, min(edge, (day + 1) * US_DAY), rows

    def rolled(self, tier: str, edge: int | None) -> int:
        """Prune one tier of the rollups."""
        if edge is None:
            return 0
        ((rows,),) = self._ask(sql.count_rolled(self.project, edge, tier))
        known: dict[str | None, int] = dict(self._ask(sql.edges(self.project, tier)))
        if edge > known.get(None, _NEVER):
            steps = sql.prune_rolled(self.project, tier, edge)
            self._change([*sql.note_edge(self.project, tier, None, edge), *steps])
        return int(rows)

    def samples(self, edge: int | None) -> int:
        """Prune metric samples."""
        if edge is None:
            return 0
        ((rows,),) = self._ask(sql.count_samples(self.project, edge))
        if rows:
            self._change([*sql.note_edge(self.project, "sample", None, edge), *sql.prune_samples(self.project, edge)])
        return int(rows)

    def estimate(self, report: PruneReport, days_edge: int | None) -> int:
        """About how many bytes would be given back."""
        sizes = self.store.sizes()
        gone = {"events": report.raw, "rolled": report.hourly + report.daily, "samples": report.samples}
        gone["sightings"] = sizes.tables["sightings"][0] * report.raw // max(1, sizes.tables["events"][0])
        if days_edge is not None:
            gone |= zip(
                ("activity", "active_days"), self._ask(sql.count_daily(self.project, days_edge))[0], strict=True
            )
        return int(sizes.spare + sum(sizes.of(table, rows) for table, rows in gone.items()))

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        return self.store.ask([statement], 600.0)[0].rows

    def _change(self, statements: list[str]) -> None:
        if not self.dry_run:
            with self.writer.paused():
                self.store.change(statements)
            self.changed = True


_NEVER = -(2**62)


def _edge(now_us: int, days: int | None) -> int | None:
    """The UTC midnight before which nothing is kept."""
    return None if days is None else (now_us // US_DAY - days) * US_DAY


def _hours_edge(policy: RetentionPolicy, now_us: int) -> int | None:
    """As `_edge`, and two days before the raw rows end: the local day in which they do can then be made again of its
    hours, as erasure does."""
    edges = [_edge(now_us, policy.hourly_aggregates_days)]
    for days in (policy.raw_data_days, *policy.by_type.values()):
        if days is not None and edges[0] is not None:
            edges.append((now_us // US_DAY - days - 2) * US_DAY)
    return None if edges[0] is None else min(edge for edge in edges if edge is not None)


def _given(policy: RetentionPolicy) -> dict[str, Any]:
    found = {name: getattr(policy, name) for name in policy.__struct_fields__}
    return {name: value for name, value in found.items() if value is not AS_IT_IS}


def _bad(message: str) -> InvalidValue:
    return InvalidValue(message, remedy="For example gnomon.RetentionPolicy(90, 180, 730).", code="bad-policy")
