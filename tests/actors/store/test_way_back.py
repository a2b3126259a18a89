"""The way back to an older version, by the very commands that the documentation gives."""

import re
import shutil
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from schemas import everything, opened, schema_of

from actors.store.queries import Statement, migrations
from actors.store.sqlite import APPLICATION_ID

pytestmark = pytest.mark.anyio

INSTALL = Path(__file__).parents[3] / "docs" / "install.md"
ELSEWHERE = ("systemctl", "make install", "daemonctl")
"""What the commands do with programs, not with files."""


def documented(folder):
    """The commands of the way back that touch files, for a state in this folder."""
    _, _, text = INSTALL.read_text("utf-8").partition("## Update and the way back")
    (block,) = re.findall(r"```sh\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    lines = [line.replace("sudo ", "").replace("/var/lib/quorumd", str(folder)) for line in block.splitlines()]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


def go_back(folder):
    """Runs them; the folder with the files of the newer version."""
    before = set(folder.iterdir())
    subprocess.run(["sh", "-euc", "\n".join(documented(folder))], check=True)
    (newer,) = (found for found in set(folder.iterdir()) - before if found.is_dir())
    return newer


def pragma(path, name):
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.fixture
async def migrated(tmp_path):
    """A folder as a newer version left it that was killed: its last rows stand in the WAL alone. And the rows before it came."""
    live, left = tmp_path / "live", tmp_path / "left"
    live.mkdir()
    schema_of(live, 3)
    before = everything(live / "quorumd.sqlite3")
    async with opened(live) as store:
        (live / "dispatched").write_bytes(b"marks")
        await store.submit(
            (Statement("INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?)", 1), ("c", "u", "ana", 1.0, None, 5))
        )
        shutil.copytree(live, left)
    assert (left / "quorumd.sqlite3-wal").stat().st_size
    return left, before


def test_the_documentation_has_commands_for_files():
    commands = [command.split()[0] for command in documented(Path("/x"))]
    assert commands == ["newer=$(mktemp", "find", "cp"]


async def test_the_older_schema_is_back_with_every_row_of_then(migrated):
    folder, before = migrated
    go_back(folder)
    path = folder / "quorumd.sqlite3"
    assert [pragma(path, name) for name in ("user_version", "application_id", "integrity_check")] == [
        3,
        APPLICATION_ID,
        "ok",
    ]
    assert everything(path) == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    names = {found.name for found in folder.iterdir()}
    assert names >= {"quorumd.sqlite3", "quorumd.sqlite3.v3.backup"}
    assert not names & {"dispatched", "quorumd.sqlite3-wal", "quorumd.sqlite3-shm"}


async def test_what_came_later_is_kept_for_the_newer_version(migrated):
    folder, _ = migrated
    newer = go_back(folder)
    assert stat.S_IMODE(newer.stat().st_mode) == 0o700
    assert (newer / "dispatched").read_bytes() == b"marks"
    async with opened(newer) as store:
        assert await store.read(Statement("SELECT call_id FROM feedback", 0)) == [("c",)]


async def test_the_update_can_be_made_again_and_the_way_back_too(migrated):
    folder, before = migrated
    go_back(folder)
    with closing(sqlite3.connect(folder / "quorumd.sqlite3")) as database:
        database.execute("INSERT INTO settings VALUES ('ana', 'day_usd', '1.0')")
        database.commit()
    changed = everything(folder / "quorumd.sqlite3")
    assert changed != before
    async with opened(folder) as store:
        assert await store.read(Statement("PRAGMA user_version", 0)) == [(len(migrations()),)]
    go_back(folder)
    assert everything(folder / "quorumd.sqlite3") == changed
