"""What the gate lets pass, as the design says it (sections 4 and 7), written without a look at the gate's own code."""

from __future__ import annotations

import enum
import json
import math
from datetime import UTC, datetime, timedelta

from gnomon.config import Settings
from gnomon.ingest.gate import CALL

NOW = datetime(2026, 1, 15, 12, 0, 0, 123456, tzinfo=UTC)
NOW_US = int((NOW - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
TEN_YEARS_US = 3_653 * 86_400_000_000
HOUR_US = 3_600_000_000
INT64 = 2**63
LIMITS = Settings()
NAMES = {"type", "user_id", "device_id", "session_id", "source", "application", "method", "error_code", "id"}
ADDRESSES = {"domain", "endpoint"}


class Text(str):
    """What numpy.str_, Markup and the like are to the gate."""


class Real(float):
    """As numpy.float64."""


class Whole(int):
    """An int of a subclass."""


class Word(enum.StrEnum):
    A = "a-word"


class Code(enum.IntEnum):
    OK = 200
    TINY = 7


class Opaque(enum.Enum):
    A = "a"


def call(**fields):
    """One keyword call as the collector buffers it."""
    given_ = {"type": "t", "weight": 1.0, "at_ns": NOW_US * 1_000, **fields}
    assert given_.keys() <= set(CALL)
    return tuple(given_.get(name) for name in CALL)


# -- what the design allows -------------------------------------------------------------------------------------------


def text_ok(value, most):
    if not isinstance(value, str):
        return False
    try:
        size = len(str.encode(value))
    except UnicodeEncodeError:
        return False
    return 1 <= size <= most and "\0" not in value


def json_ok(value, level):
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return value == "" or text_ok(value, 8 * 1024)
    if isinstance(value, int):
        return -INT64 <= value < INT64
    if isinstance(value, float):
        return math.isfinite(value)
    if level > 16:
        return False
    if isinstance(value, dict):
        return all(text_ok(key, 200) and json_ok(inner, level + 1) for key, inner in value.items())
    return isinstance(value, list | tuple) and all(json_ok(inner, level + 1) for inner in value)


def number_ok(value, low, high=INT64 - 1, *, real=False):
    if isinstance(value, bool) or not isinstance(value, (int, float) if real else int):
        return False
    if isinstance(value, int):
        return low <= value <= high
    return math.isfinite(value) and low <= value <= high


def moment_of(ts, imported):
    """UTC microseconds, or None if that is no time; importers alone may give an integer."""
    if ts is None:
        return NOW_US
    if imported and type(ts) is int:
        return ts
    if isinstance(ts, str):
        try:
            ts = datetime.fromisoformat(ts)
        except ValueError:
            return None
    if not isinstance(ts, datetime) or ts.tzinfo is None:
        return None
    return (ts - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def plain(value):
    """JSON values as the json module reads them back."""
    if isinstance(value, dict):
        return {str.__str__(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        return str.__str__(value)
    return (
        value if isinstance(value, bool) or value is None else float(value) if isinstance(value, float) else int(value)
    )


def allowed(one, *, imported=False):
    event = dict(zip(CALL, one, strict=True))
    low = 0 if imported else NOW_US - TEN_YEARS_US
    moment = moment_of(event["ts"], imported)
    size = 16  # ts and received_at
    if moment is None or not low <= moment <= NOW_US + HOUR_US:
        return False
    for name in NAMES | ADDRESSES:
        value = event[name]
        if value is None:
            if name == "type":
                return False
            size += 36 if name == "id" else 0
        elif not text_ok(value, 2_048 if name in ADDRESSES else 200):
            return False
        else:
            size += len(str.encode(value))
    for name, low_, high, real in (
        ("status_code", 100, 599, False),
        ("duration_ms", 0, 10**12, True),
        ("bytes_sent", 0, INT64 - 1, False),
        ("bytes_received", 0, INT64 - 1, False),
        ("weight", 1, 10**9, True),
    ):
        value = event[name]
        if value is None:
            if name == "weight":
                return False
        elif not number_ok(value, low_, high, real=real):
            return False
        else:
            size += 8
    if event["success"] is not None and not isinstance(event["success"], bool):
        return False
    if event["success"] is not None or event["status_code"] is not None or event["error_code"] is not None:
        size += 8
    found = event["properties"]
    if found is not None:
        if not isinstance(found, dict) or len(found) > 256 or not json_ok(found, 2):
            return False
        if found:
            size += len(json.dumps(plain(found), ensure_ascii=False, separators=(",", ":")).encode())
    return size <= 32 * 1024
