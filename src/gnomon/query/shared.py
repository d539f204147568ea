"""Answers kept on Redis for all processes that ask a store on a server, by store, project, version and statements.

An answer is found only for the very content it was made of: a database that went back hands out its versions again, so
the store's mark of a version is part of the key. What cannot be kept without loss is not kept. Redis may be slow, away
or full: then a question is answered as if there were none, and Redis is left alone for a while.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from hashlib import blake2b
from importlib.util import find_spec
from typing import Any, TypeVar

import msgspec

from gnomon.config import Settings
from gnomon.errors import InvalidValue, MissingExtra
from gnomon.store import Marked, Store, Table

log = logging.getLogger("gnomon.cache")

WAIT_SECONDS = 0.05  #: for a connection, and for each answer of Redis
SLOW_SECONDS = 0.1  #: what a call may take in all before Redis counts as slow
REST_SECONDS, LONGEST_REST_SECONDS = 5.0, 60.0  #: how long Redis is left alone, doubled with each failure
MOST_ROWS, MOST_BYTES = 20_000, 256 * 1024  #: of one answer
FORM = 1  #: of what is kept; another number finds nothing of this one
_PLAIN = {type(None), bool, int, float, str}

#: Keep an answer, unless the project's answers were dropped since it was looked for; the soonest to end goes first.
_PUT = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
local at = redis.call('TIME')
local now, life = at[1] * 1000 + math.floor(at[2] / 1000), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('SET', KEYS[3], ARGV[2], 'PX', life)
redis.call('ZADD', KEYS[2], now + life, KEYS[3])
redis.call('PEXPIRE', KEYS[2], life)
local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[4])
if over > 0 then
  for _, key in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do redis.call('DEL', key) end
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, over - 1)
end
return 1
"""
_DROP = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', 86400000)
local kept = redis.call('ZRANGE', KEYS[2], 0, -1)
for _, key in ipairs(kept) do redis.call('DEL', key) end
redis.call('DEL', KEYS[2])
return #kept
"""

Answer = TypeVar("Answer")


class _Kept(msgspec.Struct, array_like=True):
    identity: bytes
    tables: list[tuple[list[str], list[tuple[Any, ...]]]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is kept, or would be: `drops` is the project's as it was before the question."""

    prefix: str
    identity: bytes
    drops: bytes
    moment: tuple[int, str]

    @property
    def key(self) -> str:
        """Of its value."""
        return f"{self.prefix}:{self.identity.hex()}"


class SharedAnswers:
    """The answers on one Redis. Thread-safe; nothing Redis does raises. `counts`: hit, miss, kept, unfit, fault."""

    def __init__(self, settings: Settings) -> None:
        """Raises `MissingExtra`, `InvalidValue` (bad-config) for a URL that cannot be one."""
        if find_spec("redis") is None:
            raise MissingExtra("redis", "redis")
        self.counts: Counter[str] = Counter()
        self._life_ms, self._entries = int(settings.cache_seconds * 1_000), settings.cache_entries
        self._redis = _client(settings.cache_url)
        self._put, self._drop = self._redis.register_script(_PUT), self._redis.register_script(_DROP)
        self._rest_until, self._rest = 0.0, REST_SECONDS
        self._undropped: set[str] = set()  #: prefixes that an erasure could not reach
        self._lock = threading.Lock()

    def find(self, store: Store, project: str, statements: Sequence[Any], version: int
             ) -> tuple[list[Table] | None, Place | None]:  # fmt: skip
        """The kept answer; and where it may be put once it is made, if anywhere."""
        if not isinstance(store, Marked) or time.monotonic() < self._rest_until:
            return None, None
        moment = store.moment()
        if moment[0] != version or not all(type(text) is str for text in statements):
            return None, None
        prefix = _prefix(store.store_id, project)
        identity = _digest([FORM, store.store_id, project, *moment, list(statements)], 32)
        place = Place(prefix, identity, b"", moment)
        found = self._try(lambda: self._redis.mget(f"{prefix}:drops", place.key), prefix)
        if found is None:
            return None, None
        drops, data = found
        tables = None if data is None else _read(data, identity)
        self._count("miss" if tables is None else "hit")
        return tables, Place(prefix, identity, drops or b"", moment)

    def put(self, place: Place | None, store: Store, tables: list[Table]) -> None:
        """Keep an answer that was made of one moment of the store."""
        if place is None or not isinstance(store, Marked) or sum(len(table.rows) for table in tables) > MOST_ROWS:
            return
        data = _written(place.identity, tables)
        if data is None:
            self._count("unfit")
        elif store.moment() == place.moment:
            keys = [f"{place.prefix}:drops", f"{place.prefix}:index", place.key]
            values = [place.drops, data, self._life_ms, self._entries]
            if self._try(lambda: self._put(keys=keys, args=values), place.prefix):
                self._count("kept")

    def drop(self, store: Store, project: str) -> None:
        """Remove every answer of a project: somebody in it was forgotten."""
        if not isinstance(store, Marked):
            return
        prefix = _prefix(store.store_id, project)
        with self._lock:
            self._undropped.add(prefix)
            self._rest_until = 0.0
        if self._try(lambda: True, prefix) is None:
            log.warning("kept answers of a project in which somebody was forgotten could not be removed from Redis: "
                        "they end by themselves within %.0f s", self._life_ms / 1_000)  # fmt: skip

    def _try(self, run: Callable[[], Answer], prefix: str) -> Answer | None:
        """What Redis answers, or None; first whatever is still to be dropped is."""
        began = time.monotonic()
        if began < self._rest_until:
            return None
        try:
            for one in list(self._undropped):
                self._drop(keys=[f"{one}:drops", f"{one}:index"], args=[secrets.token_hex(8)])
                self._undropped.discard(one)
            found = run()
        except Exception as error:  # noqa: BLE001  whatever the client raises, a question is answered without it
            self._leave_alone(type(error).__name__)
            return None
        if time.monotonic() - began > SLOW_SECONDS:
            self._leave_alone("slow")
        else:
            self._rest = REST_SECONDS
        return found

    def _leave_alone(self, why: str) -> None:
        with self._lock:
            self.counts["fault"] += 1
            self._rest_until = time.monotonic() + self._rest
            log.warning("Redis is not used for answers for %.0f s (%s)", self._rest, why)
            self._rest = min(LONGEST_REST_SECONDS, self._rest * 2)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def _client(url: str) -> Any:
    import redis  # deferred: only who has set it needs it
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        return redis.Redis.from_url(
            re.sub(r"^valkey(s?)://", r"redis\1://", url), retry=Retry(NoBackoff(), 0),
            socket_timeout=WAIT_SECONDS, socket_connect_timeout=WAIT_SECONDS,
        )  # fmt: skip
    except ValueError as error:
        raise InvalidValue("cache_url is not the URL of a Redis", code="bad-config",
                           remedy="Give redis://host:port/number.") from error  # fmt: skip


