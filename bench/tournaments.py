"""What a tournament of three costs beside single calls, measured from outside: so many in a closed loop, each on a connection of its own."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from machine import LOAD_CORE, cpu_s, on_core
from msgspec import Struct
from processes import BenchError, Client, Daemon

if TYPE_CHECKING:
    from collections.abc import Callable

MEMBERS = 3
TOGETHER = 16
QUESTION = "Is this so? " * 40
MAX_TOKENS = 1000


class Cost(Struct):
    """CPU of the daemon for each, and how long each took; `added_ms` is what a tournament took longer than its slowest member."""

    cpu_us: float
    p50_ms: float
    added_p50_ms: float | None = None
    added_p99_ms: float | None = None


def chat(client: Client, model: str) -> dict[str, Any]:
    """A single call."""
    said = [{"role": "user", "content": QUESTION}]
    answer: dict[str, Any] = client.call("chat", model=model, messages=said, max_tokens=MAX_TOKENS)
    return answer


def tournament(client: Client, model: str) -> dict[str, Any]:
    """A vote of three that are all heard, since no type compares what they say."""
    members = [model] * MEMBERS
    verdict: dict[str, Any] = client.call(
        "tournament", prompt=QUESTION, members=members, mode="vote", max_tokens=MAX_TOKENS
    )
    if [ballot["status"] for ballot in verdict["ballots"]] != ["ok"] * MEMBERS:
        raise BenchError(f"not every member was heard: {verdict}")
    return verdict


def measure(daemon: Daemon, ask: Callable[[Client], dict[str, Any]], at_once: int, each: int) -> Cost:
    """`each` on each of `at_once` connections."""
    with on_core(LOAD_CORE), ThreadPoolExecutor(at_once) as threads:
        before = cpu_s(daemon.pid)
        runs = [threads.submit(_in_turn, daemon, ask, each) for _ in range(at_once)]
        answered = [one for run in runs for one in run.result()]
        cpu_us = (cpu_s(daemon.pid) - before) / len(answered) * 1e6
    daemon.acknowledged_nano_usd += sum(answer["cost_nano_usd"] for _, answer in answered)
    took = sorted(ms for ms, _ in answered)
    added = sorted(ms - _slowest_ms(answer) for ms, answer in answered if "ballots" in answer)
    if not added:
        return Cost(cpu_us, statistics.median(took))
    return Cost(cpu_us, statistics.median(took), statistics.median(added), added[int(len(added) * 0.99)])


def _in_turn(daemon: Daemon, ask: Callable[[Client], dict[str, Any]], times: int) -> list[tuple[float, dict[str, Any]]]:
    client = Client(daemon.socket)
    answered = []
    for _ in range(times):
        begin = time.perf_counter()
        answer = ask(client)
        answered.append(((time.perf_counter() - begin) * 1000, answer))
    client.close()
    return answered


def _slowest_ms(verdict: dict[str, Any]) -> float:
    return max(float(ballot["latency_ms"]) for ballot in verdict["ballots"])
