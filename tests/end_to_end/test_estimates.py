"""What calls would cost, with a real daemon: as the ledger then has it, by task and by model, and without calling anyone."""

import asyncio
import json
import sqlite3
from contextlib import closing, contextmanager

import pytest
import running_daemon
import scripted_server
import simulated_provider
from running_daemon import eventually, priced, provider

from protocols.errors import BadRequest, NoEligibleModel, OverrideInvalid, QuorumError, UnknownModel, UnknownProvider

PAID = ("gpt-4o", "gpt-4o-mini")
HOME = ("llama3.2:latest", "unheard-of")
TASKS = '[tasks.poem]\nstrength = "narrative"\nprompt_tokens = 1001\nresponse_tokens = 100\n'
TOLD = {"messages": [{"role": "user", "content": "tell me a story"}]}
"""15 bytes, which are 4 tokens."""
DAY_US = 86_400_000_000
GPT_IN, GPT_OUT, MINI_IN, MINI_OUT = 2_500, 10_000, 150, 600
"""Nano-dollars a token."""


@pytest.fixture(scope="module")
def paid():
    with simulated_provider.running(models=PAID) as running:
        yield running


@contextmanager
def daemon_with(paid, home, more=""):
    config = provider("openai", "openai", paid.base_url(), local=False)
    config += provider("home", "openai", home.base_url(), local=True)
    config += priced("openai:gpt-4o", usd_in=2.5, usd_out=10.0) + priced("openai:gpt-4o-mini", usd_in=0.15, usd_out=0.6)
    with running_daemon.running(config + TASKS + more) as daemon:
        eventually(lambda: len(daemon.call("models")["models"]) >= len(PAID + HOME), "both have listed")
        yield daemon


@pytest.fixture(scope="module")
def home():
    with simulated_provider.running(models=HOME) as running:
        yield running


@pytest.fixture(scope="module")
def shared(paid, home):
    with daemon_with(paid, home) as daemon:
        yield daemon


@pytest.fixture
def daemon(paid, home):
    with daemon_with(paid, home) as daemon:
        yield daemon


