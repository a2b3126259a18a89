"""quorumd as it is installed: `make install` and its units, in a box with a systemd of its own (box.sh).

Root, the programs of .ci/packages and Linux are needed; whatever is missing fails with its name, nothing is skipped.
The box has no network, so the wheels are fetched before, for the system's Python.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.box

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
PREFIX = "/opt/quorumd"
SOCKET = "/run/quorumd/rpc.sock"
PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2", "make": "make"}
FILES = {
    PYTHON: "python3",
    "/lib/systemd/systemd": "systemd",
    "/usr/bin/dbus-daemon": "dbus",
}
PATIENCE_S = 20.0

# Accounts of the box: in quorumd, in quorumd-operate, in neither, and one with a user manager.
PEOPLE = {"ana": "quorumd", "olga": "quorumd-operate", "eve": "", "uma": ""}
KEY = "sk-canary-6f1e0b7d42"


class Box:
    """A booted box."""

    def __init__(self, share: Path, environment: dict[str, str]) -> None:
        self.share = share
        self.environment = environment

    def script(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "tests/end_to_end/box.sh", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run(self, *command: str, user: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run in the box, as root or as `user` with all its groups."""
        if user:
            uid = self.say("id", "-u", user)
            home = f"/home/{user}"
            runtime = [f"XDG_RUNTIME_DIR=/run/user/{uid}"] if user == "uma" else []
            command = ("env", "-C", home, f"HOME={home}", f"USER={user}", *runtime, *command)
            command = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command)
        return self.script("exec", *command, timeout=timeout)

    def say(self, *command: str, user: str = "", timeout: float = 120) -> str:
        """What a command that has to succeed says."""
        done = self.run(*command, user=user, timeout=timeout)
        if done.returncode != 0:
            log = self.run("journalctl", "--unit=quorumd.service", "--lines=8", "--output=cat").stdout
            pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}\n{log}")
        return done.stdout.strip()

    def json(self, *words: str, user: str = "ana") -> Any:
        return json.loads(self.say("daemonctl", "--json", *words, user=user))

    def show(self, property_: str, unit: str = "quorumd.service") -> str:
        return self.say("systemctl", "show", "--value", "--property", property_, unit)

    def state(self, unit: str = "quorumd.service") -> str:
        return self.run("systemctl", "is-active", unit).stdout.strip()

    def journal(self, *more: str) -> str:
        self.say("journalctl", "--sync")
        return self.say("journalctl", "--no-pager", *more)

    def stop(self) -> None:
        self.say("systemctl", "stop", "quorumd.service")

    def until(self, what: str, *command: str) -> None:
        """Wait until `what` is among the words that a command says."""
        end = time.monotonic() + PATIENCE_S
        while what not in (said := self.run(*command).stdout).split():
            assert time.monotonic() < end, f"{' '.join(command)} did not say {what!r} but {said!r}"
            time.sleep(0.05)

    def pid_after(self, pid: str) -> str:
        """The daemon's pid once systemd has replaced `pid`."""
        end = time.monotonic() + PATIENCE_S
        while (now := self.show("MainPID")) in {"0", pid} or self.state() != "active":
            assert time.monotonic() < end, f"systemd did not replace {pid}\n{self.journal('-n', '30')}"
            time.sleep(0.05)
        return now

    @contextmanager
    def drop_in(self, lines: str) -> Iterator[None]:
        """The service with further lines in its unit, stopped before and after."""
        path = self.share / "drop-in.conf"
        path.write_text(f"[Service]\n{lines}\n")
        folder = "/etc/systemd/system/quorumd.service.d"
        self.stop()
        self.say("install", "-D", "-m", "0644", "/run/host/drop-in.conf", f"{folder}/test.conf")
        self.say("systemctl", "daemon-reload")
        try:
            yield
        finally:
            self.stop()
            self.say("rm", "-r", folder)
            self.say("systemctl", "daemon-reload")


def missing() -> list[str]:
    packages = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    packages |= {package for path, package in FILES.items() if not Path(path).exists()}
    if "python3" not in packages and subprocess.run([PYTHON, "-c", "import ensurepip"], check=False).returncode != 0:
        packages.add("python3-venv")
    return sorted(packages)


