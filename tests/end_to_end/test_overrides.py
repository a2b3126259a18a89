"""Calls above a user's budget that run because somebody said so: once, by a token, or by an amount granted for a while."""

import grp
import os
import pwd
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
import running_daemon
import simulated_provider
from running_daemon import PATIENCE_S, Daemon, JsonLines, priced, provider
from simulated_provider import Provider, model

from protocols.chat import ChatAnswer
from protocols.errors import BadRequest, BudgetExceeded, NotFound, OverrideInvalid, OverrideRequired, QuorumError

TOKEN_NANO = 100_000
"""A paid answer's token costs 0.0001 $ and a prompt nothing: a call's bound is its `max_tokens`."""
SPENDS = model(response_tokens=10_170)
DIME = model(response_tokens=1_000)
LATE = model(response_tokens=1_000, latency_ms=400)
FAILS = model(fail=500)
NOBODY = pwd.getpwnam("nobody")
NUMBERED = count()
UNTIL = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
NAMES = ("claude", "opus", SPENDS, DIME, LATE, FAILS)

CONFIG = """
[daemon]
timezone = "UTC"
[rights]
use_group = "{group}"
[limits]
users.stopped = {{ month_usd = 0.04, hard = true }}
apps.capped = {{ month_usd = 0.04 }}
"""


def config(upstream: Provider) -> str:
    return "\n".join(
        [
            CONFIG.format(group=grp.getgrgid(NOBODY.pw_gid).gr_name),
            provider("paid", "openai", upstream.base_url()),
            provider("ollama", "ollama", upstream.base_url("ollama")),
            priced(*[f"paid:{name}" for name in NAMES], usd_in=0.0, usd_out=TOKEN_NANO / 1_000),
            '[models."ollama:llama3.2"]\nquality = 5\n',
        ]
    )


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running(models=["claude", "opus", "sim", "llama3.2"]) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(upstream: Provider) -> Iterator[Daemon]:
    with running_daemon.running(config(upstream)) as running:
        running.folder.chmod(0o755)
        yield running


@pytest.fixture(autouse=True)
def fresh(upstream: Provider) -> None:
    upstream.reset()


def spender(daemon: Daemon, upstream: Provider, month_usd: float = 1.0) -> str:
    """A new account that has spent 1.017 $ of 1 $."""
    user = f"@user-{next(NUMBERED)}"
    ask(daemon, user, model=f"paid:{SPENDS}", max_tokens=10_170)
    settle(daemon, user, month_usd=month_usd)
    upstream.reset()
    return user


def settle(daemon: Daemon, user: str, **settings: Any) -> None:
    with daemon.connect() as quorum:
        for key, value in settings.items():
            quorum.call("settings.set", key=key, value=value, user=user)


def ask(daemon: Daemon, user: str, prompt: str = "hello", *, app: str = "test", **said: Any) -> ChatAnswer:
    """A chat that may cost 5 cents, unless said otherwise."""
    with daemon.connect(app) as quorum:
        return quorum.chat(prompt, user=user, **({"model": "paid:claude", "max_tokens": 500} | said))


def asked(daemon: Daemon, user: str, **said: Any) -> str:
    """The token that comes with the question."""
    with pytest.raises(OverrideRequired) as question:
        ask(daemon, user, **said)
    token: str = question.value.detail["override_token"]
    return token


def at_once(daemon: Daemon, user: str, calls: int, **said: Any) -> Counter[str]:
    """How many of many calls on one connection ended how."""
    params = {"messages": [{"role": "user", "content": "hello"}], "user": user} | said
    with daemon.json_lines() as lines:
        lines.send(*[{"t": "call", "id": at, "method": "chat", "params": params} for at in range(calls)])
        ends: list[dict[str, Any]] = []
        while len(ends) < calls:
            message = lines.hear()
            assert message is not None
            ends += [message] if message["t"] in {"done", "fault"} else []
    return Counter(end.get("code", end["t"]) for end in ends)


@contextmanager
def somebody(daemon: Daemon) -> Iterator[JsonLines]:
    """JSON lines of another account, which may use the daemon and not operate it."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE_S)
        os.setegid(NOBODY.pw_gid)
        os.seteuid(NOBODY.pw_uid)
        try:
            raw.connect(str(daemon.socket))
        finally:
            os.seteuid(0)
            os.setegid(0)
        yield JsonLines(raw)


def call(lines: JsonLines, method: str, **params: Any) -> Any:
    """The result, or the fault's code and message."""
    lines.send({"t": "call", "id": 1, "method": method, "params": params})
    end = lines.until_end_of(1)[-1]
    return end["value"] if end["t"] == "done" else (end["code"], end["message"])


