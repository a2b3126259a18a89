"""SQLite: one writer whose commits are grouped, two readers beside it, one of them for what takes long. WAL, and with `durability = "power"` an fsync a commit.

Whoever submits rows gets a future that is done after the commit in which they stand. Submissions commit in the order in which
they were made, so at every commit the database is a state that the actors have been in.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import aiosqlite
import structlog

from actors.store.queries import Statement, migrations
from actors.store.reserve import Reserve
from protocols.errors import Internal, LedgerReadonly, QuorumError

T = TypeVar("T")
Row = tuple[Statement, tuple[Any, ...]]
Durability = Literal["power", "process"]

APPLICATION_ID = 0x71726D64
"""`qrmd`, so that `file` and we can tell our database from another."""

READ_AT_START = (
    "SELECT * FROM holds",
    "SELECT * FROM settings",
    "SELECT id FROM tournaments WHERE state = 'running'",
    "SELECT * FROM accounts WHERE period = 'month' ORDER BY label DESC LIMIT 1000",
    "SELECT * FROM accounts WHERE period = 'day' ORDER BY label DESC LIMIT 1000",
    "SELECT * FROM account_sets ORDER BY set_id DESC LIMIT 1000",
)
"""About what the actors read when they open: not the history, which grows."""

RETRY_S = 0.5
"""Seconds between tries to write what must be written, and between looks for room, while the disk is full."""

_FULL = frozenset({sqlite3.SQLITE_FULL})
_FATAL = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }
)
"""Errors after which nobody knows what the database holds. Any other is one submission's own: the rest commits without it."""

_MAYBE_FULL = _FULL | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
"""What opening says on a full disk: the files beside the database can't be made."""

log = structlog.get_logger("store")


class StoreRefused(Exception):
    """The database can't be used; the message says why and what to do."""


class Commit(asyncio.Future[None]):
    """Done when what was submitted is durable. Cancelling its waiter takes effect after that, so that the waiter knows what is."""

    def cancel(self, msg: object = None) -> bool:
        """Refuses: asyncio then cancels the waiter when this is done."""
        del msg
        return False


