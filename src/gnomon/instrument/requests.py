"""Recording of outgoing requests calls: one event for each request an adapter sends, so one per redirect hop.

Owns the recording adapter and `instrument(session, engine)`, which puts it around every adapter a session has.
An event spans from send to the last byte of the body, its close, its failure or its being dropped; retries inside
urllib3 are part of it. Refuses to buffer bodies and to change what the host gets to see.
"""

from __future__ import annotations

import functools
import http.client
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.utils import select_proxy
from urllib3 import exceptions as urllib3_errors

from gnomon.instrument import MAX_CAUSES, Exchange, Labels, Recorder, Source, body_length, error_slug, shielded

__all__ = ["RecordingAdapter", "instrument"]

T = TypeVar("T")


def instrument(
    session: requests.Session, engine: Recorder, *, source: Source = None, application: str | None = None
) -> requests.Session:
    """Record every request of this session, whichever of its adapters sends it; returns the session.

    Without a `source`, requests through a proxy get the proxy's host:port. Instrumenting again with the same
    engine replaces the labels instead of recording twice.
    """
    for prefix, mounted in session.adapters.items():
        adapter = mounted
        if isinstance(mounted, RecordingAdapter) and mounted.labels.engine is engine:
            adapter = mounted.adapter
        # Replaced in place: mount() would reorder prefixes.
        session.adapters[prefix] = RecordingAdapter(engine, source=source, application=application, adapter=adapter)
    return session


class RecordingAdapter(BaseAdapter):
    """Any adapter (default: `HTTPAdapter()`), with each request recorded."""

    def __init__(
        self,
        engine: Recorder,
        *,
        source: Source = None,
        application: str | None = None,
        adapter: BaseAdapter | None = None,
    ) -> None:
        super().__init__()
        self.labels = Labels(engine, source, application)
        self.adapter = adapter if adapter is not None else HTTPAdapter()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        exchange = self._begin(request, kwargs.get("proxies"))
        try:
            response = self.adapter.send(request, *args, **kwargs)
        except BaseException as error:
            exchange.finish(error, _error_code)
            raise
        exchange.status_code = response.status_code
        # Digest authentication sends its second request through this attribute.
        response.connection = self  # type: ignore[assignment]
        if not shielded(_watch, response.raw, exchange):
            exchange.received = shielded(_declared, response)
            exchange.finish()
        return response

    def close(self) -> None:
        self.adapter.close()

    def _begin(self, request: requests.PreparedRequest, proxies: Mapping[str, str] | None) -> Exchange:
        url = request.url or ""
        return self.labels.begin(
            request,
            url=url,
            method=request.method,
            bytes_sent=shielded(_declared, request),
            proxy=shielded(select_proxy, url, dict(proxies)) if proxies else None,
        )

    def __getattr__(self, name: str) -> Any:
        # Hosts read max_retries or poolmanager from the adapter they get by URL.
        return getattr(self.__dict__["adapter"], name)

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        # A session can be pickled; an engine belongs to its process, so the session travels without it.
        return _as_it_is, (self.adapter,)


class _RecordedBody(urllib3.HTTPResponse):
    """A urllib3 response that tells its exchange how far it is read.

    It becomes the class of the response in place. A wrapper would fail the host's isinstance checks, and methods
    patched onto the object would tie it into a cycle, so that a dropped body kept its connection until the next
    garbage collection.
    """

    _exchange: Exchange
    _chunk_bytes = 0
    _reading = False

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        return self._watched(functools.partial(super().read, *args, **kwargs))

    def read1(self, *args: Any, **kwargs: Any) -> bytes:
        return self._watched(functools.partial(super().read1, *args, **kwargs))

    def read_chunked(self, *args: Any, **kwargs: Any) -> Generator[bytes, None, None]:
        chunks = super().read_chunked(*args, **kwargs)
        try:
            while (chunk := self._watched(functools.partial(next, chunks, None))) is not None:
                yield chunk
        finally:
            chunks.close()

    def drain_conn(self) -> None:
        self._watched(super().drain_conn)

    def release_conn(self) -> None:
        super().release_conn()
        self._ended()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._ended()

    def _handle_chunk(self, *args: Any, **kwargs: Any) -> bytes:
        # tell() leaves out what read_chunked() reads, and what that yields is decoded already.
        chunk = super()._handle_chunk(*args, **kwargs)
        self._chunk_bytes += len(chunk)
        return chunk

    def _watched(self, step: Callable[[], T]) -> T:
        self._reading = True
        try:
            result = step()
        except BaseException as error:
            self._note_bytes()
            self._exchange.finish(error, _error_code)
            raise
        finally:
            self._reading = False
        if self.closed:
            self._ended()
        return result

    def _ended(self) -> None:
        # urllib3 closes and releases on its way out of a failing read; what failed is known only after that.
        if not self._reading:
            self._note_bytes()
            self._exchange.finish()

    def _note_bytes(self) -> None:
        self._exchange.received = self._chunk_bytes + self.tell()


def _as_it_is(adapter: BaseAdapter) -> BaseAdapter:
    return adapter


def _declared(message: requests.PreparedRequest | requests.Response) -> int | None:
    length = message.headers.get("content-length")
    text = length.decode("ascii") if isinstance(length, bytes) else length
    return body_length(text, without=isinstance(message, requests.PreparedRequest) and message.body is None)


@functools.cache
def _recorded(kind: type[urllib3.HTTPResponse]) -> type[_RecordedBody]:
    return _RecordedBody if kind is urllib3.HTTPResponse else type(kind.__name__, (_RecordedBody, kind), {})


def _watch(raw: Any, exchange: Exchange) -> bool:
    """Follow the body; False when it is no urllib3 response (an adapter that answers from memory or a file)."""
    if not isinstance(raw, urllib3.HTTPResponse):
        return False
    raw.__dict__["_exchange"] = exchange
    raw.__class__ = _recorded(type(raw))
    exchange.received = 0
    return True


# The names httpx's classes yield, so that one breakdown holds both libraries. Order: a subclass before its parent.
_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (requests.exceptions.ProxyError, "proxy-error"),
    (urllib3_errors.ProxyError, "proxy-error"),
    (urllib3_errors.NewConnectionError, "connect-error"),
    (requests.exceptions.ConnectTimeout, "connect-timeout"),
    (urllib3_errors.ConnectTimeoutError, "connect-timeout"),
    (requests.exceptions.ReadTimeout, "read-timeout"),
    (urllib3_errors.ReadTimeoutError, "read-timeout"),
    (requests.exceptions.SSLError, "tls-error"),
    (urllib3_errors.SSLError, "tls-error"),
    (urllib3_errors.DecodeError, "decoding-error"),
    (http.client.HTTPException, "remote-protocol-error"),
    (ConnectionError, "read-error"),
)


def _error_code(error: BaseException) -> str:
    """The innermost reason that has a name: requests wraps urllib3, which wraps the socket."""
    inner: BaseException | None = error
    broken = False
    for _ in range(MAX_CAUSES):
        for kind, code in _CODES:
            if isinstance(inner, kind):
                return code
        broken = broken or isinstance(inner, urllib3_errors.ProtocolError)
        parts = (getattr(inner, "reason", None), *getattr(inner, "args", ()))
        inner = next((part for part in parts if isinstance(part, BaseException)), None)
    return "remote-protocol-error" if broken else error_slug(error)
