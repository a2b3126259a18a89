import pytest

from actors.rules.admission import Admitted, Allowance, Bound, decide
from actors.rules.group import Part, decide_group
from protocols.budget import Account, Balance

DAEMON, ANA, OPENAI, LOCAL = (
    Account(scope, "month", "2027-03") for scope in ("daemon", "user:ana", "provider:openai", "provider:ollama")
)


def bound(account, spent, held, limit, waiting=0, **said):
    return Bound(account, Balance(spent, held, waiting), limit, **said)


def budget(spent, held, limit, waiting=0, **said):
    return bound(ANA, spent, held, limit, waiting, hard=False, **({"may_override": True} | said))


def part(amount, *bounds, soft=False):
    return Part(tuple(b.account for b in bounds), bounds, amount, soft)


def group(*amounts, of, soft=False):
    return [part(amount, *of, soft=soft) for amount in amounts]


def outcome(parts, **said):
    found = decide_group(parts, **said)
    return [each.marks for each in found] if isinstance(found, list) else found.refusal.kind


ROOMY, NO, OVER = bound(DAEMON, 0, 0, 100), (), ("override",)
TIGHT = bound(OPENAI, 0, 0, 5)


@pytest.mark.parametrize(
    ("parts", "said", "expected"),
    [
        # to the last nano-dollar, and no more, at each place
        (group(4, 3, 3, of=[bound(DAEMON, 0, 0, 10)]), {}, [NO] * 3),
        (group(4, 3, 4, of=[bound(DAEMON, 0, 0, 10)]), {}, "hard"),
        (group(11, 0, 0, of=[bound(DAEMON, 0, 0, 10)]), {}, "hard"),
        (group(0, 11, 0, of=[bound(DAEMON, 0, 0, 10)]), {}, "hard"),
        (group(0, 0, of=[bound(DAEMON, 12, 0, 10)]), {}, [NO] * 2),
        ([], {}, []),
        # other holds may settle, the group's own do not before it is taken
        (group(5, 5, of=[bound(DAEMON, 0, 1, 10)]), {}, "held"),
        (group(5, 6, of=[bound(DAEMON, 0, 1, 10)]), {}, "hard"),
        (group(5, 5, of=[bound(DAEMON, 1, 1, 10)]), {}, "hard"),
        (group(5, 5, of=[bound(DAEMON, 0, 0, 10, waiting=1)]), {}, "held"),
        (group(5, 5, of=[budget(0, 1, 10)]), {}, "held"),
        (group(5, 6, of=[budget(0, 1, 10)]), {}, "budget"),
        # what is refused last may be refused for good: then that is said
        ([part(1, bound(OPENAI, 0, 9, 9)), part(1, bound(LOCAL, 9, 0, 9))], {}, "hard"),
        ([part(1, budget(9, 0, 9)), part(1, bound(LOCAL, 9, 0, 9))], {}, "hard"),
        ([part(1, bound(OPENAI, 0, 9, 9)), part(1, budget(9, 0, 9))], {}, "budget"),
        ([part(1, bound(OPENAI, 0, 9, 9)), part(1, budget(9, 0, 9))], {"confirmed": True}, "held"),
        # a refused one counts for those behind it
        ([part(6, budget(0, 1, 9, enforced=True)), part(5, bound(DAEMON, 0, 0, 10), budget(0, 1, 9))], {}, "budget"),
        # each provider counts what goes to it
        ([part(5, ROOMY, TIGHT), part(50, ROOMY)], {}, [NO] * 2),
        ([part(50, ROOMY), part(6, ROOMY, TIGHT)], {}, "hard"),
        ([part(3, ROOMY, TIGHT), part(50, ROOMY), part(3, ROOMY, TIGHT)], {}, "hard"),
        # what passes a limit is marked where it does, and no sooner
        (group(5, 5, 5, of=[budget(0, 0, 10)]), {"confirmed": True}, [NO, NO, OVER]),
        (group(5, 5, 5, of=[budget(0, 0, 10, may_override=False)]), {"confirmed": True}, "budget"),
        (group(5, 6, of=[budget(0, 0, 20), bound(DAEMON, 0, 0, 10)]), {"confirmed": True}, "hard"),
        (group(5, 5, 5, of=[budget(0, 0, 10, enforced=False)]), {}, [NO, NO, ("unenforced",)]),
        (group(5, 6, 7, of=[budget(9, 0, 10)], soft=True), {}, [("soft",)] * 3),
        (group(5, 6, of=[budget(10, 0, 10)], soft=True), {}, "budget"),
        ([*group(5, of=[budget(0, 0, 10)]), *group(6, of=[budget(0, 0, 10)], soft=True)], {}, [NO, ("soft",)]),
        ([*group(9, of=[budget(0, 0, 10)], soft=True), *group(6, of=[budget(0, 0, 10)])], {}, "budget"),
    ],
)
def test_a_group_is_admitted_each_on_top_of_those_before_it_or_refused_for_what_helps_least(parts, said, expected):
    assert outcome(parts, **said) == expected


