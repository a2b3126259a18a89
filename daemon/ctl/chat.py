"""`chat`: one completion, streamed as it comes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from daemon.ctl.command import OK, UNCONFIRMED, Command, UsageError
from daemon.ctl.output import count, milliseconds, money, print_json, safe, say
from protocols.errors import OverrideRequired

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from daemon.ctl.command import Connect
    from protocols.chat import ChatAnswer
    from protocols.client import BlockingClient

    Local = Callable[[str], tuple[str, dict[str, Any]]]
    """Makes of the free model what the choice of it is called, and the params that change with it."""

PARAMS = {
    "model": "model",
    "provider": "provider",
    "hint": "hint",
    "language_hint": "language_hint",
    "user": "user",
    "task": "task_type",
    "tier": "quality_tier",
    "max_tokens": "max_tokens",
    "admission": "admission",
}
"""Options and the params they become; only those given are sent."""

SIMULATED = "simulated: no model was asked, this answer is made up"


def question_options(parser: ArgumentParser) -> None:
    """The options of a question, for `chat` and `explain`."""
    parser.add_argument("-m", "--model", metavar="MODEL", help="the model, such as openai:gpt-4o-mini")
    parser.add_argument("--provider", metavar="P", help="the provider; its model is then yours or its first")
    parser.add_argument("--hint", metavar="H", help="a language, a provider or both, such as en-claude")
    parser.add_argument(
        "--language-hint", action="store_const", const=True, help="have the answer in the language of the hint"
    )
    parser.add_argument("--user", metavar="U", help="on behalf of this user")
    parser.add_argument("--task", metavar="T", help="the kind of task, such as theme_analysis")
    parser.add_argument("--tier", choices=("budget", "balanced", "premium"), help="how good it must be")
    parser.add_argument("--max-tokens", metavar="N", type=int, help="the longest answer, in tokens")
    parser.add_argument(
        "--admission",
        choices=("strict", "queue", "soft"),
        help="while other calls hold the rest of a budget: refuse, wait, or run if less than the budget is spent",
    )
    parser.add_argument("--system", metavar="S", help="a system message before the prompt")
    prompt_option(parser)


def question(arguments: Namespace, command: str = "chat", instead: str = "") -> tuple[list[Any], dict[str, Any]]:
    """The messages of a question, and its other params. Raises UsageError when there is none, with what the command takes `instead`."""
    prompt = typed_prompt(arguments, command, instead)
    f"{arguments.system}".encode()  # raises UnicodeError, see `typed_prompt`
    messages = [{"role": "user", "content": prompt}]
    if arguments.system:
        messages.insert(0, {"role": "system", "content": arguments.system})
    given = {param: getattr(arguments, option) for option, param in PARAMS.items()}
    return messages, {param: value for param, value in given.items() if value is not None}


def typed_prompt(arguments: Namespace, command: str = "chat", instead: str = "") -> str:
    """The prompt, typed or from stdin. Raises UsageError when there is none, UnicodeError for bytes that are not UTF-8."""
    prompt = " ".join(arguments.prompt)
    if prompt in ("", "-"):
        prompt = _from_stdin()
    if not prompt.strip():
        raise UsageError(
            f'the prompt is empty; give it as arguments, `daemonctl {command} "Say hello"`, or on stdin{instead}'
        )
    prompt.encode()
    return prompt


def prompt_option(parser: ArgumentParser) -> None:
    """The words of a prompt."""
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", help="the prompt; without one, or with `-`, from stdin")


def chat_options(parser: ArgumentParser) -> None:
    """The options of `chat`."""
    question_options(parser)
    parser.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    parser.add_argument("--idempotency-key", metavar="K", help="the same question under the same key is sent once")
    parser.add_argument("--yes", action="store_true", help="run it even if your budget is used up")


def run(arguments: Namespace, connect: Connect) -> int:
    """Asks and prints; a budget that is used up is confirmed first, on a terminal or with `--yes`."""
    messages, wishes = question(arguments)
    if arguments.idempotency_key is not None:
        wishes["idempotency_key"] = arguments.idempotency_key
    show = _show_json if arguments.json else _show_whole if arguments.no_stream else _show_pieces
    with connect() as quorum:
        return confirmed(arguments, lambda **change: show(quorum, messages, _with(wishes, change)), _local_model)


def _from_stdin() -> str:
    if sys.stdin.isatty():
        say("Type the prompt, then Ctrl-D on a line of its own.", dim=True)
    return sys.stdin.read()


def _with(wishes: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {param: value for param, value in {**wishes, **change}.items() if value is not None}


def _local_model(alternative: str) -> tuple[str, dict[str, Any]]:
    return alternative, {
        "model": alternative,
        "provider": None,
        "hint": None,
    }  # which may name the one that costs money


def confirmed(arguments: Namespace, ask: Callable[..., int], local: Local) -> int:
    """Asks; once more as the user wants if the budget is used up. Raises OverrideRequired when nobody can be asked.

    `ask` takes the params that change and returns the exit code.
    """
    try:
        return ask()
    except OverrideRequired as fault:
        if arguments.yes:
            choice = "y"
        elif arguments.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        else:
            choice = _choice(fault, local)
        match choice, fault.detail.get("alternative"):
            case "y" | "yes", _:
                return ask(override_token=fault.detail["override_token"])
            case "l" | "local", str(alternative):
                return ask(**local(alternative)[1])
            case _:
                return UNCONFIRMED


def _choice(fault: OverrideRequired, local: Local) -> str:
    """What the user wants instead; the daemon's message says what it would cost."""
    say(fault.message)
    if alternative := fault.detail.get("alternative"):
        say(f"y: continue, l: {local(alternative)[0]} instead, N: neither [y/l/N] ", end="")
    else:
        say("y: continue, N: stop [y/N] ", end="")
    typed = sys.stdin.readline()
    if not typed.endswith("\n"):  # Ctrl-D leaves the cursor where it is
        say("")
    return typed.strip().lower()


