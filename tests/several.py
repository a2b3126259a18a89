"""What tests of whole tournaments share: models whose names say what they answer, providers that count as families, and a judge."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from running_daemon import Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider, model

FAMILIES = ("one", "two", "three", "four", "five")
"""Providers of the config, all served by one upstream; a model that nobody knows is of its provider's family."""
TOKEN_NANO = 100_000
"""An answer's token costs 0.0001 $ and a prompt nothing: a call's bound is its `max_tokens`."""
MAX_TOKENS, RESPONSE_TOKENS = 100, 10
BOUND, COST = MAX_TOKENS * TOKEN_NANO, RESPONSE_TOKENS * TOKEN_NANO
WITHIN_S = 1.0
"""How soon the provider of a member that is not needed any more must have lost its reader."""


def says(answer: str, **knobs: Any) -> str:
    """A model that gives this answer in the contract's form, with ten tokens."""
    return model(**({"text": f"ANSWER: {answer}", "response_tokens": RESPONSE_TOKENS} | knobs))


YES, NO = says("yes"), says("no")
PROSE = model(text="Yes, one could say so, but no is what others say.", response_tokens=RESPONSE_TOKENS)
FAILS = model(fail=400, fail_reason="invalid")
"""A refusal of the request, which opens no breaker."""
LATE_YES, LATE_NO = says("yes", latency_ms=600), says("no", latency_ms=600)
SILENT = model(latency_ms=60_000)
CHUNKS = 100
SLOW = model(chunks=CHUNKS, pace_ms=50)
"""A stream of five seconds, about a token each chunk: whoever ends it early pays for little of it."""
SHORT, LONGER, LONGEST = (model(text=text, response_tokens=RESPONSE_TOKENS) for text in ("a", "a b", "a b c"))
"""Answers without a type: the judge of these tests prefers the longest."""
MODELS = (YES, NO, PROSE, FAILS, LATE_YES, LATE_NO, SILENT, SLOW, SHORT, LONGER, LONGEST)


def config(upstream: Provider, *more: str, models: tuple[str, ...] = MODELS, limits: str = "") -> str:
    """All families; besides these `whole`, which bills a cancelled call as if it had ended, and `down`, where nobody listens."""
    sections = [limits, *(provider(name, "openai", upstream.base_url()) for name in FAMILIES)]
    sections.append(provider("whole", "openai", upstream.base_url(), billing_on_cancel="whole"))
    sections.append(provider("down", "openai", "http://127.0.0.1:9/v1"))
    paid = [f"{name}:{each}" for name in (*FAMILIES, "whole", "down") for each in models]
    return "\n".join([*sections, priced(*paid, usd_in=0.0, usd_out=TOKEN_NANO / 1_000), *more])


def asked(*members: str, **more: Any) -> dict[str, Any]:
    """A tournament of these on a yes or no."""
    who = {"members": list(members)} if members else {}
    return {"prompt": "Is it so?", "answer": "bool", "max_tokens": MAX_TOKENS} | who | more


def begin(lines: JsonLines, params: dict[str, Any], *, call_id: int = 1, **call: Any) -> None:
    """Sends the call of a tournament."""
    lines.send({"t": "call", "id": call_id, "method": "tournament", "params": params, **call})


def hear(daemon: Daemon, params: dict[str, Any], **call: Any) -> list[dict[str, Any]]:
    """All that a tournament tells, its end last."""
    with daemon.json_lines() as lines:
        begin(lines, params, **call)
        return lines.until_end_of(1)


def ask(daemon: Daemon, *members: str, deadline_s: float | None = None, **more: Any) -> dict[str, Any]:
    """The verdict. AssertionError with the fault if there is none."""
    call = {} if deadline_s is None else {"deadline_s": deadline_s}
    (end,) = hear(daemon, asked(*members, **more), **call)
    assert end["t"] == "done", end
    verdict: dict[str, Any] = end["value"]
    return verdict


def refused(daemon: Daemon, *members: str, **more: Any) -> dict[str, Any]:
    """The fault of one that is not held."""
    (end,) = hear(daemon, asked(*members, **more))
    assert end["t"] == "fault", end
    return end


def said(verdict: dict[str, Any]) -> tuple[Any, ...]:
    """Status, answer and its kind, and the flags by name."""
    return verdict["status"], verdict["answer"], verdict["answer_kind"], tuple(sorted(verdict["flags"]))


def missing(verdict: dict[str, Any]) -> dict[str, str]:
    """Who is missing, and by what code."""
    return {each["model"]: each["code"] for each in verdict["missing"]}


def balanced(daemon: Daemon) -> None:
    """Nothing is under way, nothing is held, all books agree, and every tournament has ended."""
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "no call is under way")
    daemon.balanced()
    assert daemon.database("SELECT * FROM holds WHERE state = 'held'") == []
    assert daemon.call("tournaments", state="running")["tournaments"] == []


def row(daemon: Daemon, usage_id: str) -> dict[str, Any]:
    """A usage row."""
    (found,) = daemon.database("SELECT * FROM usage WHERE id = ?", usage_id)
    return found


# ---- a judge that reads what it is shown

Reply = Callable[[list[str], int], str | None]
"""What a judge replies to the answers that it is shown, in their order, at its call number n; None: a server error."""


def better(answers: list[str], _: int) -> str:
    """The longer of two answers; of more, which are equal; as an aggregator, all of them in a row."""
    if len(answers) == 2:
        return f"ANSWER: {'A' if len(answers[0]) > len(answers[1]) else 'B'}"
    return f"ANSWER: {json.dumps(groups(answers))}"


def groups(answers: list[str]) -> list[list[int]]:
    """The numbers of equal answers, from 1 on."""
    return [[n for n, other in enumerate(answers, 1) if other == each] for each in dict.fromkeys(answers)]


@contextmanager
def judge(reply: Reply = better) -> Iterator[tuple[str, list[str]]]:
    """The base URL of a provider (dialect openai) whose models read the answers that they are asked about, and the prompts it was sent."""
    prompts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b'{"object":"list","data":[{"id":"judge"}]}', "application/json")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompts.append(body["messages"][-1]["content"])
            text = reply(re.findall(r"<answer-\w+-\w+>\n(.*?)\n</answer-", prompts[-1], re.DOTALL), len(prompts))
            if text is None:
                self._answer(b'{"error":{"message":"out of order"}}', "application/json", 500)
                return
            usage = {"prompt_tokens": 5, "completion_tokens": RESPONSE_TOKENS, "total_tokens": 15}
            parts = [
                {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [], "usage": usage},
            ]
            events = [json.dumps({"id": "1", "object": "chat.completion.chunk"} | part) for part in parts]
            self._answer("".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode(), "text/event-stream")

        def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", prompts
        finally:
            server.shutdown()