class TestARequest:
    def test_is_reckoned_at_the_target_of_chat_with_the_tokens_of_its_task(self, shared):
        told = shared.call("estimate", **TOLD, task_type="poem", model="openai:gpt-4o")
        cost = 4 * GPT_IN + 100 * GPT_OUT
        assert (told["total_nano_usd"], told["by_task"], told["by_model"]) == (
            cost,
            {"poem": cost},
            {"openai:gpt-4o": cost},
        )
        (row,) = told["assumptions"]
        assert (row["prompt_tokens"], row["prompt_source"]) == (4, "estimate")
        assert (row["response_tokens"], row["response_source"]) == (100, "task")
        assert (row["calls"], row["why"], row["local"]) == (1, "the call names the model", False)
        assert row["price_version"]
        assert (told["missing"], told["fault"]) == ([], None)
        explained = shared.call("explain", **TOLD, task_type="poem", model="openai:gpt-4o")
        assert row["bound_nano_usd"] == explained["decision"]["bound_nano_usd"] > cost

    @pytest.mark.parametrize(
        ("said", "tokens"),
        [
            ({}, (500, "default")),
            ({"task_type": "a label of mine"}, (500, "default")),
            ({"max_tokens": 5}, (5, "limit")),
            ({"max_tokens": 5, "task_type": "poem"}, (5, "limit")),
            ({"max_tokens": 5000, "task_type": "poem"}, (100, "task")),
        ],
    )
    def test_has_an_answer_as_long_as_is_assumed_and_allowed(self, shared, said, tokens):
        told = shared.call("estimate", **TOLD, model="openai:gpt-4o", **said)
        (row,) = told["assumptions"]
        assert (row["response_tokens"], row["response_source"]) == tokens
        assert told["total_nano_usd"] == 4 * GPT_IN + tokens[0] * GPT_OUT

    def test_costs_what_the_ledger_has_when_the_answer_is_as_long_as_assumed(self, daemon, paid):
        paid.set(text="abcd" * 100, no_usage=True)
        said = {**TOLD, "task_type": "poem", "model": "openai:gpt-4o"}
        expected = daemon.call("estimate", **said)["total_nano_usd"]
        answer = daemon.call("chat", **said)
        paid.reset()
        assert answer["cost_nano_usd"] == expected > 0

    def test_to_a_local_model_is_free(self, shared):
        told = shared.call("estimate", **TOLD, model="home:unheard-of")
        assert (told["total_nano_usd"], told["assumptions"][0]["local"]) == (0, True)

    def test_without_a_known_price_is_unknown_and_never_zero(self, shared):
        told = shared.call("estimate", **TOLD, model="openai:nobody-knows", task_type="poem")
        assert (told["total_nano_usd"], told["by_task"], told["by_model"]) == (None, {}, {})
        assert "no price is known for `openai:nobody-knows`" in told["missing"][0]["why"]
        assert told["assumptions"][0]["bound_nano_usd"] is None

    @pytest.mark.parametrize(
        ("said", "fault"),
        [
            ({"model": "nope:x"}, UnknownProvider),
            ({"model": "x"}, UnknownModel),
            ({"override_token": "made up"}, OverrideInvalid),
            ({"max_tokens": 0}, BadRequest),
        ],
    )
    def test_that_chat_would_refuse_is_refused_alike(self, shared, said, fault):
        with pytest.raises(fault) as of_estimate:
            shared.call("estimate", **TOLD, **said)
        with pytest.raises(fault) as of_chat:
            shared.call("chat", **TOLD, **said)
        assert of_estimate.value.message == of_chat.value.message

    def test_for_which_there_is_no_model_is_refused_as_chat_would(self):
        with (
            running_daemon.running(provider("off", "openai", "http://127.0.0.1:9/v1")) as daemon,
            pytest.raises(NoEligibleModel),
        ):
            daemon.call("estimate", **TOLD)

    def test_above_the_budget_is_reckoned_all_the_same_and_says_so(self, daemon):
        said = {**TOLD, "model": "openai:gpt-4o", "max_tokens": 50}
        daemon.call("settings.set", key="month_usd", value=0.0)
        told = daemon.call("estimate", **said)
        assert told["total_nano_usd"] == 4 * GPT_IN + 50 * GPT_OUT
        assert told["fault"]["code"] == "override_required"
        daemon.call("settings.set", key="auto_fallback_to_local", value=True)
        told = daemon.call("estimate", **said)
        assert (told["total_nano_usd"], list(told["by_model"]), told["fault"]) == (0, ["home:llama3.2:latest"], None)
        assert "local" in told["assumptions"][0]["why"]
        assert daemon.call("holds") == {"holds": []}

    def test_with_a_token_for_the_same_chat_is_no_longer_refused(self, daemon):
        said = {**TOLD, "model": "openai:gpt-4o", "max_tokens": 50}
        daemon.call("settings.set", key="month_usd", value=0.0)
        with daemon.json_lines() as lines:
            lines.send({"t": "call", "id": 1, "method": "chat", "params": said})
            token = lines.until_end_of(1)[-1]["detail"]["override_token"]
        assert daemon.call("estimate", **said, override_token=token)["fault"] is None


