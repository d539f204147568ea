"""Recording of the requests that a WSGI application answers: the twin of `asgi`, for Flask, Django and bare ones.

Owns the middleware and the body it watches. The body is handed on part by part as it comes, and its `close()` is the
end of the request. Refuses to raise, to read the request's body, and to record a raw path.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from gnomon.instrument import body_length, error_slug
from gnomon.instrument.routes import UNMATCHED
from gnomon.instrument.serving import CLIENT_GONE, NOTES, Exclude, Hosting, Recorder, Tell, Types, code_of

__all__ = ["NOTES", "RecordingMiddleware"]

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_ENGINE = "engine"


class RecordingMiddleware:
    """`app.wsgi_app = RecordingMiddleware(app.wsgi_app, engine)` for Flask, `RecordingMiddleware(app, engine)` else.

    Takes the keywords of the middleware for ASGI; callables get the environment. Without `user` the user is
    `REMOTE_USER`, which a server or an authenticating middleware sets and no client can.
    """

    def __init__(self, app: App, engine: Recorder, *, application: str | None = None, source: str | None = None,
                 user: Tell | None = None, device: Tell | None = None, session: Tell | None = None,
                 properties: Tell | None = None, types: Types | None = None, exclude: Exclude | None = None,
                 faults: Counter[str] | None = None) -> None:  # fmt: skip
        self.app = app
        self._hosting = Hosting(engine, application=application, source=source, user=user, device=device,
                                session=session, properties=properties, types=types, exclude=exclude,
                                faults=faults)  # fmt: skip

    @property
    def faults(self) -> Counter[str]:
        """What went wrong in recording so far, by part."""
        return self._hosting.faults

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as the application does."""
        answer = self._hosting.shielded("begin", self._begin, environ, start_response)
        if answer is None:
            return self.app(environ, start_response)
        try:
            parts = self.app(environ, answer.start_response)
        except BaseException as error:
            answer.end(error)
            raise
        sendfile = environ.get("wsgi.file_wrapper")
        if isinstance(sendfile, type) and isinstance(parts, sendfile):
            answer.handed_over()  # only as it is can the server send the file by itself
            return parts
        return _SizedBody(parts, answer) if hasattr(parts, "__len__") else _Body(parts, answer)

    def _begin(self, environ: Environ, start_response: StartResponse) -> _Answer | None:
        notes = environ.get(NOTES)
        if notes is not None and notes.get(_ENGINE) is self._hosting.engine:
            return None
        if self._hosting.skips(environ, environ.get("PATH_INFO", "")):
            return None
        environ[NOTES] = {_ENGINE: self._hosting.engine}
        return _Answer(self._hosting, environ, start_response)


class _Answer:
    """One request under way."""

    def __init__(self, hosting: Hosting, environ: Environ, start_response: StartResponse) -> None:
        self._hosting, self._environ, self._start = hosting, environ, start_response
        self._root: str = environ.get("SCRIPT_NAME", "")
        self._endpoint = UNMATCHED
        self._done = False
        self._status: int | None = None
        self._declared: int | None = None
        self._failed: str | None = None
        self._sent = 0
        self.until: float | None = None
        self._since = time.perf_counter()

    def start_response(self, status: str, headers: list[tuple[str, str]], *rest: Any, **more: Any) -> Any:
        """The server's own, listened to; also called late, or again with the exception that changed the answer."""
        write = self._start(status, headers, *rest, **more)
        self._hosting.shielded("message", self._started, status, headers, *rest, **more)

        def writing(data: bytes) -> object:
            done = write(data)
            self._hosting.shielded("message", self.count, data)
            return done

        return writing

    def _started(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        self._status = code_of(status[:3])
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        self._declared = body_length(length, without=False)
        self._endpoint = _template(self._environ, self._root)  # now: Flask forgets its request before the body goes
        if exc_info is not None:
            self._failed = error_slug(exc_info[1])

    def count(self, part: bytes) -> None:
        """Note a part of the body that has gone to the server."""
        self._sent += len(part)

    def handed_over(self) -> None:
        """The server sends a file: what is known now is what will be."""
        self._sent, self.until = self._declared or 0, time.perf_counter()
        self.end(None)

    def end(self, error: BaseException | None) -> None:
        """The body is closed, or the application has failed."""
        if not self._done:
            self._done = True
            self._hosting.shielded("record", self._record, error)

    def _record(self, error: BaseException | None) -> None:
        status, code, success, environ = self._status, self._failed, None, self._environ
        whole = self.until is not None or environ.get("REQUEST_METHOD") == "HEAD" or self._sent == self._declared
        if error is not None and not isinstance(error, GeneratorExit):
            status, code, success = status or 500, error_slug(error), False
        elif code is not None:
            success = False
        elif status is None:
            status, code, success = 500, "no-response", False
        elif not whole:
            code = CLIENT_GONE
        self._hosting.record(
            environ, known_user, "request", endpoint=self._endpoint,
            method=environ.get("REQUEST_METHOD"), status_code=status, since=self._since, until=self.until,
            bytes_sent=0 if environ.get("REQUEST_METHOD") == "HEAD" else self._sent,
            bytes_received=_request_length(environ), success=success, error_code=code,
        )  # fmt: skip


class _Body:
    """The parts of an answer on their way to the server."""

    def __init__(self, parts: Iterable[bytes], answer: _Answer) -> None:
        self._parts, self._answer = parts, answer
        self._each: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._each is None:
                self._each = iter(self._parts)
            part = next(self._each)
        except StopIteration:
            if self._answer.until is None:
                self._answer.until = time.perf_counter()
            raise
        except BaseException as error:
            self._answer.end(error)
            raise
        with suppress(TypeError):  # no bytes: the server will say so
            self._answer.count(part)
        return part

    def close(self) -> None:
        """Close what the application gave, then record."""
        try:
            close = getattr(self._parts, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._answer.end(error)
            raise
        self._answer.end(None)

    def __del__(self) -> None:
        self._answer.end(None)  # a server that never closes has answered all the same


class _SizedBody(_Body):
    """A body whose number of parts is known, from which servers derive the Content-Length."""

    def __len__(self) -> int:
        return len(self._parts)  # type: ignore[arg-type]


def known_user(environ: Environ) -> str | None:
    """`REMOTE_USER`; headers have names that begin with HTTP."""
    return environ.get("REMOTE_USER")


def _request_length(environ: Environ) -> int | None:
    declared = environ.get("CONTENT_LENGTH") or None
    return body_length(declared, without="HTTP_TRANSFER_ENCODING" not in environ)


def _template(environ: Environ, root: str) -> str:
    """The rule that Werkzeug (Flask) matched, below the application's own mount; others say theirs in the notes."""
    rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)
    if not isinstance(rule, str):
        return UNMATCHED
    mounted: str = environ.get("SCRIPT_NAME", "")
    return (mounted[len(root) :] if mounted.startswith(root) else "") + rule
