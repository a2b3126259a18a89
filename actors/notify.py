"""Alerts on their way out: to a command, to a webhook. In order, at least once, and outside everybody else's way.

The table `alerts` is the queue, so a restart loses nothing; an alert that is not taken is given up after a few tries. Each way
has a place of its own in the queue, so that one that hangs delays nothing of the other.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol, get_args
from urllib.parse import urlsplit

import anyio
import msgspec
import structlog

from actors.base import Actor, Ref, Wait, handles
from actors.clock import MICRO, Clock, rfc3339
from actors.events import Events, listening
from actors.providers.transport import Endpoint, Transport, TransportError
from actors.store.queries import load
from actors.store.sqlite import Store
from protocols.alerts import SEVERITY, Alert, Level, PostDelivered, ReadUndelivered, WayOut
from protocols.dialects.dialect import HttpRequest
from protocols.errors import LedgerReadonly
from protocols.money import usd_text

SQL = load("alerts", first=200)

TOO_OLD_US = 24 * 3600 * MICRO
"""Age from which an alert is no news any more: after a long stop it stays undelivered."""

RETRY_AFTER_S = (1.0, 10.0, 60.0)
"""Seconds before each further try to deliver an alert; after the last one it is given up."""

MARK_AGAIN_S = 5.0
"""Seconds between tries to mark an alert as delivered while the disk is full."""

KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TZ",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
)
"""What a command sees of the daemon's environment: enough for a desktop notification, and no key."""

log = structlog.get_logger("notify")


class NotTaken(Exception):
    """An alert was not taken; the message says why, without the webhook's path or what the other side said."""


class Way(Protocol):
    """A way out. `name` is what the log and the store call it."""

    name: WayOut

    async def deliver(self, alert: Alert) -> None:
        """Hands an alert over; takes as long as it takes. Raises NotTaken."""
        ...


