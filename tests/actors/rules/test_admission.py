import pytest
from worlds import month

from actors.rules.admission import (
    Admitted,
    Allowance,
    Bound,
    Limit,
    Limits,
    Own,
    account_name,
    accounts_of,
    bounds_of,
    decide,
    has_room,
    limit_of,
    percent_used,
    scopes_of,
)
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
        ("daemon", month(), month(1000)),
        ("user:ana", month(), month(100, day=10)),
        ("user:ana", month(30), month(30, day=10)),
        ("user:ana", month(300, day=3), month(100, day=3)),
        ("user:bob", month(), month(50)),
        ("user:bob", month(day=4), month(50, day=4)),
        ("user:ana/kid", month(), month(5)),
        ("user:bob/kid", month(), month()),
        ("app:editor", month(1), month(day=7)),
        ("app:agent", month(), month()),
        ("provider:openai", month(), month(70)),
        ("provider:other", month(), month()),
    ],
)
def test_the_limit_of_a_scope_is_the_configs_and_a_user_may_lower_it(scope, own, limit):
    assert limit_of(scope, LIMITS, Own(own)) == limit


SOFT, HARD = "budget", "hard"


@pytest.mark.parametrize(
    ("scope", "configured", "own", "bounds"),
    [
        ("user:ana", Limit(10), None, [(10, SOFT)]),
        ("user:ana", Limit(10), 7, [(7, SOFT)]),
        ("user:ana", Limit(10), 12, [(10, SOFT)]),
        ("user:ana", Limit(10, hard=True), None, [(10, HARD)]),
        ("user:ana", Limit(10, hard=True), 7, [(10, HARD), (7, SOFT)]),
        ("user:ana", Limit(10, hard=True), 10, [(10, HARD)]),
        ("user:ana", None, 7, [(7, SOFT)]),
        ("user:ana", None, None, []),
        ("app:x", Limit(10), 7, [(10, HARD)]),
        ("provider:x", Limit(10), 7, [(10, HARD)]),
    ],
)
def test_a_users_limit_is_a_budget_unless_it_is_hard_and_all_others_are_hard(scope, configured, own, bounds):
    kind, _, name = scope.partition(":")
    named = {} if configured is None else {name: configured}
    limits = Limits(**{f"{kind}s": named})
    account = Account(scope, "month", "2027-03")
    found = bounds_of(account, Balance(), limits, Own(Limit(own), enforced=False, may_override=True))
    assert [(b.limit, HARD if b.hard else SOFT) for b in found] == bounds
    assert all(b.hard or (not b.enforced and b.may_override) for b in found)


DAEMON, ANA = Account("daemon", "month", "2027-03"), Account("user:ana", "month", "2027-03")


def hard(spent, held, limit, waiting=0):
    return Bound(DAEMON, Balance(spent, held, waiting), limit)


def budget(spent, held, limit, waiting=0, **said):
    return Bound(ANA, Balance(spent, held, waiting), limit, hard=False, **({"may_override": True} | said))


