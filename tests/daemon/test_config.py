"""The config: what is wrong is refused with its place and what would be right."""

from __future__ import annotations

import tomllib
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import running_daemon

from daemon.config import Config, ConfigRefused, load, parse
from daemon.secrets import KeySource
from daemon.sources import check_sources
from protocols.money import NANO_PER_USD

EXAMPLE = Path(__file__).resolve().parents[2] / "systemd" / "quorumd.toml"
OPENAI = '[providers.openai]\nkind = "openai"\n'
LOCAL = '[providers.box]\nkind = "openai"\nlocal = true\n'

ARMS = """
[experiments.e.arms]
a = { tier = "budget" }
b = { model = "openai:gpt-4o", weight = 2 }
"""

WRONG = {
    "an unknown section": ("[demon]\n", ["`demon`", "did you mean `daemon`?"]),
    "an unknown key": ('[daemon]\ntime_zone = "UTC"\n', ["daemon", "`time_zone`", "did you mean `timezone`?"]),
    "a key like none": ("[rights]\nxyz = 1\n", ["rights", "`xyz`", "there are: admin_uids, use_group, operate_group"]),
    "an unknown key of a provider": (
        OPENAI + "timeout = 1\n",
        ["providers.openai", "`timeout`", "did you mean `timeout_s`?"],
    ),
    "an unknown key of a limit": (
        "[limits.users.ana]\nweek_usd = 1\n",
        ["limits.users.ana", "`week_usd`", "month_usd, day_usd"],
    ),
    "an unknown key of a key": (
        OPENAI + 'api_key = { environment = "X" }\n',
        ["providers.openai.api_key", "`environment`", "env"],
    ),
    "a wrong word": ('[daemon]\ndurability = "disk"\n', ["daemon.durability", "'disk'", "power, process"]),
    "a wrong kind": ('[providers.x]\nkind = "opnai"\n', ["providers.x.kind", "'opnai'", "did you mean `openai`?"]),
    "a wrong strength": (
        '[models."a:b"]\nstrengths = ["speed", "cooking"]\n',
        ['models."a:b".strengths[1]', "'cooking'", "coding"],
    ),
    "a wrong type": ('[limits]\nmonth_usd = "ten"\n', ["limits.month_usd", "`float", "got `str`"]),
    "a table instead of a value": ("[daemon.timezone]\nname = 1\n", ["daemon.timezone", "`str"]),
    "a value instead of a table": ("limits = 5\n", ["limits", "Expected `table`"]),
    "a negative limit": ("[limits]\nday_usd = -1\n", ["limits.day_usd", ">= 0"]),
    "an infinite limit": ("[limits]\nday_usd = inf\n", ["limits.day_usd", "<= 1000000000"]),
    "a limit that is no number": ("[limits]\nday_usd = nan\n", ["limits.day_usd", ">= 0"]),
    "an infinite price": ('[models."a:b"]\ninput_usd_per_mtok = inf\n', ['models."a:b".input_usd_per_mtok', "<="]),
    "a quality above ten": ('[models."a:b"]\nquality = 11\n', ['models."a:b".quality', "<= 10"]),
    "nothing in flight": (OPENAI + "max_in_flight = 0\n", ["providers.openai.max_in_flight", ">= 1"]),
    "an unknown key of a task": ("[tasks.t]\nstrengths = 1\n", ["tasks.t", "`strengths`", "did you mean `strength`?"]),
    "a command that is no list": ('[alerts]\ncommand = "notify-send x"\n', ["alerts.command", "Expected `array`"]),
    "a command without a name": ('[alerts]\ncommand = [""]\n', ["alerts.command", "length >= 1"]),
    "an unknown key of alerts": ('[alerts]\nurl = "x"\n', ["alerts", "`url`", "command, webhook, timeout_s"]),
    "a webhook that is no address": ('[alerts]\nwebhook = "example.org/canary"\n', ["[alerts]", "`webhook`", "http"]),
    "a webhook with a password": ('[alerts]\nwebhook = "https://u:canary@x.org/"\n', ["[alerts]", "no password"]),
    "alerts without time": ("[alerts]\ntimeout_s = 0\n", ["alerts.timeout_s", "> 0"]),
    "no patience": ("[daemon]\nclient_stall_s = 0\n", ["daemon.client_stall_s", "> 0"]),
    "tiny frames": ("[daemon]\nmax_frame_bytes = 10\n", ["daemon.max_frame_bytes", ">= 4096"]),
    "no kind": ("[providers.x]\nlocal = true\n", ["providers.x", "`kind`"]),
    "a provider's name": ('[providers.OpenAI]\nkind = "openai"\n', ["[providers.OpenAI]", "a-z, 0-9"]),
    "the reserved name": ('[providers.client]\nkind = "openai"\n', ["[providers.client]", "is not `client`"]),
    "a model without provider": ('[models."gpt"]\n', ['[models."gpt"]', "<provider>:<model>"]),
    "a model of nobody": (OPENAI + '[models."other:m"]\n', ['[models."other:m"]', "no [providers.other]"]),
    "an alias that hides a provider": (
        OPENAI + '[aliases]\nopenai = "openai:m"\n',
        ["[aliases]", "`openai` hides a real name"],
    ),
    "an alias that hides a model": (
        OPENAI + '[models."openai:m"]\n[aliases]\n"openai:m" = "openai"\n',
        ["`openai:m` hides"],
    ),
    "an alias that hides a model that the provider may have": (
        OPENAI + '[aliases]\n"openai:x" = "openai:m"\n',
        ["`openai:x` hides a real name"],
    ),
    "an alias that hides the nodes": ('[aliases]\nclient = "openai"\n', ["`client` hides a real name"]),
    "an alias of an alias": (
        OPENAI + '[aliases]\nmini = "openai:m"\nsmall = "mini"\n',
        ["[aliases]", "`small` stands for `mini`, which is an alias", "itself"],
    ),
    "an alias of itself": ('[aliases]\nmini = "mini"\n', ["`mini` stands for `mini`, which is an alias"]),
    "an alias that is no name": ("[aliases]\na = 1\n", ["aliases.a", "Expected `str`"]),
    "a limit of nobody": (
        OPENAI + "[limits.providers.other]\nday_usd = 1\n",
        ["[limits.providers]", "no [providers.other]"],
    ),
    "a time zone": ('[daemon]\ntimezone = "Mars/Base"\n', ["[daemon]", "`Mars/Base`", "Europe/Berlin"]),
    "a time zone that is a path": ('[daemon]\ntimezone = "../../etc/passwd"\n', ["[daemon]", "no time zone"]),
    "a time zone that is a folder": ('[daemon]\ntimezone = "Europe"\n', ["[daemon]", "no time zone"]),
    "a key in the clear": (
        OPENAI + 'base_url = "http://example.org/v1"\n',
        ["[providers.openai]", "unencrypted", "https"],
    ),
    "http to a name that begins well": (OPENAI + 'base_url = "http://localhost.example.org/v1"\n', ["unencrypted"]),
    "link-local": (
        OPENAI + 'base_url = "https://169.254.169.254/v1"\n',
        ["[providers.openai]", "link-local", "`local = true`"],
    ),
    "link-local of IPv6": (OPENAI + 'base_url = "https://[fe80::1]/v1"\n', ["link-local"]),
    "no http": (OPENAI + 'base_url = "ftp://example.org"\n', ["[providers.openai]", "http(s) address"]),
    "no host": (OPENAI + 'base_url = "https:///v1"\n', ["http(s) address"]),
    "a bracket too few": (OPENAI + 'base_url = "https://[::1"\n', ["[providers.openai]", "http(s) address"]),
    "a key instead of its place": (OPENAI + 'api_key = "sk-canary"\n', ["providers.openai.api_key", "`table"]),
    "two places of a key": (
        OPENAI + 'api_key = { env = "A", file = "b" }\n',
        ["providers.openai.api_key", "one place"],
    ),
    "no place of a key": (OPENAI + "api_key = {}\n", ["providers.openai.api_key", "one place"]),
    "no TOML": ("[daemon\n", ["line 1"]),
    "one arm": ("[experiments.e.arms.a]\ntier = 'budget'\n", ["[experiments.e]", "two arms or more"]),
    "an arm of nothing": (
        ARMS + "[experiments.e.arms.c]\nweight = 2\n",
        ["[experiments.e]", "arm `c`", "`model` or a `tier`"],
    ),
    "an arm of two things": (
        ARMS + "[experiments.e.arms.c]\nmodel = 'a:b'\ntier = 'budget'\n",
        ["[experiments.e]", "arm `c`", "either"],
    ),
    "an unknown key of an arm": (
        ARMS + "[experiments.e.arms.c]\nwieght = 1\n",
        ["experiments.e.arms.c", "did you mean `weight`?"],
    ),
    "an unknown key of an experiment": (
        ARMS + "[experiments.e]\ntasks = 'tag'\n",
        ["experiments.e", "did you mean `task`?"],
    ),
    "a weight of nothing": (ARMS + "[experiments.e.arms.c]\nweight = 0\n", ["weight", "> 0"]),
    "an experiment's name": ("[experiments.'a/b'.arms]\n", ['[experiments."a/b"]', "the name `a/b` of the experiment"]),
    "the name of a second experiment": (
        ARMS + "[experiments.'x y'.arms]\na = { tier = 'budget' }\nb = { tier = 'budget' }\n",
        ['[experiments."x y"]', "the name `x y` of the experiment"],
    ),
    "an arm's name": (
        ARMS + "[experiments.e.arms.'c\\n']\ntier = 'budget'\n",
        ["[experiments.e]", "of the arm is made"],
    ),
    "an experiment of no task": (
        ARMS + "[experiments.e]\ntask = 'dialoge'\n",
        ["[experiments.e]", "did you mean `dialogue`?"],
    ),
    "an empty table of no settings": ("[settings.orchestratr]\n", ["settings", "`orchestratr.…`", "`orchestrator`?"]),
    "an empty table of a setting": ("[settings.month_usd]\n", ["`month_usd.…`", "there are: orchestrator"]),
    "an empty table of a task": ("[settings.orchestrator.task_models.tag]\n", ["`orchestrator.task_models.tag.…`"]),
    "a setting in both forms": (
        '[settings]\n"orchestrator.enabled" = true\norchestrator.enabled = false\n',
        ["settings", "`orchestrator.enabled` stands there twice"],
    ),
    "a setting in both forms, the table first": (
        '[settings]\norchestrator.enabled = false\n"orchestrator.enabled" = false\n',
        ["settings", "`orchestrator.enabled` stands there twice"],
    ),
    "two experiments of a task": (
        ARMS + ARMS.replace("experiments.e", "experiments.f"),
        ["[experiments.f]", "`e` is an experiment for every task already"],
    ),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_with_its_place_and_what_is_right(tmp_path, text, said):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigRefused) as refused:
        load(path)
    message = str(refused.value)
    assert all(part in message for part in (str(path), *said)), message
    assert "canary" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[daemon]\ntimezon = 1\n", "did you mean `timezone`?"),
        ("[settings]\ndefault_modell = 'a:b'\n", "did you mean `default_model`?"),
        ("[settings]\ndefault_max_tokens = 0\n", "[settings]: `default_max_tokens` can't be 0"),
        (OPENAI + 'base_url = "https://example.org:99999/v1"\n', "[providers.openai]"),
        (
            OPENAI + "[settings]\ndefault_model = 'opnai:gpt-4o'\n",
            "[settings]: `default_model`: there is no provider `opnai`",
        ),
    ],
)
def test_check_says_so_and_exits_2(text, said):
    with running_daemon.running(text, start=False) as daemon:
        ended = daemon.check()
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_the_daemon_itself_refuses_to_start_with_it():
    with running_daemon.running("[daemon]\ndrain_s = -1\n", start=False) as daemon:
        ended = daemon.refused()
    assert ended.code == 2
    assert "daemon.drain_s: Expected `float` >= 0.0" in ended.err


