"""Events: what happens, told to whoever listens. One struct a kind, tagged by `type`; `at` is RFC 3339."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from msgspec import Meta, Struct, structs

from protocols.alerts import Alert
from protocols.provider import State
from protocols.request import Request
from protocols.rpc import Name, Params, Right
from protocols.usage import AttemptEnd, AttemptStart


class AlertEvent(Alert, frozen=True, omit_defaults=True, tag_field="type", tag="alert"):
    """Spend has reached a level of a limit."""


class AttemptEvent(Struct, frozen=True, tag_field="type", tag="attempt"):
    """An attempt is settled: the essentials of its usage row. `cost_nano_usd` is None without a known price."""

    at: str
    usage_id: str
    call_id: str
    user: str
    app: str
    model: str
    status: str
    cost_nano_usd: int | None
    latency_ms: float
    marks: tuple[str, ...] = ()


class ProviderEvent(Struct, frozen=True, tag_field="type", tag="provider"):
    """A provider is in another state than before."""

    at: str
    provider: str
    state: State
    why: str | None


class SettingEvent(Struct, frozen=True, tag_field="type", tag="setting"):
    """A setting of `owner` (a user, `*` or `*daemon`) has changed; `value` is None when it was unset."""

    at: str
    owner: str
    key: str
    value: Any


OverrideAction = Literal["granted", "revoked", "confirmed"]


class OverrideEvent(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="override"):
    """A user's budget may be passed: by an override, which is named, or by one call, whose attempt is."""

    at: str
    action: OverrideAction
    user: str
    amount_nano_usd: int
    override_id: str | None = None
    usage_id: str | None = None


class Lost(Struct, frozen=True, tag_field="type", tag="lost"):
    """So many events are missing here: the reader was too slow for them. `at` is the last one's."""

    at: str
    count: int


Event = AlertEvent | AttemptEvent | ProviderEvent | SettingEvent | OverrideEvent
Told = Event | Lost
"""What a stream of events consists of."""

TYPES = tuple(kind.__struct_config__.tag for kind in get_args(Event))


def type_of(event: Told) -> str:
    """The name of an event's kind."""
    return str(event.__struct_config__.tag)


def alert_event(alert: Alert) -> AlertEvent:
    """An alert as it is told."""
    return AlertEvent(**structs.asdict(alert))


class Events(Params):
    """A stream of events as they happen, of these types or of all, until the caller cancels it or the daemon stops.

    Those about other users need `operate`.
    """

    method: ClassVar[str] = "events"
    right: ClassVar[Right] = "observe"
    lasting: ClassVar[bool] = True

    types: Annotated[list[Name], Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        """A misspelt type would be a stream on which nothing ever comes."""
        for name in self.types or ():
            if name not in TYPES:
                raise ValueError(f"there is no event type `{name[:100]}`; there are: {', '.join(TYPES)}")


class EventsEnded(Struct):
    """Result of `events`: the daemon stops."""


class Publish(Request[None], frozen=True):
    """Events actor: this happened; tell those who listen."""

    event: Event


class AttemptSettled(Request[None], frozen=True):
    """Events actor: an attempt is settled; it becomes an event if somebody listens."""

    start: AttemptStart
    end: AttemptEnd
    marks: tuple[str, ...] = ()


class Subscribe(Request[Any], frozen=True):
    """Events actor: a subscription to what `account` may see, or to everything with None; of these types, or of all with None."""

    account: str | None
    types: frozenset[str] | None = None


class Unsubscribe(Request[None], frozen=True):
    """Events actor: nobody reads this subscription any more."""

    subscription: Any
