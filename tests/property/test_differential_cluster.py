"""The generated questions once more, to a ClickHouse cluster of two shards: the same rows, oracle and answers."""

from __future__ import annotations

import pytest
from generate import question
from test_differential import CORNERS, check
from worlds import copied_to_clickhouse

from gnomon.store.clickhouse.clustered import ClusteredClickHouse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]
SEEDS = [range(start, start + 50) for start in range(40_000, 40_500, 50)]


@pytest.fixture(scope="module")
def cluster_worlds(worlds, cluster, tmp_path_factory):
    with copied_to_clickhouse(worlds, tmp_path_factory.mktemp("cluster"), cluster.url) as found:
        yield found


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_a_cluster_and_the_oracle_give_the_same_rows(cluster_worlds, seeds):
    check(cluster_worlds, {f"question({seed})": question(seed) for seed in seeds})


def test_sharp_corners(cluster_worlds):
    check(cluster_worlds, CORNERS)


def test_it_is_the_cluster_that_answers(cluster_worlds):
    assert all(isinstance(world.engine._own_or_refuse(), ClusteredClickHouse) for world in cluster_worlds.values())
