"""The decision table, read off design §4, and how each refusal is told."""

from itertools import product

import pytest

from actors.rules.candidates import Target
from actors.rules.overbudget import question, refusal, way_out
from protocols.budget import Offer, OverBudget
from protocols.money import NanoUSD

LOCAL = Target("ollama", "llama3.2")
CLAUDE = Target("anthropic", "claude")
BOTH = (False, True)


def over(percent_used: float = 101.7) -> OverBudget:
    return OverBudget("user:ana has spent all", detail={"percent_used": percent_used, "scope": "user:ana"})


@pytest.mark.parametrize(("forbidden", "may_override"), list(product(BOTH, BOTH)))
def test_who_agreed_to_the_local_model_gets_it_or_a_refusal_and_is_never_asked(forbidden, may_override):
    for local in (LOCAL, None):
        way = way_out(auto_fallback=True, forbidden=forbidden, local=local, may_override=may_override)
        assert way == ("local" if local is not None and not forbidden else "refuse")


@pytest.mark.parametrize(("forbidden", "local"), list(product(BOTH, (LOCAL, None))))
def test_who_did_not_is_asked_if_that_is_allowed_whatever_is_local(forbidden, local):
    assert way_out(auto_fallback=False, forbidden=forbidden, local=local, may_override=True) == "ask"
    assert way_out(auto_fallback=False, forbidden=forbidden, local=local, may_override=False) == "refuse"


def test_a_refusal_without_an_agreement_is_the_budgets_own_words():
    told = refusal(over(), auto_fallback=False, forbidden=False)
    assert (told.code, told.message) == ("budget_exceeded", "user:ana has spent all")
    assert "reasons" not in told.detail


@pytest.mark.parametrize(("forbidden", "why"), [(False, "no local model is available"), (True, "the call forbids")])
def test_a_refusal_in_spite_of_an_agreement_lists_both_reasons(forbidden, why):
    told = refusal(over(), auto_fallback=True, forbidden=forbidden)
    first, second = told.detail["reasons"]
    assert first == "user:ana has spent all"
    assert second.startswith(why)
    assert first in told.message
    assert second in told.message
    assert told.detail["scope"] == "user:ana"


@pytest.mark.parametrize(
    ("percent_used", "cost", "local", "words"),
    [
        (101.7, 50_000_000, LOCAL, "(101.7% used). Continue with claude ($0.05) or use the free llama3.2?"),
        (100.0, 50_000_000, None, "(100.0% used). Continue with claude ($0.05)?"),
        (0.0, 2_400, LOCAL, "(0.0% used). Continue with claude ($0.0000024) or use the free llama3.2?"),
    ],
)
def test_the_question_names_percent_cost_and_the_free_alternative(percent_used, cost, local, words):
    asked = question(over(percent_used), CLAUDE, NanoUSD(cost), local, None)
    assert asked.message == f"Budget exceeded {words}"
    assert asked.code == "override_required"
    assert asked.detail["estimated_nano_usd"] == cost
    assert asked.detail["alternative"] == (None if local is None else "ollama:llama3.2")
    assert asked.detail["model"] == "anthropic:claude"
    assert "override_token" not in asked.detail


def test_with_an_offer_the_question_can_be_answered():
    asked = question(over(), CLAUDE, NanoUSD(1), None, Offer("token", "2027-03-10T12:10:00.000Z"))
    assert (asked.detail["override_token"], asked.detail["expires_at"]) == ("token", "2027-03-10T12:10:00.000Z")


def test_telling_a_refusal_leaves_the_budgets_fault_as_it_was():
    fault = over()
    before = dict(fault.detail)
    refusal(fault, auto_fallback=True, forbidden=False)
    question(fault, CLAUDE, NanoUSD(1), LOCAL, Offer("token", "then"))
    assert fault.detail == before
