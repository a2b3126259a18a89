"""What goes over the connection, decided before the first byte: a pure function of answer, dialect and behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from actors.providers.simulated.dialect import JSON, Dialect

if TYPE_CHECKING:
    from actors.providers.simulated.answers import Answer, Asked
    from actors.providers.simulated.behaviour import Behaviour
    from actors.providers.simulated.failures import Failure

After = Literal["next", "close", "reset", "hang"]
SLOW_PIECES = 10
GARBAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
END = b"0\r\n\r\n"
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    529: "Site Overloaded",
}


class Plan(Struct):
    """Bytes and times in seconds: `head` after `delay`, the first chunk after `first`, one more every `pace`, then `end`."""

    status: int
    head: bytes
    delay: float = 0
    first: float = 0
    pace: float = 0
    chunks: list[bytes] = []
    end: bytes = b""
    after: After = "next"
    stamped: bool = False
    outcome: str = "completed"
    """When all is sent; what hangs has none until the client goes."""


def whole(body: bytes, status: int = 200, content_type: str = JSON, headers: dict[str, str] | None = None) -> Plan:
    """A body sent in one piece."""
    return Plan(status=status, head=_head(status, content_type, headers or {}, len(body)) + body)


def failed(failure: Failure, dialect: Dialect, behaviour: Behaviour) -> Plan:
    """An error as the dialect says it."""
    headers = dict(behaviour.headers)
    if failure.retry_after_s is not None:
        headers["retry-after"] = f"{failure.retry_after_s:g}"
    plan = whole(dialect.error(failure), failure.status, headers=headers)
    plan.delay = behaviour.delays_s()[0]
    return plan


def answered(answer: Answer, asked: Asked, dialect: Dialect, behaviour: Behaviour) -> Plan:
    """An answer with status 200, and what may go wrong with it."""
    if asked.stream:
        return _streamed(answer, asked, dialect, behaviour)
    _, first, pace = behaviour.delays_s()
    return in_one(dialect.whole(answer), first + pace * max(0, len(answer.pieces) - 1), behaviour)


def _streamed(answer: Answer, asked: Asked, dialect: Dialect, behaviour: Behaviour) -> Plan:
    delay, first, pace = behaviour.delays_s()
    if behaviour.close_before_head:
        return _closed(delay)
    head = _head(200, dialect.stream_type, behaviour.headers, None)
    if behaviour.garbage:
        return Plan(status=200, head=head + _framed(GARBAGE) + END, delay=delay, outcome="garbage")
    script = dialect.script(answer, asked)
    chunks = [_framed(chunk) for chunk in script.chunks]
    plan = Plan(
        status=200,
        head=head + b"".join(_framed(chunk) for chunk in script.opening),
        delay=delay,
        first=first,
        pace=pace,
        chunks=chunks,
        end=b"".join(_framed(chunk) for chunk in script.closing) + END,
        stamped=behaviour.stamps,
    )
    stop = behaviour.stop()
    if stop is not None:
        at, how = stop
        plan.chunks = chunks[:at]
        plan.end = {"error": _framed(script.error) + END, "end_early": END}.get(how, b"")
        _stop(plan, how)
    return plan


def in_one(body: bytes, took: float, behaviour: Behaviour) -> Plan:
    """A body in one piece, and what may go wrong with it; it took `took` seconds besides the behaviour's latency."""
    delay = behaviour.delays_s()[0] + took
    if behaviour.close_before_head:
        return _closed(delay)
    if behaviour.garbage:
        plan = whole(GARBAGE, headers=behaviour.headers)
        plan.delay, plan.outcome = delay, "garbage"
        return plan
    stop = behaviour.stop()
    sent = body if stop is None or stop[1] == "error" else body[: len(body) // 2]
    declared = len(sent) if stop is not None and stop[1] == "end_early" else len(body)
    plan = Plan(status=200, head=_head(200, JSON, behaviour.headers, declared), delay=delay)
    if behaviour.slow_body_ms:
        size = -(-len(sent) // SLOW_PIECES)
        plan.chunks = [sent[at : at + size] for at in range(0, len(sent), size)]
        plan.first = plan.pace = behaviour.slow_body_ms / 1000 / SLOW_PIECES
    else:
        plan.head += sent
    if stop is not None and stop[1] != "error":
        _stop(plan, stop[1])
    return plan


def _closed(delay: float) -> Plan:
    return Plan(status=0, head=b"", delay=delay, after="close", outcome="closed_before_head")


def _stop(plan: Plan, how: str) -> None:
    after: dict[str, After] = {"break": "reset", "hang": "hang"}
    plan.after = after.get(how, "next")
    plan.outcome = {"break": "broken", "end_early": "ended_early", "error": "error_in_stream"}.get(how, "")


def _head(status: int, content_type: str, headers: dict[str, str], length: int | None) -> bytes:
    """A response's head; without a length its body is chunked."""
    body = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reason = REASONS.get(status, "Unknown")
    return f"HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\n{body}\r\n{extra}\r\n".encode()


def _framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
