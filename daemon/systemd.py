"""What systemd hands over and wants to hear: sockets, credentials, folders, readiness, the watchdog.

By hand, after sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): the packages that do this are heavier than
this file. Without systemd every function answers "nothing", so that callers need no second way.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_PR_SET_DUMPABLE = 4  # linux/prctl.h


def listen_fds() -> list[tuple[str, socket.socket]]:
    """The sockets that systemd opened for this process, each with its FileDescriptorName.

    Their variables leave the environment: neither a second call nor a child takes the sockets again.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{part}", "") for part in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)  # noqa: FBT003 - positional-only
    named = dict(zip(fds, names.split(":") if names else (), strict=False))
    return [(named.get(fd, "unknown"), socket.socket(fileno=fd)) for fd in fds]


def notify(state: str) -> bool:
    """Tell systemd, e.g. `READY=1`, `STOPPING=1`, `WATCHDOG=1`, `STATUS=…`; several are joined by newlines.

    False when nobody asked to be told, or cannot be reached: the daemon serves on either way.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.sendto(state.encode(), address)
        except OSError:
            return False
    return True


def watchdog_interval_s() -> float | None:
    """Seconds between two `WATCHDOG=1`: half of WatchdogSec, as sd_watchdog_enabled(3) advises; None when off."""
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not allowed_us.isdecimal():
        return None
    return int(allowed_us) / 2_000_000 or None


def credentials_directory() -> Path | None:
    """Where the files of LoadCredential= are."""
    return _directory("CREDENTIALS_DIRECTORY")


def state_directory() -> Path | None:
    """The folder of StateDirectory=, the first when there are several."""
    return _directory("STATE_DIRECTORY")


def under_journal() -> bool:
    """Whether stderr is the journal's stream, and not merely inherited from someone whose stderr was."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


def undumpable() -> None:
    """Keep keys out of core files, and out of reach of other processes of the same account (ptrace, /proc/PID/mem).

    ctypes is imported here because most importers of this module never call this, and it takes 2 ms.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE, 0) failed")


def _directory(variable: str) -> Path | None:
    first = os.environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None
