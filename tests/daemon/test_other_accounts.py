"""What is one account's no other reaches, by no method and under no name: made of the list of methods, so that a new one is tried too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import malformed
import pytest
import running_daemon
import simulated_provider
from other_account import RUNNERS, USERS, as_root, somebody
from running_daemon import Daemon, JsonLines

from daemon.methods import METHODS
from protocols.errors import QuorumError

HI = [{"role": "user", "content": "hello"}]
SECRET = "s3cret"
TALK, KEY = "talk-of-root", "key-of-root"
KEYED = {"messages": HI, "model": "sim:sim", "conversation": TALK}

OWNED = {
    "user",
    "conversation",
    "override_id",
    "override_token",
    "hold_id",
    "before",
    "after",
    "call_id",
    "tournament_id",
}
"""Fields that name what belongs to somebody; `owned` says what of root's stands there."""

pytestmark = as_root


class Owned:
    """What root has: ids by the fields that name them, and the texts that nobody else may be told."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        secret = {"metadata": {"why": SECRET}, "parameters": {"defaults": {"stop": [SECRET]}}}
        for user in ({}, {"user": "private"}):
            daemon.call("user_models.set_default", model=f"sim:{SECRET}-default", **secret, **user)
            daemon.call("conversations.set_default", conversation=TALK, model=f"sim:{SECRET}-talk", **user)
            daemon.call("settings.set", key="default_max_tokens", value=4321, **user)
            daemon.call("chat", messages=HI, model="sim:sim", conversation=TALK, task_type=SECRET, **user)
        self.keyed = self.keyed_call()
        members = ["sim:sim?text=ANSWER:+yes", "sim:sim?text=ANSWER:+no"]
        self.tournament = daemon.call("tournament", prompt=f"{SECRET}?", members=members, answer="bool")
        until = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.override = daemon.call("overrides.grant", amount_usd=1.0, until=until, why=SECRET, user="private")
        daemon.call("settings.set", key="month_usd", value=0, user="broke")
        with pytest.raises(QuorumError) as asked:
            daemon.call("chat", messages=HI, model="sim:sim", user="broke")
        self.fields: dict[str, list[Any]] = {
            "user": ["@root", "@root/private", "root/private", "private"],
            "conversation": [TALK],
            "override_id": [self.override["override_id"]],
            "override_token": [asked.value.detail["override_token"]],
            "hold_id": [self.keyed["usage_id"]],
            "call_id": [self.keyed["call_id"]],
            "tournament_id": [self.tournament["tournament_id"]],
            "before": [self.keyed["usage_id"], 1 << 40],
            "after": ["roos"],
        }
        rows = daemon.call("usage")["rows"]
        self.private = {SECRET, "root/private", self.override["override_id"], self.tournament["tournament_id"]} | {
            row[key] for row in rows for key in ("usage_id", "call_id")
        }

    def keyed_call(self) -> Any:
        """Root's call under a key; the same outcome each time."""
        with self.daemon.json_lines() as lines:
            return ask_with_key(lines, "chat", KEYED)["value"]

    def state(self) -> Any:
        """All that root has, as root is told it; without what time changes."""
        said: list[Any] = [self.keyed_call()["usage_id"]]
        for user in ({}, {"user": "private"}, {"user": "broke"}):
            said += [self.daemon.call(method, **user) for method in ("user_models.list", "settings.show")]
            said.append(self.daemon.call("user_models.resolved", conversation=TALK, **user))
            said.append(self.daemon.call("usage", **{"user": "@root", **user})["rows"])
            said.append([row["calls"] for row in self.sessions(user.get("user"))])
        said += [self.daemon.call("tournaments", user="@root"), self.daemon.call("performance", user="@root")["rows"]]
        return [*said, self.daemon.call("overrides.list", user="private")]

    def sessions(self, name: str | None) -> list[Any]:
        """The sessions of a user of root's."""
        user = "root" if name is None else f"root/{name}"
        return [row for row in self.daemon.call("sessions")["sessions"] if row["user"] == user]


@pytest.fixture(scope="module")
def owned() -> Iterator[Owned]:
    with simulated_provider.running() as provider:
        config = running_daemon.provider("sim", "openai", provider.base_url(), local=False)
        config += running_daemon.priced("sim:sim") + f'[rights]\nuse_group = "{USERS}"\noperate_group = "{RUNNERS}"\n'
        with running_daemon.running(config) as daemon:
            daemon.folder.chmod(0o755)
            yield Owned(daemon)


def ask_with_key(lines: JsonLines, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The end of a call, under root's key where the method takes one."""
    keyed = {"idempotency_key": KEY} if METHODS[method].params.keyed else {}
    lines.send({"t": "call", "id": 1, "method": method, "params": params, **keyed})
    return lines.until_end_of(1)[-1]


def tries(owned: Owned, method: str) -> Iterator[dict[str, Any]]:
    """Right params of the method, as they are and with each thing of root's in each field that can name it."""
    fields = OWNED & set(METHODS[method].params.__struct_fields__)
    for right in malformed.PARAMS[method]:
        plain = {key: value for key, value in right.items() if key != "user"}
        yield plain
        for field in fields:
            for named in owned.fields[field]:
                yield plain | {field: named}
    if method == "chat":
        yield KEYED


def texts(value: Any) -> Iterator[str]:
    """Every text in an answer."""
    match value:
        case str():
            yield value
        case dict():
            for key, each in value.items():
                yield str(key)
                yield from texts(each)
        case list():
            for each in value:
                yield from texts(each)


def told(owned: Owned, heard: Any) -> list[str]:
    """What of root's stands in it."""
    return [text for text in texts(heard) if text in {"root", "user:root"} or any(p in text for p in owned.private)]


def test_every_method_is_tried_and_every_field_that_may_name_a_thing_of_somebody():
    assert malformed.PARAMS.keys() == METHODS.keys()
    fields = {field for method in METHODS.values() for field in method.params.__struct_fields__}
    naming = {f for f in fields if f.endswith(("_id", "_token", "user", "conversation")) or f in {"before", "after"}}
    assert naming == OWNED


@pytest.mark.parametrize("method", [name for name in METHODS if name != "events"])
def test_another_account_is_told_nothing_and_changes_nothing(owned, method):
    before = owned.state()
    with somebody(owned.daemon) as lines:
        for params in tries(owned, method):
            end = ask_with_key(lines, method, params)
            if end["t"] == "done":
                asked = {text for text in texts(params) if text in owned.private}
                assert [text for text in told(owned, end["value"]) if text not in asked] == [], params
            else:
                assert SECRET not in str(end), params
    assert owned.state() == before


def test_another_account_hears_nothing_of_what_happens(owned):
    with somebody(owned.daemon) as lines:
        lines.send({"t": "call", "id": 1, "method": "events", "params": {}})
        lines.send({"t": "call", "id": 2, "method": "ping", "params": {}})
        lines.until_end_of(2)
        owned.daemon.call("chat", messages=HI, model="sim:sim", user="private", task_type=SECRET)
        owned.daemon.call("settings.set", key="default_max_tokens", value=4321, user="private")
        lines.send({"t": "call", "id": 3, "method": "chat", "params": {"messages": HI, "model": "sim:sim"}})
        heard = [lines.hear()]
        while heard[-1] is not None and not (heard[-1]["t"] == "done" and heard[-1]["id"] == 3):
            heard.append(lines.hear())
        lines.send({"t": "cancel", "id": 1})
        heard += lines.until_end_of(1)
    own = [message["value"]["type"] for message in heard if message["t"] == "item"]
    assert own == ["attempt"]
    assert told(owned, heard) == []
