"""`python -m actors.providers.simulated`: the simulated provider as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop

from actors.providers.simulated.behaviour import Knobs, from_json
from actors.providers.simulated.server import MODELS, SimulatedProvider

BACKLOG = 4096


def main() -> int:
    """Serves until told to stop."""
    arguments = _parser().parse_args()
    try:
        provider = SimulatedProvider(arguments.models.split(","), _knobs(arguments.behaviour), arguments.key)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201  a command's own output
        return 2
    listener = _listener(arguments.host, arguments.port, arguments.fd)
    if arguments.fd is None:
        print(msgspec.json.encode({"port": listener.getsockname()[1]}).decode(), flush=True)  # noqa: T201
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(_serve(provider, listener, arguments.parent_pid))
    finally:
        loop.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulated", description="A simulated provider of language models.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, said on stdout")
    parser.add_argument("--fd", type=int, help="an inherited listening socket, instead of host and port")
    parser.add_argument("--behaviour", default="", help="JSON, or a file of JSON")
    parser.add_argument("--key", help="require this key")
    parser.add_argument("--models", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument("--parent-pid", type=int, help="end when this process ends")
    return parser


def _knobs(said: str) -> Knobs:
    if not said:
        return {}
    return from_json(said if said.lstrip().startswith("{") else Path(said).read_bytes())


def _listener(host: str, port: int, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


async def _serve(provider: SimulatedProvider, listener: socket.socket, parent_pid: int | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    parent = _watch(parent_pid, loop, stop)
    server = await loop.create_server(provider.connect, sock=listener, backlog=BACKLOG)
    await stop.wait()
    server.close()
    provider.close()
    if parent is not None:
        loop.remove_reader(parent)
        os.close(parent)


def _watch(parent_pid: int | None, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> int | None:
    """Stops when the parent has ended, however it ended.

    By a pidfd: the signal that Linux offers (PDEATHSIG) already comes when the thread that started us ends, and a pipe
    stays open in every other child that inherited it.
    """
    if parent_pid is None:
        return None
    try:
        parent = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        stop.set()
        return None
    loop.add_reader(parent, stop.set)
    return parent


if __name__ == "__main__":
    sys.exit(main())
