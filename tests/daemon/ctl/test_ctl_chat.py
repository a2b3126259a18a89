"""`daemonctl chat`: streaming, confirmation, interruption; in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading

import pytest
from scripted_daemon import HANG, Pieces, chat_answer, delta

from protocols import errors

CTL = [sys.executable, "-W", "error", "-m", "daemon.ctl"]
STORY = Pieces([delta("Once \x1b[31m"), {"type": "reasoning", "text": "hm"}, delta("upon")], chat_answer("Once upon"))
TOKEN = errors.OverrideRequired(
    "your month's budget is used up",
    detail={
        "override_token": "t0k",
        "percent_used": 102.5,
        "estimated_nano_usd": 5_000_000,
        "alternative": "ollama:llama3.2",
    },
)


def confirmed(params):
    return Pieces([delta("ok")], chat_answer("ok")) if params.get("override_token") == "t0k" else TOKEN


class TestInAPipe:
    def test_the_text_comes_and_nothing_else(self, daemon, ctl):
        daemon.table["chat"] = STORY
        ran = ctl("chat", "Tell", "me", "-m", "a:b", "a story")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "Once \x1b[31mupon\n", "")
        assert daemon.params("chat") == {
            "messages": [{"role": "user", "content": "Tell me a story"}],
            "stream": True,
            "model": "a:b",
        }

    @pytest.mark.parametrize("how", [[], ["--no-stream"], ["--json"]])
    def test_an_idempotency_key_goes_with_the_call_and_with_its_confirmation(self, daemon, ctl, how):
        daemon.table["chat"] = confirmed
        assert ctl("chat", "hi", "--yes", "--idempotency-key", "order 7", *how).returncode == 0
        assert [call["idempotency_key"] for call in daemon.calls] == ["order 7", "order 7"]
        assert all("idempotency_key" not in call["params"] for call in daemon.calls)

    def test_each_option_becomes_its_param(self, daemon, ctl):
        daemon.table["chat"] = STORY
        options = [
            "--provider",
            "p",
            "--hint",
            "en-claude",
            "--user",
            "u",
            "--task",
            "t",
            "--tier",
            "budget",
            "--max-tokens",
            "5",
            "--system",
            "short",
        ]
        assert ctl("chat", *options, "--", "-x", "--json").returncode == 0
        assert daemon.params("chat") == {
            "messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "-x --json"}],
            "stream": True,
            "provider": "p",
            "hint": "en-claude",
            "user": "u",
            "task_type": "t",
            "quality_tier": "budget",
            "max_tokens": 5,
        }

    @pytest.mark.parametrize("words", [(), ("-",)])
    def test_the_prompt_may_come_from_stdin(self, daemon, ctl, words):
        daemon.table["chat"] = STORY
        assert ctl("chat", *words, stdin="Sag es\nauf Deutsch: ä\n").returncode == 0
        assert daemon.params("chat")["messages"] == [{"role": "user", "content": "Sag es\nauf Deutsch: ä\n"}]

    @pytest.mark.parametrize("words", [("chat", "hi"), ("call", "chat")])
    def test_text_is_printed_while_more_is_still_to_come(self, daemon, words):
        read, in_time = threading.Event(), []
        daemon.table["chat"] = Pieces([delta("first")], chat_answer("first"), lambda: in_time.append(read.wait(5)))
        with subprocess.Popen([*CTL, *words], stdout=subprocess.PIPE) as process:
            assert process.stdout.read(5) in (b"first", b'{"typ')
            read.set()
            assert process.wait(10) == 0
        assert in_time == [True]

    def test_an_answer_that_ends_its_line_gets_no_second_end(self, daemon, ctl):
        daemon.table["chat"] = Pieces([delta("a\n")], chat_answer("a\n"))
        assert ctl("chat", "hi").stdout == "a\n"
        daemon.table["chat"] = chat_answer("a\n")
        assert ctl("chat", "--no-stream", "hi").stdout == "a\n"

    @pytest.mark.parametrize("words", [(), ("--no-stream",), ("--json",)])
    def test_a_simulated_answer_says_so_on_stderr(self, daemon, ctl, words):
        warnings = [{"code": "simulated", "message": "made up"}]
        answer = chat_answer("Hello", simulated=True, warnings=warnings)
        daemon.table["chat"] = lambda params: Pieces([delta("Hello")], answer) if params.get("stream") else answer
        ran = ctl("chat", "hi", *words)
        assert ran.returncode == 0
        assert ran.stderr == "simulated: no model was asked, this answer is made up\n"

    def test_warnings_are_said_on_stderr(self, daemon, ctl):
        warned = chat_answer("", warnings=[{"code": "retired", "message": "this model ends in May"}])
        daemon.table["chat"] = Pieces([], warned)
        assert ctl("chat", "hi").stderr == "daemonctl: this model ends in May\n"

    def test_a_truncated_answer_exits_1_after_its_text(self, daemon, ctl):
        daemon.table["chat"] = Pieces([delta("Once")], errors.Truncated("the stream broke"))
        ran = ctl("chat", "hi")
        assert (ran.returncode, ran.stdout) == (1, "Once")
        assert ran.stderr == "daemonctl: truncated: the stream broke\n"


class TestConfirmation:
    def test_without_a_terminal_it_exits_4(self, daemon, ctl):
        daemon.table["chat"] = confirmed
        ran = ctl("chat", "hi", stdin="y\n")
        assert (ran.returncode, ran.stdout) == (4, "")
        assert "override_required: your month's budget is used up\n" in ran.stderr
        assert "--yes" in ran.stderr

    def test_with_json_it_exits_4_and_gives_the_token(self, daemon, ctl):
        daemon.table["chat"] = confirmed
        ran = ctl("--json", "chat", "hi")
        assert (ran.returncode, ran.stdout) == (4, "")
        assert json.loads(ran.stderr)["detail"]["override_token"] == "t0k"

    def test_yes_confirms(self, daemon, ctl):
        daemon.table["chat"] = confirmed
        ran = ctl("chat", "hi", "--yes")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok\n", "")
        assert [call["params"].get("override_token") for call in daemon.calls] == [None, "t0k"]

    def test_a_second_demand_is_not_confirmed_again(self, daemon, ctl):
        daemon.table["chat"] = TOKEN
        assert ctl("chat", "hi", "--yes").returncode == 4
        assert len(daemon.calls) == 2


class TestInterruption:
    def test_ctrl_c_cancels_the_call_and_exits_130(self, daemon):
        daemon.table["chat"] = Pieces([delta("Once")], HANG)
        with subprocess.Popen([*CTL, "chat", "hi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout.read(4) == b"Once"
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=10)
        assert (process.returncode, stderr) == (130, b"")
        daemon.until(lambda: daemon.cancels == [1])

    def test_a_reader_that_has_enough_ends_it_quietly_and_cancels(self, daemon):
        more = threading.Event()
        daemon.table["chat"] = lambda _: Pieces(after_the_first(more), HANG)
        with subprocess.Popen([*CTL, "chat", "hi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"line\n"
            process.stdout.close()
            more.set()
            assert process.stderr.read() == b""
            assert process.wait(10) == 141
        daemon.until(lambda: daemon.cancels == [1])

    def test_a_reader_of_a_table_that_has_enough_ends_it_quietly(self, daemon):
        row = {"hold_id": "h" * 1000}
        daemon.table["holds"] = {"holds": [row] * 1000}
        with subprocess.Popen([*CTL, "holds"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(10) == 141

    def test_so_does_one_that_had_enough_before_the_first_line(self, daemon):
        may_answer = threading.Event()
        daemon.table["holds"] = lambda _: [may_answer.wait(5), {"holds": []}][1]
        with subprocess.Popen([*CTL, "holds"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.close()
            may_answer.set()
            assert process.stderr.read() == b""
            assert process.wait(10) == 141


def after_the_first(more):
    yield delta("line\n")
    more.wait(10)
    yield from [delta("line\n")] * 100


class Terminal:
    """daemonctl on a terminal of its own. State: what it has shown."""

    def __init__(self, *words, **env):
        self._master, self._slave = pty.openpty()
        # the shell opens the terminal as leader of a new session, which makes it the one that Ctrl-C works on
        on_it = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(self._slave)]
        clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        self._process = subprocess.Popen(
            [*on_it, *CTL, *words], start_new_session=True, env={**clean, "TERM": "xterm", "COLUMNS": "80", **env}
        )
        self.shown = ""

    def type(self, text):
        os.write(self._master, text.encode())

    def until(self, text):
        while text not in self.shown:
            self.shown += os.read(self._master, 4096).decode()

    def end(self):
        """The exit code."""
        code = self._process.wait(10)
        os.close(self._slave)
        try:
            while data := os.read(self._master, 4096):
                self.shown += data.decode()
        except OSError:  # how a terminal ends
            pass
        os.close(self._master)
        return code


class TestOnATerminal:
    def test_text_without_control_characters_and_a_dim_line_after_it(self, daemon):
        daemon.table["chat"] = STORY
        terminal = Terminal("chat", "hi")
        assert terminal.end() == 0
        how = "openai:gpt-4o-mini · 8 + 2 tokens · $0.0000024 · 412 ms"
        assert terminal.shown == f"Once [31mupon\r\n\x1b[2m{how}\x1b[0m\r\n"

    @pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_no_colour_where_it_is_not_wanted(self, daemon, env):
        daemon.table["chat"] = STORY
        terminal = Terminal("chat", "hi", **env)
        assert terminal.end() == 0
        assert "\x1b" not in terminal.shown

    def test_a_simulated_answer_says_so_twice(self, daemon):
        daemon.table["chat"] = Pieces([delta("x")], chat_answer("x", simulated=True))
        terminal = Terminal("chat", "hi")
        assert terminal.end() == 0
        assert "simulated: no model was asked" in terminal.shown
        assert "simulated · openai" in terminal.shown

    @pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("\n", 4)])
    def test_it_asks_before_an_override(self, daemon, typed, code):
        daemon.table["chat"] = confirmed
        terminal = Terminal("chat", "hi")
        terminal.until("[y/N]")
        terminal.type(typed)
        assert terminal.end() == code
        for part in ("102.5 % is used", "$0.005", "daemonctl chat -m ollama:llama3.2"):
            assert part in terminal.shown

    def test_with_json_it_does_not_ask(self, daemon):
        daemon.table["chat"] = TOKEN
        terminal = Terminal("chat", "hi", "--json")
        assert terminal.end() == 4
        assert "[y/N]" not in terminal.shown

    def test_ctrl_c_cancels(self, daemon):
        daemon.table["chat"] = Pieces([delta("Once")], HANG)
        terminal = Terminal("chat", "hi")
        terminal.until("Once")
        terminal.type("\x03")
        assert terminal.end() == 130
        daemon.until(lambda: daemon.cancels == [1])
        assert "Traceback" not in terminal.shown

    def test_the_prompt_can_be_typed(self, daemon):
        daemon.table["chat"] = STORY
        terminal = Terminal("chat")
        terminal.until("Ctrl-D")
        terminal.type("hi\n\x04")
        assert terminal.end() == 0
        assert daemon.params("chat")["messages"][0]["content"] == "hi\n"

    def test_a_table_fits_and_markup_in_it_is_text(self, daemon):
        daemon.table["sessions"] = {"sessions": [{"user": "[red]ana", "app": "a" * 200, "idle_s": 1.0}]}
        terminal = Terminal("sessions")
        assert terminal.end() == 0
        assert "[red]ana" in terminal.shown
        assert "\x1b[1mUSER" in terminal.shown
        lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.shown).splitlines()
        assert max(map(len, lines)) == 80

    def test_json_is_laid_out_and_escaped(self, daemon):
        daemon.table["ping"] = {"a": "\x9b1m"}
        terminal = Terminal("call", "ping")
        assert terminal.end() == 0
        assert terminal.shown == '{\r\n  "a": "\\u009b1m"\r\n}\r\n'