def _prefix(store_id: str, project: str) -> str:
    """One place of a Redis cluster for each project."""
    return f"gnomon:{{{_digest([store_id, project], 16).hex()}}}"


def _digest(parts: list[Any], size: int) -> bytes:
    return blake2b(msgspec.msgpack.encode(parts), digest_size=size).digest()


# -- values ------------------------------------------------------------------------------------------------------------


class _Unfit(Exception):
    """A value that would not come back as it was."""


def _written(identity: bytes, tables: list[Table]) -> bytes | None:
    """An answer as bytes, or None where it would not come back as it is, or is too long."""
    try:
        kept = [(table.columns, [row if {*map(type, row)} <= _PLAIN else tuple(map(_cell, row)) for row in table.rows])
                for table in tables]  # fmt: skip
        data = msgspec.msgpack.encode(_Kept(identity, kept))
    except (_Unfit, OverflowError, ValueError, TypeError):
        return None
    return data if len(data) <= MOST_BYTES else None


def _cell(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_cell(one) for one in value]
    if kind is Decimal:
        return msgspec.msgpack.Ext(1, str(value).encode())
    if kind is datetime and value.tzinfo is None:
        return msgspec.msgpack.Ext(2, value.isoformat().encode())
    if kind is date:
        return msgspec.msgpack.Ext(3, value.isoformat().encode())
    raise _Unfit


_EXTS: dict[int, Callable[[str], Any]] = {1: Decimal, 2: datetime.fromisoformat, 3: date.fromisoformat}


def _ext(code: int, data: memoryview) -> Any:
    text = bytes(data).decode()
    return _EXTS[code](text)


def _read(data: bytes, identity: bytes) -> list[Table] | None:
    """The answer, if it is this one; what somebody else wrote there is none."""
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept, ext_hook=_ext)
    except (msgspec.MsgspecError, ValueError, KeyError, ArithmeticError):
        return None
    return [Table(columns, rows) for columns, rows in kept.tables] if kept.identity == identity else None


# -- one a process -----------------------------------------------------------------------------------------------------

_SHARED: dict[tuple[Any, ...], SharedAnswers] = {}
_LOCK = threading.Lock()


def shared_answers(settings: Settings) -> SharedAnswers | None:
    """The answers on the Redis of the settings; None where there is none, or nothing is to be kept.

    Raises `MissingExtra`, `InvalidValue` (bad-config).
    """
    if not (settings.cache_url and settings.cache_entries and settings.cache_seconds):
        return None
    key = (settings.cache_url, settings.cache_entries, settings.cache_seconds)
    with _LOCK:
        if key not in _SHARED:
            _SHARED[key] = SharedAnswers(settings)
        return _SHARED[key]


def _in_child() -> None:
    """Connections and locks are the parent's."""
    global _SHARED, _LOCK
    _SHARED, _LOCK = {}, threading.Lock()


os.register_at_fork(after_in_child=_in_child)
