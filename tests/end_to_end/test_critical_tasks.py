"""A chat of a critical task becomes a tournament where its user wants that, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, provider

HI = [{"role": "user", "content": "Which theme is it?"}]
CRITICAL = {"task_type": "theme_analysis"}


def says(text: str, **more: Any) -> str:
    return f"sim?text={quote_plus(text)}" + "".join(f"&{key}={value}" for key, value in more.items())


MODELS = {
    "one": (says("Loss."), 8.0),
    "two": (says("Love."), 7.5),
    "three": (says("Hope."), 7.2),
    "judge": (says("ANSWER: tie"), 7.0),
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with simulated_provider.running(models=["sim"]) as upstream:
        config = "".join(provider(name, "openai", upstream.base_url("openai"), local=False) for name in MODELS)
        for name, (model, quality) in MODELS.items():
            config += f'[models."{name}:{model}"]\nquality = {quality}\nspeed = "fast"\nfamily = "{name}"\n'
            config += 'strengths = ["thematic_analysis"]\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n'
        with running_daemon.running(config) as daemon:
            eventually(lambda: len(daemon.call("models")["models"]) >= len(MODELS), "all have listed")
            yield daemon


def wanted(daemon: Daemon, user: str) -> None:
    daemon.call("settings.set", key="tournament.enabled", value=True, user=user)
    daemon.call("settings.set", key="tournament.critical_tasks", value=["theme_analysis"], user=user)


def ask(daemon: Daemon, user: str, **more: Any) -> Any:
    return daemon.call("chat", **{"messages": HI, "user": user, **more})


def test_a_critical_task_is_put_to_several_models_and_the_answer_says_so(daemon):
    wanted(daemon, "careful")
    answer = ask(daemon, "careful", **CRITICAL)
    held = answer["tournament"]
    assert answer["decision"]["flags"][0] == "tournament"
    assert "tournament" in [warning["code"] for warning in answer["warnings"]]
    assert len(held["models"]) == len(answer["attempts"]) == 3
    assert (held["status"], held["needs_review"]) == ("dispute", True)
    rows = daemon.call("usage", user="careful")["rows"]
    assert {row["call_id"] for row in rows} == {answer["call_id"]} == {held["tournament_id"]}
    assert sum(row["cost_nano_usd"] for row in rows) == answer["cost_nano_usd"] > 0
    shown = daemon.call("tournament.show", tournament_id=held["tournament_id"], user="careful")
    assert answer["text"] in [ballot["text"] for ballot in shown["ballots"]]
    assert held["tournament_id"] in [row["tournament_id"] for row in daemon.call("reviews")["tournaments"]]


@pytest.mark.parametrize(
    "words",
    [
        {"task_type": "dialogue"},
        {},
        {**CRITICAL, "tournament": False},
        {**CRITICAL, "model": f"one:{MODELS['one'][0]}"},
        {**CRITICAL, "provider": "two"},
        {**CRITICAL, "response_format": {"type": "json_object"}},
        {**CRITICAL, "messages": [{"role": "system", "content": "Greet."}]},
    ],
)
def test_any_other_chat_stays_one_call(daemon, words):
    wanted(daemon, "careful2")
    assert "tournament" not in ask(daemon, "careful2", **words)


def test_it_is_off_unless_the_user_or_the_call_says_so(daemon):
    assert "tournament" not in ask(daemon, "plain", **CRITICAL)
    assert "tournament" in ask(daemon, "plain", tournament=True)


def test_explain_says_that_it_will_be_held_and_asks_nobody(daemon):
    wanted(daemon, "curious")
    explained = daemon.call("explain", messages=HI, user="curious", **CRITICAL)
    assert explained["decision"]["flags"] == ["tournament"]
    assert "is critical" in explained["decision"]["steps"][-1]["why"]
    again = daemon.call("explain", messages=HI, user="curious", **CRITICAL, tournament=False)
    assert again["decision"]["flags"] == []
    assert daemon.call("usage", user="curious")["rows"] == []


def test_the_answer_of_a_streamed_one_comes_as_one_piece(daemon):
    wanted(daemon, "streaming")
    with daemon.json_lines() as lines:
        params = {"messages": HI, "user": "streaming", "stream": True, **CRITICAL}
        lines.send({"t": "call", "id": 1, "method": "chat", "params": params})
        heard = lines.until_end_of(1)
    assert [item["value"]["type"] for item in heard[:-1]] == ["delta"]
    assert heard[0]["value"]["text"] == heard[-1]["value"]["text"] != ""


def test_under_a_key_it_is_held_once(daemon):
    wanted(daemon, "keyed")
    with daemon.json_lines() as lines:
        ends = []
        for number in (1, 2):
            params = {"messages": HI, "user": "keyed", **CRITICAL}
            call = {"t": "call", "id": number, "method": "chat", "params": params, "idempotency_key": "once"}
            lines.send(call)
            ends.append(lines.until_end_of(number)[-1]["value"])
    assert ends[0] == ends[1]
    assert len({row["call_id"] for row in daemon.call("usage", user="keyed")["rows"]}) == 1


def test_how_often_models_agree_with_what_was_decided_shows_in_performance(daemon):
    members = [f"{name}:{says('ANSWER: ' + said)}" for name, said in (("one", "yes"), ("two", "yes"), ("three", "no"))]
    for _ in range(2):
        daemon.call("tournament", prompt="Is it?", members=members, answer="bool", latency="fast", task_type="dialogue")
    rows = {row["model"]: row for row in daemon.call("performance", task="dialogue")["rows"]}
    told = {model: (row["agreement"], row["agreement_n"]) for model, row in rows.items() if model in members}
    assert told[members[0]] == (1.0, 2)
    assert told.get(members[2], (0.0, 2)) == (0.0, 2)
