"""How many calls a caller may make: a sliding minute for each principal, and ten times as many for each address.

Calls are counted in memory, or on Redis where several processes serve. While that cannot be reached calls are let
through: a limit must not cost anybody's events.
"""

from __future__ import annotations

import logging
import math
import time

import limits
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from gnomon.config import Settings
from gnomon.errors import InvalidValue
from gnomon.server.problems import Problem

log = logging.getLogger("gnomon.server.limits")

TIMES_PER_ADDRESS = 10
SILENT_SECONDS = 60.0  #: between two lines of the log about a storage that cannot be reached


class Limiter:
    """Thread-safe. Raises `InvalidValue` (bad-config) for a storage that there is not."""

    def __init__(self, settings: Settings) -> None:
        most = settings.rate_limit_per_minute
        self._own = limits.RateLimitItemPerMinute(most) if most else None
        self._address = limits.RateLimitItemPerMinute(most * TIMES_PER_ADDRESS) if most else None
        self.remote = not settings.rate_limit_url.startswith("memory:")
        self._told_at = -math.inf
        if most:
            try:
                storage = storage_from_string(settings.rate_limit_url)
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
        try:
            passed = self._strategy.hit(item, *who)
            reset, left = self._strategy.get_window_stats(item, *who)
        except Exception as error:  # noqa: BLE001  each storage has exceptions of its own
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
