"""What a visitor does, and what a test looks at afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from live import LiveService, SharedService
from site_pages import Site


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


def until(condition: Callable[[], Any], seconds: float = 30.0, seen: list[Any] | None = None) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen; last seen: {(seen or [None])[-1]}"
        time.sleep(0.02)


def waiting(page: Any) -> int:
    return page.evaluate("Object.keys(localStorage).filter((key) => key.includes(':queue:')).length")


def clicks(service: LiveService | SharedService, site: Site) -> dict[str, float]:
    found = service.stored(site.application, "type", "properties.label")
    return {label: events for (kind, label), events in found.items() if kind == "click"}


def once(labels: list[str]) -> dict[str, float]:
    assert len(set(labels)) == len(labels)
    return dict.fromkeys(labels, 1)