class TestAMix:
    def test_of_tasks_is_summed_by_task_and_by_model(self, shared):
        told = shared.call("estimate", quality_tier="balanced", usage={"poem": 100, "tag": 20, "dialogue": 0})
        poem = 100 * (1001 * MINI_IN + 100 * MINI_OUT)
        assert told["by_task"] == {"poem": poem, "tag": 0, "dialogue": 0}
        assert told["by_model"] == {"openai:gpt-4o-mini": poem, "home:llama3.2:latest": 0}
        assert (told["total_nano_usd"], told["missing"]) == (poem, [])
        row = told["assumptions"][0]
        assert (row["task"], row["model"], row["calls"], row["prompt_tokens"], row["response_tokens"]) == (
            "poem",
            "openai:gpt-4o-mini",
            100,
            1001,
            100,
        )
        assert (row["cost_nano_usd"], row["why"]) == (
            poem // 100,
            "the most quality for the money at narrative (quality 7)",
        )

    @pytest.mark.parametrize("tier", ["budget", "balanced", "premium"])
    @pytest.mark.parametrize("wishes", [{}, {"prefer_local": True, "budget_tier_allows_paid": True}])
    def test_has_the_models_that_recommend_names(self, shared, tier, wishes):
        tasks = ("poem", "tag", "theme_analysis", "scene_writing")
        told = shared.call("estimate", quality_tier=tier, usage=dict.fromkeys(tasks, 1), **wishes)
        models = {row["task"]: row["model"] for row in told["assumptions"]}
        models |= {each["task"]: None for each in told["missing"]}
        for task in tasks:
            recommended = shared.call("recommend", task_type=task, **wishes)[tier]
            assert models[task] == (recommended and recommended["model"])

    def test_of_a_writer_costs_nothing_in_the_budget_tier_and_most_in_premium(self, shared):
        mix = {"dialogue": 200, "scene_writing": 40, "tag": 1000}
        totals = [
            shared.call("estimate", quality_tier=tier, usage=mix)["total_nano_usd"]
            for tier in ("budget", "balanced", "premium")
        ]
        assert totals[0] == 0
        assert 0 < totals[1] < totals[2]

    def test_names_what_no_model_will_do_and_leaves_it_out_of_the_sums(self, shared):
        told = shared.call("estimate", quality_tier="budget", usage={"tag": 5, "theme_analysis": 3})
        assert (told["total_nano_usd"], told["by_task"]) == (0, {"tag": 0})
        (missing,) = told["missing"]
        assert (missing["task"], missing["model"], missing["calls"]) == ("theme_analysis", None, 3)
        assert "get a local one" in missing["why"]
        alone = shared.call("estimate", quality_tier="budget", usage={"theme_analysis": 3})
        assert (alone["total_nano_usd"], alone["by_model"], alone["assumptions"]) == (None, {}, [])

    def test_with_paid_models_in_the_budget_tier_says_that_they_exceed_it(self, shared):
        told = shared.call("estimate", quality_tier="budget", usage={"theme_analysis": 3}, budget_tier_allows_paid=True)
        assert told["assumptions"][0]["tier_exceeded"]
        assert told["total_nano_usd"] == 3 * (2000 * GPT_IN + 800 * GPT_OUT)

    @pytest.mark.parametrize(
        ("said", "told"),
        [
            ({"usage": {"pome": 1}, "quality_tier": "budget"}, "did you mean `poem`"),
            ({"usage": {"poem": 1}}, "quality_tier"),
            ({"usage": {"poem": -1}, "quality_tier": "budget"}, "usage"),
            ({"usage": {"poem": 1}, "quality_tier": "budget", "model": "openai:gpt-4o"}, "`model` does not go"),
            ({}, "`messages`, as to `chat`"),
        ],
    )
    def test_that_is_none_is_a_bad_request(self, shared, said, told):
        with pytest.raises(BadRequest, match=told):
            shared.call("estimate", **said)

    def test_is_at_a_simulated_model_only_where_there_is_nothing_else(self, paid, home):
        made_up = provider("made_up", "simulated", home.base_url())
        made_up += priced("made_up:sim", quality=10, strengths=["narrative"])
        said = {"quality_tier": "premium", "usage": {"poem": 1}}
        with daemon_with(paid, home, made_up) as daemon:
            assert list(daemon.call("estimate", **said)["by_model"]) == ["openai:gpt-4o"]
            assert daemon.call("recommend", task_type="poem")["premium"]["model"] == "openai:gpt-4o"
        with running_daemon.running(made_up + TASKS) as daemon:
            assert list(daemon.call("estimate", **said)["by_model"]) == ["made_up:sim"]

    def test_that_costs_more_than_a_number_can_say_is_a_bad_request(self, paid, home):
        gold = priced("openai:gold", usd_in=1e6, usd_out=1e6, quality=10, strengths=["narrative"])
        with daemon_with(paid, home, gold) as daemon:
            assert daemon.call("estimate", quality_tier="premium", usage={"poem": 1000})["total_nano_usd"] > 10**15
            with pytest.raises(BadRequest, match="estimate fewer"):
                daemon.call("estimate", quality_tier="premium", usage={"poem": 10**9})


