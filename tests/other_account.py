"""Connections of another account, as the kernel tells it. Only root can be somebody else."""

import grp
import os
import socket
from contextlib import contextmanager
from typing import Any

import pytest
import running_daemon
from running_daemon import PATIENCE_S, JsonLines

NOBODY, DAEMON = 65534, 1
"""Accounts that every Debian has; the second one's name is `daemon`."""
USERS, RUNNERS, STRANGERS = (grp.getgrgid(gid).gr_name for gid in (60, 8, NOBODY))

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@contextmanager
def somebody(daemon: running_daemon.Daemon, uid: int = NOBODY, gid: int = 60):
    """JSON lines of another account: the kernel notes who connects, and not who writes later."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE_S)
        os.setegid(gid)
        os.seteuid(uid)
        try:
            raw.connect(str(daemon.socket))
        finally:
            os.seteuid(0)
            os.setegid(0)
        yield JsonLines(raw)


def ask(lines: JsonLines, method: str, **params: Any) -> Any:
    """The result, or the fault as its exception's code and message."""
    lines.send({"t": "call", "id": 1, "method": method, "params": params})
    end = lines.until_end_of(1)[-1]
    return end["value"] if end["t"] == "done" else (end["code"], end["message"])
