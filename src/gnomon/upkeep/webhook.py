"""Alerts by HTTP: each is a POST of JSON, signed if wanted, and tried again while the receiver is away.

It follows no redirect and reads no answer but its status. Refuses anything but https and loopback (see config.py).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

from gnomon.errors import MissingExtra

if TYPE_CHECKING:
    from gnomon.upkeep.alerts import Alert

log = logging.getLogger("gnomon.alerts")

TRIES = 6  #: with waits of 1, 2, 4, 8 and 16 s between them, and up to a second more each
TIMEOUT_SECONDS = 5.0  #: of connecting, of sending and of the answer, each
WAIT_SECONDS = 1.0
SIGNATURE = "X-Gnomon-Signature"
_AGAIN = frozenset((408, 425, 429))


class _Later(Exception):
    """It may go another time."""


def check_packages() -> None:
    """Raise `MissingExtra` where a package of `gnomon[alerts]` is missing."""
    for package in ("httpx", "tenacity"):
        if find_spec(package) is None:
            raise MissingExtra(package, "alerts")


class Webhook:
    """Sends alerts to one URL. `stop()` ends the waiting between tries."""

    def __init__(self, url: str, secret: str = "") -> None:
        check_packages()
        self._url, self._secret = url, secret.encode()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Try nothing again from now on."""
        self._stopping.set()

    def send(self, alert: Alert) -> None:
        """Send one alert. Raises when it could not be delivered."""
        import tenacity

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Later),
            stop=tenacity.stop_any(tenacity.stop_after_attempt(TRIES), tenacity.stop_when_event_set(self._stopping)),
            wait=tenacity.wait_exponential_jitter(multiplier=WAIT_SECONDS, jitter=WAIT_SECONDS),
            sleep=tenacity.sleep_using_event(self._stopping),
        )
        tries(self._post, msgspec.json.encode(alert.to_dict()))

    def _post(self, body: bytes) -> None:
        import httpx

        headers = {"Content-Type": "application/json", "User-Agent": "gnomon"}
        if self._secret:
            headers[SIGNATURE] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
        try:
            with (
                httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as client,
                client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
        except httpx.TransportError as error:
            raise _Later(type(error).__name__) from error
        if status >= 500 or status in _AGAIN:
            raise _Later(f"status {status}")
        if not 200 <= status < 300:
            log.error("the receiver of alerts refuses them with status %d", status)
