"""Settings: one field a setting. Type, bounds, default and description stand here; file, command line and docs derive from it.

A user's setting may differ per user; a daemon's is one for all. `"default_model"` and the like are the names outside.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from protocols.audit import Actor
from protocols.model import Tier
from protocols.request import Request
from protocols.rpc import Name, Params, Right
from protocols.warned import Warned

Usd = Annotated[float, Meta(ge=0, le=1e9)]
"""Dollars; the upper bound keeps nano-dollars in 64 bits, and infinity out."""

Value = Annotated[str, Meta(max_length=1024)] | int | float | bool | None | list[str]
"""What a setting may be, before its own type is checked: nothing that nests, so that a hostile value stays small."""


Admission = Literal["strict", "queue", "soft"]
"""`strict` refuses what does not fit right now, `queue` waits for holds to settle, `soft` runs while spent < limit."""


SelectionMode = Literal["user_choice", "cost_optimized", "quality_first", "balanced"]
"""How models are ranked where nothing was chosen: in the config's order, the cheapest first, the best first, or by quality for the
money, with a free local model within a point of the best before all."""


Mode = Literal["vote", "pick", "fuse", "race", "cascade"]
"""How a tournament is held."""

SHARE = r"^(1|0?\.\d{1,18}|[0-9]{1,9}/[0-9]{1,9})$"
"""A fraction or a decimal, in the form alone; whether it is above a half is the setting's own check."""


class UserSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that each user may set for themselves; the daemon-wide value is the default."""

    month_usd: Annotated[
        Usd | None, Meta(description="your own limit a calendar month, in dollars; the config's may be lower")
    ] = None
    day_usd: Annotated[Usd | None, Meta(description="your own limit a day, in dollars; the config's may be lower")] = (
        None
    )
    default_max_tokens: Annotated[
        int, Meta(ge=1, le=1_000_000, description="the longest answer of a request that names no limit, in tokens")
    ] = 1024
    enforce_budget_limits: Annotated[
        bool, Meta(description="whether your own budget stops your calls; limits that are hard always do")
    ] = True
    budget_override_allowed: Annotated[
        bool, Meta(description="whether a call above your budget may run once it is confirmed")
    ] = True
    auto_fallback_to_local: Annotated[
        bool, Meta(description="whether a call above your budget goes to a free local model without asking")
    ] = False
    clamp_to_budget: Annotated[
        bool, Meta(description="whether an answer without a limit of its own is kept so short that it fits the budget")
    ] = False
    admission: Annotated[
        Admission,
        Meta(
            description="what happens while other calls hold the rest of a budget: strict (refuse), queue (wait), "
            "soft (run while less than your budget is spent)"
        ),
    ] = "strict"
    provider_selection_mode: Annotated[
        SelectionMode,
        Meta(
            description="how models are ranked where nothing was chosen: user_choice (the config's order), cost_optimized "
            "(the cheapest first), quality_first, balanced (quality for the money)"
        ),
    ] = "balanced"
    orchestrator_enabled: Annotated[
        bool,
        Meta(description="whether a call that names its task gets the model that does it best at your quality tier"),
    ] = field(default=False, name="orchestrator.enabled")
    orchestrator_quality_tier: Annotated[
        Tier,
        Meta(
            description="what the orchestrator looks for: budget (free local models), balanced (quality for the money), "
            "premium (quality)"
        ),
    ] = field(default="balanced", name="orchestrator.quality_tier")
    orchestrator_prefer_local: Annotated[
        bool, Meta(description="whether the tier premium takes a local model within a point of the best")
    ] = field(default=False, name="orchestrator.prefer_local")
    orchestrator_budget_tier_allows_paid: Annotated[
        bool, Meta(description="whether the tier budget takes the cheapest paid model where no local one will do")
    ] = field(default=False, name="orchestrator.budget_tier_allows_paid")
    orchestrator_task_models: Annotated[
        dict[Name, Name | None],
        Meta(description="the model of calls that name this task, while the orchestrator is off"),
    ] = field(default_factory=dict, name="orchestrator.task_models")

    tournament_enabled: Annotated[
        bool, Meta(description="whether a chat with a critical task becomes a tournament; the method always works")
    ] = field(default=False, name="tournament.enabled")
    tournament_num_models: Annotated[int, Meta(ge=2, le=16, description="how many models a tournament asks")] = field(
        default=3, name="tournament.num_models"
    )
    tournament_mode: Annotated[
        Mode | None,
        Meta(
            description="how a tournament is held: vote, cascade (two cheap ones, a stronger one if they differ), pick "
            "(a judge chooses), fuse (one answer is written of the best), race (the first); null: by task and answer"
        ),
    ] = field(default=None, name="tournament.mode")
    tournament_min_live: Annotated[
        int, Meta(ge=2, le=16, description="the fewest answers by which a tournament can tell anything")
    ] = field(default=2, name="tournament.min_live")
    tournament_threshold: Annotated[
        str,
        Meta(
            pattern=SHARE,
            description="the share of those asked that makes a consensus, above 1/2: a fraction such as 2/3, or a decimal",
        ),
    ] = field(default="2/3", name="tournament.threshold")
    tournament_critical_tasks: Annotated[
        list[Name], Meta(max_length=100, description="tasks whose answers must not be wrong unnoticed")
    ] = field(default_factory=list, name="tournament.critical_tasks")


class DaemonSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the daemon alone."""

    default_model: Annotated[str | None, Meta(description="the model of a call that names none")] = None
    session_idle_s: Annotated[
        float, Meta(ge=1, le=1e9, description="seconds after which the context of a silent user leaves memory")
    ] = field(default=1800.0, name="session.idle_s")
    session_max: Annotated[int, Meta(ge=1, description="users whose context is in memory at once")] = field(
        default=10_000, name="session.max"
    )
    usage_retention_days: Annotated[
        int,
        Meta(
            ge=1,
            le=36_500,
            description="days after which attempts are kept as daily sums alone, not a row each, and tournaments go",
        ),
    ] = field(default=400, name="usage.retention_days")


