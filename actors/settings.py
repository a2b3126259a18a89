"""Settings: which value holds for whom, and where it comes from. The only writer of the settings and of their audit rows."""

from __future__ import annotations

import asyncio
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct

from actors.base import Actor, Ref, Wait, handles
from actors.clock import Clock
from actors.rules.admission import account_name
from actors.rules.consensus import threshold
from actors.rules.matrix import TaskConfig, task
from actors.store.audit import audit_row
from actors.store.queries import load
from actors.store.sqlite import Row, Store
from protocols.errors import BadRequest
from protocols.settings import (
    DAEMON,
    EVERYBODY,
    SETTINGS,
    TABLES,
    ChangeSetting,
    DaemonSettings,
    Origin,
    OwnBudget,
    OwnBudgets,
    ReadSetting,
    ReadSettings,
    Setting,
    SettingChanged,
    SettingRow,
    SettingsInForce,
    SettingsOf,
    UserSettings,
    WatchSettings,
    setting_of,
)

S = TypeVar("S", bound=Struct)

SQL = load("settings", first=100)
NO_TASKS: Mapping[str, TaskConfig] = {}
THRESHOLD, CRITICAL_TASKS = "tournament.threshold", "tournament.critical_tasks"
OF_TASKS, DEFAULT_MODEL = "orchestrator.task_models.", "default_model"
BUDGET_KEYS = frozenset({"month_usd", "day_usd", "enforce_budget_limits", "budget_override_allowed"})

MOST_NAMES = 10_000
"""Names below one account that have settings of their own: they are the clients' own words, and stay in memory and in the store."""


