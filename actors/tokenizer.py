"""Exact token counts for OpenAI's models, by bpe-openai in a child process.

A thread would not do: bpe-openai holds the interpreter's lock, 45 to 90 ms while it loads and 11 to 110 ms for each
megabyte that it counts, and all that time the loop would stand still.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec

import structlog
from msgspec import Struct

from actors.count_tokens import ANSWER, LENGTH, QUESTION
from actors.limit import Limit
from actors.rules.tokens import PromptTokens, prompt_texts, prompt_tokens
from protocols.chat import Chat

REMEDY = "install quorumd[tokenizer], or bpe-openai into the same environment"

COMMAND = (sys.executable, "-m", "actors.count_tokens")

WAIT_S = 0.25
"""Seconds that a call waits for a count: ten times what a megabyte of prose takes. After that an upper bound has to do."""

LOAD_S = 60.0
"""Seconds that the child may take to load; it needs 0.2, and a minute is a disk that is busy."""

STUCK_S = 20.0
"""Seconds for one question after which the child is given up: the largest frames hold no text that takes longer."""

RETRY_S = 60.0
"""Seconds before another child is tried when one has failed."""

WAITING = 64
"""Questions that wait at most; one more gets no count."""

PIECE = 65_536
"""Characters that are encoded and sent at once, so that the loop turns in between."""

TEXTS = 256
"""Short texts that are sent at once."""

_O200K = re.compile(r"(?:openai/)?(?:ft:)?(?:gpt-4o|chatgpt-4o|gpt-4\.[15]|gpt-5|gpt-oss|o[134])(?![a-z\d])")
_CL100K = re.compile(r"(?:openai/)?(?:ft:)?(?:gpt-4|gpt-3\.?5)(?![a-z\d.])")
"""OpenAI's own names, also behind a router's prefix. A name that is not known has no exact count."""

_CHILD_ENV = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TZ")
"""All that the child is given: keys in the environment stay here."""

log = structlog.get_logger("tokenizer")


class _Question(Struct):
    encoding: int
    texts: Sequence[str]
    answer: asyncio.Future[int | None]


class Tokenizer:
    """Counts prompts and answers of OpenAI's models. Nothing is loaded before the first question.

    State: the child's keeper, whether the child has loaded, or is being ended; questions that wait; when another child may
    be tried.
    """

    def __init__(self, clock: Callable[[], float], command: Sequence[str] = COMMAND, wait_s: float = WAIT_S) -> None:
        """`clock` gives monotonic seconds; `command` starts the child; nobody waits longer than `wait_s` for a count."""
        self._clock = clock
        self._wait_s = wait_s
        self._command = command
        self._keeper: asyncio.Task[None] | None = None
        self._loaded = False
        self._questions: asyncio.Queue[_Question] = asyncio.Queue(WAITING)
        self._not_before = 0.0
        self._burying = False

    async def count(self, chat: Chat, model: str) -> PromptTokens | None:
        """The tokens of the prompt; None if the model is not OpenAI's, or no count is to be had now.

        Never raises, never takes longer than it may. The first question only starts the child, and gets None.
        """
        return (await self.counts(chat, [model])).get(model)

    async def counts(self, chat: Chat, models: Iterable[str]) -> dict[str, PromptTokens]:
        """The tokens that the prompt has with each of the models, as `count` gives them; those without a count are left out.

        The texts are counted once for all models of an encoding, so a plan of many targets takes as long as one of one.
        """
        found: dict[str, PromptTokens] = {}
        texts: list[str] | None = None
        for encoding, same in _by_encoding(models).items():
            texts = prompt_texts(chat) if texts is None else texts
            counted = await self._count(encoding, texts)
            if counted is not None:
                found |= {model: prompt_tokens(chat, counted, model) for model in same}
        return found

    async def count_text(self, text: str, model: str) -> int | None:
        """The tokens of an answer; None as for `count`."""
        encoding = encoding_of(model)
        return None if encoding is None else await self._count(encoding, [text])

    async def aclose(self) -> None:
        """Ends the child; who still waits gets no count."""
        self._not_before = float("inf")
        if self._keeper is not None:
            if not self._burying:
                self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _count(self, encoding: int, texts: Sequence[str]) -> int | None:
        if not self._loaded:
            self._start()
            return None
        if self._questions.full():
            return None
        loop = asyncio.get_running_loop()
        question = _Question(encoding, texts, loop.create_future())
        self._questions.put_nowait(question)
        try:
            with Limit(loop, self._wait_s):
                return await question.answer
        except TimeoutError:
            return None

    def _start(self) -> None:
        if (self._keeper is None or self._keeper.done()) and self._clock() >= self._not_before:
            self._not_before = self._clock() + RETRY_S
            self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="tokenizer")

    async def _keep(self) -> None:
        """One child from start to end, and the log about it."""
        try:
            environment = {name: os.environ[name] for name in _CHILD_ENV if name in os.environ}
            child = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
            )
        except OSError as error:
            log.warning("tokenizer_failed", why=str(error), effect="prompts are bounded by their bytes")
            return
        try:
            await self._serve(child)
        except (EOFError, OSError, TimeoutError) as error:
            why = await _last_words(child) or str(error) or type(error).__name__
            log.warning("tokenizer_failed", why=why, effect="prompts are bounded by their bytes")
        finally:
            self._loaded, self._burying = False, True
            while not self._questions.empty():
                _answer(self._questions.get_nowait(), None)
            await _bury(child)
            self._burying = False

    async def _serve(self, child: Process) -> None:
        """Hands on one question after another. Raises EOFError, OSError or TimeoutError when the child is gone or stuck."""
        assert child.stdout is not None
        began = self._clock()
        async with asyncio.timeout(LOAD_S):
            await child.stdout.readexactly(ANSWER.size)
        self._loaded = True
        log.info("tokenizer_loaded", seconds=round(self._clock() - began, 3))
        while True:
            question = await self._questions.get()
            if question.answer.done():  # its call has waited long enough, or is gone
                continue
            counted = None
            try:
                async with asyncio.timeout(STUCK_S):
                    await _send(child, question)
                    (counted,) = ANSWER.unpack(await child.stdout.readexactly(ANSWER.size))
            finally:
                _answer(question, counted)


@asynccontextmanager
async def open_tokenizer(clock: Callable[[], float], *, wanted: bool) -> AsyncIterator[Tokenizer | None]:
    """The tokenizer if it is wanted and installed; wanted in vain, the log says what to install."""
    if not wanted or not installed():
        if wanted:
            log.warning("tokenizer_missing", hint=REMEDY)
        yield None
        return
    tokenizer = Tokenizer(clock)
    try:
        yield tokenizer
    finally:
        await tokenizer.aclose()


def installed() -> bool:
    """Whether the extra `tokenizer` is there; it is not imported."""
    return find_spec("bpe_openai") is not None


def encoding_of(model: str) -> int | None:
    """The number of the encoding that a model has, by the name that its provider knows; None if it is not OpenAI's."""
    if _O200K.match(model):
        return 0
    return 1 if _CL100K.match(model) else None


