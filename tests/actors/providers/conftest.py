"""Transports, and the servers that they talk to."""

import asyncio
import gc
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from scripted_server import serving

from actors.providers.http import HttpClient, HttpxTransport
from actors.providers.tls import Tls, hardened

DATA = Path(__file__).parents[2] / "data" / "tls"
"""A CA and a certificate of it for localhost, 127.0.0.1 and ::1; valid for a century, trusted by nobody."""


@pytest.fixture
async def serve(no_complaints):  # noqa: ARG001  # ends after
    """Starts a server with a script."""
    async with AsyncExitStack() as stack:

        async def start(script, **how):
            return await stack.enter_async_context(serving(script, **how))

        yield start


@pytest.fixture(scope="session")
def server_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "server.pem")
    return context


@pytest.fixture
def tls():
    """Trusts the test CA alone."""
    return Tls(lambda: hardened(ssl.create_default_context(cafile=str(DATA / "ca.pem"))))


@pytest.fixture
async def no_complaints():
    """The loop hears of no lost exception, and no task is left."""
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert complaints == []
    left = {task for task in asyncio.all_tasks() - before if "TestRunner" not in task.get_coro().__qualname__}
    assert left == set()


@pytest.fixture
async def client(tls, no_complaints):  # noqa: ARG001  # ends after
    client = HttpClient(tls=tls)
    yield client
    await client.aclose()


@pytest.fixture(params=[HttpClient, HttpxTransport])
async def transport(request, tls, no_complaints):  # noqa: ARG001  # ends after
    """Each of both."""
    transport = request.param(tls=tls)
    yield transport
    await transport.aclose()
