"""Exact counts come from a child process, beside the loop; whatever becomes of it, a call goes on without them."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog

from actors import count_tokens
from actors.rules.tokens import (
    CHAT_TOKENS,
    MESSAGE_TOKENS,
    OPENAI_FACTOR_MILLI,
    OTHER_FACTOR_MILLI,
    prompt_upper_bound,
)
from actors.tokenizer import (
    COMMAND,
    PIECE,
    REMEDY,
    RETRY_S,
    WAIT_S,
    WAITING,
    Tokenizer,
    encoding_of,
    installed,
    open_tokenizer,
)
from daemon.config import parse
from protocols.chat import Chat, ImagePart, ImageURL, Message, TextPart

pytestmark = pytest.mark.anyio
needs_extra = pytest.mark.skipif(not installed(), reason="bpe-openai is not installed")

GPT, OLD_GPT = "gpt-4o-mini", "gpt-4"
ENGLISH = (
    "Call me Ishmael. Some years ago—never mind how long precisely—having little or no mo"
    "ney in my purse, and nothing particular to interest me on shore, I thought I would s"
    "ail about a little and see the watery part of the world."
)
SERIAL = """import sys, struct
read, write, n = sys.stdin.buffer.read, sys.stdout.buffer, 0
while True:
    write.write(struct.pack("<I", n))
    write.flush()
    read(5)
    while size := struct.unpack("<I", read(4))[0]:
        read(size)
    n += 1
