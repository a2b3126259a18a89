"""daemonctl and both clients against the real daemon with its simulated provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from protocols import errors
from protocols.chat import Delta
from protocols.client import connect, connect_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def real_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("real")
    quiet = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    command = [sys.executable, "-m", "daemon", "--socket", folder / "rpc.sock", "--state", folder / "state"]
    with subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        env={**quiet, "XDG_CONFIG_HOME": str(folder)},
    ) as process:
        with connect_blocking(path=folder / "rpc.sock", wait_s=20) as quorum:
            quorum.call("ping")
        yield folder / "rpc.sock"
        process.terminate()
        assert process.wait(20) == 0


@pytest.fixture
def real(real_socket, monkeypatch):
    monkeypatch.setenv("QUORUMD_SOCKET", str(real_socket))


pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("real")]

COMMANDS = [
    "status",
    "explain hi",
    "models",
    "models --local --provider simulated",
    "models --tier premium --task dialogue",
    "recommend theme_analysis",
    "estimate hi",
    "estimate --tier premium --use dialogue=100 --use tag=0",
    "providers",
    "sessions",
    "sessions open --user bob",
    "sessions close --user bob",
    "sessions close --user nobody",
    "prefer simulated:sim",
    "prefer --provider simulated sim",
    "prefer --conversation c1 simulated:sim",
    "prefer --list",
    "users",
    "spend --by model",
    "usage --last 5",
    "usage --day 2026-01-31",
    "usage stats",
    "performance",
    "performance --ab",
    "holds",
    "tournaments",
    "tournaments --last 5 --state unfinished",
    "reviews --last 5",
    "alerts --last 5",
    "overrides",
    "overrides grant 5 --for 1h --why test",
    "audit --last 5",
    "settings show --origin",
    "settings get default_max_tokens",
    "settings set default_max_tokens 99",
    "settings unset default_max_tokens",
    "ledger verify",
    "call ping",
    "chat --no-stream --max-tokens 50 hi",
]


@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_understands_the_real_answer(ctl, typed):
    ran = ctl(*typed.split())
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout
    assert json.loads(ctl(*typed.split(), "--json").stdout) is not None


def test_a_chat_is_streamed_and_says_that_it_is_simulated(ctl):
    ran = ctl("chat", "hello", "there")
    assert ran.returncode == 0
    assert "hello there" in ran.stdout
    assert ran.stderr == "simulated: no model was asked, this answer is made up\n"


def test_usage_as_csv_has_the_row(ctl):
    ctl("chat", "hi")
    assert "simulated:sim" in ctl("usage", "--csv").stdout


def test_a_refusal_names_its_code(ctl):
    ran = ctl("chat", "-m", "nope:x", "hi")
    assert ran.returncode == 1
    assert ran.stderr.startswith("daemonctl: unknown_provider: ")


@pytest.mark.parametrize(
    "typed", [f"audit --before {10**20}", f"usage --last {10**20}", f"settings set month_usd {10**20}"]
)
def test_a_number_that_no_frame_can_carry_is_wrong_usage(ctl, typed):
    ran = ctl(*typed.split())
    assert (ran.returncode, ran.stderr[:33]) == (2, "daemonctl: a number is too large;")


async def test_the_async_client_chats_and_streams(real_socket):
    async with connect(app="test", path=real_socket) as quorum:
        stream = quorum.stream("Tell me")
        text = "".join([piece.text async for piece in stream if isinstance(piece, Delta)])
        assert text == stream.answer.text != ""
        assert (await quorum.chat("hi")).simulated
        with pytest.raises(errors.UnknownMethod):
            await quorum.call("nothing")


def test_leaving_a_stream_early_leaves_no_hold_behind(real_socket):
    with connect_blocking(app="test", path=real_socket) as quorum:
        for _ in quorum.stream("Tell me", model="simulated:sim-slow"):
            break
        row = quorum.call("usage", last=1)["rows"][0]
        while row["model"] != "simulated:sim-slow":
            row = quorum.call("usage", last=1)["rows"][0]
        assert row["status"] == "cancelled"
        assert quorum.call("holds")["holds"] == []
