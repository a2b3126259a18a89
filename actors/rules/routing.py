"""Which models a call goes to, in which order, and why. One pure function; `chat` and `explain` use the same one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from msgspec import Struct, field
from msgspec.structs import replace

from actors.rules.candidates import Chosen, Target, World
from actors.rules.catalogue import NOTHING, described
from actors.rules.experiments import Drawn
from actors.rules.hints import parse_hint
from actors.rules.names import provider_named, resolve
from actors.rules.orchestrator import Wishes
from protocols.errors import (
    BadRequest,
    Misconfigured,
    NoEligibleModel,
    ProviderUnavailable,
    QuorumError,
    RateLimited,
    UnknownModel,
)
from protocols.model import Tier, split_model_id
from protocols.provider import AVAILABLE, ProviderView, about_it
from protocols.routing import IN_WORDS, Reason, Rejected, Step
from protocols.settings import SelectionMode


class Asked(Struct, frozen=True):
    """What a call says about its model, and the defaults below it; `user_models` are the user's own by their ids.

    `wishes` are there where the orchestrator chooses, for `task` or, without one, at the tier that the call names; `idle_tier` is a
    tier that the call names although it does not. `drawn` is the arm of an experiment that the call is in, `arm_wishes` how the
    orchestrator chooses for one that gives a tier.
    """

    model: str | None
    provider: str | None
    allow_fallback: bool | None
    default_model: str | None
    user_models: tuple[str, ...] = ()
    conversation_model: str | None = None
    user_default: str | None = None
    hint: str | None = None
    task: str | None = None
    wishes: Wishes | None = None
    task_model: str | None = None
    idle_tier: Tier | None = None
    drawn: Drawn | None = None
    arm_wishes: Wishes | None = None
    mode: SelectionMode = "user_choice"


class Plan(Struct):
    """Targets in order and how they were found; with `fault` there are none, and it is what the call answers.

    `language` is the tag that the call's hint names, `arm` the experiment's that chose, `by_price` whether prices had a say. `wishes`
    are those of the tier that it goes by, `over_tier` the targets that cost money although it is `budget`.
    """

    targets: list[Target] = field(default_factory=list)
    reason: Reason = "first_available"
    steps: list[Step] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    fault: QuorumError | None = None
    language: str | None = None
    flags: list[str] = field(default_factory=list)
    arm: str | None = None
    by_price: bool = False
    wishes: Wishes | None = None
    over_tier: list[Target] = field(default_factory=list)

    def flags_at(self, target: Target | None) -> list[str]:
        """The flags of the decision where this target answers."""
        return [*self.flags, "tier_exceeded"] if target in self.over_tier else self.flags


class Default(Struct, frozen=True):
    """What a step below the call's own words gives: a model's name, or the fault that it is; and where it stands.

    `wishes` are there where the orchestrator is to choose.
    """

    reason: Reason
    name: str
    why: str
    fault: QuorumError | None = None
    chosen: Chosen | None = None
    drawn: Drawn | None = None
    wishes: Wishes | None = None


TIER_IGNORED = (
    "it has no effect while the orchestrator is off: daemonctl settings set orchestrator.enabled true"
    " (and --user, where the call names one)"
)

OF_THE_CALL: frozenset[Reason] = frozenset({"explicit_model", "explicit_provider", "conversation_default"})
"""Reasons of a choice that no tier has a say in; what stands by it is the tier's again."""


def plan(asked: Asked, world: World) -> Plan:
    """The targets of a call. The explicit choice wins; what is below it follows only where a fallback is allowed."""
    made = Plan(wishes=_wishes(asked))
    try:
        if asked.hint is not None:
            made.reason = "explicit_provider" if asked.model is None else "explicit_model"
            asked = _hinted(asked, asked.hint, world, made)
        first = _chosen(asked, world, made)
    except QuorumError as wrong:
        _note_refused(made, asked.model or asked.provider or asked.hint or "", IN_WORDS[made.reason])
        made.fault = wrong
        return made
    fallback = asked.allow_fallback if asked.allow_fallback is not None else not (asked.model or asked.provider)
    candidates = [*first, *(_lower(asked, world, made) if fallback or not first else ())]
    own = first if made.reason in OF_THE_CALL else []
    faults: list[QuorumError] = []
    for target in dict.fromkeys(candidates):
        fault = _fault(target, world) or (None if target in own else _over_tier(target, world, made))
        if fault is None:
            made.targets.append(target)
        else:
            faults.append(fault)
            made.rejected.append(Rejected(str(target), fault.code, fault.message))
            if isinstance(fault, UnknownModel) and target in first:  # retired: nothing stands in for it
                why = next(step.why for step in made.steps if step.step == made.reason)
                faults = [fault if asked.model or asked.provider else _placed(fault, why)]
                break
    if not made.targets:
        made.fault = faults[0] if faults else _nothing(world)
    elif made.rejected and str(made.targets[0]) != str(candidates[0]):
        made.reason = "rate_limited_fallback" if faults[0].code == "rate_limited" else "provider_unhealthy_fallback"
    return made


