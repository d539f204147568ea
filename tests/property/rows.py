"""The rows that the differential test asks about: both sample files, and made-up rows around clock changes.

Numbers of made-up rows are multiples of 1/8, so that no sum depends on the order of adding.
"""

from __future__ import annotations

import csv
import gzip
import random
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Cluster = tuple[datetime, int, int]

#: In Kathmandu it is already the next day, month and Monday-to-Sunday week's Tuesday.
NOW = datetime(2026, 8, 31, 18, 20, 30, 123456, tzinfo=UTC)
WEIGHTS = (1.0, 1.0, 2.5, 10.0)

_DATA = Path(__file__).parents[2] / "examples" / "data"
_LINE = re.compile(r'(\S+) \S+ \S+ \[([^\]]+)\] "(\S+) (\S+) (\S+)" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)')


def us_of(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def access_events() -> Iterator[Event]:
    """The web site's log. The line whose last quote is missing counts like any other."""
    with gzip.open(_DATA / "access.log.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            client, when, method, target, protocol, status, size, referrer, agent = _LINE.match(
                line.rstrip("\n")
            ).groups()
            properties = {"protocol": protocol, "user_agent": agent}
            if referrer != "-":
                properties["referrer"] = referrer
            yield {
                "id": f"access-{number}",
                "ts": datetime.strptime(when, "%d/%b/%Y:%H:%M:%S %z"),
                "type": "request",
                "device_id": client,
                "method": method,
                "endpoint": target.partition("?")[0],
                "status_code": int(status),
                "bytes_sent": None if size == "-" else int(size),
                "properties": properties,
            }


def commit_events() -> Iterator[Event]:
    with gzip.open(_DATA / "commits.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            yield {
                "id": row["id"],
                "ts": datetime.fromisoformat(row["ts"]),
                "type": row["type"],
                "user_id": row["user_id"],
                "source": row["src"],
                "properties": {"subject_length": int(row["subject_length"]), "committed_at": row["committed_at"]},
            }


#: Instants (UTC) around which rows are made: where, how many hours to either side, how many rows.
CLUSTERS = tuple(
    (datetime.fromisoformat(when).replace(tzinfo=UTC), hours, count)
    for when, hours, count in [
        ("2025-03-09T07:00", 40, 1_600),  # New York forward; St. John's 1.5 h and Havana 2 h earlier
        ("2025-11-02T06:00", 40, 1_600),  # New York back; Havana 1 h earlier, over its midnight
        ("2025-03-09T07:00", 2, 900),
        ("2025-11-02T06:00", 3, 900),
        ("2025-04-05T15:00", 40, 1_400),  # Lord Howe back by half an hour
        ("2025-04-05T15:00", 2, 800),
        ("2025-10-04T15:30", 40, 1_400),  # Lord Howe forward by half an hour
        ("2025-10-04T15:30", 2, 800),
        ("2025-03-30T01:00", 30, 900),  # Paris
        ("2025-10-26T01:00", 30, 900),
        ("2025-04-24T22:00", 30, 900),  # Cairo skips its midnight
        ("2025-10-30T21:00", 30, 900),  # Cairo back from midnight to 23:00
        ("2025-06-30T18:15", 30, 1_400),  # midnight and month in Kathmandu
        ("2010-11-07T02:31", 30, 900),  # St. John's back from 00:01 to 23:01 of the day before
        ("2025-12-31T18:15", 60, 1_400),  # a new year, half a day around the world
        ("2026-08-31T18:20", 60, 1_800),
    ]
)
#: In a world of their own, as "all" gets long by them: the first days, Kathmandu's change by a quarter of an hour.
FAR_CLUSTERS = (
    (datetime(1970, 1, 1, tzinfo=UTC), 30, 500),
    (datetime(1970, 1, 9, tzinfo=UTC), 30, 500),
    (datetime(1985, 12, 31, 18, 30, tzinfo=UTC), 20, 700),
)
_EDGES_US = (
    0,
    -1,
    1,
    1_000_000,
    -1_000_000,
    1_800_000_000,
    -1_800_000_000,
    3_600_000_000,
    -3_600_000_000,
    900_000_000,
    60_000_000,
)

_SOURCES = ("a", "A", "ä", "Z", "z", "free-list", " lead", "100%", "o'hara", 'q"uote', "back\\slash", "tab\there",
            "line\nbreak", "🚀", "\uffee", "\U00010000", "é", "é", "null", "1", "_", "%")  # fmt: skip
_TYPES = ("request", "request", "request", "page_view", "pageview", "purchase", "поиск", "登录", "Request")
_ENDPOINTS = ("/", "/a", "/a/b", "/A", "/ü", "/a.b", "/{id}", "/a%20b", "/🚀/x")
_ERRORS = ("timeout", "Timeout", "dns", "http_500", "пусто")
#: What one and the same key holds; `...` stands for a key that is absent.
MIXED = (
    1,
    1.0,
    "1",
    True,
    None,
    ...,
    {"a": 1},
    [1, "x"],
    0,
    False,
    "true",
    "null",
    2.5,
    -3,
    "",
    "x y",
    1e3,
    -0.0,
    "ü",
    [],
    {},
    "🚀",
)
ODD_KEYS = (
    "a.b",
    "a/b",
    "a~b",
    "a~1b",
    'a"b',
    "a'b",
    "a\\b",
    "ключ",
    "with space",
    "0",
    "$",
    "*",
    "a",
    "[0]",
    "$.a",
    "/a",
    "a.b.c",
    "%s",
)


def made_events(seed: int, weighted: bool, clusters: Sequence[Cluster] = CLUSTERS) -> Iterator[list[Event]]:
    """About 20,000 rows, a list for each cluster, then a list of repeats."""
    rng = random.Random(seed)
    repeats: list[Event] = []
    for center, hours, count in clusters:
        rows = [_made(rng, center, hours, weighted) for _ in range(count)]
        for row in rng.sample(rows, count // 30):
            rows.append(dict(row))
            repeats.append(dict(row))
        for row in rng.sample(rows, count // 60):
            repeats.append({**_made(rng, center, hours, weighted), "id": row["id"]})
        yield rows
    if weighted:
        yield _hundred()
    yield repeats


def _hundred() -> list[Event]:
    """Weights that add up to 100, and a value at which they reach each of 1 to 55: 0.55 * 100 is not 55 in binary."""
    at = datetime(2025, 7, 1, 12, tzinfo=UTC)
    return [
        {"id": f"hundred-{n}", "ts": at + timedelta(seconds=n), "type": "purchase", "source": "hundred",
         "duration_ms": float(n), "bytes_sent": n, "properties": {"amount": n / 4}, "weight": weight}
        for n, weight in enumerate([1.0] * 55 + [10.0] * 4 + [2.5] * 2)
    ]  # fmt: skip


def _made(rng: random.Random, center: datetime, hours: int, weighted: bool) -> Event:
    high = us_of(NOW) + 3_500_000_000
    ts = us_of(center) + rng.choice(
        (rng.choice(_EDGES_US), *[rng.randrange(-hours * 3_600_000_000, hours * 3_600_000_000)] * 9)
    )
    maybe = lambda share, value: value if rng.random() < share else None  # noqa: E731
    event = {
        "id": _id(rng),
        "ts": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=max(0, min(ts, high))),
        "type": rng.choice(_TYPES),
        "user_id": maybe(0.6, f"u{int(rng.paretovariate(0.7)) % 97}"),
        "device_id": maybe(0.7, rng.choice(["u1", "u2", f"d{rng.randrange(200)}"])),
        "session_id": maybe(0.6, f"s{rng.randrange(400)}"),
        "source": maybe(0.8, rng.choice(_SOURCES)),
        "application": maybe(0.6, rng.choice(["crawler", "Crawler", "web"])),
        "domain": maybe(0.6, rng.choice(["example.com", "example.org:8080", "пример.рф"])),
        "endpoint": maybe(0.7, rng.choice(_ENDPOINTS)),
        "method": maybe(0.7, rng.choice(["GET", "POST", "get"])),
        "status_code": maybe(0.6, rng.choice([200, 200, 200, 204, 301, 399, 400, 404, 500, 599, 100])),
        "duration_ms": maybe(0.7, rng.choice([rng.randrange(8_000) / 8, 0.0, 12.5])),
        "bytes_sent": maybe(0.5, rng.choice([0, rng.randrange(10_000), 2**40 + rng.randrange(9)])),
        "bytes_received": maybe(0.5, rng.randrange(1_000)),
        "success": maybe(0.25, rng.random() < 0.5),
        "error_code": maybe(0.2, rng.choice(_ERRORS)),
        "properties": _properties(rng),
    }
    if weighted:
        event["weight"] = rng.choice(WEIGHTS)
    return event


def _id(rng: random.Random) -> str:
    made = str(uuid.UUID(int=rng.getrandbits(128)))
    return rng.choice((made, made, made.upper(), made.replace("-", ""), f"order #{made[:8]} ü"))


def _properties(rng: random.Random) -> dict[str, Any] | None:
    if rng.random() < 0.1:
        return rng.choice((None, {}))
    found: dict[str, Any] = {"mixed": rng.choice(MIXED)}
    if rng.random() < 0.7:
        found["amount"] = rng.randrange(-400, 4_000) / 4
    if rng.random() < 0.5:
        found["plan"] = rng.choice(["free", "pro", "Pro", None, 3])
    for key in rng.sample(ODD_KEYS, 3):
        found[key] = rng.choice((1, 2.5, "v", "w'x", True, None, {"b": {"c": 1}}, rng.randrange(50)))
    return {key: value for key, value in found.items() if value is not ...}
