"""The same interface over httpx: for endpoints behind a proxy, and for what is not on the hot way (discovery, probes)."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

from actors.providers.tls import Tls
from actors.providers.transport import (
    BodyTruncated,
    ConnectFailed,
    ConnectionLost,
    Endpoint,
    MalformedHttp,
    Response,
    Transport,
    TransportError,
    joined,
    reason,
    unnoticed,
)
from protocols.dialects.dialect import HttpRequest

if TYPE_CHECKING:
    import httpx


class HttpxTransport(Transport):
    """Exchanges through httpx, which is imported when the first one begins: it takes longer than the daemon's own start.

    State: a client for each proxy, and one for none; whether all are closed.
    """

    def __init__(
        self, *, connect_timeout_s: float = 10.0, idle_s: float = 4.0, max_idle: int = 128, tls: Tls | None = None
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._max_idle = max_idle
        self._tls = tls or Tls()
        self._clients: dict[str | None, httpx.AsyncHTTPTransport] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<HttpxTransport {len(self._clients)} clients>"

    def exchange(  # noqa: D102  # said by Transport
        self, endpoint: Endpoint, request: HttpRequest, on_dispatch: Callable[[], None] = unnoticed
    ) -> AbstractAsyncContextManager[Response]:
        url = endpoint.origin + endpoint.target(request)
        return self._exchange(endpoint, request, url, endpoint.headers(request), _Progress(on_dispatch))

    async def aclose(self) -> None:  # noqa: D102  # said by Transport
        self._closed = True
        clients = list(self._clients.values())
        self._clients.clear()
        for client in clients:
            await client.aclose()

    @asynccontextmanager
    async def _exchange(
        self, endpoint: Endpoint, request: HttpRequest, url: str, headers: dict[str, str], progress: _Progress
    ) -> AsyncGenerator[Response]:
        client = await self._client(endpoint)
        import httpx  # loaded by now

        extensions = {"timeout": {"connect": self._connect_timeout_s}, "trace": progress.trace}
        asked = httpx.Request(request.method, url, headers=headers, content=request.body, extensions=extensions)
        with _translated(endpoint, progress):
            answer = await client.handle_async_request(asked)
        response = _HttpxResponse(answer, endpoint, progress)
        try:
            yield response
        finally:
            await response.aclose()

    async def _client(self, endpoint: Endpoint) -> httpx.AsyncHTTPTransport:
        client = self._clients.get(endpoint.proxy)
        if client is not None:
            return client
        try:
            context = await self._tls.context()
        except OSError as error:
            raise ConnectFailed(f"{endpoint.origin}: {reason(error)}") from None
        await asyncio.get_running_loop().run_in_executor(None, _load)
        if self._closed:
            raise ConnectFailed("the client is closed")
        client = self._clients.get(endpoint.proxy)  # others may have come first meanwhile
        if client is None:
            client = self._clients[endpoint.proxy] = self._new_client(endpoint.proxy, context)
        return client

    def _new_client(self, proxy: str | None, context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
        """The part of httpx below its `Client`: no redirects, no cookies, no environment, no log lines with URLs."""
        import httpx  # loaded by now

        return httpx.AsyncHTTPTransport(
            verify=context,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=self._max_idle, keepalive_expiry=self._idle_s
            ),
            proxy=None if proxy is None else httpx.Proxy(proxy, ssl_context=_unless_plain(proxy, context)),
        )


class _Progress:
    """How far a request has come, as httpcore traces it.

    State: whether it is (being) sent, and whether over a connection that was there before.
    """

    __slots__ = ("_on_dispatch", "reused", "sent")

    def __init__(self, on_dispatch: Callable[[], None]) -> None:
        self._on_dispatch = on_dispatch
        self.reused = True
        self.sent = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpcore is about to do, or has done."""
        if event == "connection.connect_tcp.started":
            self.reused = False
        elif event == "http11.send_request_headers.started" and info["request"].method != b"CONNECT" and not self.sent:
            self.sent = True
            self._on_dispatch()


class _HttpxResponse(Response):
    """httpx's answer as ours.

    State: the pieces still to come.
    """

    __slots__ = ("_answer", "_endpoint", "_headers", "_pieces", "_progress", "status")

    def __init__(self, answer: httpx.Response, endpoint: Endpoint, progress: _Progress) -> None:
        self.status = answer.status_code
        self._answer = answer
        self._endpoint = endpoint
        self._progress = progress
        self._headers = joined(answer.headers.raw)
        self._pieces = _stream(answer).__aiter__()

    def __repr__(self) -> str:
        return f"<HttpxResponse {self.status}>"

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    async def chunk(self) -> bytes:
        with _translated(self._endpoint, self._progress, in_body=True):
            async for piece in self._pieces:
                if piece:
                    return piece
        return b""

    async def aclose(self) -> None:
        """Hangs up unless the body has come to its end."""
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()
        await _stream(self._answer).aclose()


def _stream(answer: httpx.Response) -> httpx.AsyncByteStream:
    """The body as the connection gives it, without httpx's decoding."""
    return cast("httpx.AsyncByteStream", answer.stream)


def _unless_plain(proxy: str, context: ssl.SSLContext) -> ssl.SSLContext | None:
    return context if proxy.lower().startswith("https:") else None


def _load() -> None:
    """Imports httpx, in a thread: it takes a tenth of a second. Its log lines below WARNING hold URLs."""
    import httpcore  # noqa: F401  # httpx would import it later, in the loop
    import httpx  # noqa: F401

    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def _translated(endpoint: Endpoint, progress: _Progress, *, in_body: bool = False) -> Iterator[None]:
    """Raises our errors in place of httpx's."""
    import httpx  # loaded by now

    try:
        yield
    except httpx.ProxyError:
        raise ConnectFailed(f"{endpoint.origin}: the proxy refused") from None
    except httpx.ConnectTimeout:
        raise ConnectFailed(f"{endpoint.origin}: no connection in time") from None
    except httpx.RemoteProtocolError as error:
        # one class for two things; the words are httpcore's and h11's, and tests hold us to them
        gone = str(error).startswith(("Server disconnected", "peer closed connection"))
        raise _gone(progress, in_body=in_body) if gone else MalformedHttp("the answer is not HTTP/1.1") from None
    except httpx.TransportError as error:
        if not progress.sent:
            raise ConnectFailed(f"{endpoint.origin}: {reason(error)}") from None
        raise _gone(progress, in_body=in_body) from None


def _gone(progress: _Progress, *, in_body: bool) -> TransportError:
    if in_body:
        return BodyTruncated("the connection closed before the answer's end")
    return ConnectionLost("the connection closed before an answer came", reused=progress.reused)
