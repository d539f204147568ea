"""The same SDK in Node, through a way that spoils three in ten requests or answers: the count is exact."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from live import SharedService
from site_pages import Site
from way import MISHAPS, Way


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("events", "seed"), [(250, 1), pytest.param(2_500, 2, marks=pytest.mark.slow)])
def test_eight_clients_and_lost_answers(
    shared: SharedService, way_to: Callable[..., Way], site: Site, bundle: Path, events: int, seed: int
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is missing: install Node 20 or newer")
    way = way_to(shared, share=0.3, seed=seed)
    options = site.options | {"retryDelay": 20, "timeout": 3_000, "maxQueue": 10_000, "batchSize": 20, "events": events}
    credentials = [{"key": shared.key}, {"key": None, "token": shared.token("ingest:any")}]
    given = [options | credentials[at % 2] | {"label": str(at)} for at in range(8)]
    told = subprocess.run(
        [node, str(Path(__file__).with_name("node_clients.mjs")), str(bundle), json.dumps(given)],
        capture_output=True, text=True, check=True, timeout=250,
    )  # fmt: skip
    found = json.loads(told.stdout)
    assert found["flushed"] == [True] * 8 and found["dropped"] == []
    assert len(set(found["ids"])) == 8 * events == len(set(way.confirmed))
    assert set(way.met) == set(MISHAPS), "each mishap happened"
    stored = shared.stored(site.application, "properties.label")
    assert stored == {(f"{at} {n}",): 1 for at in range(8) for n in range(events)}
