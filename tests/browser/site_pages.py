"""A small shop whose pages use the SDK as it is built: every path shows the same page, with the options of the test."""

from __future__ import annotations

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = """<!doctype html><meta charset="utf-8"><title>Shop</title><link rel="icon" href="data:,">
<button id="buy">Buy</button>
<script type="module">
import { createClient } from "/sdk.js";
window.dropped = [];
window.client = createClient({ ...OPTIONS, onDrop: (one) => window.dropped.push(one) });
document.getElementById("buy").addEventListener("click", (event) => {
  window.client.track("click", { label: event.target.dataset.label });
});
window.ready = true;
</script>"""


OTHER_PAGE = """<!doctype html><meta charset="utf-8"><title>Shop</title><link rel="icon" href="data:,">
<div id="root"></div>
<script>window.options = OPTIONS</script><script type="module" src="/app.js"></script>"""


class Site:
    """Serves on a port of its own, so that the service is of another origin. `options` go to `createClient`."""

    def __init__(self, bundle: Path) -> None:
        self.application = uuid.uuid4().hex  #: under which the events of this site are found again
        self.options: dict[str, Any] = {"application": self.application}
        self.script: bytes | None = None  #: an application of its own, shown in place of the shop
        self._bundle = bundle.read_bytes()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                script = {"/sdk.js": site._bundle, "/app.js": site.script}.get(self.path)
                page = OTHER_PAGE if site.script else PAGE
                body = script or page.replace("OPTIONS", json.dumps(site.options)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/javascript" if script else "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler
