"""The example of a web shop, as it stands: started, visited, asked, ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from acts import until

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "web_shop.py"


def test_web_shop(bundle: Path, visitor: Any) -> None:
    with subprocess.Popen([sys.executable, str(SCRIPT), "--port", "0"], stdout=subprocess.PIPE, text=True) as shop:
        try:
            assert shop.stdout is not None
            page = visitor.new_page()
            page.goto(shop.stdout.readline().strip())
            page.click("text=Plans")
            page.click("text=Buy pro")
            page.click("text=Buy pro")
            page.click("text=Buy basic")
            page.click("text=Report")
            wanted = ("pro", "40", "/plans")
            until(lambda: page.reload() and all(word in page.inner_text("body") for word in wanted))
        finally:
            shop.send_signal(signal.SIGTERM)
        assert shop.wait(30) in (0, -signal.SIGTERM)
