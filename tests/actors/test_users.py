import asyncio
import json

import pytest
from worlds import calm, open_books, rows

from actors.session import Sessions
from actors.store import sqlite
from protocols.audit import Actor
from protocols.errors import NotFound
from protocols.session import OpenSession, Prefer, Spent
from protocols.users import (
    MAX_CONVERSATIONS,
    ChoicesOf,
    ChooseForConversation,
    ChooseModel,
    ForgetModel,
    Layers,
    ListUsers,
    ModelsOf,
    Parameters,
    UserRow,
)

pytestmark = pytest.mark.anyio

WHO = Actor(1000, "ana", "test")
COOL = Layers(defaults=Parameters(temperature=0.2), overrides=Parameters(max_tokens=50))


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path) as books:
        yield books


@pytest.fixture
async def session(books):
    sessions = await books.actors.start(lambda: Sessions(books.actors, books.settings, books.users, books.clock))
    return await sessions.call(OpenSession("ana", "editor"))


@pytest.fixture
def reads(monkeypatch):
    """Every query that the store is asked."""
    seen, read = [], sqlite.Store.read

    async def noted(store, statement, parameters=()):
        seen.append(statement)
        return await read(store, statement, parameters)

    monkeypatch.setattr(sqlite.Store, "read", noted)
    return seen


async def choose(books, model, provider="openai", user="ana", *, default=True, parameters=None, metadata=None):
    return await books.users.call(ChooseModel(user, provider, model, default, parameters, metadata, WHO))


async def talk(books, conversation, model, user="ana"):
    await books.users.call(ChooseForConversation(user, conversation, model, WHO))


async def models(books, user="ana"):
    return [(m.provider, m.model, m.is_default) for m in await books.users.call(ModelsOf(user))]


async def test_a_user_has_one_model_a_provider_and_one_default(books):
    await choose(books, "gpt-4o")
    await choose(books, "opus", "anthropic", default=False)
    assert await models(books) == [("anthropic", "opus", False), ("openai", "gpt-4o", True)]
    await choose(books, "sonnet", "anthropic")
    assert await models(books) == [("anthropic", "sonnet", True), ("openai", "gpt-4o", False)]
    await choose(books, "haiku", "anthropic", default=False)
    assert await models(books) == [("anthropic", "haiku", True), ("openai", "gpt-4o", False)]
    await choose(books, None, "openai")
    assert await models(books) == [("anthropic", "haiku", False), ("openai", "gpt-4o", True)]
    assert await models(books, "bob") == []


async def test_defaults_chosen_at_once_leave_one(books):
    await asyncio.gather(*[choose(books, "m", provider) for provider in ("a", "b", "c", "d")])
    assert [default for _, _, default in await models(books)] == [False, False, False, True]


async def test_changes_made_at_once_follow_each_other(books):
    await asyncio.gather(*[choose(books, f"m{number}") for number in range(4)])
    told = [
        row and json.loads(row)["model"] for row in sum(books.rows("SELECT before, after FROM audit ORDER BY id"), ())
    ]
    assert told == [None, "m0", "m0", "m1", "m1", "m2", "m2", "m3"]


async def test_what_is_not_said_again_stays_for_the_same_model_and_begins_anew_with_another(books):
    await choose(books, "gpt-4o", parameters=COOL, metadata={"why": "fast"})
    books.clock.set("2027-03-11T12:00:00Z")
    kept = await choose(books, "gpt-4o")
    assert (kept.parameters, kept.metadata) == (COOL, {"why": "fast"})
    assert (kept.created_at[:10], kept.updated_at[:10]) == ("2027-03-10", "2027-03-11")
    other = await choose(books, "gpt-5")
    assert (other.parameters, other.metadata, other.created_at[:10]) == (Layers(), {}, "2027-03-10")


async def test_a_model_that_is_not_there_is_neither_made_the_default_nor_forgotten(books):
    with pytest.raises(NotFound, match="daemonctl prefer openai:<model>"):
        await choose(books, None)
    with pytest.raises(NotFound, match="prefer --list"):
        await books.users.call(ForgetModel("ana", "openai", WHO))
    assert books.rows("SELECT * FROM audit") == books.rows("SELECT * FROM users") == []


