"""A file that a worker touches for as long as it lives, for whoever starts it again when it does not.

It lives while its loop goes round, and while it waits for a broker that is away: then nothing goes round, and to start
it again would bring no broker back, but end the tasks that run. What hangs with a broker at hand does not live.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

log = logging.getLogger("gnomon.worker")

TOUCH_SECONDS = 5.0
SILENT_SECONDS = 120.0  #: a loop that is longer about one round hangs


class Pulse:
    """Of a Celery worker, from before it connects until `end()`."""

    def __init__(self, file: Path, worker: Any) -> None:
        self._file, self._worker = file, worker
        self._turned = time.monotonic()
        self._ending = threading.Event()
        threading.Thread(target=self._run, name="gnomon-pulse", daemon=True).start()

    def turned(self) -> None:
        """The loop made a round."""
        self._turned = time.monotonic()

    def end(self) -> None:
        """Touch nothing any more."""
        self._ending.set()

    def _run(self) -> None:
        failed = False
        while not self._ending.is_set():
            if self._lives():
                try:
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                    self._file.touch()
                    failed = False
                except OSError as error:
                    if not failed:
                        log.warning("the file that says that the worker lives cannot be touched: %s", error)
                    failed = True
            self._ending.wait(TOUCH_SECONDS)

    def _lives(self) -> bool:
        connected = getattr(getattr(self._worker, "consumer", None), "connection", None) is not None
        return not connected or time.monotonic() - self._turned < SILENT_SECONDS
