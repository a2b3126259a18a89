"""What every transport offers: an endpoint, one exchange with it, an answer as its bytes arrive, and what can go wrong.

No method here has a deadline of its own but connecting: the caller has one, and cancelling is cheap.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Protocol
from urllib.parse import urlsplit

from protocols.dialects.dialect import HttpRequest

READ_LIMIT = 64 * 1024 * 1024
"""Bytes of a whole body that `Response.read` takes unless told otherwise."""

SHORTEST_KEY = 8
"""Characters below which what is configured as a key is a placeholder like `none`, not worth hiding."""

_HEADS_KEPT = 256  # a dialect may put the model's name into the path, and a caller invents those

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PATH = re.compile(r"(/[0-9A-Za-z._~!$&'()*+,;=:@%?/-]*)?")  # RFC 3986; the rest comes percent-encoded
_HOST = re.compile(r"[0-9A-Za-z._-]+")
_PORTS = {"http": 80, "https": 443}
_FRAMING = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_BODILESS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS"})


class TransportError(Exception):
    """An exchange that gave no whole answer.

    The message is safe to show: it holds no header, no path and no content. `sent` says whether a byte of the request may
    have left.
    """

    sent: ClassVar[bool] = True


class ConnectFailed(TransportError):
    """No connection came about: name, route, refusal, TLS or connect timeout. Nothing was sent."""

    sent = False


class ConnectionLost(TransportError):
    """The connection closed before the head of the answer was complete.

    `reused` says that the connection had carried an exchange before: then the server most likely closed it as idle while the
    request was on its way, without having read it.
    """

    def __init__(self, message: str, *, reused: bool = False) -> None:
        super().__init__(message)
        self.reused = reused


class BodyTruncated(TransportError):
    """The connection closed before the end that the HTTP framing had promised."""


class MalformedHttp(TransportError):
    """What came is not HTTP/1.1, or its head is too large."""


class BodyTooLarge(TransportError):
    """The body is larger than the reader takes."""


class Endpoint:
    """Where a provider is and what proves who we are. Built once from config, cheap to use again.

    The headers hold the key: they are in no repr and no message. Raises ValueError for what can't be a base URL or a header,
    so that neither can smuggle in a line of its own.
    """

    __slots__ = ("_authority", "_headers", "_heads", "_prefix", "host", "origin", "port", "proxy", "secure")

    def __init__(self, base_url: str, headers: tuple[tuple[str, str], ...] = (), *, proxy: str | None = None) -> None:
        self.secure, self.host, self.port, self._prefix = _split(base_url)
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https" if self.secure else "http"
        self.origin = f"{scheme}://{bracketed}:{self.port}"
        self._authority = bracketed if self.port == _PORTS[scheme] else f"{bracketed}:{self.port}"
        self._headers = _checked(headers)
        self._heads: dict[tuple[str, str, tuple[tuple[str, str], ...]], bytes] = {}
        if proxy is not None:
            _split(proxy, credentials=True)
        self.proxy = proxy

    def __repr__(self) -> str:
        return f"<Endpoint {self.origin}{self._prefix}>"

    def without_key(self, said: bytes) -> bytes:
        """What a provider said of a request, without the key that it may quote: whatever the key looks like."""
        for _, value in self._headers:
            key = value.removeprefix("Bearer ")
            if len(key) >= SHORTEST_KEY:
                said = said.replace(key.encode(), b"[removed]").replace(json.dumps(key)[1:-1].encode(), b"[removed]")
        return said

    def target(self, request: HttpRequest) -> str:
        """The path below the origin. Raises ValueError for what can't stand in a request line."""
        path = request.path
        if not path.startswith("/") or not _PATH.fullmatch(path) or not {".", ".."}.isdisjoint(path.split("/")):
            raise ValueError("the path of a request begins with /, is percent-encoded and has no dot segments")
        return self._prefix + path

    def headers(self, request: HttpRequest) -> dict[str, str]:
        """All headers but the body's length; they hold the key. Raises ValueError.

        The endpoint's win over the request's: a request doesn't change who we are.
        """
        ours = {
            "host": self._authority,
            "user-agent": "quorumd",
            "accept-encoding": "identity",
            "connection": "keep-alive",
        }
        return ours | dict(_checked(request.headers)) | dict(self._headers)

    def head(self, request: HttpRequest) -> bytes:
        """The head as it goes onto the wire, up to the empty line; it holds the key. Raises ValueError."""
        key = (request.method, request.path, request.headers)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _HEADS_KEPT:
                self._heads.clear()
            head = self._heads[key] = self._encode(request)
        body = request.body
        if not body and request.method in _BODILESS:
            return head + b"\r\n"
        return b"%bcontent-length: %d\r\n\r\n" % (head, len(body))

    def _encode(self, request: HttpRequest) -> bytes:
        if not _NAME.fullmatch(request.method):
            raise ValueError("the method of a request is one word")
        lines = [f"{request.method} {self.target(request)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers(request).items()]
        return ("\r\n".join(lines) + "\r\n").encode("latin-1")


class Response(ABC):
    """An answer whose head has arrived; the body is read by one task at a time, inside the `async with` of its exchange."""

    __slots__ = ()

    status: int

    @property
    @abstractmethod
    def headers(self) -> Mapping[str, str]:
        """By lower-case name; repeated ones are joined with a comma."""

    @property
    def framed(self) -> bool:
        """Whether HTTP itself marks the body's end. If not, the connection's end is all there is to tell it by."""
        return framed(self.status, self.headers)

    @abstractmethod
    async def chunk(self) -> bytes:
        """What has arrived since the last call, as one piece; waits if nothing has; b"" at the end of the body.

        Raises BodyTruncated or MalformedHttp, after everything that arrived before was handed over.
        """

    async def read(self, limit: int = READ_LIMIT) -> bytes:
        """The rest of the body. Raises BodyTooLarge above `limit` bytes, and what `chunk` raises."""
        pieces = []
        size = 0
        while piece := await self.chunk():
            size += len(piece)
            if size > limit:
                raise BodyTooLarge(f"the answer is larger than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)


def unnoticed() -> None:
    """The `on_dispatch` of those who needn't know."""


class Transport(Protocol):
    """A way to exchange a request for an answer."""

    def exchange(
        self, endpoint: Endpoint, request: HttpRequest, on_dispatch: Callable[[], None] = unnoticed
    ) -> AbstractAsyncContextManager[Response]:
        """One request and its answer; entering waits for the answer's head.

        `on_dispatch` is called once, right before the first byte of the request is handed to the socket, and never if
        connecting fails. Leaving before the body's end hangs up at once. Raises ValueError for a request that HTTP can't
        carry; entering raises ConnectFailed, ConnectionLost, MalformedHttp.
        """
        ...

    async def aclose(self) -> None:
        """Closes the connections, and takes no further exchange; to be called when none is under way."""
        ...


def reason(error: BaseException) -> str:
    """In few words why connecting failed; the innermost cause knows best."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    known = [cause for cause in causes if isinstance(cause, OSError)]
    if not known:
        return "the connection failed"
    last = known[-1]
    if isinstance(last, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({last.verify_message})"
    if isinstance(last, ssl.SSLError):
        return f"TLS failed ({last.reason or 'no reason given'})"
    if isinstance(last, socket.gaierror):
        return "its name does not resolve"
    return last.strerror or str(last) or type(last).__name__


def framed(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer with this head marks its own end (RFC 9112 §6.3)."""
    if "content-length" in headers or status in (204, 304):
        return True
    return headers.get("transfer-encoding", "").rpartition(",")[2].strip().lower() == "chunked"


def joined(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields as they came, by lower-case name."""
    headers: dict[str, str] = {}
    for field, content in fields:
        name, value = field.decode("latin-1").lower(), content.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _checked(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise ValueError("the name of a header holds a character that HTTP does not allow there")
        if name.lower() in _FRAMING:
            raise ValueError(f"the header {name} is the transport's own")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of the header {name} holds a character that HTTP does not allow there")
    return tuple((name.lower(), value) for name, value in headers)


def _split(url: str, *, credentials: bool = False) -> tuple[bool, str, int, str]:
    """Whether TLS, host, port and path prefix of a base URL. The messages don't quote it: it may hold a password."""
    if not url.isprintable() or " " in url:
        raise ValueError("a URL holds no spaces and no control characters")
    try:
        parts = urlsplit(url)
        host, port = _host(parts.hostname or ""), parts.port
    except ValueError:
        raise ValueError("the host or the port of the URL is not one") from None
    if parts.scheme not in _PORTS or port == 0:
        raise ValueError("a URL begins with http:// or https:// and names a host")
    if "@" in parts.netloc and not credentials:
        raise ValueError("a base URL holds no user and no password; keys go into headers")
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or not _PATH.fullmatch(path):
        raise ValueError("a base URL ends with its path, which is percent-encoded")
    return parts.scheme == "https", host, port or _PORTS[parts.scheme], path


def _host(name: str) -> str:
    if ":" in name:
        return str(ipaddress.IPv6Address(name))
    host = name if name.isascii() else name.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise ValueError("not a host")
    return host
