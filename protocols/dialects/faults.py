"""What a provider's error means: status, body and headers -> QuorumError. Shared by the dialects.

The rules are a written list, the first that matches wins; vendors differ in codes, so each rule knows all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec
from msgspec import Struct

from protocols.dialects.reading import UNREADABLE
from protocols.errors import (
    BadRequest,
    ContextTooLong,
    Misconfigured,
    ProviderFailed,
    QuorumError,
    RateLimited,
    Refused,
    UnknownModel,
)

QUOTED_CHARACTERS = 300
OK = 200


class ErrorBody(Struct):
    """An error object as most vendors shape it."""

    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _Detail(Struct):
    """One complaint of a validating server; its `input` is left out, for it may be the prompt."""

    msg: str | None = None


class _Envelope(Struct):
    error: ErrorBody | str | None = None
    message: str | None = None
    detail: str | list[_Detail] | None = None
    type: str | None = None
    code: str | int | None = None


_ENVELOPE: msgspec.json.Decoder[_Envelope | list[_Envelope]] = msgspec.json.Decoder(_Envelope | list[_Envelope])


class Problem(Struct, frozen=True):
    """A provider's error: its sentence, safe to show, and its codes."""

    message: str
    codes: frozenset[str]

    @property
    def label(self) -> str:
        """Its codes as far as they are identifiers, which can't quote anything."""
        return ", ".join(sorted(code for code in self.codes if re.fullmatch(r"\w{1,40}", code)))


class Meaning(Struct, frozen=True):
    """A class of fault with its sentence, in which {model}, {status} and {quote} are filled in."""

    fault: type[QuorumError]
    sentence: str


class _Rule(Struct, frozen=True):
    """Matches by one of the codes, or by words of the message, within some statuses."""

    meaning: Meaning
    statuses: range = range(400, 600)
    codes: frozenset[str] = frozenset()
    words: re.Pattern[str] | None = None
    any_body: bool = False

    def matches(self, status: int, problem: Problem) -> bool:
        if status not in self.statuses:
            return False
        said = self.words is not None and self.words.search(problem.message)
        return self.any_body or bool(said) or not self.codes.isdisjoint(problem.codes)


KEY = Meaning(Misconfigured, "the provider refuses the key; check `api_key` of this provider in the config{quote}")
ADDRESS = Meaning(Misconfigured, "the provider has nothing at this address; check `base_url` in the config ({status})")
CREDIT = Meaning(ProviderFailed, "the account at the provider has no credit; add some there or use another provider")
RATE = Meaning(RateLimited, "the provider's rate limit is reached; wait, or use another model{quote}")
MODEL = Meaning(UnknownModel, "model `{model}` is not offered by the provider; `daemonctl models` lists what is")
CONTEXT = Meaning(
    ContextTooLong, "the request does not fit the context of model `{model}`; shorten it or use a larger model{quote}"
)
POLICY = Meaning(Refused, "the provider refuses this content by its policy; rephrase it or use another model{quote}")
BAD = Meaning(BadRequest, "the provider rejects the request; change it as it says{quote}")
OVERLOADED = Meaning(ProviderFailed, "the provider is overloaded; try again later, or use another one{quote}")
FAILED = Meaning(ProviderFailed, "the provider failed ({status}); try again later, or use another one{quote}")


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_RULES = (
    _Rule(KEY, range(401, 402), any_body=True),
    _Rule(CREDIT, range(402, 403), any_body=True),
    _Rule(
        CREDIT,
        range(400, 500),
        frozenset({"insufficient_quota", "billing_error", "billing_hard_limit_reached", "billing_not_active"}),
        _words(r"credit balance is too low|insufficient (?:balance|credits?)\b"),
    ),
    _Rule(RATE, range(429, 430), any_body=True),
    _Rule(CONTEXT, range(413, 414), any_body=True),
    _Rule(  # llama.cpp says it with a 500
        CONTEXT,
        codes=frozenset({"context_length_exceeded", "exceed_context_size_error", "request_too_large"}),
        words=_words(
            r"(?:prompt|input|request) is too long|context (?:length|window)|exceeds? (?:the )?(?:available )?context"
            r"|reduce the length of the messages"
        ),
    ),
    _Rule(
        POLICY,
        range(400, 500),
        frozenset({"content_policy_violation", "content_filter", "moderation_blocked", "invalid_prompt"}),
        _words(r"content (?:\w+ )?policy|usage policy|was flagged|violat\w+ (?:our|the) \w+ polic"),
    ),
    _Rule(
        MODEL,
        range(400, 500),
        frozenset({"model_not_found", "DeploymentNotFound"}),
        _words(
            r"not a valid model|(?:invalid|unknown|no such) model\b|\bmodel\b.{0,120}(?:not found|not exist)"
            r"|\bmodel: \S+$"  # Anthropic's whole sentence
        ),
    ),
    _Rule(KEY, range(403, 404), any_body=True),
    _Rule(MODEL, range(404, 405), words=_words(r"\S")),  # an API answered, and the model is all that it looks up
    _Rule(ADDRESS, range(404, 406), any_body=True),
    _Rule(FAILED, range(408, 410), any_body=True),
    _Rule(FAILED, range(425, 426), any_body=True),
    _Rule(BAD, range(400, 500), any_body=True),
    _Rule(OVERLOADED, range(503, 504), any_body=True),
    _Rule(OVERLOADED, range(529, 530), any_body=True),
)

