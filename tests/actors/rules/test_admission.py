import pytest
from worlds import month

from actors.rules.admission import Limits, account_name, accounts_of, limit_of, refusal, scopes_of
from actors.rules.periods import Span
from protocols.budget import Account, Balance

LIMITS = Limits(
    daemon=month(1000),
    users={"ana": month(100, day=10), "*": month(50), "ana/kid": month(5)},
    apps={"editor": month(day=7)},
    providers={"openai": month(70)},
)


@pytest.mark.parametrize(
    ("user", "scopes"),
    [
        ("ana", ("daemon", "user:ana", "app:editor", "provider:openai")),
        ("ana/kid", ("daemon", "user:ana", "user:ana/kid", "app:editor", "provider:openai")),
        ("ana/kid/doll", ("daemon", "user:ana", "user:ana/kid/doll", "app:editor", "provider:openai")),
    ],
)
def test_an_attempt_counts_for_the_account_and_for_a_name_below_it(user, scopes):
    assert scopes_of(user, "editor", "openai") == scopes
    assert account_name(user) == "ana"


def test_every_scope_has_an_account_in_every_period():
    spans = (Span("month", "2027-03", 1, 100), Span("day", "2027-03-10", 50, 60))
    assert accounts_of(("daemon", "user:ana"), spans) == (
        Account("daemon", "month", "2027-03"),
        Account("daemon", "day", "2027-03-10"),
        Account("user:ana", "month", "2027-03"),
        Account("user:ana", "day", "2027-03-10"),
    )


@pytest.mark.parametrize(
    ("scope", "own", "limit"),
    [
        ("daemon", {}, month(1000)),
        ("user:ana", {}, month(100, day=10)),
        ("user:ana", {"ana": month(30)}, month(30, day=10)),
        ("user:ana", {"ana": month(300, day=3)}, month(100, day=3)),
        ("user:bob", {}, month(50)),
        ("user:bob", {"ana": month(1)}, month(50)),
        ("user:bob", {"bob": month(day=4)}, month(50, day=4)),
        ("user:ana/kid", {}, month(5)),
        ("user:bob/kid", {}, month()),
        ("app:editor", {"editor": month(1)}, month(day=7)),
        ("app:agent", {}, month()),
        ("provider:openai", {}, month(70)),
        ("provider:other", {}, month()),
    ],
)
def test_the_limit_of_a_scope_is_the_configs_and_a_user_may_lower_it(scope, own, limit):
    assert limit_of(scope, LIMITS, own) == limit


A, B = Account("daemon", "month", "2027-03"), Account("user:ana", "day", "2027-03-10")


@pytest.mark.parametrize(
    ("bound", "amount", "refused"),
    [
        ([], 10**15, None),
        ([(A, Balance(0, 0), 10)], 10, None),
        ([(A, Balance(0, 0), 10)], 11, (A, False)),
        ([(A, Balance(5, 5), 10)], 0, None),
        ([(A, Balance(5, 5), 10)], 1, (A, True)),
        ([(A, Balance(5, 0), 10)], 6, (A, False)),
        ([(A, Balance(12, 0), 10)], 0, None),
        ([(A, Balance(0, 9), 10), (B, Balance(0, 0), 3)], 2, (A, True)),
        ([(A, Balance(0, 9), 10), (B, Balance(3, 0), 3)], 2, (B, False)),
        ([(A, Balance(0, 0), 10), (B, Balance(0, 3), 3)], 2, (B, True)),
        ([(A, Balance(0, 0), 0)], 0, None),
        ([(A, Balance(0, 0), 0)], 1, (A, False)),
    ],
)
def test_what_does_not_fit_is_refused_and_first_what_never_fits(bound, amount, refused):
    found = refusal(bound, amount)
    assert (found and (found.account, found.fits_later)) == refused
