import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from tournaments import BOOL, MODELS, ballot, opened, played, terms, verdict
from worlds import NOON, TurnedClock, rows, until

from actors.ledger import last_id
from actors.record import LOST, MOST_BEHIND, NO_ROOM, TRY_AGAIN_S, Record
from actors.store.sqlite import open_store
from actors.supervise import Supervisor
from protocols.audit import Actor
from protocols.errors import BadRequest, LedgerReadonly, NotFound
from protocols.record import (
    CUT,
    LONGEST_ANSWER,
    LONGEST_PROMPT,
    LONGEST_TEXT,
    AbandonRecord,
    CloseRecord,
    KeepBallot,
    ListTournaments,
    OpenRecord,
    ReadRecord,
    ReadReliability,
    Reliability,
    Replay,
    ReplayRecord,
    ResolveReview,
    Reviews,
    Tournaments,
)
from protocols.tournament import Agreement, AnswerSpec

pytestmark = pytest.mark.anyio

WHO = Actor(1000, "ana", "test")
THREE = (ballot(0, "yes", cluster=0), ballot(1, "yes", cluster=0), ballot(2, "no", cluster=1))


class World:
    """A record on a real store, and short ways to ask it."""

    def __init__(self, folder, store, record, running, clock):
        self.folder, self.store, self.record, self.running, self.clock = folder, store, record, running, clock

    async def held(self, one="t1", ballots=THREE, agreed=(0, 1), told=None, **asked):
        """A tournament from its begin to its end."""
        await self.record.call(OpenRecord(opened(one, **asked)))
        for each in ballots:
            await self.record.call(KeepBallot(one, each))
        await self.record.call(CloseRecord(verdict(one, ballots, **(told or {})), list(agreed)))

    async def disputed(self, one="t1", ballots=THREE, **asked):
        """One that waits for a review."""
        told = {"status": "dispute", "answer": None, "answer_kind": "none", "winner": None, "needs_review": True}
        await self.held(one, ballots, (), told, **asked)

    async def review(self, answer, one="t1", user=None, why=""):
        return await self.record.call(ResolveReview(one, answer, why, user, WHO))

    async def later(self):
        """When what could not be written is tried again."""
        await until(lambda: self.clock.sleeping)
        await self.clock.turn(TRY_AGAIN_S)

    async def listed(self, query=None, user=None):
        return [row.tournament_id for row in await self.record.call(ListTournaments(query or Tournaments(), user))]

    async def read(self, one="t1", user=None):
        return await self.record.call(ReadRecord(one, user))

    async def sums(self, task=None):
        found = await self.record.call(ReadReliability(task))
        return {model: (one.agreed, one.of) for model, one in found.items()}

    def rows(self, sql, *parameters):
        return rows(self.folder, sql, *parameters)


@asynccontextmanager
async def opened_world(folder, *, full=False):
    clock, running = TurnedClock(), {}
    store = await open_store(folder, "process", lambda _: "2027-03-10")
    store.full = full
    try:
        async with Supervisor() as actors:
            record = await actors.start(lambda: Record(store, clock, running))
            yield World(folder, store, record, running, clock)
    finally:
        await store.close()


@pytest.fixture
async def world(tmp_path):
    async with opened_world(tmp_path) as world:
        yield world


# ---- as it goes


async def test_a_tournament_is_stored_as_it_was(world):
    await world.held(terms=terms(3, bench=1, threshold="3/4", veto="no", critical=True))
    stored = await world.read()
    row = stored.tournament
    assert (row.tournament_id, row.user, row.app, row.task_type, row.mode) == ("t1", "ana", "editor", "facts", "vote")
    assert (row.state, row.status, row.answer, row.needs_review, row.cost_nano_usd) == (
        "done",
        "majority",
        "yes",
        False,
        303,
    )
    assert (row.created_at, row.prompt, row.members) == (NOON[:-1] + ".000Z", "Is 2027 prime?", list(MODELS[:3]))
    assert (stored.spec, stored.terms) == (BOOL, terms(3, bench=1, threshold="3/4", veto="no", critical=True))
    assert stored.ballots == list(THREE)
    told = verdict(ballots=THREE)
    told.ballots = []
    assert stored.verdict == told


