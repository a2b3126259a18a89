"""Every setting of the interface, for the daemon and per user: its default, its origins, what it refuses, and its audit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import running_daemon
from running_daemon import Daemon, eventually

from protocols.errors import BadRequest
from protocols.settings import SETTINGS

MODES = "user_choice, cost_optimized, quality_first, balanced"
TABLE = [
    ("enforce_budget_limits", "user", True, False, "maybe", "bool"),
    ("budget_override_allowed", "user", True, False, 2, "bool"),
    ("auto_fallback_to_local", "user", False, True, "yes", "bool"),
    ("clamp_to_budget", "user", False, True, [], "bool"),
    ("admission", "user", "strict", "queue", "lax", "strict, queue, soft"),
    ("provider_selection_mode", "user", "balanced", "quality_first", "cheap", MODES),
    ("month_usd", "user", None, 12.5, -1, ">= 0"),
    ("day_usd", "user", None, 2.0, "ten", "float"),
    ("orchestrator.enabled", "user", False, True, "on", "bool"),
    ("orchestrator.quality_tier", "user", "balanced", "premium", "best", "budget, balanced, premium"),
    ("orchestrator.prefer_local", "user", False, True, 1, "bool"),
    ("orchestrator.budget_tier_allows_paid", "user", False, True, None, "bool"),
    ("orchestrator.task_models.dialogue", "user", None, "simulated:sim", 7, "str"),
    ("default_max_tokens", "user", 1024, 200, 0, ">= 1"),
    ("tournament.enabled", "user", False, True, "often", "bool"),
    ("tournament.num_models", "user", 3, 5, 1, ">= 2"),
    ("tournament.mode", "user", None, "cascade", "fight", "vote, pick, fuse, race, cascade"),
    ("tournament.min_live", "user", 2, 3, 17, "<= 16"),
    ("tournament.threshold", "user", "2/3", "0.75", "1/3", "more than 1/2"),
    ("tournament.critical_tasks", "user", [], ["theme_analysis"], ["theme_analisys"], "did you mean `theme_analysis`"),
    ("default_model", "daemon", None, "simulated:sim", True, "str"),
    ("session.idle_s", "daemon", 1800.0, 60.0, 0, ">= 1"),
    ("session.max", "daemon", 10_000, 50, 1.5, "int"),
    ("usage.retention_days", "daemon", 400, 30, 0, ">= 1"),
]
"""Key, whose it is, default, a value, one that is wrong, and what the refusal says."""
KEYS = [row[0] for row in TABLE]
CONFIG = "[settings]\n" + "".join(
    f'"{key}" = {json.dumps(value)}\n' for key, _, _, value, _, _ in TABLE if key not in {"session.max", "month_usd"}
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon.running("") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def configured() -> Iterator[Daemon]:
    with running_daemon.running(CONFIG) as daemon:
        yield daemon


def shown(daemon: Daemon, key: str, **whose: Any) -> tuple[Any, str]:
    row = daemon.call("settings.get", key=key, **whose)
    listed = {row["key"]: row for row in daemon.call("settings.show", **whose)["settings"]}
    assert key not in listed or listed[key] == row
    return row["value"], row["origin"]


def test_the_table_has_every_setting_of_this_version():
    assert set(SETTINGS) <= set(KEYS)


@pytest.mark.parametrize(("key", "scope", "default", "value", "wrong", "allowed"), TABLE, ids=KEYS)
def test_a_setting_has_its_default_and_its_origins_and_each_change_is_audited(
    daemon, key, scope, default, value, wrong, allowed
):
    assert shown(daemon, key) == (default, "default")
    if scope == "daemon":
        changes = [({}, "daemon")]
    else:
        changes = [({"user": "*"}, "daemon"), ({}, "user"), ({"user": "kid"}, "user")]
    for whose, origin in changes:
        assert daemon.call("settings.set", key=key, value=value, **whose)["origin"] == origin
        assert shown(daemon, key, **whose) == (value, origin)
        entry = daemon.call("audit", last=1)["entries"][0]
        assert (entry["action"], json.loads(entry["after"])) == ("settings.set", value)
        assert entry["subject"].endswith(f": {key}")
    with pytest.raises(BadRequest, match=allowed):
        daemon.call("settings.set", key=key, value=wrong)
    assert shown(daemon, key)[0] == value
    for whose, _ in reversed(changes):
        daemon.call("settings.unset", key=key, **whose)
        assert daemon.call("audit", last=1)["entries"][0]["action"] == "settings.unset"
    assert shown(daemon, key) == (default, "default")


@pytest.mark.parametrize("key", [key for key in KEYS if f'"{key}"' in CONFIG])
def test_the_config_is_an_origin_that_a_user_comes_before(configured, key):
    row = next(row for row in TABLE if row[0] == key)
    assert shown(configured, key) == (row[3], "config")
    if row[1] == "user":
        configured.call("settings.set", key=key, value=row[2] if row[2] is not None else row[3], user="other")
        assert shown(configured, key, user="other")[1] == "user"
        assert shown(configured, key) == (row[3], "config")


def test_the_command_lists_them_with_where_they_come_from(configured):
    configured.call("settings.set", key="day_usd", value=1.5)
    listed = configured.ctl("settings", "show", "--origin").out.splitlines()
    rows = {line.split()[0]: line.split() for line in listed[1:]}
    assert rows["day_usd"][1:3] == ["1.5", "user"]
    assert rows["orchestrator.task_models.dialogue"][1:3] == ["simulated:sim", "config"]
    assert rows["session.max"][1:3] == ["10000", "default"]
    refused = configured.ctl("settings", "set", "orchestrator.quality_tier", "best")
    assert (refused.code, "one of budget, balanced, premium" in refused.err) == (1, True)
    assert configured.ctl("settings", "unset", "day_usd").code == 0


def test_a_task_or_a_key_that_there_is_not_is_named_with_the_nearest(daemon):
    for key, near in (("orchestrator.task_models.dialog", "dialogue"), ("orchestrator.enable", "orchestrator.enabled")):
        for method, more in (("settings.set", {"value": True}), ("settings.get", {}), ("settings.unset", {})):
            with pytest.raises(BadRequest, match=f"did you mean `{near}`"):
                daemon.call(method, key=key, **more)
    with pytest.raises(BadRequest, match="there is no setting"):
        daemon.call("settings.get", key="orchestrator.task_models.")


@pytest.mark.parametrize("key", ["default_model", "orchestrator.task_models.dialogue"])
@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("nowhere:x", "unknown_provider", "there is no provider `nowhere`"),
        ("x", "unknown_model", "`x` names no provider"),
        ("simulated:nosuch", "not_listed", "`simulated` does not list `nosuch`"),
        ("simulated:sim", None, None),
    ],
)
def test_a_model_that_is_not_there_is_kept_with_a_warning(daemon, key, model, code, said):
    eventually(lambda: daemon.call("models")["models"], "the provider has listed its models")
    row = daemon.call("settings.set", key=key, value=model)
    assert row["value"] == daemon.call("settings.get", key=key)["value"] == model
    told = daemon.ctl("settings", "set", key, model)
    assert (told.code, f"{key} = {model}" in told.out) == (0, True)
    if code is None:
        assert ("warnings" in row, told.err) == (False, "")
    else:
        (warned,) = row["warnings"]
        assert (warned["code"], said in warned["message"], "kept all the same" in warned["message"]) == (
            code,
            True,
            True,
        )
        assert f"warning: {said}" in told.err
    assert "warnings" not in daemon.call("settings.unset", key=key)
