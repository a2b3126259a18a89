"""Which ballots a person says were right. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from actors.rules.canonical import canonical
from actors.rules.consensus import agrees
from actors.rules.verdict import tolerance_of
from protocols.errors import BadRequest
from protocols.tournament import AnswerSpec, AnswerType, Ballot

NONE = "none"
"""Said of a tournament without an answer type: no ballot was right."""


_WANTED: dict[AnswerType, Callable[[AnswerSpec], str]] = {
    "bool": lambda _: "say yes or no",
    "choice": lambda spec: f"it is one of {', '.join(f'`{one}`' for one in spec.choices)}",
    "number": lambda spec: f"say a number{f' in {spec.unit}' if spec.unit else ''}, written as in `{spec.locale}`",
    "date": lambda _: "say a date, such as 2027-01-31",
    "set": lambda _: "say its items with semicolons between them",
    "json": lambda _: "say a JSON value",
    "code": lambda spec: f"say {spec.language or 'code'} that can be read",
    "short_text": lambda _: "say it in a few words",
}
"""What to say instead, by type."""


class Review(Struct, frozen=True):
    """The answer as it is stored, and the slots whose ballots gave it."""

    answer: str
    slots: tuple[int, ...]


def review(said: str, spec: AnswerSpec | None, ballots: Sequence[Ballot]) -> Review:
    """Whose ballots gave the answer that was right. Raises BadRequest for one that this tournament can't have."""
    live = [ballot for ballot in ballots if ballot.status == "ok"]
    return _untyped(said.strip(), live) if spec is None else _typed(said, spec, live)


def _typed(said: str, spec: AnswerSpec, live: Sequence[Ballot]) -> Review:
    right = canonical(said, spec)
    if right is None:
        raise BadRequest(f"`{_short(said)}` is no answer of this tournament: {_WANTED[spec.type](spec)}")
    tolerance = tolerance_of(spec)
    given = {answer: canonical(answer, spec) for answer in {ballot.answer or "" for ballot in live} - {right.shown}}
    given[right.shown] = right
    read = [(ballot.slot, given[ballot.answer or ""]) for ballot in live]
    return Review(right.shown, tuple(slot for slot, answer in read if answer and agrees(answer, right, tolerance)))


def _untyped(said: str, live: Sequence[Ballot]) -> Review:
    """A ballot's text, a member or a cluster by name, or none. Anything else may be a slip that would count against all."""
    if said == NONE:
        return Review(NONE, ())
    named = [ballot for ballot in live if said == ballot.model or _folded(said) in _words(ballot)]
    clusters = {ballot.cluster for ballot in named} - {None} or {_number(said)} - {None}
    slots = {ballot.slot for ballot in named} | {ballot.slot for ballot in live if ballot.cluster in clusters}
    if not slots:
        raise BadRequest(f"`{_short(said)}` names no ballot: {_names(live)}")
    return Review(said, tuple(sorted(slots)))


def _number(said: str) -> int | None:
    return int(said) if said.isascii() and said.isdigit() and len(said) <= 2 else None  # noqa: PLR2004  there are 16 members


def _words(ballot: Ballot) -> set[str]:
    return {_folded(ballot.text), _folded(ballot.answer or "")} - {""}


def _folded(text: str) -> str:
    return " ".join(text.split())


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"  # noqa: PLR2004  enough to know it again


def _names(live: Sequence[Ballot]) -> str:
    models = ", ".join(dict.fromkeys(f"`{ballot.model}`" for ballot in live)) or "nobody answered"
    clusters = sorted({ballot.cluster for ballot in live if ballot.cluster is not None})
    numbers = f", a cluster ({', '.join(map(str, clusters))})" if clusters else ""
    return f"it declared no answer type, so name a member that was right ({models}){numbers}, or say `{NONE}`"
