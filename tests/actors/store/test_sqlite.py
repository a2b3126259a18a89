import asyncio
import shutil
import sqlite3
import stat
import threading
from contextlib import asynccontextmanager, closing, suppress

import pytest
from structlog.testing import capture_logs
from worlds import calm, rows, until

from actors.store import reserve, sqlite
from actors.store.queries import Statement, load, migrations
from actors.store.sqlite import APPLICATION_ID, StoreRefused, open_store
from protocols.errors import Internal, LedgerReadonly

pytestmark = pytest.mark.anyio

AUDIT = load("audit", first=400)["add_audit"]
NEWEST = len(migrations())
BLOB = Statement("INSERT INTO audit (at, actor_uid, user, app, action, subject) VALUES (?, 0, '', '', '', ?)", 200)
READ = Statement("SELECT at FROM audit ORDER BY id", 0)


def note(at):
    return (AUDIT, (at, 0, "u", "a", "did", "it", None, None, None))


def wrong():
    return (AUDIT, (None, 0, "u", "a", "did", "it", None, None, None))


def stored(folder):
    return [at for (at,) in rows(folder, "SELECT at FROM audit ORDER BY id")]


def quick(monkeypatch):
    monkeypatch.setattr(sqlite, "RETRY_S", 0.001)


@asynccontextmanager
async def opened(folder):
    store = await open_store(folder, "process", lambda at_us: f"day of {at_us}")
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def full_disk(store):
    """No page more, until the end of the block."""
    await fill(store)
    try:
        yield
    finally:
        await store._writer.run(lambda c: c.execute("PRAGMA max_page_count = 1073741823").fetchone())


async def fill(store):
    used = await store._writer.run(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await store._writer.run(lambda c: c.execute(f"PRAGMA max_page_count = {used}").fetchone())
    while not store.full:  # the last pages have room for a few rows yet
        with suppress(LedgerReadonly):
            await store.submit((BLOB, (-1, "x" * 1000)))


@pytest.fixture
async def store(tmp_path):
    async with opened(tmp_path) as store:
        yield store


@pytest.fixture
def commits(monkeypatch):
    """How many submissions each transaction had."""
    sizes = []
    apply = sqlite._apply

    def counted(connection, group):
        sizes.append(len(group))
        apply(connection, group)

    monkeypatch.setattr(sqlite, "_apply", counted)
    return sizes


async def test_submissions_made_together_are_one_transaction_in_their_order(store, tmp_path, commits):
    await asyncio.gather(*[store.submit(note(n)) for n in range(200)])
    assert commits == [200]
    assert stored(tmp_path) == list(range(200))


async def test_those_that_come_during_a_commit_share_the_next_one(store, tmp_path, commits):
    first = store.submit(note(0))
    await until(lambda: commits)
    others = [store.submit(note(n)) for n in range(1, 50)]
    await asyncio.gather(first, *others)
    assert commits == [1, 49]
    assert stored(tmp_path) == list(range(50))


async def test_it_is_committed_when_its_future_is_done_and_readers_see_it(store, tmp_path):
    await store.submit(note(1), note(2))
    assert stored(tmp_path) == [1, 2]
    assert await store.read(READ) == [(1,), (2,)]


async def test_written_waits_for_all_that_was_submitted(store, tmp_path):
    for n in range(5):
        store.submit(note(n))
    await store.written()
    assert stored(tmp_path) == [0, 1, 2, 3, 4]


async def test_a_submission_that_violates_a_constraint_fails_alone(store, tmp_path, commits):
    good, bad, last = store.submit(note(1)), store.submit(note(2), wrong()), store.submit(note(3))
    with capture_logs() as logged:
        outcomes = await asyncio.gather(good, bad, last, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), Internal, type(None)]
    assert stored(tmp_path) == [1, 3]
    assert commits == [3, 1, 1, 1]
    assert [event["event"] for event in logged] == ["write_refused"]
    assert not store.failed.done()


async def test_what_follows_a_commit_is_called_though_the_waiter_was_cancelled(store, tmp_path):
    called = []
    waiter = store.submit(note(1), then=lambda: called.append(stored(tmp_path)))
    waiter.cancel()
    await store.written()
    assert called == [[1]]


