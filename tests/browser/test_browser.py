"""The SDK in a real browser, against the real service of another origin: every event once, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live import LiveService, SharedService
from site_pages import Site
from way import Way

REACT = Path(__file__).resolve().parents[2] / "sdk" / "react" / "build" / "app.js"
pytestmark = pytest.mark.timeout(120)


def visit(visitor: Any, url: str) -> Any:
    page = visitor.new_page()
    page.goto(url)
    page.wait_for_function("window.ready")
    return page


def buy(page: Any, label: str) -> str:
    """A click by the mouse, as a person makes it."""
    page.evaluate("(label) => { document.getElementById('buy').dataset.label = label; }", label)
    page.click("#buy")
    return label


def flush(page: Any, milliseconds: int = 20_000) -> None:
    assert page.evaluate("(ms) => client.flush(ms)", milliseconds), page.evaluate("JSON.stringify(localStorage)")
    assert page.evaluate("dropped") == []


def until(condition: Callable[[], Any], seconds: float = 8.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def waiting(page: Any) -> int:
    return page.evaluate("Object.keys(localStorage).filter((key) => key.includes(':queue:')).length")


def clicks(service: LiveService | SharedService, site: Site) -> dict[str, float]:
    found = service.stored(site.application, "type", "properties.label")
    return {label: events for (kind, label), events in found.items() if kind == "click"}


def once(labels: list[str]) -> dict[str, float]:
    assert len(set(labels)) == len(labels)
    return dict.fromkeys(labels, 1)


def test_pages_clicks_and_paths(shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any) -> None:
    way_to(shared)
    site.options |= {"trackPages": True}
    labels = []
    page = visitor.new_page()
    for path in ("/", "/plans", "/orders/7?page=2"):
        page.goto(site.url + path)
        page.wait_for_function("window.ready")
        labels += [buy(page, f"{path}{n}") for n in range(5)]
    page.evaluate("history.pushState(null, '', '/orders/7?page=3'); history.pushState(null, '', '/thanks');")
    page.evaluate("history.back(); new Promise((done) => addEventListener('popstate', done))")
    page.wait_for_function("location.pathname == '/orders/7'")
    page.evaluate("client.identify('u1'); client.track('account', { plan: 'pro' }, { status_code: 201 })")
    flush(page)
    assert waiting(page) == 0
    assert page.evaluate("document.cookie") == ""
    found = shared.stored(
        site.application, "type", "endpoint", "properties.label", "user_id", "device_id", "session_id", "source"
    )
    (device,) = {key[4] for key in found}
    (session,) = {key[5] for key in found}
    assert device and session and {key[6] for key in found} == {"web"}
    views = {key[1]: events for key, events in found.items() if key[0] == "page_view"}
    assert views == {"/": 1, "/plans": 1, "/orders/7": 2, "/thanks": 1}
    assert {key[2]: events for key, events in found.items() if key[0] == "click"} == once(labels)
    assert [key[3] for key in found if key[0] == "account"] == ["u1"]


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


def test_back_from_the_cache_is_another_view(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way_to(shared)
    site.options |= {"trackPages": True}
    page = visit(visitor, site.url + "/first")
    # Playwright loses sight of a page that comes back from the cache, so the pages act by themselves.
    page.evaluate("""addEventListener('pageshow', (event) => {
        if (event.persisted) client.track('click', { label: 'same page' });
    })""")
    page.goto(site.url + "/second")
    page.wait_for_function("window.ready")
    page.evaluate("void setTimeout(() => history.back(), 50)")
    expected = {("page_view", "/first"): 2, ("page_view", "/second"): 1, ("click", None): 1}
    until(lambda: shared.stored(site.application, "type", "endpoint") == expected, 15)


def test_consent_and_signals(shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any) -> None:
    way = way_to(shared)
    site.options |= {"consent": "required", "trackPages": True}
    page = visit(visitor, site.url)
    buy(page, "too early")
    page.wait_for_timeout(300)
    page.goto(site.url + "/other")
    page.wait_for_function("window.ready")
    assert page.evaluate("localStorage.length") == 0 and way.posts == []
    page.evaluate("client.optIn()")
    labels = [buy(page, "wanted")]
    flush(page)
    page.goto(site.url + "/later")
    page.wait_for_function("window.ready")
    labels.append(buy(page, "still wanted"))
    flush(page)
    page.evaluate("client.optOut()")
    buy(page, "not any more")
    assert page.evaluate("Object.values(localStorage)") == ["no"]
    page.close()
    visitor.add_init_script("Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', { get: () => true })")
    visitor.clear_cookies()
    site.options |= {"consent": "assumed", "name": "another"}
    page = visit(visitor, site.url)
    buy(page, "signalled")
    page.wait_for_timeout(200)
    assert clicks(shared, site) == once(labels)


def test_sessions_end_after_half_an_hour_and_ids_last(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way_to(shared)
    visitor.add_init_script("window.clock = Date.now() - 10_800_000; Date.now = () => window.clock")
    page = visit(visitor, site.url)
    for label, minutes in (("a", 29), ("b", 29), ("c", 31), ("d", 0)):
        buy(page, label)
        page.evaluate("(minutes) => window.clock += minutes * 60_000", minutes)
    flush(page)
    page.goto(site.url + "/again")
    page.wait_for_function("window.ready")
    page.evaluate("window.clock += 150 * 60_000")
    buy(page, "e")
    flush(page)
    rows = shared.stored(site.application, "properties.label", "session_id", "device_id")
    sessions = {label: session for label, session, _ in rows}
    assert sorted(sessions) == list("abcde")
    assert sessions["a"] == sessions["b"] == sessions["c"]
    assert len(set(sessions.values())) == 3
    assert len({device for _, _, device in rows}) == 1


def test_a_page_fetched_ahead_is_counted_when_it_is_shown(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way = way_to(shared)
    site.options |= {"trackPages": True}
    visitor.add_init_script(
        "window.ahead = true; Object.defineProperty(Document.prototype, 'prerendering', { get: () => window.ahead })"
    )
    page = visit(visitor, site.url + "/shown")
    page.wait_for_timeout(200)
    assert way.posts == [] and page.evaluate("localStorage.length") == 0
    page.evaluate("window.ahead = false; document.dispatchEvent(new Event('prerenderingchange'))")
    flush(page)
    visit(visitor, site.url + "/never").close()
    assert shared.stored(site.application, "endpoint") == {("/shown",): 1}


def test_react_in_strict_mode(shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any) -> None:
    if not REACT.exists():
        pytest.skip("the application in React is not built: run `make test-js`")
    way_to(shared)
    site.script = REACT.read_bytes()
    page = visit(visitor, site.url + "/start")
    page.wait_for_selector("#buy")
    labels = [buy(page, "as nobody")]
    page.click("#plans")
    page.click("#sign-in")
    labels.append(buy(page, "as u1"))
    page.close()
    page = visit(visitor, site.url + "/start")
    page.wait_for_selector("#buy")
    flush(page)
    found = shared.stored(site.application, "type", "endpoint", "properties.label", "user_id")
    assert {(key[1], n) for key, n in found.items() if key[0] == "page_view"} == {("/start", 2), ("/plans", 1)}
    assert {key[2]: key[3] for key in found if key[0] == "click"} == {"as nobody": None, "as u1": "u1"}
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