def wheels() -> Path:
    """The locked wheels for the system's Python, kept in build/ until the lock changes."""
    folder = ROOT / "build" / "wheels"
    version = subprocess.run(
        [PYTHON, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True, text=True, check=True
    ).stdout.strip()
    fetched = folder / ".fetched"
    want = version + " " + hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    if not fetched.exists() or fetched.read_text() != want:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for part in ("runtime", "build"):
            lock = folder / f"{part}.lock"
            with lock.open("w") as out:
                subprocess.run([sys.executable, "systemd/lock_subset.py", part], cwd=ROOT, stdout=out, check=True)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
            pip += ["--only-binary=:all:", "--python-version", version, "--require-hashes", "-r", str(lock)]
            subprocess.run([*pip, "-d", str(folder)], check=True)
        fetched.write_text(want)
    return folder


def share_source(share: Path) -> None:
    """What an install reads, in a folder that the box sees as /run/host."""
    source = share / "source"
    source.mkdir(parents=True)
    for name in ("Makefile", "README.md", "LICENSE", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, source)
    for name in ("actors", "daemon", "protocols", "systemd", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(wheels(), share / "wheels")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box in which quorumd is installed and its socket listens, as docs/install.md tells."""
    if os.geteuid() != 0:
        pytest.fail("these tests need root: they boot a systemd in namespaces of its own; sudo make test-system")
    if packages := missing():
        pytest.fail(f"these tests need what is not here: apt-get install {' '.join(packages)}")

    state = tmp_path_factory.mktemp("box")
    share_source(state / "share")
    box = Box(state / "share", {**os.environ, "BOX": str(state), "SHARE": str(state / "share")})
    up = box.script("up")
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        offline = "PIP_FLAGS=--no-index --find-links /run/host/wheels"
        box.say("make", "-C", "/run/host/source", "install", f"PYTHON={PYTHON}", offline, timeout=300)
        box.say("systemd-sysusers")
        box.say("systemd-tmpfiles", "--create", "quorumd.conf")
        for name, group in PEOPLE.items():
            box.say("useradd", "--create-home", "--user-group", "--groups", group, name)
        box.say("systemctl", "daemon-reload")
        box.say("systemctl", "enable", "--now", "quorumd.socket")
        box.say("loginctl", "enable-linger", "uma")
        box.until("active", "systemctl", "is-active", f"user@{box.say('id', '-u', 'uma')}.service")
        yield box
    finally:
        box.script("down")


def in_folder(box: Box, folder: str, text: str) -> list[str]:
    found = box.run("grep", "-rl", "--text", "--fixed-strings", text, folder)
    assert found.returncode in {0, 1}, found.stderr
    return found.stdout.split()


@pytest.mark.parametrize("manager", ["--system", "--user"])
@pytest.mark.parametrize("unit", ["quorumd.service", "quorumd.socket"])
def test_systemd_finds_nothing_wrong_with_a_unit(box: Box, manager: str, unit: str) -> None:
    folder = f"/usr/local/lib/systemd/{manager.removeprefix('--')}"
    user = "uma" if manager == "--user" else ""
    verified = box.run("systemd-analyze", manager, "verify", f"{folder}/{unit}", user=user)

    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_the_service_is_hardened_to_a_score_of_1_3_or_better(box: Box) -> None:
    security = box.run("systemd-analyze", "security", "--no-pager", "--threshold=13", "quorumd.service")

    assert security.returncode == 0, security.stdout


def test_an_install_into_a_staging_folder_names_it_nowhere(box: Box) -> None:
    offline = "PIP_FLAGS=--no-index --find-links /run/host/wheels"
    staged = ("install", f"PYTHON={PYTHON}", offline, "DESTDIR=/tmp/staging", "PREFIX=/usr/lib/quorumd")
    box.say("make", "-C", "/run/host/source", *staged, timeout=300)

    assert in_folder(box, "/tmp/staging", "/tmp/staging") == []
    assert in_folder(box, "/tmp/staging/usr/local/lib/systemd", "/opt/") == []
    box.say("rm", "-r", "/tmp/staging")


def test_the_tools_that_built_it_are_not_installed(box: Box) -> None:
    installed = box.say("sh", "-c", f"ls {PREFIX}/lib/python3*/site-packages").split()

    assert not {"hatchling", "pip", "setuptools", "mypy", "pytest"} & set(installed)
    assert {"daemon", "actors", "protocols"} <= set(installed)


@pytest.mark.parametrize("uncommented", [False, True])
def test_the_example_config_is_valid(box: Box, uncommented: bool) -> None:
    example = (ROOT / "systemd/quorumd.toml").read_text()
    if uncommented:
        example = re.sub(r'(?m)^# (?=\[|[\w."*-]+ = )', "", example)
    (box.share / "config.toml").write_text(example)
    for name in ("openai", "anthropic"):
        (box.share / name).write_text("sk-none\n")

    credentials = ("env", "CREDENTIALS_DIRECTORY=/run/host")
    box.say(*credentials, "quorumd", "--config", "/run/host/config.toml", "--check")


def test_the_first_connection_starts_the_service(box: Box) -> None:
    box.stop()
    assert (box.state("quorumd.socket"), box.state()) == ("active", "inactive")

    box.json("call", "ping")

    box.until("active", "systemctl", "is-active", "quorumd.service")


def test_a_connection_that_waits_for_the_start_is_answered_over_json_lines(box: Box) -> None:
    box.stop()
    program = (
        "import json, socket\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(20)\n"
        f"s.connect({SOCKET!r})\n"
        's.sendall(b\'{"t":"call","id":1,"method":"ping"}\\n\')\n'
        "print(s.makefile().readline())\n"
    )

    answer = json.loads(box.say(PYTHON, "-c", program, user="ana"))

    assert (answer["t"], answer["id"]) == ("done", 1)


@pytest.mark.parametrize("user", ["ana", "olga"])
def test_a_member_of_either_group_sees_the_status_and_chats(box: Box, user: str) -> None:
    status = box.json("status", user=user)
    assert status["simulated"] is True
    assert box.say("daemonctl", "status", user=user)

    assert box.say("daemonctl", "chat", "hello", user=user)


def test_who_is_in_no_group_is_refused_with_a_reason(box: Box) -> None:
    for command in (["status"], ["chat", "hello"]):
        refused = box.run("daemonctl", *command, user="eve")

        assert refused.returncode == 1, refused.stdout + refused.stderr
        assert "forbidden" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_kernel_says_who_calls_and_the_usage_row_keeps_it(box: Box) -> None:
    box.say("daemonctl", "chat", "hello", user="ana")
    box.say("daemonctl", "chat", "hello", user="olga")

    assert {row["user"] for row in box.json("usage", user="ana")["rows"]} == {"ana"}
    assert {"ana", "olga"} <= {row["user"] for row in box.json("usage", user="olga")["rows"]}


def test_a_stop_ends_well_and_the_books_balance_after_it(box: Box) -> None:
    box.say("daemonctl", "chat", "hello", user="ana")
    rows = len(box.json("usage", user="ana")["rows"])
    box.stop()

    assert (box.show("Result"), box.show("ExecMainStatus"), box.show("ExecMainCode")) == ("success", "0", "1")
    assert box.state("quorumd.socket") == "active"

    box.say("daemonctl", "ledger", "verify")
    assert len(box.json("usage", user="ana")["rows"]) == rows
    assert all(scope["held_nano_usd"] == 0 for scope in box.json("spend", user="ana")["scopes"])


def test_the_next_connection_after_a_stop_starts_it_again(box: Box) -> None:
    box.json("call", "ping")
    pid = box.show("MainPID")
    box.stop()

    box.json("call", "ping")

    assert box.show("MainPID") not in {"0", pid}


def test_a_killed_daemon_is_started_again_without_being_asked(box: Box) -> None:
    box.json("call", "ping")
    pid = box.show("MainPID")
    restarts = int(box.show("NRestarts"))

    box.say("systemctl", "kill", "--signal=KILL", "quorumd.service")

    box.pid_after(pid)
    assert int(box.show("NRestarts")) == restarts + 1
    assert box.say("daemonctl", "chat", "hello", user="ana")
    box.say("daemonctl", "ledger", "verify")


def test_who_connects_while_a_killed_daemon_restarts_is_answered(box: Box) -> None:
    for _ in range(3):
        box.say("daemonctl", "chat", "hello", user="ana")
        box.say("systemctl", "kill", "--signal=KILL", "quorumd.service")
        box.say("daemonctl", "chat", "hello", user="ana")


def test_a_wrong_config_closes_no_socket_and_who_waits_is_answered_once_it_is_right(box: Box) -> None:
    box.stop()
    box.say("systemctl", "reset-failed", "quorumd.service")
    box.say("sh", "-c", "echo '[daemon' > /etc/quorumd/config.toml")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(box.json, "call", "ping", user="ana")
        try:
            while int(box.show("NRestarts")) < 2:
                assert not waiting.done(), waiting.result()
        finally:
            box.say("rm", "/etc/quorumd/config.toml")
        assert box.show("ExecMainStatus") in {"2", "0"}

        assert waiting.result() == {}
    assert box.state("quorumd.socket") == "active"


def test_a_daemon_that_hangs_is_replaced_by_the_watchdog(box: Box) -> None:
    assert box.show("WatchdogUSec") == "30s"
    with box.drop_in("WatchdogSec=2s"):
        box.json("call", "ping")
        pid = box.show("MainPID")
        time.sleep(3)
        assert box.show("MainPID") == pid, "the daemon did not feed its watchdog"

        box.say("kill", "-STOP", pid)

        box.pid_after(pid)
        box.json("call", "ping")


def test_a_stop_lets_a_call_under_way_finish(box: Box) -> None:
    with provider(box, "--behaviour", json.dumps({"latency_ms": 3000})), ThreadPoolExecutor() as pool:
        ask = ("chat", "--model", "boxed:sim", "--no-stream", "take your time")
        answer = pool.submit(box.json, *ask, user="ana")
        while not box.json("status")["calls_in_flight"]:
            assert not answer.done()
        box.stop()

        assert answer.result()["text"]
        assert (box.show("Result"), box.show("ExecMainStatus")) == ("success", "0")


@contextmanager
def provider(box: Box, *behaviour: str) -> Iterator[None]:
    """A provider over HTTP that wants KEY, and the daemon configured for it through a credential."""
    (box.share / "config.toml").write_text(
        '[providers.boxed]\nkind = "openai"\nbase_url = "http://127.0.0.1:8099/v1"\nlocal = true\n'
        'api_key = { credential = "boxed" }\n'
    )
    (box.share / "boxed").write_text(KEY + "\n")
    serve = [f"{PREFIX}/bin/python", "-m", "actors.providers.simulated", "--port", "8099", "--key", KEY, *behaviour]
    with box.drop_in("LoadCredential=boxed:/etc/quorumd/credentials/boxed"):
        box.say("install", "-m", "0600", "/run/host/boxed", "/etc/quorumd/credentials/boxed")
        box.say("install", "-m", "0644", "/run/host/config.toml", "/etc/quorumd/config.toml")
        box.say("systemd-run", "--quiet", "--unit=upstream", "--description=upstream", "--collect", *serve)
        box.until("127.0.0.1:8099", "ss", "--listening", "--tcp", "--numeric")
        try:
            yield
        finally:
            box.say("systemctl", "stop", "upstream.service")
            box.say("rm", "/etc/quorumd/config.toml", "/etc/quorumd/credentials/boxed")


def test_a_key_comes_from_a_credential_and_shows_nowhere(box: Box) -> None:
    with provider(box):
        answer = box.json("chat", "--model", "boxed:sim", "--no-stream", "hello", user="ana")
        pid = box.show("MainPID")

        assert answer["model_used"] == "boxed:sim"
        assert KEY not in box.say("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")
        assert KEY not in box.say("systemctl", "show", "quorumd.service")
        assert KEY not in box.say("daemonctl", "--json", "providers", user="ana")
    assert KEY not in box.journal()
    assert in_folder(box, "/var/lib/quorumd", KEY) == []


@pytest.mark.parametrize("file", ["environ", "mem", "maps"])
def test_not_even_the_same_account_reads_the_memory_of_the_daemon(box: Box, file: str) -> None:
    box.json("call", "ping")
    pid = box.show("MainPID")
    same = ("setpriv", "--reuid=quorumd", "--regid=quorumd", "--clear-groups")

    denied = box.run(*same, "head", "-c1", f"/proc/{pid}/{file}")

    assert denied.returncode != 0
    assert "Permission denied" in denied.stderr


def test_every_line_in_the_journal_is_json(box: Box) -> None:
    box.say("daemonctl", "chat", "hello", user="ana")
    invocation = box.show("InvocationID")
    lines = box.journal(f"_SYSTEMD_INVOCATION_ID={invocation}", "--output=cat").splitlines()

    assert lines
    assert all(isinstance(json.loads(line)["event"], str) for line in lines)


def test_the_state_belongs_to_the_daemon_alone(box: Box) -> None:
    box.json("call", "ping")

    assert box.say("stat", "--format=%U:%G %a", "/var/lib/quorumd") == "quorumd:quorumd 700"
    modes = box.say("find", "/var/lib/quorumd/", "-type", "f", "-printf", "%u %m %f\n").splitlines()
    assert any(line.endswith("quorumd.sqlite3") for line in modes)
    assert {line.split()[:2] == ["quorumd", "600"] for line in modes} == {True}, modes


def test_a_user_runs_a_quorumd_of_their_own(box: Box) -> None:
    ctl = ("systemctl", "--user")
    box.say(*ctl, "enable", "--now", "quorumd.socket", user="uma")

    assert box.say("daemonctl", "chat", "hello", user="uma")

    assert box.json("usage", user="uma")["rows"][0]["user"] == "uma"
    assert box.say("stat", "--format=%a", "/home/uma/.local/state/quorumd", user="uma") == "700"
    box.say(*ctl, "stop", "quorumd.service", user="uma")
    assert box.say(*ctl, "show", "--value", "--property=Result", "quorumd.service", user="uma") == "success"
