"""The config file: the administrator's. Each section's struct stands with whoever uses it; here they become one."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta, Struct, field

from actors import tokenizer
from actors.notify import split_url
from actors.rules.admission import Limit, Limits
from actors.rules.catalogue import ModelConfig
from actors.rules.experiments import NAMES, Arm, Experiment
from actors.rules.matrix import TaskConfig, task
from actors.store.sqlite import Durability
from daemon.secrets import KeySource
from protocols.errors import BadRequest
from protocols.model import PROVIDER_NAME, RESERVED_PROVIDER, split_model_id
from protocols.money import nano_from_usd
from protocols.provider import ProviderConfig
from protocols.rpc import MAX_FRAME_BYTES
from protocols.settings import SETTINGS, TABLES, Usd


class ConfigRefused(Exception):
    """The config is wrong; the message names the place and what is expected."""


class DaemonSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[daemon]`."""

    timezone: str | None = None
    drain_s: Annotated[float, Meta(ge=0, le=86_400)] = 20.0
    durability: Durability = "power"
    max_frame_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = MAX_FRAME_BYTES
    client_stall_s: Annotated[float, Meta(gt=0, le=86_400)] = 30.0
    exact_tokens: bool = False


class LimitSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Dollars a month and a day. A user's are a budget that the user's settings act on, unless `hard`; all others are hard."""

    month_usd: Usd | None = None
    day_usd: Usd | None = None
    hard: bool | None = None

    def limit(self) -> Limit:
        """In nano-dollars."""
        return Limit(
            month=None if self.month_usd is None else nano_from_usd(self.month_usd),
            day=None if self.day_usd is None else nano_from_usd(self.day_usd),
            hard=bool(self.hard),
        )


class LimitsSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[limits]`."""

    month_usd: Usd | None = None
    day_usd: Usd | None = None
    users: dict[str, LimitSection] = field(default_factory=dict)
    apps: dict[str, LimitSection] = field(default_factory=dict)
    providers: dict[str, LimitSection] = field(default_factory=dict)

    def limits(self) -> Limits:
        """In nano-dollars."""
        return Limits(
            daemon=LimitSection(month_usd=self.month_usd, day_usd=self.day_usd).limit(),
            users={name: section.limit() for name, section in self.users.items()},
            apps={name: section.limit() for name, section in self.apps.items()},
            providers={name: section.limit() for name, section in self.providers.items()},
        )


