"""Answers cut into pieces at every place, without a socket."""

import asyncio

import pytest

from actors.providers.connection import BUFFER_LIMIT, Connection
from actors.providers.http import BodyTruncated, ConnectionLost

pytestmark = pytest.mark.anyio

LENGTH = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nRetry-After: 1\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nRetry-After: 1\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nx-sum: 1\r\n\r\n"
)


class Recorder(asyncio.Transport):
    """Keeps what is written, and whether the socket was dropped."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.aborted = False
        self.reading = True

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def abort(self):
        self.aborted = True


def begun():
    connection = Connection()
    connection.connection_made(Recorder())
    return connection, connection.send(b"HEAD", b"BODY")


def test_head_and_body_are_written():
    connection, _ = begun()
    assert connection._transport.written == b"HEADBODY"


@pytest.mark.parametrize("raw", [LENGTH, CHUNKED], ids=["length", "chunked"])
async def test_an_answer_may_be_cut_anywhere(raw):
    for cut in range(len(raw) + 1):
        connection, answer = begun()
        for part in (raw[:cut], raw[cut:]):
            connection.data_received(part)
        assert (answer.status, answer.headers["retry-after"]) == (200, "1")
        assert await answer.read() == b"hello world"
        assert connection.release(answer, 0.0)


@pytest.mark.parametrize("raw", [LENGTH, CHUNKED], ids=["length", "chunked"])
async def test_an_answer_may_come_byte_by_byte_and_the_connection_be_used_again(raw):
    connection, answer = begun()
    for _ in range(3):
        for byte in raw:
            connection.data_received(bytes([byte]))
        assert await answer.read() == b"hello world"
        assert connection.release(answer, 0.0)
        answer = connection.send(b"", b"")


@pytest.mark.parametrize("raw", [LENGTH, CHUNKED], ids=["length", "chunked"])
async def test_an_answer_cut_off_anywhere_is_never_taken_for_whole(raw):
    for cut in range(len(raw)):
        connection, answer = begun()
        connection.data_received(raw[:cut])
        connection.eof_received()
        with pytest.raises(BodyTruncated if answer.status else ConnectionLost):
            await (answer.read() if answer.status else answer.head())
        assert not connection.release(answer, 0.0)


async def test_the_reader_wakes_for_what_it_waits_for():
    connection, answer = begun()
    reader = asyncio.create_task(answer.head())
    await asyncio.sleep(0)
    connection.data_received(LENGTH[:40])
    await asyncio.sleep(0)
    assert not reader.done()
    connection.data_received(LENGTH[40:])
    connection.connection_lost(None)
    await reader
    assert await answer.read() == b"hello world"


def test_a_connection_at_its_end_is_not_alive_even_before_the_socket_is_closed():
    connection, answer = begun()
    connection.data_received(LENGTH)
    connection.release(answer, 0.0)
    connection.eof_received()
    assert not connection.alive


def test_nothing_more_is_read_from_a_server_that_breaks_the_rules():
    connection, _ = begun()
    connection.data_received(b"SSH-2.0\r\n")
    assert connection._transport.aborted


async def test_reading_stops_above_the_limit_and_goes_on_when_the_reader_has_caught_up():
    connection, answer = begun()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + bytes(BUFFER_LIMIT))
    assert connection._transport.reading
    connection.data_received(b"x")
    assert not connection._transport.reading
    assert len(await answer.chunk()) == BUFFER_LIMIT + 1
    assert connection._transport.reading


def test_a_connection_released_while_reading_was_stopped_reads_again():
    connection, answer = begun()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + bytes(2_000_000))
    connection.data_received(bytes(1_000_000))  # TLS had it decrypted already
    assert connection.release(answer, 0.0)
    assert connection._transport.reading


def test_reprs_tell_the_state():
    connection, answer = begun()
    assert repr(connection) == "<Connection in use, 1 exchanges>"
    assert repr(answer) == "<Answer without head, open, 0 bytes unread>"
    connection.data_received(LENGTH)
    assert repr(answer) == "<Answer 200, ended, 11 bytes unread>"
    connection.release(answer, 0.0)
    assert repr(connection) == "<Connection idle, 1 exchanges>"
    connection.abort()
    assert repr(connection) == "<Connection closed, 1 exchanges>"
