"""Who takes part where nobody says who: tables over small worlds of models, and what must hold for all."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.matrix import Task, identity
from actors.rules.members import (
    Spared,
    choose_aggregator,
    choose_judges,
    choose_members,
    default_mode,
    lanes,
    saved,
)
from actors.rules.orchestrator import Wishes
from actors.rules.pricing import FREE, Dated, Price
from protocols.model import ModelInfo
from protocols.provider import ProviderView
from protocols.record import Reliability

ANY = Task()
PREMIUM, BALANCED, BUDGET = Wishes("premium"), Wishes("balanced"), Wishes("budget")
BUDGET_PAID = Wishes("budget", allow_paid=True)


def model(name, family, quality=8.0, usd=1.0, **more):
    """`local:x` runs here; `usd` is the price of a million tokens either way, None where nobody knows."""
    provider = name.partition(":")[0]
    local = provider == "local"
    return ModelInfo(
        **{
            "id": name,
            "provider": provider,
            "family": family,
            "local": local,
            "quality": quality,
            "strengths": ["narrative"],
            "speed": "fast",
            "input_usd_per_mtok": 0.0 if local else usd,
            "output_usd_per_mtok": 0.0 if local else usd,
            "display_name": name,
            "source": "provider",
            **more,
        }
    )


def record(**scores):
    """Reliability by the model's bare name."""
    return {f"p:{name}": Reliability(f"p:{name}", 0, 0, score) for name, score in scores.items()}


def team(models, n=3, *, task=ANY, reliability=None, wishes=PREMIUM):
    chosen = choose_members(models, task, n, reliability or {}, wishes)
    return [m.id for m in chosen.members], [m.id for m in chosen.bench]


# ---- members

THREE_FAMILIES = [
    model("p:a1", "a", 9.0),
    model("p:a2", "a", 8.9),
    model("p:a3", "a", 8.8),
    model("p:b1", "b", 8.0),
    model("p:b2", "b", 7.5),
    model("p:c1", "c", 7.0),
]


@pytest.mark.parametrize(
    ("n", "members", "bench"),
    [
        (2, ["p:a1", "p:b1"], ["p:a2", "p:b2"]),
        (3, ["p:a1", "p:b1", "p:c1"], ["p:a2", "p:b2", "p:a3"]),
        (4, ["p:a1", "p:b1", "p:c1", "p:a2"], ["p:a3", "p:b2"]),
        (6, ["p:a1", "p:b1", "p:c1", "p:a2", "p:b2", "p:a3"], []),
        (9, ["p:a1", "p:b1", "p:c1", "p:a2", "p:b2", "p:a3"], []),
    ],
)
def test_families_take_turns_and_the_bench_has_who_is_left(n, members, bench):
    assert team(THREE_FAMILIES, n) == (members, bench)
    assert team(THREE_FAMILIES[::-1], n) == (members, bench)


def test_the_bench_takes_turns_by_family_too():
    models = [model(f"p:a{at}", "a", 9.0 - at / 10) for at in range(3)] + [
        model("p:b", "b", 8.5),
        model("p:c", "c", 8.4),
    ]
    assert team(models, 2) == (["p:a0", "p:b"], ["p:a1", "p:c"])


def test_with_nobody_there_is_no_team():
    assert team([]) == ([], [])
    assert team([model("p:a", "a", available=False, why_not="open")]) == ([], [])


@pytest.mark.parametrize(
    ("models", "reliability", "first"),
    [
        ([model("p:x", "a", 9.0), model("p:y", "a", 7.0)], {}, "p:x"),
        ([model("p:x", "a", 9.0), model("p:y", "a", 7.0)], record(y=0.8), "p:y"),
        ([model("p:x", "a", 9.0), model("p:y", "a", 7.0)], record(x=0.3), "p:y"),
        ([model("p:x", "a", 9.0), model("p:y", "a", 7.0)], record(x=0.62, y=0.64), "p:x"),  # chance
        ([model("p:x", "a", 9.0), model("p:y", "a", 7.0)], record(y=0.5), "p:x"),  # no record is as one of half
        ([model("p:x", "a", usd=2.0), model("p:y", "a", usd=1.0)], {}, "p:y"),
        ([model("p:x", "a", usd=None), model("p:y", "a", usd=9.0)], {}, "p:y"),
        ([model("p:x", "a", 8.1, usd=2.0), model("p:y", "a", usd=1.0)], {}, "p:x"),
        ([model("p:y", "a"), model("p:x", "a")], {}, "p:x"),
    ],
)
def test_in_a_family_the_reliable_then_the_good_then_the_cheap_come_first(models, reliability, first):
    assert team(models, 1, reliability=reliability)[0] == [first]