def test_check_of_a_right_one_exits_0():
    with running_daemon.running(OPENAI, start=False) as daemon:
        ended = daemon.check()
    assert (ended.code, ended.err) == (0, "") or "key_missing" in ended.err
    assert ended.out.endswith("config.toml: ok\n")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigRefused, match="No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigRefused, match="not UTF-8"):
        load(tmp_path / "binary.toml")


def test_no_file_is_the_empty_config():
    assert load(None) == Config() == parse({})


def test_an_alias_of_a_provider_that_is_not_configured_is_told_and_hinders_nobody():
    aliases = {"claude": "anthropic", "opus": "claude:opus", "gpt": "openai", "mini": "gpt:mini", "own": "openai:own"}
    config = parse({"providers": {"openai": {"kind": "openai"}}, "aliases": aliases})
    assert config.without_effect() == [
        f"the alias `{alias}` stands for `{meant}`, but that provider is not configured"
        for alias, meant in (("claude", "anthropic"), ("opus", "claude:opus"))
    ]


class TestExample:
    def test_it_is_right_as_it_stands(self):
        assert load(EXAMPLE) == Config()

    def test_its_keys_are_those_that_exist(self, tmp_path):
        """Its commented lines too: whoever takes a `#` away gets a config that is right."""
        lines = EXAMPLE.read_text().splitlines()
        begin = lines.index(next(line for line in lines if line.startswith("[daemon]")))
        path = tmp_path / "config.toml"
        path.write_text("\n".join(line.removeprefix("# ") for line in lines[begin:]))
        assert load(path).providers.keys() == {"openai", "anthropic", "ollama"}


