"""Where alerts go: each outlet has a bounded queue and a thread of its own, so that none waits for another."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gnomon.upkeep.alerts import Alert, Callback

log = logging.getLogger("gnomon.alerts")

MOST_WAITING = 1_000  #: alerts; the oldest go first
END_SECONDS = 10.0  #: how long the end of the process waits for an outlet


class Outlet:
    """Hands alerts to `send`, one after the other, in a thread that starts with the first; `send` may raise."""

    def __init__(self, name: str, send: Callable[[Alert], object], on_stop: Callable[[], object] | None = None) -> None:
        self._name, self._send, self._on_stop = name, send, on_stop
        self._waiting: deque[Alert] = deque(maxlen=MOST_WAITING)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def offer(self, alert: Alert) -> None:
        """Take an alert and return at once."""
        with self._changed:
            if self._stopping:
                return
            self._waiting.append(alert)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"gnomon-alert-{self._name}", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                alert = self._waiting.popleft()
            try:
                self._send(alert)
            except Exception as error:  # noqa: BLE001  an outlet that fails must not end the others
                log.error("the alert %s could not be told by the %s: %s", alert.name, self._name, type(error).__name__)

    def stop(self) -> None:
        """Hand over what waits, without trying anything twice, for at most `END_SECONDS`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._on_stop is not None:
            self._on_stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(END_SECONDS)


class Callbacks:
    """Calls what was given to `on_alert`; an error in one is logged and stops no other."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def __call__(self, alert: Alert) -> None:
        """Call all of them."""
        for callback in list(self._callbacks):
            try:
                callback(alert)
            except Exception:
                log.exception("a callback of on_alert failed")
