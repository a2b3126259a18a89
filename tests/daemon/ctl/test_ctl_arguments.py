"""Wrong input, nobody there, and what daemonctl loads."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from argparse import Namespace

import pytest
from scripted_daemon import CLOSE

from daemon import __version__
from daemon.ctl.__main__ import _say_unreachable
from protocols.client import NotReachable


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        ("", "`daemonctl status` is a good start"),
        ("statsu", "the nearest is `status`"),
        ("setings show", "the nearest is `settings`"),
        ("zzz", "`--help` lists what there is"),
        ("settings", "`settings show`, `settings get`"),
        ("settings shwo", "`settings show`"),
        ("ledger", "`ledger verify`"),
        ("--jsno status", "the nearest is `--json`"),
        ("spend --bye model", "the nearest is `--by`"),
        ("spend --by moon", "choose from 'user'"),
        ("spend model", "`model` is one word too many"),
        ("settings set month_usd", "VALUE"),
        ("usage --last many", "invalid int value: 'many'"),
        ("call ping [1]", "must be a JSON object"),
        ("call ping {", "no JSON"),
        ("chat", 'the prompt is empty; give it as arguments, `daemonctl chat "Say hello"`, or on stdin'),
        ("chat -", "the prompt is empty"),
        ("explain", 'the prompt is empty; give it as arguments, `daemonctl explain "Say hello"`, or on stdin'),
        (
            "estimate",
            '`daemonctl estimate "Say hello"`, or on stdin; or say how often each task is done, `daemonctl estim',
        ),
        ("estimate hi --prefer-local", "go with --use"),
        ("estimate hi --allow-paid", "go with --use"),
        ("estimate --use tag=5", "say --tier budget, balanced or premium"),
        ("estimate --tier budget --use tag", "`tag` is no task with its calls"),
        ("estimate --tier budget --use =5", "write it like dialogue=100"),
        ("estimate --tier budget --use tag=-5", "write it like dialogue=100"),
        ("estimate --tier budget --use tag=1.5", "write it like dialogue=100"),
        ("estimate --tier budget --use tag=1000000001", "at most 1,000,000,000"),
        ("estimate --tier budget --use tag=" + "9" * 5000, "at most 1,000,000,000"),
        ("estimate --tier budget --use tag=5 --use tag=6", "named twice"),
        ("estimate --tier budget --use tag=5 hi", "a prompt does not go with --use"),
        ("estimate --tier budget --use tag=5 -m gpt", "--model does not go with --use"),
        ("estimate --tier budget --use tag=5 --max-tokens 0", "--max-tokens does not go with --use"),
        ("estimate --tier budget --use tag=5 --system x", "--system does not go with --use"),
        ("--socket", "expected one argument"),
        ("holds reslove", "`holds` is one of: `holds`, `holds resolve`"),
        ("overrides bob", "`overrides grant`, `overrides revoke`"),
        ("holds resolve h1 --cost -5 --why x", "`-5` is no amount in dollars; write it like 0.05"),
        ("holds resolve h1 --cost nan --why x", "no amount"),
        ("holds resolve h1 --cost 1e10 --why x", "no amount"),
        ("holds resolve h1 --cost five --why x", "no amount"),
        ("holds resolve h1 --cost 5", "required: --why"),
        ("holds resolve h1 --why x", "required: --cost"),
        ("holds resolve --cost 5 --why x", "required: ID"),
        ("holds resolve h1 --cost 5 --why=", "the reason is empty"),
        ("holds resolve h1 --cost 5 --why " + "x" * 1001, "longer than 1000 characters"),
        ("overrides grant 5 --why x", "one of the arguments --until --for is required"),
        ("overrides grant 5 --for 2h --until 2026-01-31T00:00:00Z --why x", "not allowed with argument"),
        ("overrides grant 5 --for 2h", "required: --why"),
        ("overrides grant 0 --for 2h --why x", "more than 0"),
        ("overrides grant -5 --for 2h --why x", "no amount"),
        ("overrides grant --for 2h --why x", "required: AMOUNT"),
        ("overrides grant 5 --for 2 --why x", "`2` is no duration; write it like 30m, 2h or 1d"),
        ("overrides grant 5 --for 0m --why x", "no duration"),
        ("overrides grant 5 --for h --why x", "no duration"),
        ("overrides grant 5 --for 2hours --why x", "no duration"),
        ("overrides grant 5 --for 1.5h --why x", "no duration"),
        ("overrides grant 5 --for 9999999d --why x", "too long"),
        ("overrides grant 5 --for 9999999999999d --why x", "too long"),
        ("overrides revoke", "required: ID"),
        ("audit --before x", "invalid int value: 'x'"),
        ("chat --admission never hi", "choose from 'strict'"),
        ("tournament", "the prompt is empty"),
        ("ask -", "the prompt is empty"),
        ("ask --answer moon hi", "choose from 'bool', 'choice'"),
        ("ask --mode duel hi", "choose from 'vote', 'pick'"),
        ("ask --latency slow hi", "choose from 'frugal'"),
        ("ask --on-tight-budget cry hi", "choose from 'shrink'"),
        ("ask --members , hi", "write names with commas between them, like a,b,c"),
        ("ask -n many hi", "invalid int value"),
        ("ask --tolerance 0.5 hi", "--tolerance needs the type of the answer, such as --answer number"),
        ("ask --unit km hi", "--unit needs the type"),
        ("tournament show t1", "`tournaments show` has an s"),
        ("ask replay t1", "`tournaments replay` has an s"),
    ],
)
def test_wrong_usage_exits_2_with_a_sentence_that_says_what_to_do(ctl, typed, advice):
    ran = ctl(*typed.split())
    assert (ran.returncode, ran.stdout) == (2, "")
    assert advice in ran.stderr
    assert ran.stderr.startswith("daemonctl: ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "stdin"), [([b"caf\xe9"], b""), ([b"-"], b"caf\xe9"), ([b"hi", b"--system", b"\xe9"], b"")]
)
def test_a_prompt_that_is_not_utf8_is_wrong_usage(words, stdin):
    command = [sys.executable, "-m", "daemon.ctl", "--socket", "/nowhere", "chat", *words]
    ran = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert (ran.returncode, ran.stderr[:35]) == (2, b"daemonctl: the input is not UTF-8; ")


def test_help_lists_the_commands_and_the_exit_codes(ctl):
    ran = ctl("--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    for part in ("settings unset", "ledger verify", "exit codes:", "--socket PATH"):
        assert part in ran.stdout
    assert "settings get" in ctl("settings", "--help").stdout
    assert "holds resolve" in ctl("holds", "--help").stdout


def test_version(ctl):
    assert ctl("--version").stdout == f"daemonctl {__version__}\n"


def test_nobody_there_exits_3_with_a_hint(ctl, tmp_path):
    ran = ctl("--socket", str(tmp_path / "none"), "status")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr.startswith(f"daemonctl: no daemon answers at {tmp_path}/none: No such file")
    assert "systemctl start quorumd.socket" in ran.stderr
    assert "make run" in ran.stderr


def test_nobody_there_with_json_is_one_document_on_stderr(ctl, tmp_path):
    ran = ctl("status", "--json", "--socket", str(tmp_path / "none"))
    assert (ran.returncode, ran.stdout) == (3, "")
    assert json.loads(ran.stderr)["code"] == "not_reachable"


def test_a_socket_nobody_listens_on_exits_3(ctl, tmp_path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    assert ctl("status", "--socket", str(tmp_path / "stale")).returncode == 3


def test_a_daemon_that_goes_away_exits_3(daemon, ctl):
    daemon.table["status"] = CLOSE
    ran = ctl("status")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "closed the connection" in ran.stderr


def test_the_socket_may_be_named_before_and_after_the_command(daemon, ctl):
    daemon.table["call"] = daemon.table["ping"] = {}
    socket_words = ("--socket", str(daemon.path))
    for words in ((*socket_words, "call", "ping"), ("call", "ping", *socket_words)):
        assert ctl(*words, QUORUMD_SOCKET="/nowhere").returncode == 0


def test_a_socket_that_may_not_be_opened_says_who_can_help(capsys):
    refused = NotReachable("/run/x", "Permission denied", errno=errno.EACCES)
    _say_unreachable(Namespace(json=False), refused)
    assert "group `quorumd`" in capsys.readouterr().err


HEAVY = {"actors", "rich", "anyio", "asyncio", "httpx", "structlog", "pykka", "uvloop", "inspect"}


@pytest.mark.parametrize(
    ("words", "also"),
    [
        (["--help"], {"msgspec", "socket", "protocols.client", "daemon.ctl.chat", "daemon.ctl.usage", "datetime"}),
        (["status", "--json"], {"daemon.ctl.chat", "daemon.ctl.usage"}),
    ],
)
def test_only_what_is_needed_is_loaded(daemon, words, also):
    daemon.table["status"] = {"healthy": True}
    code = f"""
import sys, atexit
sys.argv = ["daemonctl", *{words!r}]
from daemon.ctl.__main__ import main
atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))
sys.exit(main())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = (HEAVY | also) - ({"inspect"} if "status" in words else set())  # msgspec itself loads inspect
    assert heavy & set(ran.stderr.split()) == set()
