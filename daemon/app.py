"""The daemon: opens its world top-down and leaves in reverse."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from actors.asking import Asking
from actors.base import Ref
from actors.budget import BudgetActor
from actors.clock import Clock, Ids
from actors.completion import Completions
from actors.critical import Chats
from actors.events import Events, Subscription
from actors.exchange import Exchange
from actors.idempotency import Idempotency, Keys
from actors.ledger import Ledger, last_id, outcome_of_lost
from actors.notify import Command, Notifier, Way, Webhook
from actors.performance import Performance
from actors.planner import Planner
from actors.pool import ProviderPool
from actors.provider import Source
from actors.providers.http import HttpClient, HttpxTransport
from actors.providers.tls import Tls
from actors.providers.transport import Transport
from actors.record import Record
from actors.retention import Retention
from actors.rules.catalogue import Catalogue
from actors.rules.periods import local_date
from actors.session import Sessions
from actors.settings import SettingsActor
from actors.store.dispatched import Dispatched, boot_id, open_dispatched
from actors.store.price_book import PriceBook, open_price_book
from actors.store.sqlite import Row, Store, open_store
from actors.supervise import Supervisor
from actors.tokenizer import open_tokenizer
from actors.tournament import TournamentActor
from actors.users import Users
from daemon import systemd
from daemon.config import AlertsSection, Config
from daemon.log import Lines
from daemon.named_models import not_found
from daemon.server import BACKLOG, Server
from daemon.sources import open_sources
from daemon.world import Counts, World
from protocols.budget import OpenHold, ReadBooks, Settle
from protocols.provider import ReadProviders

SOCKET_REMEDY = (
    "set XDG_RUNTIME_DIR to a folder of yours, or name another socket with --socket; "
    "daemonctl needs the same, or QUORUMD_SOCKET"
)

PRICES_LOOK_S = 3600.0
"""Seconds between looks whether the price book is a day old."""

RECOVERY_WAIT_S = 1.0
"""Seconds that a start waits for recovery to be durable; on a full disk it serves before that."""

log = structlog.get_logger("app")


class Paths(Struct, frozen=True):
    """Where the daemon keeps its state and listens."""

    state: Path
    socket: Path


class Stopping(Struct, frozen=True):
    """What the signals have asked: to stop, and to stop at once."""

    asked: asyncio.Future[None]
    again: asyncio.Future[None]


class AlreadyRunning(Exception):
    """Another daemon holds the state folder."""


class CannotStart(Exception):
    """The state folder or the socket can't be used; the message names it and says what to do."""


@contextmanager
def explained(path: Path, remedy: str) -> Iterator[None]:
    """What the system says of a path, with the path and what to do about it. Raises CannotStart."""
    try:
        yield
    except OSError as error:
        raise CannotStart(f"{path} can't be used ({error.strerror or error}); {remedy}") from None