class _Submission:
    __slots__ = ("done", "must", "rows", "then")

    def __init__(
        self, rows: tuple[Row, ...], must: bool, then: Callable[[], None] | None, done: asyncio.Future[None]
    ) -> None:
        self.rows = rows
        self.must = must
        self.then = then
        self.done = done

    def committed(self) -> None:
        if self.then is not None:
            self.then()
        if not self.done.done():
            self.done.set_result(None)

    def refused(self, error: QuorumError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # seen: a settlement whose caller has gone leaves no warning behind


class _Connection(aiosqlite.Connection):
    """aiosqlite's thread and queue, with a whole function as one errand: a transaction is one hop, not one a statement."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        errand = cast("Callable[..., Awaitable[T]]", self._execute)
        return await errand(work, self._conn, *args)


class Store:
    """The open database.

    State: submissions that wait, whether the disk is full (from the first failure until the reserve is whole again), how many
    that had to be written were not, and why the database is unusable if it is.
    """

    def __init__(
        self, writer: _Connection, reader: _Connection, surveyor: _Connection, reserve: Reserve, broken: str | None
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._surveyor = surveyor
        self._reserve = reserve
        self._leaving = asyncio.Event()
        self._lost = 0
        self._waiting: list[_Submission] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._pump: asyncio.Task[None] | None = None
        self.full = False
        self.broken = broken
        self._loop = asyncio.get_running_loop()  # kept: each look-up is a system call
        self.failed: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<Store {len(self._waiting)} waiting{', full' if self.full else ''}{', broken' if self.broken else ''}>"

    def check_room(self) -> None:
        """Raises LedgerReadonly while the disk is full: what is left of it is for what must be written."""
        if self.full:
            raise _disk_full()

    def submit(self, *rows: Row, must: bool = False, then: Callable[[], None] | None = None) -> asyncio.Future[None]:
        """Adds rows to the next commit; the future is done when it is durable.

        It fails with LedgerReadonly when the disk is full, and with Internal for rows that can't be written; `must` rows are
        then written from the reserve, or kept and tried again until they are. `then` is called after the commit, also when the
        waiter was cancelled: who waits for `must` rows can be cancelled at any time, others once their rows are decided.
        """
        done = self._loop.create_future() if must else Commit(loop=self._loop)
        if self.broken is not None:
            done.set_exception(LedgerReadonly(self.broken))
            done.exception()  # seen, as in `refused`
            return done
        if self.full and not must:  # the reserve is for what must be written
            done.set_exception(_disk_full())
            done.exception()
            return done
        self._waiting.append(_Submission(rows, must, then, done))
        self._idle.clear()
        self._wake.set()
        return done

    async def read(self, statement: Statement, parameters: Any = ()) -> list[Any]:
        """The rows of a query, as of all commits so far."""
        return list(await self._reader.execute_fetchall(statement, parameters))

    async def survey(self, statement: Statement, parameters: Any = ()) -> list[Any]:
        """The rows of a query that goes over the whole history: those that calls wait for do not wait behind it."""
        return list(await self._surveyor.execute_fetchall(statement, parameters))

    async def written(self) -> None:
        """Returns when nothing waits to be written."""
        await self._idle.wait()

    async def start(self, local_day: Callable[[int], str]) -> None:
        """Prepares the readers and starts the writer."""
        await self._reader.create_function("local_day", 1, local_day, deterministic=True)
        for reader in (self._reader, self._surveyor):
            await reader.execute("PRAGMA query_only = ON")
        if self.broken is None and not await self._writer.run(lambda _: self._reserve.take()):
            self._fill()
        self._pump = self._loop.create_task(self._write(), name="store writer")

    def leave(self) -> None:
        """From now on what finds no space is given up and logged, not tried again: the daemon ends."""
        self._leaving.set()

    async def close(self) -> None:
        """Writes what waits and closes. Raises StoreRefused when the disk is full and what had to be written was not."""
        self.leave()
        if self._pump is not None:
            await self.written()
            self._pump.cancel()
            with suppress(asyncio.CancelledError):
                await self._pump
        await self._reader.close()
        await self._surveyor.close()
        await self._writer.close()
        self._reserve.close()
        if not self.failed.done():
            self.failed.cancel()
        if self._lost:
            raise StoreRefused(
                f"the disk is full: {self._lost} settlements could not be written; the next start posts them at their holds"
            )

    async def _write(self) -> None:
        while True:
            while self.full and not await _set_within(self._wake, RETRY_S):
                await self._look_for_room()
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                group, self._waiting = self._waiting, []
                await self._commit(group)
                # Those who were just answered run first: what they submit now joins the next commit.
                await asyncio.sleep(0)
            self._idle.set()

    async def _commit(self, group: list[_Submission]) -> None:
        try:
            await self._writer.run(_apply, group)
        except asyncio.CancelledError:
            self._waiting[:0] = group
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, each submission must hear of it
            await self._failed(group, error)
        else:
            for submission in group:
                submission.committed()
            if self.full:
                await self._look_for_room()

    async def _failed(self, group: list[_Submission], error: Exception) -> None:
        code = _code(error)
        if code in _FULL:
            await self._keep_what_must(group)
        elif code in _FATAL:
            self._end(group, error)
        elif len(group) > 1:
            for submission in group:
                await self._commit([submission])
        else:
            log.error("write_refused", error=str(error), must=group[0].must)
            _refuse(group, Internal("the ledger refused what was to be written; the log has the details"))

    def _end(self, group: list[_Submission], error: Exception) -> None:
        """The disk or the database is broken: whether the rows are in it, only recovery at the next start can tell."""
        log.critical("store_failed", error=str(error))
        self.broken = f"the ledger failed and the daemon ends: {error}"
        group, self._waiting = [*group, *self._waiting], []
        _refuse(group, LedgerReadonly(self.broken))
        if not self.failed.done():
            self.failed.set_exception(error)

    async def _keep_what_must(self, group: list[_Submission]) -> None:
        self._fill()
        _refuse([s for s in group if not s.must], _disk_full())
        kept = [s for s in group if s.must]
        if not kept:
            return
        if await self._writer.run(lambda _: self._reserve.give()):
            await self._commit(kept)
        elif self._leaving.is_set():
            self._lose(kept)
        else:
            self._waiting[:0] = kept
            await _set_within(self._leaving, RETRY_S)

    def _fill(self) -> None:
        if not self.full:
            log.error("disk_full", hint="no paid call starts until there is space")
        self.full = True

    async def _look_for_room(self) -> None:
        if await self._writer.run(lambda _: self._reserve.take()):
            self.full = False
            log.info("disk_has_room")

    def _lose(self, group: list[_Submission]) -> None:
        """The daemon ends and the disk is still full: the log is the only place left."""
        for submission in group:
            statement, parameters = submission.rows[0]
            log.error("settlement_not_written", statement=statement, parameters=parameters)
        self._lost += len(group)
        _refuse(group, LedgerReadonly("the disk was full until the ledger closed; the next start recovers"))


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, at most this long; whether it came."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for may swallow the cancellation of who waits
            await event.wait()
    return event.is_set()


def _disk_full() -> LedgerReadonly:
    return LedgerReadonly(
        "the disk is full: the ledger can't be written, so no paid call starts", retry_after_s=RETRY_S
    )


def _refuse(group: list[_Submission], error: QuorumError) -> None:
    for submission in group:
        submission.refused(error)


def _apply(connection: sqlite3.Connection, group: list[_Submission]) -> None:
    """One transaction, in the writer's thread."""
    batches = _batches(s.rows for s in group)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in sorted(batches, key=lambda s: s.order):
            statement.execute(connection, batches[statement])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _batches(submissions: Iterable[tuple[Row, ...]]) -> dict[Statement, list[tuple[Any, ...]]]:
    """The parameters by statement, in the order in which they were submitted."""
    batches: dict[Statement, list[tuple[Any, ...]]] = {}
    for rows in submissions:
        for statement, parameters in rows:
            batches.setdefault(statement, []).append(parameters)
    return batches


async def open_store(folder: Path, durability: Durability, local_day: Callable[[int], str]) -> Store:
    """Opens `quorumd.sqlite3` in `folder`, migrating it if it is older. Raises StoreRefused for a newer one.

    A database that can't be read is never recreated: the store then refuses every write and says why. `local_day` gives the
    date in the configured time zone of an instant in µs.
    """
    path = folder / "quorumd.sqlite3"
    with ExitStack() as opening:
        try:
            reserve = Reserve(folder / "reserve")
        except OSError as error:
            raise StoreRefused(f"{path} can't be opened: {error}") from error
        opening.callback(reserve.close)
        try:
            writer = await _connect_somehow(path, durability, reserve)
        except sqlite3.DatabaseError as error:
            if _code(error) not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                raise StoreRefused(f"{path} can't be opened: {error}") from error
            broken = f"{path} is damaged ({error}); no paid call runs until it is restored from a backup or moved away"
            log.critical("ledger_damaged", path=str(path), error=str(error))
            path, writer = Path("file:broken?mode=memory&cache=shared"), await _connect(None, durability)
            store = Store(writer, await _open(path, uri=True), await _open(path, uri=True), reserve, broken)
        else:
            store = Store(writer, await _open(path), await _open(path), reserve, None)
        await store.start(local_day)
        opening.pop_all()
    return store


async def _connect_somehow(path: Path, durability: Durability, reserve: Reserve) -> _Connection:
    """Opens the database, on a full disk with the help of the reserve."""
    while True:
        try:
            return await _connect(path, durability)
        except sqlite3.DatabaseError as error:
            if _code(error) not in _MAYBE_FULL or not reserve.give():
                raise


def _code(error: Exception) -> int:
    """SQLite's primary error code; 0 for what is not SQLite's."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


async def _open(path: Path, *, uri: bool = False) -> _Connection:
    connection = _Connection(
        lambda: sqlite3.connect(str(path), isolation_level=None, uri=uri, cached_statements=256), 64
    )
    return cast("_Connection", await connection)


async def _connect(path: Path | None, durability: Durability) -> _Connection:
    if path is None:
        connection = await _open(Path("file:broken?mode=memory&cache=shared"), uri=True)
    else:
        connection = await _open(path)
    try:
        await connection.run(_prepare, path, durability)
    except BaseException:
        await connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path | None, durability: Durability) -> None:
    if path is not None:
        path.chmod(0o600)
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA foreign_keys = OFF")  # a migration may rebuild a table that others refer to
    version = _version(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")  # the first that writes: what is not ours was refused before
    connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
    _migrate(connection, path, version)
    connection.execute("PRAGMA foreign_keys = ON")
    for query in READ_AT_START:
        connection.execute(query).fetchall()  # damage shows here, not in an actor


def _version(connection: sqlite3.Connection, path: Path | None) -> int:
    """The schema's number; 0 is a new database. Raises StoreRefused."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application not in {0, APPLICATION_ID} or (application == 0 and version):
        raise StoreRefused(f"{path} is the database of another program; name another folder with --state")
    newest = len(migrations())
    if version > newest:
        raise StoreRefused(
            f"{path} has schema {version}, this version reads up to {newest}; start the newer quorumd, or restore a backup"
        )
    return version


def _migrate(connection: sqlite3.Connection, path: Path | None, version: int) -> None:
    steps = migrations()
    if 0 < version < len(steps) and path is not None:
        log.info(
            "migrating", path=str(path), schema=version, to=len(steps), backup=str(_back_up(connection, path, version))
        )
    for number, step in enumerate(steps[version:], version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{step}\nPRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};"
        )
        _check_references(connection, path, number)
        connection.execute("COMMIT")


def _check_references(connection: sqlite3.Connection, path: Path | None, version: int) -> None:
    """Raises StoreRefused when a row refers to one that is not there; the migration is then rolled back as the connection closes."""
    wrong = sorted({f"{table} to {parent}" for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check")})
    if wrong:
        raise StoreRefused(
            f"{path} can't be brought to schema {version}: rows refer to others that are not there ({', '.join(wrong)}); "
            "restore a backup"
        )


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> Path:
    """A copy beside the database, kept: the way back to an older version of the program."""
    copy = path.with_name(f"{path.name}.v{version}.backup")
    copy.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (os.fspath(copy),))
    copy.chmod(0o600)
    return copy
