"""Questions by chance: each seed always gives the same one, as the JSON that `engine.query` takes.

Two keys are for the test alone: `world` (which engine is asked) and `pages` (over how many pages to read). Those of
`rolled_question` are of what rollups keep.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from rows import CLUSTERS, FAR_CLUSTERS, ODD_KEYS

ZONES = ("UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "America/New_York", "Europe/Paris", "America/St_Johns",
         "America/Havana", "Africa/Cairo", "Africa/Monrovia")  # fmt: skip
GRAINS = ("minute", "hour", "day", "week", "month", "quarter", "year", "hour_of_day", "day_of_week")
#: How long a range each grain is asked of when nothing else bounds the number of buckets.
LONGEST = {"minute": timedelta(days=3), "hour": timedelta(days=400)}
CENTERS, FAR = ([center for center, _, _ in clusters] for clusters in (CLUSTERS, FAR_CLUSTERS))
SPANS = ("90d", "24h", "7d", "4w", "90min", "7d@1d", "26w", "520w@13w", "5200d", "400min@1h")
CALENDAR = ("today", "yesterday", "this_week", "last_week", "this_month", "last_month", "this_quarter", "last_quarter",
            "this_year", "last_year")  # fmt: skip
#: Local dates worth a look: the log, clock changes, new years, single days of the commits.
DATES = ("2015-05-17", "2015-05-18", "2015-05-20", "2025-03-09", "2025-11-02", "2025-04-06", "2025-10-05", "2025-03-30",
         "2025-10-26", "2025-04-25", "2025-10-31", "2025-07-01", "2026-01-01", "2010-11-07", "2026-08-31", "2024-02-29",
         "2019-12-30", "2014-01-01", "1970-01-01", "1986-01-01")  # fmt: skip

#: Where a zone's own changes are, so that its questions are asked there more often than elsewhere.
_OWN = {
    "Asia/Kathmandu": ("2025-06-30T18:15",),
    "Australia/Lord_Howe": ("2025-04-05T15:00", "2025-10-04T15:30"),
    "America/New_York": ("2025-03-09T07:00", "2025-11-02T06:00"),
    "Europe/Paris": ("2025-03-30T01:00", "2025-10-26T01:00"),
    "America/St_Johns": ("2010-11-07T02:31", "2025-03-09T05:30", "2025-11-02T04:30"),
    "America/Havana": ("2025-03-09T05:00", "2025-11-02T05:00"),
    "Africa/Cairo": ("2025-04-24T22:00", "2025-10-30T21:00"),
}

_TEXT_POOL: dict[str, tuple[str, ...]] = {
    "type": ("request", "page_view", "feature", "fix", "docs", "merge", "purchase", "поиск", "登录", "Request"),
    "user_id": ("u1", "u2", "u7", "u2bfe392f7ed4", "u40", "U1"),
    "device_id": ("u1", "d3", "d77", "198.18.0.1", "198.18.0.44", "d199"),
    "session_id": ("s1", "s20", "s399"),
    "source": ("a", "A", "ä", "hundred", "free-list", "sqlglot", "umami", "httpx", "o'hara", 'q"uote', "back\\slash",
               "🚀", "\uffee", "\U00010000", "line\nbreak", "100%", "_", "null", "1"),
    "application": ("crawler", "Crawler", "web"),
    "domain": ("example.com", "example.org:8080", "пример.рф"),
    "endpoint": ("/", "/a", "/a/b", "/ü", "/robots.txt", "/favicon.ico", "/style2.css", "/{id}", "/🚀/x"),
    "method": ("GET", "get", "POST", "HEAD", "OPTIONS"),
    "error_code": ("timeout", "Timeout", "dns", "пусто"),
    "actor": ("u1", "u2", "198.18.0.1", "u2bfe392f7ed4", "d3"),
    "status_class": ("2xx", "3xx", "4xx", "5xx"),
}  # fmt: skip
_PIECES = ("a", "A", "u", "1", "/", ".", "%", "_", "'", '"', "\\", "ü", "🚀", "re", "\n", "xx", "198.18.", "", "е")
_PATTERNS = ("^a", "a$", "^[a-f]", "(fix|feature|request)", "^/[^/]*$", ".", "a.b", "[0-9]+", "^u[0-9]{1,2}$",
             "\\.(css|ico|png)$", "'", "line.break", "^$", "(?:ä|ü)", "\\d{3}", "\\w+", "x*", "^\\W", "\\s", "ро?",
             "[^a-zA-Z0-9]")  # fmt: skip
_NUMBER_POOL: dict[str, tuple[float, ...]] = {
    "status_code": (200, 404, 500, 304, 301, 100, 599, 399.5, 204),
    "duration_ms": (12.5, 0, 100, 250.125, 500, 999.875, 1e9),
    "bytes_sent": (0, 203023, 5000, 2**40, 2**40 + 3, 1e6),
    "bytes_received": (0, 500, 999, 12),
}
_KEYS: dict[str, tuple[Any, ...]] = {
    "mixed": (1, "1", True, False, 0, "true", "null", 2.5, -3, "", "x y", 1000, "ü", 1.0),
    "amount": (0, 12.5, -100, 500, 999.75),
    "plan": ("free", "pro", "Pro", 3),
    "subject_length": (14, 24, 50, 51, 72),
    "protocol": ("HTTP/1.1", "HTTP/1.0"),
    "user_agent": ("-", "Mozilla/5.0"),
    "referrer": ("http://semicomplete.com/",),
    "absent": (1, "x"),
} | dict.fromkeys(ODD_KEYS, (1, 2.5, "v", "w'x", True, 7))
_MEASURES = ("duration_ms", "bytes_sent", "bytes_received", "status_code", "properties.amount", "properties.mixed",
             "properties.subject_length", "properties.a.b")  # fmt: skip
_AGGS = (
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "unique",
    "avg",
    "median",
    "p50",
    "p90",
    "p95",
    "p99",
    "p25",
    "p5",
    "p33",
    "p99.9",
    "p55",
    "p7",
)
_NAMES = (
    "events", "requests", "people", "sessions", "page_views", "successes", "failures", "unknown", "success_rate",
    "error_rate",
    *(f"{agg}_{field}" for agg in ("mean", "sum", "min", "max", "p50", "p90", "p95", "p99")
      for field in ("duration_ms", "bytes_sent", "bytes_received")),
)  # fmt: skip
_FEW = ("type", "source", "application", "domain", "method", "error_code", "status_class", "success", "status_code",
        "properties.mixed", "properties.plan", "properties.protocol")  # fmt: skip
_MANY = ("user_id", "device_id", "session_id", "endpoint", "actor", "duration_ms", "bytes_sent", "properties.amount",
         "properties.subject_length", "properties.referrer")  # fmt: skip


def question(seed: int) -> dict[str, Any]:
    """The question of a seed."""
    return _Chance(seed).question()


def rolled_question(seed: int) -> dict[str, Any]:
    """The question of a seed to rows that are rolled up."""
    return _RolledChance(seed).question()


class _Chance:
    few, names = _FEW, _NAMES

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.centers = CENTERS

    def question(self) -> dict[str, Any]:
        rng = self.rng
        zone = rng.choice(ZONES)
        dims = self.dimensions()
        metrics = self.metrics()
        at_a_change = rng.random() < 0.2
        if at_a_change:
            zone = rng.choice((*_OWN, "Australia/Lord_Howe", "Australia/Lord_Howe", "America/New_York"))
            dims = [
                rng.choice(("time:hour", "time:hour", "time:minute", "time:day")),
                *rng.sample(self.few, rng.choice((0, 0, 1))),
            ]
        grains = [name.removeprefix("time:") for name in dims if name.startswith("time:")]
        series = len(dims) == 1 and bool(grains)
        compare = rng.random() < 0.25
        finest = next((LONGEST[g] for g in ("minute", "hour") if g in grains and (series or compare)), None)
        world = rng.choice((*["plain"] * 9, *["weighted"] * 6, "far"))
        self.centers = FAR if world == "far" else CENTERS
        close = at_a_change or (world == "far" and rng.random() < 0.7)
        found: dict[str, Any] = {
            "world": world,
            "metrics": metrics,
            "dimensions": dims,
            "date_range": self.moments(zone, finest, "change") if close else self.date_range(zone, finest),
        }
        if zone != "UTC" or rng.random() < 0.5:
            found["timezone"] = zone
        if rng.random() < 0.6:
            found["filters"] = self.filters()
        if rng.random() < 0.5:
            found["order_by"] = self.order_by(dims, metrics)
        if compare:
            again = rng.random() < 0.2
            found["compare"] = (
                self.date_range(zone, finest) if again and not isinstance(found["date_range"], str) else "previous"
            )
        if rng.random() < 0.3:
            found["totals"] = True
        if dims and rng.random() < 0.45:
            found["pages"] = rng.choice((2, 3))
        elif rng.random() < 0.3:
            found["limit"] = rng.choice((1, 2, 7, 100, 20_000))
        return found

    def dimensions(self) -> list[str]:
        rng = self.rng
        shape = rng.choice(("none", "series", "series", "one", "one", "two", "two", "three"))
        if shape == "none":
            return []
        if shape == "series":
            return [f"time:{rng.choice(GRAINS)}"]
        times = [f"time:{grain}" for grain in rng.sample(GRAINS, 2)]
        few = rng.sample([*_FEW, *(f"properties.{key}" for key in rng.sample(ODD_KEYS, 3))], 3)
        many = rng.choice(_MANY)
        if shape == "one":
            return [rng.choice((few[0], few[0], many))]
        if shape == "two":
            found = rng.choice(([few[0], times[0]], [few[0], many], few[:2], times, [many, times[0]]))
        else:
            found = rng.choice((few, [*few[:2], times[0]], [few[0], *times], [few[0], few[1], many]))
        rng.shuffle(found)
        return found

    def metrics(self) -> list[Any]:
        rng = self.rng
        found: list[Any] = rng.sample(self.names, rng.randrange(0, 4))
        for place in range(rng.randrange(0 if found else 1, 3)):
            made = self.metric_object()
            if rng.random() < 0.9:
                made["as"] = f"m {place}"
            elif made["agg"] in ("count", "sum") and "field" not in made:
                made["as"] = "n"
            found.append(made)
        rng.shuffle(found)
        named = {(m if isinstance(m, str) else m.get("as") or f"{m['agg']}_{m['field']}"): m for m in found}
        return list(named.values())[:4]

    def metric_object(self) -> dict[str, Any]:
        rng = self.rng
        agg = rng.choice(_AGGS)
        made: dict[str, Any] = {"agg": agg}
        if agg in ("count", "unique"):
            field = rng.choice([*_TEXT_POOL, *_MEASURES, "success", *(f"properties.{key}" for key in _KEYS)])
            if agg == "unique" or rng.random() < 0.5:
                made["field"] = field
        else:
            made["field"] = rng.choice(_MEASURES)
        if rng.random() < 0.4:
            made["where"] = self.filter(rng.choice((0, 1)))
        return made

    # -- ranges --

    def date_range(self, zone: str, longest: timedelta | None) -> Any:
        rng = self.rng
        form = rng.choice(("all", "span", "calendar", "dates", "dates", "moments", "moments", "unix"))
        if longest is not None and form in ("all", "span", "calendar"):
            short = longest < timedelta(days=10)
            if form == "span":
                return rng.choice(
                    ("90min", "24h", "400min@1h", "2d@1d") if short else ("90d", "7d", "4w", "26w", "7d@1d")
                )
            if form == "calendar":
                return rng.choice(("today", "yesterday") if short else CALENDAR)
            form = "moments"
        if form == "all":
            return "all"
        if form == "span":
            return rng.choice(SPANS)
        if form == "calendar":
            return rng.choice(CALENDAR)
        if form == "dates":
            return self.dates(longest)
        return self.moments(zone, longest, form)

    def dates(self, longest: timedelta | None) -> list[str]:
        days = self.rng.choice([1, 2, 3, 8] if longest else [1, 2, 3, 8, 31, 90, 366, 1500])
        if longest:
            days = min(days, longest.days)
        begin = datetime.fromisoformat(self.rng.choice(DATES)) - timedelta(days=self.rng.randrange(days + 1))
        return [begin.date().isoformat(), (begin + timedelta(days=days)).date().isoformat()]

    def moments(self, zone: str, longest: timedelta | None, form: str) -> list[Any]:
        """Two moments, most of them close to a clock change, written with some offset or other."""
        rng = self.rng
        own = _OWN.get(zone) if self.centers is CENTERS else None
        center = datetime.fromisoformat(rng.choice(own)).replace(tzinfo=UTC) if own else rng.choice(self.centers)
        if form != "change" and rng.random() < 0.4:
            center = rng.choice(self.centers)
        before, after = (self.distance(longest) for _ in range(2))
        if rng.random() < (
            0.6 if form == "change" else 0.4
        ):  # both on one side, the nearer one within the change's own hour
            begin = center + timedelta(minutes=rng.choice((0, 1, 5, 10, 20, 29, 30, 31, 45, 59)))
            end = begin + after
        else:
            begin, end = center - before, center + after
        if rng.random() < 0.2 and form != "unix":
            begin += timedelta(microseconds=rng.randrange(1_000_000))
        if form == "unix":
            return [int(begin.timestamp()), int(end.timestamp()) + 1]
        offsets = (UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-3, minutes=-30)))
        return [begin.astimezone(rng.choice(offsets)).isoformat(), end.astimezone(rng.choice(offsets)).isoformat()]

    def distance(self, longest: timedelta | None) -> timedelta:
        found = self.rng.choice([1, 10, 30, 45, 60, 90, 119, 600, 1440, 2880, 10_000, 100_000, 1_000_000])
        most = longest // 2 if longest else timedelta(days=4000)
        return min(timedelta(minutes=found), most)

    # -- filters --

    def filters(self) -> list[Any]:
        if self.rng.random() < 0.1:
            return self.filter(3)
        return [self.filter(self.rng.choice((0, 0, 1, 2, 3))) for _ in range(self.rng.choice((1, 1, 1, 2)))]

    def filter(self, depth: int) -> list[Any]:
        rng = self.rng
        if depth == 0:
            return self.test()
        op = rng.choice(("and", "or", "not", "not", "or"))
        if op == "not":
            return ["not", self.filter(depth - 1)]
        return [op, [self.filter(rng.randrange(depth)) for _ in range(rng.randrange(1, 4))]]

    def test(self) -> list[Any]:
        rng = self.rng
        kind = rng.choice(("text", "text", "number", "boolean", "json", "json"))
        if kind == "text":
            return self.text_test(rng.choice(list(_TEXT_POOL)))
        if kind == "number":
            return self.number_test(rng.choice(list(_NUMBER_POOL)))
        if kind == "boolean":
            return self.boolean_test()
        return self.json_test(rng.choice(("mixed", "mixed", "amount", "plan", rng.choice(list(_KEYS)))))

    def boolean_test(self) -> list[Any]:
        rng = self.rng
        op, value = rng.choice((("is", [rng.random() < 0.5]), ("is_not", [rng.random() < 0.5]), ("is_set", ...),
                                ("is", [None, True]), ("is_not", None)))  # fmt: skip
        return [op, "success"] if value is ... else [op, "success", value]

    def text_test(self, name: str) -> list[Any]:
        rng = self.rng
        op = rng.choice(
            ("is", "is", "is_not", "contains", "contains_not", "matches", "gt", "gte", "lt", "lte", "is_set")
        )
        if op == "is_set":
            return [op, name]
        if op in ("is", "is_not"):
            return [op, name, self.some([*_TEXT_POOL[name], None])]
        if op in ("contains", "contains_not"):
            return [op, name, self.some(_PIECES)]
        if op == "matches":
            return [op, name, self.some(_PATTERNS)]
        return [op, name, rng.choice(_TEXT_POOL[name])]

    def number_test(self, name: str) -> list[Any]:
        rng = self.rng
        op = rng.choice(("is", "is_not", "gt", "gte", "lt", "lte", "is_set"))
        if op == "is_set":
            return [op, name]
        return [
            op,
            name,
            self.some([*_NUMBER_POOL[name], None]) if op in ("is", "is_not") else rng.choice(_NUMBER_POOL[name]),
        ]

    def json_test(self, key: str) -> list[Any]:
        rng = self.rng
        name = f"properties.{key}"
        op = rng.choice(
            ("is", "is", "is_not", "contains", "contains_not", "matches", "gt", "gte", "lt", "lte", "is_set")
        )
        if op == "is_set":
            return [op, name]
        if op in ("is", "is_not"):
            return [op, name, self.some([*_KEYS[key], None])]
        if op in ("contains", "contains_not"):
            return [op, name, self.some(_PIECES)]
        if op == "matches":
            return [op, name, self.some(_PATTERNS)]
        return [op, name, rng.choice([value for value in _KEYS[key] if not isinstance(value, bool)])]

    def some(self, pool: Any) -> Any:
        """One value as it is, or a list of up to four."""
        rng = self.rng
        if rng.random() < 0.2:
            return rng.choice(pool)
        return rng.sample(list(pool), min(len(pool), rng.randrange(1, 5)))

    # -- order --

    def order_by(self, dims: list[str], metrics: list[Any]) -> list[Any]:
        rng = self.rng
        names = dims + [m if isinstance(m, str) else m.get("as") or f"{m['agg']}_{m['field']}" for m in metrics]
        chosen = rng.sample(names, min(len(names), rng.choice((1, 1, 2, 3))))
        return [name if rng.random() < 0.1 else [name, rng.choice(("asc", "desc"))] for name in chosen]


#: What the rollups of the default settings keep apart, and people.
_KEPT = (
    ("type", "source", "application", "domain", "status_code", "status_class", "success", "error_code"),
    ("type", "application", "endpoint", "method", "status_code", "status_class", "success"),
)
_OF_PEOPLE = ("type", "source", "application")
_ROLLED_NAMES = (
    "events", "requests", "page_views", "successes", "failures", "unknown", "success_rate", "error_rate",
    *(f"{agg}_{field}" for agg in ("mean", "sum", "min", "max") for field in _MEASURES[:3]),
)  # fmt: skip


class _RolledChance(_Chance):
    """Without percentiles, which rollups tell within 1 %: rows would come in another order."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        people = self.rng.random() < 0.4
        self.few = _OF_PEOPLE if people else self.rng.choice(_KEPT)
        self.names = ("people", "people", "people", *_ROLLED_NAMES) if people else _ROLLED_NAMES

    def dimensions(self) -> list[str]:
        rng = self.rng
        times = rng.sample([f"time:{grain}" for grain in GRAINS if grain != "minute"], rng.choice((0, 1, 1, 2)))
        found = [*rng.sample(self.few, rng.choice((0, 0, 1, 2, 3))), *times][:3]
        rng.shuffle(found)
        return found

    def metric_object(self) -> dict[str, Any]:
        rng = self.rng
        made: dict[str, Any] = {"agg": rng.choice(("count", "sum", "mean", "min", "max"))}
        if made["agg"] != "count" or rng.random() < 0.5:
            made["field"] = rng.choice(_MEASURES[:3] if made["agg"] != "count" else (*self.few, *_MEASURES[:3]))
        if rng.random() < 0.4:
            made["where"] = self.filter(rng.choice((0, 1)))
        return made

    def test(self) -> list[Any]:
        name = self.rng.choice(self.few)
        if name == "success":
            return self.boolean_test()
        return self.number_test(name) if name == "status_code" else self.text_test(name)