async def run(config: Config, paths: Paths, lines: Lines) -> None:
    """Serves until told to stop, logging to `lines`. Raises AlreadyRunning, StoreRefused, ConfigRefused, GaveUp, and what broke the store."""
    lines.collect(asyncio.get_running_loop())
    stopping = hear_stop_signals()
    clock, zone = Clock(), config.zone()
    with state_folder(paths.state), open_sources(config) as sources:
        catalogue, prices_known = Catalogue(config.models, PriceBook()), asyncio.Event()
        async with (
            keep_prices(paths.state, sources, catalogue, prices_known),
            open_books(paths.state, config) as (store, dispatched, sent),
            open_transports() as transports,
            open_tokenizer(clock.monotonic, wanted=config.daemon.exact_tokens) as tokenizer,
            Supervisor() as actors,
        ):
            ids = Ids(clock.now_us, await last_id(store))
            watchers: dict[Ref[Any], None] = {}
            settings = await actors.start(lambda: SettingsActor(store, clock, config.settings, watchers, config.tasks))
            subscriptions: set[Subscription] = set()
            events = await actors.start(lambda: Events(settings, clock, subscriptions))
            ledger = await actors.start(lambda: Ledger(store, clock, dispatched, events))
            await actors.start(lambda: Retention(store, settings, clock, zone))
            # Before recovery, like all that waits for what was submitted to be written: a full disk keeps that back.
            tournaments_running: dict[str, list[Row]] = {}
            record = await actors.start(lambda: Record(store, clock, tournaments_running))
            ways = ways_out(config.alerts, transports["probes"])
            await actors.start(lambda: Notifier(store, events, clock, ways, config.alerts.timeout_s))
            left_open = (await ledger.call(ReadBooks())).open_holds
            limits = config.limits.limits()
            budget = await actors.start(
                lambda: BudgetActor(ledger, settings, limits, zone, clock, free_model=catalogue.free_model)
            )
            recovery = asyncio.get_running_loop().create_task(recover(budget, dispatched, left_open, sent))
            await asyncio.wait([recovery], timeout=RECOVERY_WAIT_S)
            pool = await actors.start(lambda: ProviderPool(actors, sources, transports["probes"], events, clock))
            choice_watchers: dict[Ref[Any], None] = {}
            users = await actors.start(lambda: Users(store, clock, choice_watchers))
            sessions = await actors.start(lambda: Sessions(actors, settings, users, clock))
            planner = Planner(
                pool=pool,
                catalogue=catalogue,
                aliases=config.aliases,
                tasks=config.tasks,
                experiments=config.experiments,
                prices_known=prices_known,
                tokenizer=tokenizer,
                clock=clock,
            )
            asking = Asking(
                budget=budget,
                providers=await pool.call(ReadProviders()),
                sources={source.name: source for source in sources},
                exchange=Exchange(
                    lambda source: transports["probes" if source.config.proxy else "calls"], dispatched, clock
                ),
                tokenizer=tokenizer,
                clock=clock,
                ids=ids,
            )
            completions = Completions(
                sessions=sessions,
                budget=budget,
                planner=planner,
                asking=asking,
                catalogue=catalogue,
                clock=clock,
                ids=ids,
            )
            tournaments = await actors.start(
                lambda: TournamentActor(
                    sessions=sessions,
                    budget=budget,
                    record=record,
                    planner=planner,
                    asking=asking,
                    clock=clock,
                    ids=ids,
                )
            )
            keys_in_use = Keys()
            keys = await actors.start(lambda: Idempotency(store, clock, ids, keys_in_use))
            performance = await actors.start(lambda: Performance(store, users, clock))
            world = World(
                settings,
                events,
                ledger,
                budget,
                pool,
                users,
                record,
                sessions,
                planner,
                completions,
                tournaments,
                Chats(completions, tournaments, sessions, clock),
                keys,
                performance,
                catalogue,
                config.tasks,
                actors,
                store,
                clock,
                zone,
                clock.now_us(),
                [*config.without_effect(), *not_found(config, [source.name for source in sources])],
                Counts(),
            )
            await serve(world, config, paths, stopping)


def ways_out(section: AlertsSection, transport: Transport) -> list[Way]:
    """The ways that alerts take out of the daemon."""
    ways: list[Way] = []
    if section.command:
        ways.append(Command(section.command, os.environ))
    if section.webhook is not None:
        ways.append(Webhook(section.webhook, transport))
    return ways


async def recover(
    budget: Ref[BudgetActor], dispatched: Dispatched, left_open: list[OpenHold], sent: frozenset[str] | None
) -> None:
    """Closes the holds that an earlier process left open; its marks go once that is durable, so a kill before finds them again."""
    settled = [
        budget.deliver(Settle(i, outcome_of_lost(hold, sent=sent is None or i in sent)))
        for hold in left_open
        for i in (hold.start.usage_id,)
    ]
    failed = [e for e in await asyncio.gather(*settled, return_exceptions=True) if isinstance(e, BaseException)]
    if failed:
        log.error("recovery_failed", holds=len(failed), why=str(failed[0]), hint="the next start tries again")
    else:
        dispatched.start_over()


async def serve(world: World, config: Config, paths: Paths, stopping: Stopping) -> None:
    """Answers on the sockets until a signal, a lost store or an actor beyond help ends it."""
    server = Server(world, config.rights, config.daemon.max_frame_bytes, config.daemon.client_stall_s)
    stopping.again.add_done_callback(lambda _: server.cancel_now())
    stopping.again.add_done_callback(lambda _: world.store.leave())
    with listening(paths.socket) as sockets:
        await server.listen(sockets)
        gc.collect()
        gc.freeze()  # what is there now stays: the collector needn't look at it again
        gc.set_threshold(20_000, 20, 50)
        systemd.notify("READY=1\nSTATUS=serving")
        log.info("serving", socket=[str(s.getsockname()) for s in sockets], pid=os.getpid())
        watchdog = asyncio.get_running_loop().create_task(_watchdog())
        try:
            await asyncio.wait(
                [stopping.asked, world.supervisor.failed, world.store.failed], return_when=asyncio.FIRST_COMPLETED
            )
            systemd.notify("STOPPING=1\nSTATUS=draining")
            failed = next((f for f in (world.supervisor.failed, world.store.failed) if f.done()), None)
            drain_s = config.daemon.drain_s if failed is None else 0.0
            asyncio.get_running_loop().call_later(drain_s, world.store.leave)
            await server.drain(drain_s)
            if failed is not None:
                await failed
        finally:
            watchdog.cancel()
    log.info("stopped")