async def test_every_change_is_audited_with_what_was_before(books):
    await choose(books, "gpt-4o", parameters=COOL)
    await choose(books, "gpt-5", default=False)
    await books.users.call(ForgetModel("ana", "openai", WHO))
    await talk(books, "c1", "openai:x")
    await talk(books, "c1", None)
    found = books.rows("SELECT actor_uid, user, app, action, subject, before, after FROM audit ORDER BY id")
    assert {row[:3] for row in found} == {(1000, "ana", "test")}
    first = {
        "model": "gpt-4o",
        "is_default": True,
        "parameters": {"defaults": {"temperature": 0.2}, "overrides": {"max_tokens": 50}},
        "metadata": {},
    }
    second = {"model": "gpt-5", "is_default": True, "parameters": {"defaults": {}, "overrides": {}}, "metadata": {}}
    assert [(*row[3:5], *[text and json.loads(text) for text in row[5:]]) for row in found] == [
        ("user_models.set_default", "ana: openai", None, first),
        ("user_models.add", "ana: openai", first, second),
        ("user_models.remove", "ana: openai", second, None),
        ("conversations.set_default", "ana: c1", None, "openai:x"),
        ("conversations.set_default", "ana: c1", "openai:x", None),
    ]


async def test_choices_are_what_a_call_goes_by(books):
    await choose(books, "gpt-4o", parameters=COOL)
    await choose(books, "llama:8b", "ollama", default=False)
    await talk(books, "c1", "ollama:x")
    chosen = await books.users.call(ChoicesOf("ana"))
    assert (chosen.default, set(chosen.models)) == ("openai:gpt-4o", {"openai:gpt-4o", "ollama:llama:8b"})
    assert chosen.parameters == {"openai:gpt-4o": COOL, "ollama:llama:8b": Layers()}
    assert chosen.conversations == {"c1": "ollama:x"}


async def test_of_too_many_conversations_those_set_longest_ago_are_forgotten(books):
    for number in range(MAX_CONVERSATIONS):
        books.clock.wall_us += 1
        await talk(books, f"c{number}", "openai:x")
    await talk(books, "c0", "openai:y")
    await talk(books, "more", "openai:x")
    kept = (await books.users.call(ChoicesOf("ana"))).conversations
    assert len(kept) == MAX_CONVERSATIONS
    assert {"c0", "more", "c2"} <= kept.keys()
    assert "c1" not in kept


async def test_a_thousand_calls_read_the_choices_once_also_when_they_come_together(session, reads):
    await asyncio.gather(*[session.call(Prefer("editor")) for _ in range(10)])
    for _ in range(990):
        await session.call(Prefer("editor"))
    assert len(reads) == 1


async def test_a_change_is_seen_by_the_next_call_and_costs_others_nothing(books, session, reads):
    assert (await session.call(Prefer("editor"))).choices.default is None
    await choose(books, "gpt-4o")
    assert (await session.call(Prefer("editor"))).choices.default == "openai:gpt-4o"
    await talk(books, "c1", "ollama:x")
    assert (await session.call(Prefer("editor"))).choices.conversations == {"c1": "ollama:x"}
    await books.users.call(ForgetModel("ana", "openai", WHO))
    assert (await session.call(Prefer("editor"))).choices.default is None
    reads.clear()
    await choose(books, "gpt-4o", user="bob")
    reads.clear()
    await session.call(Prefer("editor"))
    assert reads == []


async def test_a_change_while_choices_are_read_is_not_lost(books, session, monkeypatch):
    read, changed = sqlite.Store.read, False

    async def overtaken(store, statement, parameters=()):
        nonlocal changed
        found = await read(store, statement, parameters)
        if not changed:
            changed = True
            await choose(books, "gpt-4o")
        return found

    monkeypatch.setattr(sqlite.Store, "read", overtaken)
    await session.call(Prefer("editor"))
    assert changed
    assert (await session.call(Prefer("editor"))).choices.default == "openai:gpt-4o"


async def test_answers_are_counted_in_batches(books, session):
    await choose(books, "gpt-4o")
    await session.call(Prefer("editor"))
    for _ in range(100):
        session.tell(Spent("ana", 5, "openai:gpt-4o"))
    session.tell(Spent("ana", 5, "openai:another"))
    session.tell(Spent("ana", 5))
    await calm()
    assert books.rows("SELECT use_count FROM user_models") == [(0,)]
    assert [m.use_count for m in await books.users.call(ModelsOf("ana"))] == [100]
    assert repr(books.users) == "<Users 100 uses to write>"
    await books.clock.turn(30)
    await books.store.written()
    assert books.rows("SELECT use_count FROM user_models") == [(100,)]
    assert [m.use_count for m in await books.users.call(ModelsOf("ana"))] == [100]
    await choose(books, "gpt-4o")
    assert [m.use_count for m in await books.users.call(ModelsOf("ana"))] == [100]
    await choose(books, "gpt-5")
    assert [m.use_count for m in await books.users.call(ModelsOf("ana"))] == [0]


