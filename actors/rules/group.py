"""Whether the holds of a tournament fit together: each on top of those before it, all or none. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from actors.rules.admission import NOTHING, Admitted, Allowance, Bound, Refusal, decide
from protocols.budget import Account
from protocols.money import NanoUSD


class Part(Struct, frozen=True):
    """One hold of a group: where it counts, what bounds it there, how much it is, and whether its admission is soft."""

    accounts: tuple[Account, ...]
    bounds: tuple[Bound, ...]
    amount: NanoUSD
    soft: bool = False


class GroupRefusal(Struct, frozen=True):
    """Why a group does not fit, and what all of it comes to where it is refused."""

    refusal: Refusal
    amount: NanoUSD


def decide_group(
    parts: Sequence[Part],
    *,
    confirmed: bool = False,
    allowances: Mapping[str, Sequence[Allowance]] = NOTHING,
) -> list[Admitted] | GroupRefusal:
    """Whether a group may be held: how each of it is admitted, in order, or the refusal that waiting and asking change least."""
    before: Counter[Account] = Counter()
    admitted: list[Admitted] = []
    refused: list[Refusal] = []
    for part in parts:
        verdict = decide(
            part.bounds, part.amount, soft=part.soft, confirmed=confirmed, allowances=allowances, before=before
        )
        # Also after a refusal: one that comes behind it may say that no waiting will help.
        before.update(dict.fromkeys(part.accounts, part.amount))
        if isinstance(verdict, Refusal):
            refused.append(verdict)
            continue
        admitted.append(verdict)
        before.update({each.account: part.amount for each in verdict.allowances})
    return _refusal(min(refused, key=_hope), parts) if refused else admitted


def _hope(refused: Refusal) -> int:
    """How much can be done about it: nothing, nothing by its user now, a question to the user, waiting."""
    if refused.kind == "budget":
        return 2 if refused.may_override else 1
    return 0 if refused.kind == "hard" else 3


def _refusal(refused: Refusal, parts: Sequence[Part]) -> GroupRefusal:
    rooms = _rooms(parts)
    amount = sum(part.amount for part in parts if refused.account in part.accounts)
    return GroupRefusal(replace(refused, room=min(rooms.values()), rooms=rooms), NanoUSD(amount))


def _rooms(parts: Sequence[Part]) -> dict[str, NanoUSD]:
    """What fits in each scope with nothing held. A scope in which only what is free counts bounds nothing."""
    rooms: dict[str, NanoUSD] = {}
    for part in parts:
        for bound in part.bounds if part.amount else ():
            if bound.hard or bound.enforced:
                scope, room = bound.account.scope, NanoUSD(max(bound.limit - bound.balance.spent, 0))
                rooms[scope] = min(room, rooms.get(scope, room))
    return rooms
