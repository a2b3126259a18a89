from collections import Counter

import pytest

from actors.rules.experiments import Arm, Experiment, draw, experiment_of

SIZES = Experiment(
    task="dialogue",
    arms={
        "small": Arm(model="openai:mini", weight=3),
        "large": Arm(tier="premium"),
        "none": Arm(model="x:y", weight=1e-9),
    },
)


def test_arms_get_users_by_their_weight():
    drawn = Counter(draw("size", SIZES, f"user{n}", None).name for n in range(4000))
    assert set(drawn) == {"size/small", "size/large"}
    assert 0.72 < drawn["size/small"] / 4000 < 0.78


@pytest.mark.parametrize(
    ("sticky", "by_user", "by_conversation"),
    [("user", 1, 1), ("conversation", 1, 2)],
)
def test_a_call_stays_in_its_arm_by_user_or_by_conversation(sticky, by_user, by_conversation):
    halves = Experiment(arms={"a": Arm(model="x:a"), "b": Arm(model="x:b")}, sticky=sticky)
    assert len({draw("half", halves, "ana", None).name for _ in range(20)}) == by_user
    assert len({draw("half", halves, "ana", f"c{n}").name for n in range(40)}) == by_conversation
    assert len({draw("half", halves, f"user{n}", None).name for n in range(40)}) == 2


def test_another_experiment_draws_anew():
    same = [draw("one", SIZES, f"u{n}", None).model == draw("two", SIZES, f"u{n}", None).model for n in range(200)]
    assert 0 < sum(same) < 200


def test_a_call_is_in_the_experiment_of_its_task_or_in_that_of_all():
    all_calls = Experiment(arms={"a": Arm(model="x:a"), "b": Arm(tier="budget")})
    assert experiment_of({"size": SIZES, "all": all_calls}, "dialogue") == "size"
    assert experiment_of({"size": SIZES, "all": all_calls}, "tag") is None
    assert experiment_of({"size": SIZES, "all": all_calls}, None) == "all"
    drawn = draw("all", all_calls, "ana", None)
    assert (drawn.of_task, bool(drawn.model) != bool(drawn.tier)) == (False, True)
