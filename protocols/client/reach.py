"""Where the daemon is, and how to get there: the path of its socket, one knock, and the pauses between knocks."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEM_SOCKET = "/run/quorumd/rpc.sock"
HANDSHAKE_S = 30.0
"""Seconds for the daemon's welcome: under socket activation the socket is there before the daemon is."""

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.2


class NotReachable(ConnectionError):
    """Nobody answers at the socket. `starting` tells whether a daemon may just be about to; `errno` is the system's."""

    def __init__(self, path: str, why: str, *, starting: bool = False, errno: int | None = None) -> None:
        super().__init__(f"no daemon answers at {path}: {why}")
        self.errno = errno
        self.path = path
        self.starting = starting


class ConnectionLost(ConnectionError):
    """The connection ended before the answer. The call may have run: `usage` tells."""


def socket_path(explicit: str | os.PathLike[str] | None = None) -> str:
    """The daemon's socket: the explicit one, `$QUORUMD_SOCKET`, the user's own daemon if it is there, the system's."""
    if explicit:
        return os.fspath(explicit)
    if named := os.environ.get("QUORUMD_SOCKET"):
        return named
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        own = Path(runtime, "quorumd", "rpc.sock")
        if own.exists():
            return str(own)
    return SYSTEM_SOCKET


def knock(explicit: str | os.PathLike[str] | None) -> socket.socket:
    """A connected, non-blocking socket; the path is looked up anew each time. Raises NotReachable.

    A Unix socket connects at once or not at all: EAGAIN means that the daemon's backlog is full.
    """
    path = socket_path(explicit)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)  # noqa: FBT003  its only argument
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
        sock.close()
        raise NotReachable(path, error.strerror or str(error), starting=True, errno=error.errno) from None
    except OSError as error:
        sock.close()
        raise NotReachable(path, error.strerror or str(error), errno=error.errno) from None
    return sock


def pauses(wait_s: float) -> Iterator[float]:
    """Seconds to sleep between knocks until `wait_s` is over."""
    end = time.monotonic() + wait_s
    pause = _FIRST_PAUSE_S
    while (left := end - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
