import asyncio
import math

import msgspec
import pytest
from structlog.testing import capture_logs
from worlds import calm, open_books, rows

from actors.base import Actor, handles
from actors.rules.matrix import TaskConfig
from actors.settings import check_config
from actors.supervise import Supervisor
from protocols.errors import BadRequest
from protocols.settings import DAEMON, OwnBudget, ReadSetting, ReadSettings, SettingChanged, SettingsOf, WatchSettings

pytestmark = pytest.mark.anyio


class Watcher(Actor):
    """State: the changes it heard."""

    def __init__(self):
        super().__init__()
        self.heard = []

    @handles(SettingChanged)
    def changed(self, change):
        self.heard.append((change.owner, change.key, change.own_budgets))


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path, config={"default_max_tokens": 500, "default_model": "openai:gpt-4o"}) as books:
        yield books


@pytest.fixture
async def watcher(books):
    async with Supervisor() as actors:
        ref = await actors.start(Watcher)
        await books.settings.call(WatchSettings(ref))
        yield ref.incarnation
        books.settings.incarnation._watchers.clear()


async def shown(books, key, user="ana"):
    (row,) = [row for row in await books.settings.call(ReadSettings(user)) if row.key == key]
    return row.value, row.origin


async def test_a_users_own_value_comes_before_the_daemons_the_configs_and_the_default(books):
    key = "default_max_tokens"
    assert await shown(books, "session.idle_s") == (1800.0, "default")
    assert await shown(books, key) == (500, "config")
    await books.change(key, 600, "*")
    assert await shown(books, key) == (600, "daemon")
    await books.change(key, 700, "ana")
    assert await shown(books, key) == (700, "user")
    assert await shown(books, key, "bob") == (600, "daemon")
    assert await shown(books, key, "*") == (600, "daemon")
    await books.change(key, msgspec.UNSET, "ana")
    await books.change(key, msgspec.UNSET, "*")
    await books.change(key, msgspec.UNSET, "*")
    assert await shown(books, key) == (500, "config")


async def test_a_setting_of_the_daemon_is_one_for_all(books):
    await books.change("default_model", "ollama:llama", DAEMON)
    in_force = await books.settings.call(SettingsOf("ana"))
    assert (in_force.daemon.default_model, in_force.user.default_max_tokens) == ("ollama:llama", 500)


async def test_a_row_says_what_the_setting_is_for(books):
    row = await books.change("month_usd", 5)
    assert (row.value, row.origin, row.scope) == (5.0, "user", "user")
    assert "limit a calendar month" in row.description


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("month_us", 5, "there is no setting `month_us`; did you mean `month_usd`"),
        ("xyzzy", 5, r"there is no setting `xyzzy`; `daemonctl settings show` lists them"),
        ("month_usd", -1, "`month_usd` can't be -1"),
        # JSON has no infinity: the next start could not read what was stored
        ("session.idle_s", math.inf, "`session.idle_s` can't be inf"),
        ("month_usd", "much", "`month_usd` can't be 'much'"),
        ("default_max_tokens", 0, "can't be 0"),
        ("default_max_tokens", 1.5, "can't be 1.5"),
        ("session.idle_s", 0, "can't be 0"),
        ("default_model", 7, "can't be 7"),
        ("default_model", "", "`default_model` can't be '': it is the name of a model, or null"),
        ("default_model", "openai:\0", "can't be 'openai:"),
        ("orchestrator.task_models.tag", " ", "`orchestrator.task_models.tag` can't be ' '"),
        ("orchestrator.task_model.tag", "x:a", "did you mean `orchestrator.task_models.tag`"),
        ("orchestrator.task_models", "x:a", "did you mean `orchestrator.task_models.<name>`"),
    ],
)
async def test_a_wrong_key_or_value_is_refused_and_nothing_is_stored(books, key, value, message):
    with pytest.raises(BadRequest, match=message):
        await books.change(key, value)
    with pytest.raises(BadRequest, match=message):
        check_config({key: value}, {})
    assert books.rows("SELECT * FROM settings") == books.rows("SELECT * FROM audit") == []


async def test_every_change_is_audited_with_what_was_before(books):
    await books.change("month_usd", 5)
    await books.change("month_usd", 7)
    await books.change("month_usd", msgspec.UNSET)
    assert books.rows("SELECT actor_uid, user, app, action, subject, before, after FROM audit ORDER BY id") == [
        (1000, "ana", "test", "settings.set", "ana: month_usd", None, "5.0"),
        (1000, "ana", "test", "settings.set", "ana: month_usd", "5.0", "7.0"),
        (1000, "ana", "test", "settings.unset", "ana: month_usd", "7.0", None),
    ]


async def test_unsetting_what_is_not_set_changes_nothing_and_is_heard_by_nobody(books, watcher):
    for owner in ("ana", "ana/kid", "*"):
        assert (await books.change("default_max_tokens", msgspec.UNSET, owner)).origin == "config"
    assert books.rows("SELECT * FROM audit") == watcher.heard == []
    assert repr(books.settings) == "<SettingsActor 0 values of 0 owners>"


async def test_who_unset_the_last_value_needs_no_memory(books):
    await books.change("month_usd", 5, "ana/kid")
    await books.change("day_usd", 5, "ana/kid")
    await books.change("month_usd", msgspec.UNSET, "ana/kid")
    assert repr(books.settings) == "<SettingsActor 1 values of 1 owners>"
    await books.change("day_usd", msgspec.UNSET, "ana/kid")
    assert repr(books.settings) == "<SettingsActor 0 values of 0 owners>"


