"""How an answer is taken out of a reply, however long or hostile it is."""

from __future__ import annotations

import asyncio

import structlog

from actors.rules.canonical import Canonical
from actors.rules.contract import extract
from protocols.tournament import AnswerSpec

SLOW_TO_READ = 4096
"""Characters of a reply whose answer is sought beside the loop: code and JSON that long may take many milliseconds."""

UNPARSED = "no answer of the declared type stands in its reply's last line"

log = structlog.get_logger("tournament")


async def sought(text: str, spec: AnswerSpec) -> Canonical | None:
    """The answer of a reply, whatever it is: one that no reader can take is no vote, and costs nobody else's."""
    try:
        if len(text) < SLOW_TO_READ:
            return extract(text, spec)
        return await asyncio.to_thread(extract, text, spec)
    except (RecursionError, MemoryError, ValueError):
        log.warning("reply_unreadable", characters=len(text), type=spec.type)
        return None