async def test_a_model_that_is_chosen_again_counts_from_then_on(books, session):
    await choose(books, "gpt-4o")
    for choose_another in (lambda: choose(books, "gpt-5"), lambda: books.users.call(ForgetModel("ana", "openai", WHO))):
        await session.call(Prefer("editor"))
        session.tell(Spent("ana", 5, "openai:gpt-4o"))
        await choose_another()
        await choose(books, "gpt-4o")
        assert [m.use_count for m in await books.users.call(ModelsOf("ana"))] == [0]
        await books.clock.turn(30)
        await books.store.written()
        assert books.rows("SELECT use_count FROM user_models") == [(0,)]
    session.tell(Spent("ana", 5, "openai:gpt-4o"))
    assert [m.use_count for m in await books.users.call(ModelsOf("ana"))] == [1]


async def test_counts_and_choices_outlive_a_stop(tmp_path):
    async with open_books(tmp_path) as books:
        sessions = await books.actors.start(lambda: Sessions(books.actors, books.settings, books.users, books.clock))
        session = await sessions.call(OpenSession("ana", "editor"))
        await choose(books, "gpt-4o", parameters=COOL)
        session.tell(Spent("ana", 5, "openai:gpt-4o"))
    assert rows(tmp_path, "SELECT use_count FROM user_models") == [(1,)]
    async with open_books(tmp_path) as books:
        (model,) = await books.users.call(ModelsOf("ana"))
        assert (model.model, model.is_default, model.parameters, model.use_count) == ("gpt-4o", True, COOL, 1)


async def test_on_a_full_disk_counts_wait(books, session):
    await choose(books, "gpt-4o")
    session.tell(Spent("ana", 5, "openai:gpt-4o"))
    books.store.full = True
    await books.clock.turn(30)
    assert [m.use_count for m in await books.users.call(ModelsOf("ana"))] == [1]
    books.store.full = False
    await books.clock.turn(30)
    await books.store.written()
    assert books.rows("SELECT use_count FROM user_models") == [(1,)]


async def test_users_are_listed_by_name(books):
    await choose(books, "gpt-4o", user="bob/eve")
    await choose(books, "opus", "anthropic", user="bob/eve", default=False)
    await talk(books, "c1", "openai:x")
    assert await books.users.call(ListUsers()) == [
        UserRow("ana", "2027-03-10T12:00:00.000Z", None, 0, 1),
        UserRow("bob/eve", "2027-03-10T12:00:00.000Z", "openai:gpt-4o", 2, 0),
    ]


async def test_users_are_listed_by_pages(books):
    for name in ("cleo", "ana", "dan", "bob"):
        await choose(books, "gpt-4o", user=name)
    pages, after = [], ""
    while page := [row.user for row in await books.users.call(ListUsers(3, after))]:
        pages.append(page)
        after = page[-1]
    assert pages == [["ana", "bob", "cleo"], ["dan"]]


async def test_a_user_is_forgotten_with_the_last_choice(books):
    async def users():
        return [row.user for row in await books.users.call(ListUsers())]

    await choose(books, "gpt-4o")
    await choose(books, "opus", "anthropic")
    await talk(books, "c1", "openai:x")
    await books.users.call(ForgetModel("ana", "openai", WHO))
    await talk(books, "c1", None)
    assert await users() == ["ana"]
    await books.users.call(ForgetModel("ana", "anthropic", WHO))
    assert await users() == []
    await talk(books, "c1", "openai:x")
    assert await users() == ["ana"]
    await talk(books, "c1", None)
    assert await users() == []


async def test_the_tables_refuse_two_defaults_and_rows_of_nobody_and_go_with_their_user(books):
    await choose(books, "gpt-4o")
    await talk(books, "c1", "openai:x")

    async def run(sql):
        await books.store._writer.run(lambda c: c.execute(sql))

    row = "'m', 1, 0, '{}', '{}', '{}', 0, 0)"
    for wrong in ("('ana', 'b', ", "('ana', 'openai', ", "('nobody', 'b', "):
        with pytest.raises(sqlite.sqlite3.IntegrityError):
            await run(f"INSERT INTO user_models VALUES {wrong}{row}")
    await run("DELETE FROM users WHERE name = 'ana'")
    assert books.rows("SELECT * FROM user_models") == books.rows("SELECT * FROM conversations") == []
