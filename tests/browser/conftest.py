"""A real browser, the built SDK and the real service, each a process; skipped with a reason where one is missing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("gnomon.server.running", reason="the service is missing: install gnomon[server]")

from live import LiveService, SharedService
from site_pages import Site
from way import Way

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "sdk" / "js" / "dist" / "index.js"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium with an empty profile: the system's, else Playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is missing")
    with playwright.sync_playwright() as driver:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        found = found or driver.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("no Chromium: install the package chromium, or run `playwright install chromium`")
        started = driver.chromium.launch(
            executable_path=found, args=FLAGS, ignore_default_args=["--disable-back-forward-cache"]
        )
        yield started
        started.close()


@pytest.fixture(scope="session")
def bundle() -> Path:
    if not BUNDLE.exists():
        pytest.skip("the SDK is not built: run `make test-js`, which needs Node 20 or newer")
    return BUNDLE


@pytest.fixture
def site(bundle: Path) -> Iterator[Site]:
    opened = Site(bundle)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(bundle: Path, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """The service that tests share; each looks at its own application."""
    opened = SharedService(tmp_path_factory.mktemp("shared"))
    yield opened
    opened.stop()


@pytest.fixture
def live(request: pytest.FixtureRequest, tmp_path: Path, site: Site) -> Iterator[LiveService]:
    """A service of one test, to be killed, with a write key for the pages of `site` only. Parameter: calls a minute."""
    opened = LiveService(tmp_path, site.url, getattr(request, "param", 0))
    opened.start()
    yield opened
    opened.stop()


@pytest.fixture
def way_to(site: Site) -> Iterator[Callable[..., Way]]:
    """Makes the way from the pages to a service, and tells the pages of it."""
    opened: list[Way] = []

    def make(service: LiveService | SharedService, **named: Any) -> Way:
        opened.append(Way(service.port, **named))
        site.options |= {"url": f"http://127.0.0.1:{opened[-1].port}", "key": service.key}
        site.options |= {"retryDelay": 50, "flushInterval": 100, "timeout": 5_000}
        return opened[-1]

    yield make
    for way in opened:
        way.close()


@pytest.fixture
def visitor(browser: Any) -> Iterator[Any]:
    """A browser context of its own: no storage from before, no cookies."""
    context = browser.new_context()
    context.set_default_timeout(15_000)
    yield context
    context.close()
