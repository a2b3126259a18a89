"""Models and their names."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

PROVIDER_NAME = re.compile(r"[a-z0-9_-]+\Z")
RESERVED_PROVIDER = "client"

Strength = Literal[
    "narrative", "thematic_analysis", "character_psychology", "semantic_reasoning", "coordination", "coding", "speed"
]
Speed = Literal["very_fast", "fast", "medium", "slow"]
Tier = Literal["budget", "balanced", "premium"]


def split_model_id(model_id: str) -> tuple[str, str] | None:
    """`provider:model` at the first colon, or None if there is none on either side."""
    provider, colon, model = model_id.partition(":")
    return (provider, model) if colon and provider and model else None


class ModelInfo(Struct, kw_only=True):
    """A row of `models`; prices in dollars per million tokens, None where unknown.

    `rated_by` says whose opinion quality is: this project's (`quorumd`) or the administrator's (`config`). So it is with strengths
    and speed, unless the config names them.
    """

    id: str
    provider: str
    family: str | None = None
    local: bool = False
    quality: float | None = None
    strengths: list[str] = []
    speed: str | None = None
    context_tokens: int | None = None
    input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None
    needs_key: bool = False
    display_name: str
    available: bool = True
    why_not: str | None = None
    source: str
    rated_by: Literal["quorumd", "config"] | None = None