class Command:
    """A program that is run for each alert: JSON on stdin, `QUORUMD_ALERT_*` in a small environment. What it writes on stderr
    goes where the daemon's log goes.
    """

    name: WayOut = "command"

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._words = list(words)
        self._kept = {name: environment[name] for name in KEPT_VARIABLES if name in environment}

    async def deliver(self, alert: Alert) -> None:
        """Runs it to its end; cancelled, kills it and whatever it started."""
        try:
            with anyio.CancelScope(shield=True):  # a program that was started before it is in our hands would live on
                process = await anyio.open_process(
                    self._words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=None,
                    cwd="/",
                    env=self._kept | variables(alert),
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            raise NotTaken(f"`{self._words[0]}` can't be run: {error}") from None
        async with process:
            try:
                await _say(process, msgspec.json.encode(alert) + b"\n")
                code = await process.wait()
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if code != 0:
            raise NotTaken(f"`{self._words[0]}` ended with {code}")


class Webhook:
    """An address to which each alert is posted as JSON. Redirects are not followed. Raises ValueError for what is no address."""

    name: WayOut = "webhook"

    def __init__(self, url: str, transport: Transport) -> None:
        self._endpoint, self._path = split_url(url)
        self._transport = transport

    async def deliver(self, alert: Alert) -> None:
        """Posts it; any answer of the 200s means that it was taken."""
        request = HttpRequest(self._path, msgspec.json.encode(alert))
        try:
            async with self._transport.exchange(self._endpoint, request) as response:
                status = response.status
        except TransportError as error:
            raise NotTaken(str(error)) from None
        if status // 100 != 2:  # noqa: PLR2004  HTTP's own class
            raise NotTaken(f"{self._endpoint.origin} answered {status}")


class Notifier(Actor):
    """Delivers alerts.

    State: none but the work under way; which alerts wait for which way stands in the store.
    """

    def __init__(self, store: Store, events: Ref[Events], clock: Clock, ways: Sequence[Way], timeout_s: float) -> None:
        super().__init__()
        self._store = store
        self._events = events
        self._clock = clock
        self._ways = ways
        self._unused = {*get_args(WayOut)} - {way.name for way in ways}
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<Notifier {' and '.join(way.name for way in self._ways) or 'with no way out'}>"

    async def opening(self) -> None:
        """Begins to deliver, by each way for itself."""
        for way in self._ways:
            self.spawn(self._deliver_all(way))

    async def closing(self) -> None:
        """Waits until a command under way is killed."""
        if self._work:
            await asyncio.wait(self._work)

    @handles(ReadUndelivered)
    def undelivered(self, request: ReadUndelivered) -> Wait[list[tuple[int, Alert]]]:
        """What still has to be delivered."""
        return Wait(self._read((request.way, request.since)))

    async def _read(self, parameters: tuple[WayOut, int]) -> list[tuple[int, Alert]]:
        rows = await self._store.read(SQL["undelivered_alerts"], parameters)
        return [(row[0], _alert(*row[1:])) for row in rows]

    @handles(PostDelivered)
    def delivered(self, request: PostDelivered) -> Wait[None]:
        """Writes it down. What one way took is no news for a way that is configured later."""
        ways = (request.way, *self._unused)
        return Wait(self._store.submit(*((SQL["alert_delivered"], (way, request.id)) for way in ways)))

    async def _deliver_all(self, way: Way) -> None:
        async with listening(self._events, None, frozenset({"alert"})) as alerts:
            while True:
                while waiting := await self.ref.call(ReadUndelivered(way.name, self._clock.now_us() - TOO_OLD_US)):
                    for number, alert in waiting:
                        await self._deliver(way, alert)
                        await self._mark(way, number)
                await alerts.next()  # which there are, the store knows

    async def _deliver(self, way: Way, alert: Alert) -> None:
        for pause in (*RETRY_AFTER_S, None):
            try:
                with self._clock.fail_after(self._timeout_s):
                    await way.deliver(alert)
            except TimeoutError:
                why = f"it took more than {self._timeout_s:g} s"
            except NotTaken as error:
                why = str(error)
            else:
                return
            if pause is None:
                log.error("alert_given_up", way=way.name, scope=alert.scope, level=alert.level, why=why)
            else:
                log.warning("alert_not_taken", way=way.name, why=why, again_in_s=pause)
                await self._clock.sleep(pause)

    async def _mark(self, way: Way, number: int) -> None:
        while True:
            try:
                await self.ref.call(PostDelivered(way.name, number))
            except LedgerReadonly:
                await self._clock.sleep(MARK_AGAIN_S)
            else:
                return


async def _say(process: anyio.abc.Process, document: bytes) -> None:
    """Writes its stdin; a program that does not read it is none the worse for that."""
    assert process.stdin is not None
    with suppress(anyio.BrokenResourceError):
        await process.stdin.send(document)
    with suppress(OSError):
        await process.stdin.aclose()


def variables(alert: Alert) -> dict[str, str]:
    """The alert as environment variables: each field that it has, and `TEXT`, which says it in a sentence."""
    fields = msgspec.to_builtins(alert) | {"text": sentence(alert)}
    return {f"QUORUMD_ALERT_{name.upper()}": str(value) for name, value in fields.items()}


def sentence(alert: Alert) -> str:
    """An alert for people."""
    spent, limit = usd_text(alert.spent_nano_usd), usd_text(alert.limit_nano_usd)
    said = f"{alert.scope} has reached {alert.level} % of its {alert.period}'s limit: {spent} of {limit}"
    return f"{said}; {alert.suggestion}" if alert.suggestion else said


def split_url(url: str) -> tuple[Endpoint, str]:
    """A webhook's address as where to connect and what to ask for there. Raises ValueError, which does not quote the address."""
    parts = urlsplit(url)
    endpoint = Endpoint(f"{parts.scheme}://{parts.netloc}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    endpoint.target(HttpRequest(path, b""))
    return endpoint, path


def _alert(
    scope: str, period: str, level: int, at: int, spent: int, limit: int, label: str, suggestion: str | None
) -> Alert:
    known = msgspec.convert(level, Level)
    return Alert(scope, period, known, SEVERITY[known], rfc3339(at), spent, limit, label, suggestion)