class SettingsActor(Actor):
    """Reads and changes settings.

    State: stored values by owner and key, no owner without one; how many names below each account are among these owners; who is told of changes, in `watchers`, which outlives a crash; the change under way.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        config: Mapping[str, Any],
        watchers: dict[Ref[Any], None],
        tasks: Mapping[str, TaskConfig] = NO_TASKS,
    ) -> None:
        """`config` and `tasks` are [settings] and [tasks] of the config."""
        super().__init__()
        self._store = store
        self._clock = clock
        self._config = config
        self._tasks = tasks
        self._values: dict[str, dict[str, Any]] = {}
        self._below: Counter[str] = Counter()
        self._watchers = watchers
        self._changing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<SettingsActor {sum(map(len, self._values.values()))} values of {len(self._values)} owners>"

    async def opening(self) -> None:
        """Reads the stored values."""
        await self._store.written()
        self._values = {}
        for owner, key, value in await self._store.read(SQL["all_settings"]):
            self._values.setdefault(owner, {})[key] = msgspec.json.decode(value)
        self._below = Counter(account_name(owner) for owner in self._values if _is_below(owner))

    @handles(WatchSettings)
    def watch(self, request: WatchSettings) -> OwnBudgets:
        """Tells this ref of changes from now on."""
        self._watchers[request.watcher] = None
        return self._own_budgets()

    @handles(SettingsOf)
    def settings_of(self, request: SettingsOf) -> SettingsInForce:
        """What holds for a user right now."""
        return SettingsInForce(
            user=_built(UserSettings, self._values_of(request.user, "user")),
            daemon=_built(DaemonSettings, self._values_of(DAEMON, "daemon")),
            own=frozenset(self._values.get(request.user, ())),
        )

    def _values_of(self, owner: str, scope: str) -> dict[str, Any]:
        values = {key: self._value(key, owner)[0] for key, setting in SETTINGS.items() if setting.scope == scope}
        for prefix in (prefix for prefix, table in TABLES.items() if table.scope == scope):
            entries = {key: self._value(key, owner)[0] for key in self._keys_of(prefix, owner)}
            values[prefix.removesuffix(".")] = {key.removeprefix(prefix): value for key, value in entries.items()}
        return values

    def _keys_of(self, prefix: str, owner: str) -> list[str]:
        """The settings of a table that anybody gave a value."""
        return sorted({key for values in self._said_for(owner) for key in values if key.startswith(prefix)})

    def _said_for(self, owner: str) -> tuple[Mapping[str, Any], ...]:
        """Values that hold for an owner unless there is a nearer one."""
        return (self._config, self._values.get(EVERYBODY, {}), self._values.get(owner, {}))

    @handles(ReadSettings)
    def read(self, request: ReadSettings) -> list[SettingRow]:
        """Every setting as it holds for a user, with its origin."""
        named = [key for prefix in TABLES for key in self._keys_of(prefix, request.user)]
        return [self._row(key, request.user) for key in sorted({*SETTINGS, *named})]

    @handles(ReadSetting)
    def read_one(self, request: ReadSetting) -> SettingRow:
        """One setting as it holds for a user."""
        self._check_there(request.key, request.user)
        return self._row(request.key, request.user)

    @handles(ChangeSetting)
    def change(self, request: ChangeSetting) -> Wait[SettingRow]:
        """Checks, then stores the value and an audit row in one transaction; it holds from then on."""
        key, value = request.key, request.value
        if value is UNSET:
            self._check_there(key, request.owner)
        else:
            check_key(key, self._tasks)
            value = _checked(key, value, self._tasks)
        return Wait(self._store_change(request, value))

    def _check_there(self, key: str, owner: str) -> None:
        """As `check_key`; but what has a value is there, also when its task is gone from the config."""
        if not any(key in values for values in self._said_for(owner)):
            check_key(key, self._tasks)

    async def _store_change(self, request: ChangeSetting, value: Any) -> SettingRow:
        """One change after the other: within a commit, setting comes before unsetting. It holds though its asker is cancelled."""
        key, owner = request.key, request.owner
        async with self._changing:
            before = self._values.get(owner, {}).get(key, UNSET)
            if before is value is UNSET:
                return self._row(key, owner)
            self._check_room(owner)
            rows = (self._change_row(owner, key, value), self._audit_row(request, before, value))
            await self._store.submit(*rows, then=partial(self._changed, owner, key, value))
        return self._row(key, owner)

    def _check_room(self, owner: str) -> None:
        account = account_name(owner)
        if owner not in self._values and _is_below(owner) and self._below[account] >= MOST_NAMES:
            raise BadRequest(
                f"{MOST_NAMES} names below `{account}` have settings of their own, and no more can; "
                "unset those of some that are not used any more"
            )

    def _changed(self, owner: str, key: str, value: Any) -> None:
        if value is UNSET:
            self._forget(owner, key)
        else:
            self._keep(owner, key, value)
        budgets = self._changed_budgets(owner) if key in BUDGET_KEYS else None
        now = None if value is UNSET else value
        for watcher in self._watchers:
            watcher.tell(SettingChanged(owner, key, budgets, now))

    def _keep(self, owner: str, key: str, value: Any) -> None:
        if owner not in self._values and _is_below(owner):
            self._below[account_name(owner)] += 1
        self._values.setdefault(owner, {})[key] = value

    def _forget(self, owner: str, key: str) -> None:
        del self._values[owner][key]
        if self._values[owner]:
            return
        del self._values[owner]
        if _is_below(owner):
            self._below -= Counter([account_name(owner)])  # none stays at 0

    def _change_row(self, owner: str, key: str, value: Any) -> Row:
        if value is UNSET:
            return (SQL["unset_setting"], (owner, key))
        return (SQL["set_setting"], (owner, key, msgspec.json.encode(value).decode()))

    def _audit_row(self, request: ChangeSetting, before: Any, value: Any) -> Row:
        action = "settings.unset" if value is UNSET else "settings.set"
        subject = f"{request.owner}: {request.key}"
        now = self._clock.now_us()
        return audit_row(request.actor, now, action, subject, before=_text(before), after=_text(value))

    def _row(self, key: str, owner: str) -> SettingRow:
        value, origin = self._value(key, owner)
        setting = _known(key)
        return SettingRow(key, value, origin, setting.scope, setting.description)

    def _value(self, key: str, owner: str) -> tuple[Any, Origin]:
        """A user's own value, the daemon's, the config's, the default: the first that is there."""
        setting = _known(key)
        if setting.scope == "user":
            own = self._values.get(owner, {}) if owner != EVERYBODY else {}
            if key in own:
                return own[key], "user"
            owner = EVERYBODY
        else:
            owner = DAEMON
        stored = self._values.get(owner, {})
        if key in stored:
            return stored[key], "daemon"
        if key in self._config:
            return self._config[key], "config"
        return setting.default, "default"

    def _own_budgets(self) -> OwnBudgets:
        owners = {EVERYBODY} | {o for o, values in self._values.items() if BUDGET_KEYS & values.keys()}
        return OwnBudgets({owner: self._own_budget(owner) for owner in owners})

    def _changed_budgets(self, owner: str) -> OwnBudgets:
        """The owner's; everybody's default is also part of those who say only some of it."""
        return self._own_budgets() if owner == EVERYBODY else OwnBudgets({owner: self._own_budget(owner)})

    def _own_budget(self, owner: str) -> OwnBudget:
        month, day = (self._own_limit(key, owner) for key in ("month_usd", "day_usd"))
        enforced, _ = self._value("enforce_budget_limits", owner)
        may_override, _ = self._value("budget_override_allowed", owner)
        return OwnBudget(month, day, enforced, may_override)

    def _own_limit(self, key: str, owner: str) -> float | None:
        """Everybody's default is the limit of an account, not once more of each name below it."""
        limit: float | None
        limit, origin = self._value(key, owner)
        return limit if origin == "user" or "/" not in owner else None