async def test_closing_writes_what_waits_and_answers_it(tmp_path):
    async with opened(tmp_path) as store:
        futures = [store.submit(note(n)) for n in range(3)]
    assert stored(tmp_path) == [0, 1, 2]
    assert all(future.done() and future.exception() is None for future in futures)


async def test_closing_answers_those_whose_commit_is_under_way(tmp_path, commits):
    async with opened(tmp_path) as store:
        future = store.submit(note(1))
        await until(lambda: commits)
        assert not store._waiting
    assert future.done()
    assert future.exception() is None
    assert stored(tmp_path) == [1]


async def test_a_full_disk_refuses_what_may_wait_and_keeps_what_must_until_there_is_room(store, tmp_path, monkeypatch):
    quick(monkeypatch)
    with capture_logs() as logged:
        async with full_disk(store):
            assert store.full
            must = store.submit((BLOB, (7, "y" * 5000)), must=True)
            with pytest.raises(LedgerReadonly, match="disk is full") as refused:
                await store.submit((BLOB, (8, "z" * 5000)))
            assert refused.value.retry_after_s == sqlite.RETRY_S
            await calm()
            assert not must.done()
            assert (await store.read(READ))[0] is not None
        await must
        await until(lambda: not store.full)
    assert (7 in stored(tmp_path), 8 in stored(tmp_path)) == (True, False)
    assert [event["event"] for event in logged].count("disk_full") == 1
    await store.submit(note(9))
    assert stored(tmp_path)[-1] == 9


async def test_nothing_waits_behind_rows_that_are_tried_again(store, monkeypatch):
    monkeypatch.setattr(sqlite, "RETRY_S", 0.2)
    with capture_logs():
        async with full_disk(store):
            must = store.submit((BLOB, (7, "y" * 5000)), must=True)
            await until(lambda: store._waiting)
            assert store.submit(note(8)).done()
        await must


async def test_what_must_be_written_keeps_its_order_through_a_full_disk(store, tmp_path, monkeypatch):
    quick(monkeypatch)
    with capture_logs():
        async with full_disk(store):
            kept = [store.submit((BLOB, (n, "y" * 5000)), must=True) for n in (1, 2)]
            await until(lambda: store._waiting)
            kept += [store.submit((BLOB, (n, "y" * 5000)), must=True) for n in (3, 4)]
            await calm()
        await asyncio.gather(*kept)
    assert [at for at in stored(tmp_path) if at > 0] == [1, 2, 3, 4]


async def test_closing_tries_once_more_without_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "RETRY_S", 60)
    with capture_logs():
        async with opened(tmp_path) as store, full_disk(store):
            must = store.submit((BLOB, (7, "y" * 5000)), must=True)
            await until(lambda: store._waiting)
    assert must.exception() is None
    assert 7 in stored(tmp_path)


async def test_closing_on_a_full_disk_leaves_nobody_waiting_and_names_what_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "RETRY_S", 60)
    store = await open_store(tmp_path, "process", str)
    with capture_logs() as logged:
        await fill(store)
        must = store.submit((BLOB, (7, "y" * 5000)), must=True)
        await until(lambda: store._waiting)
        with pytest.raises(StoreRefused, match="1 settlements could not be written"):
            await store.close()
    assert isinstance(must.exception(), LedgerReadonly)
    assert 7 not in stored(tmp_path)
    (lost,) = [event for event in logged if event["event"] == "settlement_not_written"]
    assert lost["parameters"] == (7, "y" * 5000)


class SmallDisk:
    """A disk that SQLite finds full until the reserve gives something; `pages` is what each slice gives."""

    def __init__(self, store, pages):
        self.store, self.pages, self.slices, self.full = store, pages, 0, True
        self.keep = store._reserve
        store._reserve = self

    def give(self):
        self.slices += 1
        connection = self.store._writer._conn
        most = connection.execute("PRAGMA max_page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {most + self.pages}").fetchone()
        return True

    def take(self):
        return not self.full

    def close(self):
        self.keep.close()


