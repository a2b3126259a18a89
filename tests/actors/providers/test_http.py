"""What our own client promises beyond what every transport does."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from scripted_server import answering, soon

from actors.providers import connection as connections
from actors.providers import tls as tls_module
from actors.providers.http import BodyTruncated, ConnectFailed, Endpoint, HttpClient, MalformedHttp, _connected
from actors.providers.tls import Tls
from protocols.dialects.dialect import HttpRequest

pytestmark = pytest.mark.anyio

POST = HttpRequest("/chat", b'{"a":1}')
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def ask(client, endpoint, request=POST):
    async with client.exchange(endpoint, request) as response:
        return await response.read()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is looked at has no event
            await asyncio.sleep(0)


def idle_of(client):
    return [connection for kept in client._idle.values() for connection in kept]


def sockets():
    """How many this process has open."""
    links = list(Path("/proc/self/fd").iterdir())
    return sum(str(link.readlink()).startswith("socket:") for link in links if link.is_symlink())


async def stalling(server, peer):
    """Never answers; says when the request came and when the client left."""
    server.events.put_nowait(await peer.request())
    await peer.gone()
    server.events.put_nowait("gone")


# connections that are kept


async def test_a_connection_that_the_server_closed_while_idle_is_not_used(client, serve):
    async def script(server, peer):
        server.requests.append(await peer.request())
        await peer.say(OK)

    server = await serve(script)
    for n in range(3):
        assert await ask(client, Endpoint(server.url)) == b"hi"
        await until(lambda: not any(kept.alive for kept in idle_of(client)))
        assert server.connections == n + 1


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"x"])
async def test_an_answer_with_more_behind_it_is_read_and_its_connection_dropped(client, serve, surplus):
    server = await serve(answering(OK + surplus))
    assert await ask(client, Endpoint(server.url)) == b"hi"
    assert idle_of(client) == []


async def test_bytes_that_nobody_asked_for_end_an_idle_connection(client, serve):
    async def script(server, peer):
        await peer.request()
        await peer.say(OK)
        await server.go.wait()
        await peer.say(OK)
        await peer.gone()
        server.events.put_nowait("gone")

    server = await serve(script)
    server.go = asyncio.Event()
    await ask(client, Endpoint(server.url))
    server.go.set()
    assert await server.happened() == "gone"


async def test_what_is_idle_too_long_is_closed(serve):
    async def script(server, peer):
        await peer.request()
        await peer.say(OK)
        await peer.gone()
        server.events.put_nowait("gone")

    client = HttpClient(idle_s=0.02)
    server = await serve(script)
    await asyncio.gather(*(ask(client, Endpoint(server.url)) for _ in range(3)))
    assert repr(client) == "<HttpClient open, 3 idle>"
    assert client._sweeper is not None
    for _ in range(3):
        assert await server.happened() == "gone"
    assert repr(client) == "<HttpClient open, 0 idle>"
    assert client._sweeper is None
    await client.aclose()


async def test_what_is_idle_too_long_is_not_used_even_if_the_timer_is_late(client, serve):
    server = await serve(answering(OK))
    await ask(client, Endpoint(server.url))
    idle_of(client)[0].idle_since -= 5
    await ask(client, Endpoint(server.url))
    assert server.connections == 2


async def test_no_more_than_so_many_are_kept_and_each_origin_has_its_own(serve):
    client = HttpClient(max_idle=2)
    one, other = await serve(answering(OK)), await serve(answering(OK))
    await asyncio.gather(*(ask(client, Endpoint(server.url)) for server in (one, other) for _ in range(5)))
    assert len(idle_of(client)) == 4
    assert (len(one.requests), len(other.requests)) == (5, 5)
    await client.aclose()


async def test_closing_the_client_closes_what_is_idle(client, serve):
    async def script(server, peer):
        await peer.request()
        await peer.say(OK)
        await peer.gone()
        server.events.put_nowait("gone")

    server = await serve(script)
    await ask(client, Endpoint(server.url))
    await client.aclose()
    assert await server.happened() == "gone"
    assert repr(client) == "<HttpClient closed, 0 idle>"


async def test_an_exchange_under_way_outlives_the_client_but_its_connection_is_not_kept(client, serve):
    server = await serve(answering(OK))
    async with client.exchange(Endpoint(server.url), POST) as response:
        await client.aclose()
        assert await response.read() == b"hi"
    assert idle_of(client) == []


async def test_an_answer_before_the_whole_request_was_read_costs_the_connection(client, serve):
    async def script(_, peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.Event().wait()

    server = await serve(script)
    async with client.exchange(Endpoint(server.url), HttpRequest("/chat", bytes(50_000_000))) as response:
        assert (response.status, await response.read()) == (413, b"no")
    assert idle_of(client) == []


async def test_a_large_request_arrives_whole(client, serve):
    server = await serve(answering(OK))
    body = os.urandom(500_000)
    assert await ask(client, Endpoint(server.url), HttpRequest("/chat", body)) == b"hi"
    assert server.requests[0].endswith(b"\r\n\r\n" + body)


async def test_small_writes_are_not_delayed(client, serve):
    server = await serve(answering(OK))
    await ask(client, Endpoint(server.url))
    handle = idle_of(client)[0]._transport.get_extra_info("socket")
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# bodies


async def test_a_burst_comes_as_one_piece(client, serve):
    server = await serve(answering(CHUNKED + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"))
    async with client.exchange(Endpoint(server.url), POST) as response:
        await until(lambda: response.ended)
        assert await response.chunk() == b"x" * 1000
        assert await response.chunk() == b""


async def test_what_arrived_before_a_cut_is_handed_over_before_the_error(client, serve):
    server = await serve(answering(CHUNKED + b"2\r\nhi\r\n", close=True))
    async with client.exchange(Endpoint(server.url), POST) as response:
        await until(lambda: response.error)
        assert await response.chunk() == b"hi"
        for _ in range(2):
            with pytest.raises(BodyTruncated):
                await response.chunk()


async def test_a_reset_is_no_end_of_a_body_without_framing(client, serve):
    async def script(server, peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nhi")
        await server.go.wait()
        peer.reset()

    server = await serve(script)
    server.go = asyncio.Event()
    async with client.exchange(Endpoint(server.url), POST) as response:
        assert await response.chunk() == b"hi"
        server.go.set()
        with pytest.raises(BodyTruncated):
            await soon(response.chunk())


async def test_an_unread_body_waits_in_the_server(client, serve):
    total = 64 * 1024 * 1024

    async def script(server, peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for _ in range(64):
            await peer.say(bytes(1024 * 1024))
            server.events.put_nowait("sent")
        await peer.request()

    server = await serve(script)
    async with client.exchange(Endpoint(server.url), POST) as response:
        await until(lambda: response.size > connections.BUFFER_LIMIT)
        for _ in range(200):
            await asyncio.sleep(0)
        assert response.size < 2 * connections.BUFFER_LIMIT
        assert server.events.qsize() < 32
        assert len(await soon(response.read(total))) == total
    assert len(idle_of(client)) == 1


async def test_a_complete_answer_left_unread_keeps_the_connection(client, serve):
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + bytes(3_000_000)
    server = await serve(answering(raw))
    async with client.exchange(Endpoint(server.url), POST) as response:
        while not response.ended:
            await response.chunk()
    assert len(await soon(ask(client, Endpoint(server.url)))) == 3_000_000
    assert server.connections == 1


async def test_an_answer_that_was_left_can_not_be_waited_for(client, serve):
    server = await serve(answering(CHUNKED))
    async with client.exchange(Endpoint(server.url), POST) as response:
        pass
    with pytest.raises(BodyTruncated):
        await soon(response.chunk())


# heads


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 200 OK\r\nx: %b\r\ncontent-length: 0\r\n\r\n" % (b"y" * 66_000),
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000 + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 103 Hint\r\n\r\n" * 5000 + OK,
        CHUNKED + b"0\r\n" + b"x: %b\r\n" % (b"y" * 2000) * 1000,
        CHUNKED + b"1;" + b"x" * 2_000_000,
    ],
    ids=["one header", "many headers", "informational", "trailers", "chunk extension"],
)
async def test_framing_without_end_is_refused(client, serve, flood):
    server = await serve(answering(flood))
    with pytest.raises(MalformedHttp):
        await soon(ask(client, Endpoint(server.url)))
    assert idle_of(client) == []


@pytest.mark.parametrize("rest", [b"upgrade: x\r\nconnection: upgrade\r\n\r\nxyz", b"\r\n"])
async def test_a_switch_of_protocols_is_refused(client, serve, rest):
    server = await serve(answering(b"HTTP/1.1 101 Switch\r\n" + rest))
    with pytest.raises(MalformedHttp):
        await soon(ask(client, Endpoint(server.url)))


# connecting


@contextmanager
def full_backlog(host="127.0.0.1", port=0):
    """An address that takes no connection and refuses none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener, socket.socket(family) as first, socket.socket(family) as second:
        listener.bind((host, port))
        listener.listen(0)
        first.connect(listener.getsockname())
        second.setblocking(False)
        second.connect_ex(listener.getsockname())
        yield f"http://{host}:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("no_complaints")
