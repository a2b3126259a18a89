"""Settings: one field a setting. Type, bounds, default and description stand here; file, command line and docs derive from it.

A user's setting may differ per user; a daemon's is one for all. `"default_model"` and the like are the names outside.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct, field

from protocols.audit import Actor
from protocols.request import Request
from protocols.rpc import Name, Params, Right

Usd = Annotated[float, Meta(ge=0, le=1e9)]
"""Dollars; the upper bound keeps nano-dollars in 64 bits, and infinity out."""

Value = Annotated[str, Meta(max_length=1024)] | int | float | bool | None | list[str]
"""What a setting may be, before its own type is checked: nothing that nests, so that a hostile value stays small."""


Admission = Literal["strict", "queue", "soft"]
"""`strict` refuses what does not fit right now, `queue` waits for holds to settle, `soft` runs while spent < limit."""


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
        Meta(ge=1, le=36_500, description="days after which attempts are kept as daily sums alone, not a row each"),
    ] = field(default=400, name="usage.retention_days")


LATER = (
    "provider_selection_mode",
    "orchestrator.",
    "tournament.",
)
"""Settings (or the beginnings of their names) that a config may already hold but that nothing in this version goes by."""


def comes_later(key: str) -> bool:
    """Whether a setting is known by name but has no effect yet."""
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in LATER)


Origin = Literal["default", "config", "daemon", "user"]


class SettingRow(Struct):
    """A setting with where its value comes from."""

    key: str
    value: Any
    origin: Origin
    scope: Literal["user", "daemon"]
    description: str


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


class ChangeSetting(Request[SettingRow], frozen=True):
    """Settings actor: set (`value`) or unset (`value` UNSET) a setting of `owner` (a user, `*` or `daemon`), audited.

    Raises BadRequest for an unknown key (naming the nearest) or a wrong value; LedgerReadonly.
    """

    key: str
    value: Any
    owner: str
    actor: Actor


class SettingsInForce(Struct, frozen=True):
    """What holds for a user and the daemon right now."""

    user: UserSettings
    daemon: DaemonSettings


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


def fields_of(cls: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """The settings of a struct by their names outside."""
    return {info.encode_name: info for info in msgspec.structs.fields(cls)}
