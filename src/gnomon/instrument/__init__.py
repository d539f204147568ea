"""Recording for hosts: what every instrument shares, and nothing that needs a web library.

Owns the life of one outgoing request (`Exchange`), the labels a host gives to its requests (`Labels`), and the
cutting of URLs and proxies down to what may be kept. Refuses to raise into the host, to hold a body, and to
let credentials, query strings or exception texts reach the engine.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit, urlunsplit

__all__ = ["MAX_CAUSES", "Exchange", "Labels", "Recorder", "Source", "body_length", "error_slug", "shielded"]

P = ParamSpec("P")
T = TypeVar("T")

Source = str | Callable[[Any], str | None] | None

# How far a chain of wrapped exceptions is followed; a chain made by hand may be a ring.
MAX_CAUSES = 8

_log = logging.getLogger(__name__)
_PROXY_PORTS = {"http": 80, "https": 443}
_SOCKS_PORT = 1080
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Recorder(Protocol):
    """What an instrument asks of an engine."""

    def record_request(
        self,
        *,
        source: str | None = None,
        application: str | None = None,
        url: str | None = None,
        method: str | None = None,
        status_code: int | None = None,
        duration_ms: float | None = None,
        bytes_sent: int | None = None,
        bytes_received: int | None = None,
        success: bool | None = None,
        error_code: str | None = None,
    ) -> None: ...


def shielded(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """The call's result, or None when it failed: the one door between recording and the host."""
    try:
        return call(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the engine, a source callable or an odd URL may fail; the host's request may not
        # The text could hold a URL with credentials, so only the class is told.
        _log.debug("request not recorded as it should be: %s", type(error).__name__)
        return None


def bare_url(url: str) -> str:
    """Scheme, host, port and path: userinfo, query and fragment are where secrets travel."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def proxy_name(proxy: str) -> str:
    """`host:port` of a proxy URL, with or without scheme, never its credentials."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    host = parts.hostname or ""
    port = parts.port or _PROXY_PORTS.get(parts.scheme, _SOCKS_PORT)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def error_slug(error: BaseException) -> str:
    """The class name as a slug: `ConnectTimeout` -> `connect-timeout`."""
    return _WORD_START.sub("-", type(error).__name__).lower()


def body_length(declared: str | None, *, without: bool) -> int | None:
    """Bytes of a request body by its Content-Length; None for a body streamed without one."""
    if declared is not None and declared.isdecimal():
        return int(declared)
    return 0 if without else None


class Exchange:
    """One request under way: timed from its creation, recorded once, by whichever end comes first."""

    __slots__ = ("_engine", "_fields", "_once", "_started", "received", "status_code")

    def __init__(self, engine: Recorder, fields: dict[str, Any]) -> None:
        self._engine = engine
        self._fields = fields
        # Taken by the first end and never released: a reader and a watchdog that closes may end it at once,
        # and the garbage collector may end it inside either of them.
        self._once = threading.Lock()
        self.status_code: int | None = None
        self.received: int | None = None
        self._started = time.perf_counter()

    def finish(self, error: BaseException | None = None, slug: Callable[[BaseException], str] = error_slug) -> None:
        """Record it. A body the host stopped reading (GeneratorExit) is an end like any other, not a failure."""
        if self._once.acquire(blocking=False):
            duration_ms = (time.perf_counter() - self._started) * 1000.0
            shielded(self._report, duration_ms, None if isinstance(error, GeneratorExit) else error, slug)

    def _report(self, duration_ms: float, error: BaseException | None, slug: Callable[[BaseException], str]) -> None:
        self._engine.record_request(
            **self._fields,
            status_code=self.status_code,
            duration_ms=duration_ms,
            bytes_received=self.received,
            # Without an error the status decides, by the engine's rule.
            success=None if error is None else False,
            error_code=None if error is None else shielded(slug, error) or error_slug(error),
        )

    def __del__(self) -> None:
        # A response that was dropped without being read or closed has been sent all the same.
        self.finish()


@dataclass(frozen=True, slots=True)
class Labels:
    """Where a host's requests are recorded, and under which names."""

    engine: Recorder
    source: Source = None
    application: str | None = None

    def begin(
        self, request: Any, *, url: str, method: str | None, bytes_sent: int | None, proxy: str | None
    ) -> Exchange:
        """Start the clock; `source` is asked now, while a rotator still means this request."""
        fields = {
            "source": self._source_of(request, proxy),
            "application": self.application,
            "url": shielded(bare_url, url),
            "method": method,
            "bytes_sent": bytes_sent,
        }
        return Exchange(self.engine, fields)

    def _source_of(self, request: Any, proxy: str | None) -> str | None:
        named = shielded(self.source, request) if callable(self.source) else self.source
        if named is None:
            return shielded(proxy_name, proxy) if proxy else None
        # A rotator's entry is often the proxy's URL itself, password included.
        return shielded(proxy_name, named) if "://" in named else named
