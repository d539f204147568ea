"""Alerts: what is wrong right now, since when, and whom that was told. One watch a store and process.

A condition that begins, gets worse or ends is told once, by the outlets. What was told is kept in the journal: a
restart neither repeats nor forgets it. Nothing here waits for an outlet, and nothing raises into whoever looks.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from gnomon.config import Settings
from gnomon.errors import GnomonError, StoreBusy
from gnomon.ingest.journal import Journal
from gnomon.timerange import US_SECOND, to_us

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold
    from gnomon.upkeep.outlets import Outlet

log = logging.getLogger("gnomon.alerts")

Level: TypeAlias = Literal["warning", "critical"]
Callback: TypeAlias = Callable[["Alert"], object]
Key: TypeAlias = tuple[str, str | None]  #: name and project

KEPT = "alerts"
QUIET_US = 300 * US_SECOND  #: an alert is told at most once in this time, unless it gets worse


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at one condition found to be wrong."""

    level: Level
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong. `project` is None where it is about the whole store; `resolved` says since when it is
    not wrong any more. No text in it comes from events."""

    name: str
    level: Level
    message: str
    remedy: str
    project: str | None
    since: datetime
    resolved: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ended = None if self.resolved is None else self.resolved.isoformat()
        return {"alert": self.name, "state": "firing" if ended is None else "resolved", "level": self.level,
                "message": self.message, "remedy": self.remedy, "project": self.project,
                "since": self.since.isoformat(), "resolved": ended}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """One row of the table of conditions. `look(sight)` says what is wrong, None where nothing is, and may raise."""

    name: str
    about: str
    whole_store: bool
    look: Callable[[Sight], Found | None]


@dataclass(frozen=True, slots=True)
class Sight:
    """What a condition may look at. Those of the whole store must find the same whichever engine looks."""

    engine: Any
    watch: Watch

    @property
    def hold(self) -> Hold:
        """Store, journal and files."""
        hold: Hold = self.engine._hold
        return hold


class _Told(msgspec.Struct, frozen=True):
    """What was told last about a key, and when."""

    alert: Alert
    at_us: int


class _Kept(msgspec.Struct):
    began_us: int = 0
    told: list[_Told] = []


class Watch:
    """Thread-safe. `failures` are the errors of jobs that ended with one and when they began, by name and project
    (None: whole store)."""

    def __init__(self, journal: Journal, settings: Settings) -> None:
        self.failures: dict[Key, tuple[GnomonError, int]] = {}
        self.extra: list[Condition] = []  #: conditions of what is built on the engine
        self._rested: dict[Key, float] = {}  #: monotonic time from which a job that failed may be tried again
        self.scheduled = False  #: whether jobs are run by themselves
        self._journal = journal
        self._callbacks: list[Callback] = []
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._active: dict[Key, Alert] = {}
        self._told: dict[Key, _Told] = {}
        self.began_us = 0  #: when somebody first watched this store
        self._unkept = False
        self._read = False
        self._outlets = _outlets_of(settings, self._callbacks)

    def on_alert(self, callback: Callback) -> None:
        """Call this with every alert that is told."""
        self._callbacks.append(callback)

    def active(self) -> list[Alert]:
        """The alerts that are on, the oldest first."""
        with self._lock:
            return sorted(self._active.values(), key=lambda alert: (alert.since, alert.name))

    def note_job(
        self, name: str, project: str | None, error: GnomonError | None, at_us: int, *, rest: float = 0.0
    ) -> None:
        """How a job went that began then. One that failed is not tried again for `rest` seconds."""
        if error is None:
            self.failures.pop((name, project), None)
        else:
            self.failures[name, project] = error, at_us
        self._rested[name, project] = time.monotonic() + rest

    def rests(self, name: str, project: str | None) -> bool:
        """Whether it is too early to try a job again that failed."""
        return time.monotonic() < self._rested.get((name, project), 0.0)

    def look(self, engine: Any, *, whole_store: bool) -> bool:
        """Look at every condition, and tell what has changed; False where another thread is at it.

        Raises `StoreBusy` where another process owns the store, and nothing else.
        """
        if not self._looking.acquire(blocking=False):
            return False
        try:
            now = engine.clock()
            self._take_up(to_us(now))
            sight = Sight(engine, self)
            for condition in (*conditions(), *self.extra):
                if whole_store or not condition.whole_store:
                    self._look_at(condition, sight, now)
            self._tell(now)
            self._keep()
        finally:
            self._looking.release()
        return True

    def _look_at(self, condition: Condition, sight: Sight, now: datetime) -> None:
        key = (condition.name, None if condition.whole_store else sight.engine.settings.project)
        try:
            found = condition.look(sight)
        except StoreBusy:
            raise
        except GnomonError as error:  # nobody knows; the condition that is about the store says why
            log.debug("the condition %s could not be looked at: %s", condition.name, error.code)
            return
        except Exception as error:  # noqa: BLE001  one condition must not hide the others
            log.warning("the condition %s could not be looked at: %s", condition.name, type(error).__name__)
            return
        with self._lock:
            before = self._active.pop(key, None)
            if found is not None:
                since = now if before is None else before.since
                self._active[key] = Alert(*key[:1], found.level, found.message, found.remedy, key[1], since)

    # -- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, now: datetime) -> None:
        with self._lock:
            due = [alert for key in {**self._told, **self._active} if (alert := self._due(key, now)) is not None]
            for alert in due:
                self._told[alert.name, alert.project] = _Told(alert, to_us(now))
                self._unkept = True
        for alert in due:
            level = logging.INFO if alert.resolved else logging.WARNING
            log.log(level, "alert %s: %s", alert.name, "resolved" if alert.resolved else alert.message)
            for outlet in self._outlets:
                outlet.offer(alert)

    def _due(self, key: Key, now: datetime) -> Alert | None:
        """What has to be told about a key now, if anything. The lock is held."""
        active, told = self._active.get(key), self._told.get(key)
        known = None if told is None or told.alert.resolved else told.alert.level
        wanted = None if active is None else active.level
        if wanted == known:
            return None
        worse = wanted == "critical" and known == "warning"
        if told is not None and not worse and 0 <= to_us(now) - told.at_us < QUIET_US:
            return None
        if active is not None:
            return active
        assert told is not None
        return replace(told.alert, resolved=now)

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _take_up(self, now_us: int) -> None:
        """What another process told before."""
        if self._read:
            return
        try:
            text = self._journal.kept(KEPT)
            kept = _Kept() if text is None else msgspec.json.decode(text, type=_Kept)
        except msgspec.MsgspecError:
            log.warning("the kept alerts do not read back")
            kept = _Kept()
        except GnomonError:
            return
        names = {condition.name for condition in (*conditions(), *self.extra)}
        with self._lock:
            self._told = {(one.alert.name, one.alert.project): one for one in kept.told if one.alert.name in names}
            self._active = {key: told.alert for key, told in self._told.items() if told.alert.resolved is None}
            self.began_us = kept.began_us or now_us
        self._unkept, self._read = not kept.began_us, True

    def _keep(self) -> None:
        if not self._unkept:
            return
        with self._lock:
            last = max((told.at_us for told in self._told.values()), default=0) - QUIET_US
            self._told = {key: told for key, told in self._told.items() if not told.alert.resolved or told.at_us > last}
            text = msgspec.json.encode(_Kept(self.began_us, list(self._told.values()))).decode()
        try:
            self._journal.keep(KEPT, text)
            self._unkept = False
        except GnomonError as error:
            log.debug("what was told is kept later: %s", error.code)

    def stop(self) -> None:
        """End the outlets; what waits is tried once."""
        for outlet in self._outlets:
            outlet.stop()


def conditions() -> tuple[Condition, ...]:
    """The table."""
    from gnomon.upkeep.conditions import CONDITIONS  # deferred: it knows the jobs, which know this file

    return CONDITIONS


def _outlets_of(settings: Settings, callbacks: list[Callback]) -> list[Outlet]:
    from gnomon.upkeep.outlets import Callbacks, Outlet  # deferred: most processes watch nothing

    found = [Outlet("callbacks", Callbacks(callbacks))]
    if settings.alert_webhook:
        from gnomon.upkeep.webhook import Webhook

        hook = Webhook(settings.alert_webhook, settings.alert_webhook_secret)
        found.append(Outlet("webhook", hook.send, on_stop=hook.stop))
    return found


_LOCK = threading.Lock()


def watch_of(hold: Hold) -> Watch:
    """The watch of a store in this process. Raises `MissingExtra` where a webhook is set and its package missing."""
    with _LOCK:
        if hold.watch is None:
            hold.watch = Watch(hold.journal, hold.settings)
        found: Watch = hold.watch
        return found


def _in_child() -> None:
    """Another thread of the parent may have held it."""
    global _LOCK
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_in_child)
