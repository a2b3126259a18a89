import msgspec
import pytest

from actors.clock import MICRO, parse_rfc3339
from actors.rules.idempotency import AttemptLeft, is_over, items_of, left_by_a_crash
from protocols.chat import Delta, Reasoning, ToolCallDelta

AT = parse_rfc3339("2027-03-10T12:00:00Z")


def left(*statuses):
    return left_by_a_crash([AttemptLeft(f"u{n}", status) for n, status in enumerate(statuses)])


@pytest.mark.parametrize("statuses", [(), ("not_sent",), ("not_sent", "not_sent")])
def test_a_call_that_sent_nothing_leaves_its_key_free(statuses):
    assert left(*statuses) is None


@pytest.mark.parametrize("statuses", [("held",), ("provider_error", "held"), ("not_sent", "held"), ("held", "ok")])
def test_an_open_hold_is_waited_for(statuses):
    fault = left(*statuses)
    assert (fault.code, fault.retry_after_s) == ("busy", 1.0)


@pytest.mark.parametrize(
    ("statuses", "usage_id"),
    [
        (("unknown",), "u0"),
        (("not_sent", "unknown"), "u1"),
        (("unknown", "not_sent"), "u0"),
        (("provider_error", "cancelled"), "u1"),
        (("truncated",), "u0"),
    ],
)
def test_what_was_sent_is_never_sent_again_and_its_outcome_is_unknown(statuses, usage_id):
    fault = left(*statuses)
    assert (fault.code, fault.detail) == ("provider_error", {"usage_id": usage_id})
    assert "unknown" in fault.message
    assert usage_id in fault.message


@pytest.mark.parametrize("statuses", [("ok",), ("ok", "not_sent"), ("ok", "unknown")])
def test_an_answer_that_was_lost_is_told_as_lost_and_paid(statuses):
    fault = left(*statuses)
    assert (fault.code, fault.detail) == ("provider_error", {"usage_id": "u0"})
    assert "paid" in fault.message
    assert "lost" in fault.message


def test_an_outcome_is_kept_for_24_hours_and_longer_when_the_clock_is_set_back():
    day = 24 * 3600 * MICRO
    assert not is_over(AT, AT + day - 1)
    assert is_over(AT, AT + day)
    assert not is_over(AT, AT - 30 * day)


def document(**message):
    return msgspec.Raw(msgspec.json.encode({"text": message.get("content") or "", "message": message, "usage": {}}))


def test_an_answer_is_told_again_as_reasoning_text_and_tool_calls():
    calls = [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}]
    told = list(items_of(document(content="Hello", reasoning="hm", tool_calls=calls)))
    assert told == [Reasoning("hm"), Delta("Hello"), ToolCallDelta(0, "c1", "find", '{"a": 1}')]


def test_an_answer_without_a_word_is_told_as_nothing():
    assert list(items_of(document(content=None, role="assistant"))) == []
