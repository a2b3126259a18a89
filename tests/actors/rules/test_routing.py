import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.rules.candidates import World
from actors.rules.catalogue import Catalogue, ModelConfig
from actors.rules.experiments import Drawn
from actors.rules.matrix import TaskConfig
from actors.rules.names import resolve_choice, unlisted_why
from actors.rules.orchestrator import Wishes
from actors.rules.pricing import Price
from actors.rules.routing import OF_THE_CALL, Asked, plan
from protocols.errors import BadRequest, UnknownProvider
from protocols.provider import ProviderView


def view(name, *models, kind="openai", state="healthy", **more):
    fields = {
        "why": None,
        "local": kind == "ollama",
        "simulated": False,
        "billing_on_cancel": "emitted",
        "needs_key": True,
    }
    return ProviderView(name=name, kind=kind, host="h", state=state, models=models, **(fields | more))


OPENAI = view("openai", "gpt-4o", "gpt-4o-mini")
CLAUDE = view("anthropic", "opus-4", kind="anthropic")
OLLAMA = view("ollama", "llama3:8b", kind="ollama")
SIMULATED = view("sim", "sim", kind="simulated", simulated=True)
VIEWS = (OPENAI, CLAUDE, OLLAMA, SIMULATED)
ALIASES = {"claude": "anthropic", "fast": "openai:gpt-4o-mini", "gone": "nowhere:x", "lost": "missing"}
RETIRED = {
    "openai:gpt-3": ModelConfig(retired=True, successor="openai:gpt-4o"),
    "openai:gpt-2": ModelConfig(retired=True),
}


class Prices:
    """Dollars that are easy to reckon with: the large one costs ten times the small one."""

    def find(self, origin_host, provider_name, kind, model):
        del origin_host, provider_name, kind
        million = {"gpt-4o": 2_500_000, "gpt-4o-mini": 250_000}.get(model)
        return million and Price(input=million, output=million, version="test")

    def context(self, *_):
        return None


def planned(views=VIEWS, entries=None, tasks=None, **asked):
    usual = {"model": None, "provider": None, "allow_fallback": None, "default_model": None}
    catalogue = Catalogue(entries or {}, Prices())
    return plan(Asked(**(usual | asked)), World(tuple(views), entries or {}, ALIASES, tasks or {}, catalogue.infos))


def targets(made):
    return [str(target) for target in made.targets]


@pytest.mark.parametrize(
    ("asked", "target", "reason"),
    [
        ({"model": "openai:gpt-4o"}, "openai:gpt-4o", "explicit_model"),
        ({"model": "openai:not-listed"}, "openai:not-listed", "explicit_model"),
        ({"model": "ollama:llama3:8b"}, "ollama:llama3:8b", "explicit_model"),
        ({"model": "claude:opus-4"}, "anthropic:opus-4", "explicit_model"),
        ({"model": "fast"}, "openai:gpt-4o-mini", "explicit_model"),
        ({"model": "sim:sim"}, "sim:sim", "explicit_model"),
        ({"model": "gpt-4o", "provider": "openai"}, "openai:gpt-4o", "explicit_model"),
        ({"model": "openai:gpt-4o", "provider": "openai"}, "openai:gpt-4o", "explicit_model"),
        ({"model": "llama3:8b", "provider": "ollama"}, "ollama:llama3:8b", "explicit_model"),
        ({"model": "claude:opus-4", "provider": "anthropic"}, "anthropic:opus-4", "explicit_model"),
        ({"model": "fast", "provider": "openai"}, "openai:gpt-4o-mini", "explicit_model"),
        ({"model": "x", "provider": "openai", "default_model": "ollama:y"}, "openai:x", "explicit_model"),
        ({"provider": "anthropic"}, "anthropic:opus-4", "explicit_provider"),
        ({"provider": "claude"}, "anthropic:opus-4", "explicit_provider"),
        ({"provider": "ollama", "default_model": "openai:gpt-4o"}, "ollama:llama3:8b", "explicit_provider"),
        ({"provider": "sim"}, "sim:sim", "explicit_provider"),
    ],
)
def test_the_explicit_choice_wins_and_has_no_fallback(asked, target, reason):
    made = planned(**asked)
    assert (targets(made), made.reason, made.fault) == ([target], reason, None)
    assert made.steps[-1].value == target


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ({"model": "opnai:gpt-4o"}, "unknown_provider", "no provider `opnai`; did you mean `openai`"),
        ({"model": "zzz:gpt-4o"}, "unknown_provider", "there are: openai, anthropic, ollama, sim"),
        ({"model": "llama3:8b"}, "unknown_provider", "there is no provider `llama3`"),
        ({"provider": "cluade"}, "unknown_provider", "did you mean `claude`"),
        (
            {"provider": "lost"},
            "unknown_provider",
            "no provider `missing`, which the alias `lost` stands for; there are",
        ),
        (
            {"provider": "fast"},
            "unknown_provider",
            "no provider `openai:gpt-4o-mini`, which the alias `fast` stands for",
        ),
        ({"model": "gpt-4o"}, "unknown_model", "write <provider>:<model>, perhaps `openai:gpt-4o`"),
        ({"model": "opus"}, "unknown_model", "names no provider"),
        ({"model": "gone"}, "unknown_provider", "no provider `nowhere`"),
        ({"model": "openai:gpt-4o", "provider": "anthropic"}, "bad_request", "`openai`, `provider` says `anthropic`"),
        ({"model": "fast", "provider": "claude"}, "bad_request", "leave one of them out"),
        ({"default_model": "opnai:x"}, "unknown_provider", "no provider `opnai`"),
    ],
)
def test_what_names_nothing_is_refused_with_what_is_near(asked, code, message):
    made = planned(**asked)
    assert (made.targets, made.fault.code) == ([], code)
    assert message in made.fault.message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("openai:gpt-3", "`openai:gpt-3` is retired; its successor is `openai:gpt-4o`"),
        ("openai:gpt-2", "`openai:gpt-2` is retired"),
    ],
)
def test_a_retired_model_is_refused_with_its_successor(model, message):
    made = planned(entries=RETIRED, model=model)
    assert (made.fault.code, made.fault.message) == ("unknown_model", message)
    assert made.rejected[0].model == model


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("healthy", None),
        ("degraded", None),
        ("unknown", None),
        ("open", "provider_unavailable"),
        ("rate_limited", "rate_limited"),
        ("misconfigured", "misconfigured"),
    ],
)
def test_a_provider_that_is_not_available_is_said_and_not_replaced(state, code):
    made = planned([replace(OPENAI, state=state, why="because"), CLAUDE], model="openai:gpt-4o")
    assert (made.fault and made.fault.code) == code
    if code is not None:
        assert "because" in made.fault.message
        assert [rejected.code for rejected in made.rejected] == [code]


