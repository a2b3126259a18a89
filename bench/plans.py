"""What it costs to decide which model answers, with 200 models of five providers: the daemon's own rule, and nothing else.

Run as a process of its own, which pins itself; prints one JSON object.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from actors.rules.candidates import World
from actors.rules.catalogue import Catalogue, ModelConfig
from actors.rules.orchestrator import Wishes
from actors.rules.pricing import Price
from actors.rules.routing import Asked, plan
from protocols.provider import ProviderView

if TYPE_CHECKING:
    from collections.abc import Mapping

PROVIDERS, EACH = 5, 40
KNOWN = ("gpt-4o", "gpt-4o-mini", "llama3.2", "mistral:7b", "qwen3:32b", "claude-opus-5-5")
"""Names of the matrix; the rest are known from the config, or to their provider alone."""

QUESTIONS: Mapping[str, Asked] = {
    "an explicit model": Asked("p1:gpt-4o", None, None, None),
    "an explicit model, fallback allowed": Asked("p1:gpt-4o", None, allow_fallback=True, default_model=None),
    "an explicit provider": Asked(None, "p3", None, None),
    "a hint": Asked(None, None, None, None, hint="en-claude"),
    "a conversation's model": Asked(None, None, None, None, conversation_model="p2:gpt-4o"),
    "the orchestrator": Asked(None, None, None, None, task="dialogue", wishes=Wishes("balanced")),
    "the orchestrator, budget tier": Asked(None, None, None, None, task="dialogue", wishes=Wishes("budget")),
    "a task's model": Asked(None, None, None, None, task="tag", task_model="p1:model-9"),
    "a user's default": Asked(None, None, None, None, user_default="p1:model-9"),
    "the daemon's default": Asked(None, None, None, "p1:model-9"),
    "nothing chosen": Asked(None, None, None, None, mode="balanced"),
}


class Flat:
    """A price book in which all models cost the same."""

    def find(self, origin_host: str, provider_name: str, kind: str, model: str) -> Price | None:
        """The price."""
        del origin_host, provider_name, kind, model
        return Price(input=1_000_000, output=4_000_000, version="bench")

    def context(self, origin_host: str, provider_name: str, kind: str, model: str) -> int | None:
        """The context window."""
        del origin_host, provider_name, kind, model
        return 128_000


def world() -> World:
    """200 models, half of them rated by the config."""
    views = tuple(_view(number) for number in range(PROVIDERS))
    entries = {
        f"{view.name}:model-{number}": ModelConfig(quality=6 + number / 20, strengths=("narrative",))
        for view in views
        for number in range(len(KNOWN), len(KNOWN) + EACH // 2)
    }
    return World(views, entries, {"claude": "p3"}, {}, Catalogue(entries, Flat()).infos)


def _view(number: int) -> ProviderView:
    local = number == 0
    return ProviderView(
        name=f"p{number}",
        kind="ollama" if local else "openai",
        host="bench",
        state="healthy",
        why=None,
        local=local,
        simulated=False,
        billing_on_cancel="emitted",
        needs_key=not local,
        models=(*KNOWN, *(f"model-{n}" for n in range(len(KNOWN), EACH))),
    )


def cost_us(asked: Asked, there: World, times: int) -> float:
    """Microseconds of a plan, the best of five runs: what disturbs one only ever adds."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            plan(asked, there)
        best = min(best, (time.process_time() - began) / times * 1e6)
    return best


def main() -> None:
    """Prints what each question costs, and in the end the first of a changed world."""
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    there = world()
    took = {name: cost_us(asked, there, 2000) for name, asked in QUESTIONS.items()}
    firsts = []
    for _ in range(5):
        fresh = world()
        began = time.process_time()
        plan(QUESTIONS["the orchestrator"], fresh)
        firsts.append((time.process_time() - began) * 1e6)
    took["the orchestrator, the first after a provider changed"] = min(firsts)
    sys.stdout.write(msgspec.json.encode(took).decode() + "\n")


if __name__ == "__main__":
    main()