async def test_what_must_be_written_is_written_from_the_reserve_at_once_and_in_order(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "RETRY_S", 0.01)
    with capture_logs() as logged:
        async with full_disk(store):
            disk = SmallDisk(store, pages=3)
            hold = store.submit((BLOB, (9, "z" * 9000)))
            musts = [store.submit((BLOB, (n, "y" * 20_000)), must=True) for n in (1, 2, 3)]
            await asyncio.gather(*musts)
            assert isinstance(hold.exception(), LedgerReadonly)
            assert [at for at in stored(tmp_path) if at > 0] == [1, 2, 3]
            assert disk.slices > 1
            slices = disk.slices
            with pytest.raises(LedgerReadonly):
                await store.submit(note(10))
            await asyncio.sleep(0.05)
            assert (store.full, disk.slices) == (True, slices)  # nothing but settlements spends the reserve
        disk.full = False
        await until(lambda: not store.full)
    assert [event["event"] for event in logged if event["event"] != "disk_full"] == ["disk_has_room"]
    await store.submit(note(11))


async def test_a_store_without_a_reserve_takes_nothing_but_what_must_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "RETRY_S", 0.01)
    monkeypatch.setattr(reserve, "SPARE", 1 << 60)
    with capture_logs() as logged:
        async with opened(tmp_path) as store:
            assert store.full
            await store.submit(note(1), must=True)
            with pytest.raises(LedgerReadonly, match="disk is full"):
                await store.submit(note(2))
            assert stored(tmp_path) == [1]
            monkeypatch.setattr(reserve, "SPARE", 0)
            await until(lambda: not store.full)
            await store.submit(note(3))
    assert [event["event"] for event in logged] == ["disk_full", "disk_has_room"]
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= reserve.SIZE


def test_the_reserve_gives_slices_until_none_is_left_and_is_made_whole_again(tmp_path):
    kept = reserve.Reserve(tmp_path / "reserve")
    try:
        assert not kept.give()
        assert kept.take()
        before = (tmp_path / "reserve").stat()
        assert before.st_size == reserve.SIZE
        assert before.st_mode & 0o777 == 0o600
        given = 0
        while kept.give():
            given += 1
        assert given == reserve.SIZE // reserve.SLICE
        assert (tmp_path / "reserve").stat().st_blocks == 0
        assert repr(kept) == "<Reserve 0 of 4096 kB>"
        assert kept.take()
    finally:
        kept.close()


async def test_an_input_output_error_ends_the_store(store, monkeypatch):
    def broken(connection, group):
        del connection, group
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    monkeypatch.setattr(sqlite, "_apply", broken)
    with capture_logs() as logged:
        outcomes = await asyncio.gather(store.submit(note(1)), store.submit(note(2), must=True), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LedgerReadonly, LedgerReadonly]
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        await store.failed
    assert [event["event"] for event in logged] == ["store_failed"]


async def test_after_an_input_output_error_nothing_more_is_written(store, tmp_path, monkeypatch):
    real = sqlite._apply
    monkeypatch.setattr(sqlite, "_apply", lambda *_: (_ for _ in ()).throw(broken_error()))
    with capture_logs(), pytest.raises(LedgerReadonly):
        await store.submit(note(1))
    monkeypatch.setattr(sqlite, "_apply", real)
    with pytest.raises(LedgerReadonly, match="the daemon ends"):
        await store.submit(note(2), must=True)
    assert stored(tmp_path) == []
    assert isinstance(store.failed.exception(), sqlite3.OperationalError)


def broken_error():
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


@pytest.mark.parametrize(
    "content", [b"this is no database, it is a letter\n" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
async def test_a_file_that_is_no_sound_database_is_left_as_it_is_and_nothing_is_written(tmp_path, content):
    path = tmp_path / "quorumd.sqlite3"
    path.write_bytes(content)
    with capture_logs() as logged:
        async with opened(tmp_path) as store:
            assert store.broken is not None
            assert str(path) in store.broken
            store.submit(note(0), must=True)  # nobody waits for it, and nothing complains
            with pytest.raises(LedgerReadonly, match="damaged"):
                await store.submit(note(1), must=True)
            assert await store.read(READ) == []
    assert path.read_bytes() == content
    assert [event["event"] for event in logged] == ["ledger_damaged"]


@pytest.mark.parametrize(
    ("application", "version", "message"),
    [
        (
            APPLICATION_ID,
            NEWEST + 1,
            f"has schema {NEWEST + 1}, this version reads up to {NEWEST}; start the newer quorumd",
        ),
        (0x12345678, 0, "database of another program"),
        (0, 3, "database of another program"),
    ],
)
async def test_a_newer_or_foreign_database_is_refused_and_left_as_it_is(tmp_path, application, version, message):
    path = tmp_path / "quorumd.sqlite3"
    with closing(sqlite3.connect(path)) as other:
        other.executescript(f"CREATE TABLE t (x); PRAGMA application_id={application}; PRAGMA user_version={version};")
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match=message):
        await open_store(tmp_path, "process", str)
    assert path.read_bytes() == before


async def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StoreRefused, match="can't be opened"):
        await open_store(tmp_path / "nowhere", "process", str)
    await until(lambda: not [t for t in threading.enumerate() if "_connection_worker_thread" in t.name])


