"""Recording of outgoing httpx requests: one event for each request that reaches a transport, so one per redirect hop.

Owns the two recording transports and `instrument(client, engine)`, which puts them around what a client has.
An event spans from send to the last byte of the body, its close or its failure; bytes are counted as they pass,
before decoding. Refuses to buffer bodies, to alter connections, and to change what the host gets to see.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TypeVar

import httpx

from gnomon.instrument import MAX_CAUSES, Exchange, Labels, Recorder, Source, body_length, error_slug, shielded

__all__ = ["AsyncRecordingTransport", "RecordingTransport", "instrument"]

Proxy = httpx.Proxy | httpx.URL | str
Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)


def instrument(client: Client, engine: Recorder, *, source: Source = None, application: str | None = None) -> Client:
    """Record every request of this client, whichever of its transports and proxies carries it; returns the client.

    Without a `source`, requests through a proxy get the proxy's host:port. Instrumenting again with the same
    engine replaces the labels instead of recording twice.
    """
    # httpx offers no public way to reach the transports of a finished client.
    if isinstance(client, httpx.AsyncClient):
        client._transport = _around_async(client._transport, engine, source, application)
        for pattern, mounted in client._mounts.items():
            if mounted is not None:
                client._mounts[pattern] = _around_async(mounted, engine, source, application)
    else:
        client._transport = _around(client._transport, engine, source, application)
        for pattern, mount in client._mounts.items():
            if mount is not None:
                client._mounts[pattern] = _around(mount, engine, source, application)
    return client


class RecordingTransport(httpx.BaseTransport):
    """Any transport (default: httpx's own, through `proxy`), with each request recorded."""

    def __init__(
        self,
        engine: Recorder,
        *,
        source: Source = None,
        application: str | None = None,
        proxy: Proxy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.labels = Labels(engine, source, application)
        self.transport = transport if transport is not None else httpx.HTTPTransport(proxy=proxy)
        self._proxy = _proxy_url(proxy, self.transport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _begin(self.labels, request, self._proxy)
        try:
            response = self.transport.handle_request(request)
        except BaseException as error:
            exchange.finish(error, _error_code)
            raise
        if not _answered(exchange, response) and isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _RecordedStream(response.stream, exchange)
        return response

    def close(self) -> None:
        self.transport.close()

    def __enter__(self) -> RecordingTransport:
        self.transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.transport.__exit__(exc_type, exc_value, traceback)


class AsyncRecordingTransport(httpx.AsyncBaseTransport):
    """`RecordingTransport` for `httpx.AsyncClient`."""

    def __init__(
        self,
        engine: Recorder,
        *,
        source: Source = None,
        application: str | None = None,
        proxy: Proxy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.labels = Labels(engine, source, application)
        self.transport = transport if transport is not None else httpx.AsyncHTTPTransport(proxy=proxy)
        self._proxy = _proxy_url(proxy, self.transport)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _begin(self.labels, request, self._proxy)
        try:
            response = await self.transport.handle_async_request(request)
        except BaseException as error:
            exchange.finish(error, _error_code)
            raise
        if not _answered(exchange, response) and isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _RecordedAsyncStream(response.stream, exchange)
        return response

    async def aclose(self) -> None:
        await self.transport.aclose()

    async def __aenter__(self) -> AsyncRecordingTransport:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.transport.__aexit__(exc_type, exc_value, traceback)


class _RecordedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stream:
                self._exchange.received = (self._exchange.received or 0) + len(chunk)
                yield chunk
        except BaseException as error:
            self._exchange.finish(error, _error_code)
            raise
        self._exchange.finish()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._exchange.finish()


class _RecordedAsyncStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                self._exchange.received = (self._exchange.received or 0) + len(chunk)
                yield chunk
        except BaseException as error:
            self._exchange.finish(error, _error_code)
            raise
        self._exchange.finish()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._exchange.finish()


def _around(
    transport: httpx.BaseTransport, engine: Recorder, source: Source, application: str | None
) -> RecordingTransport:
    if isinstance(transport, RecordingTransport) and transport.labels.engine is engine:
        transport = transport.transport
    return RecordingTransport(engine, source=source, application=application, transport=transport)


def _around_async(
    transport: httpx.AsyncBaseTransport, engine: Recorder, source: Source, application: str | None
) -> AsyncRecordingTransport:
    if isinstance(transport, AsyncRecordingTransport) and transport.labels.engine is engine:
        transport = transport.transport
    return AsyncRecordingTransport(engine, source=source, application=application, transport=transport)


def _begin(labels: Labels, request: httpx.Request, proxy: str | None) -> Exchange:
    headers = request.headers
    return labels.begin(
        request,
        url=str(request.url),
        method=request.method,
        bytes_sent=body_length(headers.get("content-length"), without="transfer-encoding" not in headers),
        proxy=proxy,
    )


def _answered(exchange: Exchange, response: httpx.Response) -> bool:
    """Note the response's head; True when its body is complete too (a transport that answers from memory)."""
    exchange.status_code = response.status_code
    exchange.received = 0
    if response.is_closed:
        declared = body_length(response.headers.get("content-length"), without=False)
        exchange.received = response.num_bytes_downloaded or declared
        exchange.finish()
    return response.is_closed


def _error_code(error: BaseException) -> str:
    # httpx has no class of its own for a failed TLS handshake. Its cause is followed and what that wraps, never
    # the context, which may be an earlier failure that the host is busy handling.
    inner: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if isinstance(inner, ssl.SSLError):
            return "tls-error"
        parts = (getattr(inner, "__cause__", None), *getattr(inner, "args", ()))
        inner = next((part for part in parts if isinstance(part, BaseException)), None)
    return error_slug(error)


def _proxy_url(proxy: Proxy | None, transport: object) -> str | None:
    """The proxy as given, else the one that this httpx transport was built with."""
    if isinstance(transport, RecordingTransport | AsyncRecordingTransport):
        return transport._proxy
    if proxy is not None:
        return str(proxy.url if isinstance(proxy, httpx.Proxy) else proxy)
    return shielded(_pool_proxy, transport)


def _pool_proxy(transport: object) -> str | None:
    # A transport does not tell its proxy; httpcore's pool keeps it, already without credentials.
    url = getattr(getattr(transport, "_pool", None), "_proxy_url", None)
    if url is None:
        return None
    host, scheme = url.host.decode("ascii"), url.scheme.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{url.port}" if url.port else f"{scheme}://{host}"
