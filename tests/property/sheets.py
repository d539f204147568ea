"""Tables as people have them in files: columns of any type, times of any zone, rows that are there twice, odd ones."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

#: Where clocks of the zones are turned, and some other moments, as the clock on the wall.
TURNS = [datetime(2025, 3, 30, 2), datetime(2025, 10, 26, 2), datetime(2025, 4, 6, 1, 30), datetime(2025, 10, 5, 2),
         datetime(1972, 1, 7), datetime(2024, 6, 1), datetime(2026, 1, 1)]  # fmt: skip
walls = st.builds(lambda turn, minutes, us: turn + timedelta(minutes=minutes, microseconds=us),
                  st.sampled_from(TURNS), st.integers(-100, 100), st.sampled_from([0, 0, 1, 250_000]))  # fmt: skip
aware = walls.map(lambda wall: wall.replace(tzinfo=UTC))
odd_times = st.sampled_from([datetime(1969, 12, 31), datetime(2027, 1, 1), datetime(1, 1, 1), datetime(9999, 12, 31)])
names = st.sampled_from(
    ["a", "b", "web", "é", "https://u:p@x.example/p?q=1", "\U0001f600", "a\r\nb", "a\\r\\nb", "0", "07"]
)
odd_texts = st.sampled_from(["", " ", "x" * 300, "\x00", "\u2028", '"', "1e5", "-0", "1.50", "NaN", "9" * 25])
texts = st.one_of(names, names, names, odd_texts)
json_texts = st.sampled_from([
    "{}", '{"plan": "pro", "n": 1}', '{"plan":"a:b"}', '{"n": {"deep": [1, {"x": null}]}}', '{"é": 1.0}', '{"t": true}',
])  # fmt: skip
odd_json = st.sampled_from([
    '{"n":1,"n":2}', "[]", "{", " ", '{"a":1}\n{"b":2}', '\n{"a":1}', '{"a":1},{"b":2}', "null",
    '{"n":' + "9" * 30 + "}", '{"n":1e999}', '{"a":{"b":1,"b":2}}', '{"a":', '1}{"b":2}', ' {"a":1}', '{"a":1}{"b":2}',
    '{"a":{"b":1}',
])  # fmt: skip
numbers = st.one_of(st.integers(-3, 700), st.sampled_from([2**40, 2**62]))
reals = st.one_of(st.floats(0, 1e6), st.sampled_from([1.0, 200.0, -0.0, 0.0, 1e-7]))
odd_reals = st.sampled_from([float("nan"), float("inf"), -1.0, 1e300])


def _of(kind, good, odd=st.none()):
    return st.tuples(st.just(kind), st.one_of(good, good, good, good, good, good, good, odd))


def _columns(*choices):
    """A column: its type, and a strategy for its values, which are rarely odd, or missing."""
    return st.sampled_from(choices)


TEXT = (pa.string(), texts, st.none())
SURE = (pa.string(), names.filter(str.isascii), st.none())
INTEGER = (pa.int64(), numbers, st.none())
REAL = (pa.float64(), reals, odd_reals)
ANY = [
    TEXT, SURE, INTEGER, REAL, (pa.bool_(), st.booleans(), st.none()), (pa.date32(), st.dates(), st.none()),
    (pa.timestamp("us"), walls, odd_times), (pa.timestamp("ms", "Europe/Berlin"), aware, st.none()),
    (pa.decimal128(30, 2), st.sampled_from([Decimal("9.99"), Decimal("12345678901234567890.12")]), st.none()),
    (pa.list_(pa.int64()), st.lists(st.integers(0, 3), max_size=2), st.none()), (pa.binary(), st.just(b"x"), st.none()),
    (pa.struct([("a", pa.float64())]), st.fixed_dictionaries({"a": reals}), st.just({"a": float("nan")})),
    (pa.duration("us"), st.just(timedelta(seconds=2)), st.none()), (pa.null(), st.none(), st.none()),
]  # fmt: skip
ISO = st.sampled_from(["Z", "+00:00", "+02:00", "-05:30"])
zoned_texts = st.builds(lambda wall, zone, mark: f"{wall.isoformat(mark)}{zone}", walls, ISO, st.sampled_from("T "))
wall_texts = st.one_of(walls.map(datetime.isoformat), walls.map(lambda wall: wall.date().isoformat()))
TIMES = [
    (pa.timestamp("us", "UTC"), aware, st.none()), (pa.timestamp("us"), walls, odd_times),
    (pa.timestamp("ns"), walls, st.none()), (pa.timestamp("s", "+02:00"), aware, st.none()),
    (pa.timestamp("ms", "Australia/Lord_Howe"), aware, odd_times.map(lambda wall: wall.replace(tzinfo=UTC))),
    (pa.string(), zoned_texts, st.sampled_from(["yesterday", "", "2025-02-30T00:00:00Z", "2025-01-01T24:00:00Z"])),
    (pa.string(), wall_texts, st.sampled_from(["2025-02-30", "20250101", " 2025-01-01", "2025-01-01\n2025-01-01"])),
    (pa.int64(), st.integers(1_500_000_000, 1_500_000_003), st.sampled_from([5, 1_500_000_000_123])),
    (pa.string(), st.sampled_from(["1500000000", "1500000000.25", "1500000000123"]), st.just("15")),
    (pa.date32(), st.dates(date(2000, 1, 1), date(2026, 1, 1)), st.just(date(1, 1, 1))),
]  # fmt: skip
STATUS = [(pa.int16(), st.sampled_from([200, 404]), st.just(7)),
          (pa.float64(), st.sampled_from([200.0, 500.0]), st.just(200.5)),
          (pa.string(), st.sampled_from(["200", "404.0", " 301 "]), texts)]  # fmt: skip
TRUTH = [(pa.bool_(), st.booleans(), st.none()), (pa.string(), st.sampled_from(["yes", "0", "True"]), texts), INTEGER]
OBJECT = [(pa.string(), json_texts, odd_json), (pa.string(), json_texts, odd_json), INTEGER, *ANY[-5:]]
LIKELY = {
    "type": [SURE, TEXT], "user": [SURE, TEXT, INTEGER], "device_id": [SURE, TEXT], "source": [SURE, TEXT],
    "endpoint": [SURE, TEXT], "domain": [SURE, TEXT], "error": [SURE, TEXT], "status": STATUS, "Success": TRUTH,
    "duration_ms": [REAL, INTEGER, *STATUS], "bytes_sent": [INTEGER, REAL, TEXT],
    "weight": [(pa.float64(), st.just(2.0), odd_reals)], "id": [(pa.string(), st.uuids().map(str), texts)],
    "payload": OBJECT, "plan": ANY, "n": ANY, "properties.deep": ANY, "Odd name": ANY,
}  # fmt: skip


@st.composite
def sheets(draw):
    """A table: rows of which some are there twice, in columns of any types; most have nothing that is odd."""
    clean = draw(st.integers(0, 2)) > 0
    chosen = {"ts": draw(st.sampled_from(TIMES))} if draw(st.integers(0, 9)) else {}
    for name in draw(st.lists(st.sampled_from([*LIKELY]), unique=True, max_size=6)):
        chosen[name] = draw(st.sampled_from(LIKELY[name]))
    rows = draw(st.integers(1, 6))
    order = draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=20))
    columns = {}
    for name, (kind, good, odd) in chosen.items():
        sound = good if name in ("ts", "type", "id") or draw(st.booleans()) else st.one_of(good, good, st.none())
        each = draw(st.lists(sound if clean else st.one_of(*[sound] * 7, st.none(), odd), min_size=rows, max_size=rows))
        columns[name] = (kind, [each[place] for place in order])
    return columns or {"n": (pa.int64(), [1, 1])}


def as_parquet(path, sheet):
    arrays = [pa.array(found, kind) for kind, found in sheet.values()]
    pq.write_table(pa.table(arrays, names=list(sheet)), path)


def _text(value):
    return "" if value is None else value.isoformat() if isinstance(value, date) else json.dumps(value) if isinstance(
        value, dict | list) else str(value)  # fmt: skip


def as_csv(path, sheet):
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(sheet)
        out.writerows(map(_text, row) for row in zip(*(found for _, found in sheet.values()), strict=True))


WIRE = {"user": "user_id", "status": "status_code", "Success": "success"}


def as_ndjson(path, sheet):
    """Objects with the names of events; some say null where others leave a name out."""
    lines = []
    for number, row in enumerate(zip(*(found for _, found in sheet.values()), strict=True)):
        named = {WIRE.get(name, name): value for name, value in zip(sheet, row, strict=True)}
        named = {"type": "t", **{name: value for name, value in named.items() if value is not None or number % 3 == 0}}
        parts = [f"{json.dumps(name)}: {_json(name, value)}" for name, value in named.items()]
        lines.append("{" + ",".join(parts) + "}\n" + " \n" * (number % 7 == 2))
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _json(name, value):
    if name == "payload" and isinstance(value, str) and "\n" not in value and value:
        return value
    return json.dumps(value, default=_text, ensure_ascii=len(str(value)) % 2 == 0)


FORMS = {"parquet": as_parquet, "csv": as_csv, "ndjson": as_ndjson}
