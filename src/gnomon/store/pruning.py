"""The SQL of pruning: what goes, what is noted about it, and what a dry run counts. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.store.aliveness import prune_alive
from gnomon.store.dialect import quoted
from gnomon.store.weights import prune_weights
from gnomon.timerange import US_DAY

#: Kinds of `pruned` that say that the sums, or the people, of rollups are gone: `type` is the first moment as text.
LOST_SUMS, LOST_PEOPLE = "lost-sums", "lost-people"

_EDGES = "SELECT type, epoch_us(before) FROM pruned WHERE project = {} AND kind = {}"


def edges(project: str, kind: str) -> str:
    """`(type, before)` up to which a kind was pruned; the type is NULL for all types that have no row of their own."""
    return _EDGES.format(quoted(project), quoted(kind))


def raw_days(project: str, before_us: int, only: str) -> str:
    """`(UTC day, rows)` of raw rows before a moment."""
    return (
        f"SELECT divide(epoch_us(ts), {US_DAY}), count(*) FROM events WHERE project = {quoted(project)} AND "
        f"ts < make_timestamp({before_us}) AND {only} GROUP BY 1 ORDER BY 1"
    )


def prune_raw(project: str, since_us: int, before_us: int, only: str) -> list[str]:
    """Delete raw rows of a span that are in the rollups, and book them by source."""
    rolled = f"version <= (SELECT version FROM rolled_up WHERE project = {quoted(project)})"
    where = f"{_raw(project, since_us, before_us)} AND {only} AND {rolled}"
    return [
        f"INSERT INTO books SELECT {quoted(project)}, 'event', source, 'pruned', '', count(*) FROM events "
        f"WHERE {where} GROUP BY source",
        f"DELETE FROM events WHERE {where}",
        f"DELETE FROM sightings WHERE {where}",
    ]


def weights(project: str, since_us: int, before_us: int, only: str, rollups: Sequence[str]) -> str:
    """What the raw rows weigh that `prune_raw` would delete, and what each rollup holds of the same time and types."""
    rolled = f"version <= (SELECT version FROM rolled_up WHERE project = {quoted(project)})"
    span = _raw(project, since_us, before_us)
    raw = f"SELECT coalesce(sum(weight), 0) FROM events WHERE {span} AND {only} AND {rolled}"
    hours = f"SELECT coalesce(sum(n), 0) FROM rolled WHERE {span} AND tier = 'hour' AND {only} AND rollup = "
    return f"SELECT ({raw}), " + ", ".join(f"({hours}{quoted(rollup)})" for rollup in rollups)


def prune_rolled(project: str, tier: str, before_us: int) -> list[str]:
    """Delete the rows of a tier (`hour`, or `day` for all zones, with who was active) before a moment."""
    kind = "tier = 'hour'" if tier == "hour" else "tier LIKE 'day:%'"
    me = f"project = {quoted(project)}"
    steps = [f"DELETE FROM rolled WHERE {me} AND {kind} AND ts < make_timestamp({before_us})"]
    if tier == "day":
        steps += [f"DELETE FROM {table} WHERE {me} AND day < {before_us // US_DAY}" for table in _DAILY]
        steps += [prune_alive(project, before_us), prune_weights(project, before_us)]
    return steps


def count_rolled(project: str, before_us: int, tier: str) -> str:
    """How many rows of a tier lie before a moment."""
    kind = "tier = 'hour'" if tier == "hour" else "tier LIKE 'day:%'"
    return (
        f"SELECT count(*) FROM rolled WHERE project = {quoted(project)} AND {kind} AND ts < make_timestamp({before_us})"
    )


def count_daily(project: str, before_us: int) -> str:
    """How many rows of each table of who was active lie before a day."""
    before = f"project = {quoted(project)} AND day < {before_us // US_DAY}"
    return "SELECT " + ", ".join(f"(SELECT count(*) FROM {table} WHERE {before})" for table in _DAILY)


def prune_samples(project: str, before_us: int) -> list[str]:
    """Delete metric samples before a moment, and book them."""
    where = f"project = {quoted(project)} AND ts < make_timestamp({before_us})"
    return [
        f"INSERT INTO books SELECT {quoted(project)}, 'sample', NULL, 'pruned', '', count(*) FROM samples "
        f"WHERE {where} HAVING count(*) > 0",
        f"DELETE FROM samples WHERE {where}",
    ]


def count_samples(project: str, before_us: int) -> str:
    """How many metric samples lie before a moment."""
    return f"SELECT count(*) FROM samples WHERE project = {quoted(project)} AND ts < make_timestamp({before_us})"


def note_edge(project: str, kind: str, type_: str | None, before_us: int) -> list[str]:
    """Note up to where a kind (of one type, or of all others) is pruned."""
    same = "type IS NULL" if type_ is None else f"type = {quoted(type_)}"
    value = "NULL" if type_ is None else quoted(type_)
    me, what = quoted(project), quoted(kind)
    return [
        f"DELETE FROM pruned WHERE project = {me} AND kind = {what} AND {same}",
        f"INSERT INTO pruned VALUES ({me}, {what}, {value}, make_timestamp({before_us}))",
    ]


def only_type(type_: str | None, others: list[str]) -> str:
    """The condition of one type, or of all but `others`."""
    if type_ is not None:
        return f"type = {quoted(type_)}"
    return f"type NOT IN ({', '.join(map(quoted, others))})" if others else "true"


def _raw(project: str, since_us: int, before_us: int) -> str:
    return f"project = {quoted(project)} AND ts >= make_timestamp({since_us}) AND ts < make_timestamp({before_us})"


_DAILY = ("activity", "active_days")