class TestAddresses:
    @pytest.mark.parametrize(
        "provider",
        [
            OPENAI + 'base_url = "https://example.org/v1"\n',
            OPENAI + 'base_url = "http://127.0.0.1:8000/v1"\n',
            OPENAI + 'base_url = "http://[::1]:8000/v1"\n',
            OPENAI + 'base_url = "http://localhost:8000/v1"\n',
            LOCAL + 'base_url = "http://192.168.1.5:8000/v1"\n',
            LOCAL + 'base_url = "http://169.254.7.7/v1"\n',
            '[providers.o]\nkind = "ollama"\nbase_url = "http://gpu.lan:11434"\n',
        ],
    )
    def test_a_key_may_go_encrypted_to_this_machine_or_where_the_config_says_local(self, tmp_path, provider):
        path = tmp_path / "config.toml"
        path.write_text(provider)
        check_sources(load(path))

    def test_ollama_that_is_said_not_to_be_local_is_held_to_https(self):
        with pytest.raises(ConfigRefused, match="unencrypted"):
            parse({"providers": {"o": {"kind": "ollama", "base_url": "http://gpu.lan", "local": False}}})


class TestValues:
    def test_time_zones(self):
        assert parse({"daemon": {"timezone": "UTC"}}).zone() is UTC
        assert parse({"daemon": {"timezone": "Europe/Berlin"}}).zone() == ZoneInfo("Europe/Berlin")
        assert parse({}).zone() is not None

    def test_limits_are_nano_dollars(self):
        config = parse({"limits": {"month_usd": 0.1, "users": {"*": {"day_usd": 2}, "ana": {"month_usd": 1e9}}}})
        limits = config.limits.limits()
        assert (limits.daemon.month, limits.daemon.day) == (100_000_000, None)
        assert (limits.users["*"].day, limits.users["ana"].month) == (2 * NANO_PER_USD, 10**18)

    def test_the_place_of_a_key_is_kept(self):
        config = parse({"providers": {"a": {"kind": "openai", "api_key": {"credential": "openai"}}}})
        assert config.providers["a"].api_key == KeySource(credential="openai")


def test_settings_may_be_written_as_toml_would():
    quoted = parse(tomllib.loads('[settings]\n"orchestrator.enabled" = true\n"orchestrator.task_models.tag" = "a:b"\n'))
    bare = parse(tomllib.loads('[settings]\norchestrator.enabled = true\norchestrator.task_models.tag = "a:b"\n'))
    assert bare.settings == quoted.settings == {"orchestrator.enabled": True, "orchestrator.task_models.tag": "a:b"}


def test_tables_of_settings_may_be_empty_and_tasks_may_have_points_in_their_names():
    said = "[settings.orchestrator]\n[settings.orchestrator.task_models]\na.b = 'x:y'\n[settings.tournament]\n"
    assert parse(tomllib.loads(said)).settings == {"orchestrator.task_models.a.b": "x:y"}


def test_an_experiment_has_its_arms_and_a_task_of_ours_or_of_the_config():
    tasks = "[tasks.poem]\nprompt_tokens = 10\n"
    config = parse(tomllib.loads(ARMS + "[experiments.e]\ntask = 'poem'\nsticky = 'conversation'\n" + tasks))
    assert config.experiments["e"].arms["b"].weight == 2
    assert (config.experiments["e"].task, config.experiments["e"].sticky) == ("poem", "conversation")