def test_a_provider_that_is_not_available_is_named_once():
    away = [replace(OPENAI, state="open", why="provider `openai` can't be reached: refused"), CLAUDE]
    named = planned(away, model="openai:gpt-4o")
    assert "provider `openai` is open: it can't be reached: refused; it is tried" in named.fault.message
    passed = planned(away, task="dialogue", wishes=Wishes("premium")).rejected
    assert [why.why for why in passed] == [
        "would have been chosen, but provider `openai` is open: it can't be reached: refused"
    ] * len(passed)
    assert passed


@pytest.mark.parametrize(
    ("asked", "target", "reason", "language"),
    [
        ({"hint": "en-claude"}, "anthropic:opus-4", "explicit_provider", "en"),
        ({"hint": "zh-hans-ollama"}, "ollama:llama3:8b", "explicit_provider", "zh-Hans"),
        ({"hint": "claude", "default_model": "openai:x"}, "anthropic:opus-4", "explicit_provider", None),
        ({"hint": "en-sim"}, "sim:sim", "explicit_provider", "en"),
        ({"hint": "en-fast"}, "openai:gpt-4o-mini", "explicit_model", "en"),
        ({"hint": "fast", "default_model": "openai:x"}, "openai:gpt-4o-mini", "explicit_model", None),
        ({"hint": "en-claude", "provider": "anthropic"}, "anthropic:opus-4", "explicit_provider", "en"),
        ({"hint": "en-anthropic", "provider": "claude"}, "anthropic:opus-4", "explicit_provider", "en"),
        ({"hint": "en-openai", "model": "gpt-x"}, "openai:gpt-x", "explicit_model", "en"),
        ({"hint": "en-claude", "model": "anthropic:x"}, "anthropic:x", "explicit_model", "en"),
        ({"hint": "en-fast", "provider": "openai"}, "openai:gpt-4o-mini", "explicit_model", "en"),
        ({"hint": "en-fast", "model": "gpt-4o-mini"}, "openai:gpt-4o-mini", "explicit_model", "en"),
        ({"hint": "en-fast", "model": "openai:gpt-4o-mini"}, "openai:gpt-4o-mini", "explicit_model", "en"),
        ({"hint": "en-openai", "model": "fast"}, "openai:gpt-4o-mini", "explicit_model", "en"),
    ],
)
def test_a_provider_that_a_hint_names_is_an_explicit_choice(asked, target, reason, language):
    made = planned(**asked)
    assert (targets(made), made.reason, made.fault, made.language) == ([target], reason, None, language)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"hint": "pt-BR", "default_model": "ollama:x"}, "daemon_default"),
        ({"hint": "pt-BR", "model": "openai:x"}, "explicit_model"),
        ({"hint": "pt-BR"}, "first_available"),
    ],
)
def test_a_language_alone_chooses_nothing_and_leaves_the_fallbacks(asked, reason):
    made, without = planned(**asked), planned(**(asked | {"hint": None}))
    assert (made.reason, made.language, made.targets) == (reason, "pt-BR", without.targets)
    assert [(step.step, step.value) for step in made.steps[:1]] == [("hint", "pt-BR")]
    assert made.steps[1:] == without.steps


def test_the_steps_say_what_the_hint_named_and_that_an_alias_was_one():
    assert [(step.step, step.value, step.why) for step in planned(hint="en-claude").steps] == [
        ("hint", "claude", "the hint `en-claude` names the language `en` and `claude`"),
        ("alias", "anthropic", "`claude` is an alias"),
        ("explicit_provider", "anthropic:opus-4", "the call names the provider `anthropic`"),
    ]
    for asked in (
        {"hint": "fast"},
        {"hint": "fast", "model": "openai:gpt-4o-mini"},
        {"hint": "fast", "provider": "openai"},
    ):
        assert [step.step for step in planned(**asked).steps] == ["hint", "alias", "explicit_model"]
    assert [step.step for step in planned(hint="claude", model="x").steps] == ["hint", "alias", "explicit_model"]
    assert [step.step for step in planned(hint="openai").steps] == ["hint", "explicit_provider"]


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ({"hint": "en-cluade"}, "unknown_provider", "no provider or alias `cluade`; did you mean `claude`"),
        ({"hint": "klingon-claude"}, "bad_request", "`klingon`, before `claude`, is no language tag"),
        ({"hint": "en-gone"}, "unknown_provider", "no provider `nowhere`"),
        ({"hint": "en-lost"}, "unknown_provider", "no provider `missing`, which the alias `lost` stands for"),
        ({"hint": "en-claude", "provider": "openai"}, "bad_request", "`provider` says `openai`, `hint` says `claude`"),
        ({"hint": "en-fast", "provider": "claude"}, "bad_request", "`provider` says `claude`, `hint` says `fast`"),
        ({"hint": "claude", "model": "openai:gpt-4o"}, "bad_request", "`model` says `openai:gpt-4o`, `hint`"),
        ({"hint": "claude", "model": "fast"}, "bad_request", "`model` says `fast`, `hint` says `claude`"),
        ({"hint": "fast", "model": "gpt-4o"}, "bad_request", "`model` says `gpt-4o`, `hint` says `fast`"),
        ({"hint": "fast", "model": "openai:gpt-4o"}, "bad_request", "leave one of them out"),
        ({"hint": "claude", "provider": "opnai"}, "unknown_provider", "no provider `opnai`"),
        ({"hint": "claude", "model": "opnai:x", "provider": "openai"}, "bad_request", "`hint` says `claude`"),
    ],
)
def test_a_hint_that_names_nothing_or_contradicts_is_refused(asked, code, message):
    made = planned(**asked)
    assert (made.targets, made.fault.code) == ([], code)
    assert message in made.fault.message