@pytest.mark.parametrize(("local", "first"), [(8.0, "local:x"), (7.9, "p:y"), (9.5, "local:x")])
def test_who_prefers_local_models_has_one_within_a_point_of_the_best(local, first):
    models = [model("local:x", "a", local), model("p:y", "a", 9.0)]
    assert team(models, 1, wishes=Wishes("premium", prefer_local=True))[0] == [first]


@pytest.mark.parametrize(
    ("strength", "members"),
    [
        (None, ["p:both", "p:code", "p:silent"]),
        ("coding", ["p:code", "p:both", "p:silent"]),
        ("narrative", ["p:both", "p:silent"]),
        ("speed", ["p:silent"]),
    ],
)
def test_members_have_the_strength_of_the_task_or_nothing_is_known_of_them(strength, members):
    models = [
        model("p:code", "a", 8.0, strengths=["coding"]),
        model("p:both", "b", 7.0 if strength == "coding" else 9.0, strengths=["coding", "narrative"]),
        model("p:silent", "c", None, strengths=[]),
    ]
    assert team(models, task=Task(strength=strength))[0] == members


@pytest.mark.parametrize(
    ("n", "members", "bench"),
    [
        (1, ["p:good"], ["p:low"]),
        (2, ["p:good", "p:low"], ["p:silent"]),
        (3, ["p:good", "p:low", "p:silent"], []),
    ],
)
def test_lower_ones_fill_what_the_tier_leaves_open_and_unrated_ones_the_rest(n, members, bench):
    models = [
        model("p:silent", "d", None),
        model("p:poor", "c", 5.9),
        model("p:low", "b", 6.0),
        model("p:good", "a", 7.0),
    ]
    assert team(models, n, wishes=BALANCED, reliability=record(silent=0.9)) == (members, bench)


@pytest.mark.parametrize(
    ("other", "members"),
    [
        (model("p:o", "b", 6.0), ["p:x", "p:y", "p:o"]),
        (model("p:o", "b", None), ["p:x", "p:y", "p:o"]),
        (model("p:o", None, 6.0), ["p:x", "p:y", "p:z"]),
        (model("p:o", "a", 6.0), ["p:x", "p:y", "p:z"]),
        (model("p:o", "b", 5.0), ["p:x", "p:y", "p:z"]),
    ],
)
def test_the_last_place_is_for_a_second_family(other, members):
    sisters = [model("p:x", "a", 9.0), model("p:y", "a", 8.0), model("p:z", "a", 7.0)]
    assert team([*sisters, other], wishes=BALANCED)[0] == members


def test_models_of_unknown_family_are_no_families_of_their_own():
    models = [model("p:x", None, 9.0), model("p:y", None, 9.0), model("p:z", "a", 7.0), model("p:w", "a", 7.0)]
    assert team(models, 3)[0] == ["p:w", "p:x", "p:z"]


