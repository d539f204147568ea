"""A web shop that measures its own pages: python examples/web_shop.py, then open the address that it prints.

A FastAPI app with the analytics service mounted below `/analytics`, a page that uses the JavaScript client, and
`/report`, which asks the engine. Needs `gnomon[server]` and the built client (`make test-js` builds it).
"""

from __future__ import annotations

import argparse
import secrets
import socket
import sys
import tempfile
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse

import gnomon
from gnomon.config import Settings
from gnomon.server.keys import make_key

CLIENT = Path(__file__).resolve().parents[1] / "sdk" / "js" / "dist" / "index.js"

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Shop</title>
<h1>Shop</h1>
<nav><a href="#" data-path="/">Start</a> <a href="#" data-path="/plans">Plans</a> <a href="/report">Report</a></nav>
<button data-plan="basic">Buy basic, 5</button> <button data-plan="pro">Buy pro, 20</button>
<script type="module">
import { createClient } from "/client.js";
const analytics = createClient({ url: "/analytics", key: "KEY", trackPages: true });
for (const link of document.querySelectorAll("[data-path]"))
  link.addEventListener("click", (event) => {
    event.preventDefault();
    history.pushState(null, "", link.dataset.path);
  });
for (const button of document.querySelectorAll("[data-plan]"))
  button.addEventListener("click", () => analytics.track("order", {
    plan: button.dataset.plan, amount: button.dataset.plan === "pro" ? 20 : 5,
  }));
</script>"""


def shop(engine: gnomon.AnalyticsEngine) -> FastAPI:
    """The app. Its key may only send events of this project, so the page may show it."""
    app = FastAPI()
    app.mount("/analytics", gnomon.create_app(engine))
    key = make_key(engine, "shop")[1]

    @app.get("/client.js")
    def client() -> FileResponse:
        return FileResponse(CLIENT, media_type="text/javascript")

    @app.get("/report")
    def report() -> PlainTextResponse:
        engine.flush()
        views = engine.query(["events", "people", "sessions"], ["endpoint"], "24h", [["is", "type", ["page_view"]]])
        revenue = {"agg": "sum", "field": "properties.amount", "as": "revenue"}
        orders = engine.query(["events", revenue], ["properties.plan"], "24h", [["is", "type", ["order"]]])
        return PlainTextResponse(f"{views.summary()}\n\n{orders.summary()}\n")

    @app.get("/{path:path}")
    def page(path: str) -> HTMLResponse:
        return HTMLResponse(PAGE.replace("KEY", key))

    return app


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="0: any free one")
    parser.add_argument("--store", help="default: a new one, deleted at the end")
    args = parser.parse_args()
    if not CLIENT.exists():
        print("The client is not built: run `make test-js`, which needs Node 20 or newer.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", args.port)) as listening:
        settings = Settings(database_url=args.store or f"{place}/shop.duckdb", jwt_secret_key=(secrets.token_hex(32),))
        with gnomon.open(settings=settings) as engine:
            print(f"http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
            uvicorn.Server(uvicorn.Config(shop(engine), log_level="warning")).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
