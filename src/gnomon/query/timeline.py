"""One person's events: when they were first and last seen, how many of each type, and the newest ones.

Raw rows where they are kept; where they were pruned, the activity of rollups, which knows the events of each day by
type and the quarter-hours in which there were any. All from one snapshot, so that no event is in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gnomon.query.result import finite
from gnomon.store import Table
from gnomon.store.dialect import quoted
from gnomon.store.pruning import LOST_PEOPLE
from gnomon.store.rollups import QUARTER
from gnomon.timerange import US_DAY

#: What is told of an event; never who it was of.
SHOWN = (
    "ts", "type", "source", "application", "domain", "endpoint", "method", "status_code", "success", "error_code",
    "duration_ms", "session_id", "device_id", "weight", "properties",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the store knows of a person; times in UTC microseconds. `by_type` has the most frequent first.

    `since_us`: the moment before which only rollups answer, None where nothing was pruned. Not `exact` where events
    have weights or were left out by sampling.
    """

    first_us: int | None
    last_us: int | None
    by_type: list[tuple[str, float]]
    failures: float
    mean_duration_ms: float | None
    recent: list[dict[str, Any]]
    exact: bool
    since_us: int | None


def statements(project: str, ids: Sequence[str], recent: int) -> list[str]:
    """What `seen` reads, for a person who may be kept under any of these ids."""
    me, who = f"project = {quoted(project)}", ", ".join(map(quoted, ids))
    own = f"(user_id IN ({who}) OR (user_id IS NULL AND device_id IN ({who})))"
    edges = f"(SELECT type, before FROM pruned WHERE {me} AND kind = 'raw')"
    general = f"(SELECT max(before) FROM {edges} AS g WHERE type IS NULL)"
    edge = f"COALESCE(p.before, {general}, make_timestamp(0))"
    version = f"COALESCE((SELECT max(version) FROM rolled_up WHERE {me}), -1)"
    mine = f"SELECT ts, type, version, weight, success, duration_ms FROM events WHERE {me} AND {own}"
    raw = f"(SELECT e.*, ts >= {edge} OR version > {version} AS kept FROM ({mine}) AS e LEFT JOIN {edges} AS p"
    timed = "weight) FILTER (WHERE duration_ms IS NOT NULL)"
    numbers = f"SELECT number FROM people WHERE {me} AND actor IN ({who})"
    days = f"SELECT day, type, weight, low, high FROM activity WHERE {me} AND person IN ({numbers})"
    return [
        "SELECT type, COALESCE(SUM(weight), 0), COALESCE(SUM(weight) FILTER (WHERE NOT success), 0), "
        f"SUM(weight * duration_ms), SUM({timed}, epoch_us(MIN(ts)), epoch_us(MAX(ts)), BOOL_OR(weight <> 1) "
        f"FROM {raw} ON p.type = e.type) AS r WHERE kept GROUP BY type",
        "SELECT type, day, SUM(weight), BIT_OR(low), BIT_OR(high) FROM "
        f"(SELECT a.*, make_timestamp(CAST(day AS BIGINT) * {US_DAY}) < {edge} AS gone FROM ({days}) AS a "
        f"LEFT JOIN {edges} AS p ON p.type = a.type) AS r WHERE gone GROUP BY type, day",
        f"SELECT epoch_us(MIN(ts)), epoch_us(MAX(ts)) FROM sightings WHERE {me} AND actor IN ({who})",
        f"SELECT epoch_us(MAX(before)), EXISTS (SELECT 1 FROM weighted WHERE {me} AND first_ts < (SELECT MAX(before) "
        f"FROM {edges} AS w)), EXISTS (SELECT 1 FROM pruned WHERE {me} AND kind = {quoted(LOST_PEOPLE)}) "
        f"FROM {edges} AS g",
        f"SELECT epoch_us(ts), {', '.join(SHOWN[1:])}, COALESCE(id_text, CAST(id AS VARCHAR)) FROM events "
        f"WHERE {me} AND {own} ORDER BY ts DESC, CAST(id AS VARCHAR) DESC LIMIT {recent}",
    ]


def seen(tables: Sequence[Table]) -> Seen:
    """The answers to `statements` as one."""
    raw, days, noted, pruned, newest = (table.rows for table in tables)
    counts: dict[str, float] = {}
    for type_, n in [(row[0], row[1]) for row in raw] + [(row[0], row[2]) for row in days]:
        counts[type_] = counts.get(type_, 0.0) + n
    times = [us for row in raw for us in row[5:7]] + [us for row in days for us in _quarters(row)]
    times += [us for us in noted[0] if us is not None]
    below = sum(row[4] or 0.0 for row in raw)
    counted = {type_: n for type_, n in counts.items() if n > 0}  # a type may be known by sightings alone
    return Seen(
        first_us=min(times, default=None),
        last_us=max(times, default=None),
        by_type=sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])),
        failures=sum(row[2] for row in raw),
        mean_duration_ms=finite(sum(row[3] or 0.0 for row in raw) / below) if below else None,
        recent=[_event(row) for row in newest],
        exact=not (any(row[7] for row in raw) or noted[0][0] is not None or (days and pruned[0][1]) or pruned[0][2]),
        since_us=pruned[0][0],
    )


def _quarters(row: Sequence[Any]) -> Iterable[int]:
    """The starts of the first and the last quarter-hour of a day in which somebody was active."""
    _, day, _, low, high = row
    mask = low | high << 48
    if not mask:
        return ()
    first, last = (mask & -mask).bit_length() - 1, mask.bit_length() - 1
    return (day * US_DAY + first * QUARTER, day * US_DAY + last * QUARTER)


def _event(row: Sequence[Any]) -> dict[str, Any]:
    found = {"id": row[-1], **dict(zip(SHOWN, row[:-1], strict=True))}
    if found["properties"] is not None:
        found["properties"] = msgspec.json.decode(found["properties"])
    return found