async def test_what_runs_is_listed_as_running_with_the_ballots_so_far(world):
    await world.record.call(OpenRecord(opened()))
    await world.record.call(KeepBallot("t1", THREE[1]))
    stored = await world.read()
    assert (stored.tournament.state, stored.tournament.status, stored.verdict) == ("running", None, None)
    assert stored.ballots == [THREE[1]]
    assert repr(world.record) == "<Record 1 running>"


async def test_a_verdict_brings_ballots_that_were_not_kept_and_what_changed_of_others(world):
    await world.record.call(OpenRecord(opened()))
    await world.record.call(KeepBallot("t1", ballot(0, "yes")))
    await world.record.call(CloseRecord(verdict(ballots=THREE), [0, 1]))
    assert (await world.read()).ballots == list(THREE)
    assert await world.sums() == {MODELS[0]: (1, 1), MODELS[1]: (1, 1), MODELS[2]: (0, 1)}


async def test_all_that_is_told_at_once_is_stored_in_one_order(world):
    told = [
        OpenRecord(opened()),
        *[KeepBallot("t1", one) for one in THREE],
        CloseRecord(verdict(ballots=THREE), [0, 1]),
    ]
    await asyncio.gather(*[world.record.call(message) for message in told])
    stored = await world.read()
    assert (stored.tournament.state, stored.ballots) == ("done", list(THREE))
    assert await world.sums() == {MODELS[0]: (1, 1), MODELS[1]: (1, 1), MODELS[2]: (0, 1)}


async def test_an_abandoned_one_says_why_and_what_it_cost(world):
    await world.record.call(OpenRecord(opened()))
    await world.record.call(KeepBallot("t1", THREE[0]))
    await world.record.call(KeepBallot("t1", THREE[1]))
    await world.record.call(AbandonRecord("t1", "the client cancelled it"))
    row = (await world.read()).tournament
    assert (row.state, row.why, row.cost_nano_usd) == ("unfinished", "the client cancelled it", 201)
    assert world.running == {}
    assert await world.sums() == {}


@pytest.mark.parametrize(
    "second", [AbandonRecord("t1", "late"), CloseRecord(verdict(answer="no", status="unanimous"), [2])]
)
async def test_one_that_is_over_ends_no_second_time(world, second):
    await world.held()
    before = await world.read(), await world.sums()
    await world.record.call(second)
    assert (await world.read(), await world.sums()) == before


async def test_texts_are_bounded_a_prompt_at_its_end_and_a_ballot_at_its_beginning(world):
    long = ballot(0, "yes", text="x" * LONGEST_TEXT + "ANSWER: yes")
    huge = "a" * (LONGEST_ANSWER + 5)
    wide = ballot(1, huge, text="y" * LONGEST_TEXT)
    await world.held(ballots=(long, wide), agreed=[0], told={"answer": huge}, prompt="p" * (LONGEST_PROMPT + 1))
    stored = await world.read()
    assert stored.tournament.prompt == "p" * (LONGEST_PROMPT - 1) + "…"
    assert len(stored.ballots[0].text) == LONGEST_TEXT
    assert stored.ballots[0].text.startswith(CUT + "x")
    assert stored.ballots[0].text.endswith("ANSWER: yes")
    assert stored.ballots[1].text == "y" * LONGEST_TEXT
    assert [len(text) for text in (stored.ballots[1].answer, stored.verdict.answer, stored.tournament.answer)] == [
        LONGEST_ANSWER
    ] * 3
    (row,) = await world.record.call(ListTournaments(Tournaments(), None))
    assert (len(row.prompt), len(row.answer)) == (300, 300)


async def test_text_that_no_database_takes_is_stored_without_what_is_wrong(world):
    await world.held(prompt="a\ud800b", ballots=(ballot(0, "yes", text="c\udfffd\0e"),), agreed=[0])
    stored = await world.read()
    assert (stored.tournament.prompt, stored.ballots[0].text) == ("a?b", "c?d\0e")


