"""What passes between an ASGI server and an application over one request or WebSocket, watched and counted.

Every message is passed on unchanged and in order before it is looked at; bodies are counted and never held. An exchange
records itself once: an answer with its last byte, a conversation when either side closes it, both at the latest when
the application returns or fails. Refuses to raise.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gnomon.instrument import error_slug
from gnomon.instrument.routes import Routes
from gnomon.instrument.serving import CLIENT_GONE, STATUS_GONE, Hosting, code_of

__all__ = ["KINDS", "Exchange", "Message", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Exchange:
    """What passes between a server and an application over one request."""

    __slots__ = ("_done", "_gone", "_hosting", "_receive", "_routes", "_scope", "_send", "_since", "_until",
                 "received", "sent", "status")  # fmt: skip

    def __init__(self, hosting: Hosting, routes: Routes, scope: Scope, receive: Receive, send: Send) -> None:
        self._hosting, self._routes, self._scope = hosting, routes, scope
        self._receive, self._send = receive, send
        self._done = self._gone = False
        self._until: float | None = None
        self.status: int | None = None
        self.sent = self.received = 0
        self._since = time.perf_counter()

    async def receive(self) -> Message:
        message = await self._receive()
        if not self._done:
            try:
                self._came(message)
            except Exception as error:  # noqa: BLE001  a message may be anything, and is the application's affair
                self._hosting.fault("message", error)
        return message

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # how a server says that nobody is there any more
            self._gone = True
            raise
        if not self._done:
            try:
                self._went(message)
            except Exception as error:  # noqa: BLE001  as above
                self._hosting.fault("message", error)

    def end(self, error: BaseException | None) -> None:
        """The application has returned or failed."""
        if not self._done:
            self._done = True
            self._hosting.shielded("record", self._judge, error)

    def _came(self, message: Message) -> None:
        raise NotImplementedError

    def _went(self, message: Message) -> None:
        raise NotImplementedError

    def _judge(self, error: BaseException | None) -> None:
        """Record an exchange that the application ended without a last byte, or with a failure."""
        if self._gone:
            self._record(self.status or STATUS_GONE, CLIENT_GONE)
        elif error is not None and not isinstance(error, Exception):  # of asyncio, of trio, or the process ends
            self._record(self.status or STATUS_GONE, "cancelled")
        elif error is not None:
            self._record(self.status or 500, error_slug(error), success=False)
        elif self.status is None:
            self._record(500, "no-response", success=False)
        else:
            self._returned()

    def _returned(self) -> None:
        raise NotImplementedError

    def _record(self, status: int | None, error_code: str | None = None, success: bool | None = None) -> None:
        raise NotImplementedError


class _Answer(Exchange):
    """A request and its answer. It ends with the last byte, so background tasks are not part of it."""

    __slots__ = ("_start",)

    def __init__(self, hosting: Hosting, routes: Routes, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(hosting, routes, scope, receive, send)
        self._start: Message | None = None

    def _came(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.request":
            self.received += len(message.get("body") or b"")
        elif kind == "http.disconnect" and self._until is None:
            self._gone = True

    def _went(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._start is None:
                self.status = STATUS_GONE if self._gone else code_of(message["status"])
                self._start = message
        elif self._start is None or self._until is not None:
            return  # against the protocol: the server refuses it
        elif kind == "http.response.body":
            self.sent += len(message.get("body") or b"")
            if not message.get("more_body"):
                self._last_byte()
        elif kind == "http.response.pathsend":  # the server reads the file; its size was announced
            self.sent = _declared(self._start)
            self._last_byte()
        elif kind == "http.response.zerocopysend":
            self.sent += message.get("count") or 0
            if not message.get("more_body"):
                self._last_byte()

    def _last_byte(self) -> None:
        self._until = time.perf_counter()
        # The exception behind a 5xx may still be on its way: Starlette answers first and raises then.
        if self.status is not None and self.status < 500:
            self._done = True
            self._hosting.shielded("record", self._record, self.status, CLIENT_GONE if self._gone else None)

    def _returned(self) -> None:
        if self._until is None:
            self._record(self.status, "incomplete-response", success=False)
        else:
            self._record(self.status)

    def _record(self, status: int | None, error_code: str | None = None, success: bool | None = None) -> None:
        scope = self._scope
        method = scope.get("method")
        self._hosting.record(
            scope, known_user, "request", endpoint=self._routes.template(scope, status), method=method,
            status_code=status, since=self._since, until=self._until, bytes_sent=0 if method == "HEAD" else self.sent,
            bytes_received=self.received, success=success, error_code=error_code,
        )  # fmt: skip


class _Conversation(Exchange):
    """A WebSocket, from the handshake to whichever side closes it first. The close code becomes a property."""

    __slots__ = ("_closed",)

    def __init__(self, hosting: Hosting, routes: Routes, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(hosting, routes, scope, receive, send)
        self._closed: int | None = None

    def _came(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.receive":
            self.received += _frame_size(message)
        elif kind == "websocket.disconnect":
            self._gone = self.status is None
            self._finish(message.get("code", 1005))

    def _went(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            self.sent += _frame_size(message)
        elif kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.close":
            self.status = self.status or 403
            self._finish(message.get("code", 1000))
        elif kind == "websocket.http.response.start":
            self.status = code_of(message["status"])
        elif kind == "websocket.http.response.body":
            self.sent += len(message.get("body") or b"")
            if not message.get("more_body"):
                self._finish(None)

    def _finish(self, code: int | None) -> None:
        self._closed, self._done = code, True
        gone = CLIENT_GONE if self._gone else None
        self._hosting.shielded("record", self._record, self.status or STATUS_GONE, gone)

    def _returned(self) -> None:
        self._record(self.status)  # the server closes it

    def _record(self, status: int | None, error_code: str | None = None, success: bool | None = None) -> None:
        scope = self._scope
        self._hosting.record(
            scope, known_user, "websocket", endpoint=self._routes.template(scope, status), method=None,
            status_code=status, since=self._since, until=None, bytes_sent=self.sent, bytes_received=self.received,
            success=success, error_code=error_code,
            properties=None if self._closed is None else {"close_code": self._closed},
        )  # fmt: skip


#: The exchange of each type of scope that is recorded.
KINDS: dict[str, type[Exchange]] = {"http": _Answer, "websocket": _Conversation}


def known_user(scope: Scope) -> Any:
    """Whom the application's own authentication found: `scope["user"]`, else `user_id` in the request's state."""
    user = scope.get("user")
    if user is not None and getattr(user, "is_authenticated", False):
        for name in ("identity", "id", "username"):
            try:
                found = getattr(user, name, None)
            except NotImplementedError:  # Starlette's base class
                continue
            if found is not None:
                return found
    state = scope.get("state")
    return state.get("user_id") if isinstance(state, dict) else None


def _frame_size(message: Message) -> int:
    data = message.get("bytes")
    if data is not None:
        return len(data)
    text: str = message.get("text") or ""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _declared(start: Message | None) -> int:
    """The Content-Length of an answer that the server sends by itself."""
    headers = () if start is None else start.get("headers") or ()
    return next((int(value) for name, value in headers if name.lower() == b"content-length"), 0)