_STATUS_OF_CODE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def problem_of(error: ErrorBody | str) -> Problem:
    """An error object of a body or of a stream."""
    if isinstance(error, str):
        return Problem(shown(error), frozenset())
    return Problem(shown(error.message or ""), frozenset(str(code) for code in (error.code, error.type) if code))


def read_problem(body: bytes) -> Problem:
    """The error in a body; an empty one where the body has no known shape: quoting that could quote anything."""
    try:
        found = _ENVELOPE.decode(body)
    except UNREADABLE:
        return Problem("", frozenset())
    first = (found[0] if found else _Envelope()) if isinstance(found, list) else found
    return problem_of(first.error or ErrorBody(_complaint(first), first.type, first.code))


def _complaint(envelope: _Envelope) -> str | None:
    if isinstance(envelope.detail, list):
        return "; ".join(each.msg for each in envelope.detail if each.msg)
    return envelope.message or envelope.detail


def fault(
    status: int, body: bytes, headers: Mapping[str, str], model: str, unknown_model: Meaning = MODEL
) -> QuorumError:
    """What an answer with a status of 400 or more means. `unknown_model` says it in the dialect's own words."""
    problem = read_problem(body)
    meaning = _meaning(status, problem)
    made = _made(unknown_model if meaning is MODEL else meaning, problem, status, model)
    made.detail["status"] = status
    if issubclass(meaning.fault, RateLimited | ProviderFailed):
        made.retry_after_s = retry_after_s(headers, limited=meaning is RATE)
    return made


def stream_fault(problem: Problem) -> QuorumError:
    """What an error inside a stream means: it has no status of its own, its codes tell it, else it is a failure."""
    stated = (int(code) for code in problem.codes if re.fullmatch(r"[45]\d\d", code))
    known = (_STATUS_OF_CODE[code] for code in sorted(problem.codes) if code in _STATUS_OF_CODE)
    status = next(known, None) or next(stated, 500)
    return _made(_meaning(status, problem), problem, status, "")


def _meaning(status: int, problem: Problem) -> Meaning:
    return next((rule.meaning for rule in _RULES if rule.matches(status, problem)), FAILED)


def _made(meaning: Meaning, problem: Problem, status: int, model: str) -> QuorumError:
    quote = f": {problem.message}" if problem.message else ""
    sentence = meaning.sentence.format(model=model or "of this call", status=status, quote=quote)
    return meaning.fault(sentence, detail={"provider_message": problem.message} if problem.message else None)


_SECRETS = re.compile(
    r"""\b(?:bearer|basic)\s+\S+
    |\b(?:sk|pk|rk|gsk|xai|hf|r8|fw|nvapi|pplx|csk|tgp|ghp)[-_][\w*.-]{6,}
    |\bAIza[\w*-]{10,}
    |(?<=key\ provided:\ )\S+
    |(?<![\w+/-])(?=[\w+/-]*\d)(?=[\w+/-]*[A-Za-z])[\w+/-]{32,}={0,2}""",
    re.IGNORECASE | re.VERBOSE,
)


def shown(text: str) -> str:
    """A provider's sentence without keys, control characters and all but its first 300 characters."""
    # Cut first, generously: the patterns need not read megabytes, and a key across the second cut is gone already.
    plain = " ".join("".join(c if c.isprintable() else " " for c in text[: 8 * QUOTED_CHARACTERS]).split())
    clean = _SECRETS.sub("[removed]", plain)
    return clean if len(clean) <= QUOTED_CHARACTERS else clean[: QUOTED_CHARACTERS - 1] + "…"


_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|h|m|s)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def retry_after_s(headers: Mapping[str, str], *, limited: bool) -> float | None:
    """Seconds until a repeat makes sense; for a rate limit the resets of OpenAI's counters are the last resort."""
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    if _SECONDS.fullmatch(milliseconds := lower.get("retry-after-ms", "")):
        return float(milliseconds) / 1000
    if _SECONDS.fullmatch(after := lower.get("retry-after", "")):
        return float(after)
    if after and (until := _seconds_between(lower.get("date", ""), after)) is not None:
        return until
    return _reset_s(lower) if limited else None


def _seconds_between(now: str, then: str) -> float | None:
    """Between two HTTP dates, at least 0. The answer's own Date is the clock, so that no clock is needed here."""
    try:
        return max(0.0, (parsedate_to_datetime(then) - parsedate_to_datetime(now)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no dates, or one with and one without a zone
        return None


def _reset_s(lower: Mapping[str, str]) -> float | None:
    """When the counter that is used up is full again; when none says so, the later of both."""
    resets = {kind: _duration_s(lower.get(f"x-ratelimit-reset-{kind}", "")) for kind in ("requests", "tokens")}
    known = {kind: reset for kind, reset in resets.items() if reset is not None}
    used_up = [reset for kind, reset in known.items() if lower.get(f"x-ratelimit-remaining-{kind}") == "0"]
    return max(used_up or known.values(), default=None)


def _duration_s(text: str) -> float | None:
    """`6m0s`, `1.5s`, `20ms` in seconds; None for anything else."""
    if not text or _DURATION.sub("", text):
        return None
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in _DURATION.findall(text))