@pytest.mark.parametrize(
    ("wishes", "members", "exceeded"),
    [
        (BUDGET, ["local:x"], False),
        (BUDGET_PAID, ["local:x", "p:cheap", "p:dear"], True),
        (BALANCED, ["p:dear", "local:x", "p:cheap"], False),
        (PREMIUM, ["p:dear", "p:unpriced", "p:cheap"], False),
    ],
)
def test_the_tier_says_who_may_be_paid_for(wishes, members, exceeded):
    models = [
        model("local:x", "a", 7.0),
        model("p:cheap", "b", 7.1, usd=0.1),
        model("p:dear", "c", 8.0, usd=9.0),
        model("p:unpriced", "d", 7.5, usd=None),
    ]
    chosen = choose_members(models, ANY, 3, {}, wishes)
    found = [m.id for m in chosen.members]
    assert sorted(found) == sorted(members) if wishes == BALANCED else found == members
    assert chosen.tier_exceeded == exceeded
    if wishes is BALANCED:
        assert "p:unpriced" not in [m.id for m in chosen.bench]


def test_at_the_budget_tier_no_local_model_gives_way_to_a_paid_one():
    models = [
        model("local:x", "a", 7.0),
        model("local:y", "a", 6.5),
        model("p:z", "b", 9.0, usd=9.0),
        model("p:w", "c", 6.0, usd=0.1),
    ]
    assert team(models, 3, wishes=BUDGET_PAID)[0] == ["local:x", "local:y", "p:w"]
    assert team(models, 3, wishes=BUDGET) == (["local:x", "local:y"], [])


@pytest.mark.parametrize("wishes", [BUDGET, BALANCED])
def test_an_unrated_model_is_asked_only_where_the_tier_pays_for_it(wishes):
    models = [model("p:x", "a", None, usd=None), model("p:y", "b", None, usd=1.0), model("local:z", "c", None)]
    found = team(models, 3, wishes=wishes)[0]
    assert found == (["local:z"] if wishes is BUDGET else ["local:z", "p:y"])


def test_one_model_takes_part_once_and_its_twins_wait_on_the_bench():
    models = [
        model("openai:gpt-4o", "openai", 8.0, usd=2.0),
        model("azure:gpt-4o-2024-08-06", "openai", 8.0, usd=1.0),
        model("p:b", "b", 7.0),
    ]
    assert team(models, 3) == (["azure:gpt-4o-2024-08-06", "p:b"], ["openai:gpt-4o"])


NAMES = [
    (f"{provider}:m{at}", "abc"[at % 3] if at < 8 else None) for provider in ("p", "q", "local") for at in range(10)
]
MODELS = st.lists(
    st.builds(
        lambda name, quality, usd, available: model(*name, quality, usd, available=available),
        st.sampled_from(NAMES),
        st.sampled_from([None, 5.0, 6.0, 7.0, 9.0]),
        st.sampled_from([None, 0.1, 1.0]),
        st.booleans(),
    ),
    unique_by=lambda each: each.id,
    max_size=14,
)
TIERS = st.sampled_from([PREMIUM, BALANCED, BUDGET, BUDGET_PAID])


@given(MODELS, st.integers(1, 6), TIERS, st.randoms())
def test_whatever_there_is_a_team_keeps_its_promises(models, n, wishes, rng):
    chosen = choose_members(models, ANY, n, {}, wishes)
    everyone = [*chosen.members, *chosen.bench]
    assert len({m.id for m in everyone}) == len(everyone)
    assert len({identity(m.id) for m in chosen.members}) == len(chosen.members) <= n
    assert len(chosen.bench) <= n
    assert all(m.available for m in everyone)
    assert wishes != BUDGET or all(m.local for m in everyone)
    if len(chosen.members) < n:
        assert {identity(m.id) for m in everyone} == {identity(m.id) for m in chosen.members}
    families = {m.family for m in everyone} - {None}
    if n > 1 and len(chosen.members) > 1 and len(families) > 1:
        assert len({m.family for m in chosen.members} - {None}) > 1
    mixed = list(models)
    rng.shuffle(mixed)
    assert choose_members(mixed, ANY, n, {}, wishes) == chosen


# ---- judges and aggregator

COURT = [
    model("p:small", "a", 7.0, usd=0.2),
    model("p:cheap", "b", 6.0, usd=0.1),
    model("p:large", "c", 9.0, usd=5.0, speed="slow"),
    model("p:weak", "d", 5.9, usd=0.0),
    model("p:silent", "e", None, usd=0.0),
    model("p:away", "f", 9.0, usd=0.0, available=False),
    model("p:second", "a", 7.5, usd=0.3),
]


