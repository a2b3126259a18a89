"""The tree of faults: a class a code, a code a class, and the way back from the wire."""

from __future__ import annotations

import pytest

from protocols import errors
from protocols.errors import BY_CODE, Busy, Internal, QuorumError, from_wire

CODES = [
    "bad_request",
    "unknown_method",
    "unknown_model",
    "unknown_provider",
    "no_eligible_model",
    "forbidden",
    "not_found",
    "budget_exceeded",
    "budget_held",
    "override_required",
    "override_invalid",
    "price_unknown",
    "provider_error",
    "provider_unavailable",
    "rate_limited",
    "misconfigured",
    "context_too_long",
    "refused",
    "deadline",
    "cancelled",
    "truncated",
    "busy",
    "shutting_down",
    "ledger_readonly",
    "idempotency_conflict",
    "too_large",
    "protocol",
    "internal",
]


def test_the_codes_are_those_of_the_interface():
    assert sorted(BY_CODE) == sorted(CODES)


def test_every_class_has_a_code_of_its_own():
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, QuorumError)]
    assert len({cls.code for cls in classes if cls is not QuorumError}) == len(classes) - 1


@pytest.mark.parametrize("code", CODES)
def test_a_fault_comes_back_from_the_wire_as_it_went(code):
    fault = from_wire(code, "what to do", {"limit": 1}, 2.5)
    assert type(fault) is BY_CODE[code]
    assert (fault.code, fault.message, fault.detail, fault.retry_after_s) == (code, "what to do", {"limit": 1}, 2.5)
    assert str(fault) == "what to do"


def test_a_code_of_a_newer_daemon_is_internal_and_keeps_its_message():
    fault = from_wire("too_lazy", "not today", None, None)
    assert (type(fault), fault.message, fault.detail, fault.retry_after_s) == (Internal, "not today", {}, None)


def test_repr_tells_the_class_the_code_and_the_message():
    assert repr(Busy("come back later")) == "<Busy busy: come back later>"
