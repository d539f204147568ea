"""`gnomon migrate`: the store brought to this version's schema before anything serves it; for deployments."""

from __future__ import annotations

import argparse
import time
from typing import Any

from gnomon import __version__
from gnomon.cli.command import declare, settings_of
from gnomon.config import Settings, shown
from gnomon.errors import PASSING, InvalidValue, StoreUnavailable
from gnomon.store import open_store, served, store_path

PAUSE_SECONDS = 1.0  #: between two tries to reach a database server
MOST_SECONDS = 3_600.0


def add_migrate(commands: Any) -> None:
    """Declare the command."""
    command = declare(
        commands, "migrate", _migrate,
        "Bring the store to the schema of this version, making it where there is none. Opening it does the same.",
        "  gnomon migrate --store usage.duckdb\n  gnomon migrate --store postgresql://db.example/analytics --wait 120",
    )  # fmt: skip
    command.add_argument("--wait", type=float, default=0.0, metavar="SECONDS",
                         help="how long to try again while the database cannot be reached (default: 0)")  # fmt: skip


def _migrate(args: argparse.Namespace) -> int:
    if not 0 <= args.wait <= MOST_SECONDS:
        raise InvalidValue(f"--wait must be from 0 to {MOST_SECONDS:.0f} seconds", code="bad-argument")
    settings = settings_of(args)
    if store_path(settings.database_url) is None:
        raise InvalidValue("a store in memory has no schema to keep", remedy="Name a store with --store.",
                           code="bad-argument")  # fmt: skip
    _brought(settings, until=time.monotonic() + args.wait)
    print(f"{shown(settings.database_url)} has the schema of gnomon {__version__}")
    return 0


def _brought(settings: Settings, until: float) -> None:
    """Open the store once. Raises what opening it raises."""
    while True:
        try:
            if served(settings.database_url):  # without a journal: this leaves no files and needs no folder
                open_store(settings.database_url, settings).close()
                return
            from gnomon.engine import AnalyticsEngine  # deferred: it loads the embedded database

            with AnalyticsEngine(settings) as engine:
                engine.books()  # refused where another process owns the store, which then is as that process has it
            return
        except StoreUnavailable as error:
            if not served(settings.database_url) or error.code not in PASSING or time.monotonic() >= until:
                raise
            time.sleep(PAUSE_SECONDS)