def test_a_hint_that_names_a_provider_has_a_fallback_only_where_the_call_allows_it():
    views = (DOWN, CLAUDE)
    assert planned(views, hint="en-openai").fault.code == "provider_unavailable"
    assert targets(planned(views, hint="en-openai", allow_fallback=True)) == ["anthropic:opus-4"]


def test_a_name_that_the_provider_itself_has_goes_before_an_alias():
    own = view("other", "fast")
    assert targets(planned((OPENAI, own), model="fast", provider="other")) == ["other:fast"]
    entry = {"anthropic:fast": ModelConfig()}
    assert targets(planned((OPENAI, CLAUDE), entry, model="fast", provider="claude")) == ["anthropic:fast"]
    assert targets(planned((OPENAI, own), model="fast")) == ["openai:gpt-4o-mini"]


def test_an_alias_in_a_hint_is_the_alias_also_where_the_provider_has_a_model_of_that_name():
    both = view("openai", "fast", "gpt-4o-mini")
    assert targets(planned((both,), hint="en-fast", provider="openai")) == ["openai:gpt-4o-mini"]


DOWN = replace(OPENAI, state="open")
LIMITED = replace(OPENAI, state="rate_limited")


@pytest.mark.parametrize(
    ("views", "asked", "found", "reason"),
    [
        ((DOWN, CLAUDE), {"default_model": "openai:x"}, ["anthropic:opus-4"], "provider_unhealthy_fallback"),
        ((LIMITED, CLAUDE), {"default_model": "openai:x"}, ["anthropic:opus-4"], "rate_limited_fallback"),
        ((DOWN, CLAUDE), {"default_model": "openai:x", "allow_fallback": False}, [], None),
        ((DOWN, CLAUDE), {"model": "openai:x"}, [], None),
        ((DOWN, CLAUDE), {"provider": "openai"}, [], None),
        (
            (DOWN, CLAUDE),
            {"model": "openai:x", "allow_fallback": True},
            ["anthropic:opus-4"],
            "provider_unhealthy_fallback",
        ),
        (
            (DOWN, CLAUDE),
            {"provider": "openai", "allow_fallback": True},
            ["anthropic:opus-4"],
            "provider_unhealthy_fallback",
        ),
        ((DOWN, SIMULATED), {"default_model": "openai:x"}, [], None),
        (
            (DOWN, CLAUDE, SIMULATED),
            {"model": "openai:x", "allow_fallback": True, "default_model": "sim:sim"},
            ["anthropic:opus-4"],
            "provider_unhealthy_fallback",
        ),
        ((DOWN, CLAUDE), {}, ["anthropic:opus-4"], "first_available"),
        (
            (OPENAI, CLAUDE),
            {"model": "openai:x", "allow_fallback": True, "default_model": "anthropic:y"},
            ["openai:x", "anthropic:y", "openai:gpt-4o", "anthropic:opus-4"],
            "explicit_model",
        ),
    ],
)
def test_a_fallback_is_taken_where_it_is_allowed_and_never_to_a_simulated_model(views, asked, found, reason):
    made = planned(views, **asked)
    assert targets(made) == found
    assert (made.reason if found else None) == reason
    assert (made.fault is None) == bool(found)


@pytest.mark.parametrize(
    ("views", "entries", "asked", "found", "reason"),
    [
        (VIEWS, {}, {"default_model": "ollama:llama3:8b"}, "ollama:llama3:8b", "daemon_default"),
        (VIEWS, {}, {"default_model": "fast"}, "openai:gpt-4o-mini", "daemon_default"),
        (VIEWS, {}, {"default_model": "sim:sim"}, "sim:sim", "daemon_default"),
        (VIEWS, {}, {}, "openai:gpt-4o", "first_available"),
        ((SIMULATED, CLAUDE), {}, {}, "anthropic:opus-4", "first_available"),
        ((SIMULATED,), {}, {}, "sim:sim", "first_available"),
        ((view("empty"), CLAUDE), {}, {}, "anthropic:opus-4", "first_available"),
        (VIEWS, {"openai:mine": ModelConfig()}, {}, "openai:mine", "first_available"),
        (VIEWS, {"openai:old": ModelConfig(retired=True)}, {}, "openai:gpt-4o", "first_available"),
        (VIEWS, {"anthropic:mine": ModelConfig()}, {"provider": "claude"}, "anthropic:mine", "explicit_provider"),
        (VIEWS, {"openai:gpt-4o": ModelConfig(retired=True)}, {}, "openai:gpt-4o-mini", "first_available"),
    ],
)
def test_without_a_choice_the_default_answers_and_then_the_first_available(views, entries, asked, found, reason):
    made = planned(views, entries, **asked)
    assert (targets(made)[0], made.reason) == (found, reason)


@pytest.mark.parametrize(
    ("views", "asked", "message"),
    [
        ((), {}, "no provider is configured"),
        ((view("empty"),), {}, "no provider has listed a model yet"),
        ((view("empty"),), {"provider": "empty"}, "provider `empty` has listed no models yet"),
    ],
)
def test_with_nothing_to_choose_from_it_says_what_to_do(views, asked, message):
    made = planned(views, **asked)
    assert made.fault.code == "no_eligible_model"
    assert message in made.fault.message


def test_no_target_comes_twice():
    made = planned(allow_fallback=True, model="openai:gpt-4o", default_model="openai:gpt-4o")
    assert targets(made) == ["openai:gpt-4o", "anthropic:opus-4", "ollama:llama3:8b"]


