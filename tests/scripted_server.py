"""A server that says what a test wrote down, byte by byte, on real sockets."""

import asyncio
import socket
import struct
from contextlib import asynccontextmanager

PATIENCE_S = 10


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE_S)


class Peer:
    """One connection, from the server's side."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def request(self):
        """Head and body of the next request, or None when the client has gone."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            return head + await self.reader.readexactly(int(length.partition(b":")[2]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def say(self, data):
        self.writer.write(data)
        await self.writer.drain()

    def reset(self):
        """Closes without a goodbye."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self):
        """Returns when the client has hung up."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


class Server:
    """State: what arrived, and how many connections did."""

    def __init__(self, script):
        self.script = script
        self.connections = 0
        self.requests = []
        self.events = asyncio.Queue()
        self.tasks = set()
        self.url = ""

    async def happened(self):
        """The next thing that a script put into `events`."""
        return await soon(self.events.get())

    async def connected(self, reader, writer):
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            await self.script(self, Peer(reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script, *, tls=None, host="127.0.0.1"):
    server = Server(script)
    listener = await asyncio.start_server(server.connected, host, 0, ssl=tls, limit=1 << 20)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        yield server
    finally:
        listener.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        await asyncio.sleep(0)


def answering(raw, *, close=False):
    """Every request gets these bytes; then the connection stays, or closes."""

    async def script(server, peer):
        while (request := await peer.request()) is not None:
            server.requests.append(request)
            await peer.say(raw)
            if close:
                return

    return script
