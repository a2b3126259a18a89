import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from worlds import open_books, rows

from actors.store.dispatched import boot_id, open_dispatched
from protocols.errors import Busy

CHILD = """
import os, sys, time
from pathlib import Path
from actors.store.dispatched import open_dispatched
marks, before = open_dispatched(Path(sys.argv[1]), sys.argv[2])
if len(sys.argv) > 3:
    marks.start_over()
for name in sys.argv[3:]:
    marks.clear(name[1:]) if name.startswith("-") else marks.mark(name)
print(sorted(before) if before is not None else None, flush=True)
time.sleep(60)
"""


def killed(path, boot, *marks):
    """A process that opens the marks and is killed; what it found."""
    command = [sys.executable, "-c", CHILD, str(path), boot, *marks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())}) as child:
        said = child.stdout.readline().decode().strip()
        child.send_signal(signal.SIGKILL)
    return said


def found(path, boot):
    marks, before = open_dispatched(path, boot)
    with marks:
        return before


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dispatched"


def test_of_a_file_that_is_not_there_nobody_knows_what_it_held(path):
    marks, before = open_dispatched(path, "boot")
    with marks:
        marks.start_over()
    assert before is None
    assert found(path, "boot") == frozenset()


def test_marks_outlive_a_killed_process_and_cleared_ones_do_not(path):
    killed(path, "boot", "one", "two", "three", "-two")
    assert found(path, "boot") == {"one", "three"}


def test_marks_are_there_until_the_next_process_says_that_it_has_dealt_with_them(path):
    killed(path, "boot", "one")
    assert killed(path, "boot") == "['one']"
    assert killed(path, "boot") == "['one']"
    marks, before = open_dispatched(path, "boot")
    with marks:
        marks.start_over()
        assert before == {"one"}
    assert found(path, "boot") == frozenset()


def test_each_process_finds_the_marks_of_the_last_one_alone(path):
    killed(path, "boot", "one")
    assert killed(path, "boot", "two") == "['one']"
    assert found(path, "boot") == {"two"}


def test_after_a_reboot_nobody_knows_until_it_is_dealt_with(path):
    killed(path, "boot 1", "one")
    assert killed(path, "boot 2") == "None"
    assert found(path, "boot 2") is None
    assert killed(path, "boot 2", "two") == "None"
    assert found(path, "boot 2") == {"two"}


@pytest.mark.parametrize("content", [b"x", b"boot".ljust(64, b"\0"), bytes(64 + 16 * 16384)])
def test_a_file_that_is_not_ours_says_that_nobody_knows(path, content):
    path.write_bytes(content)
    assert found(path, "boot") is None


def test_slots_are_used_again_and_a_full_table_has_no_room(path):
    marks, _ = open_dispatched(path, "boot")
    with marks:
        marks.start_over()
        places = marks.room
        for round_ in range(3):
            names = [f"{round_}-{n}" for n in range(places)]
            for name in names:
                marks.mark(name)
            marks.mark(names[0])
            assert marks.room == 0
            with pytest.raises(Busy):
                marks.mark("one more")
            for name in names:
                assert name in marks
                marks.clear(name)
            marks.clear("unmarked")
            assert marks.room == places
        marks.mark("last")
    assert found(path, "boot") == {"last"}


def test_the_boot_id_is_the_kernels():
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36


@pytest.mark.anyio
@pytest.mark.parametrize(("boot", "status"), [("boot 1", "not_sent"), ("boot 2", "unknown")])
async def test_a_hold_without_a_mark_is_void_unless_the_machine_went_down(tmp_path, boot, status):
    async with open_books(tmp_path) as books:
        await books.reserve(100)
    async with open_books(tmp_path, boot=boot):
        assert rows(tmp_path, "SELECT status FROM usage") == [(status,)]
