"""A hint chooses the provider, and the language goes to the model where the app asks for that."""

import json
from collections.abc import Iterator

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, priced, provider
from simulated_provider import Provider

from protocols.errors import BadRequest, UnknownProvider

KINDS = ("openai", "anthropic", "ollama")
SAID = "Answer in pt-BR."


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(upstream: Provider) -> Iterator[Daemon]:
    sections = [provider(kind, kind, upstream.base_url(kind), local=False) for kind in KINDS]
    sections += [priced(*[f"{kind}:sim" for kind in KINDS])]
    sections += ['[aliases]\nclaude = "anthropic"\nmini = "openai:sim"\n', '[settings]\ndefault_model = "ollama:sim"\n']
    with running_daemon.running("\n".join(sections)) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(upstream: Provider) -> None:
    upstream.reset()


def asked(upstream: Provider) -> str:
    (chat,) = upstream.chats(bodies=True)
    return json.dumps(chat["body"])


@pytest.mark.parametrize(
    ("hint", "model", "reason", "steps"),
    [
        ("en-claude", "anthropic:sim", "explicit_provider", ["hint", "alias", "explicit_provider"]),
        ("zh-Hans-openai", "openai:sim", "explicit_provider", ["hint", "explicit_provider"]),
        ("en-mini", "openai:sim", "explicit_model", ["hint", "alias", "explicit_model"]),
        ("pt-BR", "ollama:sim", "daemon_default", ["hint", "daemon_default"]),
    ],
)
def test_the_one_that_a_hint_names_answers_and_explain_says_the_same(hint, model, reason, steps, daemon):
    with daemon.connect() as quorum:
        answer = quorum.chat("hello", hint=hint)
        told = quorum.call("explain", messages=[{"role": "user", "content": "hello"}], hint=hint)["decision"]
    assert (answer.model_used, answer.decision.reason) == (model, reason)
    assert [step.step for step in answer.decision.steps] == [step["step"] for step in told["steps"]] == steps
    assert (told["targets"], told["reason"]) == (answer.decision.targets, reason)
    assert daemon.rows()[0]["reason"] == reason


@pytest.mark.parametrize("hint", [*(f"pt-BR-{kind}" for kind in KINDS), "pt-br"])
def test_the_model_is_told_the_language_where_the_app_asks_for_it(hint, daemon, upstream):
    with daemon.connect() as quorum:
        quorum.chat("hello", hint=hint, language_hint=True)
    assert SAID in asked(upstream)


@pytest.mark.parametrize("wishes", [{"hint": "pt-BR-claude"}, {"hint": "claude", "language_hint": True}])
def test_it_is_told_nothing_where_the_app_does_not_ask_or_no_language_is_named(wishes, daemon, upstream):
    with daemon.connect() as quorum:
        quorum.chat("hello", **wishes)
    assert "Answer in" not in asked(upstream)


def test_the_language_is_counted_in_the_bound_that_is_held(daemon):
    question = {"messages": [{"role": "user", "content": "hello"}], "hint": "pt-BR-openai"}
    without, told = (
        daemon.call("explain", **question, language_hint=wanted)["decision"]["bound_nano_usd"]
        for wanted in (False, True)
    )
    assert told - without >= len(SAID.split()) * 3_000
    with daemon.connect() as quorum:
        usage_id = quorum.chat(question["messages"], hint=question["hint"], language_hint=True).usage_id
    (row,) = daemon.database("SELECT held FROM journal WHERE usage_id = ? AND entry = 0", usage_id)
    assert row["held"] == told


def test_the_language_is_counted_in_what_a_provider_without_counts_is_charged_for(daemon, upstream):
    upstream.set(no_usage=True)
    with daemon.connect() as quorum:
        without, told = (
            quorum.chat("hello", hint="pt-BR-openai", language_hint=wanted).usage for wanted in (False, True)
        )
    assert (without.source, told.source) == ("estimate", "estimate")
    assert told.prompt_tokens > without.prompt_tokens


def test_a_key_knows_the_same_question_again(daemon, upstream):
    with daemon.connect() as quorum:
        first, again = (
            quorum.chat("hello", hint="pt-BR-claude", language_hint=True, idempotency_key="k") for _ in range(2)
        )
    assert first.usage_id == again.usage_id
    assert SAID in asked(upstream)


def test_daemonctl_takes_a_hint_and_asks_for_its_language(daemon, upstream):
    assert daemon.ctl("chat", "--hint", "pt-BR-claude", "--language-hint", "hello").code == 0
    assert SAID in asked(upstream)
    shown = daemon.ctl("explain", "--hint", "pt-BR-claude", "hello").out
    assert "anthropic:sim: the call names the provider `anthropic`" in shown
    assert "`claude` is an alias" in shown


@pytest.mark.parametrize(
    ("wishes", "fault", "words"),
    [
        ({"hint": "en-cluade"}, UnknownProvider, ["`cluade`", "`claude`", "openai, anthropic, ollama, claude, mini"]),
        ({"hint": "en-claude", "provider": "openai"}, BadRequest, ["`claude`", "`openai`"]),
        ({"hint": "en-claude", "model": "openai:sim"}, BadRequest, ["`claude`", "`openai:sim`"]),
        ({"hint": "klingon-claude"}, BadRequest, ["`klingon`", "language"]),
    ],
)
def test_a_hint_that_is_wrong_is_refused_and_nobody_is_asked(wishes, fault, words, daemon, upstream):
    with daemon.connect() as quorum, pytest.raises(fault) as refused:
        quorum.chat("hello", **wishes)
    assert [word for word in words if word not in refused.value.message] == []
    assert upstream.chats() == []


def test_an_alias_that_hides_a_provider_that_is_found_stops_the_start():
    config = '[aliases]\nopenai = "anthropic"\n'
    with running_daemon.running(config, environment={"OPENAI_API_KEY": "k"}, start=False) as daemon:
        assert daemon.refused().code == 2
        assert not daemon.socket.exists()