def _chosen(asked: Asked, world: World, made: Plan) -> list[Target]:
    """What the highest step that applies gives. Raises QuorumError."""
    if asked.model is not None:
        made.reason = "explicit_model"
        target = resolve(asked.model, asked.provider, world, made.steps)
        return [_taken(target, "the call names the model", made)]
    if asked.provider is not None:
        made.reason = "explicit_provider"
        view = provider_named(asked.provider, world, made.steps)
        own = _own_at(view, asked)
        first = own or world.first_of(view.name)
        if first is None:
            raise NoEligibleModel(
                f"provider `{view.name}` has listed no models yet and the config names none; name one: {view.name}:<model>"
            )
        which = "" if own is None else "; the model is yours for it"
        return [_taken(first, f"the call names the provider `{view.name}`{which}", made)]
    if asked.idle_tier is not None:
        made.flags.append("tier_ignored")
        made.steps.append(Step("quality_tier", asked.idle_tier, TIER_IGNORED))
    for default in _defaults(asked, world):
        return [_taken_default(default, world, made)]
    made.reason = "first_available"
    available = next(_lower(asked, world, made), None)
    if available is None:
        return []
    return [_taken(available, f"nothing was chosen: {world.ranked(asked.mode).why}", made)]


def _taken_default(default: Default, world: World, made: Plan) -> Target:
    """The step's target, with all that the plan says of it. Raises QuorumError."""
    made.reason = default.reason
    if default.wishes is not None:
        made.wishes = default.wishes
    if default.drawn is not None:
        made.arm = default.drawn.name
        gives = default.drawn.model or f"the tier `{default.drawn.tier}`"
        made.steps.append(Step("experiment", default.drawn.name, f"an experiment of the config; its arm gives {gives}"))
    if default.chosen is not None:
        made.by_price = True
        made.rejected += default.chosen.passed_over
    if default.fault is not None:
        _note_refused(made, default.name, default.why)
        raise default.fault
    try:
        target = resolve(default.name, None, world, made.steps)
    except QuorumError as wrong:
        _note_refused(made, default.name, default.why)
        raise _placed(wrong, default.why) from wrong
    return _taken(target, default.why, made)


def _hinted(asked: Asked, said: str, world: World, made: Plan) -> Asked:
    """The call with what its hint names put where it would name it itself. Raises QuorumError."""
    hint = parse_hint(said, [*(v.name for v in world.views), *world.aliases])
    made.language = hint.language
    if hint.name is None:
        made.steps.append(Step("hint", said, f"the hint names the language `{hint.language}` and no provider"))
        return asked
    language = "" if hint.language is None else f"the language `{hint.language}` and "
    made.steps.append(Step("hint", hint.name, f"the hint `{said}` names {language}`{hint.name}`"))
    alias = world.aliases.get(hint.name)
    target = None if alias is None or split_model_id(alias) is None else resolve(hint.name, None, world, [])
    provider = provider_named(hint.name, world, []).name if target is None else target.provider
    if asked.provider is not None and provider_named(asked.provider, world, []).name != provider:
        raise _contradicted("provider", asked.provider, hint.name)
    if asked.model is not None:
        try:
            wanted = resolve(asked.model, provider, world, [])
        except BadRequest:
            raise _contradicted("model", asked.model, hint.name) from None
        if target is not None and target != wanted:
            raise _contradicted("model", asked.model, hint.name)
    if target is None:
        return replace(asked, provider=hint.name)
    return replace(asked, model=hint.name, provider=None)


def _contradicted(param: str, value: str, name: str) -> BadRequest:
    return BadRequest(f"`{param}` says `{value}`, `hint` says `{name}`, which is another; leave one of them out")


def _lower(asked: Asked, world: World, made: Plan) -> Iterator[Target]:
    """What the lower steps give: the user's model of a provider that is named beside the model, the defaults, then the first model of
    each provider, simulated ones only if there is no other. Where the orchestrator has none, nothing below it steps in."""
    if asked.model is not None and asked.provider is not None:
        view = provider_named(asked.provider, world, [])
        beside = _own_at(view, asked) or world.first_of(view.name)
        if beside is not None and world.counts(beside):
            yield beside
    for default in _defaults(asked, world):
        made.by_price |= default.chosen is not None
        if default.fault is not None:
            made.steps.append(Step("stands_by", default.name, f"nobody else: {default.fault.message}"))
            return
        with suppress(QuorumError):  # a wrong default is no candidate; it is reported where it is the choice
            if world.counts(target := resolve(default.name, None, world, [])):
                yield target
    made.by_price |= asked.mode != "user_choice"
    yield from world.ranked(asked.mode).targets


def _own_at(view: ProviderView, asked: Asked) -> Target | None:
    """The user's own model of a provider."""
    own = next((parts[1] for parts in map(split_model_id, asked.user_models) if parts and parts[0] == view.name), None)
    return None if own is None else Target(view.name, own)