class TestRetiredByItsVendor:
    VIEWS = (view("anthropic", "claude-3-5-sonnet-20241022", "claude-sonnet-4-6", kind="anthropic"),)
    OLD = "anthropic:claude-3-5-sonnet-20241022"

    def test_it_is_refused_with_its_successor(self):
        made = planned(self.VIEWS, model=self.OLD)
        assert made.targets == []
        assert made.fault.code == "unknown_model"
        assert made.fault.message == f"`{self.OLD}` is retired; its successor is `anthropic:claude-sonnet-4-6`"
        assert made.fault.detail == {"model": self.OLD, "successor": "anthropic:claude-sonnet-4-6"}

    def test_it_is_not_what_its_provider_comes_to(self):
        assert targets(planned(self.VIEWS, provider="anthropic")) == ["anthropic:claude-sonnet-4-6"]
        assert targets(planned(self.VIEWS)) == ["anthropic:claude-sonnet-4-6"]

    def test_the_config_knows_better(self):
        entries = {self.OLD: ModelConfig(retired=False)}
        assert targets(planned(self.VIEWS, entries, model=self.OLD)) == [self.OLD]

    def test_a_router_may_still_have_it(self):
        router = view("openrouter", "anthropic/claude-3.5-sonnet")
        asked = "openrouter:anthropic/claude-3.5-sonnet"
        assert targets(planned((router,), model=asked)) == [asked]


ROWS = [
    ({"model": "anthropic:opus-4"}, "anthropic:opus-4", "explicit_model"),
    ({"provider": "ollama", "user_models": ("ollama:mine", "openai:own")}, "ollama:mine", "explicit_provider"),
    ({"conversation_model": "anthropic:talk"}, "anthropic:talk", "conversation_default"),
    ({"task": "dialogue", "wishes": Wishes("balanced")}, "openai:gpt-4o-mini", "orchestrator"),
    ({"task": "dialogue", "task_model": "anthropic:talker"}, "anthropic:talker", "task_model"),
    ({"user_default": "openai:own"}, "openai:own", "user_default"),
    ({"default_model": "ollama:house"}, "ollama:house", "daemon_default"),
    ({}, "openai:gpt-4o", "first_available"),
]
"""The order of what decides, highest first: what is said, what it gives alone, and its reason."""


@pytest.mark.parametrize(("said", "target", "reason"), ROWS)
def test_each_step_alone_decides(said, target, reason):
    made = planned(**said)
    assert (targets(made)[0], made.reason) == (target, reason)
    assert (made.steps[-1].step, made.steps[-1].value) == (reason, target)


@pytest.mark.parametrize(
    ("higher", "lower"),
    [(h, low) for h in range(len(ROWS)) for low in range(h + 1, len(ROWS)) if (h, low) not in {(0, 1), (3, 4)}],
)
def test_each_step_comes_before_each_lower_one_which_stands_by(higher, lower):
    said, target, reason = ROWS[higher]
    below, second, _ = ROWS[lower]
    made = planned(allow_fallback=True, **(below | said))
    assert (targets(made)[:2], made.reason) == ([target, second], reason)


def test_beside_a_model_its_provider_is_the_step_below():
    asked = {"model": "ollama:x", "provider": "ollama", "user_models": ("ollama:mine",), "user_default": "openai:own"}
    assert targets(planned(**asked)) == ["ollama:x"]
    assert targets(planned(**asked, allow_fallback=True))[:3] == ["ollama:x", "ollama:mine", "openai:own"]


def test_all_steps_at_once_stand_in_their_order_without_repeats():
    said = {key: value for row, _, _ in ROWS[2:] for key, value in row.items()}
    made = planned(**said)
    assert targets(made) == [
        "anthropic:talk",
        "openai:gpt-4o-mini",
        "openai:own",
        "ollama:house",
        "openai:gpt-4o",
        "anthropic:opus-4",
        "ollama:llama3:8b",
    ]
    names = ("conversation_model", "user_default", "default_model")
    assert targets(planned(**dict.fromkeys(names, "openai:gpt-4o")))[:2] == ["openai:gpt-4o", "anthropic:opus-4"]


def test_an_explicit_provider_with_another_default_of_the_user_ends_at_the_explicit_provider():
    own = {"user_default": "openai:own", "user_models": ("openai:own",)}
    made = planned(provider="claude", **own)
    assert (targets(made), made.reason) == (["anthropic:opus-4"], "explicit_provider")
    made = planned([replace(CLAUDE, state="open"), OPENAI], provider="claude", **own)
    assert (made.targets, made.fault.code) == ([], "provider_unavailable")


def test_a_users_model_of_a_provider_is_found_by_the_providers_alias():
    assert targets(planned(provider="claude", user_models=("openai:a", "anthropic:mine"))) == ["anthropic:mine"]


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"user_default": "left:m", "default_model": "openai:x"}, "your default model (`daemonctl prefer`)"),
        ({"conversation_model": "left:m", "user_default": "openai:x"}, "the conversation's default model"),
    ],
)
def test_a_default_whose_provider_is_gone_is_told_with_where_it_stands_and_not_replaced(said, where):
    made = planned(**said)
    assert (made.targets, made.fault.code) == ([], "unknown_provider")
    assert made.fault.message.startswith(f"{where} is wrong: there is no provider `left`")


@pytest.mark.parametrize(
    ("model", "provider", "target", "why"),
    [
        ("openai:gpt-4o", None, "openai:gpt-4o", None),
        ("gpt-4o", "openai", "openai:gpt-4o", None),
        ("fast", None, "openai:gpt-4o-mini", None),
        ("openai:mine", None, "openai:mine", None),
        ("empty:any", None, "empty:any", None),
        (None, "claude", "anthropic:", None),
        ("opus-5", "claude", "anthropic:opus-5", "does not list `opus-5`, which is kept all the same; the nearest is"),
        ("zzz", "claude", "anthropic:zzz", "`daemonctl models` lists what there is"),
    ],
)
def test_a_choice_is_a_target_and_one_that_its_provider_does_not_list_is_warned_about(model, provider, target, why):
    world = World((*VIEWS, view("empty")), {"openai:mine": ModelConfig()}, ALIASES)
    chosen = resolve_choice(model, provider, world)
    assert str(chosen) == target
    warning = unlisted_why(chosen, world)
    assert (warning is None) if why is None else (why in warning)


