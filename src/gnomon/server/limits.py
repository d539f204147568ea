"""How many calls a caller may make: a sliding minute for each principal, and ten times as many for each address.

Calls are counted in memory, or on Redis where several processes serve. While that cannot be reached, or is slow, calls
are let through, and it is left alone for a while: a limit must not cost anybody's events or time.
"""

from __future__ import annotations

import logging
import math
import re
import time
from importlib import import_module
from typing import Any

import limits
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from gnomon.config import Settings
from gnomon.errors import InvalidValue
from gnomon.server.problems import Problem

log = logging.getLogger("gnomon.server.limits")

TIMES_PER_ADDRESS = 10
WAIT_SECONDS = 0.1  #: for a connection to Redis, and for each of its answers
REST_SECONDS = 5.0  #: how long a storage that failed is left alone
SILENT_SECONDS = 60.0  #: between two lines of the log about a storage that cannot be reached


class Limiter:
    """Thread-safe. Raises `InvalidValue` (bad-config) for a storage that there is not."""

    def __init__(self, settings: Settings) -> None:
        most = settings.rate_limit_per_minute
        self._own = limits.RateLimitItemPerMinute(most) if most else None
        self._address = limits.RateLimitItemPerMinute(most * TIMES_PER_ADDRESS) if most else None
        self.remote = not settings.rate_limit_url.startswith("memory:")
        self._told_at = self._rest_until = -math.inf
        if most:
            try:
                storage = storage_from_string(settings.rate_limit_url, **_options(settings.rate_limit_url))
            except Exception as error:
                raise InvalidValue("rate_limit_url names no storage that can be used", code="bad-config",
                                   remedy="Give memory:// or redis://host:port.") from error  # fmt: skip
            self._strategy = SlidingWindowCounterRateLimiter(storage)

    def check_address(self, address: str) -> None:
        """Count a call of an address. Raises `Problem` (429)."""
        if self._address is not None:
            self._check(self._address, "address", address)

    def check_principal(self, name: str) -> dict[str, str]:
        """Count a call of a principal; returns the headers that tell it what is left. Raises `Problem` (429)."""
        return {} if self._own is None else self._check(self._own, "principal", name)

    def _check(self, item: limits.RateLimitItem, *who: str) -> dict[str, str]:
        if time.monotonic() < self._rest_until:
            return {}
        try:
            passed = self._strategy.hit(item, *who)
            reset, left = self._strategy.get_window_stats(item, *who)
        except Exception as error:  # noqa: BLE001  each storage has exceptions of its own
            self._rest_until = time.monotonic() + REST_SECONDS
            if time.monotonic() > self._told_at + SILENT_SECONDS:
                self._told_at = time.monotonic()
                log.warning("calls cannot be counted, so none is refused: %s", type(error).__name__)
            return {}
        seconds = str(max(1, math.ceil(reset - time.time())))
        headers = {"RateLimit-Limit": str(item.amount), "RateLimit-Remaining": str(max(0, left)),
                   "RateLimit-Reset": seconds}  # fmt: skip
        if not passed:
            raise Problem(429, "too many calls within a minute", remedy="Wait as long as Retry-After says.",
                          code="too-many-calls", headers={**headers, "Retry-After": seconds})  # fmt: skip
        return headers


def _options(url: str) -> dict[str, Any]:
    """Of a Redis: short waits, and no second try, which the clients would make for seconds."""
    found = re.match(r"(redis|valkey)(s|\+unix)?://", url)
    if found is None:
        return {}
    retry, backoff = (import_module(f"{found[1]}.{name}") for name in ("retry", "backoff"))
    return {"socket_timeout": WAIT_SECONDS, "socket_connect_timeout": WAIT_SECONDS,
            "retry": retry.Retry(backoff.NoBackoff(), 0)}  # fmt: skip
