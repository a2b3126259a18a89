"""What both transports promise alike."""

import asyncio
import base64
import logging

import pytest
from scripted_server import answering, soon

from actors.providers.http import (
    BodyTooLarge,
    BodyTruncated,
    ConnectFailed,
    ConnectionLost,
    Endpoint,
    HttpClient,
    HttpxTransport,
    MalformedHttp,
    TransportError,
)
from protocols.dialects.dialect import HttpRequest

pytestmark = pytest.mark.anyio

KEY = (("authorization", "Bearer sk-secret"),)
POST = HttpRequest("/chat", b'{"a":1}')
GET = HttpRequest("/models", b"", (), "GET")

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"

ANSWERS = {
    "content-length": (OK, False, (200, b"hi", True)),
    "chunked": (CHUNKED + b"2\r\nhi\r\n3;ext=1\r\n th\r\n0\r\n\r\n", False, (200, b"hi th", True)),
    "chunked with trailers": (CHUNKED + b"1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n", False, (200, b"x", True)),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", False, (200, b"", True)),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", False, (204, b"", True)),
    "until the close": (b"HTTP/1.1 200 OK\r\n\r\nhi", True, (200, b"hi", False)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhi", True, (200, b"hi", False)),
    "without reason": (b"HTTP/1.1 429 \r\nretry-after: 7\r\ncontent-length: 1\r\n\r\nx", False, (429, b"x", True)),
    "redirect": (b"HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n", False, (302, b"", True)),
    "informational before": (CONTINUE + HINTS + OK, False, (200, b"hi", True)),
    "large": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000,
        False,
        (200, b"x" * 3_000_000, True),
    ),
    "head of 60 kB": (
        b"HTTP/1.1 200 OK\r\nx: %b\r\ncontent-length: 2\r\n\r\nhi" % (b"y" * 60_000),
        False,
        (200, b"hi", True),
    ),
    "nothing": (b"", True, ConnectionLost),
    "half a head": (b"HTTP/1.1 200 OK\r\ncontent-le", True, ConnectionLost),
    "only informational": (CONTINUE, True, ConnectionLost),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", False, MalformedHttp),
    "status of letters": (b"HTTP/1.1 abc OK\r\n\r\n", False, MalformedHttp),
    "another version": (b"HTTP/9 200 OK\r\n\r\n", False, MalformedHttp),
    "bad header": (b"HTTP/1.1 200 OK\r\nx y: 1\r\ncontent-length: 0\r\n\r\n", False, MalformedHttp),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nhi", False, MalformedHttp),
    "head without end": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000, False, MalformedHttp),
    "cut by length": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi", True, BodyTruncated),
    "cut in a chunk": (CHUNKED + b"5\r\nhi", True, BodyTruncated),
    "cut before the last chunk": (CHUNKED + b"2\r\nhi\r\n", True, BodyTruncated),
    "cut in the last chunk": (CHUNKED + b"2\r\nhi\r\n0\r\n", True, BodyTruncated),
    "bad chunk": (CHUNKED + b"zz\r\nhi\r\n", False, MalformedHttp),
}


