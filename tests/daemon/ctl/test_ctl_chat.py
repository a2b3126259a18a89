"""`daemonctl chat`: streaming, confirmation, interruption; in a pipe and on a terminal."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading

import pytest
from scripted_daemon import HANG, Pieces, chat_answer, delta
from terminal import Terminal

from protocols import errors

CTL = [sys.executable, "-W", "error", "-m", "daemon.ctl"]
STORY = Pieces([delta("Once \x1b[31m"), {"type": "reasoning", "text": "hm"}, delta("upon")], chat_answer("Once upon"))
TOKEN = errors.OverrideRequired(
    "Budget exceeded (101.7% used). Continue with claude ($0.05) or use the free llama3.2?",
    detail={
        "override_token": "t0k",
        "percent_used": 101.7,
        "estimated_nano_usd": 50_000_000,
        "alternative": "ollama:llama3.2",
    },
)
WITHOUT_ALTERNATIVE = errors.OverrideRequired(
    "Budget exceeded (101.7% used). Continue with claude ($0.05)?", detail={**TOKEN.detail, "alternative": None}
)


def unless_agreed(fault):
    """Answers who confirms or asks the local model."""

    def answer(params):
        agreed = params.get("override_token") == "t0k" or params.get("model") == "ollama:llama3.2"
        return Pieces([delta("ok")], chat_answer("ok")) if agreed else fault

    return answer


confirmed = unless_agreed(TOKEN)


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
            "--language-hint",
            "--user",
            "u",
            "--task",
            "t",
            "--tier",
            "budget",
            "--max-tokens",
            "5",
            "--admission",
            "queue",
            "--system",
            "short",
        ]
        assert ctl("chat", *options, "--", "-x", "--json").returncode == 0
        assert daemon.params("chat") == {
            "messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "-x --json"}],
            "stream": True,
            "provider": "p",
            "hint": "en-claude",
            "language_hint": True,
            "user": "u",
            "task_type": "t",
            "quality_tier": "budget",
            "max_tokens": 5,
            "admission": "queue",
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
        said = ran.stderr.splitlines()
        assert said == [
            f"daemonctl: override_required: {TOKEN.message}",
            "to continue all the same, say it again with --yes",
            "to use the free model instead, say it again with -m ollama:llama3.2",
        ]

    def test_a_free_model_is_named_only_if_there_is_one(self, daemon, ctl):
        daemon.table["chat"] = WITHOUT_ALTERNATIVE
        ran = ctl("chat", "hi")
        assert (ran.returncode, ran.stderr.count("\n")) == (4, 2)
        assert ran.stderr.endswith("--yes\n")

    def test_call_has_no_yes_and_names_none(self, daemon, ctl):
        daemon.table["chat"] = TOKEN
        ran = ctl("call", "chat")
        assert (ran.returncode, ran.stderr) == (4, f"daemonctl: override_required: {TOKEN.message}\n")

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


class TestOnATerminal:
    def test_text_without_control_characters_and_a_dim_line_after_it(self, daemon):
        daemon.table["chat"] = STORY
        terminal = Terminal("chat", "hi")
        assert terminal.end() == 0
        how = "openai:gpt-4o-mini · 8 + 2 tokens · $0.0000024 · 412 ms · c1"
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

    @pytest.mark.parametrize(
        ("typed", "code", "sent"),
        [
            ("y\n", 0, [{}, {"override_token": "t0k"}]),
            ("Yes\n", 0, [{}, {"override_token": "t0k"}]),
            ("l\n", 0, [{}, {"model": "ollama:llama3.2"}]),
            ("n\n", 4, [{}]),
            ("\n", 4, [{}]),
            ("sure\n", 4, [{}]),
            ("\x04", 4, [{}]),
        ],
    )
    def test_it_asks_before_an_override_and_says_each_fact_once(self, daemon, typed, code, sent):
        daemon.table["chat"] = confirmed
        terminal = Terminal("chat", "hi")
        terminal.until("[y/l/N] ")
        terminal.type(typed)
        assert terminal.end() == code
        choice = "y: continue, l: ollama:llama3.2 instead, N: neither [y/l/N] "
        assert terminal.shown.startswith(f"{TOKEN.message}\r\n{choice}")
        assert terminal.shown.count("101.7") == terminal.shown.count("$0.05") == 1
        assert ("ok\r\n" in terminal.shown) == (code == 0)
        assert terminal.shown.endswith("\n")
        asked = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        assert [call["params"] for call in daemon.calls] == [{**asked, **each} for each in sent]

    def test_the_free_model_is_asked_without_a_provider_or_hint_that_says_otherwise(self, daemon):
        daemon.table["chat"] = confirmed
        terminal = Terminal("chat", "--provider", "anthropic", "--hint", "en-claude", "--max-tokens", "9", "hi")
        terminal.until("[y/l/N] ")
        terminal.type("l\n")
        assert terminal.end() == 0
        params = daemon.calls[1]["params"]
        assert {"provider", "hint", "override_token"} & set(params) == set()
        assert (params["model"], params["max_tokens"]) == ("ollama:llama3.2", 9)

    def test_without_a_free_model_there_is_none_to_choose(self, daemon):
        daemon.table["chat"] = unless_agreed(WITHOUT_ALTERNATIVE)
        terminal = Terminal("chat", "hi")
        terminal.until("y: continue, N: stop [y/N] ")
        terminal.type("l\n")
        assert terminal.end() == 4
        assert len(daemon.calls) == 1

    def test_a_prompt_that_was_typed_can_be_confirmed_too(self, daemon):
        daemon.table["chat"] = confirmed
        terminal = Terminal("chat")
        terminal.until("Ctrl-D")
        terminal.type("hi\n\x04")
        terminal.until("[y/l/N] ")
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "ok\r\n" in terminal.shown

    def test_ctrl_c_at_the_question_stops_it(self, daemon):
        daemon.table["chat"] = confirmed
        terminal = Terminal("chat", "hi")
        terminal.until("[y/l/N] ")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert len(daemon.calls) == 1
        assert "Traceback" not in terminal.shown

    def test_with_json_it_does_not_ask(self, daemon):
        daemon.table["chat"] = TOKEN
        terminal = Terminal("chat", "hi", "--json")
        assert terminal.end() == 4
        assert "/N]" not in terminal.shown

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
