"""The verbs of upkeep over HTTP: policies, rollups, backups and the audit, with the values that the engine returns.

Setting a value can be repeated, so it is tried again like a question. What is work of the service is sent once, as the
answer to a second one would not tell what the first has done, and waited for as long as an hour.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from gnomon.client.asking import Asking, given, json_of, range_of
from gnomon.timerange import to_us

if TYPE_CHECKING:
    from gnomon.ingest.thresholds import Thresholds
    from gnomon.upkeep.backup import Backup
    from gnomon.upkeep.erasure import ErasureCertificate
    from gnomon.upkeep.retention import PruneReport, RetentionPolicy
    from gnomon.upkeep.rollup import RollupReport
    from gnomon.upkeep.verify import AuditEntry

__all__ = ["Keeping"]

PATIENT_SECONDS = 3_600.0  #: for what the service does before it answers


class Keeping(Asking):
    """Upkeep of one service. Mixed into the client; what an answer is made of is loaded when it is asked for."""

    def set_sampling_thresholds(self, low: float, high: float, rate: float) -> None:
        """Sample the project's requests above `low` events a minute, as `AnalyticsEngine.set_sampling_thresholds`."""
        self._call("PUT", "admin/sampling", content=json_of({"low": low, "high": high, "rate": rate}))

    def sampling_thresholds(self) -> Thresholds:
        """The thresholds in force for the project."""
        from gnomon.ingest.thresholds import Thresholds

        return msgspec.convert(self._call("GET", "admin/sampling"), Thresholds)

    def set_retention_policy(self, policy: RetentionPolicy | None = None, **days: Any) -> None:
        """Set how long data is kept: a `RetentionPolicy`, or its fields as keywords (others stay as they are)."""
        given = {} if policy is None else msgspec.to_builtins(policy)  # without the fields that are as they are
        self._call("PUT", "admin/retention", content=json_of({**given, **days}))

    def get_retention_policy(self) -> RetentionPolicy:
        """How long data is kept."""
        from gnomon.upkeep.retention import RetentionPolicy, whole

        return whole(msgspec.convert(self._call("GET", "admin/retention"), RetentionPolicy))

    def set_legal_hold(self, until: datetime | None) -> None:
        """Refuse every deletion until a moment (with a zone); None lifts the hold."""
        self.set_retention_policy(legal_hold_until=until)

    def prune(self, dry_run: bool = False) -> PruneReport:
        """Delete what the policy no longer keeps, and wait for it; with `dry_run` only count it."""
        from gnomon.upkeep.retention import PruneReport

        return msgspec.convert(self._work("admin/prune", json_of({"dry_run": dry_run})), PruneReport)

    def forget(self, user_id: str, delete_events: bool = False) -> ErasureCertificate:
        """Erase a person, as `AnalyticsEngine.forget`, and wait for the certificate."""
        from gnomon.upkeep.erasure import ErasureCertificate

        body = json_of({"user_id": user_id, "delete_events": delete_events})
        return msgspec.convert(self._work("admin/forget", body), ErasureCertificate)

    def trigger_aggregation(self, time_range: Any = None) -> RollupReport:
        """Bring the rollups up to now, or up to the end of `time_range`, and wait for it."""
        from gnomon.upkeep.rollup import RollupReport

        told = self._work("aggregate", json_of({"date_range": range_of(time_range)}))
        until_us = to_us(datetime.fromisoformat(told.pop("until")))
        return msgspec.convert({**told, "until_us": until_us}, RollupReport)

    def trigger_backup(self) -> Backup:
        """Make a backup of the service's store at its own target, and wait until it was restored and compared."""
        from gnomon.upkeep.backup import Backup

        return msgspec.convert(self._work("admin/backup"), Backup)

    def get_access_log(self, time_range: Any = "all", user_filter: str | None = None,
                       limit: int = 10_000) -> list[AuditEntry]:  # fmt: skip
        """The newest entries of the audit of the project, as `AnalyticsEngine.get_access_log`."""
        from gnomon.upkeep.verify import AuditEntry

        asked = given(date_range=_as_text(time_range), user=user_filter, limit=limit)
        return msgspec.convert(self._call("GET", "admin/audit", params=asked)["entries"], list[AuditEntry])

    def _work(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        return self._call("POST", path, repeat=False, content=body, timeout=PATIENT_SECONDS)


def _as_text(time_range: Any) -> str:
    """A range as it stands in an address: a name, or both ends parted by a comma."""
    found = range_of(time_range)
    if isinstance(found, str):
        return found
    ends = (found["start"], found["end"]) if isinstance(found, dict) else found
    return ",".join(end if isinstance(end, str) else end.isoformat() for end in ends)
