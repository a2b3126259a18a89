"""Whether the ballots of a tournament agree: clusters, shares and exactly one status. Pure, and blind to the order of arrival.

Shares are exact: the leader's ballots out of the members launched. A member that failed, could not be parsed or was cancelled while it
ran was launched, and so lowers the share; one that was never launched does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import takewhile

from msgspec import Struct

from actors.rules.canonical import Canonical
from protocols.tournament import Agreement, Cluster, Flag, Method, Status

HALF = Fraction(1, 2)
TWO_THIRDS = Fraction(2, 3)
EXACT = Fraction(0)
FEWEST_LIVE = 2
"""Ballots below which nothing can be told, whatever `min_live` says: one survivor agrees with nobody."""


class Vote(Struct, frozen=True):
    """A ballot that counts. `slot` is the member's place in the tournament; of equal groups, the one with the best `quality` (0-10) is named first.

    An unknown family (None) is no evidence of a second one.
    """

    slot: int
    answer: Canonical
    family: str | None = None
    quality: float = 0.0


class Group(Struct, frozen=True):
    """Votes that agree, by slot. `answer` is one that a member gave: with a tolerance, the middle one of their numbers."""

    answer: Canonical
    votes: tuple[Vote, ...]

    @property
    def size(self) -> int:
        """How many agree."""
        return len(self.votes)

    @property
    def slots(self) -> tuple[int, ...]:
        """Who agrees."""
        return tuple(vote.slot for vote in self.votes)


class Rule(Struct, frozen=True, kw_only=True):
    """What is asked of an agreement: the share of a consensus, the fewest ballots, how far equal numbers may be apart.

    `veto` is an answer that one ballot is enough to block with.
    """

    threshold: Fraction = TWO_THIRDS
    min_live: int = FEWEST_LIVE
    tolerance: Fraction = EXACT
    veto: Canonical | None = None


class Count(Struct, frozen=True, kw_only=True):
    """The ballots of a tournament that is over. `asked`: members asked for at first, before any were left out (`shrunk`).

    `failed`: launched without an answer that counts (an error, nothing parsed, cut at the deadline). `cancelled`: launched, and not
    needed any more. `early`: it stopped while more could have been heard.
    """

    votes: tuple[Vote, ...]
    asked: int
    failed: int = 0
    cancelled: int = 0
    early: bool = False
    shrunk: bool = False
    deadline: bool = False

    @property
    def launched(self) -> int:
        """What shares are shares of."""
        return len(self.votes) + self.failed + self.cancelled


class Finding(Struct, frozen=True, kw_only=True):
    """What the ballots say. `winner` is None when nobody leads alone; in a dispute it is only the largest group. `groups`: largest first."""

    status: Status
    winner: Group | None
    groups: tuple[Group, ...]
    top_share: Fraction
    margin: Fraction
    flags: tuple[Flag, ...]
    launched: int


@lru_cache(64)
def threshold(text: str) -> Fraction:
    """The share of a consensus as it is written, `2/3` or `0.75`, exactly. Raises ValueError."""
    if not _SHARE.fullmatch(text):
        raise ValueError(f"`{text}` is no share: write a fraction such as `2/3`, or a decimal such as `0.75`")
    share = Fraction(text)
    if not HALF < share <= 1:
        raise ValueError(f"a consensus takes more than 1/2 and at most all (1) of the members: `{text}` is neither")
    return share


_SHARE = re.compile(r"[0-9]{1,9}(?:/0{0,8}[1-9][0-9]{0,8}|\.[0-9]{1,18})?")
"""Bounded, so that no exponent and no length makes a number that takes long."""


# ---- who agrees


def agrees(one: Canonical, other: Canonical, tolerance: Fraction = EXACT) -> bool:
    """Whether two answers are the same: equal keys, or numbers no further apart than the tolerance."""
    if tolerance and one.number is not None and other.number is not None:
        return abs(one.number - other.number) <= tolerance
    return one.key == other.key


def clusters(votes: Iterable[Vote], tolerance: Fraction = EXACT) -> tuple[Group, ...]:
    """The votes by what they say, largest group first; never by when they came.

    Being near is not transitive, so with a tolerance a group is what fits into a window that wide: all its members agree with each
    other. The fullest window is taken first, then the fullest of what is left. Equally full ones are told apart by more families, the
    best member, the narrower window, the lower number and at last the key. Groups of the same size are only listed in that order:
    neither leads.
    """
    numbers: list[Vote] = []
    keyed: dict[str, list[Vote]] = {}
    for vote in sorted(votes, key=lambda vote: vote.slot):
        if tolerance and vote.answer.number is not None:
            numbers.append(vote)
        else:
            keyed.setdefault(vote.answer.key, []).append(vote)
    groups = [Group(same[0].answer, tuple(same)) for same in keyed.values()]
    return tuple(sorted([*groups, *_windows(numbers, tolerance)], key=_rank))


def _windows(votes: Sequence[Vote], tolerance: Fraction) -> list[Group]:
    left, groups = sorted(votes, key=_number), []
    while left:
        fullest = min((_window(left[start:], tolerance) for start in range(len(left))), key=_rank)
        groups.append(fullest)
        left = [vote for vote in left if vote.slot not in fullest.slots]
    return groups


def _window(rising: Sequence[Vote], tolerance: Fraction) -> Group:
    """Those of the votes, by rising number, that are no further from the first than the tolerance."""
    end = _number(rising[0]) + tolerance
    near = list(takewhile(lambda vote: _number(vote) <= end, rising))
    return Group(near[(len(near) - 1) // 2].answer, tuple(sorted(near, key=lambda vote: vote.slot)))


def _number(vote: Vote) -> Fraction:
    return vote.answer.number or EXACT


def _rank(group: Group) -> tuple[object, ...]:
    numbers = [_number(vote) for vote in group.votes]
    best = max(vote.quality for vote in group.votes)
    spread = max(numbers) - min(numbers)
    return (-group.size, -len(families(group.votes)), -best, spread, min(numbers), group.answer.key)


def families(votes: Iterable[Vote]) -> frozenset[str]:
    """The families that are known of."""
    return frozenset(vote.family for vote in votes if vote.family is not None)


def rival(votes: Iterable[Vote], answer: Canonical, tolerance: Fraction = EXACT) -> int:
    """The most votes that agree with each other and not all with this answer's giver: the size of the group to fear."""
    below: list[Vote] = []
    above: list[Vote] = []
    for vote in votes:
        if not _same(vote.answer, answer, tolerance):
            (below if _is_below(vote.answer, answer) else above).append(vote)
    return max((group.size for side in (below, above) for group in clusters(side, tolerance)), default=0)


