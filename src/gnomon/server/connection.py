"""What a connection may do before its call has begun: headers within 5 seconds and 64 KiB, else it is closed.

A call that `Quick` takes is handed to it once its body is there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from gnomon.server.quick import Quick

HEADER_SECONDS = 5.0
HEADER_BYTES = 64 * 1024
_WORDS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits on headers; its own refusals are problems as well."""

    def connection_made(self, transport: Any) -> None:
        """A client has come: its headers are awaited."""
        super().connection_made(transport)
        self._refused = self._in_body = False
        self._heading = True
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(HEADER_SECONDS, self._too_slow)
        self._header_bytes = 0
        self._waiting: RequestResponseCycle | None = None  #: for the rest of a body that is to go the quick way
        state = getattr(self.config.app, "state", None)  # other apps, also those around ours, have none
        self._quick: Quick | None = getattr(state, "quick", None) if self.app is self.config.app else None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._refused:
            return
        if self._heading:
            self._header_bytes += len(data)
        elif not self._in_body and (self.cycle is None or self.cycle.response_complete):
            self._heading = True
            self._header_bytes = len(data)
        super().data_received(data)
        if self._waiting is not None:  # its body comes in parts, within a time that is looked at elsewhere
            cycle, self._waiting = self._waiting, None
            super()._start_asgi_task(cycle, self.app)
        if self._heading and not self._refused:
            if self._header_bytes > HEADER_BYTES:
                self.refuse(431, "the headers are larger than 64 KiB", "Send fewer.", code="headers-too-large")
            elif self._timer is None:  # nearly all headers come in one piece, and need none
                self._timer = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def on_headers_complete(self) -> None:
        """All headers of a call are there."""
        self._headers_are_there()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEADER_BYTES:
            self.refuse(431, "the headers are larger than 64 KiB", "Send fewer.", code="headers-too-large")
            raise ValueError
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole call is there. It may have been answered before: what came meanwhile was no head of the next."""
        self._in_body = False
        super().on_message_complete()
        cycle = self._waiting
        if cycle is not None and cycle is self.cycle and self._quick is not None:
            self._waiting = None
            self._quick.begin(cycle, self.on_response_complete)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin with a call; one whose body was there before its turn came goes the usual way."""
        if app is self.app and cycle.more_body and self._quick is not None and self._quick.fits(cycle):
            self._waiting = cycle
        else:
            super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """What was sent is no HTTP."""
        if not self._refused:
            self.refuse(400, "this is no well-formed HTTP request", "See RFC 9112.", code="bad-request")

    def refuse(self, status: int, detail: str, remedy: str, *, code: str) -> None:
        """Answer and close."""
        self._refused = True
        self._headers_are_there()
        body = msgspec.json.encode({"type": code, "title": _WORDS[status], "status": status, "detail": detail,
                                    "remedy": remedy})  # fmt: skip
        head = (f"HTTP/1.1 {status} {_WORDS[status]}\r\ncontent-type: application/problem+json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n")  # fmt: skip
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            self.transport.close()

    def _headers_are_there(self) -> None:
        self._heading = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self.refuse(408, "the headers did not come within 5 seconds", "Send it again.", code="too-slow")
