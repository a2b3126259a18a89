"""How the daemon starts, refuses to start, and stops; its exit codes, its socket, its state folder."""

import json
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from simulated_provider import Provider

HOME = '[providers.home]\nkind = "ollama"\nbase_url = "http://127.0.0.1:9"\n'


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with running_daemon.running(HOME) as running:
        yield running


def test_a_second_daemon_on_the_same_state_folder_exits_3_and_leaves_the_first_alone(daemon):
    before = daemon.socket.stat().st_ino
    with running_daemon.running(HOME, state=daemon.state, start=False) as second:
        ended = second.refused()
        assert ended.code == 3
        assert str(daemon.state) in ended.err
        assert "Traceback" not in ended.err
        assert not second.socket.exists()
    same = daemon.refused()  # and with the same socket too
    assert same.code == 3
    assert daemon.socket.stat().st_ino == before
    assert daemon.call("ping") == {}
    assert daemon.stop() == 0


def test_a_second_daemon_on_the_same_socket_exits_3_and_leaves_the_first_alone(daemon):
    before = daemon.socket.stat().st_ino
    with running_daemon.running(HOME, start=False) as second:
        second.socket = daemon.socket
        ended = second.refused()
    assert ended.code == 3
    assert str(daemon.socket) in ended.err
    assert daemon.socket.stat().st_ino == before
    assert daemon.call("ping") == {}


def test_the_socket_of_a_daemon_that_is_gone_is_replaced(daemon):
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.call("ping") == {}


def test_a_file_that_is_no_socket_is_left_alone(daemon):
    daemon.stop()
    daemon.socket.write_text("precious")
    ended = daemon.refused()
    assert ended.code == 1
    assert "--socket" in ended.err
    assert daemon.socket.read_text() == "precious"


def test_state_and_database_are_readable_by_their_owner_alone(daemon):
    assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700
    for name in ("quorumd.sqlite3", "quorumd.sqlite3-wal", "quorumd.sqlite3-shm", "dispatched", "lock"):
        assert stat.S_IMODE((daemon.state / name).stat().st_mode) & 0o077 == 0, name


def test_sigterm_while_idle_exits_0_and_removes_the_socket(daemon):
    with daemon.connect() as quorum:  # an open connection holds nothing up
        assert quorum.call("ping") == {}
        assert daemon.stop() == 0
    assert not daemon.socket.exists()
    assert [line["event"] for line in daemon.log()][-2:] == ["stopping", "stopped"]


def test_sigint_stops_it_as_well(daemon):
    daemon.signal(signal.SIGINT)
    assert daemon.wait() == 0
    assert not daemon.socket.exists()


def test_many_sigterms_stop_it_once_with_0(daemon):
    for _ in range(5):
        daemon.signal()
        eventually(lambda: "stopping" in daemon.log_text(), "it heard")
    assert daemon.wait() == 0


def test_sigterm_right_after_the_start_exits_0_too(daemon):
    for _ in range(5):
        daemon.restart()
        assert daemon.stop() == 0
    daemon.start()


def test_a_stopped_daemon_is_not_reachable_and_daemonctl_says_how_to_start_it(daemon):
    daemon.stop()
    ended = daemon.ctl("status")
    assert ended.code == 3
    assert "quorumd" in ended.err
    assert "Traceback" not in ended.err


def test_status_of_a_daemon_that_is_well_exits_0_and_says_so(upstream):
    with running_daemon.running(provider("home", "ollama", upstream.base_url("ollama"))) as daemon:
        assert daemon.ctl("status").code == 0
        told = json.loads(daemon.ctl("--json", "status").out)
        assert (told["healthy"], told["calls_in_flight"], told["pid"]) == (True, 0, daemon.process.pid)


