"""What calls would cost: the tokens that are assumed of them, their price, and sums that say what they lack. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from actors.rules.matrix import Task
from actors.rules.orchestrator import Choice
from actors.rules.pricing import FREE, Price, cost
from actors.rules.tokens import is_plain, prompt_estimate
from protocols.chat import Chat, TokenCount
from protocols.errors import BadRequest
from protocols.estimate import AnswerSource, Assumed, Estimated, Missing, PromptSource

MOST_NANO_USD = 2**63 - 1
"""What both wires and every client can carry."""


def assumed_prompt(chat: Chat, counted: int | None, at_most: int) -> tuple[int, PromptSource]:
    """About how many tokens the prompt has, as a settlement would estimate it; `counted` is a tokenizer's count."""
    if counted is not None:
        return counted, "tokenizer"
    return prompt_estimate(chat, at_most), "estimate" if is_plain(chat) else "upper_bound"


def assumed_answer(task: Task | None, longest: int) -> tuple[int, AnswerSource]:
    """About how many tokens the answer has: what is assumed of its task, and never more than the longest that is allowed."""
    expected = (task or Task()).response_tokens
    if longest < expected:
        return longest, "limit"
    return expected, "default" if task is None else "task"


def of_task(name: str, task: Task, calls: int, choice: Choice) -> Assumed | Missing:
    """Calls of a task at the model that was chosen for it, not yet priced; without one, what to do about that."""
    if not choice.models:
        return Missing(name, None, calls, choice.why)
    return Assumed(
        task=name,
        model=choice.models[0].id,
        calls=calls,
        prompt_tokens=task.prompt_tokens,
        prompt_source="task",
        response_tokens=task.response_tokens,
        response_source="task",
        why=choice.why,
        tier_exceeded=choice.tier_exceeded,
    )


def priced(row: Assumed, price: Price | None, at_s: float) -> Assumed:
    """With what one call costs at `at_s` (Unix seconds): a usage line, rounded up once."""
    if price is None:
        return row
    tokens = TokenCount(prompt=row.prompt_tokens, response=row.response_tokens)
    amount = cost(price, tokens, at_s)
    return replace(row, cost_nano_usd=amount, price_version=price.version, local=price == FREE)


def summed(rows: Sequence[Assumed], missing: Iterable[Missing] = ()) -> Estimated:
    """The sums, exact, and what they lack. Raises BadRequest for more money than a number can say."""
    by_task: dict[str, int] = {}
    by_model: dict[str, int] = {}
    for row in rows:
        if row.cost_nano_usd is None:
            continue
        amount = row.calls * row.cost_nano_usd
        by_model[row.model] = by_model.get(row.model, 0) + amount
        if row.task is not None:
            by_task[row.task] = by_task.get(row.task, 0) + amount
    total = sum(by_model.values()) if by_model else None
    if max([total or 0, *(row.cost_nano_usd or 0 for row in rows)]) > MOST_NANO_USD:
        raise BadRequest("so many calls cost more than can be told; estimate fewer of them")
    return Estimated(total, by_task, by_model, list(rows), [*missing, *_without_price(rows)])


def _without_price(rows: Iterable[Assumed]) -> list[Missing]:
    return [
        Missing(
            row.task, row.model, row.calls, f"no price is known for `{row.model}`; set one under [models] in the config"
        )
        for row in rows
        if row.cost_nano_usd is None
    ]
