"""The dashboard: four periods at a glance, and how well it goes.

Owns what is asked, where a period begins when rows were pruned, and the thresholds of health. Everything is asked at
once, so that the periods fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from gnomon.access import Note
from gnomon.errors import InvalidValue
from gnomon.insight.counting import SessionCount, SessionCounts
from gnomon.insight.summary import Summary, fields_of, questions
from gnomon.query.inquiry import Inquiry
from gnomon.query.model import Query
from gnomon.query.result import Result, finite
from gnomon.store import Store
from gnomon.timerange import US_HOUR, DateRange, Grain, period_number, period_start_us, resolve_range

PERIODS = {"today": "today", "last_24_hours": "24h", "last_7_days": "7d", "last_30_days": "30d"}
#: The period that health is judged by.
JUDGED = "last_24_hours"
#: Above which value of a metric things are critical, or a warning is due. Errors are a share of the known outcomes.
THRESHOLDS = {"error_rate": (0.10, 0.05), "mean_duration_ms": (5_000.0, 2_000.0)}
MOST_LISTED = 10
#: Events of a period up to which its sessions are counted with the rest: that takes 0.1 to 0.2 s a million, as sessions
#: are not in rollups, and a dashboard is looked at often. Those of a busier one are counted beside it.
MOST_FOR_SESSIONS = 3_000_000
LEAST_TO_ALERT = 20

Answers: TypeAlias = Sequence[Result | InvalidValue | None]


@dataclass(frozen=True, kw_only=True)
class Period(Summary):
    """The summary of a period with sessions, the 95th percentile of durations in ms, and the most frequent pages
    (endpoints) and types as `(name, events)`. `reasons` says by its code why a part is None.

    `sessions_until` is None, or the moment up to which the sessions of a busy period were last counted."""

    sessions: int | None
    sessions_until: datetime | None
    p95_duration_ms: float | None
    top_pages: list[tuple[str, float]] | None
    top_types: list[tuple[str, float]]
    reasons: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        pages, types = self.top_pages, self.top_types
        return {
            **super().to_dict(),
            "sessions": self.sessions,
            "sessions_until": None if self.sessions_until is None else self.sessions_until.isoformat(),
            "p95_duration_ms": finite(self.p95_duration_ms),
            "top_pages": None if pages is None else [{"page": name, "events": n} for name, n in pages],
            "top_types": [{"type": name, "events": n} for name, n in types],
            "reasons": dict(self.reasons),
        }


@dataclass(frozen=True)
class Reason:
    """A metric that lies above a threshold, and the level which that means."""

    metric: str
    value: float
    threshold: float
    level: str


@dataclass(frozen=True)
class Standing:
    """How well it goes: `healthy`, `warning` or `critical`, by the last 24 hours, with what speaks against it."""

    level: str
    reasons: tuple[Reason, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = [{"metric": r.metric, "value": finite(r.value), "threshold": r.threshold, "level": r.level}
                for r in self.reasons]  # fmt: skip
        return {"level": self.level, "period": JUDGED, "reasons": told}


@dataclass(frozen=True)
class Dashboard:
    """The four periods, and `health`. A period is None where not even rollups reach back; `reasons` has the code."""

    today: Period | None
    last_24_hours: Period | None
    last_7_days: Period | None
    last_30_days: Period | None
    health: Standing
    reasons: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = {name: getattr(self, name) for name in PERIODS}
        plain = {name: None if period is None else period.to_dict() for name, period in found.items()}
        return {**plain, "health": self.health.to_dict(), "reasons": dict(self.reasons)}


def dashboard(
    inquiry: Inquiry, counts: SessionCounts, content: object, store: Store, note: Note, zone: ZoneInfo, now: datetime
) -> Dashboard:
    """See `Reporting.dashboard`, and `SessionCounts.of` for `content`."""
    spans = {name: resolve_range(words, now=now, zone=zone) for name, words in PERIODS.items()}
    note.range = spans["last_30_days"]
    answers = _asked(inquiry, store, spans)
    for moved in _STARTS:  # a period that begins within a bucket of pruned time begins with the next one instead
        late = [name for name in spans if isinstance(answers[name][0], InvalidValue)]
        if not late:
            break
        spans |= {name: moved(spans[name], inquiry.zone) for name in late}
        answers = _asked(inquiry, store, spans)
    found: dict[str, Period | None] = {}
    reasons = {}
    busy = {name: f"{name} {zone.key}" for name, (*_, sessions) in answers.items() if sessions is None}
    counted = counts.of({key: spans[name] for name, key in busy.items()}, now.astimezone(zone), content)
    for name, span in spans.items():
        told = _period(span, answers[name], counted.get(busy.get(name, "")))
        found[name] = None if isinstance(told, InvalidValue) else told
        if isinstance(told, InvalidValue):
            reasons[name] = told.code
    note.rows = sum(period is not None for period in found.values())
    return Dashboard(**found, health=standing(found[JUDGED]), reasons=reasons)


def _next_hour(span: DateRange, _: ZoneInfo) -> DateRange:
    return _from(span, -(-span.start_us // US_HOUR) * US_HOUR)


def _next_midnight(span: DateRange, _: ZoneInfo) -> DateRange:
    return _midnight(span, span.zone)


def _as_it_is(span: DateRange, _: ZoneInfo) -> DateRange:
    return span


def _own_midnight(span: DateRange, own: ZoneInfo) -> DateRange:
    return _midnight(span, own)


#: Later starts of a period, each in a coarser unit of what rollups keep.
_STARTS: tuple[Callable[[DateRange, ZoneInfo], DateRange], ...] = (_next_hour, _next_midnight, _own_midnight)


def _midnight(span: DateRange, zone: ZoneInfo) -> DateRange:
    return _from(span, period_start_us(Grain.DAY, period_number(Grain.DAY, span.start_us - 1, zone) + 1, zone))


def _from(span: DateRange, start_us: int) -> DateRange:
    return DateRange(start_us, span.end_us, span.zone) if start_us < span.end_us else span


def _asked(inquiry: Inquiry, store: Store, spans: dict[str, DateRange]) -> dict[str, Answers]:
    """The answers to `_questions` by period; None for sessions that would take too long to count here."""
    sizes = inquiry.several([Query.build(["events"], [], span) for span in spans.values()], store)
    small = [not isinstance(size, Result) or size[0]["events"] <= MOST_FOR_SESSIONS for size in sizes]
    asked = [_questions(span, sessions) for span, sessions in zip(spans.values(), small, strict=True)]
    answers = iter(inquiry.several([query for part in asked for query in part], store))
    found: dict[str, Answers] = {}
    for name, part in zip(spans, asked, strict=True):
        own: list[Result | InvalidValue | None] = [next(answers) for _ in part]
        found[name] = own if len(own) == 4 else [*own, None]
    return found


def _questions(span: DateRange, sessions: bool) -> list[Query]:
    """What a period asks. Pages and sessions have questions of their own, as rollups may not keep them."""
    pages = Query.build(["events"], ["endpoint"], span, ["is_set", "endpoint"], limit=MOST_LISTED)
    asked = [*questions(span, more=["p95_duration_ms"]), pages]
    return [*asked, Query.build(["sessions"], [], span)] if sessions else asked


def _period(span: DateRange, answers: Answers, counted: SessionCount | None) -> Period | InvalidValue:
    totals, types, pages, sessions = answers
    if isinstance(totals, InvalidValue):
        return totals
    if isinstance(types, InvalidValue):
        return types
    assert totals is not None and types is not None
    reasons = {name: answer.code for name, answer in (("sessions", sessions), ("top_pages", pages))
               if isinstance(answer, InvalidValue)}  # fmt: skip
    if counted is None:
        counted = SessionCount(sessions[0]["sessions"] if isinstance(sessions, Result) else None)
    elif counted.reason is not None:
        reasons["sessions"] = counted.reason
    fields = fields_of(span, totals, types)
    return Period(
        **fields,
        sessions=counted.sessions,
        sessions_until=counted.until,
        p95_duration_ms=totals[0]["p95_duration_ms"],
        top_pages=[(row["endpoint"], row["events"]) for row in pages] if isinstance(pages, Result) else None,
        top_types=list(fields["by_type"].items())[:MOST_LISTED],
        reasons=reasons,
    )


def count_sessions(inquiry: Inquiry, store: Store, span: DateRange) -> int | InvalidValue:
    """The sessions of a period, however long it takes; the refusal where raw rows are gone."""
    (answer,) = inquiry.several([Query.build(["sessions"], [], span)], store)
    return int(answer[0]["sessions"]) if isinstance(answer, Result) else answer


def standing_now(inquiry: Inquiry, store: Store, zone: ZoneInfo, now: datetime) -> Standing:
    """The health by the last 24 hours; fewer than `LEAST_TO_ALERT` events are no reason to wake anybody."""
    whole = resolve_range(PERIODS[JUDGED], now=now, zone=zone)
    for moved in (_as_it_is, *_STARTS):
        query = Query.build(["events", "successes", "failures", "mean_duration_ms"], [], moved(whole, inquiry.zone))
        (answer,) = inquiry.several([query], store)
        if isinstance(answer, Result):
            row = answer[0]
            if row["events"] < LEAST_TO_ALERT:
                break
            return _standing(row["successes"], row["failures"], row["mean_duration_ms"])
    return Standing("healthy")


def standing(period: Summary | None) -> Standing:
    """The health of a period; one in which nothing is known to have failed or been slow is healthy."""
    if period is None:
        return Standing("healthy")
    return _standing(period.successes, period.failures, period.mean_duration_ms)


def _standing(successes: float, failures: float, mean_duration_ms: float | None) -> Standing:
    known = successes + failures
    values = {"error_rate": failures / known if known else None, "mean_duration_ms": mean_duration_ms}
    reasons = []
    for metric, (critical, warning) in THRESHOLDS.items():
        value = values[metric]
        if value is not None and value > warning:
            level, threshold = ("critical", critical) if value > critical else ("warning", warning)
            reasons.append(Reason(metric, value, threshold, level))
    levels = {reason.level for reason in reasons}
    level = next((name for name in ("critical", "warning") if name in levels), "healthy")
    return Standing(level, tuple(reasons))
