"""Any visit: tabs open, act, go elsewhere and close, the network comes and goes, the service dies; each event once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from acts import buy, clicks, flush, once, until, visit, waiting
from live import LiveService
from site_pages import Site
from way import Way

MOST_TABS = 3


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 7))
def test_any_visit(live: LiveService, way_to: Callable[..., Way], site: Site, visitor: Any, seed: int) -> None:
    chance = random.Random(seed)
    way = way_to(live, share=chance.choice([0.0, 0.2, 0.5]), seed=seed)
    site.options |= {"batchSize": chance.choice([1, 5, 50]), "flushInterval": chance.choice([5, 50, 500])}
    site.options |= {"retryDelay": 20, "timeout": 1_500}
    pages: list[Any] = []
    labels: list[str] = []
    up = online = True
    for step in range(60):
        act = chance.choices(["buy", "open", "go", "close", "network", "service", "wait"], [40, 8, 6, 8, 6, 4, 8])[0]
        page = chance.choice(pages) if pages else None
        if (act == "open" and len(pages) < MOST_TABS and online) or (page is None and online):
            pages.append(visit(visitor, site.url))
        elif page is None or act == "network":
            online = not online
            visitor.set_offline(not online)
        elif act == "buy":
            labels += [buy(page, f"{step} {n}") for n in range(chance.randint(1, 6))]
        elif act == "go" and online:
            page.goto(f"{site.url}/{step}")
            page.wait_for_function("window.ready")
        elif act == "close":
            pages.remove(page)
            page.close()
        elif act == "service":
            live.kill() if up else live.start()
            up = not up
        else:
            page.wait_for_timeout(chance.choice([0, 10, 100, 400]))
    visitor.set_offline(False)
    if not up:
        live.start()
    pages.append(visit(visitor, site.url))
    for page in pages:
        flush(page, 60_000)
    until(lambda: waiting(pages[-1]) == 0, 20)
    assert clicks(live, site) == once(labels), way.met