async def test_a_full_disk_refuses_and_leaves_nothing_that_runs(world):
    world.store.full = True
    with pytest.raises(LedgerReadonly):
        await world.record.call(OpenRecord(opened()))
    assert world.running == {}


async def test_a_verdict_that_a_full_disk_refuses_is_kept_and_written_when_there_is_space(world):
    for one in ("t1", "t2", "t3"):
        await world.record.call(OpenRecord(opened(one)))
    world.store.full = True
    await world.record.call(CloseRecord(verdict("t1", THREE), [0, 1]))
    await world.record.call(AbandonRecord("t2", "the client cancelled it"))
    await world.record.call(AbandonRecord("t1", "too late"))
    assert repr(world.record) == "<Record 1 running, 2 to be written>"
    assert (await world.read()).tournament.state == "running"
    await world.later()
    world.store.full = False
    await world.later()
    await until(lambda: list(world.running) == ["t3"])
    assert [each.answer for each in (await world.read()).ballots] == ["yes", "yes", "no"]
    assert world.rows("SELECT id, state, status, why FROM tournaments ORDER BY id") == [
        ("t1", "done", "majority", None),
        ("t2", "unfinished", None, "the client cancelled it"),
        ("t3", "running", None, None),
    ]
    assert await world.sums() == {MODELS[0]: (1, 1), MODELS[1]: (1, 1), MODELS[2]: (0, 1)}
    assert world.clock.sleeping == []


async def test_a_second_full_disk_is_waited_for_like_the_first(world):
    for one in ("t1", "t2"):
        await world.record.call(OpenRecord(opened(one)))
    for one in ("t1", "t2"):
        world.store.full = True
        await world.record.call(CloseRecord(verdict(one, THREE), [0, 1]))
        world.store.full = False
        await world.later()
        await until(lambda one=one: one not in world.running)
        assert (await world.read(one)).tournament.state == "done"


async def test_a_crash_of_the_record_loses_no_verdict_that_waits(world):
    await world.record.call(OpenRecord(opened()))
    world.store.full = True
    await world.record.call(CloseRecord(verdict(ballots=THREE), [0, 1]))
    world.store.full = False
    world.record.incarnation.crash(RuntimeError("a defect"))
    assert (await world.read()).tournament.state == "done"
    assert world.running == {}


async def test_of_more_verdicts_than_are_kept_the_last_are_left_unfinished(world):
    names = [f"t{number:03}" for number in range(MOST_BEHIND + 1)]
    for one in names:
        await world.record.call(OpenRecord(opened(one)))
    world.store.full = True
    for one in names:
        await world.record.call(CloseRecord(verdict(one), []))
    world.store.full = False
    await world.later()
    await until(lambda: not world.running)
    assert world.rows("SELECT id, why FROM tournaments WHERE state != 'done'") == [(names[-1], NO_ROOM)]


async def test_a_verdict_that_no_database_takes_is_heard_and_left_unfinished(world):
    await world.record.call(OpenRecord(opened()))
    wrong = ballot(0, "yes", cost_nano_usd=2**70)
    await world.record.call(CloseRecord(verdict(ballots=(wrong,), cost_nano_usd=1), [0]))
    await world.later()
    await until(lambda: not world.running)
    row = (await world.read()).tournament
    assert (row.state, row.why) == ("unfinished", NO_ROOM)


async def test_ids_of_later_calls_are_above_those_of_tournaments(world):
    assert await last_id(world.store) is None
    await world.record.call(OpenRecord(opened("0cr65gmggex80")))
    assert await last_id(world.store) == "0cr65gmggex80"


# ---- when it ends before they do


async def test_what_an_earlier_process_left_is_unfinished_and_keeps_its_ballots(tmp_path):
    async with opened_world(tmp_path) as world:
        await world.held("t0")
        await world.record.call(OpenRecord(opened()))
        await world.record.call(KeepBallot("t1", THREE[0]))
    async with opened_world(tmp_path) as world:
        stored = await world.read()
        assert (stored.tournament.state, stored.tournament.why, stored.tournament.cost_nano_usd) == (
            "unfinished",
            LOST,
            100,
        )
        assert stored.ballots == [THREE[0]]
        assert (await world.read("t0")).tournament.state == "done"
        assert await world.listed(Tournaments(state="unfinished")) == ["t1"]


