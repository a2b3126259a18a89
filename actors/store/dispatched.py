"""Which attempts have left the machine: marks in shared memory that outlive a killed process.

A mark is set before the first byte of a request goes out and needs no fsync: it must survive `kill -9`, not a power cut. After a
power cut (another boot id) every open hold counts as sent, which is the safe side.
"""

from __future__ import annotations

import mmap
import os
import secrets
from pathlib import Path
from typing import Self

from protocols.errors import Busy

_SLOT = 16
_HEADER = 64
_SLOTS = 16_384
_SIZE = _HEADER + _SLOT * _SLOTS
_EMPTY = bytes(_SLOT)


class Dispatched:
    """The marks of one state folder.

    State: the mapped file, the slots that are free, and the slot of each marked attempt. Slots that an earlier process marked
    are not free before `start_over`.
    """

    def __init__(self, memory: mmap.mmap, boot_id: str, free: list[int]) -> None:
        self._memory = memory
        self._boot_id = boot_id
        self._free = free
        self._slot_of: dict[str, int] = {}

    def start_over(self) -> None:
        """Forgets the marks of an earlier process and keeps our own. Not before its holds are closed: who is killed in between needs them again."""
        table = bytearray(self._boot_id.encode().ljust(_HEADER, b"\0")[:_HEADER] + bytes(_SIZE - _HEADER))
        ours = set(self._slot_of.values())
        for slot in ours:
            start = _HEADER + slot * _SLOT
            table[start : start + _SLOT] = self._memory[start : start + _SLOT]
        self._memory[:_SIZE] = bytes(table)
        self._free = [slot for slot in range(_SLOTS) if slot not in ours]

    def mark(self, usage_id: str) -> None:
        """The request is about to leave. Marking twice is one mark. Raises Busy when no mark is free."""
        if usage_id in self._slot_of:
            return
        if not self._free:
            raise Busy(f"{_SLOTS} requests are under way at once; try again in a second", retry_after_s=1.0)
        slot = self._free.pop()
        self._slot_of[usage_id] = slot
        start = _HEADER + slot * _SLOT
        self._memory[start : start + _SLOT] = usage_id.encode().ljust(_SLOT, b"\0")

    def clear(self, usage_id: str) -> None:
        """The attempt is settled; unmarked attempts are fine."""
        slot = self._slot_of.pop(usage_id, None)
        if slot is not None:
            start = _HEADER + slot * _SLOT
            self._memory[start : start + _SLOT] = _EMPTY
            self._free.append(slot)

    def __contains__(self, usage_id: str) -> bool:
        return usage_id in self._slot_of

    @property
    def room(self) -> int:
        """Attempts that can still be marked at once."""
        return len(self._free)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.close()


def open_dispatched(path: Path, boot_id: str) -> tuple[Dispatched, frozenset[str] | None]:
    """The marks, and the attempts that an earlier process had marked: None when nobody can know (the machine rebooted, or the
    file is not ours), so that every open hold counts as sent.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        before = _read(descriptor, boot_id)
        os.posix_fallocate(descriptor, 0, _SIZE)  # a full disk shows here, not as SIGBUS on a write into the map
        memory = mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
    free = range(_SLOTS) if before is None else _unmarked(memory)  # under a header that is not ours all counts as sent
    return Dispatched(memory, boot_id, list(free)), before


def boot_id() -> str:
    """The kernel's name for this boot; one that no other start has where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"unknown {secrets.token_hex(16)}"


def _unmarked(memory: mmap.mmap) -> list[int]:
    starts = range(_HEADER, _SIZE, _SLOT)
    return [slot for slot, start in enumerate(starts) if memory[start : start + _SLOT] == _EMPTY]


def _read(descriptor: int, boot: str) -> frozenset[str] | None:
    data = os.pread(descriptor, _SIZE, 0)
    if len(data) != _SIZE or data[:_HEADER].rstrip(b"\0").decode("ascii", "replace") != boot:
        return None
    slots = (data[start : start + _SLOT].rstrip(b"\0") for start in range(_HEADER, _SIZE, _SLOT))
    return frozenset(slot.decode("ascii", "replace") for slot in slots if slot)
