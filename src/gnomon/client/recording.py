"""The verbs of recording, as the engine has them, for a service elsewhere: a call makes an entry and returns.

Refuses to raise into the host, to wait for the network, and to grow memory without bound. A forked child starts with
an empty outbox, as the parent still sends what it holds; at the end of the process what waits is sent.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import httpx

from gnomon.client.entries import event_entry, sample_entry
from gnomon.client.outbox import Delivery, Limits, Outbox
from gnomon.client.posting import Patience, Post, Token
from gnomon.errors import EngineClosed, StoreUnavailable

__all__ = ["Recording"]

log = logging.getLogger("gnomon.client")

#: Connections of parents are never closed by a child: closing one may speak on it.
_INHERITED: list[httpx.Client] = []


class Recording:
    """Recording for one service; `gnomon.connect` makes one."""

    def __init__(self, dial: Callable[[], httpx.Client], token: Token, limits: Limits, patience: Patience,
                 on_refused: Callable[[str, Any], None] | None, exit_seconds: float) -> None:  # fmt: skip
        self._dial = dial
        self._open: httpx.Client | None = None
        self._exit_seconds = exit_seconds
        self._closed = False
        self._warned: set[str] = set()
        self._posts = [Post(self._link, path, token, patience) for path in ("ingest", "samples")]
        self._events, self._samples = (Outbox(post, limits, on_refused) for post in self._posts)
        _LIVE.add(self)
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            _close_at_process_end(self)

    def _link(self) -> httpx.Client:
        if self._open is None:
            self._open = self._dial()
        return self._open

    def track(self, type: str, *, user_id: str | None = None, device_id: str | None = None,
              session_id: str | None = None, source: str | None = None, application: str | None = None,
              domain: str | None = None, endpoint: str | None = None, method: str | None = None,
              status_code: int | None = None, duration_ms: float | None = None, bytes_sent: int | None = None,
              bytes_received: int | None = None, success: bool | None = None, error_code: str | None = None,
              weight: float = 1.0, properties: Mapping[str, Any] | None = None, id: str | None = None,
              ts: datetime | str | None = None) -> None:  # fmt: skip
        """Record one event, as `AnalyticsEngine.track`. Returns at once and never raises.

        Id and time are made here, so that a resend counts once. What the service refuses is told to `on_refused`.
        """
        self._put(type=type, user_id=user_id, device_id=device_id, session_id=session_id, source=source,
                  application=application, domain=domain, endpoint=endpoint, method=method, status_code=status_code,
                  duration_ms=duration_ms, bytes_sent=bytes_sent, bytes_received=bytes_received, success=success,
                  error_code=error_code, weight=weight, properties=properties, id=id, ts=ts)  # fmt: skip

    def record_request(self, *, source: str | None = None, application: str | None = None, url: str | None = None,
                       method: str | None = None, status_code: int | None = None, duration_ms: float | None = None,
                       bytes_sent: int | None = None, bytes_received: int | None = None, success: bool | None = None,
                       error_code: str | None = None, user_id: str | None = None, device_id: str | None = None,
                       session_id: str | None = None, domain: str | None = None, endpoint: str | None = None,
                       id: str | None = None, ts: datetime | str | None = None,
                       properties: Mapping[str, Any] | None = None, type: str = "request",
                       weight: float = 1.0) -> None:  # fmt: skip
        """Record one request, as `AnalyticsEngine.record_request`: credentials and query of `url` stay here."""
        self._put(url, type=type, user_id=user_id, device_id=device_id, session_id=session_id, source=source,
                  application=application, domain=domain, endpoint=endpoint, method=method, status_code=status_code,
                  duration_ms=duration_ms, bytes_sent=bytes_sent, bytes_received=bytes_received, success=success,
                  error_code=error_code, weight=weight, properties=properties, id=id, ts=ts)  # fmt: skip

    def record_metric(self, name: str, value: float, *, kind: str = "gauge", labels: Mapping[str, Any] | None = None,
                      ts: datetime | str | None = None, id: str | None = None) -> None:  # fmt: skip
        """Record one metric sample, as `AnalyticsEngine.record_metric`. Its id is made here, as that of an event."""
        try:
            entry = sample_entry({"name": name, "value": value, "kind": kind, "labels": labels, "ts": ts, "id": id})
        except Exception as error:  # noqa: BLE001  a value may raise from any of its own methods
            self._lose(self._samples, error)
        else:
            self._samples.put(entry)

    def _put(self, url: str | None = None, **fields: Any) -> None:
        try:
            entry = event_entry(fields, url)
        except Exception as error:  # noqa: BLE001  as above
            self._lose(self._events, error)
        else:
            self._events.put(entry)

    def _lose(self, outbox: Outbox, error: Exception) -> None:
        outbox.lose("not-sendable")
        kind = type(error).__name__
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("an event cannot be sent as JSON (%s); counted from now on", kind)

    def delivery(self, kind: str = "event") -> Delivery:
        """Where every recorded event (or metric sample, `kind="sample"`) went, of this process."""
        return (self._samples if kind == "sample" else self._events).delivery()

    def flush(self, timeout: float = 60.0) -> None:
        """Return once the service has acknowledged, or refused, everything recorded before this call.

        Raises `StoreUnavailable` (not-acknowledged) when that takes longer than `timeout` seconds: what waits is
        still sent later. Raises `EngineClosed` after `close()`.
        """
        if self._closed:
            raise EngineClosed("the client is closed", remedy="Connect again with gnomon.connect().")
        until = time.monotonic() + timeout
        if not all(outbox.wait(until - time.monotonic()) for outbox in (self._events, self._samples)):
            raise StoreUnavailable("the service has not acknowledged everything yet", code="not-acknowledged",
                                   remedy="It is tried again; see whether the service answers.")  # fmt: skip

    def close(self, timeout: float | None = None) -> None:
        """Send what waits, for at most `timeout` seconds (default: `exit_seconds`), then end. What is left is lost
        and counted. Calling it again does nothing."""
        if self._closed:
            return
        until = time.monotonic() + (self._exit_seconds if timeout is None else timeout)
        for outbox in (self._events, self._samples):
            outbox.wait(until - time.monotonic())
        self._closed = True
        left = self._events.close() + self._samples.close()
        if left:
            log.error("%d events could not be sent before the end", left)
        if self._open is not None:
            self._open.close()
        _LIVE.discard(self)

    def _after_fork_in_child(self) -> None:
        if self._open is not None:
            _INHERITED.append(self._open)
            self._open = None
        for post in self._posts:
            post.reset()
        for outbox in (self._events, self._samples):
            outbox.reset()
        if "multiprocessing.util" in sys.modules:
            sys.modules["multiprocessing.util"].register_after_fork(self, _close_at_process_end)


_LIVE: weakref.WeakSet[Recording] = weakref.WeakSet()


def _close_at_process_end(recording: Recording) -> None:
    """multiprocessing ends its children without atexit; its own finalizers do run."""
    from multiprocessing.util import Finalize

    Finalize(recording, recording.close, exitpriority=10)


def _close_all() -> None:
    for recording in list(_LIVE):
        recording.close()


def _in_child() -> None:
    for recording in list(_LIVE):
        recording._after_fork_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_in_child)
