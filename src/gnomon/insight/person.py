"""One person: what `query.timeline` found about them, as a `UserReport`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from gnomon.access import Note
from gnomon.errors import InvalidValue
from gnomon.pseudonyms import Pseudonyms
from gnomon.query.inquiry import Inquiry
from gnomon.query.result import finite
from gnomon.query.timeline import Seen
from gnomon.store import Store
from gnomon.timerange import from_us

MOST_RECENT = 1_000


@dataclass(frozen=True, kw_only=True)
class UserReport:
    """One person. `first_seen` and `last_seen` are exact to the quarter-hour where only rollups, or what sampling
    noted, know of them.

    `failures` and `mean_duration_ms` are of the raw rows, as are the `recent` events, newest first. `detail_since`
    is the moment since which these are there; None: nothing was pruned.
    """

    user_id: str
    first_seen: datetime | None
    last_seen: datetime | None
    events: float
    failures: float
    mean_duration_ms: float | None
    by_type: dict[str, float]
    recent: list[dict[str, Any]]
    exact: bool
    detail_since: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "user_id": self.user_id,
            "first_seen": _iso(self.first_seen),
            "last_seen": _iso(self.last_seen),
            "events": self.events,
            "failures": self.failures,
            "mean_duration_ms": finite(self.mean_duration_ms),
            "by_type": dict(self.by_type),
            "recent": [{**event, "ts": event["ts"].isoformat()} for event in self.recent],
            "meta": {"exact": self.exact, "detail_since": _iso(self.detail_since)},
        }


def user_report(inquiry: Inquiry, store: Store, note: Note, pseudonyms: Pseudonyms | None, user_id: str, recent: int,
                zone: ZoneInfo) -> UserReport:  # fmt: skip
    """See `Reporting.user`."""
    if type(recent) is not int or not 0 <= recent <= MOST_RECENT:
        raise InvalidValue(f"recent must be a whole number of 0 to {MOST_RECENT:,}", code="bad-query",
                           remedy="For more, export the events of this user.")  # fmt: skip
    ids = (user_id,) if pseudonyms is None else pseudonyms.ids(user_id)
    seen = inquiry.person(ids, recent, store)
    note.rows = len(seen.recent)
    return UserReport(user_id=user_id, **_fields(seen, zone))


def _fields(seen: Seen, zone: ZoneInfo) -> dict[str, Any]:
    by_type = {type_: found if not seen.exact else int(found) for type_, found in seen.by_type}
    return {
        "first_seen": _moment(seen.first_us, zone),
        "last_seen": _moment(seen.last_us, zone),
        "events": sum(by_type.values()),
        "failures": int(seen.failures) if seen.exact else seen.failures,
        "mean_duration_ms": seen.mean_duration_ms,
        "by_type": by_type,
        "recent": [{**event, "ts": from_us(event["ts"], zone)} for event in seen.recent],
        "exact": seen.exact,
        "detail_since": _moment(seen.since_us, zone),
    }


def _moment(us: int | None, zone: ZoneInfo) -> datetime | None:
    return None if us is None else from_us(us, zone)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
