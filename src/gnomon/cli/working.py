"""`gnomon worker`: a Celery worker with its beat, for the jobs and exports of a store on a database server."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from importlib.util import find_spec
from typing import Any

from gnomon.cli.command import declare, settings_of
from gnomon.config import shown
from gnomon.errors import InvalidValue, MissingExtra

log = logging.getLogger("gnomon.worker")

MOST_PROCESSES = 64
AGAIN_SECONDS = 5.0
BEAT_SECONDS = 5.0  #: how often it is seen to that beat is there
SCHEDULER = "celery.beat:Scheduler"  #: keeps nothing: what is due says the database


def add_worker(commands: Any) -> None:
    """Declare the command."""
    worker = declare(
        commands, "worker", _worker,
        "Run background jobs and exports as a Celery worker, beside `gnomon serve` on a database server.",
        "  CELERY_BROKER_URL=redis://localhost:6379/0 gnomon worker --store postgresql://gnomon:...@db/analytics",
    )  # fmt: skip
    worker.add_argument("--processes", type=int, default=2, help="tasks at a time, each in a process (default: 2)")
    worker.add_argument("--no-beat", action="store_true", help="do not ask for the jobs, only do them")


def _worker(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if not 1 <= args.processes <= MOST_PROCESSES:
        raise InvalidValue(f"--processes must be 1 to {MOST_PROCESSES}", code="bad-argument")
    if find_spec("celery") is None:
        raise MissingExtra("celery", "celery")
    from gnomon.worker import app, configure

    configure(settings)
    _log_lines()
    kept = settings.for_service()
    print(f"Gnomon works for {shown(settings.database_url)}", flush=True)
    print(f"Where no policy says otherwise events are kept {kept.event_retention_days} days, metric samples "
          f"{kept.metrics_retention_days}", flush=True)  # fmt: skip
    worker = app.Worker(
        hostname=f"gnomon-{os.getpid()}@{socket.gethostname()}", pool_cls="prefork", concurrency=args.processes,
        beat=not args.no_beat, scheduler=SCHEDULER, quiet=True, without_gossip=True, without_mingle=True,
        without_heartbeat=True,  # which tries to send for ever, within the loop, while a broker says nothing
    )  # fmt: skip
    asked = _asked_to_end()
    if not args.no_beat:
        _keep_beating(worker, asked)
    worker.start()
    if worker.exitcode and not asked:
        _begin_again(asked)
    return 0


def _asked_to_end() -> list[str]:
    """The signals that asked the worker to end, as they come. After SIGINT Celery has the exit code of a crash."""
    from celery import signals

    asked: list[str] = []

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def noted(sig: str, **_said: Any) -> None:
        asked.append(sig)

    return asked


def _keep_beating(worker: Any, asked: list[str]) -> None:
    """Beat is a process beside those of the pool; Celery starts it once, and does not notice its end. One that was
    asked to end together with its worker stays away."""
    from celery import signals
    from celery.beat import EmbeddedService

    def look() -> None:
        if not worker.beat.is_alive() and not asked:
            log.error("the process of beat ended, and is started again")
            worker.beat = EmbeddedService(worker.app, scheduler_cls=SCHEDULER)
            worker.beat.start()

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def ready(sender: Any, **_said: Any) -> None:
        sender.timer.call_repeatedly(BEAT_SECONDS, look)


def _begin_again(asked: list[str]) -> None:
    """Take the place of a worker that gave up: a broker that ends while a task is at work can end kombu's loop, too."""
    from billiard import active_children

    for child in active_children():
        child.terminate()
    log.error("the worker ended by itself and is started again in %.0f s", AGAIN_SECONDS)
    until = time.monotonic() + AGAIN_SECONDS
    while time.monotonic() < until:
        if asked:
            return
        time.sleep(0.1)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _log_lines() -> None:
    """Celery's lines in the form of ours, and no louder than warnings."""
    ours = logging.getLogger("gnomon")
    for name in ("celery", "kombu"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = ours.handlers, False
        logger.setLevel(max(ours.level, logging.WARNING) if ours.level > logging.INFO else ours.level)