def audited(daemon: Daemon, action: str, **which: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.call("audit", action=action, **which)["entries"]
    return found


def granted(daemon: Daemon, user: str, amount_usd: float, **said: Any) -> dict[str, Any]:
    row: dict[str, Any] = daemon.call(
        "overrides.grant", **({"user": user, "amount_usd": amount_usd, "until": UNTIL, "why": "the release"} | said)
    )
    return row


def listed(daemon: Daemon, user: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = daemon.call("overrides.list", user=user)["overrides"]
    return rows


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


class TestToken:
    def test_a_question_whose_language_goes_to_the_model_is_confirmed_as_it_was_asked(self, daemon, upstream):
        user = spender(daemon, upstream)
        token = asked(daemon, user, hint="en", language_hint=True)
        with pytest.raises(OverrideInvalid):
            ask(daemon, user, hint="de", language_hint=True, override_token=token)
        assert ask(daemon, user, hint="en", language_hint=True, override_token=token).model_used == "paid:claude"

    def test_the_question_is_confirmed_by_exactly_one_call_and_an_audit_entry(self, daemon, upstream):
        user = spender(daemon, upstream)
        with pytest.raises(OverrideRequired) as question:
            ask(daemon, user, app="editor")
        words = "Budget exceeded (101.7% used). Continue with claude ($0.05) or use the free llama3.2?"
        assert (question.value.message, upstream.chats()) == (words, [])
        answer = ask(daemon, user, app="editor", override_token=question.value.detail["override_token"])
        assert [chat["model"] for chat in upstream.chats()] == ["claude"]
        assert (answer.model_used, answer.decision.reason) == ("paid:claude", "explicit_model")
        assert "override" in [warning.code for warning in answer.warnings]
        (row,) = daemon.call("usage", user=user, app="editor")["rows"]
        assert (row["marks"], row["held_nano_usd"]) == (["override"], 50_000_000)
        entry = audited(daemon, "override.confirmed")[0]
        assert (entry["actor_uid"], entry["user"], entry["app"]) == (
            os.geteuid(),
            pwd.getpwuid(os.geteuid()).pw_name,
            "editor",
        )
        assert entry["subject"] == answer.usage_id
        assert (int(entry["before"]), entry["cost_nano_usd"]) == (1_017_000_000, answer.cost_nano_usd)
        assert int(entry["after"]) == 1_017_000_000 + answer.cost_nano_usd
        assert datetime.fromisoformat(entry["at"]) <= datetime.now(UTC)
        daemon.balanced()

    def test_it_is_good_once(self, daemon, upstream):
        user = spender(daemon, upstream)
        token = asked(daemon, user)
        ask(daemon, user, override_token=token)
        for _ in range(2):
            with pytest.raises(OverrideInvalid):
                ask(daemon, user, override_token=token)
        assert len(upstream.chats()) == 1

    @pytest.mark.parametrize(
        "changed",
        [
            {"prompt": "hello!"},
            {"model": "paid:opus"},
            {"max_tokens": 501},
            {"temperature": 0.5},
            {"admission": "soft"},
            {"allow_fallback": True},
            {"user": "@user-other"},
            {"user": "below"},
            {"override_token": "made-up"},
            {"override_token": ""},
            {"override_token": "x" * 256},
        ],
        ids="-".join,
    )
    def test_anything_that_is_changed_makes_it_invalid_and_nothing_is_sent(self, daemon, upstream, changed):
        user = spender(daemon, upstream)
        token = asked(daemon, user)
        settle(daemon, "@user-other", month_usd=0.01)
        said = {"user": user, "override_token": token} | changed
        if said["user"] == "below":
            said["user"] = f"{user}/bob"
        with pytest.raises(OverrideInvalid):
            ask(daemon, **said)
        assert upstream.chats() == []
        assert ask(daemon, user, override_token=token).model_used == "paid:claude"

    def test_how_the_answer_is_delivered_is_not_compared(self, daemon, upstream):
        user = spender(daemon, upstream)
        token = asked(daemon, user)
        with daemon.connect() as quorum:
            stream = quorum.stream("hello", user=user, model="paid:claude", max_tokens=500, override_token=token)
            assert "".join(piece.text for piece in stream)
        with daemon.connect() as quorum, pytest.raises(OverrideRequired) as question:
            list(quorum.stream("hello", user=user, model="paid:claude", max_tokens=500))
        assert ask(daemon, user, override_token=question.value.detail["override_token"]).text
        assert len(upstream.chats()) == 2

    @as_root
    @pytest.mark.parametrize("user", [None, "bob"])
    def test_another_account_can_not_use_it_although_it_says_the_very_same(self, daemon, upstream, user):
        said = {
            "messages": [{"role": "user", "content": "hello"}],
            "model": "paid:claude",
            "max_tokens": 500,
            "user": user,
        }
        with daemon.connect() as quorum, somebody(daemon) as lines:
            quorum.call("settings.set", key="month_usd", value=0.01, user=user)
            call(lines, "settings.set", key="month_usd", value=0.01, user=user)
            with pytest.raises(OverrideRequired) as question:
                quorum.call("chat", **said)
            token = question.value.detail["override_token"]
            assert call(lines, "chat", **said)[0] == "override_required"
            assert call(lines, "chat", **said, override_token=token)[0] == "override_invalid"
            assert call(lines, "chat", **said | {"user": "@root"}, override_token=token)[0] == "forbidden"
            assert upstream.chats() == []
            assert quorum.call("chat", **said, override_token=token)["text"]
            quorum.call("settings.unset", key="month_usd", user=user)
            call(lines, "settings.unset", key="month_usd", user=user)

    def test_many_at_once_with_one_token_make_one_call(self, daemon, upstream):
        user = spender(daemon, upstream)
        said = {"model": f"paid:{LATE}", "max_tokens": 1_000}
        token = asked(daemon, user, **said)
        heard = at_once(daemon, user, 20, override_token=token, **said)
        assert heard == {"done": 1, "override_invalid": 19}
        assert len(upstream.chats()) == 1
        assert len([entry for entry in audited(daemon, "override.confirmed") if entry["cost_nano_usd"] is None]) == 0
        daemon.balanced()

    def test_each_question_has_a_token_of_its_own(self, daemon, upstream):
        user = spender(daemon, upstream)
        first, second = asked(daemon, user), asked(daemon, user)
        assert first != second
        ask(daemon, user, override_token=second)
        ask(daemon, user, override_token=first)
        assert len(upstream.chats()) == 2

    def test_with_room_again_it_works_once_and_the_row_is_an_ordinary_one(self, daemon, upstream):
        user = spender(daemon, upstream)
        token = asked(daemon, user)
        settle(daemon, user, month_usd=100.0)
        ask(daemon, user, override_token=token)
        assert daemon.call("usage", user=user, last=1)["rows"][0]["marks"] == []
        with pytest.raises(OverrideInvalid):
            ask(daemon, user, override_token=token)
        assert len(upstream.chats()) == 1

    def test_after_a_restart_none_is_good(self, upstream):
        with running_daemon.running(config(upstream)) as daemon:
            user = spender(daemon, upstream)
            token = asked(daemon, user)
            daemon.restart()
            with pytest.raises(OverrideInvalid):
                ask(daemon, user, override_token=token)
            assert upstream.chats() == []
            assert ask(daemon, user, override_token=asked(daemon, user)).text

    def test_a_confirmed_call_that_fails_leaves_its_entry_at_no_cost_and_the_token_used(self, daemon, upstream):
        user = spender(daemon, upstream)
        said = {"model": f"paid:{FAILS}"}
        token = asked(daemon, user, **said)
        with pytest.raises(QuorumError) as failed:
            ask(daemon, user, override_token=token, **said)
        assert failed.value.code == "provider_error"
        entry = audited(daemon, "override.confirmed")[0]
        assert (entry["cost_nano_usd"], entry["after"]) == (0, entry["before"])
        with pytest.raises(OverrideInvalid):
            ask(daemon, user, override_token=token, **said)


class TestGrant:
    def test_calls_run_unasked_until_the_amount_is_used_up_and_are_marked(self, daemon, upstream):
        user = spender(daemon, upstream)
        granted(daemon, user, 0.25)
        said = {"model": f"paid:{DIME}", "max_tokens": 1_000}
        for spent in (100_000_000, 200_000_000):
            assert "override" in [warning.code for warning in ask(daemon, user, **said).warnings]
            (row,) = listed(daemon, user)
            assert (row["spent_nano_usd"], row["held_nano_usd"], row["amount_nano_usd"]) == (spent, 0, 250_000_000)
        with pytest.raises(OverrideRequired):
            ask(daemon, user, **said)
        assert ask(daemon, user, max_tokens=500).model_used == "paid:claude"  # what is left is enough for this one
        assert [row["marks"] for row in daemon.call("usage", user=user, last=3)["rows"]] == [["override"]] * 3
        daemon.balanced()

    def test_what_fits_the_budget_is_not_counted_in_it(self, daemon, upstream):
        user = spender(daemon, upstream, month_usd=2.0)
        granted(daemon, user, 1.0)
        ask(daemon, user, model=f"paid:{DIME}", max_tokens=1_000)
        assert listed(daemon, user)[0]["spent_nano_usd"] == 0
        assert daemon.call("usage", user=user, last=1)["rows"][0]["marks"] == []

    @pytest.mark.parametrize("admission", ["strict", "queue"])
    def test_however_many_ask_at_once_no_more_runs_than_was_granted(self, daemon, upstream, admission):
        user = spender(daemon, upstream)
        granted(daemon, user, 1.05)
        heard = at_once(daemon, user, 50, model=f"paid:{LATE}", max_tokens=1_000, admission=admission)
        assert heard == {"done": 10, "override_required": 40}
        assert len(upstream.chats()) == 10
        (row,) = listed(daemon, user)
        assert (row["spent_nano_usd"], row["held_nano_usd"]) == (1_000_000_000, 0)
        daemon.balanced()

    def test_revoked_it_ends_and_what_runs_still_settles(self, daemon, upstream):
        user = spender(daemon, upstream)
        row = granted(daemon, user, 1.0)
        with ThreadPoolExecutor(1) as one:
            running = one.submit(ask, daemon, user, model=f"paid:{LATE}", max_tokens=1_000)
            upstream.wait_for(lambda chats: len(chats) == 1)
            daemon.call("overrides.revoke", override_id=row["override_id"])
            asked(daemon, user)
            assert running.result().cost_nano_usd == 100_000_000
        assert listed(daemon, user) == []
        with pytest.raises(NotFound):
            daemon.call("overrides.revoke", override_id=row["override_id"])
        daemon.balanced()

    def test_it_ends_at_its_time(self, daemon, upstream):
        user = spender(daemon, upstream)
        until = datetime.now(UTC) + timedelta(seconds=1.0)
        granted(daemon, user, 1.0, until=until.isoformat())
        assert ask(daemon, user).text
        running_daemon.eventually(lambda: datetime.now(UTC) > until, "its time has come")
        asked(daemon, user)
        assert listed(daemon, user) == []

    def test_limits_that_are_hard_hold(self, daemon, upstream):
        user = spender(daemon, upstream)
        granted(daemon, user, 10.0)
        with pytest.raises(BudgetExceeded) as refused:
            ask(daemon, user, app="capped")
        assert refused.value.detail["scope"] == "app:capped"
        granted(daemon, "@stopped", 10.0)
        with pytest.raises(BudgetExceeded) as refused:
            ask(daemon, "@stopped")
        assert refused.value.detail["scope"] == "user:stopped"
        assert upstream.chats() == []

    def test_it_is_for_its_user_alone(self, daemon, upstream):
        user, other = spender(daemon, upstream), spender(daemon, upstream)
        granted(daemon, user, 10.0)
        granted(daemon, f"{user}/bob", 10.0)
        asked(daemon, other)
        assert ask(daemon, f"{user}/bob").text  # below the account, whose budget the account's own override extends
        below = f"{other}/bob"
        granted(daemon, below, 10.0)
        asked(daemon, below)

    def test_it_survives_a_restart_with_what_is_spent_of_it(self, upstream):
        with running_daemon.running(config(upstream)) as daemon:
            user = spender(daemon, upstream)
            granted(daemon, user, 0.25)
            said = {"model": f"paid:{DIME}", "max_tokens": 1_000}
            ask(daemon, user, **said)
            before = listed(daemon, user)
            for stop in (daemon.stop, daemon.kill):
                stop()
                daemon.start()
                assert listed(daemon, user) == before
            ask(daemon, user, **said)
            asked(daemon, user, **said)
            assert listed(daemon, user)[0]["spent_nano_usd"] == 200_000_000
            daemon.call("overrides.revoke", override_id=before[0]["override_id"])
            daemon.restart()
            assert listed(daemon, user) == []
            asked(daemon, user, max_tokens=100)
            daemon.balanced()

    def test_who_granted_and_revoked_it_why_and_how_much_is_audited(self, daemon, upstream):
        user = spender(daemon, upstream)
        row = granted(daemon, user, 0.25, why="the demo on Friday")
        assert (row["why"], row["granted_by"]) == ("the demo on Friday", pwd.getpwuid(os.geteuid()).pw_name)
        assert row["until"].startswith(UNTIL[:-1])
        answer = ask(daemon, user)
        daemon.call("overrides.revoke", override_id=row["override_id"])
        grant, revoke = audited(daemon, "override.granted")[0], audited(daemon, "override.revoked")[0]
        for entry in (grant, revoke):
            assert entry["subject"] == f"{user[1:]}: {row['override_id']}"
            assert (entry["actor_uid"], entry["app"]) == (os.geteuid(), "test")
        assert (grant["before"], grant["after"], grant["why"]) == (None, "250000000", "the demo on Friday")
        assert (revoke["before"], revoke["after"]) == ("250000000", None)
        assert answer.usage_id not in [entry["subject"] for entry in audited(daemon, "override.confirmed")]

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"amount_usd": 0}, "amount_usd"),
            ({"amount_usd": 0.0}, "amount_usd"),
            ({"amount_usd": 1e-12}, "amount_usd"),
            ({"amount_usd": -1.0}, "amount_usd"),
            ({"amount_usd": float("inf")}, "amount_usd"),
            ({"amount_usd": float("nan")}, "amount_usd"),
            ({"amount_usd": 1e10}, "amount_usd"),
            ({"amount_usd": "much"}, "amount_usd"),
            ({"until": "2020-01-01"}, "until.* future"),
            ({"until": "2999-01-01"}, "within a year"),
            ({"until": "tomorrow"}, "write it like 2027-01-31T12:00:00Z"),
            ({"until": ""}, "write it like"),
            ({"why": ""}, "why"),
            ({"why": None}, "why"),
            ({"user": "@a/b/c"}, "@account/name"),
            ({"more": 1}, "more"),
        ],
        ids=str,
    )
    def test_a_wrong_one_is_told_with_what_is_right(self, daemon, wrong, says):
        before = daemon.call("overrides.list")
        with pytest.raises(BadRequest, match=says):
            granted(daemon, **({"user": "@ana", "amount_usd": 1.0} | wrong))
        assert daemon.call("overrides.list") == before

    @pytest.mark.parametrize("missing", ["amount_usd", "until", "why"])
    def test_nothing_of_it_may_be_left_out(self, daemon, missing):
        said = {"amount_usd": 1.0, "until": UNTIL, "why": "the release"}
        del said[missing]
        with pytest.raises(BadRequest, match=missing):
            daemon.call("overrides.grant", **said)

    @as_root
    def test_users_grant_their_own_if_they_may_and_operators_everybodys(self, daemon):
        said = {"amount_usd": 1.0, "until": UNTIL, "why": "mine"}
        with somebody(daemon) as lines:
            mine = call(lines, "overrides.grant", **said)
            assert (mine["user"], mine["granted_by"]) == ("nobody", "nobody")
            assert call(lines, "overrides.grant", user="bob", **said)["user"] == "nobody/bob"
            assert call(lines, "overrides.grant", user="@ana", **said)[0] == "forbidden"
            anas = granted(daemon, "@ana", 1.0)["override_id"]
            assert call(lines, "overrides.revoke", override_id=anas)[0] == "not_found"
            users = {row["user"] for row in call(lines, "overrides.list")["overrides"]}
            assert users == {"nobody", "nobody/bob"}
            call(lines, "settings.set", key="budget_override_allowed", value=False)
            code, message = call(lines, "overrides.grant", **said)
            assert code == "forbidden"
            assert "budget_override_allowed" in message
            assert "operator" in message
            assert granted(daemon, "@nobody", 1.0)["granted_by"] == "root"
            assert audited(daemon, "override.granted")[0]["actor_uid"] == 0
            assert len(call(lines, "overrides.list")["overrides"]) == 3
            call(lines, "overrides.revoke", override_id=mine["override_id"])
            assert len(call(lines, "overrides.list")["overrides"]) == 2
