"""What a call says about its model, and the user's choices below it: only what can matter, so that equal questions are equal."""

from __future__ import annotations

from collections.abc import Mapping

from actors.rules.experiments import Drawn, Experiment, draw, experiment_of
from actors.rules.orchestrator import Wishes
from actors.rules.routing import Asked
from protocols.chat import Chat
from protocols.session import Preferences
from protocols.users import Resolve

OWN_SAY = frozenset({"orchestrator.enabled", "orchestrator.quality_tier"})
"""Settings with which a user decides about tasks, so that no experiment does."""


def asked_by(says: Chat | Resolve, preferences: Preferences, experiments: Mapping[str, Experiment]) -> Asked:
    """The question that the plan of a call answers."""
    choices, hint = preferences.choices, says.hint if isinstance(says, Chat) else None
    orchestrator, task, tier = preferences.orchestrator, says.task_type, says.quality_tier
    wishes = None
    if orchestrator.enabled and (task is not None or tier is not None):
        wishes = Wishes(
            tier or orchestrator.quality_tier, orchestrator.prefer_local, orchestrator.budget_tier_allows_paid
        )
    task_model = None if wishes is not None or task is None else orchestrator.task_models.get(task)
    drawn = _drawn(says, preferences, experiments) if experiments else None
    arm_wishes = None
    if drawn is not None and drawn.tier is not None:
        arm_wishes = Wishes(drawn.tier, orchestrator.prefer_local, orchestrator.budget_tier_allows_paid)
    matters = wishes is not None or task_model is not None or (drawn is not None and drawn.of_task)
    return Asked(
        says.model,
        says.provider,
        says.allow_fallback if isinstance(says, Chat) else None,
        preferences.default_model,
        choices.models if says.provider is not None or hint is not None else (),
        None if says.conversation is None else choices.conversations.get(says.conversation),
        choices.default,
        hint,
        task if matters else None,
        wishes,
        task_model,
        tier if wishes is None else None,
        drawn,
        arm_wishes,
        preferences.provider_selection_mode,
    )


def _drawn(says: Chat | Resolve, preferences: Preferences, experiments: Mapping[str, Experiment]) -> Drawn | None:
    """The arm that the call is in: of its task, else of all calls; none where the call or its user decides about the task."""
    task, own = says.task_type, preferences.own
    decided = task is not None and (bool(own & OWN_SAY) or f"orchestrator.task_models.{task}" in own)
    if decided or says.quality_tier is not None:
        return None
    of_task = None if task is None else experiment_of(experiments, task)
    name = experiment_of(experiments, None) if of_task is None else of_task
    return None if name is None else draw(name, experiments[name], preferences.user, says.conversation)