@contextmanager
def state_folder(folder: Path) -> Iterator[None]:
    """Makes the folder and holds its lock. Raises AlreadyRunning, CannotStart."""
    with explained(folder, "name a folder that you may write to with --state"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"another quorumd holds {folder}; stop it, or name another folder with --state"
            ) from None
        yield
    finally:
        os.close(lock)


@asynccontextmanager
async def open_books(folder: Path, config: Config) -> AsyncIterator[tuple[Store, Dispatched, frozenset[str] | None]]:
    """The store, the marks of requests that leave, and those that an earlier process had sent."""
    zone = config.zone()
    dispatched, sent = open_dispatched(folder / "dispatched", boot_id())
    with dispatched:
        store = await open_store(folder, config.daemon.durability, lambda at_us: local_date(at_us, zone))
        try:
            yield store, dispatched, sent
        finally:
            await store.close()


@asynccontextmanager
async def open_transports() -> AsyncIterator[Mapping[str, Transport]]:
    """The fast client for calls; httpx for probes and for providers behind a proxy."""
    tls = Tls()
    calls, probes = HttpClient(tls=tls), HttpxTransport(tls=tls)
    try:
        yield {"calls": calls, "probes": probes}
    finally:
        await calls.aclose()
        await probes.aclose()


@asynccontextmanager
async def keep_prices(
    folder: Path, sources: list[Source], catalogue: Catalogue, known: asyncio.Event
) -> AsyncIterator[None]:
    """Opens the price book beside the rest of the start, and again when it is a day old. Free providers need none."""
    if all(source.local for source in sources):
        known.set()
        yield
        return
    keeping = asyncio.get_running_loop().create_task(_keep_prices(folder, catalogue, known), name="prices")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


async def _keep_prices(folder: Path, catalogue: Catalogue, known: asyncio.Event) -> None:
    while True:
        try:
            catalogue.learn(await open_price_book(folder))
        except OSError as error:
            log.warning("price_book_failed", error=str(error))
        known.set()
        await asyncio.sleep(PRICES_LOOK_S)


@contextmanager
def listening(path: Path) -> Iterator[list[socket.socket]]:
    """The sockets of systemd if it passed any, else our own, which is removed at the end."""
    passed = [one for _, one in systemd.listen_fds()]
    if passed:
        yield passed
        return
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with explained(path, SOCKET_REMEDY):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            _remove_stale(path)
            _bind(listener, path)
        yield [listener]
        path.unlink(missing_ok=True)
    finally:
        listener.close()


def _bind(listener: socket.socket, path: Path) -> None:
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(0o666)  # who may use it the daemon decides from the peer's uid, and says so
    listener.listen(BACKLOG)


def _remove_stale(path: Path) -> None:
    """Takes away the socket of a daemon that is gone, never one that answers. Raises AlreadyRunning, OSError."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, f"{path} is there and is no socket; name another with --socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        else:
            raise AlreadyRunning(f"another daemon answers on {path}; stop it, or name another socket with --socket")


def hear_stop_signals() -> Stopping:
    """The first SIGTERM or SIGINT drains; a second cancels what runs now. Heard to the end of the loop: none cuts the leaving short."""
    loop = asyncio.get_running_loop()
    stopping = Stopping(loop.create_future(), loop.create_future())

    def heard() -> None:
        if not stopping.asked.done():
            log.info("stopping")
            stopping.asked.set_result(None)
        elif not stopping.again.done():
            log.info("cancelling", hint="asked to stop twice")
            stopping.again.set_result(None)

    loop.add_signal_handler(signal.SIGHUP, lambda: log.warning("no_reload", hint="restart to read the config again"))
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, heard)
    return stopping


async def _watchdog() -> None:
    """Tells systemd that the loop turns; with no watchdog it ends at once."""
    interval = systemd.watchdog_interval_s()
    while interval is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)
