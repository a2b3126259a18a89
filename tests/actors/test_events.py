import asyncio

import msgspec
import pytest
from structlog.testing import capture_logs
from worlds import TurnedClock, attempt_end, attempt_start, calm, until

from actors.events import MOST_WAITING, Events, listening
from actors.settings import SettingsActor
from actors.store.sqlite import open_store
from actors.supervise import Supervisor
from protocols.alerts import Alert
from protocols.events import (
    TYPES,
    AttemptEvent,
    AttemptSettled,
    Lost,
    OverrideEvent,
    ProviderEvent,
    Publish,
    SettingEvent,
    alert_event,
)
from protocols.settings import DAEMON, ChangeSetting

pytestmark = pytest.mark.anyio
AT = "2027-03-10T12:00:00.000Z"


class House:
    """State: the refs, the clock, and the subscriptions as the daemon would keep them."""

    def __init__(self):
        self.clock = TurnedClock()
        self.subscriptions = set()

    async def change(self, key, value, owner):
        await self.settings.call(ChangeSetting(key, value, owner, 1000, "ana", "test"))

    def happens(self, event):
        self.events.tell(Publish(event))


@pytest.fixture
async def house(tmp_path):
    house = House()
    store = await open_store(tmp_path, "process", lambda _: "2027-03-10")
    async with Supervisor() as actors:
        watchers = {}
        house.settings = await actors.start(lambda: SettingsActor(store, house.clock, {}, watchers))
        house.events = await actors.start(lambda: Events(house.settings, house.clock, house.subscriptions))
        yield house
    await store.close()


def provider(name="openai", state="open"):
    return ProviderEvent(AT, name, state, None)


async def heard(subscription):
    """What waits for a listener right now."""
    await calm()
    events = []
    while subscription._waiting:
        events.append(await subscription.next())
    return events


async def test_a_listener_hears_what_happens_from_then_on_in_order(house):
    house.happens(provider("before"))
    async with listening(house.events, None) as everything:
        house.happens(provider("first"))
        house.happens(provider("second"))
        assert await heard(everything) == [provider("first"), provider("second")]
        waiting = asyncio.ensure_future(everything.next())
        await calm()
        assert not waiting.done()
        house.happens(provider("third"))
        assert await waiting == provider("third")
    assert house.subscriptions == set()


async def test_a_listener_hears_the_types_and_the_users_that_it_asked_for(house):
    async with listening(house.events, "ana", frozenset({"override", "provider"})) as own:
        house.happens(OverrideEvent(AT, "granted", "bob", 5, override_id="o1"))
        house.happens(OverrideEvent(AT, "confirmed", "ana", 7, usage_id="u1"))
        house.happens(provider())
        house.happens(alert_event(Alert("daemon", "month", 75, "info", AT, 75, 100, "2027-03")))
        assert await heard(own) == [OverrideEvent(AT, "confirmed", "ana", 7, usage_id="u1"), provider()]


async def test_a_changed_setting_is_told_with_its_new_value(house):
    async with listening(house.events, None) as everything, listening(house.events, "bob") as own:
        await house.change("month_usd", 5, "ana")
        await house.change("month_usd", msgspec.UNSET, "ana")
        await house.change("default_model", "ollama:llama", DAEMON)
        assert await heard(everything) == [
            SettingEvent(AT, "ana", "month_usd", 5.0),
            SettingEvent(AT, "ana", "month_usd", None),
            SettingEvent(AT, DAEMON, "default_model", "ollama:llama"),
        ]
        assert await heard(own) == []


async def test_a_settled_attempt_is_told_with_the_essentials_of_its_row(house):
    start = attempt_start(usage_id="u1", call_id="c1")
    async with listening(house.events, "ana") as own:
        house.events.tell(AttemptSettled(start, attempt_end(2400), ("soft",)))
        (event,) = await heard(own)
    assert event == AttemptEvent(AT, "u1", "c1", "ana", "editor", "openai:gpt-4o", "ok", 2400, 1.5, ("soft",))
    assert msgspec.json.decode(msgspec.json.encode(event)) == {
        "type": "attempt",
        "at": AT,
        "usage_id": "u1",
        "call_id": "c1",
        "user": "ana",
        "app": "editor",
        "model": "openai:gpt-4o",
        "status": "ok",
        "cost_nano_usd": 2400,
        "latency_ms": 1.5,
        "marks": ["soft"],
    }


async def test_without_a_listener_an_attempt_is_not_even_looked_at(house):
    house.events.tell(AttemptSettled(None, None))
    await calm()
    assert house.events.failed_tells == 0


def test_an_alert_is_told_with_its_own_fields():
    alert = Alert("user:ana", "month", 90, "critical", AT, 90, 100, "2027-03", "use ollama:llama")
    told = msgspec.to_builtins(alert_event(alert))
    assert told == msgspec.to_builtins(alert) | {"type": "alert"}


def test_every_type_has_a_name():
    assert TYPES == ("alert", "attempt", "provider", "setting", "override")


async def test_a_slow_listener_misses_what_does_not_fit_and_is_told_where_and_how_many(house):
    async with listening(house.events, None) as slow, listening(house.events, None) as quick:
        for number in range(MOST_WAITING + 5):
            house.happens(provider(f"p{number}"))
            assert await quick.next() == provider(f"p{number}")
        assert len(slow._waiting) == MOST_WAITING + 1
        assert [await slow.next() for _ in range(3)] == [provider(f"p{number}") for number in range(3)]
        house.happens(provider("after"))
        rest = await heard(slow)
    assert rest[-3:] == [provider(f"p{MOST_WAITING - 1}"), Lost(AT, 5), provider("after")]
    assert len(rest) == MOST_WAITING - 3 + 2


async def test_a_listener_that_never_reads_costs_a_bounded_amount(house):
    async with listening(house.events, None) as slow:
        for number in range(5 * MOST_WAITING):
            house.happens(provider(f"p{number}"))
        assert len(slow._waiting) == MOST_WAITING + 1
        assert slow._waiting[-1] == Lost(AT, 4 * MOST_WAITING)


async def test_a_crash_goes_unnoticed_by_those_who_listen(house):
    async with listening(house.events, None) as everything:
        with capture_logs():
            house.events.incarnation.crash(ZeroDivisionError())
            await until(lambda: house.events.incarnation)
        house.happens(provider())
        await house.change("month_usd", 5, "ana")
        assert await heard(everything) == [provider(), SettingEvent(AT, "ana", "month_usd", 5.0)]
    assert repr(house.events) == "<Events 0 subscriptions>"