def _same(one: Canonical, other: Canonical, tolerance: Fraction) -> bool:
    """Whether no window can hold one without the other."""
    if tolerance and one.number is not None and other.number is not None:
        return one.number == other.number
    return one.key == other.key


def _is_below(one: Canonical, other: Canonical) -> bool:
    return one.number is not None and other.number is not None and one.number < other.number


# ---- what that makes


def found(count: Count, rule: Rule) -> Finding:
    """The finding of a vote that is over."""
    groups = clusters(count.votes, rule.tolerance)
    first, second = ([group.size for group in groups] + [0, 0])[:2]
    launched = max(count.launched, 1)
    winner = groups[0] if first > second else None
    vetoed = _vetoed(groups, winner, rule)
    return Finding(
        status=_status(count, rule, groups, winner, vetoed=vetoed),
        winner=winner,
        groups=groups,
        top_share=Fraction(first, launched),
        margin=Fraction(first - second, launched),
        flags=_flags(count, _of_one_family(count.votes, groups), vetoed=vetoed),
        launched=count.launched,
    )


def unscored(count: Count) -> Finding:
    """The finding where nobody compared the answers: no declared type and no judge, or only the first was wanted."""
    return Finding(
        status="unscored" if count.votes else "failed",
        winner=None,
        groups=(),
        top_share=EXACT,
        margin=EXACT,
        flags=_flags(count, same_family=False, vetoed=False),
        launched=count.launched,
    )


def _status(count: Count, rule: Rule, groups: Sequence[Group], winner: Group | None, *, vetoed: bool) -> Status:
    """Read top to bottom, first match wins."""
    if not count.votes:
        return "failed"
    if len(count.votes) < max(rule.min_live, FEWEST_LIVE):
        return "inconclusive"
    if vetoed:
        return "dispute"
    if winner is None or winner.size <= HALF * count.launched:
        return "dispute" if len(groups) > 1 else "inconclusive"  # one answer, too often missing, disputes nothing
    if winner.size < rule.threshold * count.launched or len(families(winner.votes)) < FEWEST_LIVE:
        return "majority"
    return "unanimous" if winner.size == count.launched == count.asked and not count.early else "consensus"


def _vetoed(groups: Sequence[Group], winner: Group | None, rule: Rule) -> bool:
    """Whether a ballot gives the veto's answer, and it is not what the leader says."""
    veto = rule.veto
    if veto is None or (winner is not None and agrees(winner.answer, veto, rule.tolerance)):
        return False
    return any(agrees(vote.answer, veto, rule.tolerance) for group in groups for vote in group.votes)


def _of_one_family(votes: Sequence[Vote], groups: Sequence[Group]) -> bool:
    """Whether those who agree, or all who answered, are not known to be of two families.

    Those who agree: else a dissent from elsewhere would make a consensus of what three sisters say.
    """
    alike = [group.votes for group in groups[:1] if group.size > 1]
    return len(votes) > 1 and any(len(families(these)) < FEWEST_LIVE for these in (*alike, votes))


def _flags(count: Count, same_family: bool, *, vetoed: bool) -> tuple[Flag, ...]:
    missing = count.launched < count.asked and not count.early and not count.shrunk
    raised: dict[Flag, bool] = {
        "degraded": count.failed > 0 or missing,
        "early_stopped": count.early,
        "shrunk": count.shrunk,
        "same_family": same_family,
        "vetoed": vetoed,
        "deadline": count.deadline,
    }
    return tuple(flag for flag, up in raised.items() if up)


def needs_review(status: Status, *, critical: bool) -> bool:
    """Whether a person should look: at every dispute and all that is inconclusive; at what nobody compared, if the task is critical."""
    return status in {"dispute", "inconclusive"} or (status == "unscored" and critical)


def agreement(finding: Finding, members: Mapping[int, str], method: Method = "canonical") -> Agreement:
    """The finding as it is told; `members` names them by slot."""
    launched = max(finding.launched, 1)
    told = [
        Cluster(group.answer.shown, [members[slot] for slot in group.slots], group.size / launched)
        for group in finding.groups
    ]
    return Agreement(method, float(finding.top_share), float(finding.margin), told)