def test_a_choice_of_nothing_or_of_a_provider_that_is_not_there_is_refused():
    world = World(VIEWS, {}, ALIASES)
    with pytest.raises(UnknownProvider, match="did you mean `anthropic`"):
        resolve_choice(None, "antropic", world)
    with pytest.raises(BadRequest, match="name a model"):
        resolve_choice(None, None, world)


NAMES = st.none() | st.sampled_from(
    ["openai:gpt-4o", "anthropic:opus-4", "ollama:x", "sim:sim", "gone:m", "fast", "gpt-4o"]
)


STRENGTHS = st.lists(st.sampled_from(["narrative", "thematic_analysis", "speed"]), max_size=2).map(tuple)
ENTRIES = st.dictionaries(
    st.sampled_from(["openai:gpt-4o", "openai:x", "anthropic:opus-4", "ollama:llama3:8b", "sim:sim"]),
    st.builds(
        ModelConfig,
        quality=st.none() | st.floats(0, 10),
        strengths=st.none() | STRENGTHS,
        local=st.none() | st.booleans(),
    ),
)
STATES = st.sampled_from(["healthy", "degraded", "unknown", "open", "rate_limited", "misconfigured"])
WISHES = st.none() | st.builds(
    Wishes,
    tier=st.sampled_from(["budget", "balanced", "premium"]),
    prefer_local=st.booleans(),
    allow_paid=st.booleans(),
)
DRAWN = st.none() | st.builds(
    lambda model, tier, of_task: Drawn("e/a", None if tier else model, tier, of_task),
    st.sampled_from(["openai:gpt-4o", "gone:x"]),
    st.none() | st.sampled_from(["budget", "premium"]),
    st.booleans(),
)
MODES = ("cost_optimized", "quality_first", "balanced")
SETTINGS = st.fixed_dictionaries(
    {
        "user_models": st.lists(st.sampled_from(["openai:gpt-4o", "anthropic:x", "ollama:y", "gone:z"])).map(tuple),
        "conversation_model": NAMES,
        "user_default": NAMES,
        "default_model": NAMES,
        "task": st.none() | st.sampled_from(["dialogue", "theme_analysis", "no such task"]),
        "wishes": WISHES,
        "task_model": NAMES,
        "drawn": DRAWN,
        "allow_fallback": st.none() | st.booleans(),
        "mode": st.sampled_from(["user_choice", "cost_optimized", "quality_first", "balanced"]),
    }
)


@given(
    model=st.sampled_from(["openai:gpt-4o", "anthropic:new", "claude:opus-4", "fast", "sim:sim"]),
    states=st.tuples(STATES, STATES, STATES, STATES),
    entries=ENTRIES,
    settings=SETTINGS,
)
def test_an_available_model_that_the_call_names_is_the_first_target_whatever_else_is_set(
    model, states, entries, settings
):
    meant = {"claude:opus-4": "anthropic:opus-4", "fast": "openai:gpt-4o-mini"}.get(model, model)
    views = [
        replace(v, state="healthy" if meant.startswith(f"{v.name}:") else state)
        for v, state in zip(VIEWS, states, strict=True)
    ]
    made = planned(views, entries, model=model, **settings)
    assert (targets(made)[0], made.reason, made.fault, made.arm) == (meant, "explicit_model", None, None)
    assert len(set(made.targets)) == len(made.targets)


@given(states=st.tuples(STATES, STATES, STATES, STATES), entries=ENTRIES, settings=SETTINGS)
def test_a_plan_has_targets_that_can_be_called_or_a_fault_and_is_the_same_each_time(states, entries, settings):
    views = [replace(v, state=state) for v, state in zip(VIEWS, states, strict=True)]
    made = planned(views, entries, **settings)
    assert (made.fault is None) == bool(made.targets)
    away = {v.name for v in views if v.state in {"open", "rate_limited", "misconfigured"}}
    assert not any(target.provider in away for target in made.targets)
    assert targets(made) == targets(planned(views, entries, **settings))
    at_tier = made.targets[made.reason in OF_THE_CALL :] if made.wishes and made.wishes.tier == "budget" else []
    paid = [target for target in at_tier if not World(tuple(views), entries, ALIASES).is_local(target)]
    assert [t for t in made.targets if "tier_exceeded" in made.flags_at(t)] == paid
    assert not paid or made.wishes.allow_paid


LOCAL = {"ollama:llama3:8b": ModelConfig(quality=6.5, strengths=("narrative",))}
AWAY = [replace(OPENAI, state="misconfigured", why="the key is wrong"), CLAUDE, OLLAMA]


@pytest.mark.parametrize(
    ("wishes", "task", "entries", "found", "flags"),
    [
        (Wishes("budget"), "dialogue", LOCAL, "ollama:llama3:8b", []),
        (Wishes("budget", allow_paid=True), "theme_analysis", LOCAL, "openai:gpt-4o", ["tier_exceeded"]),
        (Wishes("budget", allow_paid=True), "dialogue", LOCAL, "ollama:llama3:8b", []),
        (Wishes("balanced"), "dialogue", LOCAL, "openai:gpt-4o-mini", []),
        (Wishes("premium"), "dialogue", LOCAL, "openai:gpt-4o", []),
        (Wishes("premium"), None, LOCAL, "openai:gpt-4o", []),
        (
            Wishes("premium", prefer_local=True),
            "poem",
            LOCAL | {"ollama:big": ModelConfig(quality=7.2)},
            "ollama:big",
            [],
        ),
    ],
)
def test_the_orchestrator_gives_the_model_of_task_and_tier(wishes, task, entries, found, flags):
    made = planned(entries=entries, tasks={"poem": TaskConfig()}, task=task, wishes=wishes, user_default="openai:own")
    assert (targets(made)[0], made.reason, made.flags_at(made.targets[0])) == (found, "orchestrator", flags)
    assert f"at the tier `{wishes.tier}`" in made.steps[-1].why


