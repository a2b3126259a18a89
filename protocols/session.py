"""A user's live context, and what is asked of it."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct, field

from protocols.model import Tier
from protocols.request import Request
from protocols.rpc import Name, Params, Right
from protocols.settings import Admission, Mode, SelectionMode
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


class TournamentWishes(Struct, frozen=True):
    """How a user's tournaments are held where a call does not say."""

    enabled: bool = False
    num_models: int = 3
    mode: Mode | None = None
    min_live: int = 2
    threshold: str = "2/3"
    critical_tasks: tuple[str, ...] = ()


NO_WISHES = TournamentWishes()


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
    tournament: TournamentWishes = NO_WISHES


class SessionRow(Struct):
    """A row of `sessions`."""

    user: str
    app: str
    opened_at: str
    idle_s: float
    calls: int
    cost_nano_usd: int


class Prefer(Request[Preferences], frozen=True):
    """Session: the preferences of its user; `begins` says that a call begins, which counts. Who only asks what would be begins none."""

    app: str
    begins: bool = False


class OpenSession(Request[Any], frozen=True):
    """Sessions: the ref of this user's session, opened if need be."""

    user: str
    app: str


class CloseSession(Request[SessionRow | None], frozen=True):
    """Sessions: forget a user's session; its row as it was, None if there was none."""

    user: str


class Spent(Request[None], frozen=True):
    """Sessions, and the session if it is still there: a call of this user ended and cost this many nano-dollars.

    `answered_by` is the id of the model that answered, if one did.
    """

    user: str
    cost_nano_usd: int
    answered_by: str | None = None


class ListSessions(Request[list[SessionRow]], frozen=True):
    """Sessions: the rows of all of them, or of this account and the names below it; the least recently used first."""

    account: str | None = None


class Describe(Request[SessionRow], frozen=True):
    """Session: its row for the list."""


class Sessions(Params):
    """Lists the sessions that are live in memory."""

    method: ClassVar[str] = "sessions"
    right: ClassVar[Right] = "observe"


class SessionsOpen(Params):
    """Opens a user's session and reads what its calls go by, so that the first one needn't wait for that."""

    method: ClassVar[str] = "sessions.open"
    right: ClassVar[Right] = "use"

    user: Name | None = None


class SessionsClose(Params):
    """Lets a user's session leave memory; calls under way go on, and the next one opens another."""

    method: ClassVar[str] = "sessions.close"
    right: ClassVar[Right] = "use"

    user: Name | None = None


class SessionList(Struct):
    """Result of `sessions`."""

    sessions: list[SessionRow]


class OneSession(Struct):
    """Result of `sessions.open`; of `sessions.close` as it was, null if there was none."""

    session: SessionRow | None
