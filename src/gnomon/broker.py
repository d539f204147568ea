"""Sending tasks to Celery workers. A message holds names and ids, never what was recorded or asked.

Nothing that was acknowledged depends on the broker: `send` says whether it took a message, waits for it a second at the
most, and leaves it alone for a while when it did not. Whoever sends does the work itself then.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from importlib.util import find_spec
from typing import Any

from gnomon.config import Settings
from gnomon.errors import MissingExtra

log = logging.getLogger("gnomon.broker")

RUN_JOB, WRITE_EXPORT = "gnomon.job", "gnomon.export"  #: names of tasks
CONNECT_SECONDS = 1.0
REST_SECONDS = 30.0  #: how long a broker that took nothing is left alone


def queue_of(store: str) -> str:
    """The queue of a store, by the name of its files: several stores may use one broker."""
    return f"gnomon.{store}"


class Broker:
    """The way to the workers of one broker. Thread-safe. Raises `MissingExtra` without Celery."""

    def __init__(self, url: str) -> None:
        if find_spec("celery") is None:
            raise MissingExtra("celery", "celery")
        self._url = url
        self._app: Any = None
        self._rest_until = 0.0
        self._lock = threading.Lock()

    def send(self, task: str, args: list[Any], queue: str) -> bool:
        """Hand a task over; False where the broker did not take it."""
        if time.monotonic() < self._rest_until:
            return False
        try:
            self._celery().send_task(task, args=args, queue=queue, ignore_result=True, retry=False)
        except Exception as error:  # noqa: BLE001  each transport has exceptions of its own
            self._rest_until = time.monotonic() + REST_SECONDS
            log.warning("the broker takes nothing (%s): this process does the work itself", type(error).__name__)
            return False
        return True

    def _celery(self) -> Any:
        with self._lock:
            if self._app is None:
                from celery import Celery  # deferred: 0.2 s, and only who exports needs it

                self._app = Celery("gnomon-sender", broker=self._url, set_as_current=False)
                self._app.conf.update(broker_transport_options=transport_options(), broker_connection_timeout=1)
            return self._app


def transport_options() -> dict[str, Any]:
    """Of Redis: short waits, as a broker that is away must not hold up a caller."""
    return {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS, "max_retries": 0}


_BROKERS: dict[str, Broker] = {}
_LOCK = threading.Lock()


def broker_of(settings: Settings) -> Broker:
    """The broker that the settings name, one a process. Raises `MissingExtra`."""
    with _LOCK:
        found = _BROKERS.get(settings.celery_broker_url)
        if found is None:
            found = _BROKERS[settings.celery_broker_url] = Broker(settings.celery_broker_url)
        return found


def _in_child() -> None:
    """Connections are the parent's."""
    global _BROKERS, _LOCK
    _BROKERS, _LOCK = {}, threading.Lock()


os.register_at_fork(after_in_child=_in_child)