@pytest.mark.parametrize(
    ("taken", "families", "n", "judges"),
    [
        ([], [], 1, ["p:cheap"]),
        ([], [], 2, ["p:cheap", "p:small"]),
        ([], [], 9, ["p:cheap", "p:small", "p:second", "p:large"]),
        (["p:cheap"], ["b"], 1, ["p:small"]),
        (["q:small", "p:cheap"], ["a", "b"], 3, ["p:large", "p:second"]),
        (["p:small", "p:cheap", "p:large"], ["a", "b", "c"], 2, ["p:second"]),
        (["p:small", "p:cheap", "p:large", "client:desk:second"], ["a", "b", "c"], 2, []),
        ([], ["b", None], 1, ["p:small"]),
        ([], [], 0, []),
    ],
)
def test_judges_are_small_models_of_other_families_then_larger_then_any_that_is_no_candidate(
    taken, families, n, judges
):
    assert choose_judges(COURT, taken, families, n, PREMIUM) == judges
    assert choose_judges(COURT[::-1], taken, families, n, PREMIUM) == judges


def test_a_judge_of_unknown_family_may_be_a_sister_of_a_candidate_and_comes_last():
    models = [model("p:x", None, 9.0, usd=0.1), model("p:y", "b", 6.0, usd=1.0)]
    assert choose_judges(models, [], ["a"], 2, PREMIUM) == ["p:y", "p:x"]


def test_one_model_is_one_judge_whoever_offers_it():
    models = [model("p:x", "a", usd=2.0), model("q:x", "a", usd=1.0)]
    assert choose_judges(models, [], [], 2, PREMIUM) == ["q:x"]


@pytest.mark.parametrize(
    ("wishes", "judges", "aggregator"),
    [
        (BUDGET, ["local:x"], "local:x"),
        (BUDGET_PAID, ["local:x", "p:y"], "p:y"),
        (BALANCED, ["local:x", "p:y"], "p:y"),
        (PREMIUM, ["local:x", "p:y"], "p:y"),
    ],
)
def test_nobody_judges_or_writes_whom_the_tier_does_not_pay_for(wishes, judges, aggregator):
    models = [model("local:x", "a", 7.0), model("p:y", "b", 9.0)]
    assert choose_judges(models, [], [], 2, wishes) == judges
    assert choose_aggregator(models, ANY, wishes) == aggregator


@pytest.mark.parametrize(
    ("models", "aggregator"),
    [
        ([], None),
        ([model("p:x", "a", None)], None),
        ([model("p:x", "a", available=False)], None),
        ([model("p:x", "a", 9.0, strengths=[]), model("p:y", "a", 8.0)], "p:x"),
        ([model("p:x", "a", usd=1.0, strengths=[]), model("p:y", "a", usd=2.0)], "p:y"),
        ([model("p:x", "a", usd=2.0), model("p:y", "a", usd=1.0)], "p:y"),
        ([model("p:x", "a", usd=None), model("p:y", "a", usd=1.0)], "p:y"),
    ],
)
def test_the_aggregator_is_the_strongest_there_is(models, aggregator):
    assert choose_aggregator(models, Task(strength="narrative"), PREMIUM) == aggregator


# ---- how it is played


@pytest.mark.parametrize(
    ("critical", "typed", "judged", "mode"),
    [
        (True, True, True, "cascade"),
        (True, True, False, "cascade"),
        (False, True, True, "vote"),
        (False, True, False, "vote"),
        (True, False, True, "pick"),
        (False, False, True, "pick"),
        (True, False, False, "vote"),
        (False, False, False, "vote"),
    ],
)
def test_the_mode_where_nobody_names_one(critical, typed, judged, mode):
    assert default_mode(critical=critical, typed=typed, judged=judged) == mode


def view(name, *, local=False):
    return ProviderView(name, "openai", "h", "healthy", None, local, False, "emitted", False, ())