def test_no_model_for_a_task_is_told_with_the_way_out_and_no_default_steps_in():
    made = planned(entries=LOCAL, task="theme_analysis", wishes=Wishes("budget"), user_default="openai:own")
    assert (made.targets, made.fault.code) == ([], "no_eligible_model")
    assert "`theme_analysis` at the tier `budget`" in made.fault.message
    assert "allow paid models" in made.fault.message
    assert made.fault.detail == {"task_type": "theme_analysis", "quality_tier": "budget"}


def test_what_stands_by_a_free_model_of_the_budget_tier_is_free_too():
    asked = {"task": "dialogue", "user_default": "openai:own", "default_model": "ollama:other"}
    made = planned(entries=LOCAL, wishes=Wishes("budget"), **asked)
    assert targets(made) == ["ollama:llama3:8b", "ollama:other"]
    refused = {each.model: each for each in made.rejected}
    assert refused["openai:own"].code == "no_eligible_model"
    assert "is not free" in refused["openai:own"].why
    assert "openai:own" in targets(planned(entries=LOCAL, wishes=Wishes("budget", allow_paid=True), **asked))
    house = LOCAL | {"anthropic:opus-4": ModelConfig(local=True)}
    assert "anthropic:opus-4" in targets(planned(entries=house, wishes=Wishes("budget"), **asked))


CLOUD_LOCAL = LOCAL | {"openai:house": ModelConfig(local=True)}


@pytest.mark.parametrize(
    ("asked", "found", "over"),
    [
        ({"conversation_model": "openai:talk"}, ["openai:talk", "ollama:llama3:8b", "openai:house"], []),
        ({"conversation_model": "gone:x"}, [], []),
        (
            {"model": "openai:x", "allow_fallback": True},
            ["openai:x", "ollama:llama3:8b", "openai:house"],
            [],
        ),
        (
            {"provider": "claude", "allow_fallback": True},
            ["anthropic:opus-4", "ollama:llama3:8b", "openai:house"],
            [],
        ),
        (
            {"model": "openai:x", "provider": "openai", "allow_fallback": True, "user_models": ("openai:own",)},
            ["openai:x", "ollama:llama3:8b", "openai:house"],
            [],
        ),
        (
            {"conversation_model": "openai:talk", "wishes": Wishes("budget", allow_paid=True)},
            ["openai:talk", "ollama:llama3:8b", "anthropic:own", "openai:house", "anthropic:opus-4"],
            ["anthropic:own", "anthropic:opus-4"],
        ),
        (
            {"wishes": Wishes("budget", allow_paid=True)},
            ["ollama:llama3:8b", "anthropic:own", "openai:house", "anthropic:opus-4"],
            ["anthropic:own", "anthropic:opus-4"],
        ),
        (
            {"conversation_model": "openai:talk", "drawn": Drawn("e/a", None, "budget", of_task=True)}
            | {"arm_wishes": Wishes("budget"), "wishes": Wishes("premium")},
            ["openai:talk", "ollama:llama3:8b", "openai:house"],
            [],
        ),
        (
            {"drawn": Drawn("e/a", "openai:gpt-4o", None, of_task=True)},
            ["openai:gpt-4o", "anthropic:own", "openai:house", "ollama:llama3:8b", "anthropic:opus-4"],
            [],
        ),
        (
            {"drawn": Drawn("e/a", None, "budget", of_task=True), "task": "theme_analysis"}
            | {"arm_wishes": Wishes("budget", allow_paid=True)},
            ["openai:gpt-4o", "anthropic:own", "openai:house", "ollama:llama3:8b", "anthropic:opus-4"],
            ["openai:gpt-4o", "anthropic:own", "anthropic:opus-4"],
        ),
        (
            {"wishes": None, "user_default": None, "drawn": Drawn("e/a", None, "budget", of_task=False)}
            | {"arm_wishes": Wishes("budget")},
            ["openai:house", "ollama:llama3:8b"],
            [],
        ),
        (
            {"wishes": None, "drawn": Drawn("e/a", None, "budget", of_task=False), "arm_wishes": Wishes("budget")},
            ["anthropic:own", "openai:house", "ollama:llama3:8b", "anthropic:opus-4"],
            [],
        ),
    ],
)
def test_what_stands_by_in_the_budget_tier_is_free_or_flagged_but_for_the_calls_own_choice(asked, found, over):
    usual = {"task": "dialogue", "wishes": Wishes("budget"), "user_default": "anthropic:own", "mode": "quality_first"}
    made = planned(entries=CLOUD_LOCAL | {"openai:house": ModelConfig(local=True, quality=9.0)}, **(usual | asked))
    assert targets(made) == found
    assert [str(target) for target in made.targets if made.flags_at(target)] == over


@pytest.mark.parametrize(
    "first",
    [
        {"conversation_model": "openai:talk"},
        {"model": "openai:talk", "allow_fallback": True},
        {"provider": "openai", "user_models": ("openai:talk",), "allow_fallback": True},
    ],
)
@pytest.mark.parametrize("wishes", [Wishes("budget"), Wishes("budget", allow_paid=True), Wishes("balanced")])
def test_where_the_orchestrator_has_none_no_default_stands_by_what_was_chosen_before_it(first, wishes):
    house = [OPENAI, view("home", "llama3:8b", kind="ollama")]
    entries = {"openai:gpt-4o": ModelConfig(strengths=()), "openai:gpt-4o-mini": ModelConfig(strengths=())}
    asked = {"task": "theme_analysis", "wishes": wishes, "user_default": "home:own", "default_model": "home:own"}
    made = planned(house, entries, **(asked | first))
    assert targets(made) == ["openai:talk"]
    assert [(step.step, step.value) for step in made.steps][-1] == ("stands_by", wishes.tier)
    away = planned([replace(OPENAI, state="open"), house[1]], entries, **(asked | first))
    assert (targets(away), away.fault.code) == ([], "provider_unavailable")