async def test_a_crash_of_the_record_leaves_what_runs_running(world):
    await world.record.call(OpenRecord(opened()))
    world.record.incarnation.crash(RuntimeError("a defect"))
    await world.record.call(KeepBallot("t1", THREE[0]))
    assert world.record.restarts == 1
    assert (await world.read()).tournament.state == "running"
    await world.record.call(CloseRecord(verdict(ballots=THREE), [0, 1]))
    assert (await world.read()).tournament.state == "done"


async def test_a_start_on_a_full_disk_serves_and_writes_it_down_later(tmp_path):
    async with opened_world(tmp_path) as world:
        await world.record.call(OpenRecord(opened()))
    async with opened_world(tmp_path, full=True) as world:
        assert (await world.read()).tournament.state == "running"
        await world.clock.turn(TRY_AGAIN_S)
        world.store.full = False
        await world.clock.turn(TRY_AGAIN_S)
        await until(lambda: world.rows("SELECT state, why FROM tournaments") == [("unfinished", LOST)])


# ---- lists


async def test_lists_are_newest_first_filtered_and_paged(world):
    await world.held("t1")
    await world.disputed("t2", task_type=None)
    await world.held("t3", user="ana/kid")
    await world.disputed("t4", user="bob")
    await world.record.call(OpenRecord(opened("t5", user="anabel")))
    assert await world.listed() == ["t5", "t4", "t3", "t2", "t1"]
    assert await world.listed(user="ana") == ["t3", "t2", "t1"]
    assert await world.listed(Tournaments(last=2, before="t4")) == ["t3", "t2"]
    assert await world.listed(Tournaments(state="running")) == ["t5"]
    assert await world.listed(Tournaments(needs_review=True)) == ["t4", "t2"]
    assert await world.listed(Tournaments(needs_review=False, task="facts")) == ["t5", "t3", "t1"]
    assert await world.listed(Reviews()) == ["t4", "t2"]
    assert await world.listed(Reviews(), "ana") == ["t2"]
    assert await world.listed(Reviews(last=1)) == ["t4"]
    assert await world.listed(Reviews(before="t4")) == ["t2"]


@pytest.mark.parametrize(
    ("user", "found"), [("ana", True), (None, True), ("ana/kid", False), ("bob", False), ("an", False)]
)
async def test_the_tournament_of_another_account_is_not_found(world, user, found):
    await world.disputed()
    replay = ReplayRecord(Replay(tournament_id="t1"), user)
    for ask in (
        lambda: world.read(user=user),
        lambda: world.review("yes", user=user),
        lambda: world.record.call(replay),
    ):
        if found:
            await ask()
        else:
            with pytest.raises(NotFound, match="`t1`"):
                await ask()
    assert bool(world.rows("SELECT * FROM audit")) is found


# ---- how reliable that makes models


async def test_reliability_is_smoothed_and_by_task(world):
    assert await world.record.call(ReadReliability(None)) == {}
    await world.held("t1")
    await world.held("t2", ballots=(*THREE[:2], ballot(2, "yes")), agreed=(0, 1, 2), task_type="maths")
    await world.held("t3", task_type=None)
    found = await world.record.call(ReadReliability("facts"))
    assert found == {
        MODELS[0]: Reliability(MODELS[0], 1, 1, 2 / 3),
        MODELS[1]: Reliability(MODELS[1], 1, 1, 2 / 3),
        MODELS[2]: Reliability(MODELS[2], 0, 1, 1 / 3),
    }
    assert (await world.record.call(ReadReliability(None)))[MODELS[2]] == Reliability(MODELS[2], 1, 3, 0.4)
    assert await world.sums("other") == {}


@pytest.mark.parametrize("status", ["unanimous", "consensus", "majority"])
async def test_what_is_decided_counts(world, status):
    await world.held(told={"status": status})
    assert await world.sums() == {MODELS[0]: (1, 1), MODELS[1]: (1, 1), MODELS[2]: (0, 1)}