def check_key(key: str, tasks: Mapping[str, TaskConfig]) -> None:
    """Raises BadRequest for a setting, or the task that it is of, that does not exist, naming the nearest."""
    if setting_of(key) is None:
        near = difflib.get_close_matches(key, [*SETTINGS, *_of_tables(key)], n=1, cutoff=0.4)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise BadRequest(f"there is no setting `{key[:100]}`; {hint}`daemonctl settings show` lists them")
    if key.startswith(OF_TASKS):
        task(key.removeprefix(OF_TASKS), tasks)


def _of_tables(wrong: str) -> Iterator[str]:
    """The setting of each table that a wrong key may mean: `orchestrator.task_model.tag` that of `tag`."""
    for prefix in TABLES:
        depth = prefix.count(".")
        name = wrong.split(".", depth)[depth:] or ["<name>"]
        yield prefix + name[0]


def check_config(values: Mapping[str, Any], tasks: Mapping[str, TaskConfig]) -> None:
    """Raises BadRequest for a key or value of the config's [settings] that is wrong."""
    for key, value in values.items():
        check_key(key, tasks)
        _checked(key, value, tasks)


def _is_below(owner: str) -> bool:
    return "/" in owner


def _known(key: str) -> Setting:
    setting = setting_of(key)
    assert setting is not None, key
    return setting


def _checked(key: str, value: Any, tasks: Mapping[str, TaskConfig]) -> Any:
    setting = _known(key)
    try:
        checked = msgspec.convert(value, setting.type)
    except msgspec.ValidationError as error:
        allowed = f"; one of {', '.join(words)}" if (words := _words(setting.type)) else ""
        raise BadRequest(
            f"`{key}` can't be {repr(value)[:100]}: {error}{allowed}; it is {setting.description}"
        ) from None
    if key == THRESHOLD:
        _check_share(checked)
    if is_of_model(key) and checked is not None:
        _check_model(key, checked)
    if key == CRITICAL_TASKS:
        for name in checked:
            task(name, tasks)
    return checked


def is_of_model(key: str) -> bool:
    """Whether the value of a setting is a model's name."""
    return key == DEFAULT_MODEL or key.startswith(OF_TASKS)


def _check_model(key: str, name: str) -> None:
    """Refuses only what can never work: providers and models come and go."""
    if not name.strip() or "\0" in name:
        raise BadRequest(f"`{key}` can't be {name[:100]!r}: it is the name of a model, or null for none")


def _check_share(value: str) -> None:
    try:
        threshold(value)
    except ValueError as error:
        raise BadRequest(f"`{THRESHOLD}` can't be `{value}`: {error}") from None


def _words(kind: Any) -> list[str]:
    """The words that a setting's type allows, if it names any."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for part in get_args(kind) for word in _words(part)]


def _built(cls: type[S], values: Mapping[str, Any]) -> S:
    return msgspec.convert(values, cls)


def _text(value: Any) -> str | None:
    return None if value is UNSET else msgspec.json.encode(value).decode()
