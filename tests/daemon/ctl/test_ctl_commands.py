"""Each command: what it asks the daemon, what it prints, how it exits."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from scripted_daemon import Pieces, chat_answer
from terminal import Terminal

from daemon.ctl.commands import COMMANDS
from daemon.ctl.output import duration, plain, safe
from protocols import errors

PROVIDER = {
    "name": "openai",
    "kind": "openai",
    "origin": "https://api.openai.com",
    "local": False,
    "simulated": False,
    "state": "open",
    "why": "5 errors in a row",
    "in_flight": 1,
    "calls": 12_345,
    "errors": 5,
    "latency_ms": 412.4,
    "first_token_ms": None,
    "retry_after_s": 3.0,
    "models": 12,
}
SCOPE = {
    "scope": "user:ana",
    "period": "month",
    "starts_at": "2026-01-01T00:00:00Z",
    "resets_at": "2026-02-01T00:00:00Z",
    "spent_nano_usd": 1_234_567_890,
    "held_nano_usd": 0,
    "limit_nano_usd": None,
    "projected_nano_usd": 3_000_000_000,
}
STATUS = {
    "version": "0.1.0",
    "pid": 77,
    "started_at": "2026-01-01T00:00:00Z",
    "uptime_s": 11_111.0,
    "healthy": True,
    "simulated": False,
    "providers": [PROVIDER],
    "spend": [SCOPE],
    "calls_in_flight": 4,
    "connections": 2,
    "sessions": 1,
    "actors": [{"name": "ledger", "inbox": 0, "restarts": 2, "state": "running"}],
    "warnings": ["the disk is nearly full"],
}
MODEL = {
    "id": "ollama:llama3.2:latest",
    "provider": "ollama",
    "local": True,
    "quality": 6,
    "strengths": ["coding", "speed"],
    "speed": "fast",
    "context_tokens": 128_000,
    "input_usd_per_mtok": 0.15,
    "output_usd_per_mtok": None,
    "available": False,
    "why_not": "not running",
    "display_name": "Llama",
    "source": "ollama",
    "rated_by": "quorumd",
}
RECOMMENDED = {
    "task_type": "scene_writing",
    "strength": "narrative",
    "prompt_tokens": 2500,
    "response_tokens": 1500,
    "budget": None,
    "balanced": {"model": "openai:gpt-4o-mini", "why": "the best for its money"},
    "premium": {"model": "openai:gpt-4o", "why": "the highest quality"},
    "ways_out": {"budget": "get a local one"},
}
ASSUMED = {
    "task": "dialogue",
    "model": "openai:gpt-4o-mini",
    "calls": 1200,
    "prompt_tokens": 1500,
    "prompt_source": "task",
    "response_tokens": 800,
    "response_source": "task",
    "why": "the best for its money",
    "cost_nano_usd": 705_000,
    "price_version": "v7",
    "local": False,
    "tier_exceeded": False,
    "bound_nano_usd": None,
}
ESTIMATED = {
    "total_nano_usd": 846_000_000,
    "by_task": {"dialogue": 846_000_000},
    "by_model": {"openai:gpt-4o-mini": 846_000_000},
    "assumptions": [ASSUMED],
    "missing": [{"task": "plot", "model": None, "calls": 3, "why": "get a local one"}],
    "fault": None,
}
OF_A_REQUEST = {
    **ESTIMATED,
    "total_nano_usd": None,
    "assumptions": [{**ASSUMED, "task": None, "calls": 1, "prompt_source": "estimate", "response_source": "default"}],
    "missing": [],
    "fault": {"code": "budget_exceeded", "message": "all is spent"},
}
CHOSEN = {
    "provider": "openai",
    "model": "gpt-4o-mini",
    "is_default": True,
    "parameters": {"defaults": {"temperature": 0.5}, "overrides": {"max_tokens": 100}},
    "metadata": {},
    "use_count": 1200,
    "created_at": "2026-01-02T03:04:05.678Z",
    "updated_at": "2026-01-02T03:04:05.678Z",
}
USER = {
    "user": "ana/bob",
    "created_at": "2026-01-02T03:04:05.678Z",
    "default_model": None,
    "models": 2,
    "conversations": 1001,
}
SESSION = {
    "user": "ana",
    "app": "editor",
    "opened_at": "2026-01-02T03:04:05.678Z",
    "idle_s": 61.0,
    "calls": 3,
    "cost_nano_usd": 12_500_000_000,
}
GROUP = {
    "key": "openai:gpt-4o-mini",
    "calls": 3,
    "prompt_tokens": 1500,
    "response_tokens": 20,
    "cost_nano_usd": 5_000,
    "unpriced": 0,
    "overruns": 2,
}
ROW = {
    "usage_id": "u1",
    "call_id": "c1",
    "created_at": "2026-01-02T03:04:05.678Z",
    "user": "ana",
    "app": "editor, large",
    "conversation": None,
    "model": "openai:gpt-4o-mini",
    "endpoint": "chat",
    "task_type": None,
    "prompt_tokens": 8,
    "cached_tokens": 0,
    "response_tokens": 2,
    "reasoning_tokens": 0,
    "token_source": "provider",
    "cost_nano_usd": None,
    "cost_source": "unknown",
    "price_version": None,
    "latency_ms": 12.6,
    "first_token_ms": 3.0,
    "status": "ok",
    "reason": "explicit_model",
    "held_nano_usd": 9000,
    "marks": [],
    "arm": None,
}
STATS = {
    "model": "openai:gpt-4o-mini",
    "calls": 1200,
    "prompt_tokens": 8,
    "cached_tokens": 0,
    "response_tokens": 2,
    "reasoning_tokens": 0,
    "cost_nano_usd": 42_000_000,
    "unpriced": 3,
    "last_used_at": "2026-01-02T03:04:05.678Z",
    "error_rate": 0.125,
    "mean_latency_ms": 412.3,
    "use_count": 1100,
    "is_default": True,
}
RANGE = {"since": "2026-01-01T00:00:00.000Z", "until": "2026-01-31T00:00:00.000Z"}
FIGURES = {
    "model": "openai:gpt-4o-mini",
    "task_type": "summary",
    "calls": 1200,
    "answers": 1190,
    "errors": 10,
    "error_rate": 10 / 1200,
    "p50_ms": 412.0,
    "p95_ms": 1912.0,
    "first_token_p50_ms": 90.0,
    "first_token_p95_ms": None,
    "cost_per_answer_nano_usd": 42_000_000,
    "agreement": None,
    "feedback_mean": 0.25,
    "feedback_n": 2,
}
ARM = {
    "experiment": "prices",
    "arm": "cheap",
    "calls": 1200,
    "users": 7,
    "answers": 1190,
    "errors": 10,
    "error_rate": 10 / 1200,
    "cost_nano_usd": {"mean": 42_000_000.4, "error": 2_000_000.0, "n": 1200},
    "latency_ms": {"mean": 412.3, "error": 9.1, "n": 1190},
    "feedback": {"mean": -0.5, "error": None, "n": 1},
}
FEEDBACK = {
    "call_id": "c1",
    "usage_id": "u1",
    "model": "openai:gpt-4o-mini",
    "rating": 1.0,
    "comment": None,
    "at": "2026-01-02T03:04:05.678Z",
}
HOLD = {
    "hold_id": "h1",
    "usage_id": "u1",
    "scope": "user:ana",
    "model": "openai:gpt-4o-mini",
    "amount_nano_usd": 9000,
    "state": "unknown",
    "created_at": "2026-01-02T03:04:05Z",
    "marks": ["soft", "clamped"],
}
ALERT = {
    "scope": "user:ana",
    "period": "month",
    "level": 90,
    "severity": "critical",
    "at": "2026-01-02T03:04:05.678Z",
    "spent_nano_usd": 27_123_456_789,
    "limit_nano_usd": 30_000_000_000,
    "label": "2026-01",
}
OVERRIDE = {
    "override_id": "o1",
    "user": "ana",
    "amount_nano_usd": 5_000_000_000,
    "spent_nano_usd": 1_000_000_000,
    "held_nano_usd": 50_000_000,
    "granted_at": "2026-01-02T03:04:05.678Z",
    "until": "2026-01-02T05:04:05.678Z",
    "granted_by": "root",
    "why": "the release",
}
ENTRY = {
    "entry_id": 41,
    "at": "2026-01-02T03:04:05.678Z",
    "actor_uid": 1000,
    "user": "ana",
    "app": "daemonctl",
    "action": "settings.set",
    "subject": "month_usd",
    "before": None,
    "after": "12",
    "why": None,
    "cost_nano_usd": None,
}
CONFIRMED = {
    **ENTRY,
    "entry_id": 42,
    "action": "override.confirmed",
    "before": "30500000000",
    "after": "30550000000",
    "why": "asked on a terminal",
    "cost_nano_usd": 50_000_000,
}
SETTING = {
    "key": "month_usd",
    "value": 12.5,
    "origin": "user",
    "scope": "user",
    "description": "your own limit a month",
}
VERDICT = {
    "ok": True,
    "journal_entries": 1200,
    "accounts": 4,
    "usage_rows": 600,
    "open_holds": 0,
    "spent_nano_usd": 5_000_000_000,
    "problems": [],
}
EXPLAINED = {
    "decision": {
        "targets": ["openai:gpt-4o-mini", "ollama:llama3.2"],
        "reason": "user_default",
        "flags": ["tier_exceeded"],
        "steps": [{"step": "user_default", "value": "openai:gpt-4o-mini", "why": "you set it"}],
        "rejected": [{"model": "openai:o9", "code": "unknown_model", "why": "no such model"}],
        "bound_nano_usd": 9_000_000,
    }
}
TOURNAMENT = {
    "tournament_id": "t1",
    "created_at": "2026-01-02T03:04:05.678Z",
    "user": "ana",
    "app": "editor",
    "task_type": None,
    "mode": "vote",
    "state": "done",
    "status": "dispute",
    "answer": None,
    "needs_review": True,
    "members": ["openai:a", "ollama:b"],
    "prompt": "Is 2027\nprime?" + " or not" * 20,
    "cost_nano_usd": 42_000_000,
    "reviewed_answer": None,
    "reviewed_at": None,
    "reviewed_by": None,
    "why": None,
}
CAST = {
    "slot": 0,
    "model": "openai:a",
    "family": "gpt",
    "status": "ok",
    "answer": "yes",
    "text": "I think so.\nANSWER: yes",
    "cluster": 0,
    "why": None,
    "cost_nano_usd": 2_000_000,
    "latency_ms": 412.4,
    "usage_id": "u1",
    "round": 0,
}
TOLD = {
    "tournament_id": "t1",
    "status": "majority",
    "answer": "yes",
    "answer_kind": "voted",
    "winner": "openai:a",
    "agreement": {"method": "canonical", "top_share": 0.5, "margin": 0.5, "clusters": []},
    "flags": ["degraded"],
    "needs_review": False,
    "ballots": [CAST],
    "missing": [{"model": "ollama:b", "code": "not_heard", "why": "nobody asked it"}],
    "mode": "vote",
    "cost_nano_usd": 42_000_000,
    "bound_nano_usd": 50_000_000,
    "saved_nano_usd": 0,
}
SHOWN = {"tournament": TOURNAMENT, "spec": {"type": "bool"}, "terms": {}, "ballots": [CAST], "verdict": TOLD}
REVIEWED = {
    "reviewed_answer": "no",
    "reviewed_at": "2026-02-02T03:04:05.678Z",
    "reviewed_by": "bob",
    "needs_review": False,
}
LEFT = {
    **TOURNAMENT,
    "state": "unfinished",
    "status": None,
    "needs_review": False,
    "why": "the daemon ended",
    "cost_nano_usd": None,
}
REPLAYED = {
    "verdict": TOLD,
    "differs": [
        {"what": "status", "was": "dispute", "now": "majority"},
        {"what": "flags", "was": [], "now": ["degraded"]},
        {"what": "cost_nano_usd", "was": 50_000_000, "now": 42_000_000},
    ],
    "not_heard": ["ollama:b"],
}
HI = {"messages": [{"role": "user", "content": "hi"}]}

# what is typed, the method, its params, what the daemon answers, what is among the words printed
CASES = [
    ("status", "status", {}, STATUS, ["77", "3 h 5 min", "healthy", "$1.23456789", "12,345", "412 ms", "nearly full"]),
    ("models", "models", {}, {"models": [MODEL]}, ["ollama:llama3.2:latest", "128,000", "coding, speed", "no", "0.15"]),
    (
        "models --local --provider ollama",
        "models",
        {"provider": "ollama", "local": True},
        {"models": []},
        ["no such models"],
    ),
    (
        "models --tier balanced --task scene_writing",
        "models",
        {"tier": "balanced", "task": "scene_writing"},
        {"models": [MODEL]},
        ["ollama:llama3.2:latest", "RATED BY", "quorumd"],
    ),
    (
        "recommend scene_writing --prefer-local --allow-paid",
        "recommend",
        {"task_type": "scene_writing", "prefer_local": True, "budget_tier_allows_paid": True},
        RECOMMENDED,
        ["openai:gpt-4o-mini", "the best for its money", "get a local one", "narrative", "2,500"],
    ),
    (
        "recommend scene_writing --no-prefer-local --no-allow-paid",
        "recommend",
        {"task_type": "scene_writing", "prefer_local": False, "budget_tier_allows_paid": False},
        RECOMMENDED,
        ["openai:gpt-4o-mini"],
    ),
    (
        "recommend scene_writing",
        "recommend",
        {"task_type": "scene_writing"},
        {**RECOMMENDED, "saving": {"why": "you would have saved $4.00 of $5.00 in the last 30 days with x:y"}},
        ["\nyou would have saved $4.00 of $5.00 in the last 30 days with x:y\n"],
    ),
    (
        "estimate --tier balanced --use dialogue=1200 --use plot=3",
        "estimate",
        {"quality_tier": "balanced", "usage": {"dialogue": 1200, "plot": 3}},
        ESTIMATED,
        [
            *("dialogue", "openai:gpt-4o-mini", "1,200", "1,500", "$0.000705", "$0.846  the best for its money"),
            *("total $0.846, without what follows", "missing: plot (3): get a local one", "nothing cached"),
        ],
    ),
    (
        "estimate --tier budget --use a=b=0 --prefer-local --allow-paid --user bob",
        "estimate",
        {
            "quality_tier": "budget",
            "usage": {"a=b": 0},
            "prefer_local": True,
            "budget_tier_allows_paid": True,
            "user": "bob",
        },
        {**ESTIMATED, "total_nano_usd": None, "assumptions": []},
        ["no task has a model", "total unknown, without what follows"],
    ),
    (
        "estimate hi -m gpt --task t --tier premium",
        "estimate",
        {"messages": [{"role": "user", "content": "hi"}], "model": "gpt", "task_type": "t", "quality_tier": "premium"},
        {
            **OF_A_REQUEST,
            "total_nano_usd": 705_000,
            "assumptions": [{**ASSUMED, "calls": 1, "prompt_source": "estimate", "bound_nano_usd": 9_000_000}],
        },
        [
            "total $0.000705\nnow it would be refused: budget_exceeded: all is spent\n",
            "a prompt of 1,500 tokens (a token for four bytes) and an answer of 800 (as the task's are), prices of v7; at most $0.009\n",
        ],
    ),
    (
        "estimate hi",
        "estimate",
        HI,
        {
            **OF_A_REQUEST,
            "total_nano_usd": None,
            "assumptions": [{**OF_A_REQUEST["assumptions"][0], "cost_nano_usd": None}],
        },
        ["total unknown\n", "an answer of 800 (since no known task is named)\n"],
    ),
    (
        "estimate hi --max-tokens 5",
        "estimate",
        {**HI, "max_tokens": 5},
        {
            **OF_A_REQUEST,
            "total_nano_usd": 0,
            "assumptions": [
                {**ASSUMED, "prompt_source": "tokenizer", "response_source": "limit", "cost_nano_usd": 0, "local": True}
            ],
        },
        ["total $0.00\n", "counted by its tokenizer", "the longest that is allowed); a local model is free\n"],
    ),
    ("providers", "providers", {}, {"providers": [PROVIDER]}, ["open", "5 errors in a row", "https://api.openai.com"]),
    ("users", "users", {}, {"users": [USER]}, ["ana/bob", "- ", "1,001", "2026-01-02T03:04:05Z"]),
    ("users --first 5 --after ana", "users", {"first": 5, "after": "ana"}, {"users": [USER]}, ["ana/bob"]),
    ("users", "users", {}, {"users": []}, ["nobody chose a model yet"]),
    (
        "prefer openai:gpt-4o-mini",
        "user_models.set_default",
        {"model": "openai:gpt-4o-mini"},
        {"model": CHOSEN, "warnings": []},
        ["openai:gpt-4o-mini is the default"],
    ),
    (
        "prefer --provider openai gpt-4o-mini --user bob",
        "user_models.add",
        {"provider": "openai", "model": "gpt-4o-mini", "user": "bob"},
        {"model": {**CHOSEN, "is_default": False}, "warnings": []},
        ["openai:gpt-4o-mini is the model for `openai`"],
    ),
    (
        "prefer --conversation c1 openai:gpt-4o-mini",
        "conversations.set_default",
        {"conversation": "c1", "model": "openai:gpt-4o-mini"},
        {"conversation": "c1", "model": "openai:gpt-4o-mini", "warnings": []},
        ["conversation `c1`: openai:gpt-4o-mini"],
    ),
    (
        "prefer --conversation c1 --remove",
        "conversations.set_default",
        {"conversation": "c1", "model": None},
        {"conversation": "c1", "model": None, "warnings": []},
        ["conversation `c1`: no default of its own"],
    ),
    ("prefer --provider openai --remove", "user_models.remove", {"provider": "openai"}, {}, ["forgotten"]),
    (
        "prefer --list",
        "user_models.list",
        {},
        {"models": [CHOSEN]},
        ["gpt-4o-mini", "yes", "1,200", "temperature=0.5, max_tokens=100!"],
    ),
    ("prefer --list --user bob", "user_models.list", {"user": "bob"}, {"models": []}, ["nothing chosen"]),
    ("sessions", "sessions", {}, {"sessions": [SESSION]}, ["editor", "1 min 1 s", "$12.50", "2026-01-02T03:04:05Z"]),
    (
        "sessions open",
        "sessions.open",
        {},
        {"session": SESSION},
        ["the session of ana is open since 2026-01-02T03:04:05Z"],
    ),
    (
        "sessions close --user bob",
        "sessions.close",
        {"user": "bob"},
        {"session": SESSION},
        ["the session of ana is closed (", "$12.50"],
    ),
    ("sessions close", "sessions.close", {}, {"session": None}, ["there was no session"]),
    ("spend", "spend", {}, {"scopes": [SCOPE]}, ["user:ana", "none", "$3.00"]),
    (
        "spend --by model --since 2026-01-01T00:00:00Z --user @bob",
        "spend",
        {"by": "model", "since": "2026-01-01T00:00:00Z", "user": "@bob"},
        {"scopes": [SCOPE], "groups": [GROUP]},
        ["MODEL", "openai:gpt-4o-mini", "1,500", "$0.000005", "OVERRUNS"],
    ),
    ("usage", "usage", {}, {"rows": [ROW]}, ["editor, large", "unknown", "13 ms", "explicit_model"]),
    ("usage --last 5 --task t", "usage", {"last": 5, "task": "t"}, {"rows": []}, ["no calls yet"]),
    (
        "usage --day 2026-01-02 --conversation c1",
        "usage",
        {"day": "2026-01-02", "conversation": "c1"},
        {"rows": [ROW]},
        ["u1"],
    ),
    (
        "usage stats --user bob",
        "usage_stats",
        {"user": "bob"},
        {"user": "ana/bob", "models": [STATS]},
        ["openai:gpt-4o-mini", "1,200", "1,100", "$0.042", "12.5%", "412 ms", "2026-01-02T03:04:05Z", "WITHOUT PRICE"],
    ),
    ("usage stats", "usage_stats", {}, {"user": "ana", "models": []}, ["ana has chosen and used no model yet"]),
    (
        "performance --task summary --since 2026-01-01 --user @bob",
        "performance",
        {"task": "summary", "since": "2026-01-01", "user": "@bob"},
        {**RANGE, "rows": [FIGURES]},
        [
            "openai:gpt-4o-mini",
            "1,200",
            "0.8%",
            "412 ms",
            "1,912 ms",
            "90 ms",
            "$0.042",
            "+0.25",
            "from 2026-01-01T00:00:00Z",
        ],
    ),
    ("performance --model m", "performance", {"model": "m"}, {**RANGE, "rows": []}, ["no calls in this time"]),
    (
        "performance --ab",
        "performance",
        {"ab": True},
        {**RANGE, "arms": [ARM]},
        ["prices", "cheap", "1,200", "$0.042 ± $0.002 (n=1200)", "412 ms ± 9 ms (n=1190)", "-0.50 (n=1)"],
    ),
    ("performance --ab", "performance", {"ab": True}, {**RANGE, "arms": []}, ["no calls of an experiment"]),
    ("feedback c1 1", "feedback", {"call_id": "c1", "rating": 1.0}, FEEDBACK, ["c1: +1 for openai:gpt-4o-mini"]),
    (
        "feedback c1 -1 far too long",
        "feedback",
        {"call_id": "c1", "rating": -1.0, "comment": "far too long"},
        {**FEEDBACK, "rating": -1.0},
        ["c1: -1 for"],
    ),
    ("feedback c1 -.5", "feedback", {"call_id": "c1", "rating": -0.5}, {**FEEDBACK, "rating": -0.5}, ["c1: -0.5 for"]),
    ("holds", "holds", {}, {"holds": [HOLD]}, ["h1", "unknown", "$0.000009", "MARKS", "soft, clamped"]),
    (
        "holds resolve h1 --cost 0.042 --why bill",
        "holds.resolve",
        {"hold_id": "h1", "cost_usd": 0.042, "why": "bill"},
        {},
        ["h1 cost $0.042; spend is corrected"],
    ),
    (
        "alerts --last 5 --user @bob",
        "alerts",
        {"last": 5, "user": "@bob"},
        {"alerts": [{**ALERT, "suggestion": "ollama:llama3.2 is free"}]},
        ["2026-01-02T03:04:05Z", "critical", "2026-01", "90%", "$27.123456789", "$30.00", "ollama:llama3.2 is free"],
    ),
    ("alerts", "alerts", {}, {"alerts": []}, ["no alerts"]),
    ("overrides --user bob", "overrides.list", {"user": "bob"}, {"overrides": []}, ["no overrides"]),
    (
        "overrides",
        "overrides.list",
        {},
        {"overrides": [OVERRIDE]},
        ["o1", "$5.00", "$1.00", "$0.05", "2026-01-02T05:04:05Z", "root", "the release"],
    ),
    (
        "overrides grant 5 --until 2026-01-02T05:04:05Z --why release --user ana",
        "overrides.grant",
        {"amount_usd": 5.0, "until": "2026-01-02T05:04:05Z", "why": "release", "user": "ana"},
        OVERRIDE,
        ["o1: calls of ana may pass the budget by $5.00 in all until 2026-01-02T05:04:05Z"],
    ),
    ("overrides revoke o1", "overrides.revoke", {"override_id": "o1"}, {}, ["o1 is revoked"]),
    (
        "audit --last 5 --before 43 --user ana --action settings.set",
        "audit",
        {"last": 5, "before": 43, "user": "ana", "action": "settings.set"},
        {"entries": [ENTRY]},
        ["41", "1000", "month_usd", "12\n"],
    ),
    ("audit", "audit", {}, {"entries": [CONFIRMED]}, ["$30.50", "$30.55", "$0.05", "asked on a terminal"]),
    ("settings show", "settings.show", {}, {"settings": [SETTING]}, ["month_usd", "12.5", "your own limit"]),
    ("settings show --origin", "settings.show", {}, {"settings": [SETTING]}, ["ORIGIN", "user"]),
    ("settings get month_usd", "settings.get", {"key": "month_usd"}, SETTING, ["12.5"]),
    (
        "settings set month_usd 12.5 --user *",
        "settings.set",
        {"key": "month_usd", "value": 12.5, "user": "*"},
        SETTING,
        ["month_usd = 12.5 (user)"],
    ),
    ("settings unset month_usd", "settings.unset", {"key": "month_usd"}, SETTING, ["month_usd = 12.5 (user)"]),
    (
        "tournament Is 2027 prime",
        "tournament",
        {"prompt": "Is 2027 prime"},
        TOLD,
        ["majority: yes; not everybody gave", "ollama:b (not_heard): nobody asked it", "$0.042 of at most $0.05"],
    ),
    ("ask hi --answer bool", "tournament", {"prompt": "hi", "answer": "bool"}, TOLD, ["majority: yes"]),
    (
        "tournaments --last 5 --before t9 --state done --task t --user bob",
        "tournaments",
        {"last": 5, "before": "t9", "state": "done", "task": "t", "user": "bob"},
        {"tournaments": [TOURNAMENT, LEFT]},
        ["dispute !", "$0.042", "Is 2027 prime? or not", "…\n", "unfinished", "! a person should look"],
    ),
    ("tournaments", "tournaments", {}, {"tournaments": []}, ["no tournaments yet"]),
    (
        "tournaments show t1",
        "tournament.show",
        {"tournament_id": "t1"},
        SHOWN,
        [
            *("t1: dispute !, vote of ana, 2026-01-02T03:04:05Z", "50% by canonical, degraded", "openai:a", "412 ms"),
            "ollama:b (not_heard: nobody asked it)",
        ],
    ),
    (
        "tournaments show t1 --text",
        "tournament.show",
        {"tournament_id": "t1"},
        {**SHOWN, "tournament": {**LEFT, **REVIEWED}, "verdict": None},
        ["== openai:a\nI think so.\nANSWER: yes\n", "no, says bob, 2026-02-02", "why       the daemon ended"],
    ),
    (
        "tournaments replay t1 --threshold 3/4 --mode cascade --answer number --min-live 3 --veto no",
        "tournament.replay",
        {"tournament_id": "t1", "threshold": "3/4", "mode": "cascade", "answer": "number", "min_live": 3, "veto": "no"},
        REPLAYED,
        [
            *(
                "t1: majority by vote, 50% by canonical, degraded: yes",
                "status: dispute -> majority",
                "flags: - -> degraded",
            ),
            *("cost_nano_usd: $0.05 -> $0.042", "not heard: ollama:b"),
        ],
    ),
    (
        "tournaments replay t1",
        "tournament.replay",
        {"tournament_id": "t1"},
        {"verdict": {**TOLD, "answer": None, "ballots": []}, "differs": [], "not_heard": []},
        ["degraded: no answer", "nothing differs from the stored verdict"],
    ),
    (
        "reviews --last 5 --before t9 --user bob",
        "reviews",
        {"last": 5, "before": "t9", "user": "bob"},
        {"tournaments": [TOURNAMENT]},
        ["t1", "openai:a, ollama:b", "reviews resolve ID --answer"],
    ),
    ("reviews", "reviews", {}, {"tournaments": []}, ["nothing waits for a review"]),
    (
        "reviews resolve t1 --answer no --why almanac",
        "reviews.resolve",
        {"tournament_id": "t1", "answer": "no", "why": "almanac"},
        {"tournament_id": "t1", "answer": "no", "agreed": [], "disagreed": ["openai:a", "ollama:b"]},
        ["t1: no\n", "right: -; wrong: openai:a, ollama:b"],
    ),
    ("ledger verify", "ledger.verify", {}, VERDICT, ["the books balance", "1,200 journal entries", "$5.00 spent"]),
    (
        "explain hi -m gpt",
        "explain",
        {**HI, "model": "gpt"},
        EXPLAINED,
        ["openai:gpt-4o-mini: you set it; at most $0.009", "else ollama:llama3.2", "tier_exceeded", "no such model"],
    ),
    ("call ping", "ping", {}, {"a": [1]}, ['{"a": [1]}']),
    ('call usage {"last":5}', "usage", {"last": 5}, {"rows": []}, ['{"rows": []}']),
    ("chat --no-stream hi", "chat", {**HI, "stream": False}, chat_answer("Hello"), ["Hello"]),
]
NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize(("typed", "method", "params", "answer", "shown"), CASES, ids=NAMES)
def test_text(daemon, ctl, typed, method, params, answer, shown):
    daemon.table[method] = answer
    ran = ctl(*typed.split(" "))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert daemon.params(method) == params
    assert [part for part in shown if part not in ran.stdout] == []
    assert daemon.hellos[0]["app"] == "daemonctl"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("typed", "method", "params", "answer", "shown"), CASES, ids=NAMES)
def test_json_is_exactly_the_answer(daemon, ctl, typed, method, params, answer, shown, after):  # noqa: ARG001  a row of the table
    daemon.table[method] = answer
    words = typed.split(" ")
    ran = ctl(*words, "--json") if after else ctl("--json", *words)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) == answer
    assert ran.stdout.count("\n") == 1


@pytest.mark.parametrize("typed", NAMES)
def test_a_refusal_exits_1_with_code_and_message(daemon, ctl, typed):
    refusal = errors.Forbidden("ask for the right `operate`", detail={"right": "operate"})
    daemon.table = dict.fromkeys({case[1] for case in CASES}, refusal)
    ran = ctl(*typed.split(" "))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "daemonctl: forbidden: ask for the right `operate`\n"


def test_a_refusal_with_json_is_one_document_on_stderr(daemon, ctl):
    daemon.table["holds"] = errors.Busy("come back", detail={"n": 1}, retry_after_s=2.5)
    ran = ctl("--json", "holds")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert json.loads(ran.stderr) == {"code": "busy", "message": "come back", "detail": {"n": 1}, "retry_after_s": 2.5}


def test_a_refusals_words_do_not_command_the_terminal(daemon, ctl):
    daemon.table["holds"] = errors.Forbidden("no \x1b]0;owned\x07")
    assert ctl("holds").stderr == "daemonctl: forbidden: no ]0;owned\n"


def test_every_command_stands_in_the_table_of_tests():
    typed = {" ".join(name.split()[:length]) for name in NAMES for length in (1, 2)}
    assert {command.name for command in COMMANDS} <= {*typed, "watch"}  # which has no end: a file of its own


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help(ctl, command):
    ran = ctl(*command.name.split(), "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert command.summary.endswith(".")
    assert ran.stdout.startswith(f"usage: daemonctl {command.name} ")


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_degraded_daemon_exits_1(daemon, ctl, json_too):
    daemon.table["status"] = {**STATUS, "healthy": False, "simulated": True}
    ran = ctl("status", *json_too)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert json_too or ("DEGRADED" in ran.stdout and "simulated" in ran.stdout)


def test_books_that_do_not_balance_exit_1(daemon, ctl):
    daemon.table["ledger.verify"] = {**VERDICT, "ok": False, "problems": ["user:ana is 5 short"]}
    ran = ctl("ledger", "verify")
    assert ran.returncode == 1
    assert "do NOT balance" in ran.stdout
    assert "user:ana is 5 short" in ran.stdout


@pytest.mark.parametrize("typed", ["tournaments", "reviews", "tournaments show t1 --text", "tournaments replay t1"])
def test_what_models_and_askers_wrote_does_not_command_the_terminal(daemon, ctl, typed):
    evil = "a\x1b[2J\x1b]0;b\x07"
    row = {**TOURNAMENT, "prompt": evil, "answer": evil, "reviewed_answer": evil, "why": evil}
    told = {**TOLD, "answer": evil, "ballots": [{**CAST, "answer": evil}]}
    daemon.table["tournaments"] = daemon.table["reviews"] = {"tournaments": [row]}
    daemon.table["tournament.show"] = {**SHOWN, "tournament": row, "ballots": [{**CAST, "text": evil, "answer": evil}]}
    daemon.table["tournament.replay"] = {**REPLAYED, "verdict": told}
    ran = ctl(*typed.split())
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "a[2J]0;b" in ran.stdout
    assert not {"\x1b", "\x07"} & set(ran.stdout)


def test_numbers_are_aligned_to_the_right_and_nothing_is_cut(daemon, ctl):
    names = ["a", "b" * 300]
    daemon.table["spend"] = {
        "scopes": [],
        "groups": [{**GROUP, "key": name, "calls": calls} for name, calls in zip(names, (5, 12_345), strict=True)],
    }
    _, _, head, *rows = ctl("spend", "--by", "model", COLUMNS="40").stdout.splitlines()
    ends = [row.index(number) + len(number) for row, number in zip(rows, (" 5 ", "12,345 "), strict=True)]
    assert ends == [head.index("CALLS ") + len("CALLS ")] * 2
    assert "b" * 300 in rows[1]


def test_usage_as_csv_has_every_field_and_quotes_what_needs_it(daemon, ctl):
    daemon.table["usage"] = {"rows": [{**ROW, "marks": ["override", "overrun"], "from_the_future": 1}]}
    ran = ctl("usage", "--csv")
    (row,) = csv.DictReader(io.StringIO(ran.stdout))
    assert row == {key: "" if value is None else str(value) for key, value in ROW.items()} | {
        "marks": "override;overrun"
    }


def test_usage_as_csv_has_its_head_even_without_rows(daemon, ctl):
    daemon.table["usage"] = {"rows": []}
    assert ctl("usage", "--csv").stdout == ",".join(ROW) + "\n"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *(("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "'\t'=1")),
        *((" =1", "' =1"), ("\uff1d1", "'\uff1d1"), ("a;=1", "a;'=1"), ('"=1', '"=1'), ("a=b", "a=b"), ("a-b", "a-b")),
    ],
)
def test_no_text_in_csv_is_a_formula_to_a_spreadsheet(daemon, ctl, text, cell):
    texts = ("user", "app", "conversation", "task_type", "model", "arm")
    daemon.table["usage"] = {"rows": [{**ROW, **dict.fromkeys(texts, text), "latency_ms": -1.0}]}
    (row,) = csv.DictReader(io.StringIO(ctl("usage", "--csv").stdout))
    assert {row[key] for key in texts} == {cell}
    assert row["latency_ms"] == "-1.0"


def test_csv_keeps_control_characters_for_a_file_but_not_for_a_terminal(daemon, ctl):
    daemon.table["usage"] = {"rows": [{**ROW, "app": "a\x1b]0;owned\x07"}]}
    assert "a\x1b]0;owned\x07" in ctl("usage", "--csv").stdout
    terminal = Terminal("usage", "--csv")
    assert terminal.end() == 0
    assert "a]0;owned" in terminal.shown
    assert "\x1b" not in terminal.shown


def test_the_history_shows_marks_only_when_there_are_some(daemon, ctl):
    daemon.table["usage"] = {"rows": [ROW]}
    assert "MARKS" not in ctl("usage").stdout
    daemon.table["usage"] = {"rows": [{**ROW, "marks": ["soft", "overrun"]}, ROW]}
    head, first, second = ctl("usage").stdout.splitlines()
    assert (head.split()[-1], first.split()[-2:], second.split()[-1]) == ("MARKS", ["soft,", "overrun"], "-")


def test_alerts_and_audit_leave_out_columns_without_a_value(daemon, ctl):
    daemon.table["alerts"], daemon.table["audit"] = {"alerts": [ALERT]}, {"entries": [ENTRY]}
    assert "SUGGESTION" not in ctl("alerts").stdout
    assert {"COST", "WHY"} & set(ctl("audit").stdout.split()) == set()


def test_on_a_terminal_each_suggestion_stands_once_below_the_alerts(daemon):
    full = {**ALERT, "level": 100, "suggestion": "ollama:llama3.2 is free"}
    daemon.table["alerts"] = {"alerts": [full, {**full, "scope": "user:bob"}, ALERT]}
    terminal = Terminal("alerts", NO_COLOR="1")
    assert terminal.end() == 0
    assert terminal.shown.count("ollama:llama3.2 is free") == 1
    assert len(terminal.shown.splitlines()) == 5


@pytest.mark.parametrize(
    ("typed", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d12h", 129_600), ("1w", 604_800)]
)
def test_an_override_may_last_for_a_while_from_now(daemon, ctl, typed, seconds):
    daemon.table["overrides.grant"] = OVERRIDE
    before = datetime.now(UTC).replace(microsecond=0)
    assert ctl("overrides", "grant", "0.5", "--for", typed, "--why", "x").returncode == 0
    until = daemon.params("overrides.grant")["until"]
    assert until.endswith("Z")
    assert timedelta(0) <= datetime.fromisoformat(until) - before - timedelta(seconds=seconds) < timedelta(seconds=20)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        *(("true", True), ("12.5", 12.5), ("null", None), ('"x"', "x"), ("[1]", [1]), ("-1", -1), ("x y", "x y")),
        *(("openai:gpt", "openai:gpt"), ("2/3", "2/3"), ("[" * 100_000, "[" * 100_000)),
    ],
)
def test_a_setting_is_json_if_it_parses_and_else_text(daemon, ctl, typed, value):
    daemon.table["settings.set"] = {**SETTING, "value": value}
    daemon.greeting.max_frame_bytes = 1 << 20
    assert ctl("settings", "set", "key", typed).returncode == 0
    assert daemon.params("settings.set") == {"key": "key", "value": value}


@pytest.mark.parametrize(("value", "shown"), [("x", "x"), (None, "null"), (True, "true"), (12.5, "12.5")])
def test_a_setting_is_printed_as_it_is_typed(daemon, ctl, value, shown):
    daemon.table["settings.get"] = {**SETTING, "value": value}
    assert ctl("settings", "get", "key").stdout == f"{shown}\n"


def test_call_prints_items_a_line_each_and_then_the_result(daemon, ctl):
    daemon.table["events"] = Pieces([{"n": 1}, {"n": "é"}], {"end": True})
    ran = ctl("call", "events", "--json")
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [{"n": 1}, {"n": "é"}, {"end": True}]


def test_call_takes_params_from_stdin_and_a_deadline(daemon, ctl):
    daemon.table["ping"] = {}
    assert ctl("call", "ping", "-", "--deadline", "2.5", stdin='{"a": 1}').returncode == 0
    assert daemon.params("ping") == {"a": 1}
    assert daemon.calls[0]["deadline_s"] == 2.5


def test_call_takes_an_idempotency_key(daemon, ctl):
    daemon.table["ping"] = {}
    assert ctl("call", "ping", "--idempotency-key", "order 7").returncode == 0
    assert ctl("call", "ping").returncode == 0
    assert [call.get("idempotency_key") for call in daemon.calls] == ["order 7", None]


def test_control_characters_from_the_daemon_reach_no_table(daemon, ctl):
    daemon.table["sessions"] = {"sessions": [{**SESSION, "app": "a\x1b[31m\nb\x9b"}]}
    assert "a[31m b" in ctl("sessions").stdout


def test_a_newer_daemons_fields_and_missing_ones_are_tolerated(daemon, ctl):
    daemon.table["providers"] = {"providers": [{"name": "x", "colour": "red"}]}
    assert ctl("providers").returncode == 0


@pytest.mark.parametrize(
    ("text", "left"), [("a\tb\nc", "a\tb\nc"), ("a\x1b]0;x\x07\r\x7f\x85b", "a]0;xb"), ("é→", "é→")]
)
def test_control_characters_are_stripped_and_nothing_else(text, left):
    assert safe(text) == left


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (True, "yes"), (0.15, "0.15"), (["a", "b"], "a, b"), (7, "7")]
)
def test_cells(value, text):
    assert plain(value) == text


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("prefer", "which model?"),
        ("prefer --list m", "lists everything"),
        ("prefer --list --remove", "lists everything"),
        ("prefer --remove", "needs --provider or --conversation"),
        ("prefer --remove --provider p m", "and no model"),
        ("prefer --provider p --conversation c m", "leave one of them out"),
    ],
)
def test_a_preference_that_means_nothing_is_wrong_usage(ctl, typed, said):
    ran = ctl(*typed.split(" "))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr


def test_a_preference_that_is_not_listed_is_kept_with_a_warning(daemon, ctl):
    warning = {"code": "not_listed", "message": "`openai` does not list `gpt-4p`; the nearest is `openai:gpt-4o`"}
    daemon.table["user_models.set_default"] = {"model": CHOSEN, "warnings": [warning]}
    ran = ctl("prefer", "openai:gpt-4p")
    assert (ran.returncode, ran.stderr) == (0, f"warning: {warning['message']}\n")