CHOSEN = Agreement("judge", 2 / 3, 1 / 3, [])


@pytest.mark.parametrize("mode", ["pick", "fuse"])
async def test_what_a_judge_chose_counts_by_its_type_or_once_it_is_reviewed(world, mode):
    await world.held("t1", told={"mode": mode, "agreement": CHOSEN}, spec=None, mode=mode)
    assert await world.sums() == {}
    await world.review(MODELS[2], "t1")
    assert await world.sums() == {MODELS[0]: (0, 1), MODELS[1]: (0, 1), MODELS[2]: (1, 1)}
    await world.held("t2", told={"mode": mode}, mode=mode)
    assert await world.sums() == {MODELS[0]: (1, 2), MODELS[1]: (1, 2), MODELS[2]: (1, 2)}


async def test_an_answer_that_is_no_members_counts_for_nobody_and_against_nobody(world):
    await world.held(agreed=(), told={"mode": "fuse", "winner": None, "answer_kind": "fused"}, mode="fuse")
    assert await world.sums() == {}


async def test_a_vote_that_a_judge_grouped_counts(world):
    await world.held(told={"agreement": CHOSEN}, spec=None)
    assert await world.sums() == {MODELS[0]: (1, 1), MODELS[1]: (1, 1), MODELS[2]: (0, 1)}


@pytest.mark.parametrize("status", ["dispute", "inconclusive", "unscored", "failed"])
async def test_what_decides_nothing_counts_for_nothing_whoever_is_said_to_agree(world, status):
    await world.held(told={"status": status})
    assert await world.sums() == {}


@pytest.mark.parametrize("status", ["unparsed", "failed", "cancelled", "running"])
async def test_a_ballot_that_is_no_answer_counts_neither_way(world, status):
    await world.held(ballots=(*THREE[:2], ballot(2, None, status=status)), agreed=(0, 1))
    assert await world.sums() == {MODELS[0]: (1, 1), MODELS[1]: (1, 1)}
    await world.review("no")
    assert await world.sums() == {MODELS[0]: (0, 1), MODELS[1]: (0, 1)}


async def test_the_same_model_twice_counts_twice(world):
    await world.held(ballots=(*THREE[:2], ballot(2, "no", model=MODELS[0])), agreed=(0, 1))
    assert await world.sums() == {MODELS[0]: (1, 2), MODELS[1]: (1, 1)}


async def test_a_review_counts_what_was_open_and_corrects_what_was_wrong(world):
    await world.disputed("t1")
    await world.held("t2")
    resolved = await world.review("No.", "t1", why="the almanac")
    assert (resolved.answer, resolved.agreed, resolved.disagreed) == ("no", [MODELS[2]], list(MODELS[:2]))
    assert await world.sums() == {MODELS[0]: (1, 2), MODELS[1]: (1, 2), MODELS[2]: (1, 2)}
    await world.review("no", "t2")
    assert await world.sums() == {MODELS[0]: (0, 2), MODELS[1]: (0, 2), MODELS[2]: (2, 2)}
    assert await world.listed(Reviews()) == []
    row = (await world.read("t1")).tournament
    assert (row.needs_review, row.reviewed_answer, row.reviewed_by, row.reviewed_at) == (
        False,
        "no",
        "ana",
        "2027-03-10T12:00:00.000Z",
    )
    assert (await world.read("t1")).verdict.needs_review


async def test_a_second_review_replaces_the_first_and_the_same_again_moves_nothing(world):
    await world.disputed()
    for answer, right in (("yes", (1, 0)), ("yes", (1, 0)), ("no", (0, 1))):
        await world.review(answer)
        assert await world.sums() == {MODELS[0]: (right[0], 1), MODELS[1]: (right[0], 1), MODELS[2]: (right[1], 1)}
    told = world.rows("SELECT actor_uid, user, action, subject, before, after, why FROM audit ORDER BY id")
    assert [row[4:6] for row in told] == [(None, '"yes"'), ('"yes"', '"yes"'), ('"yes"', '"no"')]
    assert {row[:4] for row in told} == {(1000, "ana", "reviews.resolve", "ana: t1")}


