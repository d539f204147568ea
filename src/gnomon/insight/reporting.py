"""The report verbs of the engine: who is active, a summary, one person, the dashboard. Each leaves one audit entry.

Nothing here computes: a verb opens its span of the audit, finds the store, and hands on to the file that owns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from gnomon.access import Note, Person
from gnomon.catalog import check_id
from gnomon.config import Settings
from gnomon.store import Store
from gnomon.timerange import Clock, load_zone

if TYPE_CHECKING:
    from gnomon.ingest.thresholds import Policy
    from gnomon.insight.counting import SessionCounts
    from gnomon.insight.dashboard import Dashboard, Standing
    from gnomon.insight.person import UserReport
    from gnomon.insight.summary import Summary
    from gnomon.pseudonyms import Pseudonyms
    from gnomon.query.inquiry import Inquiry
    from gnomon.query.result import Result

SESSIONS_SECONDS = 600.0  #: how long a count of the sessions of a busy period may take


class Reporting:
    """Reports over one project. Mixed into the engine, which knows the store, the clock and the project."""

    settings: Settings
    clock: Clock
    zone: ZoneInfo
    _pseudonyms: Pseudonyms | None
    _policy: Policy
    _sessions: tuple[Inquiry, SessionCounts] | None = None

    def _own_or_refuse(self) -> Store:
        raise NotImplementedError

    def _audited(self, operation: str, **said: Any) -> AbstractContextManager[Note]:
        raise NotImplementedError

    def _inquiry(self) -> Inquiry:
        raise NotImplementedError

    def active_users(self, date_range: Any = "30d", grain: str = "day", timezone: str | None = None,
                     filters: Sequence[Any] | None = None, rolling: bool = False) -> Result:  # fmt: skip
        """How many people were active, as a series with `people` by `time:<grain>`: day (DAU), week (WAU), month (MAU).

        The range is widened to whole buckets of the zone. With `rolling` there is a row for every day, and it counts
        the people of the 7 days (`grain="week"`) or 30 days (`"month"`) that end with it; each person once. Raises
        `InvalidValue` and `UnknownName` for bad arguments, and what `query` raises.
        """
        with self._audited("active_users") as note:
            store = self._own_or_refuse()
            from gnomon.insight.activity import active_users

            zone = self.zone if timezone is None else load_zone(timezone)
            return active_users(
                self._inquiry(), store, note, self._pseudonyms, date_range, grain, zone, self.clock(), filters, rolling
            )

    def summary(self, hours: float | None = None, date_range: Any = None, timezone: str | None = None,
                filters: Sequence[Any] | None = None) -> Summary:  # fmt: skip
        """The main numbers of the last `hours` (24 when nothing is said), or of a range: events, people, requests,
        outcomes, success rate (0 to 1), mean duration in ms, and events by type.

        All of it is of one moment of the store. Raises `InvalidValue` for hours that are no positive number or given
        together with a range, and what `query` raises.
        """
        with self._audited("summary") as note:
            store = self._own_or_refuse()
            from gnomon.insight.summary import span_of, summarise

            zone = self.zone if timezone is None else load_zone(timezone)
            span = span_of(hours, date_range, zone, self.clock(), self._inquiry().earliest(store))
            return summarise(self._inquiry(), store, note, self._pseudonyms, span, filters)

    def user(self, user_id: str, recent: int = 50) -> UserReport:
        """One person: first and last seen, events by type, failures, mean duration in ms, and the newest events.

        A person is who is counted as one: the user of that id, and the device of that id where no user was known. Of a
        person who was never seen `events` is 0 and `first_seen` None. `recent` is 0 to 1,000. Where raw rows were
        pruned, events and times are of rollups, and `detail_since` says since when the rest is known. Raises
        `InvalidValue` for an id that no event can have.
        """
        with self._audited("user") as note:
            store = self._own_or_refuse()
            from gnomon.insight.person import user_report

            note.detail = {"people": [Person(check_id(user_id))]}
            return user_report(self._inquiry(), store, note, self._pseudonyms, user_id, recent, self.zone)

    def dashboard(self, timezone: str | None = None) -> Dashboard:
        """Today, the last 24 hours, 7 and 30 days at a glance, and how well it goes (`health`).

        All of it is of one moment of the store, from rollups where these answer exactly (percentiles within 1 %). A
        part that only pruned rows could answer is None, and `reasons` of the period says so. The sessions of a period
        of more than 3 million events are those of the last count, up to `sessions_until`, and None until there is one.
        """
        with self._audited("dashboard") as note:
            store = self._own_or_refuse()
            from gnomon.insight.dashboard import dashboard

            zone = self.zone if timezone is None else load_zone(timezone)
            content = self._policy.past()
            return dashboard(self._inquiry(), self._session_counts(), content, store, note, zone, self.clock())

    def _session_counts(self) -> SessionCounts:
        inquiry = self._inquiry()
        if self._sessions is None or self._sessions[0] is not inquiry:  # which is new after an erasure
            from gnomon.insight.counting import SessionCounts
            from gnomon.insight.dashboard import count_sessions

            patient = inquiry.patient(SESSIONS_SECONDS)
            counts = SessionCounts(lambda span: count_sessions(patient, self._own_or_refuse(), span))
            self._sessions = inquiry, counts
        return self._sessions[1]

    def _standing(self) -> Standing:
        """The health level for alerts: nobody asks, so nothing is audited."""
        store = self._own_or_refuse()
        from gnomon.insight.dashboard import standing_now

        return standing_now(self._inquiry(), store, self.zone, self.clock())
