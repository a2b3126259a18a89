"""The methods over a connection: settings end to end, and who may do what, as the kernel tells it."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import Any
from zoneinfo import ZoneInfo

import malformed
import pytest
import running_daemon
import simulated_provider
from other_account import DAEMON, NOBODY, RUNNERS, USERS, as_root, ask, somebody

from actors.clock import parse_rfc3339
from actors.rules.periods import local_date
from daemon.methods import METHODS
from protocols.errors import BadRequest, Forbidden, QuorumError, UnknownMethod, UnknownProvider
from protocols.wire import Frames, decode_daemon

HELLO = {"t": "hello", "protocol": 1, "app": "test"}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "model": "sim:sim"}


@pytest.fixture(scope="module")
def daemon():
    with simulated_provider.running() as provider:
        config = running_daemon.provider("sim", "openai", provider.base_url(), local=False)
        config += running_daemon.priced("sim:sim") + f'[rights]\nuse_group = "{USERS}"\noperate_group = "{RUNNERS}"\n'
        config += "[settings]\ndefault_max_tokens = 77\n"
        with running_daemon.running(config) as daemon:
            daemon.folder.chmod(0o755)
            yield daemon


def row(daemon: running_daemon.Daemon, key: str, **more: Any) -> tuple[Any, str]:
    got = daemon.call("settings.get", key=key, **more)
    return got["value"], got["origin"]


class TestSettings:
    def test_show_lists_every_setting_with_its_origin_and_what_it_means(self, daemon):
        rows = daemon.call("settings.show")["settings"]
        assert {"month_usd", "day_usd", "default_max_tokens", "default_model", "session.idle_s", "session.max"} <= {
            r["key"] for r in rows
        }
        assert all(r["description"] and r["scope"] in {"user", "daemon"} for r in rows)
        assert [r["key"] for r in rows] == sorted(r["key"] for r in rows)

    def test_a_value_comes_from_the_default_the_config_the_daemon_and_the_user_in_that_order(self, daemon):
        assert row(daemon, "month_usd") == (None, "default")
        assert row(daemon, "default_max_tokens") == (77, "config")
        daemon.call("settings.set", key="default_max_tokens", value=88, user="*")
        assert row(daemon, "default_max_tokens") == (88, "daemon")
        set_row = daemon.call("settings.set", key="default_max_tokens", value=99)
        assert (set_row["value"], set_row["origin"]) == (99, "user")
        assert row(daemon, "default_max_tokens", user="bob") == (88, "daemon")
        assert row(daemon, "default_max_tokens", user="*") == (88, "daemon")
        unset_row = daemon.call("settings.unset", key="default_max_tokens")
        assert (unset_row["value"], unset_row["origin"]) == (88, "daemon")
        daemon.call("settings.unset", key="default_max_tokens", user="*")
        assert row(daemon, "default_max_tokens") == (77, "config")

    def test_a_daemons_setting_is_one_for_all(self, daemon):
        daemon.call("settings.set", key="session.idle_s", value=60)
        assert row(daemon, "session.idle_s") == row(daemon, "session.idle_s", user="bob") == (60, "daemon")
        daemon.call("settings.unset", key="session.idle_s", user="*")
        assert row(daemon, "session.idle_s") == (1800, "default")
        with pytest.raises(BadRequest, match="a setting of the daemon, not of a user"):
            daemon.call("settings.set", key="session.idle_s", value=60, user="bob")

    @pytest.mark.parametrize("method", ["settings.get", "settings.set", "settings.unset"])
    def test_an_unknown_key_names_the_nearest(self, daemon, method):
        value = {"value": 1} if method == "settings.set" else {}
        with pytest.raises(BadRequest, match="there is no setting `month_uds`; did you mean `month_usd`"):
            daemon.call(method, key="month_uds", **value)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("month_usd", -1),
            ("month_usd", "ten"),
            ("month_usd", float("inf")),
            ("month_usd", float("nan")),
            ("month_usd", 1e300),
            ("month_usd", True),
            ("month_usd", {"a": 1}),
            ("month_usd", []),
            ("default_max_tokens", 0),
            ("default_max_tokens", 1.5),
            ("default_max_tokens", None),
            ("default_max_tokens", 2**64 - 1),
            ("session.idle_s", 0),
            ("session.max", "x" * 100_000),
            ("default_model", 5),
            ("default_model", ["a"]),
        ],
    )
    def test_a_wrong_value_is_refused_shortly_and_nothing_changes(self, daemon, key, value):
        before = row(daemon, key)
        with pytest.raises(BadRequest) as refused:
            daemon.call("settings.set", key=key, value=value)
        assert len(refused.value.message) < 600
        assert row(daemon, key) == before
        assert daemon.call("spend")["scopes"]

    def test_every_change_leaves_an_audit_row_and_a_refused_one_none(self, daemon):
        daemon.call("settings.set", key="month_usd", value=5, user="audited")
        daemon.call("settings.set", key="month_usd", value=6.5, user="audited")
        with pytest.raises(BadRequest):
            daemon.call("settings.set", key="month_usd", value=-1, user="audited")
        daemon.call("settings.unset", key="month_usd", user="audited")
        rows = daemon.database("SELECT * FROM audit WHERE subject LIKE '%/audited: month_usd' ORDER BY id")
        assert [(r["action"], r["before"], r["after"]) for r in rows] == [
            ("settings.set", None, "5.0"),
            ("settings.set", "5.0", "6.5"),
            ("settings.unset", "6.5", None),
        ]
        assert {(r["actor_uid"], r["app"]) for r in rows} == {(os.getuid(), "test")}

    def test_a_limit_binds_the_next_call(self, daemon):
        daemon.call("settings.set", key="month_usd", value=0, user="broke")
        with pytest.raises(QuorumError) as refused:
            daemon.call("chat", **CHAT, user="broke")
        assert refused.value.code == "override_required"
        daemon.call("settings.unset", key="month_usd", user="broke")
        assert daemon.call("chat", **CHAT, user="broke")["text"]

    def test_what_was_set_survives_a_restart(self):
        with running_daemon.running() as daemon:
            daemon.call("settings.set", key="month_usd", value=12.5)
            daemon.call("settings.set", key="default_model", value="simulated:sim")
            daemon.restart()
            assert row(daemon, "month_usd") == (12.5, "user")
            assert row(daemon, "default_model") == ("simulated:sim", "daemon")
            assert [r["limit_nano_usd"] for r in daemon.call("spend")["scopes"] if r["scope"].startswith("user:")] == [
                12_500_000_000
            ]


class TestMistakes:
    def test_an_unknown_method_names_the_nearest(self, daemon):
        with pytest.raises(UnknownMethod, match=r"did you mean `settings[.]show`"):
            daemon.call("settings.shwo")
        with pytest.raises(UnknownMethod, match=r"there are: .*chat.*usage"):
            daemon.call("qqqqqqqq")
        with pytest.raises(BadRequest):
            daemon.call("")

    def test_an_unknown_provider_names_those_there_are(self, daemon):
        with pytest.raises(UnknownProvider, match="there are: sim"):
            daemon.call("models", provider="smi")

    @pytest.mark.parametrize("when", ["yesterday", "", "2027-13-01", "9" * 50, "x" * 256])
    @pytest.mark.parametrize(("method", "more"), [("usage", {}), ("spend", {"by": "day"}), ("performance", {})])
    def test_a_time_that_is_none_says_how_one_is_written(self, daemon, method, more, when):
        with pytest.raises(BadRequest, match="write it like 2027-01-31T12:00:00Z"):
            daemon.call(method, since=when, **more)

    @pytest.mark.parametrize("when", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
    @pytest.mark.parametrize(
        ("method", "more"), [("usage", {}), ("spend", {"by": "day"}), ("performance", {"ab": True})]
    )
    def test_the_ends_of_time_are_times(self, daemon, method, more, when):
        assert daemon.call(method, since=when, **more)
        assert daemon.call(method, until=when, **more)
        assert daemon.call("ledger.verify")["ok"]

    @pytest.mark.parametrize("day", ["", "today", "2027-02-30", "9999-12-31", "0001-01-01"])
    def test_a_day_that_is_none_is_a_wrong_one(self, daemon, day):
        with pytest.raises(BadRequest):
            daemon.call("usage", day=day)

    @pytest.mark.parametrize("more", [{"since": "2027-01-31"}, {"until": "2027-01-31"}])
    def test_a_day_stands_for_a_since_and_an_until(self, daemon, more):
        with pytest.raises(BadRequest, match="leave them out"):
            daemon.call("usage", day="2027-01-31", **more)

    def test_arms_are_not_compared_by_model(self, daemon):
        with pytest.raises(BadRequest, match="leave one of them out"):
            daemon.call("performance", ab=True, model="sim:sim")

    @pytest.mark.parametrize("rating", [-1.001, 1.001, float("nan"), float("inf"), "good", None, True, [1]])
    def test_a_rating_is_a_number_from_minus_one_to_one(self, daemon, rating):
        call_id = daemon.call("chat", **CHAT)["call_id"]
        with pytest.raises(BadRequest, match="rating"):
            daemon.call("feedback", call_id=call_id, rating=rating)
        assert daemon.database("SELECT * FROM feedback WHERE call_id = ?", call_id) == []

    def test_a_comment_is_bounded(self, daemon):
        call_id = daemon.call("chat", **CHAT)["call_id"]
        with pytest.raises(BadRequest, match="2000"):
            daemon.call("feedback", call_id=call_id, rating=1, comment="x" * 2001)
        assert daemon.call("feedback", call_id=call_id, rating=1, comment="x" * 2000)["comment"] == "x" * 2000


class TestLearning:
    def test_what_is_said_of_an_answer_shows_in_the_figures(self, daemon):
        answers = [daemon.call("chat", **CHAT, user="rated", task_type="rating") for _ in range(2)]
        for answer, rating in zip(answers, (1, -0.5), strict=True):
            daemon.call("feedback", call_id=answer["call_id"], rating=rating)
        answered = daemon.call("performance", user="rated")
        (figures,) = answered["rows"]
        assert (figures["model"], figures["task_type"], figures["calls"], figures["errors"]) == (
            "sim:sim",
            "rating",
            2,
            0,
        )
        assert (figures["feedback_mean"], figures["feedback_n"], figures["agreement"]) == (0.25, 2, None)
        assert 0 < figures["p50_ms"] <= figures["p95_ms"]
        assert figures["cost_per_answer_nano_usd"] == answers[0]["cost_nano_usd"]
        assert "arms" not in answered
        days = [parse_rfc3339(answered[key]) / 86_400_000_000 for key in ("until", "since")]
        assert days[0] - days[1] == pytest.approx(30)

    def test_arms_are_compared_where_there_are_some(self, daemon):
        assert daemon.call("performance", ab=True)["arms"] == []

    def test_the_stats_of_a_user_have_chosen_models_too(self, daemon):
        daemon.call("user_models.set_default", model="sim:other", user="chooser")
        daemon.call("chat", **CHAT, user="chooser")
        stats = daemon.call("usage_stats", user="chooser")
        assert [(m["model"], m["calls"], m["use_count"], m["is_default"]) for m in stats["models"]] == [
            ("sim:sim", 1, None, False),
            ("sim:other", 0, 0, True),
        ]
        assert stats["user"].endswith("/chooser")

    def test_usage_of_a_day_is_of_the_daemons_time_zone(self):
        with running_daemon.running('[daemon]\ntimezone = "Pacific/Kiritimati"\n') as daemon:
            daemon.call("chat", messages=CHAT["messages"])
            created = parse_rfc3339(daemon.call("usage")["rows"][0]["created_at"])
            today = local_date(created, ZoneInfo("Pacific/Kiritimati"))
            before = local_date(created - 86_400_000_000, ZoneInfo("Pacific/Kiritimati"))
            assert len(daemon.call("usage", day=today)["rows"]) == 1
            assert daemon.call("usage", day=before)["rows"] == []


@pytest.fixture(scope="module")
def recorded(daemon):
    """The daemon, with tournaments in its record that wait for a review: of root, of nobody, and of a name below."""
    write(daemon, ("t1", "root"), ("t2", "nobody"), ("t3", "nobody/kid"))
    return daemon


def write(daemon: running_daemon.Daemon, *named: tuple[str, str], state: str = "done") -> None:
    """Tournaments by id and user, of two that said yes and no."""
    seats = [{"slot": slot, "model": f"sim:{slot}", "family": f"f{slot}"} for slot in range(2)]
    terms = json.dumps({"members": seats, "asked": 2})
    with closing(sqlite3.connect(daemon.state / "quorumd.sqlite3")) as database, database:
        for one, user in named:
            database.execute(
                "INSERT INTO tournaments (id, created_at, user, app, mode, prompt, spec, terms, members, state, status, needs_review)"
                """ VALUES (?, 5, ?, 'a', 'vote', 'Is it?', '{"type":"bool"}', ?, '["sim:0","sim:1"]', ?, 'dispute', 1)""",
                (one, user, terms, state),
            )
            for slot, said in enumerate(("yes", "no")):
                database.execute(
                    "INSERT INTO ballots (tournament_id, slot, model, family, status, answer, text, cost, round, arrived)"
                    " VALUES (?, ?, ?, ?, 'ok', ?, ?, 5, 0, 0)",
                    (one, slot, f"sim:{slot}", f"f{slot}", said, f"ANSWER: {said}"),
                )


@as_root
class TestTournaments:
    """Rows as the record writes them: the methods only read, review and replay."""

    def test_each_sees_the_own_ones_and_an_operator_all(self, recorded):
        for method in ("tournaments", "reviews"):
            assert [r["tournament_id"] for r in recorded.call(method)["tournaments"]] == ["t3", "t2", "t1"]
            with somebody(recorded) as lines:
                assert [r["tournament_id"] for r in ask(lines, method)["tournaments"]] == ["t3", "t2"]
                assert [r["tournament_id"] for r in ask(lines, method, user="kid")["tournaments"]] == ["t3"]
            with somebody(recorded, DAEMON) as lines:
                assert ask(lines, method)["tournaments"] == []

    @pytest.mark.parametrize(
        ("method", "more"), [("tournament.show", {}), ("tournament.replay", {}), ("reviews.resolve", {"answer": "yes"})]
    )
    def test_that_of_another_account_is_not_found_and_not_reviewed(self, recorded, method, more):
        with somebody(recorded) as lines:
            assert ask(lines, method, tournament_id="t1", **more)[0] == "not_found"
            assert ask(lines, method, tournament_id="t9", **more)[0] == "not_found"
            assert ask(lines, method, tournament_id="t2", user="kid", **more)[0] == "not_found"
        assert recorded.database("SELECT reviewed_answer FROM tournaments WHERE id = 't1'") == [
            {"reviewed_answer": None}
        ]

    def test_one_is_shown_with_its_ballots_and_replayed(self, recorded):
        with somebody(recorded) as lines:
            shown = ask(lines, "tournament.show", tournament_id="t2")
            assert (shown["tournament"]["prompt"], shown["spec"], shown["verdict"]) == (
                "Is it?",
                {"type": "bool"},
                None,
            )
            assert [b["answer"] for b in shown["ballots"]] == ["yes", "no"]
            again = ask(lines, "tournament.replay", tournament_id="t2", mode="race")
            assert (again["verdict"]["answer"], again["verdict"]["mode"], again["not_heard"]) == ("yes", "race", [])
            assert ask(lines, "tournament.replay", tournament_id="t2", threshold="much")[0] == "bad_request"
        assert _is_unchanged(recorded)

    def test_what_ran_when_the_daemon_was_killed_is_listed_as_unfinished(self):
        with running_daemon.running() as daemon:
            write(daemon, ("0cr65gmggex80", "root"), state="running")
            assert [r["state"] for r in daemon.call("tournaments")["tournaments"]] == ["running"]
            daemon.kill()
            daemon.start()
            (left,) = daemon.call("tournaments", state="unfinished")["tournaments"]
            assert (left["tournament_id"], left["cost_nano_usd"]) == ("0cr65gmggex80", 10)
            assert "the daemon ended" in left["why"]
            assert daemon.call("ledger.verify")["ok"]

    def test_a_review_of_a_name_below_is_audited_under_who_made_it(self, recorded):
        with somebody(recorded) as lines:
            assert ask(lines, "reviews.resolve", tournament_id="t3", answer="perhaps", user="kid")[0] == "bad_request"
            got = ask(lines, "reviews.resolve", tournament_id="t3", answer="NO", why="the almanac", user="kid")
            assert got == {"tournament_id": "t3", "answer": "no", "agreed": ["sim:1"], "disagreed": ["sim:0"]}
            assert [r["tournament_id"] for r in ask(lines, "reviews")["tournaments"]] == ["t2"]
        (entry,) = recorded.database("SELECT * FROM audit WHERE action = 'reviews.resolve'")
        assert (entry["actor_uid"], entry["user"], entry["subject"]) == (NOBODY, "nobody", "nobody/kid: t3")
        assert (entry["before"], entry["after"], entry["why"]) == (None, '"no"', "the almanac")


def _is_unchanged(daemon: running_daemon.Daemon) -> bool:
    """Whether the tournament that was replayed stands as it did."""
    (kept,) = daemon.database("SELECT state, mode, status, verdict, reviewed_answer FROM tournaments WHERE id = 't2'")
    return kept == {"state": "done", "mode": "vote", "status": "dispute", "verdict": None, "reviewed_answer": None}


class TestRights:
    @pytest.mark.parametrize("gid", [NOBODY, 1])
    def test_a_stranger_hears_on_both_wires_why_and_who_can_help(self, daemon, gid):
        with somebody(daemon, NOBODY, gid) as lines:
            lines.send({"t": "call", "id": 1, "method": "ping"})
            fault = lines.hear()
            assert lines.hear() is None
        with somebody(daemon, NOBODY, gid) as framed:
            framed.raw.sendall(malformed.frame(malformed.pack(HELLO)))
            (payload,) = Frames(100_000).split(framed.raw.recv(65_536))
            framed_fault = decode_daemon(bytes(payload))
            assert framed.raw.recv(1) == b""
        assert (fault["t"], fault["code"], "id" in fault) == ("fault", "forbidden", False)
        assert (framed_fault.code, framed_fault.message) == ("forbidden", fault["message"])
        assert all(said in fault["message"] for said in ("nobody", f"uid {NOBODY}", f"`{USERS}`"))

    @pytest.mark.parametrize(
        ("uid", "gid", "rights"),
        [
            (NOBODY, 60, ["observe", "use"]),
            (NOBODY, 8, ["observe", "use", "operate"]),
            (0, 0, ["observe", "use", "operate", "admin"]),
        ],
    )
    def test_hello_tells_the_rights_of_the_groups(self, daemon, uid, gid, rights):
        with somebody(daemon, uid, gid) as lines:
            lines.send(HELLO)
            assert lines.hear()["rights"] == rights

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(("gid", "has"), [(60, {"observe", "use"}), (8, {"observe", "use", "operate"})])
    def test_every_method_of_every_group(self, daemon, method, gid, has):
        """With params that are wrong, so that nothing happens: the right is looked at first."""
        right = METHODS[method].params.right
        with somebody(daemon, NOBODY, gid) as lines:
            code, message = ask(lines, method, unheard_of=1)
        assert code == ("bad_request" if right in has else "forbidden")
        assert ("`unheard_of`" if right in has else f"`{right}`") in message

    def test_a_user_may_chat_and_sees_its_own_alone(self, daemon):
        daemon.call("chat", **CHAT)
        with somebody(daemon, DAEMON) as lines:
            assert ask(lines, "chat", **CHAT, user="bob")["text"]
        with somebody(daemon, NOBODY) as lines:
            answer = ask(lines, "chat", **CHAT)
            rows = ask(lines, "usage")["rows"]
            by_user = ask(lines, "spend", by="user")
            sessions = ask(lines, "sessions")["sessions"]
            status = ask(lines, "status")
        assert [r["usage_id"] for r in rows] == [answer["usage_id"]]
        assert (
            {g["key"] for g in by_user["groups"]}
            == {r["user"] for r in rows}
            == {s["user"] for s in sessions}
            == {"nobody"}
        )
        for scopes in (by_user["scopes"], status["spend"]):
            assert {s["scope"] for s in scopes} <= {"daemon", "user:nobody"}
        with somebody(daemon, NOBODY, 8) as lines:
            assert {r["user"] for r in ask(lines, "usage")["rows"]} >= {"root", "daemon/bob", "nobody"}
            assert {s["user"] for s in ask(lines, "sessions")["sessions"]} >= {"root", "daemon/bob", "nobody"}
            assert {r["user"] for r in ask(lines, "usage", user="@daemon")["rows"]} == {"daemon/bob"}

    def test_figures_and_feedback_are_about_ones_own_calls(self, daemon):
        roots = daemon.call("chat", **CHAT)
        with somebody(daemon, DAEMON) as lines:
            own = ask(lines, "chat", **CHAT, user="bob", task_type="own")
            assert ask(lines, "feedback", call_id=own["call_id"], rating=1)["usage_id"] == own["usage_id"]
            for call_id in (roots["call_id"], roots["usage_id"]):
                assert ask(lines, "feedback", call_id=call_id, rating=-1)[0] == "not_found"
            assert ask(lines, "performance", task="own")["rows"][0]["feedback_n"] == 1
            seen = sum(row["calls"] for row in ask(lines, "performance")["rows"])
            assert seen == len(ask(lines, "usage")["rows"])
            assert [m["calls"] for m in ask(lines, "usage_stats", user="bob")["models"]] != []
        with somebody(daemon, NOBODY, 8) as lines:
            assert sum(row["calls"] for row in ask(lines, "performance")["rows"]) > seen
            assert sum(row["calls"] for row in ask(lines, "performance", user="@daemon")["rows"]) == seen
            assert ask(lines, "feedback", call_id=own["call_id"], rating=-1)["rating"] == -1
            assert ask(lines, "usage_stats", user="@daemon/bob")["user"] == "daemon/bob"
        kept = daemon.database("SELECT user, rating FROM feedback WHERE call_id = ? ORDER BY user", own["call_id"])
        assert [(row["user"], row["rating"]) for row in kept] == [("daemon", 1.0), ("nobody", -1.0)]

    @pytest.mark.parametrize(
        "method",
        [m for m, each in METHODS.items() if "user" in each.params.__struct_fields__ and each.params.right == "use"],
    )
    def test_nobody_gets_at_anothers_by_naming_them(self, daemon, method):
        right = malformed.PARAMS[method][0]
        with somebody(daemon) as lines:
            for named in ("@root", "@root/x"):
                code, message = ask(lines, method, **right | {"user": named})
                assert (code, "`operate`" in message) == ("forbidden", True)
            for named in ("root/x", "../root", "a/../../root"):
                assert ask(lines, method, **right | {"user": named})[0] == "bad_request"

    @pytest.mark.parametrize("before", [2**63, 2**64 - 1, 10**30, -1])
    def test_a_number_that_no_entry_of_the_audit_has_is_a_wrong_one(self, daemon, before):
        with daemon.json_lines() as lines:
            assert ask(lines, "audit", before=2**63 - 1)["entries"] is not None
            assert ask(lines, "audit", before=before)[0] == "bad_request"

    def test_a_user_sets_its_own_and_not_the_daemons(self, daemon):
        with somebody(daemon) as lines:
            assert ask(lines, "settings.set", key="day_usd", value=3)["origin"] == "user"
            for key, value, more in (
                ("session.max", 5, {}),
                ("default_model", "sim:x", {}),
                ("day_usd", 5, {"user": "*"}),
                ("day_usd", 5, {"user": "@root"}),
            ):
                assert ask(lines, "settings.set", key=key, value=value, **more)[0] == "forbidden"
                assert ask(lines, "settings.unset", key=key, **more)[0] == "forbidden"
            assert ask(lines, "settings.unset", key="day_usd")["origin"] == "default"
        with somebody(daemon, NOBODY, 8) as lines:
            assert ask(lines, "settings.set", key="session.max", value=5)[0] == "forbidden"
        assert row(daemon, "session.max") == (10_000, "default")

    def test_the_account_named_daemon_is_a_user_like_any(self, daemon):
        """Settings of the daemon are stored under the same word."""
        with somebody(daemon, DAEMON) as lines:
            ask(lines, "settings.set", key="month_usd", value=0)
            assert ask(lines, "chat", **CHAT)[0] == "override_required"
            ask(lines, "settings.unset", key="month_usd")
            assert ask(lines, "chat", **CHAT)["text"]

    def test_an_admin_acts_for_others(self, daemon):
        daemon.call("settings.set", key="default_max_tokens", value=5, user="@nobody")
        with somebody(daemon) as lines:
            got = ask(lines, "settings.get", key="default_max_tokens")
        assert (got["value"], got["origin"]) == (5, "user")
        daemon.call("settings.unset", key="default_max_tokens", user="@nobody")

    def test_frames_of_another_account_work_too(self, daemon):
        with somebody(daemon) as lines:
            call = {"t": "call", "id": 1, "method": "holds", "params": {}}
            lines.raw.sendall(malformed.frame(malformed.pack(HELLO)) + malformed.frame(malformed.pack(call)))
            codec, heard = Frames(100_000), []
            while len(heard) < 2:
                heard += [decode_daemon(bytes(p)) for p in codec.split(lines.raw.recv(65_536))]
        assert heard[0].user == "nobody"
        assert heard[1].code == Forbidden.code
