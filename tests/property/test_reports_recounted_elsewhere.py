"""Reports of PostgreSQL and ClickHouse against the recount of `test_reports_recounted`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reports_recounted import EVENT, HEAVY, LIGHT, ONE, UNWELL, forgotten, kept_late_and_pruned, weighted

import embedded

MANY = settings(max_examples=25, suppress_health_check=UNWELL)
FEW_EVENTS = [ONE | {"minutes": 37 * n * n, "type": ["request", "click", "page_view"][n % 3], "device_id": "tv",
                     "user_id": [None, "ann", "bob"][n % 3], "endpoint": "/a", "success": n % 2 == 0,
                     "session_id": f"s{n % 4}", "duration_ms": 3.5 * n} for n in range(20)]  # fmt: skip


@pytest.fixture(scope="module", params=["postgresql", pytest.param("chdb", marks=pytest.mark.slow)])
def place(request, tmp_path_factory):
    """Says where the next store is."""
    fresh = request.getfixturevalue("postgres").url if request.param == "postgresql" else embedded.url
    return lambda: {"url": fresh(), "data_dir": str(tmp_path_factory.mktemp("recounted"))}


def test_reports_of_raw_rows_rollups_late_rows_and_pruned_ones(place):
    kept_late_and_pruned(FEW_EVENTS, FEW_EVENTS[5:7], **place())


def test_reports_of_weighted_rows(place):
    weighted([event | {"weight": [1.0, 2.5][n % 2]} for n, event in enumerate(FEW_EVENTS)], True, **place())


def test_who_is_forgotten_is_in_no_report_and_totals_stay(place):
    forgotten(FEW_EVENTS, True, **place())


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@MANY
@given(LIGHT, st.lists(EVENT, max_size=5))
def test_reports_of_raw_rows_rollups_late_rows_and_pruned_ones_many_times(place, events, late):
    kept_late_and_pruned(events, late, **place())


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@MANY
@given(HEAVY, st.booleans())
def test_reports_of_weighted_rows_many_times(place, events, rolled):
    weighted(events, rolled, **place())


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@MANY
@given(LIGHT, st.booleans())
def test_who_is_forgotten_is_in_no_report_and_totals_stay_many_times(place, events, rolled):
    forgotten(events, rolled, **place())
