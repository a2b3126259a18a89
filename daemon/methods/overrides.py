"""`overrides.*`: a user's budget extended for a while."""

from __future__ import annotations

from actors.clock import parse_rfc3339
from daemon.methods.method import Caller
from daemon.world import World
from protocols.budget import GrantOverride, ListOverrides, RevokeOverride
from protocols.errors import BadRequest, Forbidden
from protocols.money import nano_from_usd
from protocols.overrides import OverrideRow, OverrideRows, OverridesGrant, OverridesList, OverridesRevoke
from protocols.settings import SettingsOf


async def grant(world: World, caller: Caller, params: OverridesGrant) -> OverrideRow:
    """Extends a budget: the caller's own if the caller may pass it at all, anybody's with `operate`."""
    user = caller.peer.user(params.user)
    if "operate" not in caller.peer.rights:
        own = (await world.settings.call(SettingsOf(user))).user
        if not own.budget_override_allowed:
            raise Forbidden(f"{user} may not pass the own budget (`budget_override_allowed` is false); ask an operator")
    try:
        until = parse_rfc3339(params.until)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    amount = nano_from_usd(params.amount_usd)
    return await world.budget.call(GrantOverride(user, amount, until, params.why, caller.actor))


async def list_all(world: World, caller: Caller, params: OverridesList) -> OverrideRows:
    """The overrides that hold: the caller's own, everybody's with `operate`."""
    return OverrideRows(await world.budget.call(ListOverrides(caller.whose(params.user))))


async def revoke(world: World, caller: Caller, params: OverridesRevoke) -> dict[str, object]:
    """Ends one of the caller's own, anybody's with `operate`."""
    await world.budget.call(RevokeOverride(params.override_id, caller.whose(None), caller.actor))
    return {}
