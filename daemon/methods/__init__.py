"""The methods, as a written list: one is a params struct in protocols, a handler in a file by its noun, and a line here."""

from __future__ import annotations

from daemon.methods import (
    alerts,
    chat,
    estimates,
    events,
    ledger,
    overrides,
    performance,
    providers,
    sessions,
    settings,
    status,
    tournament,
    tournaments,
    usage,
    users,
)
from daemon.methods.method import Caller, Method
from protocols.alerts import Alerts
from protocols.audit import Audit
from protocols.chat import Chat, Explain
from protocols.estimate import Estimate
from protocols.events import Events
from protocols.overrides import OverridesGrant, OverridesList, OverridesRevoke
from protocols.performance import Feedback, PerformanceQuery, UsageStatsQuery
from protocols.provider import Models, Providers
from protocols.record import Replay, Reviews, ReviewsResolve, Show, Tournaments
from protocols.routing import Recommend
from protocols.rpc import Ping
from protocols.session import Sessions, SessionsClose, SessionsOpen
from protocols.settings import SettingsGet, SettingsSet, SettingsShow, SettingsUnset
from protocols.status import Status
from protocols.tournament import Tournament
from protocols.usage import Holds, HoldsResolve, LedgerVerify, SpendQuery, UsageQuery
from protocols.users import (
    AddModel,
    GetDefault,
    ListModels,
    RemoveModel,
    Resolve,
    SetConversationDefault,
    SetDefault,
    Users,
)

METHODS: dict[str, Method] = {
    method.params.method: method
    for method in (
        Method(Ping, status.ping),
        Method(Status, status.status),
        Method(Chat, chat.chat),
        Method(Explain, chat.explain),
        Method(Models, providers.models),
        Method(Providers, providers.providers),
        Method(Recommend, providers.recommend),
        Method(Estimate, estimates.estimate),
        Method(Sessions, sessions.sessions),
        Method(SessionsOpen, sessions.open_one),
        Method(SessionsClose, sessions.close),
        Method(Users, users.users),
        Method(SetDefault, users.set_default),
        Method(AddModel, users.add),
        Method(RemoveModel, users.remove),
        Method(GetDefault, users.get_default),
        Method(ListModels, users.list_models),
        Method(Resolve, users.resolved),
        Method(SetConversationDefault, users.set_conversation_default),
        Method(SpendQuery, usage.spend),
        Method(UsageQuery, usage.usage),
        Method(UsageStatsQuery, usage.usage_stats),
        Method(PerformanceQuery, performance.performance),
        Method(Feedback, performance.feedback),
        Method(Alerts, alerts.alerts),
        Method(Audit, alerts.audit),
        Method(OverridesGrant, overrides.grant),
        Method(OverridesList, overrides.list_all),
        Method(OverridesRevoke, overrides.revoke),
        Method(Holds, ledger.holds),
        Method(HoldsResolve, ledger.resolve),
        Method(LedgerVerify, ledger.verify),
        Method(SettingsShow, settings.show),
        Method(SettingsGet, settings.get),
        Method(SettingsSet, settings.set_value),
        Method(SettingsUnset, settings.unset),
        Method(Tournament, tournament.tournament),
        Method(Tournaments, tournaments.tournaments),
        Method(Show, tournaments.show),
        Method(Replay, tournaments.replay),
        Method(Reviews, tournaments.reviews),
        Method(ReviewsResolve, tournaments.resolve),
        Method(Events, events.events),
    )
}

__all__ = ["METHODS", "Caller", "Method"]
