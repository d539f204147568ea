"""An answer and its ways out: data frames, text, HTML; intervals and changes, with the reason where one is missing."""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gnomon
from gnomon.errors import InvalidValue, MissingExtra, UnknownName
from gnomon.query import result as results
from gnomon.query.result import Basis, Result, Row, change, show
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
KATHMANDU = ZoneInfo("Asia/Kathmandu")
BASIS = Basis("raw", True, 1, NOW, NOW + timedelta(days=1), "UTC", ("a step",))


def answer(columns, dimensions=0, basis=BASIS, **more):
    """A result made of columns of values."""
    names = list(columns)
    rows = [Row.of(names, values, place) for place, values in enumerate(zip(*columns.values(), strict=True))]
    return Result(names[:dimensions], names[dimensions:], rows, basis, **more)


FRAMES = {
    "pandas": lambda frame: frame.astype(object).where(frame.notna(), None).to_dict("list"),
    "polars": lambda frame: frame.to_dict(as_series=False),
    "arrow": lambda frame: frame.to_pydict(),
}
PLAIN = {
    "texts": ["a", None, "", "é\U0001f600", "'; --"],
    "numbers": [1, 0, -5, 2**53, 7],
    "holes": [1.5, None, -0.25, 1e300, None],
    "flags": [True, False, True, None, False],
    "times": [
        NOW.astimezone(KATHMANDU),
        None,
        datetime(2026, 3, 29, 0, tzinfo=KATHMANDU),
        NOW.astimezone(KATHMANDU),
        datetime(1970, 1, 1, tzinfo=KATHMANDU),
    ],
    "nothing": [None] * 5,
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_holds_what_the_answer_holds(kind):
    found = answer(PLAIN, 1)
    back = FRAMES[kind](getattr(found, f"to_{kind}")())
    assert list(back) == found.columns
    assert back == PLAIN


@pytest.mark.parametrize("kind", FRAMES)
def test_times_keep_their_instant_and_offset(kind):
    hours = [
        datetime(2025, 11, 2, 5, tzinfo=UTC) + timedelta(hours=n) for n in range(4)
    ]  # New York goes back at 06:00 UTC
    local = [moment.astimezone(ZoneInfo("America/New_York")) for moment in hours]
    back = FRAMES[kind](getattr(answer({"time:hour": local}, 1), f"to_{kind}")())["time:hour"]
    assert [moment.astimezone(UTC) for moment in back] == hours
    assert [moment.utcoffset() for moment in back] == [moment.utcoffset() for moment in local]


MIXED = [1, "1", 1.5, True, None, [1, {"a": None}], {"b": "é"}]


def test_values_of_several_types_stay_apart():
    found = answer({"properties.x": MIXED}, 1)
    assert found.to_pandas()["properties.x"].tolist() == MIXED
    for frame in (found.to_polars()["properties.x"].to_list(), found.to_arrow()["properties.x"].to_pylist()):
        assert [value if value is None else json.loads(value) for value in frame] == MIXED


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1.5], [1.0, 1.5]),
        ([2**63, 1], [float(2**63), 1.0]),
        ([-(2**63), None], [-(2**63), None]),
        ([2**63 - 1], [2**63 - 1]),
        ([True, 1], ["true", "1"]),
        ([{"a": 1}], ['{"a":1}']),
        ([], []),
        ([None], [None]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_a_column_of_one_type(values, expected):
    found = answer({"x": values}, 0)
    assert repr(found.to_polars()["x"].to_list()) == repr(expected) == repr(found.to_arrow()["x"].to_pylist())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(JSON, max_size=5))
def test_any_column_becomes_a_frame(values):
    found = answer({"x": values}, 1)
    assert found.to_pandas().shape == (len(values), 1)
    assert found.to_polars()["x"].null_count() == found.to_arrow()["x"].null_count == values.count(None)


@pytest.mark.parametrize(
    ("method", "module"), [("to_pandas", "pandas"), ("to_polars", "polars"), ("to_arrow", "pyarrow")]
)
def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch, method, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=f"{module} is not installed.*pip install"):
        getattr(answer(PLAIN), method)()


# -- text and HTML ----------------------------------------------------------------------------------------------------


def test_the_summary():
    found = answer({"source": ["a", None], "events": [1_234_567, 2], "success_rate": [0.98765, None]}, 1)
    found.totals = Row.of(["events", "success_rate"], [1_234_569, 0.5], 2)
    assert found.summary() == repr(found)
    lines = found.summary().splitlines()
    assert lines[0].split() == ["source", "events", "success_rate"]
    assert lines[2].split() == ["a", "1,234,567", "0.988"]
    assert lines[3].split() == ["-", "2", "-"]
    assert lines[4].split() == ["total", "1,234,569", "0.5"]
    assert "2026-01-15" in lines[-1] and "2026-01-16" in lines[-1] and lines[-1].endswith("(UTC); raw, exact")
    assert "... 1 more rows" in answer({"x": [1, 2, 3]}).summary(2)
    assert answer({"x": []}).summary()


HOSTILE = ["<script>alert(1)</script>", "&amp;", '"onload="', "</td></table>", "'", "\x1b[31m", "\u202e", "\n"]


def check_html(text):
    assert "<script" not in text and "</td></table>" not in text.replace("</td></tr></tbody></table>", "")
    assert "&lt;script&gt;" in text


