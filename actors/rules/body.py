"""What makes two requests the same: a hash of the chat. Pure."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec.structs import replace

from protocols.chat import Chat


def chat_body_hash(chat: Chat) -> bytes:
    """32 bytes over all that is asked, but not how it is delivered (`stream`) nor what confirms it (`override_token`)."""
    return hashlib.sha256(msgspec.msgpack.encode(replace(chat, stream=False, override_token=None))).digest()
