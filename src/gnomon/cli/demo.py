"""`gnomon demo`: the sample data, a report of them, and with SERVE=1 the service."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.cli.command import declare, settings_of
from gnomon.cli.importing import import_file
from gnomon.cli.tables import print_table
from gnomon.config import shown
from gnomon.errors import InvalidValue

if TYPE_CHECKING:
    from gnomon.engine import AnalyticsEngine

DEMO_STORE = Path(".demo") / "gnomon.duckdb"


def add_demo(commands: Any) -> None:
    command = declare(
        commands, "demo", _demo, "Import the sample data (10,000 web requests, 48,860 commits) and print a report.",
        "  gnomon demo\n  gnomon demo --store /tmp/demo.duckdb",
    )  # fmt: skip
    command.add_argument(
        "--data", type=Path, help="folder with access.log.gz and commits.csv.gz (default: examples/data)"
    )


def _demo(args: argparse.Namespace) -> int:
    data = args.data or next((p for p in _data_places() if (p / "access.log.gz").exists()), None)
    if data is None:
        raise InvalidValue(
            "the sample data is not here", remedy="Run it in the source tree, or give --data.", code="no-data"
        )
    if not args.store:
        DEMO_STORE.parent.mkdir(exist_ok=True)
        args.store = str(DEMO_STORE)
    from gnomon.engine import AnalyticsEngine

    settings = settings_of(args)
    with AnalyticsEngine(settings.but(project="web")) as engine:
        print(import_file(engine, data / "access.log.gz"))
        report_requests(engine)
    with AnalyticsEngine(settings.but(project="commits")) as engine:
        print(import_file(engine, data / "commits.csv.gz"))
        report_commits(engine)
        books = engine.books()
        print(f"books of this project: {books.to_dict()}")
    store = shown(settings.database_url)
    print(f"The store is {store}. Ask it: gnomon query --store {store} --project web "
          "--metrics requests --dimensions endpoint --limit 10")  # fmt: skip
    if os.environ.get("SERVE", "0") not in ("", "0"):
        from gnomon.cli.serving import serve

        # Without background jobs: the sample data are older than the service keeps events for.
        serve(settings.but(scheduler=False), "127.0.0.1", int(os.environ.get("PORT", "8000")), dev=True)
    return 0


def _data_places() -> list[Path]:
    return [Path("examples") / "data", Path(__file__).resolve().parents[3] / "examples" / "data"]


def report_requests(engine: AnalyticsEngine) -> None:
    span = ["2015-05-17", "2015-05-21"]
    print_table(
        engine.query(["requests", "people", "sum_bytes_sent"], ["status_class"], span, totals=True),
        "Requests by status class",
    )
    print_table(
        engine.query(["requests", "people", "success_rate"], ["endpoint"], span, limit=10, totals=True), "Top endpoints"
    )
    print_table(engine.query(["requests", "people", "failures"], ["time:hour"], span, totals=True), "Requests by hour")


def report_commits(engine: AnalyticsEngine) -> None:
    print_table(engine.query(["events", "people"], ["source"], totals=True), "Commits by project")
    print_table(
        engine.query(["people", "events"], ["time:month"], ["2025-09-01", "2026-09-01"], totals=True),
        "Active people a month",
    )
