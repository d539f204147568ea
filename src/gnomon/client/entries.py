"""From a recording call to the JSON that is sent: id and time are made here, once, so that a resend is a repeat.

Refuses what JSON cannot hold exactly (NaN, infinities, integers beyond 64 bits, half surrogates), as it would either
change on the way or make the service refuse the whole batch.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gnomon.event import INT64_MAX, INT64_MIN

__all__ = ["event_entry", "new_id", "sample_entry"]

_encode = msgspec.json.Encoder().encode
#: User name and password of an address without a scheme: `user:password@host`.
_BARE_CREDENTIALS = re.compile(r"^[^\s/@:]*:[^\s/]*@")


def event_entry(fields: dict[str, Any], url: str | None = None) -> bytes:
    """The JSON of one event. Raises `ValueError` or `TypeError` for what cannot be sent."""
    now_ns = time.time_ns()
    told = {name: value for name, value in fields.items() if value is not None}
    if told.get("weight") == 1:
        del told["weight"]
    if url is not None:
        host, path = _address(url)
        if host is not None:
            told.setdefault("domain", host)
        if path is not None:
            told.setdefault("endpoint", path)
    told.setdefault("id", new_id(now_ns))
    told["ts"] = _moment(told.get("ts"), now_ns)
    return _checked(told)


def sample_entry(fields: dict[str, Any]) -> bytes:
    """The JSON of one metric sample. Raises as `event_entry`."""
    told = {name: value for name, value in fields.items() if value is not None}
    now_ns = time.time_ns()
    told.setdefault("id", new_id(now_ns))
    told["ts"] = _moment(told.get("ts"), now_ns)
    return _checked(told)


def new_id(now_ns: int) -> str:
    """A UUIDv7 (RFC 9562, 5.7): stores keep ids in the order of time well. A forked child draws others."""
    noise = int.from_bytes(os.urandom(10), "big")
    ms = now_ns // 1_000_000 & 0xFFFF_FFFF_FFFF
    head = f"{ms:012x}7{noise >> 62 & 0xFFF:03x}{0x8 | noise >> 60 & 0x3:x}{noise & 0xFFF_FFFF_FFFF_FFFF:015x}"
    return f"{head[:8]}-{head[8:12]}-{head[12:16]}-{head[16:20]}-{head[20:]}"


def _moment(ts: datetime | str | None, now_ns: int) -> str:
    if ts is None:
        seconds, rest = divmod(now_ns // 1_000, 1_000_000)
        return f"{_second(seconds)}.{rest:06d}Z"
    if isinstance(ts, datetime):
        if ts.tzinfo is None:
            raise ValueError("a time without a zone")
        return ts.isoformat()
    return ts


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _address(url: str) -> tuple[str | None, str | None]:
    """Host and path of a URL, as the engine takes them out of one: without credentials, query and fragment."""
    parts = urlsplit(_BARE_CREDENTIALS.sub("//", url))
    host, path = parts.hostname, parts.path
    if host is not None and parts.port is not None:
        host = f"{host}:{parts.port}"
    if parts.scheme and host is None:
        path = path.rpartition("@")[2]
    return host, path or ("/" if host else None)


def _checked(told: dict[str, Any]) -> bytes:
    entry = _encode(told)
    # Only a number that JSON has no word for becomes null where no None was given.
    if b"null" in entry or _has_long_number(entry):
        _check(told)
    return entry


def _has_long_number(entry: bytes) -> bool:
    return b"0" * 19 in entry.translate(_DIGITS)


#: Every digit as 0, so that a long number is a substring.
_DIGITS = bytes(48 if 48 <= code <= 57 else 32 for code in range(256))


def _check(value: Any) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number that is not finite")
    elif isinstance(value, int):
        if not INT64_MIN <= value <= INT64_MAX:
            raise ValueError("an integer beyond 64 bits")
    elif isinstance(value, Mapping):
        for inner in value.values():
            _check(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            _check(inner)