VIEWS = {"ollama": view("ollama", local=True), "openai": view("openai"), "lmstudio": view("lmstudio", local=True)}


@pytest.mark.parametrize(
    ("models", "in_flight", "placed"),
    [
        ([], {}, []),
        (["openai:a", "openai:b"], {"openai": 64}, [None, None]),
        (["openai:a", "openai:b"], {"openai": 2}, [None, None]),
        (["openai:a", "openai:b"], {}, [None, None]),
        (["openai:a", "openai:b"], {"openai": 1}, ["openai/0", "openai/0"]),
        (["openai:a", "openai:b", "openai:a"], {"openai": 2}, ["openai/0", "openai/1", "openai/0"]),
        (["ollama:a:7b", "openai:b", "ollama:c"], {"ollama": 64}, ["ollama/0", None, "ollama/0"]),
        (["ollama:a", "openai:b"], {}, [None, None]),
        (["ollama:a", "lmstudio:a"], {}, [None, None]),
        (["client:desk:a", "client:desk:b"], {}, [None, None]),
    ],
)
def test_members_that_share_a_machine_or_too_few_places_wait_their_turn(models, in_flight, placed):
    slots = [slot * 3 for slot in range(len(models))]
    assert lanes(dict(zip(slots, models, strict=True)), VIEWS, in_flight) == dict(zip(slots, placed, strict=True))


# ---- what was saved

PRICE = Price(input=1_000_000, output=2_000_000, version="table")
"""A thousand nano-dollars a token of the prompt, two thousand one of the answer."""


@pytest.mark.parametrize(
    ("spared", "response_tokens", "nano"),
    [
        ({}, [10, 20], 100_000 + 30_000),
        ({}, [10, 21], 100_000 + 30_000),
        ({}, [], 100_000),
        ({"bound": 110_000}, [10, 20], 110_000),
        ({"bound": 0}, [10, 20], 0),
        ({"price": None}, [10], 0),
        ({"price": FREE}, [10], 0),
        ({"charged": 0}, [10, 20], 130_000),
        ({"charged": 100_000}, [10, 20], 30_000),
        ({"charged": 130_001}, [10, 20], 0),
        ({"charged": 0, "billing": "whole"}, [10, 20], 0),
        ({"billing": "whole"}, [10, 20], 130_000),
        ({"charged": 100_000, "bound": 110_000}, [10, 20], 10_000),
    ],
)
def test_what_was_saved_is_what_it_would_have_cost_beside_what_it_did(spared, response_tokens, nano):
    one = Spared(**{"price": PRICE, "prompt_tokens": 100, "bound": 10**9, **spared})
    assert saved([one], response_tokens) == nano
    assert saved([one, one], response_tokens) == 2 * nano
    assert isinstance(saved([one], response_tokens), int)


def test_nobody_spared_is_nothing_saved():
    assert saved([], [10]) == 0


def test_the_price_is_that_of_the_time():
    night = Dated(input=500_000, output=1_000_000, day_from_s=0, day_until_s=3600)
    price = Price(input=1_000_000, output=2_000_000, version="table", dated=(night,))
    one = Spared(price=price, prompt_tokens=100, bound=10**9)
    assert (saved([one], [10], at_s=60.0), saved([one], [10], at_s=7200.0)) == (60_000, 120_000)


@given(
    st.lists(
        st.builds(
            Spared,
            price=st.sampled_from([None, FREE, PRICE]),
            prompt_tokens=st.integers(0, 10**6),
            bound=st.integers(0, 10**12),
            charged=st.none() | st.integers(0, 10**12),
            billing=st.sampled_from(["emitted", "whole"]),
        ),
        max_size=5,
    ),
    st.lists(st.integers(0, 10**6), max_size=5),
)
def test_no_more_is_saved_than_was_bound_and_never_less_than_nothing(spared, response_tokens):
    parts = [saved(spared[:count], response_tokens) for count in range(len(spared) + 1)]
    for (before, after), one in zip(pairwise(parts), spared, strict=True):
        assert 0 <= after - before <= max(one.bound - (one.charged or 0), 0)
