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

ALIVE = "SELECT epoch_us(first), epoch_us(last) FROM alive WHERE project = {}"  #: in any order


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
    """What beats make of a project's spans: `new` takes the place of what begins between its ends.

    `quiet` where the spans were there and only went on, as they do once a period: no answer can change by that, as
    whoever asks was there itself, or looks at the spans again.
    """

    project: str
    new: tuple[Span, ...]
    quiet: bool

    def removal(self) -> str:
        """The spans that go."""
        first, last = self.new[0][0], self.new[-1][1]
        return (
            f"DELETE FROM alive WHERE project = {quoted(self.project)} AND "
            f"first BETWEEN make_timestamp({first}) AND make_timestamp({last})"
        )


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
    if not new:
        return None
    first, last = new[0][0], new[-1][1]
    kept = [span for span in spans if first <= span[0] <= last]
    return Change(project, tuple(kept), _only_went_on(known, spans, slack))


def _only_went_on(known: Sequence[Span], spans: Sequence[Span], slack: int) -> bool:
    return len(known) == len(spans) and all(
        old[0] == new[0] and new[1] - old[1] <= slack for old, new in zip(known, spans, strict=True)
    )


def addition(changes: Sequence[Change]) -> str:
    """The spans that come, of all projects in one statement (docs/decisions/0013)."""
    rows = ", ".join(
        f"({quoted(change.project)}, make_timestamp({first}), make_timestamp({last}))"
        for change in changes
        for first, last in change.new
    )
    return f"INSERT INTO alive VALUES {rows}"


def prune_alive(project: str, before_us: int) -> str:
    """Remove spans before a moment, but for the last of them: without it, what follows it would be no gap any more."""
    me = f"project = {quoted(project)}"
    ended = f"SELECT max(last) FROM alive WHERE {me} AND last < make_timestamp({before_us})"
    return f"DELETE FROM alive WHERE {me} AND last < ({ended})"