@pytest.mark.parametrize(
    ("asked", "by_price"),
    [
        ({"model": "openai:gpt-4o"}, False),
        ({"model": "opnai:gpt-4o"}, False),
        ({"model": "openai:gpt-4o", "allow_fallback": True}, True),
        ({"provider": "openai"}, False),
        ({"user_default": "openai:own", "allow_fallback": False}, False),
        ({"user_default": "openai:own"}, True),
        ({"user_default": "openai:own", "mode": "user_choice"}, False),
        ({}, True),
        ({"mode": "user_choice"}, False),
        ({"task": "dialogue", "wishes": Wishes("budget"), "mode": "user_choice", "allow_fallback": False}, True),
        ({"task": "theme_analysis", "wishes": Wishes("budget")}, True),
        ({"task": "dialog", "wishes": Wishes("budget")}, False),
        ({"conversation_model": "openai:x", "task": "theme_analysis", "wishes": Wishes("budget")}, True),
        ({"drawn": Drawn("e/a", None, "premium", of_task=False), "allow_fallback": False}, True),
    ],
)
def test_a_plan_says_whether_prices_had_a_say_also_where_there_is_no_target(asked, by_price):
    asked = {"mode": "balanced"} | asked
    assert planned(entries=LOCAL, **asked).by_price is by_price


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"model": "openai:gpt-3", "allow_fallback": True}, ""),
        ({"provider": "openai", "user_models": ("openai:gpt-3",), "allow_fallback": True}, ""),
        ({"conversation_model": "openai:gpt-3"}, "the conversation's default model is wrong: "),
        ({"task": "tag", "task_model": "openai:gpt-3"}, "the setting `orchestrator.task_models.tag` is wrong: "),
        ({"user_default": "openai:gpt-3"}, "your default model (`daemonctl prefer`) is wrong: "),
        ({"default_model": "openai:gpt-3"}, "the setting `default_model` is wrong: "),
        ({"drawn": Drawn("e/a", "openai:gpt-3", None, of_task=False)}, "the arm `e/a` of an experiment is wrong: "),
    ],
)
def test_a_retired_choice_is_refused_with_its_successor_wherever_it_stands_and_never_replaced(asked, where):
    made = planned(entries=RETIRED, **asked)
    assert (made.targets, made.fault.code) == ([], "unknown_model")
    assert made.fault.message == f"{where}`openai:gpt-3` is retired; its successor is `openai:gpt-4o`"
    assert made.fault.detail["successor"] == "openai:gpt-4o"
    assert [each.model for each in made.rejected] == ["openai:gpt-3"]
    below = {"conversation_model": "ollama:x"} if "conversation_model" not in asked else {"model": "ollama:x"}
    if not asked.keys() & {"model", "provider"}:
        assert targets(planned(entries=RETIRED, **(asked | below)))[0] == "ollama:x"


@pytest.mark.parametrize(
    ("asked", "reason", "value"),
    [
        ({"model": "opnai:x"}, "explicit_model", "opnai:x"),
        ({"model": "openai:x", "hint": "claude"}, "explicit_model", "openai:x"),
        ({"provider": "opnai"}, "explicit_provider", "opnai"),
        ({"hint": "en-cluade"}, "explicit_provider", "en-cluade"),
        ({"conversation_model": "gone:x"}, "conversation_default", "gone:x"),
        ({"task": "theme_analysis", "wishes": Wishes("budget")}, "orchestrator", "budget"),
        ({"task": "no such task", "wishes": Wishes()}, "orchestrator", "balanced"),
        ({"task": "tag", "task_model": "gone:x"}, "task_model", "gone:x"),
        ({"user_default": "gone:x"}, "user_default", "gone:x"),
        ({"user_default": "openai:gpt-3"}, "user_default", "openai:gpt-3"),
        ({"default_model": "gone:x"}, "daemon_default", "gone:x"),
    ],
)
def test_a_refused_plan_says_which_step_it_failed_at(asked, reason, value):
    made = planned(entries=LOCAL | RETIRED, **asked)
    assert (made.targets, made.reason) == ([], reason)
    assert [step.value for step in made.steps if step.step == reason] == [value]


UNRATED = (view("cloud", "own-1", "own-2"),)
UNPRICED = {"cloud:own-1": ModelConfig(quality=8.0), "cloud:own-2": ModelConfig(quality=9.0)}


@pytest.mark.parametrize(
    ("mode", "views", "entries", "first", "why"),
    [
        ("user_choice", VIEWS, LOCAL, "ollama:llama3:8b", "in the config's order"),
        *((mode, UNRATED, {}, "cloud:own-1", "first available model, for none is rated") for mode in MODES),
        ("cost_optimized", VIEWS, LOCAL, "ollama:llama3:8b", "the cheapest available model"),
        ("cost_optimized", UNRATED, UNPRICED, "cloud:own-2", "of the highest quality, for no price is known"),
        ("quality_first", UNRATED, UNPRICED, "cloud:own-2", "the available model of the highest quality"),
        ("balanced", VIEWS, LOCAL, "openai:gpt-4o-mini", "the most quality for the money"),
        ("balanced", VIEWS, {"ollama:l": ModelConfig(quality=7.5)}, "ollama:l", "free, local and within a point"),
        ("balanced", (OLLAMA,), LOCAL, "ollama:llama3:8b", "free, local and within a point"),
        ("balanced", UNRATED, UNPRICED, "cloud:own-2", "highest quality, for no price is known of one of 7 or more"),
    ],
)
def test_the_first_available_is_told_with_what_decided(mode, views, entries, first, why):
    ordered = [OLLAMA, *views] if mode == "user_choice" else views
    made = planned(ordered, entries, mode=mode)
    assert (targets(made)[0], made.reason) == (first, "first_available")
    assert made.steps[-1].why.startswith("nothing was chosen: ")
    assert why in made.steps[-1].why


