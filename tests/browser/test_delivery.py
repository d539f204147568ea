"""The SDK in a real browser, against the real service of another origin: every event once, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from acts import buy, clicks, flush, once, until, visit, waiting
from live import LiveService, SharedService
from site_pages import Site
from way import Way

pytestmark = pytest.mark.timeout(120)


def test_a_tab_that_is_closed_at_once(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way = way_to(shared)
    site.options |= {"flushInterval": 60_000}
    labels = []
    for n in range(5):
        page = visit(visitor, site.url)
        labels.append(buy(page, f"tab {n}"))
        page.close()
    # The last tab has no page after it: only what it sent while it closed can have arrived.
    until(lambda: len(set(way.confirmed)) == len(labels))
    assert any("?key=" in post["path"] and post["type"].startswith("text/plain") for post in way.posts)
    page = visit(visitor, site.url)
    flush(page)
    assert waiting(page) == 0
    assert clicks(shared, site) == once(labels)


def test_more_than_a_closing_page_may_send(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way_to(shared)
    site.options |= {"flushInterval": 60_000, "batchSize": 1_000}
    page = visit(visitor, site.url)
    page.evaluate("for (let n = 0; n < 150; n++) client.track('click', { label: `${n}`, text: 'é'.repeat(600) })")
    page.close()
    page = visit(visitor, site.url)
    flush(page)
    assert clicks(shared, site) == once([str(n) for n in range(150)])


def test_what_is_under_way_is_not_sent_again_when_the_page_hides(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way = way_to(shared, share=1.0, mishaps=("answer_late",), late=1.0)
    site.options |= {"flushInterval": 20}
    page = visit(visitor, site.url)
    labels = [buy(page, "under way")]
    until(lambda: way.met)
    labels.append(
        page.evaluate("client.track('click', { label: 'next' }), dispatchEvent(new Event('pagehide')), 'next'")
    )
    until(lambda: len(way.posts) == 2)
    assert "?key=" in way.posts[1]["path"], "the second went while the page hid"
    flush(page)
    assert len(way.confirmed) == len(set(way.confirmed)) == 2
    assert clicks(shared, site) == once(labels)


def test_offline_and_back(shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any) -> None:
    way_to(shared)
    site.options |= {"retryDelay": 30_000}
    page = visit(visitor, site.url)
    labels = [buy(page, "before")]
    visitor.set_offline(True)
    labels += [buy(page, f"away {n}") for n in range(5)]
    page.wait_for_timeout(400)
    assert waiting(page) >= 5
    visitor.set_offline(False)
    began = time.monotonic()
    flush(page)
    assert time.monotonic() - began < 10, "the network was back, and the page waited on"
    assert clicks(shared, site) == once(labels)


def test_tabs_close_without_a_network_and_another_opens(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way, pages = way_to(shared), [visit(visitor, site.url) for _ in range(3)]
    visitor.set_offline(True)
    labels = [buy(page, f"{at} {n}") for at, page in enumerate(pages) for n in range(4)]
    locks = "navigator.locks.query().then(({ held }) => held.map((lock) => lock.name.split(':').pop()))"
    assert len(pages[2].evaluate(locks)) == 3
    pages[0].wait_for_timeout(300)
    for page in pages[:2]:
        page.close()
    until(lambda: len(pages[2].evaluate(locks)) == 1)  # the browser gives up the others' when it gets to it
    (alive,) = pages[2].evaluate(locks)
    stored = pages[2].evaluate("Object.keys(localStorage).map((key) => key.split(':')).filter((key) => key.length > 4)")
    of_the_living = {key[-1] for key in stored if key[-2] == alive}
    assert len(stored) == 12 and len(of_the_living) == 4
    visitor.set_offline(False)
    page = visit(visitor, site.url)
    flush(page)
    flush(pages[2])
    until(lambda: waiting(page) == 0)
    assert [way.confirmed.count(id_) for id_ in of_the_living] == [1] * 4, "a page that lives sends its own events"
    assert clicks(shared, site) == once(labels)


@pytest.mark.parametrize("lives", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_service_is_killed_and_comes_back(
    live: LiveService, way_to: Callable[..., Way], site: Site, visitor: Any, lives: int
) -> None:
    way_to(live)
    site.options |= {"batchSize": 3, "flushInterval": 10}
    page = visit(visitor, site.url)
    labels: list[str] = []
    for life in range(lives):
        killer = threading.Timer(0.15, live.kill)
        killer.start()
        labels += [buy(page, f"{life} {n}") for n in range(15)]
        killer.join()
        labels.append(buy(page, f"{life} down"))
        live.start()
        labels.append(buy(page, f"{life} up"))
    flush(page)
    assert waiting(page) == 0
    assert clicks(live, site) == once(labels)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_answers_are_lost_after_the_commit(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any, seed: int
) -> None:
    way = way_to(shared, share=0.5, seed=seed)
    site.options |= {"batchSize": 4, "flushInterval": 20, "retryDelay": 20, "timeout": 1_500}
    labels = []
    for tab in range(3):
        page = visit(visitor, site.url)
        labels += [buy(page, f"{tab} {n}") for n in range(15)]
        page.close()
    page = visit(visitor, site.url)
    flush(page, 40_000)
    until(lambda: waiting(page) == 0)
    assert len(set(way.met)) > 3, "the way was too good to show anything"
    assert clicks(shared, site) == once(labels)


def test_a_page_that_the_key_does_not_name(
    live: LiveService, way_to: Callable[..., Way], site: Site, bundle: Path, visitor: Any
) -> None:
    way = way_to(live)
    stranger = Site(bundle)
    try:
        stranger.options = site.options
        page = visit(visitor, stranger.url)
        buy(page, "from elsewhere")
        assert page.evaluate("client.flush(1000)") is False
        page.close()
        page = visit(visitor, stranger.url)
        assert not [post for post in way.posts if post["status"] == 200]
    finally:
        stranger.close()
    page = visit(visitor, site.url)
    labels = [buy(page, "from here")]
    flush(page)
    assert clicks(live, site) == once(labels)


@pytest.mark.parametrize("live", [3], indirect=True)
def test_a_page_waits_as_long_as_the_service_says(
    live: LiveService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way = way_to(live)
    page = visit(visitor, site.url)
    labels = []
    while len(labels) < 6 and 429 not in [post["status"] for post in way.posts]:
        labels.append(buy(page, str(len(labels))))
        page.evaluate("client.flush(20_000)" if len(labels) < 3 else "client.flush(1_000)")
        until(lambda: len(way.posts) == len(labels))
    taken = len(labels) - 1
    assert taken in (3, 4), "three a minute, and one more where another minute began"
    labels += [buy(page, f"later {n}") for n in range(2)]
    page.evaluate("client.flush(150)")
    page.wait_for_timeout(700)
    told = [post["status"] for post in way.posts]
    assert told == [200] * taken + [429], "Retry-After was not seen, or not kept to"
    assert waiting(page) == 3 and page.evaluate("dropped") == []
    assert clicks(live, site) == once(labels[:taken])
