"""`settings.*`."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from actors.settings import is_of_model
from daemon.methods.method import Caller
from daemon.world import World
from protocols.errors import BadRequest, QuorumError
from protocols.settings import (
    DAEMON,
    EVERYBODY,
    ChangeSetting,
    ReadSetting,
    ReadSettings,
    SettingList,
    SettingRow,
    SettingsGet,
    SettingsSet,
    SettingsShow,
    SettingsUnset,
    setting_of,
)
from protocols.warned import Warned


async def show(world: World, caller: Caller, params: SettingsShow) -> SettingList:
    """Every setting as it holds for the user."""
    return SettingList(await world.settings.call(ReadSettings(_reader(caller, params.user))))


async def get(world: World, caller: Caller, params: SettingsGet) -> SettingRow:
    """One setting."""
    return await world.settings.call(ReadSetting(params.key, _reader(caller, params.user)))


async def set_value(world: World, caller: Caller, params: SettingsSet) -> SettingRow:
    """Sets one; the answer shows what holds now."""
    row = await _change(world, caller, params.key, params.value, params.user)
    if is_of_model(params.key) and isinstance(row.value, str):
        row.warnings = await _warnings(world, row.value) or UNSET
    return row


async def unset(world: World, caller: Caller, params: SettingsUnset) -> SettingRow:
    """Takes one back."""
    return await _change(world, caller, params.key, UNSET, params.user)


async def _change(world: World, caller: Caller, key: str, value: Any, user: str | None) -> SettingRow:
    owner = _owner(caller, key, user)
    return await world.settings.call(ChangeSetting(key, value, owner, caller.actor))


async def _warnings(world: World, model: str) -> list[Warned]:
    """What is doubtful about a model by this name, which is kept all the same: its provider may come later."""
    try:
        _, warnings = await world.planner.named(model, None)
    except QuorumError as wrong:
        return [Warned(wrong.code, f"{wrong.message}; the setting is kept all the same")]
    return warnings


def _reader(caller: Caller, user: str | None) -> str:
    return EVERYBODY if user == EVERYBODY else caller.peer.user(user)


def _owner(caller: Caller, key: str, user: str | None) -> str:
    """Whose value is changed: the daemon's and everybody's need `admin`."""
    setting = setting_of(key)
    if setting is not None and setting.scope == "daemon":
        if user not in {None, EVERYBODY}:
            raise BadRequest(f"`{key}` is a setting of the daemon, not of a user; leave `user` out")
        caller.peer.needs("admin", f"changing `{key}`")
        return DAEMON
    if user == EVERYBODY:
        caller.peer.needs("admin", f"changing everybody's `{key}`")
        return EVERYBODY
    return caller.peer.user(user)
