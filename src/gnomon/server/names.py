"""How many event types and property keys a project has, so that no sender can flood it with names.

What is new counts against a limit a minute and a limit altogether; beyond either an event is refused as
`cardinality-limit`. Names are kept in the journal, so a restart does not begin anew.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec

from gnomon.config import Settings
from gnomon.ingest.calls import CALL_PROPERTIES, CALL_TYPE, WireCalls
from gnomon.ingest.journal import Journal
from gnomon.ingest.rules import Refusal

SAVE_SECONDS = 10.0


class _Kept(msgspec.Struct):
    types: list[str] = []
    keys: list[str] = []


class KnownNames:
    """Of one project. Thread-safe; names that came in within the last `SAVE_SECONDS` may be forgotten by a crash."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._most_types, self._most_keys = settings.max_types, settings.max_property_keys
        self._most_new = settings.max_new_names_per_minute
        self._journal, self._kept_under = journal, f"names:{settings.project}"
        self._lock = threading.Lock()
        kept = journal.kept(self._kept_under)
        known = _Kept() if kept is None else msgspec.json.decode(kept, type=_Kept)
        self._types, self._keys = set(known.types), set(known.keys)
        self._minute, self._new = 0.0, 0
        self._unsaved = False
        self._saved_at = time.monotonic()

    def vet(self, fields: dict[str, Any]) -> None:
        """Note the names of an event. Raises `Refusal` (cardinality-limit) for new ones beyond the limits."""
        type_, properties = fields.get("type"), fields.get("properties")
        new_type = isinstance(type_, str) and type_ not in self._types
        given = properties.keys() if isinstance(properties, dict) else ()
        new_keys = [] if not given or self._keys.issuperset(given) else [key for key in given if key not in self._keys]
        if new_type or new_keys:
            with self._lock:
                self._admit(type_ if new_type else None, new_keys)

    def passed(self, calls: WireCalls) -> WireCalls | None:
        """The calls; None where one may bring a name."""
        known = self._types.issuperset(calls.given(CALL_TYPE))
        return calls if known and all(map(self._keys.issuperset, calls.given(CALL_PROPERTIES))) else None

    def _admit(self, type_: Any, keys: list[str]) -> None:
        fresh = [key for key in keys if key not in self._keys and 0 < len(key) <= 200]
        types = [type_] if isinstance(type_, str) and type_ not in self._types and 0 < len(type_) <= 200 else []
        now = time.monotonic()
        if now - self._minute >= 60.0:
            self._minute, self._new = now, 0
        if (
            (self._most_new and self._new + len(fresh) + len(types) > self._most_new)
            or (types and self._most_types and len(self._types) >= self._most_types)
            or (fresh and self._most_keys and len(self._keys) + len(fresh) > self._most_keys)
        ):
            raise Refusal("cardinality-limit", "event: brings a type or property key beyond what the project may have")
        self._new += len(fresh) + len(types)
        self._types.update(types)
        self._keys.update(fresh)
        self._unsaved = True

    def save(self, *, now: bool = False) -> None:
        """Keep new names, at most every `SAVE_SECONDS` unless `now`. Raises what the journal raises."""
        if not self._unsaved or not (now or time.monotonic() - self._saved_at >= SAVE_SECONDS):
            return
        with self._lock:
            self._unsaved, self._saved_at = False, time.monotonic()
            kept = _Kept(sorted(self._types), sorted(self._keys))
        try:
            self._journal.keep(self._kept_under, msgspec.json.encode(kept).decode())
        except BaseException:
            self._unsaved = True
            raise
