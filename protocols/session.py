"""A user's live context, and what is asked of it."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct, field

from protocols.model import Tier
from protocols.request import Request
from protocols.rpc import Params, Right
from protocols.settings import Admission, SelectionMode
from protocols.users import Choices

NOTHING_CHOSEN = Choices()


class Orchestration(Struct, frozen=True):
    """How a user's calls that name a task find their model."""

    enabled: bool = False
    quality_tier: Tier = "balanced"
    prefer_local: bool = False
    budget_tier_allows_paid: bool = False
    task_models: dict[str, str] = field(default_factory=dict)


NOT_ORCHESTRATED = Orchestration()


class Preferences(Struct, frozen=True):
    """What a call of this user goes by, as of now; `own` are the settings that the user set."""

    user: str
    default_max_tokens: int
    default_model: str | None
    admission: Admission = "strict"
    auto_fallback_to_local: bool = False
    clamp_to_budget: bool = False
    choices: Choices = NOTHING_CHOSEN
    provider_selection_mode: SelectionMode = "balanced"
    orchestrator: Orchestration = NOT_ORCHESTRATED
    own: frozenset[str] = frozenset()


class SessionRow(Struct):
    """A row of `sessions`."""

    user: str
    app: str
    opened_at: str
    idle_s: float
    calls: int
    cost_nano_usd: int


class Prefer(Request[Preferences], frozen=True):
    """Session: the preferences for a call that begins; counts it."""

    app: str


class OpenSession(Request[Any], frozen=True):
    """Sessions: the ref of this user's session, opened if need be."""

    user: str
    app: str


class CloseSession(Request[None], frozen=True):
    """Sessions: forget a user's session."""

    user: str


class Spent(Request[None], frozen=True):
    """Session: a call ended and cost this many nano-dollars; `answered_by` is the id of the model that answered, if one did."""

    cost_nano_usd: int
    answered_by: str | None = None


class ListSessions(Request[list[SessionRow]], frozen=True):
    """Sessions: the rows of all of them."""


class Describe(Request[SessionRow], frozen=True):
    """Session: its row for the list."""


class Sessions(Params):
    """Lists the sessions that are live in memory."""

    method: ClassVar[str] = "sessions"
    right: ClassVar[Right] = "observe"


class SessionList(Struct):
    """Result of `sessions`."""

    sessions: list[SessionRow]