def _show_json(quorum: BlockingClient, messages: list[Any], wishes: dict[str, Any]) -> int:
    answer = quorum.call("chat", messages=messages, **wishes)
    print_json(answer)
    if answer["simulated"]:
        say(SIMULATED)
    return OK


def _show_whole(quorum: BlockingClient, messages: list[Any], wishes: dict[str, Any]) -> int:
    answer = quorum.chat(messages, **wishes)
    write(answer.text)
    return _finish(answer, answer.text)


def _show_pieces(quorum: BlockingClient, messages: list[Any], wishes: dict[str, Any]) -> int:
    from protocols.chat import Delta  # msgspec's 20 ms are not for `--help`

    pieces = quorum.stream(messages, **wishes)
    text = ""
    for piece in pieces:
        match piece:
            case Delta(text=text):
                write(text)
    return _finish(pieces.answer, text)


def write(text: str) -> None:
    """Prints what a model wrote: on a terminal without what would command it; into a pipe or file as the model wrote it."""
    sys.stdout.write(safe(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _finish(answer: ChatAnswer, text: str) -> int:
    """Ends the last line, and says on stderr how the answer came about."""
    if not text.endswith("\n"):
        write("\n")
    for warning in answer.warnings:
        if warning.code != "simulated":  # said below in any case
            say(f"daemonctl: {warning.message}")
    if answer.simulated:
        say(SIMULATED)
    if sys.stderr.isatty():
        say(_how(answer), dim=True)
    return OK


def _how(answer: ChatAnswer) -> str:
    usage = answer.usage
    tokens = f"{count(usage.prompt_tokens)} + {count(usage.response_tokens)} tokens"
    simulated = "simulated · " if answer.simulated else ""
    cost, latency = money(answer.cost_nano_usd), milliseconds(answer.latency_ms)
    return f"{simulated}{answer.model_used} · {tokens} · {cost} · {latency} · {answer.call_id}"


CHAT = Command(
    run,
    chat_options,
    (
        'chat "Say hello"',
        "chat -m ollama:llama3.2 --max-tokens 200 Tell me a story",
        "chat --system 'Answer in French' < question.txt",
    ),
)