def test_html_is_escaped():
    basis = Basis("raw", False, 1, NOW, NOW, "<b>", ())
    found = answer({HOSTILE[0]: HOSTILE, "</td></table>": range(len(HOSTILE))}, 1, basis)
    check_html(found._repr_html_())
    assert found._repr_html_().count("<tr>") == len(HOSTILE) + 1
    assert "\x1b" not in found.summary().split("\n", 2)[2]


def test_html_that_is_not_escaped_would_be_found(monkeypatch):
    monkeypatch.setattr(results.html, "escape", lambda text: text)
    with pytest.raises(AssertionError):
        test_html_is_escaped()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (1_000, "1,000"),
        (-5, "-5"),
        (0.0, "0"),
        (1.0, "1"),
        (1234.5678, "1,234.568"),
        (0.00012, "0.00012"),
        (NOW, "2026-01-15T12:00:00+00:00"),
        ("a\x1b[2Jb", "a?[2Jb"),
        ("é", "é"),
        ([1], "[1]"),
        (math.inf, "inf"),
    ],
)
def test_values_for_people(value, text):
    assert show(value) == text


# -- intervals and changes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "before", "rate", "expected"),
    [
        (3, 2, False, (0.5, None, None)),
        (0, 4, False, (-1.0, None, None)),
        (5, 0, False, (None, None, "no_baseline")),
        (0, 0, False, (None, None, "no_baseline")),
        (None, 2, False, (None, None, "no_value")),
        (2, None, False, (None, None, "no_baseline")),
        (None, None, False, (None, None, "no_value")),
        (0.5, 0.4, True, (0.25, 0.1, None)),
        (0.5, 0.0, True, (None, 0.5, "no_baseline")),
        (-3, -2, False, (0.5, None, None)),
    ],
)
def test_a_change_or_the_reason_why_there_is_none(now, before, rate, expected):
    found = change(now, before, rate=rate)
    assert (found.change, found.points, found.reason) == (
        pytest.approx(expected[0]),
        pytest.approx(expected[1]),
        expected[2],
    )


def test_an_interval_is_the_value_more_or_less_its_half_width():
    estimate = Basis("raw", False, 1, NOW, NOW, "UTC", ())
    found = answer(
        {"events": [100.0, 7.0], "success_rate": [0.99, 0.01], "p95": [5.0, None], "max": [9.0, 9.0]},
        0,
        estimate,
        rates=frozenset({"success_rate"}),
        shares=frozenset({"success_rate"}),
        half_widths={"events": [10.0, 0.0], "success_rate": [0.05, 0.05]},
        reasons={"p95": "too_few", "max": "as_seen"},
    )
    assert (found.interval("events", 0).low, found.interval("events", 0).high) == (90.0, 110.0)
    assert found.interval("events", found.rows[1]).low == 7.0
    assert found.interval("success_rate", 0).high == 1.0 and found.interval("success_rate", 1).low == 0.0
    assert (found.interval("p95", 0).low, found.interval("p95", 0).exact) == (None, False)
    assert (found.interval("p95", 0).reason, found.interval("max").reason) == ("too_few", "as_seen")
    assert found.interval("p95", 1) == results.Interval(None, None, None, False, "no_value")
    assert found.interval("events").reason is None


def test_bounds_lie_at_unequal_distances_from_the_value():
    estimate = Basis("raw", False, 1, NOW, NOW, "UTC", ())
    found = answer({"p95": [5.0, 7.0]}, 0, estimate, bounds={"p95": [(4.0, 9.5), None]}, reasons={"p95": "too_few"})
    assert found.interval("p95") == results.Interval(5.0, 4.0, 9.5, False)
    assert found.interval("p95", 1) == results.Interval(7.0, None, None, False, "too_few")


def test_an_exact_answer_has_no_width():
    found = answer({"events": [5]})
    assert found.interval("events") == results.Interval(5, 5, 5, True)


def test_what_cannot_be_asked_of_an_answer():
    found = answer({"events": [5]})
    with pytest.raises(UnknownName):
        found.interval("evnts")
    with pytest.raises(UnknownName):
        found.change("evnts")
    with pytest.raises(InvalidValue):
        found.change("events")


def test_it_is_a_sequence_of_rows():
    found = answer({"a": [1, 2, 3]})
    assert (len(found), found[0]["a"], found[-1]["a"], [row["a"] for row in found[1:]]) == (3, 1, 3, [2, 3])
    assert [row.place for row in found] == [0, 1, 2] and found[0] in found
    assert found.to_dicts() == [{"a": 1}, {"a": 2}, {"a": 3}] and type(found.to_dicts()[0]) is dict


def test_a_whole_way_from_events_to_frames():
    with gnomon.open(":memory:", clock=ManualClock(NOW)) as engine:
        for value in (1, "1", True, None, 1.5):
            engine.track("t", properties={"x": value})
        engine.flush()
        found = engine.query(["events", "mean_duration_ms"], ["properties.x", "time:day"], timezone="Asia/Kathmandu")
        assert len(found.to_pandas()) == len(found.to_polars()) == len(found.to_arrow()) == 5
        assert str(found.to_polars()["time:day"].dtype) == "Datetime(time_unit='us', time_zone='Asia/Kathmandu')"
        assert {type(row["properties.x"]) for row in found} == {int, str, bool, type(None), float}
