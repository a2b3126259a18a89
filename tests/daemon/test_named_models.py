"""Models that arms and settings of the config name: their providers are there."""

from __future__ import annotations

import pytest
import running_daemon
from running_daemon import eventually

from daemon.config import ConfigRefused, parse
from daemon.named_models import check_named_models, not_found

PROVIDERS = {"openai": {"kind": "openai"}, "home": {"kind": "ollama"}}
ALIASES = {"gpt": "openai", "mini": "gpt:mini", "gone": "left:m", "chat": "openai:gpt-4o"}


def config(model, providers=PROVIDERS, place="arm"):
    arms = {"a": {"tier": "budget"}, "b": {"model": model}}
    where = {
        "arm": {"experiments": {"e": {"arms": arms}}},
        "default_model": {"settings": {"default_model": model}},
        "task_model": {"settings": {"orchestrator": {"task_models": {"tag": model}}}},
    }
    return parse({"providers": providers, "aliases": ALIASES, **where[place]})


PLACES = {
    "arm": "[experiments.e]: the arm `b`: ",
    "default_model": "[settings]: `default_model`: ",
    "task_model": "[settings]: `orchestrator.task_models.tag`: ",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", ["openai:gpt-4o", "home:llama3.2:latest", "gpt:x", "mini", "chat", "client:desk:x"])
def test_a_model_of_a_provider_that_is_configured_is_right(model, place):
    check_named_models(config(model, place=place))
    assert not_found(config(model, place=place), ["other"]) == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "opnai:gpt-4o",
            "there is no provider `opnai` for `opnai:gpt-4o`; did you mean `openai`? there are: openai, home",
        ),
        ("zzz:x", "there is no provider `zzz` for `zzz:x`; there are: openai, home"),
        ("gone", "there is no provider `left` for `gone`"),
        ("gpt", "`gpt` names no provider; write <provider>:<model>, or an alias of a model"),
        (
            "minni",
            "`minni` names no provider; write <provider>:<model>, or an alias of a model; did you mean the alias `mini`?",
        ),
    ],
)
def test_one_that_can_not_work_is_refused_with_its_place(model, said, place):
    with pytest.raises(ConfigRefused) as refused:
        check_named_models(config(model, place=place))
    assert str(refused.value).startswith(PLACES[place] + said)


def test_who_names_no_model_or_none_is_right():
    check_named_models(parse({"providers": PROVIDERS, "settings": {"day_usd": 2, "tournament.mode": "vote"}}))


@pytest.mark.parametrize("place", PLACES)
def test_where_providers_are_found_one_that_was_not_is_warned_about(place):
    named = config("opnai:gpt-4o", {}, place)
    check_named_models(named)
    assert not_found(named, ["opnai", "simulated"]) == []
    said = "there is no provider `opnai` for `opnai:gpt-4o`; did you mean `openai`? there are: openai"
    assert not_found(named, ["openai"]) == [PLACES[place] + said]
    (nobody_looked,) = not_found(named, None)
    assert (
        nobody_looked
        == f"{PLACES[place]}no provider is configured; whether there is the one of `opnai:gpt-4o` shows at the start"
    )
    with pytest.raises(ConfigRefused, match="names no provider"):
        check_named_models(config("gpt-4o", {}, place))


def test_the_daemon_says_so_and_a_call_that_is_in_such_an_arm_is_logged():
    text = "[experiments.e.arms]\na = { model = 'nowhere:x' }\nb = { model = 'nowhere:y' }\n"
    with running_daemon.running(text) as daemon:
        assert "shows at the start" in daemon.check().err
        (warned,) = [w for w in daemon.call("status")["warnings"] if "arm `a`" in w]
        assert warned.startswith("[experiments.e]: the arm `a`: there is no provider `nowhere` for `nowhere:x`")
        with pytest.raises(Exception, match="there is no provider `nowhere`"):
            daemon.call("chat", messages=[{"role": "user", "content": "hello"}])
        (line, *_) = eventually(
            lambda: [line for line in daemon.log() if line["event"] == "arm_failed"], "it is logged"
        )
        assert (line["level"], line["arm"][:2], line["code"]) == ("warning", "e/", "unknown_provider")
        assert "there is no provider `nowhere`" in line["why"]
