"""What handlers reach: the refs of the actors and what is fixed since the start."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo

from msgspec import Struct

from actors.base import Ref
from actors.budget import BudgetActor
from actors.clock import Clock
from actors.completion import Completions
from actors.critical import Chats
from actors.events import Events
from actors.idempotency import Idempotency
from actors.ledger import Ledger
from actors.performance import Performance
from actors.planner import Planner
from actors.pool import ProviderPool
from actors.record import Record
from actors.rules.catalogue import Catalogue
from actors.rules.matrix import TaskConfig
from actors.session import Sessions
from actors.settings import SettingsActor
from actors.store.sqlite import Store
from actors.supervise import Supervisor
from actors.tournament import TournamentActor
from actors.users import Users


class Counts(Struct):
    """What the server counts for `status`."""

    connections: int = 0
    calls: int = 0


class World(Struct):
    """Everything a handler may need; built once by `daemon.app`."""

    settings: Ref[SettingsActor]
    events: Ref[Events]
    ledger: Ref[Ledger]
    budget: Ref[BudgetActor]
    pool: Ref[ProviderPool]
    users: Ref[Users]
    record: Ref[Record]
    sessions: Ref[Sessions]
    planner: Planner
    completions: Completions
    tournaments: Ref[TournamentActor]
    chats: Chats
    keys: Ref[Idempotency]
    performance: Ref[Performance]
    catalogue: Catalogue
    tasks: Mapping[str, TaskConfig]
    supervisor: Supervisor
    store: Store
    clock: Clock
    zone: tzinfo
    started_us: int
    notes: list[str]
    counts: Counts