class TestASaving:
    def test_is_told_of_ones_own_paid_calls_of_the_task(self, daemon):
        for task, model in (("poem", "gpt-4o"), ("poem", "gpt-4o"), ("tag", "gpt-4o"), ("poem", "gpt-4o-mini")):
            daemon.call("chat", **TOLD, model=f"openai:{model}", task_type=task)
        daemon.call("chat", **TOLD, model="home:llama3.2:latest", task_type="poem")
        rows = [row for row in daemon.rows() if row["task_type"] == "poem" and row["cost_nano_usd"]]
        old = [row for row in rows if row["model"] == "openai:gpt-4o"]
        cheaper = sum(row["prompt_tokens"] * MINI_IN + row["response_tokens"] * MINI_OUT for row in old)
        saving = daemon.call("recommend", task_type="poem")["saving"]
        assert saving["model"] == "openai:gpt-4o-mini"
        assert saving["spent_nano_usd"] == sum(row["cost_nano_usd"] for row in rows)
        assert saving["saved_nano_usd"] == sum(row["cost_nano_usd"] for row in old) - cheaper > 0
        assert (saving["calls"], saving["days"]) == (3, 30)
        assert "in the last 30 days with openai:gpt-4o-mini" in saving["why"]
        assert "saving" not in daemon.call("recommend", task_type="dialogue")

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ("user = user || 'x'", False),
            ("user = user || '/bob'", True),
            (f"created_at = created_at - {29 * DAY_US}", True),
            (f"created_at = created_at - {30 * DAY_US}", False),
            ("status = 'truncated'", False),
        ],
    )
    def test_is_told_of_the_last_thirty_days_of_the_account_and_of_good_answers(self, daemon, changed, told):
        daemon.call("chat", **TOLD, model="openai:gpt-4o", task_type="poem")
        daemon.stop()
        with closing(sqlite3.connect(daemon.state / "quorumd.sqlite3")) as database, database:
            database.execute(f"UPDATE usage SET {changed}")
        daemon.start()
        eventually(lambda: len(daemon.call("models")["models"]) >= len(PAID + HOME), "both have listed")
        assert ("saving" in daemon.call("recommend", task_type="poem")) == told


def listing(*models):
    body = json.dumps({"data": [{"id": model} for model in models]}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def ask_often(daemon, times):
    with daemon.connect() as quorum:
        for _ in range(times):
            for method in ("estimate", "explain"):
                quorum.call(method, **TOLD, model="openai:gpt-4o", task_type="tag")
                quorum.call(method, **TOLD, provider="openai")
                quorum.call(method, **TOLD)
            for tier in ("budget", "balanced", "premium"):
                quorum.call("estimate", quality_tier=tier, usage={"tag": 5, "dialogue": 3})
            quorum.call("recommend", task_type="tag")


@pytest.mark.anyio
async def test_neither_estimate_nor_explain_opens_a_connection():
    async with scripted_server.serving(scripted_server.answering(listing("gpt-4o"))) as upstream:
        config = provider("openai", "openai", f"{upstream.url}/v1", local=False, probe_every_s=3600.0)
        with running_daemon.running(config, start=False) as daemon:
            await asyncio.to_thread(daemon.start)
            await asyncio.to_thread(eventually, lambda: daemon.call("models")["models"], "it has listed")
            before = upstream.connections, len(upstream.requests)
            assert before == (1, 1)
            await asyncio.to_thread(ask_often, daemon, 20)
            assert (upstream.connections, len(upstream.requests)) == before
            assert all(request.startswith(b"GET ") for request in upstream.requests)
            with pytest.raises(QuorumError):  # what it says is no chat, but it is asked: the counts count
                await asyncio.to_thread(daemon.call, "chat", **TOLD, model="openai:gpt-4o")
            assert upstream.connections > before[0]
            assert upstream.requests[1].startswith(b"POST ")
