"""Who may see which event."""

from __future__ import annotations

from protocols.events import AlertEvent, Event, ProviderEvent, SettingEvent


def may_see(event: Event, account: str) -> bool:
    """Whether an account without `operate` may: what is the daemon's own, and what is about itself or a name below it."""
    match event:
        case ProviderEvent():
            return True
        case AlertEvent(scope=scope):
            return scope == "daemon" or (scope.startswith("user:") and _is_of(scope.removeprefix("user:"), account))
        case SettingEvent(owner=owner):
            return _is_of(owner, account)
        case _:
            return _is_of(event.user, account)


def _is_of(user: str, account: str) -> bool:
    return user == account or user.startswith(f"{account}/")