def _by_encoding(models: Iterable[str]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for model in models:
        encoding = encoding_of(model)
        if encoding is not None:
            found.setdefault(encoding, set()).add(model)
    return found


def _answer(question: _Question, counted: int | None) -> None:
    if not question.answer.done():
        question.answer.set_result(counted)


async def _send(child: Process, question: _Question) -> None:
    """Writes a question, in portions that the loop does not notice."""
    assert child.stdin is not None
    waiting = bytearray(QUESTION.pack(question.encoding, len(question.texts)))
    for position, text in enumerate(question.texts, 1):
        for start in range(0, len(text), PIECE):
            piece = text[start : start + PIECE].encode(errors="replace")  # half a surrogate pair has no UTF-8
            waiting += LENGTH.pack(len(piece)) + piece
            if len(waiting) >= PIECE:
                await _flush(child.stdin, waiting)
        waiting += LENGTH.pack(0)
        if position % TEXTS == 0:
            await _flush(child.stdin, waiting)
    await _flush(child.stdin, waiting)


async def _flush(pipe: asyncio.StreamWriter, waiting: bytearray) -> None:
    pipe.write(bytes(waiting))
    waiting.clear()
    await pipe.drain()
    await asyncio.sleep(0)


async def _bury(child: Process) -> None:
    assert child.stdin is not None
    child.stdin.close()
    with suppress(ProcessLookupError):
        child.kill()
    await child.wait()


async def _last_words(child: Process) -> str:
    """The last line of what a child that is gone wrote to its standard error; nothing from one that is stuck."""
    assert child.stderr is not None
    try:
        async with asyncio.timeout(1):
            said = await child.stderr.read()
    except TimeoutError:
        return ""
    return said.decode(errors="replace").strip().rpartition("\n")[2][:300]
