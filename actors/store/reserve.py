"""Disk space kept back for settlements: a file that is full of nothing, and shrinks when the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import structlog

SIZE = 4 << 20
"""Bytes kept back. A settlement alone writes about 50 kB to the WAL, a group of fifty not much more."""

SLICE = 256 << 10
"""Bytes given back at a time: what others write to the disk meanwhile takes no more than this from the settlements."""

SPARE = 1 << 20
"""Bytes that must be free beside the reserve before the disk counts as having room again."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

log = structlog.get_logger("store")


class Reserve:
    """The space kept back in one state folder. Blocking: the store's writer thread uses it.

    State: the open file, and the bytes it keeps.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._kept = os.fstat(self._file).st_size

    def __repr__(self) -> str:
        return f"<Reserve {self._kept >> 10} of {SIZE >> 10} kB>"

    def take(self) -> bool:
        """Makes the reserve whole; whether it is and the disk has room beside it."""
        disk = os.fstatvfs(self._file)
        if disk.f_bavail * disk.f_frsize < SIZE - self._kept + SPARE:
            return False
        try:
            os.posix_fallocate(self._file, 0, SIZE)
        except OSError as error:
            os.ftruncate(self._file, self._kept)
            if error.errno in _NO_ROOM:
                return False
            log.warning("no_reserve", error=str(error), hint="settlements wait for space when the disk is full")
            return True  # this file system keeps nothing back; without, all goes on but settling on a full disk
        self._kept = SIZE
        return True

    def give(self) -> bool:
        """Lets a slice go; False when there is none left."""
        if not self._kept:
            return False
        self._kept = max(self._kept - SLICE, 0)
        os.ftruncate(self._file, self._kept)
        os.fsync(self._file)  # a journalling file system frees the blocks with its own next commit
        return True

    def close(self) -> None:
        """Closes the file; what it keeps stays kept."""
        os.close(self._file)