CASES = [
    # free passes everything
    ([hard(12, 0, 10)], 0, {}, ()),
    ([budget(12, 0, 10)], 0, {}, ()),
    # below every limit
    ([], 10**15, {}, ()),
    ([hard(5, 5, 15), budget(5, 5, 15)], 5, {}, ()),
    # hard limits come first, whatever the user says
    ([hard(5, 0, 10)], 6, {}, "hard"),
    ([budget(0, 0, 1), hard(5, 0, 10)], 6, {}, "hard"),
    ([hard(5, 0, 10)], 6, {"soft": True, "confirmed": True}, "hard"),
    ([hard(5, 0, 10), budget(0, 0, 1, enforced=False)], 6, {}, "hard"),
    ([hard(0, 0, 0)], 1, {}, "hard"),
    # what would fit once holds settle
    ([hard(0, 9, 10)], 2, {}, "held"),
    ([budget(0, 9, 10)], 2, {}, "held"),
    ([hard(0, 9, 10)], 2, {"soft": True}, "held"),
    # the user's budget comes before holds
    ([hard(0, 9, 10), budget(3, 0, 4)], 2, {}, "budget"),
    ([hard(0, 9, 10), budget(3, 0, 4)], 2, {"confirmed": True}, "held"),
    ([hard(0, 9, 10), budget(3, 0, 4, enforced=False)], 2, {}, "held"),
    ([hard(0, 9, 10), budget(3, 0, 4)], 2, {"soft": True}, "held"),
    # the user's budget, and what passes it
    ([budget(9, 0, 10)], 2, {}, "budget"),
    ([budget(9, 0, 10, enforced=False)], 2, {}, ("unenforced",)),
    ([budget(9, 0, 10)], 2, {"soft": True}, ("soft",)),
    ([budget(0, 10, 10)], 2, {"soft": True}, ("soft",)),
    ([budget(10, 0, 10)], 2, {"soft": True}, "budget"),
    ([budget(9, 0, 10)], 2, {"confirmed": True}, ("override",)),
    ([hard(0, 0, 99), budget(9, 0, 10)], 2, {"confirmed": True}, ("override",)),
    # who waits has been here before
    ([hard(0, 5, 10, waiting=4)], 1, {}, ()),
    ([hard(0, 5, 10, waiting=4)], 2, {}, "held"),
    ([hard(0, 5, 10, waiting=4)], 2, {"not_ahead": 4}, ()),
    ([hard(0, 5, 10, waiting=6)], 2, {"not_ahead": 2}, "held"),
    ([hard(0, 5, 10, waiting=6)], 2, {"not_ahead": None}, ()),
]


@pytest.mark.parametrize(("bounds", "amount", "said", "outcome"), CASES)
def test_an_attempt_is_admitted_with_its_marks_or_refused_for_the_first_reason(bounds, amount, said, outcome):
    found = decide(bounds, amount, **said)
    assert (found.marks if isinstance(found, Admitted) else found.kind) == outcome


@pytest.mark.parametrize(("bounds", "amount", "said", "outcome"), CASES)
def test_what_has_room_is_what_is_admitted_without_a_mark(bounds, amount, said, outcome):
    if not said:
        assert has_room(bounds, amount) == (outcome == ())


def test_a_refusal_says_what_would_fit_with_nothing_held():
    refused = decide([hard(5, 2, 20), budget(7, 1, 10), budget(0, 0, 1, enforced=False)], 4)
    assert (refused.kind, refused.spent, refused.held, refused.limit, refused.room) == ("budget", 7, 1, 10, 3)
    assert refused.may_override
    assert decide([budget(12, 0, 10)], 4).room == 0


def allowed(spent, held, amount):
    return Allowance(Account("user:ana", "override", "o"), Balance(spent, held), amount)


@pytest.mark.parametrize(
    ("allowances", "used"),
    [([allowed(0, 0, 4)], [0]), ([allowed(0, 0, 3)], None), ([allowed(1, 0, 4)], None), ([allowed(0, 1, 4)], None),
     ([allowed(1, 0, 4), allowed(0, 0, 9)], [1]), ([], None)],
)  # fmt: skip
def test_an_override_lets_pass_what_fits_into_what_is_left_of_its_amount(allowances, used):
    found = decide([budget(9, 0, 10)], 4, allowances={"user:ana": allowances, "user:bob": [allowed(0, 0, 99)]})
    if used is None:
        assert found.kind == "budget"
    else:
        assert [found.allowances.index(allowances[i]) for i in used] == [0]
        assert found.marks == ("override",)


def test_an_override_is_used_once_for_month_and_day_and_for_what_it_is_needed():
    month_and_day = [budget(9, 0, 10), budget(9, 0, 10)]
    allowances = {"user:ana": [allowed(0, 0, 4)]}
    assert len(decide(month_and_day, 4, allowances=allowances).allowances) == 1
    assert decide(month_and_day, 1, allowances=allowances).allowances == ()
    assert decide(month_and_day, 4, allowances=allowances, confirmed=True).allowances == ()


@pytest.mark.parametrize(
    ("spent", "limit", "percent"),
    [(1017, 1000, 101.7), (0, 10, 0.0), (5, 1000, 0.5), (2, 3, 66.7), (10005, 10**5, 10.0), (10050, 10**5, 10.1),
     (1, 0, 100.0), (0, 0, 100.0), (3 * 10**18, 10**18, 300.0)],
)  # fmt: skip
def test_per_cent_are_told_to_one_decimal(spent, limit, percent):
    assert percent_used(spent, limit) == percent
