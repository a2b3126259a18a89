"""The child process that counts tokens: `python -m actors.count_tokens`, questions on its input, counts on its output.

A question is QUESTION, then for each text its UTF-8 in pieces, each behind its LENGTH, up to a piece of no bytes. The
answer is an ANSWER. The first one, 0 and unasked, says that the tokenizer is loaded. The end of the input ends the child.
"""

from __future__ import annotations

import signal
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from struct import Struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ENCODINGS = ("o200k_base", "cl100k_base")
"""By their numbers in a question; the first is loaded at the start, others when they are asked for."""

QUESTION = Struct("<BI")
"""The number of the encoding, the number of texts."""

LENGTH = Struct("<I")
ANSWER = Struct("<I")


def main() -> None:
    """Answers until the input ends; ends with an error when it breaks off inside a question."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # they mean the daemon, which may still count while it drains
    read, write = sys.stdin.buffer.read, sys.stdout.buffer
    tokenizer_for = _bindings().tokenizer_for_encoding
    tokenizers = {0: tokenizer_for(ENCODINGS[0])}
    tokenizers[0].count("warm")
    answer = 0
    while True:
        write.write(ANSWER.pack(answer))
        write.flush()
        head = read(QUESTION.size)
        if not head:
            return
        encoding, texts = QUESTION.unpack(head)
        if encoding not in tokenizers:
            tokenizers[encoding] = tokenizer_for(ENCODINGS[encoding])
        answer = sum(tokenizers[encoding].count(_text(read)) for _ in range(texts))


def _bindings() -> Any:
    """The compiled half of bpe-openai alone: what the other half builds for encoding takes 65 MB and 0.4 s, and is not asked."""
    package = find_spec("bpe_openai")
    if package is None:
        raise SystemExit("bpe-openai is not installed")
    spec = PathFinder.find_spec("bpe_openai._bindings", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise SystemExit("bpe-openai has no bindings for this machine")
    bindings = module_from_spec(spec)
    spec.loader.exec_module(bindings)
    return bindings


def _text(read: Callable[[int], bytes]) -> str:
    pieces = []
    while size := LENGTH.unpack(read(LENGTH.size))[0]:
        pieces.append(read(size))
    return b"".join(pieces).decode()


if __name__ == "__main__":
    main()
