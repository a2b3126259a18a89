"""`daemonctl explain`: the plan as a tree, in which nothing is said twice."""

from __future__ import annotations

import pytest

CHOSEN = {"step": "explicit_provider", "value": "openai:gpt-4o", "why": "the call names the provider `openai`"}
HINT = {"step": "hint", "value": "openai", "why": "the hint `en-openai` names\nthe language `en` and `openai`"}
GONE = {"model": "openai:o9", "code": "unknown_model", "why": "`openai:o9` is retired"}
DECISION = {
    "targets": ["openai:gpt-4o"],
    "reason": "explicit_provider",
    "flags": [],
    "steps": [CHOSEN],
    "rejected": [],
    "bound_nano_usd": 9_000_000,
}
NOBODY = {**DECISION, "targets": [], "bound_nano_usd": None}

# what the daemon answers, and the lines
TREES = [
    ({"decision": DECISION}, ["openai:gpt-4o: the call names the provider `openai`; at most $0.009"]),
    (
        {
            "decision": {
                **DECISION,
                "targets": ["openai:gpt-4o", "ollama:b", "x:c"],
                "steps": [HINT, CHOSEN],
                "rejected": [GONE],
                "flags": ["tier_exceeded"],
            }
        },
        [
            "openai:gpt-4o: the call names the provider `openai`; at most $0.009",
            "├─ hint openai: the hint `en-openai` names the language `en` and `openai`",
            "├─ else ollama:b",
            "├─ else x:c",
            "├─ not openai:o9 (unknown_model): `openai:o9` is retired",
            "└─ flag tier_exceeded",
        ],
    ),
    (
        {
            "decision": {
                **DECISION,
                "targets": ["ollama:b"],
                "reason": "budget_exceeded_auto_fallback",
                "rejected": [{"model": "openai:gpt-4o", "code": "budget_exceeded", "why": "all is spent"}],
                "bound_nano_usd": 0,
            },
            "fault": None,
        },
        [
            "ollama:b: a local model that stands in, for the budget is used up; free",
            "├─ explicit_provider openai:gpt-4o: the call names the provider `openai`",
            "└─ not openai:gpt-4o (budget_exceeded): all is spent",
        ],
    ),
    (
        {"decision": {**DECISION, "reason": "of_the_future", "steps": [], "bound_nano_usd": None}},
        ["openai:gpt-4o: of_the_future; no price is known"],
    ),
    (
        {
            "decision": {
                **NOBODY,
                "rejected": [{"model": "openai:gpt-4o", "code": "override_required", "why": "Continue?"}],
            },
            "fault": {"code": "override_required", "message": "Continue?"},
        },
        [
            "nobody would answer: override_required: Continue?",
            "├─ explicit_provider openai:gpt-4o: the call names the provider `openai`",
            "├─ not openai:gpt-4o (override_required)",
            "└─ way out: `daemonctl chat --yes` lets it run once all the same",
        ],
    ),
    (
        {"decision": {**NOBODY, "steps": []}, "fault": {"code": "internal", "message": "oh"}},
        ["nobody would answer: internal: oh"],
    ),
]


@pytest.mark.parametrize(("answer", "lines"), TREES)
def test_the_plan_is_a_tree_in_which_nothing_is_said_twice(daemon, ctl, answer, lines):
    daemon.table["explain"] = answer
    ran = ctl("explain", "hi", PYTHONIOENCODING="utf-8")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == lines


@pytest.mark.parametrize(("answer", "lines"), TREES)
def test_the_tree_is_drawn_in_ascii_where_nothing_else_can_be_shown(daemon, ctl, answer, lines):
    daemon.table["explain"] = answer
    drawn = [line.replace("├─ ", "|- ").replace("└─ ", "`- ") for line in lines]
    assert ctl("explain", "hi", PYTHONIOENCODING="ascii").stdout.splitlines() == drawn


@pytest.mark.parametrize(
    ("message", "way_out"),
    [
        (
            "no model; allow paid models (`orchestrator.budget_tier_allows_paid`)",
            "`daemonctl settings set orchestrator.budget_tier_allows_paid true`, or another --tier; ",
        ),
        ("no model; add a provider's key", "another --tier; "),
    ],
)
def test_where_the_orchestrator_has_no_model_the_way_out_is_its_own(daemon, ctl, message, way_out):
    step = {"step": "orchestrator", "value": "budget", "why": "the orchestrator at the tier `budget`"}
    decision = {**NOBODY, "reason": "orchestrator", "steps": [step]}
    daemon.table["explain"] = {"decision": decision, "fault": {"code": "no_eligible_model", "message": message}}
    _, tree, last = ctl("explain", "hi", PYTHONIOENCODING="utf-8").stdout.splitlines()
    assert tree == "├─ orchestrator budget: the orchestrator at the tier `budget`"
    assert last == f"└─ way out: {way_out}`daemonctl recommend TASK` tells what each has"


@pytest.mark.parametrize(
    ("code", "way_out"),
    [
        *(("budget_exceeded", "daemonctl spend"), ("budget_held", "--admission queue"), ("price_unknown", "[models]")),
        *(("no_eligible_model", "daemonctl providers"), ("unknown_model", "daemonctl models")),
        *(("unknown_provider", "daemonctl providers"), ("provider_unavailable", "-m")),
        *(("misconfigured", "daemonctl providers"), ("rate_limited", "daemonctl providers")),
    ],
)
def test_without_a_target_there_is_a_way_out(daemon, ctl, code, way_out):
    daemon.table["explain"] = {"decision": NOBODY, "fault": {"code": code, "message": "no"}}
    *_, last = ctl("explain", "hi").stdout.splitlines()
    assert "way out: " in last
    assert way_out in last
