"""The engine's verbs for alerts: what is wrong now, and who is to be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gnomon.config import Settings
from gnomon.errors import InvalidValue
from gnomon.store import Store

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold
    from gnomon.upkeep.alerts import Alert, Watch


class Alerting:
    """Alerts of the store. Mixed into the engine."""

    settings: Settings
    _hold: Hold

    def _own_or_refuse(self) -> Store:
        raise NotImplementedError

    def on_alert(self, callback: Callable[[Alert], object]) -> None:
        """Call this with every alert of the store when it begins, gets worse (with the new level) or ends (`resolved`).

        It is called in a thread of its own, one alert after the other; what it raises is logged. Somebody has to look:
        the scheduler does, every 30 s, and so do `run_jobs()` and `alerts()`. Raises `InvalidValue` (bad-callback).
        """
        if not callable(callback):
            raise InvalidValue("on_alert takes a callable of one argument", code="bad-callback")
        self._watch().on_alert(callback)

    def alerts(self) -> list[Alert]:
        """Look now, and return what is wrong with the store and this project, the oldest first.

        Raises `StoreBusy` where another process owns the store.
        """
        self._look_for_alerts()
        return self._active_alerts()

    def _active_alerts(self) -> list[Alert]:
        return [alert for alert in self._watch().active() if alert.project in (None, self.settings.project)]

    def _look_for_alerts(self, *, whole_store: bool = True) -> bool:
        return self._watch().look(self, whole_store=whole_store)

    def _stop_watching(self) -> None:
        """At the end of the last engine of the store in this process."""
        if self._hold.watch is not None and self._hold.users <= 1:
            self._hold.watch.stop()

    def _watch(self) -> Watch:
        from gnomon.upkeep.alerts import watch_of  # deferred: most processes watch nothing

        return watch_of(self._hold)