async def test_connecting_has_a_time_limit():
    client = HttpClient(connect_timeout_s=0.05)
    with full_backlog() as url, pytest.raises(ConnectFailed, match=r"within 0\.05 s"):
        await ask(client, Endpoint(url))
    await client.aclose()


async def test_a_tls_handshake_has_a_time_limit(serve, tls):
    server = await serve(stalling)
    client = HttpClient(connect_timeout_s=0.05, tls=tls)
    with pytest.raises(ConnectFailed, match=r"within 0\.05 s"):
        await ask(client, Endpoint(server.url.replace("http:", "https:")))
    await client.aclose()


async def test_a_name_with_several_addresses_is_tried_at_each(client, serve):
    server = await serve(answering(OK))  # on 127.0.0.1; localhost may be ::1 first
    assert await ask(client, Endpoint(server.url.replace("127.0.0.1", "localhost"))) == b"hi"


async def test_an_address_that_swallows_packets_leaves_time_for_the_next(serve):
    server = await serve(answering(OK))
    endpoint = Endpoint(server.url)
    addresses = [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1")]
    with full_backlog("127.0.0.2", endpoint.port):
        connection = await soon(_connected(endpoint, addresses, None, 0.5))
    assert connection.alive
    connection.abort()


async def test_the_last_address_decides_what_the_failure_is_called():
    with pytest.raises(ConnectionRefusedError):
        await _connected(
            Endpoint("http://x:1"), [(socket.AF_INET, address) for address in ("127.0.0.2", "127.0.0.1")], None, 5
        )


@pytest.mark.usefixtures("no_complaints")
async def test_the_time_limit_includes_what_comes_before_the_socket():
    release = threading.Event()

    def make():
        release.wait(10)
        return ssl.create_default_context()

    client = HttpClient(connect_timeout_s=0.05, tls=Tls(make))
    with pytest.raises(ConnectFailed, match=r"within 0\.05 s"):
        await soon(ask(client, Endpoint("https://127.0.0.1:1")))
    release.set()
    await client._tls.context()
    await client.aclose()


async def test_an_endpoint_with_a_proxy_is_not_reached_without_it(client):
    with pytest.raises(ValueError, match="HttpxTransport"):
        client.exchange(Endpoint("http://127.0.0.1:1", proxy="http://127.0.0.1:2"), POST)


# cancelling


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("secure", [False, True])
async def test_cancelling_at_any_turn_leaves_nothing_behind(client, serve, server_tls, secure):
    """Every await from the name's look-up to the body's end is hit by some turn."""
    raw = CHUNKED + b"2\r\nhi\r\n" * 3 + b"0\r\n\r\n"
    server = await serve(answering(raw), tls=server_tls if secure else None)
    endpoint = Endpoint(server.url.replace("127.0.0.1", "localhost"))
    before = sockets()
    outcomes = set()
    for turns in range(60):
        task = asyncio.create_task(ask(client, endpoint))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        outcomes.add(type((await asyncio.gather(task, return_exceptions=True))[0]))
        for kept in idle_of(client):
            kept.abort()
    assert asyncio.CancelledError in outcomes
    await until(lambda: sockets() == before)
    await until(lambda: all(task.done() for task in server.tasks))


async def test_cancelling_while_the_name_is_looked_up(client):
    task = asyncio.create_task(ask(client, Endpoint("http://nowhere.invalid")))
    await asyncio.sleep(0)
    await cancelled(task)
    # the look-up itself can't be stopped: its failure must not surface later
    await asyncio.gather(asyncio.get_running_loop().getaddrinfo("nowhere.invalid", 80), return_exceptions=True)


async def test_cancelling_while_connecting(client):
    with full_backlog() as url:
        before = sockets()
        task = asyncio.create_task(ask(client, Endpoint(url)))
        await until(lambda: sockets() > before)
        await cancelled(task)
        await until(lambda: sockets() == before)


async def test_cancelling_in_the_tls_handshake(client, serve):
    async def script(server, peer):
        await peer.reader.read(1)
        server.events.put_nowait("hello")
        await peer.gone()
        server.events.put_nowait("gone")

    server = await serve(script)
    task = asyncio.create_task(ask(client, Endpoint(server.url.replace("http:", "https:"))))
    assert await server.happened() == "hello"
    await cancelled(task)
    assert await server.happened() == "gone"


async def test_cancelling_while_the_answer_is_awaited(client, serve):
    server = await serve(stalling)
    task = asyncio.create_task(ask(client, Endpoint(server.url)))
    assert await server.happened()
    await cancelled(task)
    assert await server.happened() == "gone"
    assert idle_of(client) == []


async def test_cancelling_in_the_body(client, serve):
    async def script(server, peer):
        await peer.request()
        await peer.say(CHUNKED + b"2\r\nhi\r\n")
        await peer.gone()
        server.events.put_nowait("gone")

    server = await serve(script)
    arrived = asyncio.Event()

    async def listen():
        async with client.exchange(Endpoint(server.url), POST) as response:
            await response.chunk()
            arrived.set()
            await response.chunk()

    task = asyncio.create_task(listen())
    await soon(arrived.wait())
    await cancelled(task)
    assert await server.happened() == "gone"


# TLS settings


@pytest.mark.usefixtures("no_complaints")
async def test_the_roots_are_read_once_and_not_in_the_loop():
    threads = []

    def make():
        threads.append(threading.current_thread())
        return ssl.create_default_context()

    tls = Tls(make)
    first, second = await asyncio.gather(tls.context(), tls.context())
    assert first is second is await tls.context()
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


@pytest.mark.usefixtures("no_complaints")
async def test_who_leaves_while_the_roots_are_read_does_not_take_them_from_the_others():
    tls = Tls(ssl.create_default_context)
    leaver, stayer = asyncio.create_task(tls.context()), asyncio.create_task(tls.context())
    await asyncio.sleep(0)
    leaver.cancel()
    assert isinstance(await stayer, ssl.SSLContext)


@pytest.mark.usefixtures("no_complaints")
async def test_roots_that_can_not_be_read_fail_the_connection_and_are_tried_again():
    outcomes = [FileNotFoundError(2, "No such file or directory"), FileNotFoundError(2, "still not")]

    def make():
        raise outcomes.pop(0)

    client = HttpClient(tls=Tls(make))
    for says in ("No such file", "still not"):
        with pytest.raises(ConnectFailed, match=says):
            await ask(client, Endpoint("https://127.0.0.1:1"))
    await client.aclose()


def test_certificates_are_always_checked_and_old_tls_never_spoken():
    context = tls_module.trusting_the_system()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("roots", [True, False])
def test_certifi_helps_out_where_the_system_has_no_roots(monkeypatch, tmp_path, roots):
    (tmp_path / "certs").mkdir()
    if roots:
        (tmp_path / "certs" / "5ad8a5d6.0").write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certs"))
    assert (tls_module.trusting_the_system().cert_store_stats()["x509_ca"] > 0) is not roots


def test_httpx_is_not_imported_by_looking_at_it():
    code = "import sys, actors.providers.http as h; h.HttpxTransport(); sys.exit('httpx' in sys.modules or 'httpcore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
