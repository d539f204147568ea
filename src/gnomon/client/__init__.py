"""`gnomon.connect()`: the engine's verbs over HTTP, for programs whose store is somebody else's.

Owns the address, the token and the connection. Recording never raises and never waits; asking raises the errors that
the engine raises. Imports nothing of the engine: only the row, the question and the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gnomon.errors import InvalidValue, MissingExtra

try:
    import httpx
except ImportError:
    raise MissingExtra("httpx", "client") from None

from gnomon import __version__
from gnomon.client.exporting import Exporting
from gnomon.client.keeping import Keeping
from gnomon.client.outbox import Delivery, Limits
from gnomon.client.posting import Patience, Token
from gnomon.client.recording import Recording

__all__ = ["Client", "Delivery", "Limits", "Patience", "connect"]

PREFIX = "/api/analytics"


class Client(Recording, Keeping, Exporting):
    """A service, as `connect` gives it. Use it as a context manager or call `close()`. Safe with threads and fork."""

    def __init__(self, url: str, token: Token, *, project: str | None, timeout: float, limits: Limits,
                 patience: Patience, on_refused: Callable[[str, Any], None] | None, exit_seconds: float,
                 transport: httpx.BaseTransport | None) -> None:  # fmt: skip
        address = _address(url)
        if not callable(token) and not (isinstance(token, str) and token and token.isascii() and token.isprintable()):
            raise InvalidValue("the token is no printable text", remedy="Pass a JWT or a write key.", code="bad-token")

        def dial() -> httpx.Client:
            return httpx.Client(
                base_url=address, timeout=timeout, transport=transport, follow_redirects=False,
                params={} if project is None else {"project": project},
                # A connection for each call: on a kept one a stray answer would pass for that of the next call.
                headers={"User-Agent": f"gnomon/{__version__}", "Connection": "close"},
            )  # fmt: skip

        self.url = address
        self._token, self._patience = token, patience
        super().__init__(dial, token, limits, patience, on_refused, exit_seconds)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<gnomon.Client {self.url}>"


def connect(url: str, token: Token, *, project: str | None = None, timeout: float = 30.0,
            limits: Limits | None = None, patience: Patience | None = None,
            on_refused: Callable[[str, Any], None] | None = None, exit_seconds: float = 5.0,
            transport: httpx.BaseTransport | None = None) -> Client:  # fmt: skip
    """A client of the service at `url`, such as `https://stats.example.com`. Reaches nothing until it has to.

    `token` is a JWT or write key, or a callable that gives a fresh one. `project` is for tokens of every project.
    `timeout` holds for one call, in seconds. `on_refused(code, event)` is told what the service refuses, on the sending
    thread. At the end of the process what waits is sent for at most `exit_seconds`. Raises `InvalidValue` for an
    address or token that cannot be one, `MissingExtra` without httpx.
    """
    return Client(url, token, project=project, timeout=timeout, limits=limits or Limits(),
                  patience=patience or Patience(), on_refused=on_refused, exit_seconds=exit_seconds,
                  transport=transport)  # fmt: skip


def _address(url: str) -> str:
    """The base of all calls: the address as given, with the service's prefix behind it."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidValue("that is no address of a service", remedy="Pass one like https://stats.example.com.",
                           code="bad-service-address")  # fmt: skip
    if parts.userinfo or parts.query or parts.fragment:
        raise InvalidValue("the address holds credentials, a query or a fragment", code="bad-service-address",
                           remedy="Pass the token as the second argument.")  # fmt: skip
    path = parts.path.rstrip("/")
    return str(parts.copy_with(path=(path if path.endswith(PREFIX) else path + PREFIX) + "/"))