async def test_an_older_database_is_copied_before_it_is_migrated(tmp_path, monkeypatch):
    async with opened(tmp_path) as store:
        await store.submit(note(1))
    monkeypatch.setattr(sqlite, "migrations", lambda: [*migrations(), "ALTER TABLE audit ADD COLUMN more TEXT;"])
    async with opened(tmp_path) as store:
        await store.submit(note(2))
    assert rows(tmp_path, "PRAGMA user_version") == [(NEWEST + 1,)]
    assert rows(tmp_path, "SELECT at, more FROM audit") == [(1, None), (2, None)]
    copy = tmp_path / f"quorumd.sqlite3.v{NEWEST}.backup"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(copy, old / "quorumd.sqlite3")
    monkeypatch.undo()
    async with opened(old):
        assert stored(old) == [1]


async def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    async with opened(tmp_path) as store:
        await store.submit(note(1))
    broken = "CREATE TABLE more (x) STRICT; -- no type"
    monkeypatch.setattr(sqlite, "migrations", lambda: [*migrations(), f"CREATE TABLE extra (x INTEGER);{broken}"])
    with pytest.raises(StoreRefused):
        await open_store(tmp_path, "process", str)
    assert rows(tmp_path, "PRAGMA user_version") == [(NEWEST,)]
    assert rows(tmp_path, "SELECT name FROM sqlite_master WHERE name = 'extra'") == []


async def test_a_migration_that_leaves_rows_without_what_they_refer_to_changes_nothing(tmp_path, monkeypatch):
    async with opened(tmp_path) as store:
        await store.submit(
            (
                Statement(
                    "INSERT INTO accounts (id, scope, period, label) VALUES (7, 'daemon', 'day', '2027-03-10')", 0
                ),
                (),
            ),
            (Statement("INSERT INTO account_sets (set_id, account_id) VALUES (1, 7)", 1), ()),
        )
    monkeypatch.setattr(sqlite, "migrations", lambda: [*migrations(), "DELETE FROM accounts;"])
    with pytest.raises(StoreRefused, match=r"rows refer to others that are not there \(account_sets to accounts\)"):
        await open_store(tmp_path, "process", str)
    assert rows(tmp_path, "PRAGMA user_version") == [(len(migrations()),)]
    assert rows(tmp_path, "SELECT id FROM accounts") == [(7,)]


@pytest.mark.parametrize(("durability", "synchronous"), [("power", 2), ("process", 1)])
async def test_durability_is_how_often_the_disk_is_asked(tmp_path, durability, synchronous):
    store = await open_store(tmp_path, durability, str)
    try:
        asked = await store._writer.run(
            lambda c: (c.execute("PRAGMA synchronous").fetchone()[0], c.execute("PRAGMA journal_mode").fetchone()[0])
        )
        assert asked == (synchronous, "wal")
    finally:
        await store.close()
    assert stat.S_IMODE((tmp_path / "quorumd.sqlite3").stat().st_mode) == 0o600


async def test_readers_cannot_write_and_know_the_local_day(store):
    for read in (store.read, store.survey):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await read(Statement("DELETE FROM audit", 0))
        await store.submit(note(5))
        assert (await read(READ))[-1] == (5,)
    assert await store.read(Statement("SELECT local_day(5)", 0)) == [("day of 5",)]


async def test_a_store_tells_its_state(store):
    assert repr(store) == "<Store 0 waiting>"
    store.full = True
    assert repr(store) == "<Store 0 waiting, full>"
    store.full = False