def _defaults(asked: Asked, world: World) -> Iterator[Default]:
    """The defaults that apply, the nearest to the call first."""
    if asked.conversation_model is not None:
        yield Default("conversation_default", asked.conversation_model, "the conversation's default model")
    drawn = asked.drawn
    if drawn is not None and drawn.of_task:
        yield _of_arm(drawn, asked, world)
    elif asked.wishes is not None:
        yield _orchestrated(asked.task, asked.wishes, world)
    elif asked.task_model is not None:
        yield Default("task_model", asked.task_model, f"the setting `orchestrator.task_models.{asked.task}`")
    if asked.user_default is not None:
        yield Default("user_default", asked.user_default, "your default model (`daemonctl prefer`)")
    if drawn is not None and not drawn.of_task:
        yield _of_arm(drawn, asked, world)
    elif asked.default_model is not None:
        yield Default("daemon_default", asked.default_model, "the setting `default_model`")


def _orchestrated(task: str | None, wishes: Wishes, world: World, drawn: Drawn | None = None) -> Default:
    """What the orchestrator chooses; its fault names the way out where no model will do."""
    what = f"the orchestrator{f' for `{task}`' if task else ''} at the tier `{wishes.tier}`"
    try:
        chosen = world.chosen(task, wishes)
    except QuorumError as unknown:
        return Default("orchestrator", wishes.tier, what, unknown, None, drawn, wishes)
    why = f"{what}: {chosen.choice.why}"
    if chosen.choice.models:
        return Default("orchestrator", chosen.choice.models[0].id, why, None, chosen, drawn, wishes)
    fault = NoEligibleModel(why, detail={"task_type": task, "quality_tier": wishes.tier})
    return Default("orchestrator", wishes.tier, what, fault, chosen, drawn, wishes)


def _of_arm(drawn: Drawn, asked: Asked, world: World) -> Default:
    """What an arm gives, at the step that it stands in for."""
    if drawn.tier is not None:
        task = asked.task if drawn.of_task else None
        return _orchestrated(task, asked.arm_wishes or Wishes(drawn.tier), world, drawn)
    reason: Reason = "task_model" if drawn.of_task else "daemon_default"
    return Default(reason, drawn.model or "", f"the arm `{drawn.name}` of an experiment", drawn=drawn)


def _placed(wrong: QuorumError, where: str) -> QuorumError:
    """The fault of a default, told with where it stands."""
    return type(wrong)(f"{where} is wrong: {wrong.message}", detail=wrong.detail)


def _wishes(asked: Asked) -> Wishes | None:
    """Those of the orchestrator where it stands for the call's task, be it for an arm."""
    of_task = asked.drawn is not None and asked.drawn.of_task
    return asked.arm_wishes if of_task else asked.wishes


def _fault(target: Target, world: World) -> QuorumError | None:
    """Why a target can't be used right now, or None."""
    view = world.view(target.provider)
    entry = world.entries.get(str(target), NOTHING)
    if view is not None:
        entry = described(entry, view, target.model)
    if entry.retired:
        successor = f"; its successor is `{entry.successor}`" if entry.successor else ""
        return UnknownModel(
            f"`{target}` is retired{successor}", detail={"model": str(target), "successor": entry.successor}
        )
    if view is None or view.state in AVAILABLE:
        return None
    message = f"provider `{view.name}` is {view.state.replace('_', ' ')}{': ' + about_it(view.name, view.why) if view.why else ''}"
    detail = {"provider": view.name}
    match view.state:
        case "misconfigured":
            return Misconfigured(message, detail=detail)
        case "rate_limited":
            return RateLimited(message, detail=detail)
        case _:
            return ProviderUnavailable(f"{message}; it is tried again by itself", detail=detail)


def _over_tier(target: Target, world: World, made: Plan) -> QuorumError | None:
    """Why a target is none in the tier `budget`, or None. One that costs money where the user allows that is noted."""
    if made.wishes is None or made.wishes.tier != "budget" or world.is_local(target):
        return None
    if made.wishes.allow_paid:
        made.over_tier.append(target)
        return None
    return NoEligibleModel(
        f"`{target}` is not free, and the tier `budget` takes only what is (`orchestrator.budget_tier_allows_paid`)"
    )


def _nothing(world: World) -> QuorumError:
    if not world.views:
        return NoEligibleModel("no provider is configured; add one under [providers] in the config")
    return NoEligibleModel(
        "no provider has listed a model yet; name one: -m <provider>:<model>, or set `default_model`"
    )


def _note_refused(made: Plan, said: str, why: str) -> None:
    """The step whose choice is at fault, unless it was noted before that was seen."""
    if all(step.step != made.reason for step in made.steps):
        made.steps.append(Step(made.reason, said, why))


def _taken(target: Target, why: str, made: Plan) -> Target:
    """The target of the step that decides."""
    made.steps.append(Step(made.reason, str(target), why))
    return target
