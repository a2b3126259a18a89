"""The simulated provider: which request is answered how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from actors.providers.simulated import failures
from actors.providers.simulated.answers import Asked, answer, prompt_tokens
from actors.providers.simulated.anthropic import Anthropic
from actors.providers.simulated.behaviour import Behaviour, Knobs, combine, from_json, from_query, recovered
from actors.providers.simulated.connection import Connection, Request
from actors.providers.simulated.delivery import Delivery
from actors.providers.simulated.dialect import Dialect, RequestError
from actors.providers.simulated.failures import Failure
from actors.providers.simulated.ollama import Ollama
from actors.providers.simulated.openai import OpenAI
from actors.providers.simulated.plan import Plan, answered, failed, in_one, whole
from actors.providers.simulated.record import Log, Record, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

MODELS = ("sim", "sim-fast", "sim-slow")
BY_NAME: dict[str, Knobs] = {"sim-slow": {"latency_ms": 300, "pace_ms": 50}}
"""What a name alone means; everything else said covers it."""
REMEMBERED = 10_000
"""Behaviours and fault counts by model name and header; names come from clients, so there is a bound."""
CHATS: dict[str, Dialect] = {
    "/v1/chat/completions": OpenAI(),
    "/chat/completions": OpenAI(),
    "/v1/messages": Anthropic(),
    "/messages": Anthropic(),
    "/api/chat": Ollama(),
}
LISTS: dict[str, Dialect] = {"/v1/models": OpenAI(), "/models": OpenAI(), "/api/tags": Ollama()}
ANTHROPIC: Dialect = Anthropic()
PLAIN = Behaviour()


class SimulatedProvider:
    """State: the server's own knobs, the behaviours made from them, how often each has struck, the log, who is connected."""

    def __init__(self, models: Iterable[str] = MODELS, knobs: Knobs | None = None, key: str | None = None) -> None:
        """Raises ValueError if the knobs are wrong."""
        combine(knobs or {})
        self._models = tuple(models)
        self._key = key
        self._first_knobs = knobs or {}
        self._knobs = self._first_knobs
        self._behaviours: dict[tuple[str, str], Behaviour] = {}
        self._struck: dict[tuple[str, str], int] = {}
        self._fingerprints: dict[str, str] = {}
        self._log = Log()
        self._connections: set[Connection] = set()

    def __repr__(self) -> str:
        counters = self._log.counters
        return f"<SimulatedProvider {len(self._connections)} connections, {counters.in_flight} in flight>"

    def connect(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self._handle, self._connections)

    def close(self) -> None:
        """Ends all connections."""
        for connection in tuple(self._connections):
            connection.close()

    def _handle(self, request: Request, connection: Connection) -> None:
        if request.path.startswith("/simulated/"):
            connection.write(self._control(request).head)
            connection.done()
            return
        record = self._log.began(request.method, request.path, request.body)
        plan = self._plan(request, record)
        Delivery(plan, connection, record, self._log).start()

    def _plan(self, request: Request, record: Record) -> Plan:
        dialect = self._dialect(request)
        if dialect is None:
            return failed(Failure(404, "path", request.path), LISTS["/v1/models"], PLAIN)
        record.dialect = dialect.name
        key = dialect.key(request.headers)
        record.key_sha256 = self._fingerprint(key)
        if request.too_large:
            return failed(Failure(413, "too_large"), dialect, PLAIN)
        if self._key is not None and key != self._key:
            return failed(Failure(401, "auth"), dialect, PLAIN)
        if request.path in CHATS:
            return self._chat(request, record, dialect)
        return self._list(request, dialect)

    def _dialect(self, request: Request) -> Dialect | None:
        if request.method == "POST":
            return CHATS.get(request.path)
        found = LISTS.get(request.path) if request.method == "GET" else None
        # Two vendors list their models at the same place; only one of them asks for this header.
        return ANTHROPIC if found is not None and "anthropic-version" in request.headers else found

    def _list(self, request: Request, dialect: Dialect) -> Plan:
        """The models, with the server's own behaviour: a provider that is down fails its probes too."""
        try:
            behaviour = self._behaviour("", request.headers.get("x-simulated", ""))
        except ValueError as error:
            return failed(Failure(400, "invalid", message=str(error)), dialect, PLAIN)
        failure = failures.declared(behaviour, "")
        if failure is not None:
            return failed(failure, dialect, behaviour)
        return in_one(dialect.models(self._models), 0, behaviour)

    def _chat(self, request: Request, record: Record, dialect: Dialect) -> Plan:
        self._log.counters.chats += 1
        try:
            asked = dialect.asked(request.body, request.headers)
            record.model, record.streamed = asked.model, asked.stream
            behaviour = self._behaviour(asked.model, request.headers.get("x-simulated", ""))
        except (RequestError, ValueError) as error:
            return failed(Failure(400, "invalid", message=str(error)), dialect, PLAIN)
        failure = self._failure(asked, behaviour)
        if failure is not None:
            return failed(failure, dialect, behaviour)
        return answered(answer(asked, behaviour, record.number, record.at), asked, dialect, behaviour)

    def _failure(self, asked: Asked, behaviour: Behaviour) -> Failure | None:
        base = asked.model.partition("?")[0]
        if base not in self._models and base.removesuffix(":latest") not in self._models:
            return Failure(404, "model", base)
        if behaviour.context_tokens is not None and prompt_tokens(asked, behaviour) > behaviour.context_tokens:
            return Failure(400, "context", base)
        return failures.declared(behaviour, base)

    def _behaviour(self, model: str, header: str) -> Behaviour:
        """What the server, the model's name and the header say, the last one first. Raises ValueError."""
        source = (model, header)
        behaviour = self._behaviours.get(source)
        if behaviour is None:
            base, _, query = model.partition("?")
            by_header = from_json(header.encode("latin-1")) if header else {}
            behaviour = combine(BY_NAME.get(base, {}), self._knobs, from_query(query), by_header)
            _bounded(self._behaviours)
            self._behaviours[source] = behaviour
        if behaviour.fail_times is None:
            return behaviour
        struck = self._struck.get(source, 0) + 1
        _bounded(self._struck)
        self._struck[source] = struck
        return behaviour if struck <= behaviour.fail_times else recovered(behaviour)

    def _control(self, request: Request) -> Plan:
        match request.method, request.path:
            case "GET", "/simulated/requests":
                bodies = parse_qs(request.query).get("bodies") == ["1"]
                return whole(self._log.shown(len(self._connections), bodies=bodies))
            case "GET", "/simulated/behaviour":
                return whole(msgspec.json.encode(combine(self._knobs)))
            case "POST", "/simulated/behaviour":
                return self._change(request.body)
            case "POST", "/simulated/reset":
                self._log.reset()
                self._use(self._first_knobs)
                return whole(b"{}")
            case _:
                return whole(b'{"error":"not found"}', 404)

    def _change(self, body: bytes) -> Plan:
        """The server's knobs replaced; those not named go back to their defaults."""
        try:
            knobs = from_json(body)
            behaviour = combine(knobs)
        except ValueError as error:
            return whole(msgspec.json.encode({"error": str(error)}), 400)
        self._use(knobs)
        return whole(msgspec.json.encode(behaviour))

    def _use(self, knobs: Knobs) -> None:
        self._knobs = knobs
        self._behaviours.clear()
        self._struck.clear()

    def _fingerprint(self, key: str | None) -> str | None:
        if key is None:
            return None
        if key not in self._fingerprints:
            _bounded(self._fingerprints)
            self._fingerprints[key] = fingerprint(key)
        return self._fingerprints[key]


def _bounded(memory: dict[Any, Any]) -> None:
    if len(memory) >= REMEMBERED:
        memory.clear()
