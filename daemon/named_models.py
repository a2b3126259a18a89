"""Models that the config names outside of [models]: for arms of experiments and in settings. Is there such a provider?"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from actors.settings import is_of_model
from daemon.config import Config, ConfigRefused
from protocols.model import RESERVED_PROVIDER, split_model_id


def check_named_models(config: Config) -> None:
    """Refuses what can't work: a name without a provider, or with one that is not among those that are configured.

    Where none is configured they are found at the start, and `not_found` tells. Raises ConfigRefused.
    """
    for where, model in _named(config):
        why = _wrong(model, config, config.providers or None)
        if why is not None:
            raise ConfigRefused(f"{where}: {why}")


def not_found(config: Config, found: Collection[str] | None) -> list[str]:
    """A sentence for each model whose provider is not among those that were found; with None nobody has looked yet."""
    if config.providers:
        return []
    if found is None:
        return [
            f"{where}: no provider is configured; whether there is the one of `{model}` shows at the start"
            for where, model in _named(config)
        ]
    return [f"{where}: {why}" for where, model in _named(config) if (why := _wrong(model, config, found)) is not None]


def _named(config: Config) -> Iterator[tuple[str, str]]:
    """The names with the places where they stand."""
    for name, experiment in config.experiments.items():
        for arm, one in experiment.arms.items():
            if one.model is not None:
                yield f"[experiments.{name}]: the arm `{arm}`", one.model
    for key, value in config.settings.items():
        if is_of_model(key) and isinstance(value, str):
            yield f"[settings]: `{key}`", value


def _wrong(model: str, config: Config, providers: Collection[str] | None) -> str | None:
    """What is wrong with a model's name, an alias or an id; its provider is looked for where these are known."""
    parts = split_model_id(config.aliases.get(model, model))
    if parts is None:
        near = difflib.get_close_matches(
            model, [a for a, meant in config.aliases.items() if split_model_id(meant)], n=1
        )
        hint = f"; did you mean the alias `{near[0]}`?" if near else ""
        return f"`{model}` names no provider; write <provider>:<model>, or an alias of a model{hint}"
    provider = config.aliases.get(parts[0], parts[0])
    if providers is None or provider in providers or provider == RESERVED_PROVIDER:  # nodes come and go
        return None
    near = difflib.get_close_matches(provider, providers, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"there is no provider `{provider}` for `{model}`; {hint}there are: {', '.join(providers) or 'none'}"