def test_of_two_budgets_that_refuse_the_one_that_nobody_may_pass_is_told():
    kid = Account("user:ana/kid", "month", "2027-03")
    strict = bound(kid, 0, 0, 1, hard=False)
    found = decide_group([part(5, budget(0, 0, 4)), part(5, strict)])
    assert (found.refusal.account, found.refusal.may_override) == (kid, False)


def test_nothing_that_the_decision_looks_at_is_changed_by_it():
    shared = budget(0, 2, 10)
    assert outcome(group(4, 4, of=[shared])) == [NO, NO]
    assert outcome(group(4, 5, of=[shared])) == "held"
    assert shared.balance == Balance(0, 2)


def allowed(spent, held, amount, name="o"):
    return Allowance(Account("user:ana", "override", name), Balance(spent, held), amount)


@pytest.mark.parametrize(
    ("amounts", "allowances", "used"),
    [
        ((4, 4), [allowed(0, 0, 8)], ["o", "o"]),
        ((4, 5), [allowed(0, 0, 8)], None),
        ((4, 4), [allowed(0, 1, 8)], None),
        ((4, 4), [allowed(0, 0, 4, "a"), allowed(0, 0, 4, "b")], ["a", "b"]),
        ((4, 3, 1), [allowed(0, 0, 5, "a"), allowed(0, 0, 3, "b")], ["a", "b", "a"]),
        ((0, 4), [allowed(0, 0, 4)], [None, "o"]),
    ],
)
def test_a_granted_override_is_used_up_by_those_before(amounts, allowances, used):
    found = decide_group(group(*amounts, of=[budget(10, 0, 10)]), allowances={"user:ana": allowances})
    if used is None:
        assert found.refusal.kind == "budget"
    else:
        assert [each.allowances[0].account.label if each.allowances else None for each in found] == used


def rooms(*parts):
    refusal = decide_group(parts).refusal
    return refusal.rooms, refusal.room


def test_a_refusal_says_what_fits_in_each_scope_with_nothing_held():
    shared = [bound(DAEMON, 10, 5, 100), budget(20, 5, 60), budget(0, 0, 1, enforced=False)]
    tight, day = bound(OPENAI, 2, 3, 9), bound(Account("daemon", "day", "2027-03-10"), 5, 0, 90)
    assert rooms(part(50, *shared, day), part(30, *shared, tight)) == (
        {"daemon": 85, "user:ana": 40, "provider:openai": 7},
        7,
    )


def test_a_scope_where_only_free_members_count_bounds_nothing():
    shared = bound(DAEMON, 10, 0, 20)
    assert rooms(part(0, shared, bound(LOCAL, 9, 0, 9)), part(50, shared)) == ({"daemon": 10}, 10)


@pytest.mark.parametrize("limit", [3, 5])
def test_there_is_never_less_than_no_room(limit):
    assert rooms(part(1, bound(DAEMON, 5, 0, limit))) == ({"daemon": 0}, 0)


def test_the_refused_amount_is_what_all_of_the_group_comes_to_there():
    shared = bound(DAEMON, 0, 0, 1000)
    tight = bound(OPENAI, 0, 0, 5)
    assert decide_group([part(9, shared, tight), part(50, shared), part(3, shared, tight)]).amount == 12
    assert decide_group([part(900, shared), part(50, shared), part(300, shared, tight)]).amount == 1250


def test_a_group_of_one_is_told_what_a_single_one_is():
    for spent, held, amount in ((0, 0, 5), (0, 8, 5), (8, 0, 5), (8, 8, 5)):
        for of in ([bound(DAEMON, spent, held, 10)], [budget(spent, held, 10)], [ROOMY, budget(spent, held, 10)]):
            alone, together = decide(of, amount), decide_group(group(amount, of=of))
            if isinstance(alone, Admitted):
                assert together == [alone]
            else:
                told = together.refusal
                assert (told.kind, told.account, told.spent, told.held) == (
                    alone.kind,
                    alone.account,
                    spent,
                    held,
                )
                assert (told.room, together.amount) == (alone.room, amount)
