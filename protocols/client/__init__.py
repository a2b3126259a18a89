"""The client: `connect` for anyio (asyncio, trio), `connect_blocking` for scripts. An app needs nothing above this folder.

Faults of the daemon are the exceptions of `protocols.errors`. No daemon there is `NotReachable`, one that went away is
`ConnectionLost`; both are ConnectionErrors, since then nobody has said anything about the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.client.blocking import BlockingClient, BlockingConnection, BlockingStream
from protocols.client.reach import ConnectionLost, NotReachable, socket_path

if TYPE_CHECKING:
    from os import PathLike

    from protocols.client.asynchronous import Connection

__all__ = [
    "BlockingClient",
    "BlockingStream",
    "ConnectionLost",
    "NotReachable",
    "connect",
    "connect_blocking",
    "socket_path",
]

WAIT_S = 5.0
"""Seconds that a client waits for a daemon that starts."""


def connect(*, app: str = "unknown", path: str | PathLike[str] | None = None, wait_s: float = WAIT_S) -> Connection:
    """Opens a connection for `async with`; calls on it may run side by side.

    `path` is the socket (else as `socket_path` finds it). Raises NotReachable once `wait_s` is over, ProtocolViolation
    for a daemon of another protocol, or the fault that the daemon refuses the connection with.
    """
    from protocols.client.asynchronous import Connection  # blocking scripts never pay for anyio

    return Connection(app, path, wait_s)


def connect_blocking(
    *, app: str = "unknown", path: str | PathLike[str] | None = None, wait_s: float = WAIT_S
) -> BlockingConnection:
    """Opens the same for `with`, over a plain socket and for one thread at a time."""
    return BlockingConnection(app, path, wait_s)