class ProviderSection(ProviderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[providers.<name>]`."""

    api_key: KeySource | None = None


class RightsSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[rights]`."""

    admin_uids: tuple[int, ...] = (0,)
    use_group: str = "quorumd"
    operate_group: str = "quorumd-operate"


class AlertsSection(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[alerts]`: where alerts go besides `daemonctl alerts` and `watch`. A command is its words, run without a shell."""

    command: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    webhook: str | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    daemon: DaemonSection = DaemonSection()
    limits: LimitsSection = LimitsSection()
    providers: dict[str, ProviderSection] = field(default_factory=dict)
    models: dict[str, ModelConfig] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    rights: RightsSection = RightsSection()
    alerts: AlertsSection = AlertsSection()

    def without_effect(self) -> list[str]:
        """A sentence for each part of the file that this version knows but does not go by."""
        found = []
        if self.daemon.exact_tokens and not tokenizer.installed():
            found.append(f"`exact_tokens` of the config has no effect: {tokenizer.REMEDY}")
        return found + [
            f"the alias `{alias}` stands for `{meant}`, but that provider is not configured"
            for alias, meant in self.aliases.items()
            for provider in [meant.partition(":")[0]]
            if self.providers and self.aliases.get(provider, provider) not in self.providers
        ]

    def zone(self) -> tzinfo:
        """The time zone of periods."""
        return _zone(self.daemon.timezone or _machine_zone())


def load(path: Path | None) -> Config:
    """Reads and checks a config; None is the empty one. Raises ConfigRefused."""
    if path is None:
        return Config()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigRefused(
            f"{path} can't be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from None
    try:
        return parse(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ConfigRefused) as error:
        raise ConfigRefused(f"{path}: {error}") from None


def parse(tables: Mapping[str, Any]) -> Config:
    """Checks what a file says. Raises ConfigRefused."""
    if isinstance(settings := tables.get("settings"), dict):
        tables = {**tables, "settings": _flat(settings)}
    try:
        config = msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        raise ConfigRefused(_readable(str(error), tables)) from None
    for check in (_check_zone, _check_providers, _check_models, _check_experiments, _check_limits, _check_alerts):
        check(config)
    check_aliases(config, config.providers)
    return config


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their whole names: TOML makes tables of `orchestrator.enabled` where nobody quoted it."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{before}{key}"
        if isinstance(value, dict) and name not in _tables() and not (value and name.startswith(tuple(TABLES))):
            raise ConfigRefused(f"settings: there are no settings `{name}.…`{_right_names(name, _tables())}")
        inner = _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
        twice = next((one for one in inner if one in flat), None)
        if twice is not None:
            raise ConfigRefused(f"settings: `{twice}` stands there twice, with its name quoted and as a table's key")
        flat |= inner
    return flat


def _tables() -> list[str]:
    """The tables that TOML makes of settings' names."""
    names = (name.rpartition(".")[0] for name in (*SETTINGS, *TABLES))
    return list(dict.fromkeys(filter(None, names)))


_SECTIONS: dict[str, type[Struct]] = {
    "": Config,
    "daemon": DaemonSection,
    "limits": LimitsSection,
    "limits.users[...]": LimitSection,
    "limits.apps[...]": LimitSection,
    "limits.providers[...]": LimitSection,
    "providers[...]": ProviderSection,
    "providers[...].api_key": KeySource,
    "models[...]": ModelConfig,
    "tasks[...]": TaskConfig,
    "experiments[...]": Experiment,
    "experiments[...].arms[...]": Arm,
    "rights": RightsSection,
    "alerts": AlertsSection,
}
"""Each section by msgspec's name of its place."""


def _readable(error: str, tables: Mapping[str, Any]) -> str:
    """A message of msgspec with the place in TOML's words, and with the names that would be right."""
    what, _, place = error.partition(" - at `$")
    msgspecs = what
    place = place.rstrip("`").removeprefix(".")
    if "unknown field" in what:
        what += _right_names(what.split("`")[1], [f.encode_name for f in msgspec.structs.fields(_SECTIONS[place])])
    elif "enum value" in what:
        section, _, name = re.sub(r"\[\d+\]", "", place).rpartition(".")
        kinds = next(f.type for f in msgspec.structs.fields(_SECTIONS[section]) if f.encode_name == name)
        what += _right_names(what.split("'")[1], _literals(kinds))
    what = what.replace("Object", "the section").replace("`object", "`table")
    while "[...]" in place:
        place = place.replace("[...]", f".{_wrong_entry(place, tables, msgspecs)}", 1)
    return f"{place}: {what}" if place else what


def _right_names(wrong: str, names: list[str]) -> str:
    near = difflib.get_close_matches(wrong, names, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; there are: {', '.join(names)}"


def _literals(kind: Any) -> list[str]:
    """The words that a type allows, however deep they are in it."""
    inner = [word for part in get_args(kind) for word in _literals(part)]
    return [part for part in get_args(kind) if isinstance(part, str)] + inner


def _wrong_entry(place: str, tables: Mapping[str, Any], error: str) -> str:
    """The name behind `[...]`: msgspec keeps it to itself, so the entries are tried one at a time until one gives the same error."""
    path = place.partition("[...]")[0].split(".")
    entries: Any = tables
    for name in path:
        entries = entries[name]
    for name, entry in entries.items():
        alone: Any = {name: entry}
        for outer in reversed(path):
            alone = {outer: alone}
        try:
            msgspec.convert(alone, Config)
        except msgspec.ValidationError as same:
            if str(same).startswith(error):
                return _quoted(name)
    return "?"


def _quoted(name: str) -> str:
    """A key as TOML would have it."""
    return name if PROVIDER_NAME.match(name) else json.dumps(name, ensure_ascii=False)


def _check_zone(config: Config) -> None:
    config.zone()


def _check_providers(config: Config) -> None:
    for name, provider in config.providers.items():
        if not PROVIDER_NAME.match(name) or name == RESERVED_PROVIDER:
            raise ConfigRefused(
                f"[providers.{name}]: a provider's name is made of a-z, 0-9, _ and -, and is not `client`"
            )
        if provider.base_url is not None:
            _check_url(name, provider)


def _check_url(name: str, provider: ProviderSection) -> None:
    """A key never travels in the clear: http only to this machine, or where the config says `local = true`."""
    wrong = ConfigRefused(f"[providers.{name}]: `base_url` is an http(s) address like https://api.openai.com/v1")
    try:
        parts = urlsplit(str(provider.base_url))
    except ValueError:
        raise wrong from None
    local = provider.local if provider.local is not None else provider.kind in {"ollama", "simulated"}
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise wrong
    if local:
        return
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ConfigRefused(
            f"[providers.{name}]: `base_url` would send the key unencrypted; use https, or say `local = true`"
        )
    if _is_link_local(parts.hostname):
        raise ConfigRefused(
            f"[providers.{name}]: `base_url` is a link-local address; say `local = true` if that is meant"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_link_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False


def _check_models(config: Config) -> None:
    for name in config.models:
        parts = split_model_id(name)
        if parts is None:
            raise ConfigRefused(f'[models."{name}"]: a model is named <provider>:<model>')
        if config.providers and parts[0] not in config.providers:
            raise ConfigRefused(f'[models."{name}"]: there is no [providers.{parts[0]}]')


def _check_experiments(config: Config) -> None:
    for name, experiment in config.experiments.items():
        where = f"[experiments.{_quoted(name)}]"
        for kind, said in (("experiment", name), *(("arm", arm) for arm in experiment.arms)):
            if not NAMES.fullmatch(said):
                raise ConfigRefused(
                    f"{where}: the name `{said[:100]}` of the {kind} is made of A-Z, a-z, 0-9, _ and -, at most 64 of them"
                )
        if len(experiment.arms) < 2:  # noqa: PLR2004  one alone is compared with nothing
            raise ConfigRefused(f"{where}: it needs two arms or more")
        for arm, one in experiment.arms.items():
            if (one.model is None) == (one.tier is None):
                raise ConfigRefused(f"{where}: the arm `{arm}` names either a `model` or a `tier`")
        if experiment.task is not None:
            try:
                task(experiment.task, config.tasks)
            except BadRequest as error:
                raise ConfigRefused(f"{where}: {error.message}") from None
        same = next((n for n, other in config.experiments.items() if other.task == experiment.task), name)
        if same != name:
            what = "for every task" if experiment.task is None else f"of the task `{experiment.task}`"
            raise ConfigRefused(f"{where}: `{same}` is an experiment {what} already; a call can be in one of them only")


def check_aliases(config: Config, providers: Collection[str]) -> None:
    """An alias hides none of these providers nor a model, and stands for no other alias. Raises ConfigRefused."""
    for alias, meant in config.aliases.items():
        if alias in config.models or alias.partition(":")[0] in {*providers, RESERVED_PROVIDER}:
            raise ConfigRefused(f"[aliases]: `{alias}` hides a real name; choose another")
        if meant in config.aliases:
            raise ConfigRefused(
                f"[aliases]: `{alias}` stands for `{meant}`, which is an alias; name the provider or the model itself"
            )


def _check_limits(config: Config) -> None:
    for name in config.limits.providers:
        if config.providers and name not in config.providers:
            raise ConfigRefused(f"[limits.providers]: there is no [providers.{name}]")
    for kind, sections in (("apps", config.limits.apps), ("providers", config.limits.providers)):
        for name, section in sections.items():
            if section.hard is False:
                raise ConfigRefused(
                    f"[limits.{kind}.{name}]: limits of {kind} are always hard; only a user's can be a budget"
                )


def _check_alerts(config: Config) -> None:
    if config.alerts.webhook is None:
        return
    try:
        split_url(config.alerts.webhook)
    except ValueError as error:
        raise ConfigRefused(f"[alerts]: `webhook` is no http(s) address: {error}") from None


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigRefused(
            f"[daemon]: there is no time zone `{name}` on this machine; name one like Europe/Berlin, or UTC"
        ) from None


def _machine_zone() -> str:
    """The name behind /etc/localtime; UTC if there is none."""
    try:
        name = str(Path("/etc/localtime").readlink()).partition("zoneinfo/")[2]
    except OSError:
        return "UTC"
    return "UTC" if name in {"", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu"} else name
