"""Recording of the requests that an ASGI application answers: one event each, and one for each WebSocket.

Owns the middleware; what it watches is in `exchanges`. Works with FastAPI, Starlette, Litestar, Django and bare
applications, and imports none of them. Refuses to raise, to wait, and to record a raw path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from gnomon.instrument.exchanges import KINDS, Exchange, Message, Receive, Scope, Send
from gnomon.instrument.routes import Routes, path_below_root
from gnomon.instrument.serving import (
    NOTES,
    Exclude,
    Hosting,
    Recorder,
    Tell,
    Types,
)

__all__ = ["NOTES", "RecordingMiddleware"]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ENGINE = "engine"


class RecordingMiddleware:
    """`RecordingMiddleware(app, engine)`, or `app.add_middleware(RecordingMiddleware, engine=engine)`.

    `application` and `source` are texts. `user`, `device`, `session` and `properties` get the scope once the request
    is answered; without `user` it is whom the application's own authentication left in `scope["user"]` or as `user_id`
    in the state, never a header. `types` maps `"/route"` or `"POST /route"` to an event type, or gets the scope.
    `exclude` holds paths and prefixes (`"/static/*"`), or gets the scope when the request begins. What goes wrong in
    any of them is counted in `faults`, by part, and stops nothing.
    """

    def __init__(self, app: App, engine: Recorder, *, application: str | None = None, source: str | None = None,
                 user: Tell | None = None, device: Tell | None = None, session: Tell | None = None,
                 properties: Tell | None = None, types: Types | None = None, exclude: Exclude | None = None,
                 faults: Counter[str] | None = None) -> None:  # fmt: skip
        self.app = app
        self._hosting = Hosting(engine, application=application, source=source, user=user, device=device,
                                session=session, properties=properties, types=types, exclude=exclude,
                                faults=faults)  # fmt: skip
        self._routes = Routes(app)

    @property
    def faults(self) -> Counter[str]:
        """What went wrong in recording so far, by part."""
        return self._hosting.faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._flushing(send))
            return
        exchange = self._begin(scope, receive, send)
        if exchange is None:
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.end(error)
            raise
        exchange.end(None)

    def _flushing(self, send: Send) -> Send:
        """Servers end by a signal that skips what Python does at its end, so the last events are made durable here.

        It waits where it stands, as nothing else is to be done by then, and works under any event loop.
        """

        async def sending(message: Message) -> None:
            if message.get("type") in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                try:
                    self._hosting.flush()
                except Exception as error:  # noqa: BLE001  a server that is to stop must stop
                    self._hosting.fault("flush", error)
            await send(message)

        return sending

    def _begin(self, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
        """The exchange to watch; None for what is not recorded, here or because another one outside does it."""
        kind = KINDS.get(scope["type"])
        if kind is None:
            return None
        try:
            notes = scope.get(NOTES)
            if notes is not None and notes.get(_ENGINE) is self._hosting.engine:
                return None
            if self._hosting.excludes and self._hosting.skips(scope, path_below_root(scope)):
                return None
            scope[NOTES] = {_ENGINE: self._hosting.engine}
        except Exception as error:  # noqa: BLE001  a scope may be anything; the application is to answer it
            self._hosting.fault("begin", error)
            return None
        return kind(self._hosting, self._routes, scope, receive, send)