@pytest.mark.parametrize(("raw", "close", "expected"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_read_or_its_failure_named(transport, serve, raw, close, expected):
    server = await serve(answering(raw, close=close))
    endpoint = Endpoint(server.url, KEY)

    async def whole():
        async with transport.exchange(endpoint, POST) as response:
            return response.status, await response.read(), response.framed

    if isinstance(expected, tuple):
        assert await soon(whole()) == expected
        return
    with pytest.raises(TransportError) as caught:
        await soon(whole())
    assert type(caught.value) is expected
    assert caught.value.sent
    assert "secret" not in repr(caught.value)


async def test_the_request_arrives_as_it_was_made(transport, serve):
    server = await serve(answering(OK))
    async with transport.exchange(Endpoint(server.url + "/v1", KEY), POST) as response:
        await response.read()
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    headers = dict(field.lower().split(b": ", 1) for field in fields)
    assert first == b"POST /v1/chat HTTP/1.1"
    assert body == POST.body
    assert headers == {
        b"host": server.url.removeprefix("http://").encode(),
        b"user-agent": b"quorumd",
        b"accept-encoding": b"identity",
        b"connection": b"keep-alive",
        b"content-type": b"application/json",
        b"content-length": b"7",
        b"authorization": b"bearer sk-secret",
    }


async def test_headers_of_the_answer_have_lower_case_names(transport, serve):
    server = await serve(answering(b"HTTP/1.1 200 OK\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"))
    async with transport.exchange(Endpoint(server.url), GET) as response:
        assert response.headers == {"retry-after": "7", "content-length": "0"}
        assert await response.chunk() == b""
        assert await response.chunk() == b""


async def test_headers_of_informational_answers_are_not_those_of_the_answer(transport, serve):
    server = await serve(answering(HINTS + OK))
    async with transport.exchange(Endpoint(server.url), GET) as response:
        assert response.headers == {"content-length": "2"}


async def test_chunks_come_when_they_are_sent(transport, serve):
    async def script(server, peer):
        await peer.request()
        await peer.say(CHUNKED)
        for piece in (b"1", b"2", b"3"):
            await server.go.acquire()
            await peer.say(b"1\r\n%b\r\n" % piece)
        await peer.say(b"0\r\n\r\n")
        await peer.gone()

    server = await serve(script)
    server.go = asyncio.Semaphore(0)
    async with transport.exchange(Endpoint(server.url), POST) as response:
        for piece in (b"1", b"2", b"3"):
            server.go.release()
            assert await soon(response.chunk()) == piece
        assert await soon(response.chunk()) == b""


async def test_a_complete_answer_leaves_the_connection_for_the_next_request(transport, serve):
    server = await serve(answering(OK))
    for _ in range(5):
        async with transport.exchange(Endpoint(server.url, KEY), POST) as response:
            assert await response.read() == b"hi"
    assert (server.connections, len(server.requests)) == (1, 5)


async def test_an_answer_that_announces_its_close_is_the_last_on_its_connection(transport, serve):
    server = await serve(answering(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"))
    for _ in range(2):
        async with transport.exchange(Endpoint(server.url), POST) as response:
            assert await response.read() == b"hi"
    assert server.connections == 2


@pytest.mark.parametrize(("answered", "reused"), [(0, False), (1, True)])
async def test_a_connection_lost_before_the_answer_says_whether_it_was_reused(transport, serve, answered, reused):
    async def script(_, peer):
        for _ in range(answered):
            await peer.request()
            await peer.say(OK)
        await peer.request()

    server = await serve(script)
    for _ in range(answered):
        async with transport.exchange(Endpoint(server.url), POST) as response:
            await response.read()
    with pytest.raises(ConnectionLost) as caught:
        async with transport.exchange(Endpoint(server.url), POST):
            pass
    assert (caught.value.sent, caught.value.reused) == (True, reused)


@pytest.mark.parametrize(("begin", "expected"), [(b"", ConnectionLost), (CHUNKED + b"2\r\nhi\r\n", BodyTruncated)])
async def test_a_reset_after_the_request_counts_as_sent(transport, serve, begin, expected):
    async def script(_, peer):
        await peer.request()
        await peer.say(begin)
        peer.reset()

    server = await serve(script)
    told = []
    with pytest.raises(TransportError) as caught:
        async with transport.exchange(Endpoint(server.url), POST, lambda: told.append(1)) as response:
            await response.read()
    # a reset may overtake what was said before it
    assert type(caught.value) in {expected, ConnectionLost}
    assert caught.value.sent
    assert told == [1]


async def test_leaving_before_the_end_hangs_up(transport, serve):
    async def script(server, peer):
        await peer.request()
        await peer.say(CHUNKED + b"2\r\nhi\r\n")
        await peer.gone()
        server.events.put_nowait("gone")

    server = await serve(script)
    async with transport.exchange(Endpoint(server.url), POST) as response:
        assert await response.chunk() == b"hi"
    assert await server.happened() == "gone"


async def test_an_error_inside_hangs_up_and_passes(transport, serve):
    async def script(server, peer):
        await peer.request()
        await peer.say(CHUNKED + b"2\r\nhi\r\n")
        await peer.gone()
        server.events.put_nowait("gone")

    server = await serve(script)
    with pytest.raises(LookupError, match="mine"):
        async with transport.exchange(Endpoint(server.url), POST):
            raise LookupError("mine")
    assert await server.happened() == "gone"


async def test_a_body_above_the_limit_is_refused(transport, serve):
    server = await serve(answering(CHUNKED + b"a\r\n0123456789\r\n0\r\n\r\n"))
    async with transport.exchange(Endpoint(server.url), POST) as response:
        with pytest.raises(BodyTooLarge, match="9 bytes"):
            await response.read(9)
    async with transport.exchange(Endpoint(server.url), POST) as response:
        assert await response.read(10) == b"0123456789"


async def test_dispatch_is_told_once_and_before_the_first_byte(transport, serve):
    server = await serve(answering(OK))
    told = []
    for _ in range(2):
        async with transport.exchange(
            Endpoint(server.url), POST, lambda: told.append(len(server.requests))
        ) as response:
            await response.read()
    assert told == [0, 1]


async def test_an_on_dispatch_that_raises_sends_nothing(transport, serve):
    async def script(server, peer):
        server.events.put_nowait(await peer.request())

    server = await serve(script)

    def refuse():
        raise LookupError("the ledger is full")

    with pytest.raises(LookupError):
        async with transport.exchange(Endpoint(server.url), POST, refuse):
            pass
    assert await server.happened() is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "127.0.0.1:1"),
        ("http://nowhere.invalid", "nowhere.invalid"),
        ("https://127.0.0.1:1", "127.0.0.1:1"),
    ],
)
async def test_a_failure_to_connect_says_where_and_that_nothing_was_sent(transport, url, says):
    told = []
    with pytest.raises(ConnectFailed, match=says) as caught:
        async with transport.exchange(Endpoint(url, KEY), POST, lambda: told.append(1)):
            pass
    assert not caught.value.sent
    assert told == []
    assert "secret" not in repr(caught.value)


async def test_tls_works_and_is_reused(transport, serve, server_tls):
    server = await serve(answering(OK), tls=server_tls)
    for _ in range(3):
        async with transport.exchange(Endpoint(server.url, KEY), POST) as response:
            assert await response.read() == b"hi"
    assert server.connections == 1


@pytest.mark.parametrize("kind", [HttpClient, HttpxTransport])
async def test_a_certificate_of_a_stranger_is_refused(kind, serve, server_tls):
    server = await serve(answering(OK), tls=server_tls)
    transport = kind()  # trusts the system, which has never heard of the test's CA
    with pytest.raises(ConnectFailed, match="certificate is not trusted"):
        async with transport.exchange(Endpoint(server.url, KEY), POST):
            pass
    await transport.aclose()
    assert server.requests == []


async def test_a_certificate_for_another_name_is_refused(transport, serve, server_tls):
    server = await serve(answering(OK), tls=server_tls, host="127.0.0.2")
    with pytest.raises(ConnectFailed, match="certificate is not trusted"):
        async with transport.exchange(Endpoint(server.url, KEY), POST):
            pass
    assert server.requests == []


async def test_plain_text_from_a_server_that_should_speak_tls_fails_to_connect(transport, serve):
    async def script(_, peer):
        await peer.say(OK)
        await peer.gone()

    server = await serve(script)
    with pytest.raises(ConnectFailed):
        async with transport.exchange(Endpoint(server.url.replace("http:", "https:"), KEY), POST):
            pass


async def test_tls_hangs_up_too_when_left_early(transport, serve, server_tls):
    async def script(server, peer):
        await peer.request()
        await peer.say(CHUNKED + b"2\r\nhi\r\n")
        await peer.gone()
        server.events.put_nowait("gone")

    server = await serve(script, tls=server_tls)
    async with transport.exchange(Endpoint(server.url), POST) as response:
        assert await response.chunk() == b"hi"
    assert await server.happened() == "gone"


async def test_a_literal_ipv6_address_works(transport, serve):
    try:
        server = await serve(answering(OK), host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    async with transport.exchange(Endpoint(server.url), POST) as response:
        assert await response.read() == b"hi"
    assert b"host: [::1]:" in server.requests[0].lower()


async def test_a_hundred_at_once(transport, serve):
    server = await serve(answering(OK))
    endpoint = Endpoint(server.url, KEY)

    async def one():
        async with transport.exchange(endpoint, POST) as response:
            return await response.read()

    assert await soon(asyncio.gather(*(one() for _ in range(100)))) == [b"hi"] * 100
    assert len(server.requests) == 100


async def test_a_closed_transport_refuses(transport, serve):
    server = await serve(answering(OK))
    async with transport.exchange(Endpoint(server.url), POST) as response:
        await response.read()
    await transport.aclose()
    with pytest.raises(ConnectFailed, match="closed"):
        async with transport.exchange(Endpoint(server.url), POST):
            pass


async def test_what_http_can_not_carry_is_refused_before_anything_happens(transport):
    with pytest.raises(ValueError, match="header"):
        transport.exchange(Endpoint("http://127.0.0.1:1"), HttpRequest("/", b"", (("x", "a\r\nb"),)))


async def test_neither_key_nor_path_is_logged(transport, serve, caplog):
    server = await serve(answering(OK))
    with caplog.at_level(logging.DEBUG):
        async with transport.exchange(Endpoint(server.url + "/secret", KEY), POST) as response:
            await response.read()
            assert "secret" not in repr(response)
    assert "secret" not in caplog.text
    assert {record.name for record in caplog.records}.isdisjoint({"httpx", "httpcore.connection", "httpcore.http11"})
    assert "secret" not in repr(transport)


async def through(server, peer):
    """A proxy: tunnels what is CONNECTed, forwards what has a whole URL."""
    request = await peer.request()
    server.requests.append(request)
    method, target, _ = request.split(b" ", 2)
    authority = target if method == b"CONNECT" else target.split(b"/")[2]
    host, _, port = authority.decode().rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    if method == b"CONNECT":
        await peer.say(b"HTTP/1.1 200 Connected\r\n\r\n")
    else:
        writer.write(request)

    async def pump(source, sink):
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    await asyncio.gather(pump(peer.reader, writer), pump(reader, peer.writer))


@pytest.mark.parametrize("secure", [False, True])
async def test_httpx_goes_through_a_proxy(serve, server_tls, tls, secure):
    server = await serve(answering(OK), tls=server_tls if secure else None)
    proxy = await serve(through)
    told = []
    transport = HttpxTransport(tls=tls)
    endpoint = Endpoint(server.url, KEY, proxy=proxy.url.replace("//", "//me:pass@"))
    async with transport.exchange(endpoint, POST, lambda: told.append(len(proxy.requests))) as response:
        assert await response.read() == b"hi"
    await transport.aclose()
    seen = proxy.requests[0].lower()
    assert seen.startswith(b"connect " if secure else b"post http://")
    assert b"proxy-authorization: basic " + base64.b64encode(b"me:pass").lower() in seen
    assert (b"sk-secret" in seen) is not secure
    assert told == [1 if secure else 0]


async def test_a_proxy_that_refuses_is_a_failure_to_connect(serve, tls):
    proxy = await serve(answering(b"HTTP/1.1 403 sk-secret\r\ncontent-length: 0\r\n\r\n"))
    transport = HttpxTransport(tls=tls)
    told = []
    with pytest.raises(ConnectFailed, match="proxy refused") as caught:
        async with transport.exchange(
            Endpoint("https://localhost:1", KEY, proxy=proxy.url), POST, lambda: told.append(1)
        ):
            pass
    await transport.aclose()
    assert told == []
    assert "secret" not in str(caught.value)


async def test_the_environment_names_no_proxy(monkeypatch, transport, serve):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    server = await serve(answering(OK))
    async with transport.exchange(Endpoint(server.url), POST) as response:
        assert response.status == 200
