"""Calls of every method, and what can be made of them that is wrong. Seeded: the same frames each time."""

import math
import random
from collections.abc import Iterator
from typing import Any

import msgspec

PARAMS: dict[str, list[dict[str, Any]]] = {
    "ping": [{}],
    "status": [{}],
    "chat": [
        {"messages": [{"role": "user", "content": "hello"}], "model": "sim:sim", "max_tokens": 9, "temperature": 0.5},
        {
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
                },
                {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "content": "12", "tool_call_id": "a"},
            ],
            "stream": True,
            "stop": ["end"],
            "seed": 7,
            "top_p": 0.9,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
            "reasoning_effort": "low",
            "user": "ana",
            "conversation": "c1",
            "task_type": "t",
            "allow_fallback": False,
            "admission": "queue",
            "override_token": "t",
        },
    ],
    "explain": [{"messages": [{"role": "user", "content": "hello"}], "provider": "sim"}],
    "estimate": [
        {"messages": [{"role": "user", "content": "hello"}], "model": "sim:sim", "task_type": "tag", "max_tokens": 9},
        {
            "quality_tier": "balanced",
            "usage": {"tag": 100, "dialogue": 0},
            "prefer_local": True,
            "budget_tier_allows_paid": True,
        },
    ],
    "models": [{"provider": "sim", "local": True}],
    "recommend": [{"task_type": "summarise"}],
    "providers": [{}],
    "sessions": [{}],
    "sessions.open": [{"user": "ana"}],
    "sessions.close": [{"user": "ana"}],
    "users": [{"first": 5, "after": "ana"}],
    "user_models.set_default": [
        {"model": "sim:sim"},
        {
            "provider": "sim",
            "model": "sim",
            "parameters": {
                "defaults": {"temperature": 0.5, "top_p": 0.9, "stop": ["end"], "seed": 7},
                "overrides": {"max_tokens": 100, "reasoning_effort": "low"},
            },
            "metadata": {"why": "fast", "tags": ["a"], "stars": 5},
            "user": "ana",
        },
    ],
    "user_models.add": [
        {"provider": "sim", "model": "sim", "parameters": {"defaults": {}}, "metadata": {}, "user": "ana"}
    ],
    "user_models.remove": [{"provider": "sim", "user": "ana"}],
    "user_models.get_default": [{"user": "ana"}],
    "user_models.list": [{"user": "ana"}],
    "user_models.resolved": [{"provider": "sim", "model": "sim", "conversation": "c1", "user": "ana"}],
    "conversations.set_default": [
        {"conversation": "c1", "model": "sim:sim", "user": "ana"},
        {"conversation": "c1", "model": None},
    ],
    "spend": [{"by": "day", "since": "2026-01-31", "until": "2027-01-31T12:00:00Z", "user": "ana"}],
    "usage": [
        {"last": 5, "before": "0", "since": "2026-01-31", "user": "ana", "app": "a", "model": "sim:sim", "task": "t"},
        {"day": "2026-01-31", "conversation": "c1"},
    ],
    "usage_stats": [{"user": "ana"}],
    "performance": [
        {"model": "sim:sim", "task": "t", "since": "2026-01-31", "until": "2027-01-31T12:00:00Z", "user": "ana"},
        {"ab": True, "since": "2026-01-31"},
    ],
    "feedback": [{"call_id": "0cr69h0q7yp00", "rating": -0.5, "comment": "too long"}],
    "alerts": [{"last": 5, "user": "ana"}],
    "audit": [{"last": 5, "before": 9, "user": "ana", "action": "settings.set"}],
    "overrides.grant": [{"amount_usd": 1.5, "until": "2027-01-31T12:00:00Z", "why": "the release", "user": "ana"}],
    "overrides.list": [{"user": "ana"}],
    "overrides.revoke": [{"override_id": "o1"}],
    "events": [{"types": ["alert", "attempt"]}],
    "holds": [{}],
    "holds.resolve": [{"hold_id": "0cr69h0q7yp00", "cost_usd": 0.25, "why": "the bill"}],
    "ledger.verify": [{}],
    "tournaments": [{"last": 5, "before": "t1", "needs_review": True, "state": "done", "task": "t", "user": "ana"}],
    "tournament.show": [{"tournament_id": "t1", "user": "ana"}],
    "tournament.replay": [
        {
            "tournament_id": "t1",
            "threshold": "3/4",
            "mode": "cascade",
            "answer": {"type": "number", "tolerance": 0.5, "unit": "km", "locale": "de"},
            "min_live": 2,
            "veto": "0",
            "user": "ana",
        },
        {"tournament_id": "t1", "answer": "bool"},
    ],
    "reviews": [{"last": 5, "before": "t1", "user": "ana"}],
    "reviews.resolve": [{"tournament_id": "t1", "answer": "yes", "why": "the almanac", "user": "ana"}],
    "settings.show": [{"user": "ana"}],
    "settings.get": [{"key": "month_usd", "user": "ana"}],
    "settings.set": [
        {"key": "month_usd", "value": 12.5, "user": "ana"},
        {"key": "session.max", "value": 100},
        {"key": "default_max_tokens", "value": 64, "user": "*"},
    ],
    "settings.unset": [{"key": "month_usd", "user": "ana"}],
}
"""Right params of each method, with every field in one of them."""

