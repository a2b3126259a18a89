"""Tournaments as they come to the record: what was asked, ballots, verdicts."""

import random
from typing import Any

from actors.clock import parse_rfc3339
from actors.rules.canonical import Canonical
from actors.rules.consensus import Count, Vote, agreement, found, needs_review, unscored
from actors.rules.verdict import asked_by, first, outcome, rule_of
from actors.rules.waves import Launch, Standing, Stop, step
from protocols.money import NanoUSD
from protocols.record import Opened, Seat, Terms
from protocols.tournament import Agreement, AnswerSpec, Ballot, Cluster, Missing, Verdict

BOOL = AnswerSpec(type="bool")
MODELS = ("openai:a", "anthropic:b", "google:c", "mistral:d", "ollama:e", "deepseek:f", "xai:g")


def terms(count: int = 3, bench: int = 0, **more: Any) -> Terms:
    """So many members, each of a family of its own."""
    seats = tuple(Seat(slot, MODELS[slot], MODELS[slot].split(":")[0]) for slot in range(count + bench))
    return Terms(**({"members": seats[:count], "bench": seats[count:], "asked": count} | more))


def opened(tournament_id: str = "t1", **more: Any) -> Opened:
    """A vote of ana's editor on a yes or no, at noon."""
    usual: dict[str, Any] = {
        "user": "ana",
        "app": "editor",
        "task_type": "facts",
        "mode": "vote",
        "prompt": "Is 2027 prime?",
        "spec": BOOL,
        "terms": terms(),
        "created_at": parse_rfc3339("2027-03-10T12:00:00Z"),
    }
    return Opened(tournament_id=tournament_id, **(usual | more))


def ballot(slot: int, answer: str | None, **more: Any) -> Ballot:
    """A ballot that says so, or without an answer a member that failed."""
    usual: dict[str, Any] = {
        "model": MODELS[slot],
        "family": MODELS[slot].split(":")[0],
        "status": "failed" if answer is None else "ok",
        "answer": answer,
        "text": "" if answer is None else f"I think so.\nANSWER: {answer}",
        "why": "provider_error" if answer is None else None,
        "cost_nano_usd": 100 + slot,
        "latency_ms": 10.5 * (slot + 1),
        "usage_id": f"u{slot}",
        "round": 1,
    }
    return Ballot(slot=slot, **(usual | more))


def verdict(tournament_id: str = "t1", ballots: tuple[Ballot, ...] = (), **more: Any) -> Verdict:
    """A verdict that says nothing of its ballots but what it is told to."""
    usual: dict[str, Any] = {
        "status": "majority",
        "answer": "yes",
        "answer_kind": "voted",
        "winner": MODELS[0],
        "agreement": Agreement("canonical", 2 / 3, 1 / 3, [Cluster("yes", [MODELS[0], MODELS[1]], 2 / 3)]),
        "flags": ["degraded"],
        "missing": [Missing(MODELS[2], "provider_error", "it broke")],
        "cost_nano_usd": NanoUSD(sum(b.cost_nano_usd or 0 for b in ballots)),
        "bound_nano_usd": NanoUSD(9000),
        "saved_nano_usd": NanoUSD(0),
    }
    return Verdict(tournament_id=tournament_id, ballots=list(ballots), **(usual | more))


def played(rng: random.Random) -> tuple[Opened, tuple[Ballot, ...], Verdict]:
    """A tournament as it may have gone: who answers what and when is drawn, whom to ask the waves say. At times a deadline cuts it."""
    count, shrunk = rng.randint(2, 5), rng.random() < 0.15
    held = terms(
        count, rng.randint(0, 2), threshold=rng.choice(["2/3", "0.75", "1"]), latency=rng.choice(["frugal", "fast"]),
        min_live=rng.choice([2, 2, 3]), veto=rng.choice([None, None, "no"]), critical=rng.random() < 0.3,
        asked=count + shrunk, shrunk=shrunk,
    )  # fmt: skip
    mode: Any = rng.choice(["vote", "vote", "cascade", "race"])
    deadline = rng.choice([1e9, 1e9, 60.0])
    asked, standing, now = asked_by(held, mode, rule_of(held, BOOL)), Standing(), 0.0
    due: dict[int, float] = {}
    ballots: dict[int, Ballot] = {}
    early = cut = False
    while True:
        what = step(asked, standing)
        if isinstance(what, Launch):
            due |= {slot: now + rng.randint(1, 90) for slot in what.slots}
            standing = Standing(
                votes=standing.votes, running=standing.running | set(what.slots), failed=standing.failed
            )
            ballots |= {slot: ballot(slot, None, latency_ms=due[slot] - now) for slot in what.slots}
            continue
        if isinstance(what, Stop):
            early = what.early
            break
        slot = min(standing.running, key=lambda each: (due[each], each))
        if due[slot] > deadline:
            cut = True
            break
        now, running = due[slot], standing.running - {slot}
        answer = rng.choice(["yes", "yes", "yes", "no", None, ""])
        cast = ballot(slot, answer or None, latency_ms=ballots[slot].latency_ms, round=len(standing.launched))
        cast.arrived = 1 + max(each.arrived for each in ballots.values())
        if answer:
            vote = Vote(slot, Canonical(answer, answer), cast.family)
            standing = Standing(votes=(*standing.votes, vote), running=running, failed=standing.failed)
        else:
            cast.status = "failed" if answer is None else "unparsed"
            standing = Standing(votes=standing.votes, running=running, failed=standing.failed | {slot})
        ballots[slot] = cast
    for slot in standing.running:
        ballots[slot].status, ballots[slot].why = ("failed", "deadline") if cut else ("cancelled", None)
    kept = tuple(ballots[slot] for slot in sorted(ballots))
    return opened(terms=held, mode=mode), kept, _verdict(held, mode, standing, kept, early=early, cut=cut)


def _verdict(
    held: Terms, mode: Any, standing: Standing, kept: tuple[Ballot, ...], *, early: bool, cut: bool
) -> Verdict:
    running = len(standing.running)
    count = Count(
        votes=standing.votes, asked=held.asked, failed=len(standing.failed) + (running if cut else 0), shrunk=held.shrunk,
        cancelled=0 if cut else running, early=early, deadline=cut,
    )  # fmt: skip
    finding = unscored(count) if mode == "race" else found(count, rule_of(held, BOOL))
    told = first(standing.votes) if mode == "race" else outcome(finding)
    return verdict(
        ballots=kept,
        mode=mode,
        status=finding.status,
        answer=told.answer,
        answer_kind=told.kind,
        winner=None if told.slot is None else MODELS[told.slot],
        agreement=agreement(finding, dict(enumerate(MODELS)), "none" if mode == "race" else "canonical"),
        flags=list(finding.flags),
        needs_review=needs_review(finding.status, critical=held.critical),
    )
