"""Reports of an embedded ClickHouse against the recount of `test_reports_recounted`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reports_recounted import EVENT, HEAVY, LIGHT, UNWELL, forgotten, kept_late_and_pruned, weighted
from test_reports_recounted_postgres import FEW_EVENTS

import embedded

MANY = settings(max_examples=25, suppress_health_check=UNWELL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Says where the next store is."""

    def place():
        return {"url": embedded.url(), "data_dir": str(tmp_path_factory.mktemp("recounted"))}

    return place


@pytest.mark.slow
def test_reports_of_raw_rows_rollups_late_rows_and_pruned_ones(place):
    kept_late_and_pruned(FEW_EVENTS, FEW_EVENTS[5:7], **place())


@pytest.mark.slow
def test_reports_of_weighted_rows(place):
    weighted([event | {"weight": [1.0, 2.5][n % 2]} for n, event in enumerate(FEW_EVENTS)], True, **place())


@pytest.mark.slow
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
