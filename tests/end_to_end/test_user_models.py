"""A user's choices over real connections: who answers, with which parameters, and what is held for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from simulated_provider import Provider

from protocols.errors import BadRequest, NotFound, QuorumError, UnknownProvider

HI = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running(models=["sim", "sim-large"]) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(upstream: Provider) -> Iterator[Daemon]:
    config = provider("one", "openai", upstream.base_url("openai"), local=False)
    config += provider("two", "anthropic", upstream.base_url("anthropic"), local=False)
    config += priced("one:sim", "one:sim-large", "two:sim", "two:sim-large")
    config += '[aliases]\nlarge = "two:sim-large"\nsecond = "two"\n[settings]\ndefault_model = "one:sim"\n'
    with running_daemon.running(config) as daemon:
        eventually(lambda: len(daemon.call("models")["models"]) >= 4, "both providers list their models")
        yield daemon


@pytest.fixture(autouse=True)
def fresh(upstream: Provider) -> None:
    upstream.reset()


def ask(daemon: Daemon, user: str, **more: Any) -> Any:
    return daemon.call("chat", messages=HI, user=user, **more)


def gave(answer: Any) -> tuple[str, str]:
    return answer["model_used"], answer["decision"]["reason"]


def test_each_step_decides_as_soon_as_it_is_chosen_whatever_the_connection(daemon):
    with daemon.connect(app="editor") as editor, daemon.connect(app="other") as other:

        def answered(**more: Any) -> tuple[str, str]:
            return gave(editor.call("chat", messages=HI, user="steps", **more))

        assert answered() == ("one:sim", "daemon_default")
        other.call("user_models.set_default", model="large", user="steps")
        assert answered() == ("two:sim-large", "user_default")
        other.call("conversations.set_default", conversation="c1", model="one:sim-large", user="steps")
        assert answered(conversation="c1") == ("one:sim-large", "conversation_default")
        assert answered(conversation="c2") == ("two:sim-large", "user_default")
        assert answered(provider="one", conversation="c1") == ("one:sim", "explicit_provider")
        other.call("user_models.add", provider="one", model="sim-large", user="steps")
        assert answered(provider="one", conversation="c2") == ("one:sim-large", "explicit_provider")
        assert answered(model="two:sim", conversation="c1") == ("two:sim", "explicit_model")
        other.call("conversations.set_default", conversation="c1", model=None, user="steps")
        assert answered(conversation="c1") == ("two:sim-large", "user_default")
        other.call("user_models.remove", provider="second", user="steps")
        assert answered(conversation="c1") == ("one:sim", "daemon_default")


def test_choices_of_one_user_are_nothing_to_another(daemon):
    daemon.call("user_models.set_default", model="two:sim", user="mine")
    assert gave(ask(daemon, "others")) == ("one:sim", "daemon_default")


@pytest.mark.parametrize("dialect", ["one", "two"])
def test_parameters_reach_the_provider_and_the_decision_tells_them(daemon, upstream, dialect):
    parameters = {"defaults": {"temperature": 0.25, "top_p": 0.5}, "overrides": {"max_tokens": 77}}
    chosen = daemon.call("user_models.add", model=f"{dialect}:sim", user="cool", parameters=parameters)
    assert chosen["model"]["parameters"] == parameters
    answer = ask(daemon, "cool", model=f"{dialect}:sim", max_tokens=500, top_p=0.75)
    (sent,) = [chat["body"] for chat in upstream.chats(bodies=True)]
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"]) == (77, 0.25, 0.75)
    steps = {step["step"]: step["value"] for step in answer["decision"]["steps"]}
    assert steps["parameter_defaults"] == "temperature = 0.25"
    assert steps["parameter_overrides"] == "max_tokens = 77"
    explained = daemon.call("explain", messages=HI, user="cool", model=f"{dialect}:sim", max_tokens=500, top_p=0.75)
    assert explained["decision"] == answer["decision"]


def test_parameters_are_those_of_the_model_and_of_no_other(daemon, upstream):
    daemon.call("user_models.add", model="one:sim", user="picky", parameters={"overrides": {"temperature": 0.25}})
    answer = ask(daemon, "picky", model="one:sim-large")
    (sent,) = [chat["body"] for chat in upstream.chats(bodies=True)]
    assert "temperature" not in sent
    assert [step["step"] for step in answer["decision"]["steps"]] == ["explicit_model"]


@pytest.mark.parametrize(
    ("layer", "said", "longest"), [("overrides", 900, 100), ("defaults", None, 100), ("defaults", 900, 900)]
)
def test_what_is_held_is_the_bound_of_what_is_sent(daemon, layer, said, longest):
    more = {} if said is None else {"max_tokens": said}
    plain = daemon.call("explain", messages=HI, user="plain", model="one:sim", max_tokens=longest)
    daemon.call("user_models.add", model="one:sim", user="bound", parameters={layer: {"max_tokens": 100}})
    bound = daemon.call("explain", messages=HI, user="bound", model="one:sim", **more)["decision"]["bound_nano_usd"]
    assert bound == plain["decision"]["bound_nano_usd"]
    answer = ask(daemon, "bound", model="one:sim", **more)
    assert answer["decision"]["bound_nano_usd"] == bound
    (row,) = daemon.database("SELECT held FROM usage WHERE id = ?", answer["usage_id"])
    assert row["held"] == bound


def test_an_override_of_the_longest_answer_fits_a_budget_that_the_request_would_pass(daemon):
    bound = daemon.call("explain", messages=HI, user="tight", model="one:sim", max_tokens=100)["decision"]
    daemon.call("settings.set", key="month_usd", value=bound["bound_nano_usd"] / 1e9, user="tight")
    with pytest.raises(QuorumError) as refused:
        ask(daemon, "tight", model="one:sim", max_tokens=5000)
    assert refused.value.code == "override_required"
    daemon.call("user_models.add", model="one:sim", user="tight", parameters={"overrides": {"max_tokens": 100}})
    assert ask(daemon, "tight", model="one:sim", max_tokens=5000)["text"]


def test_a_confirmation_is_for_what_was_asked_and_not_for_longer_answers_that_came_to_be_since(daemon, upstream):
    daemon.call("settings.set", key="month_usd", value=0.0001, user="dearer")
    with pytest.raises(QuorumError) as asked:
        ask(daemon, "dearer", model="one:sim")
    daemon.call("user_models.add", model="one:sim", user="dearer", parameters={"overrides": {"max_tokens": 100_000}})
    token = asked.value.detail["override_token"]
    with pytest.raises(QuorumError) as again:
        ask(daemon, "dearer", model="one:sim", override_token=token)
    explained = daemon.call("explain", messages=HI, user="dearer", model="one:sim", override_token=token)
    assert (again.value.code, explained["fault"]["code"]) == ("override_required", "override_required")
    assert again.value.detail["estimated_nano_usd"] > asked.value.detail["estimated_nano_usd"]
    assert upstream.chats() == []
    token = again.value.detail["override_token"]
    assert ask(daemon, "dearer", model="one:sim", override_token=token)["text"]


def test_the_longest_answer_of_a_paid_model_is_not_asked_of_the_local_one_that_stands_in(upstream):
    config = provider("paid", "openai", upstream.base_url(), local=False) + priced("paid:sim")
    config += provider("home", "ollama", upstream.base_url("ollama"))
    config += '[models."home:sim"]\ncontext_tokens = 8192\nquality = 6\n'
    with running_daemon.running(config) as daemon:
        daemon.call("settings.set", key="month_usd", value=0.0001)
        daemon.call("settings.set", key="auto_fallback_to_local", value=True)
        daemon.call("user_models.add", model="paid:sim", parameters={"overrides": {"max_tokens": 16_000}})
        eventually(lambda: daemon.call("models", local=True)["models"], "the local one is there")
        explained = daemon.call("explain", messages=HI, model="paid:sim")["decision"]
        answer = daemon.call("chat", messages=HI, model="paid:sim")
        assert (answer["model_used"], explained) == ("home:sim", answer["decision"])


def test_resolved_is_where_a_call_goes(daemon):
    parameters = {"defaults": {"seed": 7}, "overrides": {}}
    daemon.call("user_models.set_default", model="two:sim", user="asks", parameters=parameters)
    found = daemon.call("user_models.resolved", user="asks")
    assert (found["model"], found["reason"], found["parameters"]) == ("two:sim", "user_default", parameters)
    assert found["targets"] == ask(daemon, "asks")["decision"]["targets"]
    other = daemon.call("user_models.resolved", user="asks", provider="one")
    assert (other["model"], other["reason"]) == ("one:sim", "explicit_provider")
    nowhere = daemon.call("user_models.resolved", user="asks", provider="oen")
    assert (nowhere["model"], nowhere["targets"], nowhere["fault"]["code"]) == (None, [], "unknown_provider")


def test_a_model_that_is_not_listed_is_kept_with_the_nearest(daemon):
    chosen = daemon.call("user_models.add", provider="one", model="sim-larg", user="typo")
    assert chosen["model"]["model"] == "sim-larg"
    (warning,) = chosen["warnings"]
    assert (warning["code"], "`one:sim-large`" in warning["message"]) == ("not_listed", True)
    assert daemon.call("user_models.add", provider="one", model="sim-large", user="typo")["warnings"] == []
    talk = daemon.call("conversations.set_default", conversation="c", model="two:sim-larg", user="typo")
    assert (talk["model"], talk["warnings"][0]["code"]) == ("two:sim-larg", "not_listed")


def test_a_default_made_of_what_one_has_is_looked_up_too(daemon):
    daemon.call("user_models.add", provider="one", model="sim-larg", user="again")
    chosen = daemon.call("user_models.set_default", provider="one", user="again")
    assert (chosen["model"]["model"], chosen["model"]["is_default"]) == ("sim-larg", True)
    assert [warning["code"] for warning in chosen["warnings"]] == ["not_listed"]


def clamped(daemon: Daemon, user: str, **more: Any) -> Any:
    """Chats with a budget for half of what an answer of the usual length may cost."""
    bound = daemon.call("explain", messages=HI, user="plain", model="one:sim")["decision"]["bound_nano_usd"]
    daemon.call("settings.set", key="month_usd", value=bound / 2e9, user=user)
    daemon.call("settings.set", key="clamp_to_budget", value=True, user=user)
    return ask(daemon, user, model="one:sim", **more)


def test_an_answer_that_nobody_limits_is_clamped(daemon, upstream):
    daemon.call("user_models.add", model="one:sim", user="free", parameters={"overrides": {"temperature": 0.5}})
    answer = clamped(daemon, "free")
    (sent,) = [chat["body"] for chat in upstream.chats(bodies=True)]
    assert sent["max_tokens"] < 1024
    assert "clamped" in [warning["code"] for warning in answer["warnings"]]


@pytest.mark.parametrize(("layer", "more"), [("overrides", {}), ("overrides", {"max_tokens": 5}), ("defaults", {})])
def test_a_limit_of_the_users_own_is_never_clamped_so_that_the_decision_tells_what_is_sent(
    daemon, upstream, layer, more
):
    user = f"clamp-{layer}-{len(more)}"
    daemon.call("user_models.add", model="one:sim", user=user, parameters={layer: {"max_tokens": 1000}})
    with pytest.raises(QuorumError) as refused:
        clamped(daemon, user, **more)
    assert refused.value.code == "override_required"
    assert upstream.chats() == []
    explained = daemon.call("explain", messages=HI, user=user, model="one:sim", **more)
    assert explained["fault"]["code"] == "override_required"


def test_a_retired_model_is_kept_with_a_warning_that_names_its_successor(upstream):
    config = provider("one", "openai", upstream.base_url())
    config += '[models."one:old"]\nretired = true\n'
    with running_daemon.running(config) as daemon:
        chosen = daemon.call("user_models.set_default", model="one:old")
        (warning,) = chosen["warnings"]
        assert (chosen["model"]["model"], warning["code"]) == ("old", "retired")
        assert "calls to it are refused" in warning["message"]
        again = daemon.call("user_models.set_default", provider="one")
        assert [w["code"] for w in again["warnings"]] == ["retired"]
        with pytest.raises(QuorumError, match="is retired"):
            daemon.call("chat", messages=HI)


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "x" * 257])
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("conversations.set_default", {"model": "one:sim"}),
        ("user_models.resolved", {}),
        ("chat", {"messages": HI}),
        ("explain", {"messages": HI}),
    ],
)
def test_what_names_no_conversation_is_refused(daemon, method, params, name):
    with pytest.raises(BadRequest, match="conversation"):
        daemon.call(method, conversation=name, **params)


def test_any_other_text_names_a_conversation(daemon):
    for name in ("c 1", "Gespräch/\U0001f600", "a\nb", "x" * 256):
        assert daemon.call("conversations.set_default", conversation=name, model="one:sim", user="talks")["model"]
        assert gave(ask(daemon, "talks", conversation=name)) == ("one:sim", "conversation_default")


def test_only_calls_count_in_the_session_and_not_what_asks_for_the_plan(daemon):
    opened = daemon.call("sessions.open", user="counts")["session"]
    assert (opened["user"].endswith("/counts"), opened["calls"]) == (True, 0)
    daemon.call("explain", messages=HI, user="counts")
    daemon.call("user_models.resolved", user="counts")
    ask(daemon, "counts")
    closed = daemon.call("sessions.close", user="counts")["session"]
    assert (closed["calls"], closed["opened_at"]) == (1, opened["opened_at"])
    assert daemon.call("sessions.close", user="counts") == {"session": None}


def test_a_session_that_is_closed_under_a_call_takes_nothing_from_it(daemon):
    daemon.call("user_models.set_default", model="one:sim", user="busy")
    with daemon.connect() as caller:
        stream = caller.stream("Tell me a long story", user="busy")
        closed = [daemon.call("sessions.close", user="busy")["session"] for _ in stream]
        assert [row and row["calls"] for row in closed] == [1] + [None] * (len(closed) - 1)
        assert stream.answer.text
    assert daemon.call("user_models.get_default", user="busy")["model"]["use_count"] == 1
    assert gave(ask(daemon, "busy")) == ("one:sim", "user_default")


@pytest.mark.parametrize(
    ("said", "fault", "message"),
    [
        ({"provider": "oen", "model": "sim"}, UnknownProvider, "did you mean `one`"),
        ({"model": "oen:sim"}, UnknownProvider, "there are: one, two"),
        ({"provider": "one", "model": "two:sim"}, BadRequest, "leave one of them out"),
        ({}, BadRequest, "name a model"),
        ({"provider": "one"}, NotFound, "has no model at `one` yet"),
        ({"model": ""}, BadRequest, "model"),
        ({"model": "one:sim", "parameters": {"defaults": {"temperature": 3}}}, BadRequest, "temperature"),
        ({"model": "one:sim", "parameters": {"override": {}}}, BadRequest, "override"),
        ({"model": "one:sim", "metadata": {"a": 2**63}}, BadRequest, "metadata"),
        ({"model": "one:sim", "metadata": {"a": float("nan")}}, BadRequest, "metadata"),
        ({"model": "one:sim", "metadata": {"a": float("-inf")}}, BadRequest, "metadata"),
        ({"model": "one:sim", "metadata": {"a": ["x"] * 17}}, BadRequest, "metadata"),
        ({"model": "one:sim", "metadata": {"a": ["x" * 257]}}, BadRequest, "metadata"),
    ],
)
def test_a_wrong_choice_is_refused_and_nothing_is_stored(daemon, said, fault, message):
    with pytest.raises(fault, match=message):
        daemon.call("user_models.set_default", user="wrong", **said)
    assert daemon.call("user_models.list", user="wrong")["models"] == []
    assert daemon.call("user_models.get_default", user="wrong") == {"model": None}


def test_a_number_that_frames_can_not_carry_is_refused_in_a_line_of_json(daemon):
    with daemon.json_lines() as client:
        params = {"model": "one:sim", "user": "huge", "metadata": {"a": 10**30}}
        client.send({"t": "call", "id": 1, "method": "user_models.add", "params": params})
        (heard,) = client.until_end_of(1)
    assert (heard["t"], heard.get("code")) == ("fault", "bad_request")
    assert daemon.call("user_models.list", user="huge") == {"models": []}


def test_a_default_whose_provider_left_the_config_says_so_and_can_be_taken_back(upstream):
    both = [provider(name, "openai", upstream.base_url()) for name in ("one", "two")]
    with running_daemon.running("".join(both)) as daemon:
        daemon.call("user_models.set_default", model="two:sim")
        daemon.stop()
        daemon.configure(both[0])
        daemon.start()
        with pytest.raises(UnknownProvider, match=r"your default model .* is wrong: there is no provider `two`"):
            daemon.call("chat", messages=HI)
        daemon.call("user_models.remove", provider="two")
        assert daemon.call("chat", messages=HI)["model_used"] == "one:sim"


def test_answers_are_counted_and_users_are_listed(upstream):
    with running_daemon.running(provider("one", "openai", upstream.base_url())) as daemon:
        daemon.call("user_models.set_default", model="one:sim", user="u")
        for _ in range(3):
            daemon.call("chat", messages=HI, user="u")
        assert daemon.call("user_models.get_default", user="u")["model"]["use_count"] == 3
        daemon.restart()
        assert daemon.call("user_models.get_default", user="u")["model"]["use_count"] == 3
        (row,) = daemon.call("users")["users"]
        assert (row["user"].endswith("/u"), row["default_model"], row["models"]) == (True, "one:sim", 1)
