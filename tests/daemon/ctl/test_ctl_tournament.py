"""`daemonctl tournament` and `ask`: what is sent, live progress, the picture of the verdict, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import get_args, get_type_hints

import msgspec
import pytest
from scripted_daemon import HANG, Pieces
from terminal import Terminal
from tournaments import ballot, verdict

from daemon.ctl import tournament as command
from daemon.ctl import verdict as picture
from daemon.ctl.output import one_line
from protocols import errors
from protocols.money import NanoUSD
from protocols.settings import Mode
from protocols.tournament import (
    Agreement,
    AnswerType,
    Bounded,
    Cancelled,
    Cast,
    Cluster,
    Decided,
    Flag,
    Judging,
    Latency,
    Launched,
    Missing,
    Status,
    TightBudget,
    Verdict,
)

CTL = [sys.executable, "-W", "error", "-m", "daemon.ctl"]
UTF8 = {"PYTHONIOENCODING": "utf-8"}
A, B, C = "openai:a", "anthropic:b", "google:c"


def plain(value):
    return msgspec.to_builtins(value)


def told(*answers, **more):
    """A verdict on these answers, None for a member that failed; those that are equal agree."""
    ballots = tuple(ballot(slot, answer, cluster=None) for slot, answer in enumerate(answers))
    said = sorted(dict.fromkeys(each for each in answers if each is not None), key=lambda each: -answers.count(each))
    for each in ballots:
        each.cluster = said.index(each.answer) if each.answer is not None else None
    clusters = [
        Cluster(one, [b.model for b in ballots if b.answer == one], answers.count(one) / len(answers)) for one in said
    ]
    share = clusters[0].share if clusters else 0.0
    usual = {
        "status": "consensus",
        "answer": said[0] if said else None,
        "agreement": Agreement("canonical", share, share, clusters),
        "flags": [],
        "missing": [Missing(b.model, "provider_error", "it broke") for b in ballots if b.answer is None],
        "cost_nano_usd": 3_100_000,
        "bound_nano_usd": 12_000_000,
        "saved_nano_usd": 900_000,
    }
    return verdict(ballots=ballots, **(usual | more))


AGREED = told("yes", "yes", "no")
DISPUTE = told("yes", "no", status="dispute", answer=None, answer_kind="none", winner=None, needs_review=True)
STORY = "Once upon a time there was a king who had three daughters, and each of them\nwanted to be a queen.\n"
PICKED = told(
    STORY,
    "No story.",
    mode="pick",
    answer_kind="picked",
    winner=A,
    agreement=Agreement("judge", 0.75, 0.5, [Cluster(STORY, [A], 0.75), Cluster("No story.", [B], 0.25)]),
)
PROGRESS = [
    Bounded(
        tournament_id="t1",
        mode="vote",
        members=[A, B, B],
        bench=[C],
        judges=["xai:g"],
        aggregator="openai:w",
        bound_nano_usd=NanoUSD(12_000_000),
        shrunk=True,
    ),
    Launched([A, B]),
    Cast(ballot(0, "yes\x1b[2J", cost_nano_usd=300_000)),
    Cast(ballot(1, None)),
    Judging("xai:g", "which answers say the same"),
    Decided("consensus", "it can't be overturned"),
    Cancelled([B]),
]
TOKEN = errors.OverrideRequired(
    "Budget exceeded (101.7% used).", detail={"override_token": "t0k", "alternative": "ollama:llama3.2"}
)
WITHOUT_ALTERNATIVE = errors.OverrideRequired(TOKEN.message, detail={"override_token": "t0k", "alternative": None})


def unless_agreed(fault):
    """Answers who confirms, or asks local models."""

    def answer(params):
        agreed = params.get("override_token") == "t0k" or params.get("on_tight_budget") == "local_only"
        return plain(AGREED) if agreed else fault

    return answer


class TestWhatIsSent:
    def test_each_option_becomes_its_param(self, daemon, ctl):
        daemon.table["tournament"] = AGREED
        options = (
            "--members a:b,c:d,,e:f --num 3 --mode pick --answer number --tolerance 0.5 --unit km --locale de "
            "--judge j:a,j:b --judge j:c --aggregator w:a --min-live 3 --threshold 3/4 --latency fast "
            "--on-tight-budget ask --veto 7 --task t --tier premium --user u --conversation c --max-tokens 9"
        )
        assert ctl("tournament", *options.split(" "), "--", "-x", "--json").returncode == 0
        assert daemon.params("tournament") == {
            "prompt": "-x --json",
            "members": ["a:b", "c:d", "e:f"],
            "n": 3,
            "mode": "pick",
            "answer": {"type": "number", "tolerance": 0.5, "unit": "km", "locale": "de"},
            "judge": ["j:a", "j:b", "j:c"],
            "aggregator": "w:a",
            "min_live": 3,
            "threshold": "3/4",
            "latency": "fast",
            "on_tight_budget": "ask",
            "veto": "7",
            "task_type": "t",
            "quality_tier": "premium",
            "user": "u",
            "conversation": "c",
            "max_tokens": 9,
        }

    @pytest.mark.parametrize(
        ("options", "answer"),
        [
            ("--answer bool", "bool"),
            ("--choices red,green", {"type": "choice", "choices": ["red", "green"]}),
            ("--answer choice --choices red", {"type": "choice", "choices": ["red"]}),
            ("--answer code --language python", {"type": "code", "language": "python"}),
            ("--answer number --tolerance 0", {"type": "number", "tolerance": 0.0}),
        ],
    )
    def test_the_type_of_the_answer(self, daemon, ctl, options, answer):
        daemon.table["tournament"] = AGREED
        assert ctl("ask", *options.split(), "hi").returncode == 0
        assert daemon.params("tournament")["answer"] == answer

    @pytest.mark.parametrize("words", [(), ("-",)])
    def test_the_prompt_may_come_from_stdin(self, daemon, ctl, words):
        daemon.table["tournament"] = AGREED
        assert ctl("ask", *words, stdin="Ist es\nprim: ä\n").returncode == 0
        assert daemon.params("tournament") == {"prompt": "Ist es\nprim: ä\n"}

    @pytest.mark.parametrize("words", [["show t1"], ["show", "me", "t1"], ["show"]])
    def test_a_question_that_begins_like_a_slip_is_one_all_the_same(self, daemon, ctl, words):
        daemon.table["tournament"] = AGREED
        assert ctl("ask", *words).returncode == 0
        assert daemon.params("tournament") == {"prompt": " ".join(words)}

    @pytest.mark.parametrize(
        ("listed", "known"),
        [
            (command.ANSWERS, AnswerType),
            (command.MODES, Mode),
            (command.LATENCIES, Latency),
            (command.TIGHT_BUDGETS, TightBudget),
            (picture.FLAGS, Flag),
            (picture.GIVEN, get_type_hints(Verdict)["answer_kind"]),
            ((*picture.MEANS, "unanimous", "consensus", "majority"), Status),
        ],
    )
    def test_what_is_written_out_here_is_what_the_protocol_knows(self, listed, known):
        assert {*listed, "none"} == {*get_args(known), "none"}


class TestThePicture:
    def test_of_an_agreement_in_a_pipe(self, daemon, ctl):
        daemon.table["tournament"] = told("yes", "yes", "no", None, status="majority", flags=["degraded", "shrunk"])
        ran = ctl("tournament", "hi", **UTF8)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.splitlines() == [
            (
                "majority: yes (2 of 4, 2 families); not everybody gave an answer that counts; "
                "fewer were asked than wanted, for the budget"
            ),
            " 50% ██████████░░░░░░░░░░ yes",
            "                          openai:a, anthropic:b",
            " 25% █████░░░░░░░░░░░░░░░ no",
            "                          google:c",
            "not counted: mistral:d (provider_error): it broke",
            "cost: $0.0031 of at most $0.012; about $0.0009 saved by stopping early",
            "ballots: `daemonctl tournaments show t1 --text`",
        ]

    @pytest.mark.parametrize(
        ("outcome", "line"),
        [
            (told("yes", "yes", "yes", status="unanimous"), "unanimous: yes (3 of 3, 3 families)"),
            (told("yes", "yes"), "consensus: yes (2 of 2, 2 families)"),
            (
                told("yes", None, flags=["same_family"], status="majority"),
                "majority: yes (1 of 2, 1 family); those who agree are of one family, as far as is known",
            ),
            (DISPUTE, "dispute: the answers differ, look at them"),
            (
                told("yes", "no", status="dispute", answer=None, flags=["vetoed"]),
                "dispute: the answers differ, look at them; a ballot gives the answer that blocks",
            ),
            (
                told("a", "b", status="dispute", answer=None, mode="pick"),
                "dispute: the judges name no answer as the best, look at them",
            ),
            (told("yes", None, status="inconclusive", answer=None), "inconclusive: too few answers to tell"),
            (
                told("yes", status="unscored", answer_kind="first", winner=A, flags=["early_stopped"]),
                (
                    "unscored: nobody compared the answers; openai:a came first: yes; "
                    "stopped early, for more ballots would have changed no winner"
                ),
            ),
            (told(None, status="failed", flags=["deadline"]), "failed: nobody gave an answer; time was up"),
            (
                told("x", "y", answer_kind="picked", winner=B),
                "consensus: the best is anthropic:b's: x (50% of the judges' points)",
            ),
            (told("x", answer="z", answer_kind="fused"), "consensus: written from the best answers: z"),
            (
                told("x", answer_kind="selected", winner=A),
                "consensus: openai:a's, as it is, for nobody could tell more: x",
            ),
            (told("x", "x", answer="{0} {winner}"), "consensus: {0} {winner} (2 of 2, 2 families)"),
            ({**plain(told("x")), "status": "hung", "answer": None, "flags": []}, "hung: no answer"),
            (
                {**plain(told("x")), "answer_kind": "sung", "status": "hung", "flags": ["tired"]},
                "hung: x; tired",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_begins_with_a_sentence_in_plain_words(self, outcome, line):
        assert picture.headline(plain(outcome)) == line

    def test_families_that_nobody_knows_are_not_counted(self):
        agreed = told("yes", "yes")
        for each in agreed.ballots:
            each.family = None
        assert picture.headline(plain(agreed)) == "consensus: yes (2 of 2)"

    @pytest.mark.parametrize(
        ("share", "bar"), [(0.0, 0), (0.001, 1), (0.5, 10), (2 / 3, 13), (0.99, 19), (1.0, 20), (0.76, 15)]
    )
    def test_a_bar_is_full_only_for_all_and_empty_only_for_none(self, share, bar, capsys):  # noqa: ARG002  a stdout that can show it
        assert picture._bar(share).count("█") == bar
        assert len(picture._bar(share)) == 20

    def test_in_ascii_where_nothing_else_can_be_shown(self, daemon, ctl):
        daemon.table["tournament"] = told("long " * 50, "short", flags=[])
        shown = ctl("tournament", "hi", PYTHONIOENCODING="ascii").stdout
        assert " 50% ##########.......... short\n" in shown
        assert "long l...\n" in shown
        assert "?" not in shown

    def test_cuts_a_long_answer_to_a_line_and_has_it_in_full_at_the_end(self, daemon, ctl):
        daemon.table["tournament"] = PICKED
        ran = ctl("tournament", "hi", **UTF8)
        lines = ran.stdout.splitlines()
        assert lines[0] == (
            "consensus: the best is openai:a's: Once upon a time there was a king who had three daughters, … "
            "(75% of the judges' points)"
        )
        assert lines[1] == " 75% ███████████████░░░░░ Once upon a time there was a king who had three daugh…"
        assert len(lines[1]) == 80
        assert ran.stdout.endswith(f"--text`\n\n{STORY}")
        assert ran.stdout.count("wanted to be a queen") == 1

    @pytest.mark.parametrize(
        ("answer", "is_repeated"), [("a b", False), ("a\nb", True), ("a  b", True), (" a\n", False)]
    )
    def test_has_in_full_what_a_line_can_not_say(self, daemon, ctl, answer, is_repeated):
        daemon.table["tournament"] = told(answer, answer)
        assert ctl("ask", "hi").stdout.endswith(f"\n\n{answer}\n") == is_repeated

    def test_of_answers_that_nobody_compared_has_them_all(self, daemon, ctl):
        none = Agreement("none", 0.0, 0.0, [])
        outcome = told("yes", "no", None, status="unscored", answer_kind="first", winner=A, agreement=none)
        outcome.ballots[1].answer, outcome.ballots[1].text = None, "I do not\nthink so."
        daemon.table["tournament"] = outcome
        assert ctl("ask", "hi").stdout.splitlines()[1:3] == ["  openai:a: yes", "  anthropic:b: I do not think so."]

    @pytest.mark.parametrize(
        ("costs", "line"),
        [
            ((3, 5, 0), "cost: $0.000000003 of at most $0.000000005"),
            ((5, 3, 1), "cost: $0.000000005 although at most $0.000000003 was held; about $0.000000001 saved"),
            ((0, 0, 0), "cost: free"),
        ],
    )
    def test_the_cost_against_its_bound(self, daemon, ctl, costs, line):
        names = ("cost_nano_usd", "bound_nano_usd", "saved_nano_usd")
        daemon.table["tournament"] = told("yes", **dict(zip(names, costs, strict=True)))
        assert f"\n{line}" in ctl("ask", "hi").stdout

    def test_says_whose_price_is_in_no_sum(self, daemon, ctl):
        lacks = {"lacks": ["openai:a", "far:judge"]}
        outcome = told("yes", "yes", None, cost_nano_usd=0, bound_nano_usd=0, saved_nano_usd=0, **lacks)
        daemon.table["tournament"] = outcome
        line = "cost: $0.00 of at most $0.00; without openai:a, far:judge, whose price nobody knows"
        assert line in ctl("ask", "hi").stdout.splitlines()

    def test_what_is_not_shown_takes_no_room_on_a_line(self):
        assert one_line("\x1b" * 10 + "a\n b", 3) == "a b"

    def test_a_model_that_was_asked_several_times_is_named_once(self, daemon, ctl):
        outcome = told("yes", "yes", "yes")
        outcome.agreement.clusters[0].members[:] = [A, B, A]
        daemon.table["tournament"] = outcome
        assert "  openai:a (2 times), anthropic:b\n" in ctl("ask", "hi").stdout

    def test_what_models_wrote_does_not_command_the_terminal(self, daemon, ctl):
        evil = "a\x1b[2J\x1b]0;b\x07\n"
        daemon.table["tournament"] = told(evil * 20, "no", None, missing=[Missing(C, "provider_error", evil * 2)])
        ran = ctl("tournament", "hi")
        assert "a[2J]0;b a[2J]0;b" in ran.stdout
        assert "google:c (provider_error): a[2J]0;b a[2J]0;b\n" in ran.stdout
        assert not {"\x1b", "\x07"} & set(ran.stdout)


class TestTheExitCode:
    @pytest.mark.parametrize("words", [(), ("--json",), ("-q",)])
    @pytest.mark.parametrize(
        ("outcome", "code"),
        [
            (AGREED, 0),
            (DISPUTE, 5),
            (told("yes", "no", status="dispute", needs_review=True), 5),
            (told(None, status="failed"), 1),
            (told("yes", status="unscored", answer=None), 1),
            (told("yes", status="unscored", answer_kind="first"), 0),
        ],
    )
    def test_tells_whether_there_is_an_answer_and_whether_to_look(self, daemon, ctl, outcome, code, words):
        daemon.table["tournament"] = outcome
        assert ctl("ask", "hi", *words).returncode == code

    def test_is_5_beside_a_hint_how_to_say_what_was_right(self, daemon, ctl):
        daemon.table["tournament"] = DISPUTE
        assert ctl("ask", "hi", **UTF8).stdout.splitlines()[-1] == (
            "review: `daemonctl reviews resolve t1 --answer …` says which answer was right"
        )


class TestForScripts:
    def test_quiet_prints_the_answer_as_it_was_written_and_nothing_else(self, daemon, ctl):
        daemon.table["tournament"] = told("yes \x1b[31m\n no", flags=["degraded"])
        ran = ctl("ask", "-q", "hi")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "yes \x1b[31m\n no\n", "")
        daemon.table["tournament"] = told("yes\n")
        assert ctl("ask", "--quiet", "hi").stdout == "yes\n"
        assert all("stream" not in call["params"] for call in daemon.calls)

    def test_quiet_without_an_answer_says_why_on_stderr(self, daemon, ctl):
        daemon.table["tournament"] = DISPUTE
        ran = ctl("ask", "-q", "hi", **UTF8)
        assert (ran.returncode, ran.stdout) == (5, "")
        assert ran.stderr.splitlines() == [
            "daemonctl: dispute: the answers differ, look at them",
            "`daemonctl reviews resolve t1 --answer …` says which answer was right",
        ]

    def test_json_has_progress_a_line_each_and_the_verdict_last(self, daemon, ctl):
        daemon.table["tournament"] = Pieces(PROGRESS, DISPUTE)
        ran = ctl("--json", "ask", "hi")
        assert (ran.returncode, ran.stderr) == (5, "")
        assert [json.loads(line) for line in ran.stdout.splitlines()] == plain([*PROGRESS, DISPUTE])
        assert daemon.params("tournament") == {"prompt": "hi", "stream": True}

    def test_json_comes_while_more_is_still_to_come(self, daemon):
        read, in_time = threading.Event(), []
        daemon.table["tournament"] = Pieces(PROGRESS[:1], AGREED, lambda: in_time.append(read.wait(5)))
        with subprocess.Popen([*CTL, "ask", "hi", "--json"], stdout=subprocess.PIPE) as process:
            assert json.loads(process.stdout.readline())["type"] == "bound"
            read.set()
            assert process.wait(10) == 0
        assert in_time == [True]

    def test_quiet_json_is_the_verdict_alone(self, daemon, ctl):
        daemon.table["tournament"] = AGREED
        ran = ctl("ask", "-q", "--json", "hi")
        assert json.loads(ran.stdout) == plain(AGREED)
        assert daemon.params("tournament") == {"prompt": "hi"}

    def test_no_progress_is_asked_for_where_nobody_would_see_it(self, daemon, ctl):
        daemon.table["tournament"] = Pieces(PROGRESS, AGREED)
        assert ctl("ask", "hi").stderr == ""
        assert daemon.params("tournament") == {"prompt": "hi"}

    def test_a_fault_in_the_middle_exits_1_with_its_code(self, daemon, ctl):
        daemon.table["tournament"] = Pieces(PROGRESS[:2], errors.ShuttingDown("the daemon is stopping"))
        ran = ctl("ask", "hi")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr == "daemonctl: shutting_down: the daemon is stopping\n"


class TestConfirmation:
    def test_without_a_terminal_it_exits_4_and_says_how_to_go_on(self, daemon, ctl):
        daemon.table["tournament"] = TOKEN
        ran = ctl("ask", "hi", stdin="y\n")
        assert (ran.returncode, ran.stdout) == (4, "")
        assert ran.stderr.splitlines() == [
            f"daemonctl: override_required: {TOKEN.message}",
            "to continue all the same, say it again with --yes",
            "to use free local models alone, say it again with --on-tight-budget local_only",
        ]

    @pytest.mark.parametrize("how", [[], ["--json"], ["-q"]])
    def test_yes_confirms(self, daemon, ctl, how):
        daemon.table["tournament"] = unless_agreed(TOKEN)
        assert ctl("ask", "hi", "--yes", *how).returncode == 0
        assert [call["params"].get("override_token") for call in daemon.calls] == [None, "t0k"]

    def test_yes_confirms_once_and_tells_of_a_review_all_the_same(self, daemon, ctl):
        daemon.table["tournament"] = lambda params: plain(DISPUTE) if "override_token" in params else TOKEN
        assert ctl("ask", "hi", "--yes").returncode == 5
        daemon.table["tournament"] = TOKEN
        assert ctl("ask", "hi", "--yes").returncode == 4
        assert len(daemon.calls) == 4

    @pytest.mark.parametrize(
        ("typed", "code", "sent"),
        [
            ("y\n", 0, [{}, {"override_token": "t0k"}]),
            ("l\n", 0, [{}, {"on_tight_budget": "local_only"}]),
            ("\n", 4, [{}]),
        ],
    )
    def test_on_a_terminal_it_asks(self, daemon, typed, code, sent):
        daemon.table["tournament"] = unless_agreed(TOKEN)
        terminal = Terminal("ask", "--members", "a:b,c:d", "hi")
        terminal.until("y: continue, l: free local models instead, N: neither [y/l/N] ")
        terminal.type(typed)
        assert terminal.end() == code
        asked = {"prompt": "hi", "members": ["a:b", "c:d"], "stream": True}
        assert [call["params"] for call in daemon.calls] == [{**asked, **each} for each in sent]

    def test_without_free_models_there_are_none_to_choose(self, daemon):
        daemon.table["tournament"] = unless_agreed(WITHOUT_ALTERNATIVE)
        terminal = Terminal("ask", "hi")
        terminal.until("y: continue, N: stop [y/N] ")
        terminal.type("l\n")
        assert terminal.end() == 4


class TestOnATerminal:
    def test_progress_is_a_dim_line_each_and_the_picture_comes_after_it(self, daemon):
        daemon.table["tournament"] = Pieces([*PROGRESS, {"type": "smell", "of": "roses"}], AGREED)
        terminal = Terminal("ask", "hi", **UTF8)
        assert terminal.end() == 0
        lines = terminal.shown.splitlines()
        assert lines[:8] == [
            f"\x1b[2m{line}\x1b[0m"
            for line in (
                (
                    "vote of openai:a, anthropic:b (2 times), at most $0.012; google:c if one fails; judged by xai:g; "
                    "written by openai:w; fewer than wanted, for the budget"
                ),
                "asked openai:a, anthropic:b",
                "openai:a: yes[2J ($0.0003, 10 ms)",
                "anthropic:b: failed, provider_error",
                "xai:g: which answers say the same",
                "consensus: it can't be overturned",
                "not needed: anthropic:b",
                '{"type": "smell", "of": "roses"}',
            )
        ]
        assert lines[8] == "consensus: yes (2 of 3, 2 families)"

    def test_it_comes_while_more_is_still_to_come_and_ctrl_c_cancels(self, daemon):
        daemon.table["tournament"] = Pieces(PROGRESS[:2], HANG)
        terminal = Terminal("ask", "hi")
        terminal.until("asked openai:a, anthropic:b")
        terminal.type("\x03")
        assert terminal.end() == 130
        daemon.until(lambda: daemon.cancels == [1])
        assert "Traceback" not in terminal.shown

    @pytest.mark.parametrize("columns", [40, 60, 120])
    def test_no_line_of_the_shares_is_wider_than_the_terminal(self, daemon, columns):
        daemon.table["tournament"] = told("word " * 50, "word " * 50, "no")
        terminal = Terminal("ask", "hi", COLUMNS=str(columns), **UTF8)
        assert terminal.end() == 0
        shares = [line for line in terminal.shown.splitlines() if line.startswith(" ")]
        assert len(shares) >= 4
        assert max(map(len, shares)) <= max(columns, 46)
        assert any(len(line) == max(columns, 46) for line in shares)

    def test_quiet_is_quiet(self, daemon):
        daemon.table["tournament"] = told("yes\x1b[31m")
        terminal = Terminal("ask", "-q", "hi")
        assert terminal.end() == 0
        assert terminal.shown == "yes[31m\r\n"
