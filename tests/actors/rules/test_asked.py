"""What of a call and of its user's choices its plan is made of."""

import pytest

from actors.rules.asked import asked_by
from actors.rules.experiments import Arm, Experiment
from actors.rules.orchestrator import Wishes
from protocols.chat import Chat, Message
from protocols.session import Orchestration, Preferences
from protocols.users import Choices, Resolve

ON = Orchestration(enabled=True, quality_tier="premium", prefer_local=True, task_models={"tag": "x:tagger"})
OFF = Orchestration(task_models={"tag": "x:tagger"})
TAGS = {"tags": Experiment(task="tag", arms={"a": Arm(model="x:a"), "b": Arm(model="x:b")})}
ALL = {"all": Experiment(arms={"a": Arm(model="x:a"), "b": Arm(model="x:b")})}


def asked(orchestrator=OFF, experiments=None, own=(), **said):
    preferences = Preferences("ana", 100, None, choices=Choices(), orchestrator=orchestrator, own=frozenset(own))
    return asked_by(Chat([Message("user", "hi")], **said), preferences, experiments or {})


@pytest.mark.parametrize(
    ("orchestrator", "said", "task", "wishes", "task_model", "idle"),
    [
        (OFF, {}, None, None, None, None),
        (OFF, {"task_type": "tag"}, "tag", None, "x:tagger", None),
        (OFF, {"task_type": "tag", "quality_tier": "budget"}, "tag", None, "x:tagger", "budget"),
        (OFF, {"task_type": "dialogue"}, None, None, None, None),
        (ON, {}, None, None, None, None),
        (ON, {"task_type": "tag"}, "tag", Wishes("premium", True, False), None, None),
        (ON, {"task_type": "tag", "quality_tier": "budget"}, "tag", Wishes("budget", True, False), None, None),
        (ON, {"quality_tier": "balanced"}, None, Wishes("balanced", True, False), None, None),
    ],
)
def test_a_task_matters_where_something_is_decided_by_it(orchestrator, said, task, wishes, task_model, idle):
    made = asked(orchestrator, **said)
    assert (made.task, made.wishes, made.task_model, made.idle_tier) == (task, wishes, task_model, idle)


def test_labels_that_decide_nothing_make_no_other_question():
    assert asked(task_type="one") == asked(task_type="two") == asked(conversation="c")


@pytest.mark.parametrize(
    ("experiments", "own", "said", "of_task"),
    [
        (TAGS, (), {"task_type": "tag"}, True),
        (TAGS | ALL, (), {"task_type": "tag"}, True),
        (TAGS | ALL, (), {"task_type": "dialogue"}, False),
        (ALL, (), {}, False),
        (TAGS, (), {"task_type": "dialogue"}, None),
        (TAGS, ("orchestrator.task_models.tag",), {"task_type": "tag"}, None),
        (TAGS, ("orchestrator.task_models.dialogue",), {"task_type": "tag"}, True),
        (TAGS, ("orchestrator.quality_tier",), {"task_type": "tag"}, None),
        (TAGS | ALL, ("orchestrator.enabled",), {"task_type": "tag"}, None),
        (TAGS | ALL, ("orchestrator.quality_tier",), {"task_type": "dialogue"}, None),
        (TAGS | ALL, ("orchestrator.task_models.tag",), {"task_type": "tag"}, None),
        (TAGS | ALL, ("orchestrator.task_models.tag",), {"task_type": "dialogue"}, False),
        (ALL, ("orchestrator.enabled", "orchestrator.task_models.tag"), {}, False),
        (TAGS, (), {"task_type": "tag", "quality_tier": "budget"}, None),
        (TAGS | ALL, (), {"task_type": "tag", "quality_tier": "budget"}, None),
        (ALL, (), {"quality_tier": "budget"}, None),
    ],
)
def test_a_call_is_in_an_experiment_unless_its_user_decides_about_that(experiments, own, said, of_task):
    drawn = asked(OFF, experiments, own, **said).drawn
    assert (drawn and drawn.of_task) is of_task


@pytest.mark.parametrize("enabled", [True, False])
def test_an_arm_that_gives_a_tier_chooses_as_its_user_wishes(enabled):
    tiers = {"tags": Experiment(task="tag", arms={"a": Arm(tier="budget"), "b": Arm(tier="budget")})}
    mine = Orchestration(enabled=enabled, prefer_local=True, budget_tier_allows_paid=True)
    assert asked(mine, tiers, task_type="tag").arm_wishes == Wishes("budget", True, True)
    assert asked(mine, TAGS, task_type="tag").arm_wishes is None
    assert asked(mine, tiers, task_type="dialogue").arm_wishes is None


def test_what_is_resolved_and_what_is_called_are_the_same_question():
    preferences = Preferences("ana", 100, None, orchestrator=ON)
    chat = Chat([Message("user", "hi")], task_type="tag", conversation="c", quality_tier="budget")
    resolve = Resolve(task_type="tag", conversation="c", quality_tier="budget")
    assert asked_by(chat, preferences, TAGS) == asked_by(resolve, preferences, TAGS)