"""
"""A child that answers a question of one text with its number."""
READY = "import sys, struct; sys.stdout.buffer.write(struct.pack('<I', 0)); sys.stdout.flush(); "
SHORTEST_BLINK_S = 0.001


def asked(*texts: str) -> Chat:
    return Chat(messages=[Message(role="user", content=text) for text in texts])


async def until(condition):
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110  a child loads meanwhile, which sets no event
                await asyncio.sleep(0.005)
    return logs


class Running:
    """A tokenizer that has loaded.

    State: the time that it is told.
    """

    def __init__(self, *command: str) -> None:
        self.now = 100.0
        self.tokenizer = Tokenizer(lambda: self.now, command or COMMAND, WAIT_S if command else 30.0)

    async def __aenter__(self):
        await self.load()
        return self

    async def __aexit__(self, *_):
        await self.tokenizer.aclose()

    async def load(self):
        assert await self.tokenizer.count(asked("hi"), GPT) is None
        await until(lambda: self.tokenizer._loaded)

    async def text(self, text, model=GPT):
        return await self.tokenizer.count_text(text, model)

    def child(self) -> int:
        (pid,) = children()
        return pid


def children() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            of = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if of == os.getpid() and "count_tokens" in (path / "cmdline").read_text():
                found.add(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        *((name, 0) for name in ("gpt-4o", "gpt-4o-2024-08-06", "gpt-4.1-mini", "gpt-5", "gpt-5.1-chat-latest")),
        *((name, 0) for name in ("o1", "o3-mini", "o4-mini-2025-04-16", "chatgpt-4o-latest", "ft:gpt-4o-mini:org::id")),
        *((name, 0) for name in ("openai/gpt-oss-120b", "openai/gpt-4o")),
        *((name, 1) for name in ("gpt-4", "gpt-4-turbo", "gpt-4-0613", "gpt-3.5-turbo", "gpt-35-turbo")),
        *(
            (name, None)
            for name in ("llama3.2", "claude-sonnet-4-5", "gpt-9", "gpt-4.9", "gpt-50", "o100", "olmo-2", "")
        ),
        *((name, None) for name in ("my-gpt-4o", "gpt-neo", "gpt2", "anthropic/gpt-4o", "o3x")),
    ],
)
def test_which_tokenizer_a_model_has_is_known_by_its_name(model, encoding):
    assert encoding_of(model) == encoding


@needs_extra
class TestCounts:
    async def test_they_are_exact(self):
        async with Running() as run:
            assert await run.text(ENGLISH) == 50
            assert await run.text("🎉" * 3_000) == 6_000
            assert await run.text("") == 0
            assert await run.text("tiktoken is great!") == 6
            assert await run.text("人工智能正在改变我们的生活方式。", GPT) < await run.text(
                "人工智能正在改变我们的生活方式。", OLD_GPT
            )

    async def test_a_text_of_many_pieces_counts_as_one(self):
        tokenizer = count_tokens._bindings().tokenizer_for_encoding("o200k_base")
        async with Running() as run:
            for size in (PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7):
                text = (ENGLISH + "人工🎉 ") * 2_000
                assert await run.text(text[:size]) == tokenizer.count(text[:size])

    async def test_words_that_steer_a_model_are_plain_text(self):
        async with Running() as run:
            assert await run.text("<|endoftext|>") > 1

    async def test_half_a_surrogate_pair_is_counted_and_not_refused(self):
        async with Running() as run:
            assert await run.text("a\ud800") > 0
            assert await run.text("and on it goes") == 4

    async def test_a_prompt_has_a_frame_and_is_bounded_closer_than_by_its_bytes(self):
        async with Running() as run:
            for chat, texts in ((asked(ENGLISH), 50), (asked(ENGLISH, ENGLISH, "hi"), 101)):
                found = await run.tokenizer.count(chat, GPT)
                assert found.at_most == texts + CHAT_TOKENS + MESSAGE_TOKENS * len(chat.messages)
                assert found.about == texts + 3 + 4 * len(chat.messages)
                assert found.at_most < prompt_upper_bound(chat, OPENAI_FACTOR_MILLI)

    async def test_a_plan_of_many_targets_is_counted_at_once(self):
        image = [TextPart("hi"), ImagePart(ImageURL(url="https://example.org/i.png"))]
        chat = Chat(messages=[Message(role="user", content=image)])
        async with Running() as run:
            found = await run.tokenizer.counts(chat, [GPT, "gpt-4o", OLD_GPT, "llama3.2"])
            assert found.keys() == {GPT, "gpt-4o", OLD_GPT}
            assert found[GPT].at_most > found["gpt-4o"].at_most == found[OLD_GPT].at_most

    async def test_many_at_once_get_each_its_own(self):
        async with Running() as run:
            found = await asyncio.gather(*(run.tokenizer.count_text(" hello" * n, GPT) for n in range(WAITING)))
            assert found == list(range(WAITING))

    async def test_one_that_is_given_up_leaves_the_others_theirs(self):
        async with Running() as run:
            asking = [asyncio.create_task(run.tokenizer.count_text(" hello" * n, GPT)) for n in range(20)]
            await asyncio.sleep(0)
            for task in asking[::2]:
                task.cancel()
            assert await asyncio.gather(*asking[1::2]) == list(range(1, 20, 2))
            assert await run.text("and on it goes") == 4

    async def test_a_model_of_another_vendor_has_none_and_starts_nothing(self):
        tokenizer = Tokenizer(time.monotonic)
        assert await tokenizer.count(asked("hi"), "llama3.2") is None
        assert await tokenizer.count_text("hi", "claude-sonnet-4-5") is None
        assert tokenizer._keeper is None
        await tokenizer.aclose()

    @pytest.mark.parametrize("text", [ENGLISH * 5_000, "学而时习之，不亦说乎？" * 32_000], ids=["prose", "Chinese"])
    async def test_a_megabyte_never_holds_the_loop(self, text):
        """The best of several runs, since the collector of garbage runs too: what is in the code is in every run."""
        async with Running() as run:
            worst = []
            for _ in range(10):
                counting = asyncio.create_task(run.tokenizer.count(asked(text), GPT))
                worst.append(await longest_blink(counting))
                assert counting.result().about > 200_000
                if worst[-1] < SHORTEST_BLINK_S:
                    break
            assert min(worst) < SHORTEST_BLINK_S


async def longest_blink(task) -> float:
    """Seconds that this process, all its threads, worked in one turn of the loop at most, until the task was done.

    Not those that passed: others use this machine. A thread that held the interpreter's lock would show here.
    """
    longest, last = 0.0, time.process_time()
    while not task.done():
        await asyncio.sleep(0)
        now = time.process_time()
        longest, last = max(longest, now - last), now
    return longest


class TestChild:
    @needs_extra
    async def test_it_is_gone_when_the_tokenizer_is(self):
        async with Running() as run:
            pid = run.child()
        assert pid not in children()
        assert await run.tokenizer.count(asked("hi"), GPT) is None
        assert not children()

    @needs_extra
    def test_it_ends_with_its_input_and_not_by_the_signals_that_mean_the_daemon(self):
        child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout.read(4) == bytes(4)
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        time.sleep(0.1)
        assert child.poll() is None
        assert child.communicate() == (b"", None)
        assert child.returncode == 0

    @needs_extra
    async def test_when_it_is_killed_there_is_no_count_and_a_minute_later_another_child(self):
        async with Running() as run:
            os.kill(run.child(), signal.SIGKILL)
            with structlog.testing.capture_logs() as logs:
                assert await run.tokenizer.count_text("hi", GPT) is None
                await asyncio.wait([run.tokenizer._keeper])
            assert [(line["event"], line["log_level"]) for line in logs] == [("tokenizer_failed", "warning")]
            assert await run.tokenizer.count_text("hi", GPT) is None
            assert run.tokenizer._keeper.done()
            run.now += RETRY_S
            await run.load()
            assert await run.text("and on it goes") == 4

    async def test_its_last_words_are_in_the_log(self):
        run = Running(sys.executable, "-c", "raise SystemExit('first\\nbpe-openai is not installed')")
        assert await run.tokenizer.count(asked("hi"), GPT) is None
        logs = await until(run.tokenizer._keeper.done)
        assert [(line["event"], line["why"]) for line in logs] == [("tokenizer_failed", "bpe-openai is not installed")]

    async def test_a_command_that_is_not_there_is_in_the_log(self):
        run = Running("/nonexistent/python")
        assert await run.tokenizer.count(asked("hi"), GPT) is None
        logs = await until(run.tokenizer._keeper.done)
        assert "No such file" in logs[0]["why"]

    async def test_keys_in_the_environment_stay_out_of_it(self, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        run = Running(sys.executable, "-c", "import os; raise SystemExit(' '.join(sorted(os.environ)))")
        assert await run.tokenizer.count(asked("hi"), GPT) is None
        logs = await until(run.tokenizer._keeper.done)
        assert "PATH" in logs[0]["why"]
        assert "OPENAI_API_KEY" not in logs[0]["why"]

    async def test_one_that_is_slow_costs_a_call_a_quarter_of_a_second_and_no_more(self):
        async with Running(sys.executable, "-c", READY + "import time; time.sleep(1_000)") as run:
            began = time.monotonic()
            assert await run.tokenizer.count(asked("hi"), GPT) is None
            assert WAIT_S - 0.01 < time.monotonic() - began < WAIT_S + 1

    async def test_no_more_wait_for_it_than_have_a_place(self):
        async with Running(sys.executable, "-c", READY + "import time; time.sleep(1_000)") as run:
            asking = [asyncio.create_task(run.tokenizer.count_text("x", GPT))]
            await asyncio.sleep(0.02)  # this one the child has
            asking += [asyncio.create_task(run.tokenizer.count_text("x", GPT)) for _ in range(WAITING + 1)]
            await asyncio.sleep(0)
            assert [task.done() for task in asking] == [*[False] * (WAITING + 1), True]
            assert set(await asyncio.gather(*asking)) == {None}

    async def test_who_waits_when_it_breaks_off_is_told(self):
        broken = READY + "sys.stdin.buffer.read(5); sys.stdout.buffer.write(b'xx')"
        async with Running(sys.executable, "-c", broken) as run:
            began = time.monotonic()
            assert await asyncio.gather(*(run.tokenizer.count_text("x", GPT) for _ in range(3))) == [None] * 3
            assert time.monotonic() - began < WAIT_S

    async def test_closing_waits_for_a_child_that_is_being_ended(self):
        async with Running(sys.executable, "-c", READY + "sys.stdin.buffer.read(5)") as run:
            assert await run.tokenizer.count_text("x", GPT) is None
            while not (run.tokenizer._burying or run.tokenizer._keeper.done()):  # noqa: ASYNC110  each turn counts
                await asyncio.sleep(0)
        assert not run.tokenizer._keeper.cancelled()

    async def test_it_is_not_asked_what_nobody_waits_for(self):
        async with Running(sys.executable, "-c", SERIAL) as run:
            asking = [asyncio.create_task(run.tokenizer.count_text("x", GPT)) for _ in range(20)]
            await asyncio.sleep(0)
            for task in asking:
                task.cancel()
            assert await run.tokenizer.count_text("x", GPT) <= 2

    def test_breaking_off_inside_a_question_is_an_error(self):
        if not installed():
            pytest.skip("bpe-openai is not installed")
        done = subprocess.run(COMMAND, input=count_tokens.QUESTION.pack(0, 1)[:3], capture_output=True, check=False)
        assert done.returncode != 0


class TestOpening:
    @needs_extra
    async def test_wanted_and_installed_it_is_there_and_nothing_is_loaded_yet(self):
        async with open_tokenizer(time.monotonic, wanted=True) as tokenizer:
            assert tokenizer is not None
            assert not children()

    async def test_not_wanted_it_is_not_there(self):
        async with open_tokenizer(time.monotonic, wanted=False) as tokenizer:
            assert tokenizer is None

    async def test_wanted_in_vain_it_is_not_there_and_log_and_status_say_what_to_install(self, monkeypatch):
        without = [place for place in sys.path if not (Path(place) / "bpe_openai").exists()]
        monkeypatch.setattr(sys, "path", without)
        with structlog.testing.capture_logs() as logs:
            async with open_tokenizer(time.monotonic, wanted=True) as tokenizer:
                assert tokenizer is None
        assert [(line["event"], line["hint"]) for line in logs] == [("tokenizer_missing", REMEDY)]
        wanted = parse({"daemon": {"exact_tokens": True}})
        assert wanted.without_effect() == [f"`exact_tokens` of the config has no effect: {REMEDY}"]
        assert parse({}).without_effect() == []

    @needs_extra
    def test_wanted_and_installed_there_is_nothing_to_say(self):
        assert parse({"daemon": {"exact_tokens": True}}).without_effect() == []


@needs_extra
def test_this_process_never_imports_it():
    script = "import sys, actors.tokenizer as t; assert t.installed(); assert 'bpe_openai' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@needs_extra
async def test_the_bound_by_bytes_is_above_the_exact_count_of_what_programs_send():
    """The weights of `rules.tokens` against the tokenizer itself, on the repository's own files."""
    async with Running() as run:
        sources = itertools.islice(Path(__file__).parents[2].glob("actors/**/*.*"), 60)
        for path in (path for path in sources if path.suffix in {".py", ".sql"}):
            chat = asked(path.read_text())
            counted = await run.tokenizer.count(chat, GPT)
            assert counted is not None
            assert counted.at_most <= prompt_upper_bound(chat, OPENAI_FACTOR_MILLI)
            assert counted.at_most <= prompt_upper_bound(chat, OTHER_FACTOR_MILLI)