Origin = Literal["default", "config", "daemon", "user"]


class SettingRow(Struct):
    """A setting with where its value comes from; `warnings` in the answer to setting a model that is not there now."""

    key: str
    value: Any
    origin: Origin
    scope: Literal["user", "daemon"]
    description: str
    warnings: list[Warned] | UnsetType = UNSET


class SettingsShow(Params):
    """All settings as they hold for a user (default: the caller)."""

    method: ClassVar[str] = "settings.show"
    right: ClassVar[Right] = "use"

    user: Name | None = None


class SettingsGet(Params):
    """One setting."""

    method: ClassVar[str] = "settings.get"
    right: ClassVar[Right] = "use"

    key: Name
    user: Name | None = None


class SettingsSet(Params):
    """Sets a setting: a user's own, or (admin) the daemon's, or with `user = "*"` (admin) everybody's default."""

    method: ClassVar[str] = "settings.set"
    right: ClassVar[Right] = "use"

    key: Name
    value: Value
    user: Name | None = None


class SettingsUnset(Params):
    """Takes a value back; the next origin holds again."""

    method: ClassVar[str] = "settings.unset"
    right: ClassVar[Right] = "use"

    key: Name
    user: Name | None = None


class SettingList(Struct):
    """Result of `settings.show`."""

    settings: list[SettingRow]


DAEMON = "*daemon"
"""The owner of the daemon's settings: no account can have this name."""

EVERYBODY = "*"


class ReadSettings(Request[list[SettingRow]], frozen=True):
    """Settings actor: every setting as it holds for this user."""

    user: str


class ReadSetting(Request[SettingRow], frozen=True):
    """Settings actor: one setting as it holds for this user. Raises BadRequest."""

    key: str
    user: str


class ChangeSetting(Request[SettingRow], frozen=True):
    """Settings actor: set (`value`) or unset (`value` UNSET) a setting of `owner` (a user, `*` or `daemon`), audited.

    Raises BadRequest for an unknown key (naming the nearest) or a wrong value; LedgerReadonly.
    """

    key: str
    value: Any
    owner: str
    actor: Actor


class SettingsInForce(Struct, frozen=True):
    """What holds for a user and the daemon right now; `own` are the keys that the user set."""

    user: UserSettings
    daemon: DaemonSettings
    own: frozenset[str] = frozenset()


class SettingsOf(Request[SettingsInForce], frozen=True):
    """Settings actor: what holds for a user right now."""

    user: str


class OwnBudget(Struct, frozen=True):
    """What a user says of the own budget: limits in dollars, whether it is enforced, whether it may be overridden."""

    month_usd: float | None
    day_usd: float | None
    enforced: bool
    may_override: bool


class OwnBudgets(Struct, frozen=True):
    """Users' own budgets; under `*` what holds for those who say nothing (its limits for accounts alone)."""

    by_user: dict[str, OwnBudget]


class SettingChanged(Request[None], frozen=True):
    """Told upwards when a value changed: `owner` is a user, `*` or `*daemon`; `own_budgets`, the owner's alone, or with `*`
    everybody's, when it was about budgets.

    `value` is None when it was unset.
    """

    owner: str
    key: str
    own_budgets: OwnBudgets | None
    value: Any = None


class WatchSettings(Request[OwnBudgets], frozen=True):
    """Settings actor: tell this ref of every change from now on; answered with the budgets as they are."""

    watcher: Any


class Setting(Struct, frozen=True):
    """A setting by its name outside: its type, default, description, and whether a user or the daemon has it.

    One whose name ends in `.<…>` is a table: a setting for each name that stands there, without a default.
    """

    key: str
    type: Any
    default: Any
    description: str
    scope: Literal["user", "daemon"]


def _settings_of(cls: type[Struct], scope: Literal["user", "daemon"]) -> list[Setting]:
    return [_setting(info, scope) for info in msgspec.structs.fields(cls)]


def _setting(info: msgspec.structs.FieldInfo, scope: Literal["user", "daemon"]) -> Setting:
    kind, *metas = get_args(info.type)
    description = next((meta.description for meta in metas if isinstance(meta, Meta) and meta.description), "")
    if get_origin(kind) is dict:
        return Setting(f"{info.encode_name}.", get_args(kind)[1], None, description, scope)
    default = info.default if info.default is not msgspec.NODEFAULT else info.default_factory()
    return Setting(info.encode_name, info.type, default, description, scope)


ALL = [*_settings_of(UserSettings, "user"), *_settings_of(DaemonSettings, "daemon")]
SETTINGS = {setting.key: setting for setting in ALL if not setting.key.endswith(".")}
TABLES = {setting.key: setting for setting in ALL if setting.key.endswith(".")}


def setting_of(key: str) -> Setting | None:
    """The setting of this name; one of a table is found by the beginning of its name."""
    named = SETTINGS.get(key)
    if named is None:
        return next((table for prefix, table in TABLES.items() if key.startswith(prefix) and key != prefix), None)
    return named
