import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from daemon import systemd

# As systemd does it: the sockets moved to 3, 4, …, then exec, so that LISTEN_PID is the program's own.
LAUNCH = """
import fcntl, os, sys
names, program, *fds = sys.argv[1:]
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in fds]
for number, fd in enumerate(high, start=3):
    os.dup2(fd, number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names}
os.execv(sys.executable, [sys.executable, "-c", program])
"""

SHOW = """
import json, os
from daemon.systemd import listen_fds
passed = listen_fds()
print(json.dumps({
    "sockets": [(name, sock.getsockname(), sock.get_inheritable()) for name, sock in passed],
    "left": [key for key in os.environ if key.startswith("LISTEN_")],
    "again": len(listen_fds()),
}))
"""

ANSWER = """
from daemon.systemd import listen_fds
[(_, listener)] = listen_fds()
connection, _ = listener.accept()
connection.sendall(b"hello from the inherited socket")
"""


@pytest.fixture(autouse=True)
def without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
        *("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "JOURNAL_STREAM"),
    ):
        monkeypatch.delenv(variable, raising=False)


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def launch(program: str, names: str, *socks: socket.socket) -> subprocess.Popen[str]:
    fds = [sock.fileno() for sock in socks]
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, names, program, *map(str, fds)],
        pass_fds=fds,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(systemd.__file__).parents[1])},
    )


def test_sockets_of_systemd_come_with_their_names_and_stay_in_this_process(tmp_path: Path) -> None:
    paths = [tmp_path / "rpc.sock", tmp_path / "metrics.sock"]
    with (
        closing(listener(paths[0])) as rpc,
        closing(listener(paths[1])) as metrics,
        launch(SHOW, "rpc:metrics", rpc, metrics) as process,
    ):
        shown = json.loads(process.communicate(timeout=20)[0])

    assert shown == {
        "sockets": [["rpc", str(paths[0]), False], ["metrics", str(paths[1]), False]],
        "left": [],
        "again": 0,
    }


def test_a_socket_without_a_name_is_unknown(tmp_path: Path) -> None:
    with closing(listener(tmp_path / "rpc.sock")) as rpc, launch(SHOW, "", rpc) as process:
        shown = json.loads(process.communicate(timeout=20)[0])

    assert [name for name, *_ in shown["sockets"]] == ["unknown"]


def test_who_connected_before_the_start_is_answered(tmp_path: Path) -> None:
    with closing(listener(tmp_path / "rpc.sock")) as rpc, socket.socket(socket.AF_UNIX) as early:
        early.settimeout(20)
        early.connect(str(tmp_path / "rpc.sock"))
        with launch(ANSWER, "rpc", rpc) as process:
            assert early.recv(100) == b"hello from the inherited socket"
            assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
    ],
    ids=["no systemd", "for another process", "no count", "count is no number", "none passed"],
)
def test_no_socket_is_taken_that_was_not_passed_to_us(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)

    assert systemd.listen_fds() == []
    assert not [variable for variable in os.environ if variable.startswith("LISTEN_")]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The end of NOTIFY_SOCKET that is systemd's."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind(path if request.param == "path" else "\0" + path)
        monkeypatch.setenv("NOTIFY_SOCKET", path if request.param == "path" else "@" + path)
        yield sock


def test_systemd_hears_what_is_notified(manager: socket.socket) -> None:
    assert systemd.notify("READY=1\nSTATUS=serving ü")
    assert manager.recv(100) == "READY=1\nSTATUS=serving ü".encode()


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "vsock:2:1234"])
def test_a_notification_that_nobody_receives_is_no_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    assert not systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [
        ("20000000", None, 10.0),
        ("500000", str(os.getpid()), 0.25),
        ("20000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(
    usec: str | None, pid: str | None, interval_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if usec is not None:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)

    assert systemd.watchdog_interval_s() == interval_s


def test_folders_are_those_of_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert systemd.state_directory() is None
    assert systemd.credentials_directory() is None

    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/quorumd:/var/lib/second")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/quorumd.service")

    assert systemd.state_directory() == Path("/var/lib/quorumd")
    assert systemd.credentials_directory() == Path("/run/credentials/quorumd.service")


@pytest.mark.parametrize("stream", ["its own", "another", "none", "closed"])
def test_stderr_is_the_journal_only_when_it_is_the_stream_that_systemd_named(stream: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(systemd.__file__).parents[1])}
    program = "import sys; from daemon.systemd import under_journal; sys.exit(10 + under_journal())"
    with (tmp_path / "stderr").open("w") as stderr:
        stat = os.fstat(stderr.fileno())
        if stream != "none":
            environment["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino + (stream == 'another')}"
        if stream == "closed":
            program = "import os; os.close(2); " + program
        answer = subprocess.run([sys.executable, "-c", program], stderr=stderr, env=environment, check=False)

    assert answer.returncode == (11 if stream == "its own" else 10)


def test_an_undumpable_process_gives_its_memory_to_nobody_but_root() -> None:
    program = """
import ctypes, os
from daemon.systemd import undumpable
undumpable()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), os.stat("/proc/self/environ").st_uid)
"""
    shown = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(systemd.__file__).parents[1])},
        check=True,
    )

    assert shown.stdout.split() == ["0", "0"], "PR_GET_DUMPABLE is 0 and /proc/self/environ belongs to root"
