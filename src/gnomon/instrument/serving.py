"""Recording of the requests that a host answers: what its ASGI and WSGI middleware share.

Owns what a host says about its requests (who, which type, which properties, which are left out) and the one call that
records them. Refuses to take a user's id from a header, to let a client choose a label, and to raise into the host.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from gnomon.errors import EngineClosed

__all__ = ["NOTES", "Exclude", "Hosting", "Recorder", "Tell", "Types", "code_of", "short_text"]

T = TypeVar("T")
#: Gets the ASGI scope or WSGI environment of a request that was answered.
Tell = Callable[[Any], Any]
Types = Mapping[str, str] | Tell
Exclude = Iterable[str] | Tell

#: Where an application may say more about a request: a dict under this key of the scope or environment, in which
#: `endpoint`, `user_id`, `device_id`, `session_id` and `properties` are read.
NOTES = "gnomon.notes"

#: Any other method is one name: a client may send whatever it likes.
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "TRACE", "CONNECT"))
OTHER_METHOD = "(other)"
CLIENT_GONE = "client-disconnected"
#: As proxies write it down: the client went away before an answer was begun.
STATUS_GONE = 499

_MOST_BYTES = 200
_FLUSH_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """What a middleware asks of an engine."""

    def record_request(
        self,
        *,
        source: str | None = None,
        application: str | None = None,
        method: str | None = None,
        status_code: int | None = None,
        duration_ms: float | None = None,
        bytes_sent: int | None = None,
        bytes_received: int | None = None,
        success: bool | None = None,
        error_code: str | None = None,
        user_id: str | None = None,
        device_id: str | None = None,
        session_id: str | None = None,
        endpoint: str | None = None,
        properties: Mapping[str, Any] | None = None,
        type: str = "request",
    ) -> None: ...


class Hosting:
    """What one host says about its requests. `faults` counts what went wrong in saying or recording it, by part."""

    def __init__(self, engine: Recorder, *, application: str | None, source: str | None, user: Tell | None,
                 device: Tell | None, session: Tell | None, properties: Tell | None, types: Types | None,
                 exclude: Exclude | None, faults: Counter[str] | None) -> None:  # fmt: skip
        self.engine = engine
        self.application = application
        self.source = source
        self.faults: Counter[str] = Counter() if faults is None else faults
        self._asked = [(name, call) for name, call in
                       (("user_id", user), ("device_id", device), ("session_id", session)) if call]  # fmt: skip
        self._knows_user = user is not None
        self._properties = properties
        self._type_of: Tell | None = types if callable(types) else None
        self._types: Mapping[str, str] = {} if types is None or callable(types) else dict(types)
        self._skip: Tell | None = exclude if callable(exclude) else None
        paths = [] if exclude is None or callable(exclude) else [exclude] if isinstance(exclude, str) else list(exclude)
        self._paths = frozenset(path for path in paths if not path.endswith("*"))
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith("*"))
        self.excludes = exclude is not None
        self._lock = threading.Lock()

    def skips(self, scope: Any, path: str) -> bool:
        """Whether this request is not to be recorded."""
        if path in self._paths or (self._prefixes and path.startswith(self._prefixes)):
            return True
        return self._skip is not None and bool(self.shielded("exclude", self._skip, scope))

    def record(self, scope: Any, known_user: Tell, type: str, *, endpoint: str, method: str | None,
               status_code: int | None, since: float, until: float | None, bytes_sent: int | None,
               bytes_received: int | None, success: bool | None = None, error_code: str | None = None,
               properties: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        """Record one request; `since` and `until` (default: now) are of `time.perf_counter`."""
        duration_ms = ((time.perf_counter() if until is None else until) - since) * 1_000.0
        notes = scope.get(NOTES) or {}
        named = short_text(notes.get("endpoint"), most=2_048)
        endpoint = endpoint if named is None else named
        who = {name: notes.get(name) for name in ("user_id", "device_id", "session_id")}
        if who["user_id"] is None and not self._knows_user:
            who["user_id"] = self.shielded("user", known_user, scope)
        for name, call in self._asked:
            if who[name] is None:
                who[name] = self.shielded(name.removesuffix("_id"), call, scope)
        self.engine.record_request(
            source=self.source,
            application=self.application,
            endpoint=endpoint,
            method=method if method is None or method in METHODS else OTHER_METHOD,
            status_code=status_code,
            duration_ms=duration_ms,
            bytes_sent=bytes_sent,
            bytes_received=bytes_received,
            success=success,
            error_code=error_code,
            user_id=self._id("user", who["user_id"]),
            device_id=self._id("device", who["device_id"]),
            session_id=self._id("session", who["session_id"]),
            properties=self._told(scope, notes, properties),
            type=self._named(scope, type, method, endpoint),
        )

    def flush(self) -> None:
        """Make durable what is recorded, where the host has not closed the engine itself."""
        flush = getattr(self.engine, "flush", None)
        if flush is not None:
            with suppress(EngineClosed):
                flush(_FLUSH_SECONDS)

    def _named(self, scope: Any, type: str, method: str | None, endpoint: str) -> str:
        if self._type_of is not None:
            return self.shielded("types", self._type_of, scope) or type
        if not self._types:
            return type
        return self._types.get(f"{method} {endpoint}") or self._types.get(endpoint) or type

    def _told(self, scope: Any, notes: Mapping[str, Any], own: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if self._properties is None and own is None and "properties" not in notes:
            return None
        told = None if self._properties is None else self.shielded("properties", self._properties, scope)
        return self.shielded("properties", lambda: {**(told or {}), **(notes.get("properties") or {}), **(own or {})})

    def _id(self, part: str, value: Any) -> str | None:
        """An id as a text that the gate takes: an odd one must not hide the request that came with it."""
        if value is None:
            return None
        text = short_text(value)
        if text is None:
            self.fault(part)
        return text

    def shielded(self, part: str, call: Callable[..., T], *args: Any) -> T | None:
        """The call's result, or None when it failed: what a host says about a request must not break its answer."""
        try:
            return call(*args)
        except Exception as error:  # noqa: BLE001  a host's callable may raise anything
            self.fault(part, error)
            return None

    def fault(self, part: str, error: Exception | None = None) -> None:
        """Count a fault; the first of each part is logged, by class only, as texts may hold what is private."""
        with self._lock:
            self.faults[part] += 1
            first = self.faults[part] == 1
        if first:
            kind = "an id that does not fit" if error is None else type(error).__name__
            _log.warning("recording of requests: fault in %s (%s); counted from now on", part, kind)


def short_text(value: Any, most: int = _MOST_BYTES) -> str | None:
    """A text, number or UUID as a text of 1 to `most` bytes; None for what is none or does not fit."""
    if value is None or isinstance(value, bool | bytes):
        return None
    text = str(value)
    if text.isascii():
        return text if 0 < len(text) <= most and "\x00" not in text else None
    fits = len(text) <= most and "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
    return text if fits and len(text.encode()) <= most else None


def code_of(status: Any) -> int | None:
    """A status as the gate takes it, or None."""
    code = int(status)
    return code if 100 <= code <= 599 else None