async def test_reviews_made_at_once_follow_each_other(world):
    await world.disputed()
    await asyncio.gather(*[world.review(answer) for answer in ("yes", "no", "yes", "no")])
    told = world.rows("SELECT before, after FROM audit ORDER BY id")
    assert told == [(None, '"yes"'), ('"yes"', '"no"'), ('"no"', '"yes"'), ('"yes"', '"no"')]
    assert await world.sums() == {MODELS[0]: (0, 1), MODELS[1]: (0, 1), MODELS[2]: (1, 1)}


async def test_an_answer_of_another_type_is_refused_with_what_the_type_wants_and_changes_nothing(world):
    await world.disputed()
    with pytest.raises(BadRequest, match="`perhaps` is no answer of this tournament: say yes or no"):
        await world.review("perhaps")
    assert await world.listed(Reviews()) == ["t1"]
    assert (await world.sums(), world.rows("SELECT * FROM audit")) == ({}, [])


async def test_one_that_runs_is_not_reviewed_and_one_that_was_left_may_be(world):
    await world.record.call(OpenRecord(opened()))
    await world.record.call(KeepBallot("t1", THREE[2]))
    with pytest.raises(BadRequest, match="still runs"):
        await world.review("no")
    await world.record.call(AbandonRecord("t1", "stopped"))
    await world.review("no")
    assert await world.sums() == {MODELS[2]: (1, 1)}


async def test_a_review_is_refused_whole_on_a_full_disk(world):
    await world.disputed()
    world.store.full = True
    with pytest.raises(LedgerReadonly):
        await world.review("no")
    assert await world.listed(Reviews()) == ["t1"]
    assert await world.sums() == {}


async def test_without_a_type_a_member_is_named_and_those_of_its_cluster_agree(world):
    await world.disputed(spec=None)
    resolved = await world.review(MODELS[0])
    assert (resolved.answer, resolved.agreed, resolved.disagreed) == (MODELS[0], list(MODELS[:2]), [MODELS[2]])


async def test_numbers_within_the_tolerance_are_right(world):
    spec = AnswerSpec(type="number", tolerance=0.1)
    await world.disputed(spec=spec, ballots=(ballot(0, "1.1"), ballot(1, "1.2"), ballot(2, "1.0")))
    assert (await world.review("1.1")).disagreed == []
    assert (await world.review("1")).disagreed == [MODELS[1]]


async def test_the_sums_are_always_those_of_the_ballots(world):
    rng = random.Random(5)
    for number in range(12):
        ballots = tuple(
            ballot(slot, rng.choice(["yes", "no", None]), model=rng.choice(MODELS)) for slot in range(rng.randint(2, 5))
        )
        agreed = [one.slot for one in ballots if one.answer == "yes"]
        status = rng.choice(["majority", "dispute", "consensus"])
        await world.held(
            f"t{number}", ballots, agreed, {"status": status}, task_type=rng.choice(["facts", "maths", None])
        )
    for _ in range(30):
        await world.review(rng.choice(["yes", "no"]), f"t{rng.randrange(12)}")
    counted = world.rows(
        "SELECT ballots.model, coalesce(task_type, ''), sum(agreed), count(agreed) FROM ballots JOIN tournaments ON id = tournament_id"
        " GROUP BY 1, 2 HAVING count(agreed) ORDER BY 1, 2"
    )
    assert (
        world.rows("SELECT model, task_type, agreed, counted FROM reliability WHERE counted ORDER BY 1, 2") == counted
    )


@pytest.mark.parametrize("seed", range(25))
async def test_a_replay_of_what_is_stored_is_what_was_found(world, seed):
    asked, ballots, told = played(random.Random(1000 + seed))
    await world.record.call(OpenRecord(asked))
    await world.record.call(CloseRecord(told, [0]))
    again = await world.record.call(ReplayRecord(Replay(tournament_id="t1"), "ana"))
    assert again.differs == []
    assert [each.slot for each in again.verdict.ballots] == [each.slot for each in ballots]