GONE = "orchestrator.task_models.gone"


@pytest.mark.parametrize("owner", ["ana", "*"])
async def test_what_a_task_that_is_gone_has_can_be_read_and_unset_but_not_set(books, owner):
    books.settings.incarnation._tasks = {"gone": TaskConfig(strength="speed")}
    await books.change(GONE, "x:a", owner)
    books.settings.incarnation._tasks = {}
    assert (await books.settings.call(ReadSetting(GONE, "ana"))).value == "x:a"
    with pytest.raises(BadRequest, match="there is no task `gone`"):
        await books.change(GONE, "x:b", owner)
    assert (await books.change(GONE, msgspec.UNSET, owner)).value is None
    with pytest.raises(BadRequest, match="there is no task `gone`"):
        await books.settings.call(ReadSetting(GONE, "ana"))


async def test_names_below_one_account_that_have_settings_are_bounded_and_nobody_elses(books, monkeypatch):
    monkeypatch.setattr("actors.settings.MOST_NAMES", 2)
    for name in ("ana/1", "ana/2", "ana", "bob/1", "*"):
        await books.change("month_usd", 5, name)
    full = "2 names below `ana` have settings of their own, and no more can; unset"
    with pytest.raises(BadRequest, match=full):
        await books.change("month_usd", 5, "ana/3")
    books.settings.incarnation.crash(ZeroDivisionError())
    with capture_logs(), pytest.raises(BadRequest, match=full):
        await books.change("month_usd", 5, "ana/3")
    await books.change("day_usd", 5, "ana/2")
    await books.change("month_usd", msgspec.UNSET, "ana/3")
    await books.change("month_usd", msgspec.UNSET, "ana/1")
    await books.change("month_usd", 5, "ana/3")
    assert books.rows("SELECT DISTINCT owner FROM settings WHERE owner LIKE 'ana/%'") == [("ana/2",), ("ana/3",)]


async def test_names_that_come_at_once_are_bounded_all_the_same(books, monkeypatch):
    monkeypatch.setattr("actors.settings.MOST_NAMES", 2)
    changes = [books.change("month_usd", 5, f"ana/{i}") for i in range(5)]
    refused = [e for e in await asyncio.gather(*changes, return_exceptions=True) if isinstance(e, BadRequest)]
    assert (len(refused), len(books.rows("SELECT * FROM settings"))) == (3, 2)


@pytest.mark.parametrize("values", [(msgspec.UNSET, 5), (5, msgspec.UNSET), (5, msgspec.UNSET, 7)])
async def test_changes_made_at_once_end_with_the_last_one(books, values):
    await books.change("month_usd", 3)
    await asyncio.gather(*[books.change("month_usd", value) for value in values])
    stored = books.rows("SELECT value FROM settings WHERE key = 'month_usd'")
    assert stored == ([] if values[-1] is msgspec.UNSET else [(f"{values[-1]}.0",)])
    assert (await shown(books, "month_usd"))[1] == ("default" if values[-1] is msgspec.UNSET else "user")


async def test_values_outlive_a_restart_and_a_crash(tmp_path):
    async with open_books(tmp_path) as books:
        await books.change("month_usd", 5)
    async with open_books(tmp_path) as books:
        assert await shown(books, "month_usd") == (5.0, "user")
        books.settings.incarnation.crash(ZeroDivisionError())
        with capture_logs():
            assert await shown(books, "month_usd") == (5.0, "user")


async def test_watchers_hear_of_changes_and_of_limits(books, watcher):
    await books.change("default_max_tokens", 9)
    await books.change("month_usd", 5)
    await books.change("day_usd", 2, "*")
    quiet, own, everybody = watcher.heard
    assert quiet == ("ana", "default_max_tokens", None)
    assert own[2].by_user == {"ana": OwnBudget(5.0, None, True, True)}
    assert everybody[2].by_user == {"*": OwnBudget(None, 2.0, True, True), "ana": OwnBudget(5.0, 2.0, True, True)}


async def test_everybodys_limit_is_no_limit_of_a_name_below_an_account_but_everybodys_switches_hold(books, watcher):
    await books.change("month_usd", 5, "*")
    await books.change("budget_override_allowed", False, "*")
    await books.change("day_usd", 3, "ana/kid")
    assert watcher.heard[-1][2].by_user["ana/kid"] == OwnBudget(None, 3.0, True, False)


async def test_watchers_still_hear_after_a_crash(books, watcher):
    books.settings.incarnation.crash(ZeroDivisionError())
    with capture_logs():
        await books.change("month_usd", 5)
    assert [heard[:2] for heard in watcher.heard] == [("ana", "month_usd")]


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_change_whose_asker_hangs_up_is_the_same_in_memory_and_on_disk(books, watcher, turns, tmp_path):
    asking = asyncio.get_running_loop().create_task(books.change("month_usd", 5))
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    await books.store.written()
    await calm()
    stored = rows(tmp_path, "SELECT owner FROM settings")
    assert [heard[0] for heard in watcher.heard] == [owner for (owner,) in stored]
    assert (await shown(books, "month_usd"))[1] == ("user" if stored else "default")


async def test_the_actor_tells_its_state(books):
    await books.change("month_usd", 5)
    assert repr(books.settings) == "<SettingsActor 1 values of 1 owners>"
