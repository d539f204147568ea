"""What pages record: paths, ids, consent, React; in a real browser, against the real service of another origin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from acts import buy, clicks, flush, once, until, visit, waiting
from live import SharedService
from site_pages import Site
from way import Way

REACT = Path(__file__).resolve().parents[2] / "sdk" / "react" / "build" / "app.js"
pytestmark = pytest.mark.timeout(120)


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


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_back_from_the_cache_is_another_view(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any, share: float
) -> None:
    # With late answers a request is under way when the page goes into the cache.
    way_to(shared, share=share, mishaps=("answer_late",), late=0.8)
    site.options |= {"trackPages": True}
    page = visit(visitor, site.url + "/first")
    # Playwright loses sight of a page that comes back from the cache, so the pages act by themselves.
    page.evaluate("""addEventListener('pageshow', (event) => {
        if (event.persisted) client.track('click', { label: 'same page' });
    })""")
    page.goto(site.url + "/second")
    page.wait_for_function("window.ready")
    page.evaluate("void setTimeout(() => history.back(), 1500)")
    expected = {("page_view", "/first"): 2, ("page_view", "/second"): 1, ("click", None): 1}
    seen: list[Any] = []
    until(lambda: seen.append(shared.stored(site.application, "type", "endpoint")) or seen[-1] == expected, 60, seen)


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


def test_a_browser_that_forbids_storage(
    shared: SharedService, way_to: Callable[..., Way], site: Site, visitor: Any
) -> None:
    way_to(shared)
    site.options |= {"flushInterval": 60_000}
    visitor.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page = visit(visitor, site.url)
    labels = [buy(page, f"{n}") for n in range(3)]
    page.close()
    until(lambda: clicks(shared, site) == once(labels))
    rows = shared.stored(site.application, "device_id", "session_id")
    assert list(rows.values()) == [3], "the ids last as long as the page"


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
