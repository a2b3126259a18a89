"""The dialects, as a written list: adding one is a module and a line here."""

from __future__ import annotations

from protocols.dialects.anthropic import ANTHROPIC
from protocols.dialects.dialect import Dialect, HttpRequest, MalformedAnswer, StreamDecoder, StreamFailed
from protocols.dialects.ollama import OLLAMA
from protocols.dialects.openai import OPENAI

DIALECTS: dict[str, Dialect] = {"openai": OPENAI, "anthropic": ANTHROPIC, "ollama": OLLAMA}

__all__ = ["DIALECTS", "Dialect", "HttpRequest", "MalformedAnswer", "StreamDecoder", "StreamFailed"]