NASTY: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, 1e308, -0.0, math.inf, -math.inf, math.nan,
    "", "\0", "*", "@", "@ana/bob", "@a/b/c", "a/b", "daemon", "{}", "[]", "\u202e\u0085\x1b[2J", "9999-12-31", "0001-01-01T00:00:00+23:59",
    "x" * 5000, b"\xff\xfe", [], {}, [[]], {"": {}}, [None] * 50, {1: 2},
)  # fmt: skip
"""What is put where something else belongs."""


def valid_calls() -> list[dict[str, Any]]:
    """Messages that are right: hello, cancel, and each of the calls that end by themselves."""
    calls = [
        {"t": "call", "id": 1, "method": m, "params": p, "deadline_s": 5.0}
        for m, each in PARAMS.items()
        if m != "events"
        for p in each
    ]
    return [{"t": "hello", "protocol": 1, "app": "fuzz"}, {"t": "cancel", "id": 1}, *calls]


def frame(payload: bytes) -> bytes:
    """With its length in front."""
    return len(payload).to_bytes(4, "big") + payload


def pack(message: Any) -> bytes:
    """As msgpack."""
    return msgspec.msgpack.encode(message)


def frames(seed: int, count: int) -> Iterator[bytes]:
    """`count` frames: wrong values in right calls, bytes changed in right frames, and garbage."""
    chance = random.Random(seed)
    messages = valid_calls()
    payloads = [pack(message) for message in messages]
    for _ in range(count):
        way = chance.random()
        if way < 0.35:
            yield frame(pack(_changed(chance, chance.choice(messages))))
        elif way < 0.75:
            yield frame(_mutated(chance, chance.choice(payloads)))
        elif way < 0.85:
            yield _mutated(chance, frame(chance.choice(payloads)))
        elif way < 0.95:
            yield frame(chance.randbytes(chance.randrange(40)))
        else:
            yield chance.randbytes(chance.randrange(1, 60))


def lines(seed: int, count: int) -> Iterator[bytes]:
    """The same for JSON; each begins with `{`, as the first line of a connection does."""
    chance = random.Random(seed)
    messages = valid_calls()
    texts = [msgspec.json.encode(message) for message in messages]
    for _ in range(count):
        if chance.random() < 0.5:
            changed = msgspec.json.encode(_changed(chance, chance.choice(messages)))
        else:
            changed = _mutated(chance, chance.choice(texts))
        yield b"{" + changed.removeprefix(b"{").replace(b"\n", b" ") + b"\n"


def _changed(chance: random.Random, message: Any) -> Any:
    """A copy in which one value is replaced, one is missing, or one is too many; the deeper ones too."""
    if isinstance(message, dict) and message:
        copy = dict(message)
        endless = copy.get("method") == "events"  # it ends by its deadline alone: who reads to the end waits for that
        key = chance.choice([key for key in copy if not (endless and key == "deadline_s")])
        if isinstance(copy[key], dict | list) and copy[key] and chance.random() < 0.8:
            copy[key] = _changed(chance, copy[key])
        elif chance.random() < 0.7:
            copy[key] = chance.choice(NASTY)
        elif chance.random() < 0.5:
            del copy[key]
        else:
            copy["unheard_of"] = chance.choice(NASTY)
        return copy
    if isinstance(message, list) and message:
        copied = list(message)
        place = chance.randrange(len(copied))
        copied[place] = _changed(chance, copied[place])
        return copied
    return chance.choice(NASTY)


def _mutated(chance: random.Random, data: bytes) -> bytes:
    """One to three bytes changed, a stretch lost, doubled or put in."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(out) + 1)
        match chance.randrange(5):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(out):
                out[at] = chance.choice(b'\x80\x90\xa0\xc0\xc1\xc7\xca\xcb\xcf\xd9\xdb\xdc\xdd\xde\xdf\xff\x00{}[]"\\')
            case 2:
                del out[at : at + chance.randint(1, 6)]
            case 3:
                out[at:at] = out[at : at + chance.randint(1, 20)]
            case _:
                out[at:at] = chance.randbytes(chance.randint(1, 4))
    return bytes(out)