def test_a_better_model_that_is_down_does_not_keep_a_local_one_from_being_near_the_best():
    entries = {"ollama:l": ModelConfig(quality=7.5), "anthropic:best": ModelConfig(quality=10.0)}
    made = planned([OPENAI, replace(CLAUDE, state="open"), OLLAMA], entries, mode="balanced")
    assert targets(made)[0] == "ollama:l"


def test_a_task_that_there_is_not_is_refused_where_it_chooses_and_nowhere_else():
    made = planned(task="dialog", wishes=Wishes())
    assert (made.fault.code, "did you mean `dialogue`" in made.fault.message) == ("bad_request", True)
    assert targets(planned(task="dialog", wishes=Wishes(), model="openai:gpt-4o")) == ["openai:gpt-4o"]
    assert targets(planned(task="dialog", wishes=Wishes(), model="openai:x", allow_fallback=True))[0] == "openai:x"


@pytest.mark.parametrize(
    ("view_of_it", "code"),
    [(AWAY[0], "misconfigured"), (replace(OPENAI, state="open"), "provider_unavailable")],
)
def test_a_model_that_would_have_been_chosen_is_listed_with_why_it_is_not(view_of_it, code):
    made = planned([view_of_it, CLAUDE, OLLAMA], LOCAL, task="dialogue", wishes=Wishes("premium"))
    assert (targets(made)[0], made.reason) == ("ollama:llama3:8b", "orchestrator")
    assert [(each.model, each.code) for each in made.rejected][:2] == [
        ("openai:gpt-4o", code),
        ("openai:gpt-4o-mini", code),
    ]
    alone = planned([view_of_it], task="dialogue", wishes=Wishes("premium"))
    assert alone.fault.code == "no_eligible_model"
    assert [each.model for each in alone.rejected] == ["openai:gpt-4o", "openai:gpt-4o-mini"]


def test_a_retired_model_of_a_provider_that_is_away_would_not_have_been_chosen():
    entries = LOCAL | {"openai:gpt-4o": ModelConfig(retired=True)}
    made = planned(AWAY, entries, task="dialogue", wishes=Wishes("premium"))
    assert [each.model for each in made.rejected if "would have been" in each.why] == ["openai:gpt-4o-mini"]


def test_a_tier_that_the_call_names_has_no_effect_while_the_orchestrator_is_off_and_says_so():
    made = planned(idle_tier="premium", user_default="openai:own")
    assert (targets(made)[0], made.flags) == ("openai:own", ["tier_ignored"])
    assert "orchestrator.enabled true" in made.steps[0].why


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        ("user_choice", ["openai:gpt-4o", "anthropic:opus-4", "ollama:llama3:8b"]),
        ("cost_optimized", ["ollama:llama3:8b", "openai:gpt-4o-mini", "anthropic:opus-4"]),
        ("quality_first", ["openai:gpt-4o", "ollama:llama3:8b", "anthropic:opus-4"]),
        ("balanced", ["openai:gpt-4o-mini", "ollama:llama3:8b", "anthropic:opus-4"]),
    ],
)
def test_the_selection_mode_ranks_what_is_available_and_changes_no_other_step(mode, found):
    assert targets(planned(entries=LOCAL, mode=mode)) == found
    away = [replace(OPENAI, state="open"), CLAUDE, OLLAMA, SIMULATED]
    assert targets(planned(away, LOCAL, mode=mode)) == [each for each in found if not each.startswith("openai")]
    for asked in ({"model": "openai:x"}, {"provider": "openai"}, {"user_default": "openai:x"}):
        said = planned(entries=LOCAL, mode=mode, **asked)
        assert (targets(said)[0], said.reason) == (targets(planned(entries=LOCAL, **asked))[0], said.reason)


def test_a_free_local_model_within_a_point_of_the_best_goes_first_in_balance():
    near = {"ollama:llama3:8b": ModelConfig(quality=7.0), "openai:gpt-4o": ModelConfig(quality=8.0)}
    assert targets(planned(entries=near, mode="balanced"))[0] == "ollama:llama3:8b"
    far = {"ollama:llama3:8b": ModelConfig(quality=6.9), "openai:gpt-4o": ModelConfig(quality=8.0)}
    assert targets(planned(entries=far, mode="balanced"))[0] == "openai:gpt-4o-mini"


ARM = Drawn("size/small", "openai:gpt-4o-mini", None, of_task=True)


@pytest.mark.parametrize(
    ("drawn", "asked", "found", "reason"),
    [
        (ARM, {"task": "dialogue"}, "openai:gpt-4o-mini", "task_model"),
        (ARM, {"task": "dialogue", "user_default": "openai:own"}, "openai:gpt-4o-mini", "task_model"),
        (ARM, {"task": "dialogue", "wishes": Wishes("premium")}, "openai:gpt-4o-mini", "task_model"),
        (replace(ARM, model=None, tier="premium"), {"task": "dialogue"}, "openai:gpt-4o", "orchestrator"),
        (replace(ARM, of_task=False), {"default_model": "openai:gpt-4o"}, "openai:gpt-4o-mini", "daemon_default"),
        (replace(ARM, of_task=False, model=None, tier="premium"), {}, "openai:gpt-4o", "orchestrator"),
    ],
)
def test_an_arm_of_an_experiment_stands_in_for_the_step_that_it_is_of(drawn, asked, found, reason):
    made = planned(drawn=drawn, **asked)
    assert (targets(made)[0], made.reason, made.arm) == (found, reason, "size/small")
    assert made.steps[0].step == "experiment"


@pytest.mark.parametrize(
    ("drawn", "asked"),
    [
        (ARM, {"task": "dialogue", "model": "openai:x"}),
        (ARM, {"task": "dialogue", "provider": "openai"}),
        (ARM, {"task": "dialogue", "conversation_model": "openai:x"}),
        (replace(ARM, of_task=False), {"user_default": "openai:x"}),
        (replace(ARM, of_task=False), {"task": "dialogue", "task_model": "openai:x"}),
    ],
)
def test_what_somebody_chose_is_no_experiment(drawn, asked):
    made = planned(drawn=drawn, **asked)
    assert (made.arm, made.steps[0].step == "experiment") == (None, False)
