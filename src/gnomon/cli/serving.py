"""`gnomon serve` and `gnomon token`: the service on an address, and tokens for whoever calls it."""

from __future__ import annotations

import argparse
import logging
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from socket import socket
from typing import Any

from gnomon.cli.command import declare, settings_of
from gnomon.config import Settings, shown
from gnomon.errors import InvalidValue
from gnomon.store import served, takes_turns
from gnomon.timerange import system_clock

log = logging.getLogger("gnomon.cli")

DAY = 86_400
MOST_WORKERS = 64


def add_serve(commands: Any) -> None:
    """Declare the command."""
    serve = declare(
        commands, "serve", _serve_until_told,
        "Serve the HTTP API: events in, answers out. Ends with Ctrl-C or SIGTERM, and loses nothing then.",
        "  gnomon serve --dev\n  JWT_SECRET_KEY=... gnomon serve --host 0.0.0.0 --port 8000 --store usage.duckdb",
    )  # fmt: skip
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any free one (default: 8000)")
    serve.add_argument("--dev", action="store_true", help="without a key: make one for this run, and print a token")
    serve.add_argument(
        "--workers", type=int, default=1, help="processes that answer; only with a database server (default: 1)"
    )
    serve.add_argument("--no-jobs", action="store_true", help="do not roll up, prune and back up in the background")


def add_token(commands: Any) -> None:
    """Declare the command."""
    token = declare(
        commands, "token", _token,
        "Print a token signed with JWT_SECRET_KEY, or make a write key.",
        "  gnomon token --sub ann --scope \"read admin\" --days 7\n"
        "  gnomon token --write-key shop --origin https://shop.example",
    )  # fmt: skip
    token.add_argument("--sub", default="dev", help="whom the token speaks for (default: dev)")
    token.add_argument("--scope", default="ingest:any read", help="parted by spaces (default: `ingest:any read`)")
    token.add_argument("--days", type=float, default=1.0, help="how long it is valid (default: 1)")
    token.add_argument("--write-key", metavar="NAME", help="make a write key of this name instead, and print it")
    token.add_argument("--origin", action="append", default=[], help="of the write key; may be given several times")


def _serve(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    _check_workers(settings, args.workers)
    settings = settings.for_service().but(enabled=True, scheduler=not args.no_jobs)
    for name in ("celery_broker_url", "cache_url"):
        if getattr(settings, name) and not takes_turns(settings.database_url):
            log.warning("%s is not used: it is for stores on a database server", name.upper())
    serve(settings, args.host, args.port, dev=args.dev, workers=args.workers)
    return 0


def _check_workers(settings: Settings, workers: int) -> None:
    """Raises `InvalidValue` (bad-argument) where so many cannot be."""
    if workers != 1 and not takes_turns(settings.database_url):
        remedy = "Start it again on other ports: the first one answers, the others take events."
        raise InvalidValue(
            "more than one worker can only share a store on a database server", remedy=remedy, code="bad-argument"
        )
    if not 1 <= workers <= MOST_WORKERS:
        raise InvalidValue(f"--workers must be from 1 to {MOST_WORKERS}", code="bad-argument")


def serve(settings: Settings, host: str, port: int, *, dev: bool, workers: int = 1) -> None:
    """Serve a store until a signal comes. Raises `InvalidValue` (no-key, bad-argument), and what opening raises."""
    from gnomon.server.running import listen

    settings, token = _with_key(settings, dev=dev)
    listening = listen(host, port)

    def ready() -> None:
        host, port = listening.getsockname()[:2]
        at = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"Gnomon serves {shown(settings.database_url)} at {at} (API: {at}/api/analytics/docs)", flush=True)
        if token:
            print(f"For development, valid for a day and until the end of this run:\n{token}", flush=True)

    try:
        (_serve_alone if workers == 1 else _serve_many)(settings, listening, workers, ready)
    finally:
        listening.close()


def _serve_alone(settings: Settings, listening: socket, _one: int, ready: Callable[[], None]) -> None:
    from gnomon.engine import AnalyticsEngine
    from gnomon.server.app import create_app
    from gnomon.server.running import run

    with AnalyticsEngine(settings) as engine:
        app = create_app(engine)
        with _draining(settings):
            ready()
            run(app, settings, listening)


def _draining(settings: Settings) -> AbstractContextManager[object]:
    """What workers left that there were before."""
    if not served(settings.database_url):
        return nullcontext()
    from gnomon.server.workers import draining

    return draining(settings, 1)


def _serve_many(settings: Settings, listening: socket, workers: int, ready: Callable[[], None]) -> None:
    from gnomon.server.workers import run_workers

    run_workers(settings, listening, workers, ready)


def _with_key(settings: Settings, *, dev: bool) -> tuple[Settings, str]:
    """The settings with a key, and with `--dev` a token for it. Raises `InvalidValue` (no-key)."""
    from gnomon.server.auth import Tokens, minted

    if Tokens(settings, system_clock).any:  # before anything is opened or made
        return settings, ""
    if not dev:
        remedy = "Set JWT_SECRET_KEY, JWT_PUBLIC_KEY_FILE or JWT_JWKS_FILE; to try it, add --dev."
        raise InvalidValue("there is no key to check tokens with", remedy=remedy, code="no-key")
    settings = settings.but(jwt_secret_key=(secrets.token_urlsafe(48),))
    return settings, minted(settings, sub="dev", project="*", scope="ingest:any admin", seconds=DAY)


def _token(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    from gnomon.server.auth import minted

    if args.write_key is None:
        if not 0 < args.days <= 3_650:
            raise InvalidValue("--days must be more than 0, and 3650 at the most", code="bad-argument")
        print(minted(settings, sub=args.sub, project=settings.project, scope=args.scope, seconds=int(args.days * DAY)))
        return 0
    from gnomon.engine import AnalyticsEngine
    from gnomon.server.keys import make_key

    with AnalyticsEngine(settings) as engine:
        key, text = make_key(engine, args.write_key, args.origin)
    print(text)
    print(f"Key {key.id} of project {key.project}; it is not shown again.", file=sys.stderr)
    return 0


def _serve_until_told(args: argparse.Namespace) -> int:
    """The first process of a container gets no signal that it does not handle: one during the start would be lost."""
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        return _serve(args)
    finally:
        signal.signal(signal.SIGTERM, before)


def _ended(_number: int, _frame: Any) -> None:
    """SIGTERM before anything is served: nothing is to be answered, and what is open is safe to be left at any time."""
    raise SystemExit(0)
