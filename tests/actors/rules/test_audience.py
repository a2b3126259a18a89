import pytest

from actors.rules.audience import may_see
from protocols.events import AlertEvent, AttemptEvent, OverrideEvent, ProviderEvent, SettingEvent

AT = "2027-03-10T12:00:00.000Z"


def alert(scope):
    return AlertEvent(scope, "month", 90, "critical", AT, 9, 10, "2027-03")


def attempt(user):
    return AttemptEvent(AT, "u1", "c1", user, "editor", "openai:gpt-4o", "ok", 5, 1.5)


def override(user):
    return OverrideEvent(AT, "granted", user, 5, override_id="o1")


def setting(owner):
    return SettingEvent(AT, owner, "month_usd", 5.0)


@pytest.mark.parametrize(
    ("event", "seen"),
    [
        (alert("daemon"), True),
        (alert("user:ana"), True),
        (alert("user:ana/bob"), True),
        (alert("user:anabel"), False),
        (alert("user:bob"), False),
        (alert("user:bob/ana"), False),
        (alert("app:ana"), False),
        (alert("provider:openai"), False),
        (attempt("ana"), True),
        (attempt("ana/bob"), True),
        (attempt("anabel/bob"), False),
        (override("ana"), True),
        (override("bob"), False),
        (setting("ana"), True),
        (setting("ana/bob"), True),
        (setting("bob"), False),
        (setting("*"), False),
        (setting("*daemon"), False),
        (ProviderEvent(AT, "openai", "open", "5 errors in a row"), True),
    ],
)
def test_an_account_sees_what_is_the_daemons_or_about_itself_and_the_names_below_it(event, seen):
    assert may_see(event, "ana") is seen
