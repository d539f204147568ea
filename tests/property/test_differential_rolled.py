"""Generated questions to rows that are rolled up, but for late ones: whatever rollups tell is what the oracle says."""

from __future__ import annotations

import pytest
from generate import rolled_question
from test_differential import check
from worlds import opened_rolled_up

import embedded
from gnomon.query import inquiry

QUICK = [range(start, start + 12) for start in range(0, 60, 12)]
SLOW = [range(start, start + 50) for start in range(50_000, 50_400, 50)]
_SLOW = [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)]) for name in
         ("postgres", "clickhouse", "cluster")]  # fmt: skip


@pytest.fixture(scope="module", params=["duckdb", *_SLOW])
def rolled_up(request, tmp_path_factory):
    """The worlds, in each of the stores."""
    folder = tmp_path_factory.mktemp("rolled")
    if request.param == "duckdb":
        url = lambda: ":memory:"  # noqa: E731
    else:
        url = embedded.url if request.param == "clickhouse" else request.getfixturevalue(request.param).url
    with opened_rolled_up(folder, url) as found:
        yield found


def asked(seeds):
    return {f"rolled_question({seed})": rolled_question(seed) for seed in seeds}


@pytest.mark.parametrize("seeds", QUICK, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_rollups_and_the_oracle_give_the_same_rows(rolled_up, seeds):
    check(rolled_up, asked(seeds))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SLOW, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_four_hundred_more(rolled_up, seeds):
    check(rolled_up, asked(seeds))


def test_most_of_them_are_answered_from_rollups(rolled_up):
    for world in rolled_up.values():
        world.sources.clear()
    check(rolled_up, asked(range(60, 84)))
    told = sum((world.sources for world in rolled_up.values()), start=type(rolled_up["plain"].sources)())
    assert told.total() - told["raw"] > told.total() / 2, told


def test_late_rows_that_are_left_out_are_noticed(rolled_up, monkeypatch):
    monkeypatch.setattr(inquiry, "any_late", lambda *_: "SELECT 1 FROM state WHERE 1 = 0")
    for world in rolled_up.values():
        monkeypatch.setattr(world.engine, "_asked", None)  # what is known of the data, and answers, are kept there
    with pytest.raises(AssertionError, match="questions differ"):
        check(rolled_up, asked(range(24)))
