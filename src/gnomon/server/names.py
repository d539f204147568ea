"""How many event types and property keys a project has, so that no sender can flood it with names.

What is new counts against a limit a minute and a limit altogether; beyond either an event is refused as
`cardinality-limit`. Names are kept in the journal, so a restart does not begin anew. What came in by other ways than
over HTTP (the embedded engine, imports) is looked up in the store after each start, a little at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from gnomon.config import Settings
from gnomon.ingest.calls import CALL_PROPERTIES, CALL_TYPE, WireCalls
from gnomon.ingest.journal import Journal
from gnomon.ingest.keptnames import KeptNames, key_of, opened, sealed
from gnomon.ingest.rules import Refusal
from gnomon.store import Store
from gnomon.store import names as sql

SAVE_SECONDS = 10.0
STEP_SECONDS = 0.2  #: one look into the store takes about so long: it doubles or halves the rows of the next
FIRST_STEP = 32  #: versions, of 20,000 rows at the most


class KnownNames:
    """Of one project. Thread-safe; names that came in within the last `SAVE_SECONDS` may be forgotten by a crash."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._most_types, self._most_keys = settings.max_types, settings.max_property_keys
        self._most_new = settings.max_new_names_per_minute
        self._project, self._timeout = settings.project, settings.query_timeout_seconds
        self._journal = journal
        self._lock = threading.Lock()
        self._text = journal.kept(key_of(self._project))
        known = opened(self._text)
        self._types, self._keys = set(known.types), set(known.keys)
        self._fresh = KeptNames([], [])  #: names that are not kept yet
        self._looked, self._erased = known.looked, known.erased
        self._left: tuple[int, int] | None = None  #: versions that have to be looked at, the newest first
        self._last, self._step = -1, FIRST_STEP
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
        if not self._types.issuperset(calls.given(CALL_TYPE)):
            return None
        keys = set[str]().union(*calls.given(CALL_PROPERTIES))  # a third of the time of looking each event's up
        return calls if self._keys.issuperset(keys) else None

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
        self._add(types, fresh)

    def _add(self, types: Iterable[str], keys: Iterable[str]) -> None:
        """Know more names. The lock is held."""
        types, keys = [name for name in types if name not in self._types], [k for k in keys if k not in self._keys]
        self._types.update(types)
        self._keys.update(keys)
        self._fresh.types.extend(types)
        self._fresh.keys.extend(keys)
        self._unsaved |= bool(types or keys)

    # -- those in the store ----------------------------------------------------------------------------------------

    @property
    def looked(self) -> bool:
        """Whether everything that the store had at the start has been looked at."""
        return self._last >= 0 and self._left is None

    def look_back(self, store: Store) -> None:
        """Learn names of the store for about `STEP_SECONDS`, newest rows first. Raises what the store raises."""
        if self.looked:
            return
        if self._left is None:
            self._begin(store)
            return
        first, last = self._left
        start = max(first, last - self._step + 1)
        began = time.monotonic()
        most_types, most_keys = (most or 2**31 for most in (self._most_types, self._most_keys))
        asked = [sql.types(self._project, start, last, most_types), sql.keys(self._project, start, last, most_keys)]
        types, keys = ([name for (name,) in found.rows] for found in store.ask(asked, self._timeout))
        took = time.monotonic() - began
        self._step = max(1, self._step // 2 if took > STEP_SECONDS else self._step * 2)
        with self._lock:
            self._learn(types, keys)
            full = len(self._types) >= most_types and len(self._keys) >= most_keys
            self._left = None if start == first or full else (first, start - 1)
            if self._left is None:
                self._looked, self._unsaved = self._last, True

    def _begin(self, store: Store) -> None:
        asked = [sql.span(self._project), sql.rolled_types(self._project, self._most_types or 2**31)]
        span, types = store.ask(asked, self._timeout)
        first, last = span.rows[0]
        with self._lock:
            self._learn([name for (name,) in types.rows], [])
            self._last = last or 0
            if last is not None and last > self._looked:
                self._left = (max(first, self._looked + 1), last)

    def _learn(self, types: list[str], keys: list[str]) -> None:
        """Names of the store, as far as there is room: nobody asked whether they may come. The lock is held."""
        room = [most - len(known) if most else 2**31 for most, known in
                ((self._most_types, self._types), (self._most_keys, self._keys))]  # fmt: skip
        new_types = [name for name in types if name not in self._types]
        new_keys = [name for name in keys if name not in self._keys]
        self._add(new_types[: max(0, room[0])], new_keys[: max(0, room[1])])

    # -- those that are kept ---------------------------------------------------------------------------------------

    def save(self, *, now: bool = False) -> None:
        """Keep new names, at most every `SAVE_SECONDS` unless `now`. Raises what the journal raises."""
        if not self._unsaved or not (now or time.monotonic() - self._saved_at >= SAVE_SECONDS):
            return
        with self._lock:
            self._saved_at = time.monotonic()
            while not self._try_to_save():
                self._take_up()
            self._unsaved, self._fresh = False, KeptNames([], [])

    def _try_to_save(self) -> bool:
        text = sealed(KeptNames(sorted(self._types), sorted(self._keys), self._looked, self._erased))
        saved = self._journal.keep_instead(key_of(self._project), self._text, text)
        self._text = text if saved else self._text
        return saved

    def _take_up(self) -> None:
        """Begin with what another process has kept; after an erasure with nothing else, as nobody knows whom it met."""
        self._text = self._journal.kept(key_of(self._project))
        kept, fresh = opened(self._text), self._fresh
        own = fresh if kept.erased == self._erased else KeptNames()
        self._types, self._keys = {*kept.types, *own.types}, {*kept.keys, *own.keys}
        self._looked, self._erased = kept.looked, kept.erased  # what is beyond is looked at again
