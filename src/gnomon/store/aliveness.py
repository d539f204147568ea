"""When somebody was there to record: how beats become a few spans for each project, and the SQL of them.

Spans that are less than two periods apart are one: a restart is no gap, and a program that crashes all the time makes
no more rows than one every two periods. Adding a beat again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gnomon.config import Settings
from gnomon.store.dialect import quoted
from gnomon.timerange import US_SECOND

Span: TypeAlias = tuple[int, int]  #: first and last moment, both included, in UTC microseconds

#: In any order, and overlapping: see `folded`.
ALIVE = "SELECT epoch_us(first), epoch_us(last) FROM alive WHERE project = {}"
EVERYBODY = "SELECT project, epoch_us(first), epoch_us(last) FROM alive"


def slack_us(settings: Settings) -> int:
    """Spans this close are one: two periods, or two minutes where this process has no heartbeat of its own."""
    return int(2 * (settings.heartbeat_seconds or 60.0) * US_SECOND)


def joined(spans: Sequence[Span], slack: int) -> list[Span]:
    """Spans in order, those that are less than `slack` apart as one."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first - found[-1][1] <= slack:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


@dataclass(frozen=True)
class Change:
    """What beats make of a project's spans: all of them as they are `then`, and the ones that are `new`.

    `quiet` where the spans were there and only went on, as they do once a period: no answer can change by that, as
    whoever asks was there itself, or looks at the spans again.
    """

    project: str
    then: list[Span]
    new: list[Span]
    quiet: bool


def changed(project: str, known: Sequence[Span], beats: Sequence[tuple[int, int, bool]], slack: int) -> Change | None:
    """What beats add to the known spans, None where they say nothing new.

    What an imported file covers counts only from the project's first heartbeat on: before it nothing is known, so
    there is no gap to fill, and there must be none between two files either.
    """
    live = [(first, last) for first, last, is_live in beats if is_live]
    if not known and not live:
        return None
    since = min(first for first, _ in [*known, *live])
    covered = [(max(first, since), last) for first, last, is_live in beats if not is_live and last >= since]
    spans = joined([*known, *live, *covered], slack)
    before = set(known)
    new = [span for span in spans if span not in before]
    return Change(project, spans, new, _only_went_on(known, spans, slack)) if new else None


def _only_went_on(known: Sequence[Span], spans: Sequence[Span], slack: int) -> bool:
    return len(known) == len(spans) and all(
        old[0] == new[0] and new[1] - old[1] <= slack for old, new in zip(known, spans, strict=True)
    )


def addition(rows: Sequence[tuple[str, int, int]]) -> str:
    """Add spans `(project, first, last)`, of all projects in one statement (docs/decisions/0013)."""
    values = ", ".join(
        f"({quoted(project)}, make_timestamp({first}), make_timestamp({last}))" for project, first, last in rows
    )
    return f"INSERT INTO alive VALUES {values}"


def folded(rows: Sequence[tuple[str, int, int]], slack: int) -> list[tuple[str, int, int]]:
    """One row for each span, of rows that may overlap: a span that goes on gets a longer row beside the one before."""
    projects: dict[str, list[Span]] = {}
    for project, first, last in rows:
        projects.setdefault(project, []).append((first, last))
    return [(project, *span) for project, spans in projects.items() for span in joined(spans, slack)]


def prune_alive(project: str, before_us: int) -> str:
    """Remove spans before a moment, but for the last of them: without it, what follows it would be no gap any more."""
    me = f"project = {quoted(project)}"
    ended = f"SELECT max(last) FROM alive WHERE {me} AND last < make_timestamp({before_us})"
    return f"DELETE FROM alive WHERE {me} AND last < ({ended})"
