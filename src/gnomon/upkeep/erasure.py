"""Forgetting a person: no byte of their id, or of what was told about them, stays in the store or the journal.

Their rows stay as anonymous counts (or go, if asked), so totals do not change; the rollups of the days on which they
were are made again, so that rollup = recount still holds. Afterwards the files are written anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from gnomon.ingest.journal import Journal
from gnomon.ingest.writer import Writer
from gnomon.query.zones import local_day
from gnomon.store import Store
from gnomon.store import erasing as sql
from gnomon.store import rollups as rolled
from gnomon.store.dialect import quoted
from gnomon.store.erasing import Traces
from gnomon.store.pruning import edges
from gnomon.timerange import US_DAY, Grain, load_zone, period_number, period_start_us
from gnomon.upkeep.aging import BackupsLeft, last_gone


@dataclass(frozen=True)
class ErasureCertificate:
    """What was erased, where and when. Neither the id nor anything about the person is in it.

    `rows`: their events; `named`: events of others, and `samples`, that named them; `days`: UTC days whose rollups were
    made again; `deleted`: whether the rows went or stayed as anonymous counts; `remaining`: what may still hold traces
    and is not ours to change: damaged files that were set aside, targets of backups that could not be looked at;
    `backups`: what each target holds and until when; `backups_gone`: when the last backup is gone, None where there is
    none or where some do not go by themselves.
    """

    at: datetime
    deleted: bool
    rows: int
    named: int
    samples: int
    quarantined: int
    days: int
    remaining: tuple[str, ...]
    backups_gone: datetime | None = None
    backups: tuple[BackupsLeft, ...] = ()

    def with_backups(self, left: tuple[BackupsLeft, ...]) -> ErasureCertificate:
        """The same, saying where backups are left."""
        unseen = tuple(one.target for one in left if one.backups is None)
        return replace(self, remaining=self.remaining + unseen, backups=left, backups_gone=last_gone(left))


def forget(store: Store, writer: Writer, journal: Journal, project: str, who: Traces, *, delete: bool,
           now: datetime, remaining: tuple[str, ...]) -> ErasureCertificate:  # fmt: skip
    """Erase one person from a project. Everything recorded before the call must be durable already (`flush`)."""
    with writer.paused():
        writer.catch_up()
        writer.part_with_journal()
        asked = [sql.counts(project, who), sql.touched_days(project, who)]
        found, days = store.ask(asked, 3_600.0)
        own, named, samples, quarantined = found.rows[0]
        store.change(sql.erase(project, who, delete=delete))
        touched = [day for (day,) in days.rows]
        for statements in _rebuilds(store, project, touched):
            store.change(statements)
        writer.checkpoint(compact=True)
        journal.purge()
    return ErasureCertificate(now, delete, own, named, samples, quarantined, len(touched), remaining)


def _rebuilds(store: Store, project: str, days: list[int]) -> Iterator[list[str]]:
    """The statements that make the rollups of these UTC days again, one list for each transaction."""
    state = store.ask([rolled.STATE.format(quoted(project))], 60.0)[0].rows
    if not state:
        return
    until, version, width, names, zones = state[0]
    rollups = names.split(",")
    raw_gone, hours_gone = (_edges(store, project, kind) for kind in ("raw", "hour"))
    days = [day for day in days if hours_gone.get(None, 0) <= day * US_DAY < until]
    for day in days:
        only = sql.whole_types(raw_gone, day * US_DAY)
        if only is not None:
            asked = sql.any_weights(project, sql.raw_of_day(day, until, version, only))
            weighted = store.ask([asked], 600.0)[0].rows[0][0]
            yield sql.rebuild_hours(
                store.dialect.rollups, project, width, rollups, day, until, version, only, weighted=weighted
            )
    for name in zones.split(","):
        zone = load_zone(name)
        numbers = {period_number(Grain.DAY, day * US_DAY + at, zone) for day in days for at in (0, US_DAY - 1)}
        for number in sorted(numbers):
            start, end = (period_start_us(Grain.DAY, each, zone) for each in (number, number + 1))
            if hours_gone.get(None, start) <= start < end:
                local = rolled.Days(name, local_day(store.dialect, zone, start, end), [(number, start)])
                yield sql.rebuild_day(store.dialect.rollups, project, rollups, local, start, end)


def _edges(store: Store, project: str, kind: str) -> dict[str | None, int]:
    return dict(store.ask([edges(project, kind)], 60.0)[0].rows)