WRONG = {
    "no TOML": ("[daemon]\ndrain_s = \n", ["line 2"]),
    "an unknown section": ("[provider.x]\nkind = 'openai'\n", ["provider"]),
    "an unknown key": ("[daemon]\ndrian_s = 3\n", ["drian_s", "daemon"]),
    "a wrong type": ("[daemon]\ndrain_s = 'long'\n", ["daemon.drain_s"]),
    "a negative limit": ("[limits]\nmonth_usd = -1\n", ["limits.month_usd"]),
    "a wrong kind": ("[providers.x]\nkind = 'opneai'\n", ["opneai"]),
    "a key in the clear": ("[providers.x]\nkind = 'openai'\napi_key = 'sk-canary-1234567890abcdef'\n", ["api_key"]),
    "two places for a key": ("[providers.x]\nkind = 'openai'\napi_key = { env = 'A', file = 'b' }\n", ["api_key"]),
    "a key sent unencrypted": (
        "[providers.x]\nkind = 'openai'\nbase_url = 'http://example.com/v1'\n",
        ["providers.x", "https"],
    ),
    "an address that is none": ("[providers.x]\nkind = 'openai'\nbase_url = 'nowhere'\n", ["providers.x", "base_url"]),
    "a reserved name": ("[providers.client]\nkind = 'openai'\n", ["client"]),
    "a model without provider": (HOME + priced("gpt"), ["gpt", "<provider>:<model>"]),
    "a model of no provider": (HOME + priced("opena:gpt"), ["opena"]),
    "a wrong time zone": ("[daemon]\ntimezone = 'Mars/Olympus'\n", ["Mars/Olympus"]),
    "an unknown setting": ("[settings]\n'default_max_tokans' = 5\n", ["default_max_tokans"]),
    "a setting of the wrong type": ("[settings]\n'default_max_tokens' = 'many'\n", ["default_max_tokens"]),
    "a limit of no provider": (HOME + "[limits.providers]\nopena = { month_usd = 1 }\n", ["opena"]),
    "an alias that hides a provider": (HOME + "[aliases]\nhome = 'home:x'\n", ["home"]),
    "a limit that is no number": ("[limits]\nmonth_usd = nan\n", ["month_usd"]),
    "a limit without end": ("[limits]\nmonth_usd = inf\n", ["month_usd"]),
    "a drain without end": ("[daemon]\ndrain_s = inf\n", ["drain_s"]),
    "a price that is no number": (HOME + '[models."home:x"]\ninput_usd_per_mtok = nan\n', ["input_usd_per_mtok"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_config_exits_2_names_the_place_and_starts_nothing(what):
    config, words = WRONG[what]
    with running_daemon.running(config, start=False) as daemon:
        checked = daemon.check()
        assert checked.code == 2, checked
        for word in [*words, str(daemon.folder / "config.toml")]:
            assert word in checked.err, checked.err
        assert "Traceback" not in checked.err
        assert "sk-canary" not in checked.err
        assert daemon.refused().code == 2
        assert not daemon.socket.exists()
        assert not (daemon.state / "quorumd.sqlite3").exists()


def test_a_config_that_is_not_there_exits_2():
    with running_daemon.running(start=False) as daemon:
        (daemon.folder / "config.toml").unlink()
        ended = daemon.refused()
        assert ended.code == 2
        assert "config.toml" in ended.err


def test_check_says_ok_with_0_and_touches_neither_state_nor_socket():
    with running_daemon.running(HOME + priced("home:m"), start=False) as daemon:
        before = sorted(path.name for path in daemon.state.iterdir())
        ended = daemon.check()
        assert (ended.code, ended.err) == (0, "")
        assert "ok" in ended.out
        assert sorted(path.name for path in daemon.state.iterdir()) == before
        assert not daemon.socket.exists()


def test_check_beside_a_running_daemon_disturbs_nobody(daemon):
    assert daemon.check().code == 0
    assert daemon.call("ping") == {}


def test_wrong_usage_exits_2(daemon):
    daemon.stop()
    daemon.program = [*daemon.program, "--nonsense"]
    assert daemon.refused().code == 2


def test_a_daemon_whose_log_can_not_be_written_answers_all_the_same(upstream):
    upstream.reset()
    with running_daemon.running(provider("home", "ollama", upstream.base_url("ollama")), start=False) as daemon:
        (daemon.folder / "log").symlink_to("/dev/full")
        daemon.start()
        with daemon.connect() as quorum:
            assert quorum.chat("hello", model="home:sim").text
        assert daemon.stop() == 0


def test_a_connection_that_says_nothing_holds_no_stop_up(daemon):
    with socket.socket(socket.AF_UNIX) as quiet:
        quiet.connect(str(daemon.socket))
        assert daemon.stop() == 0
        assert quiet.recv(1) == b""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--state", "/etc/passwd"],
            "/etc/passwd can't be used (File exists); name a folder that you may write to with --state",
        ),
        (["--socket", f"/tmp/{'x' * 120}.sock"], "AF_UNIX path too long"),
        (["--socket", "/proc/quorumd/rpc.sock"], "/proc/quorumd/rpc.sock can't be used"),
    ],
)
def test_a_place_that_cannot_be_used_is_named_with_what_to_do(arguments, says, tmp_path):
    usual = {"--state": str(tmp_path / "state"), "--socket": str(tmp_path / "rpc.sock")}
    usual |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    command = [sys.executable, "-m", "daemon", *[word for pair in usual.items() for word in pair]]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert says in json.loads(ended.stderr.splitlines()[-1])["why"]
    assert "Traceback" not in ended.stderr
