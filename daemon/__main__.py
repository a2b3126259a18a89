"""`quorumd`: the daemon in the foreground."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import __version__

if TYPE_CHECKING:
    from daemon.config import Config

STOPPED, FAILED, WRONG, RUNNING = 0, 1, 2, 3
"""Exit codes: stopped as asked, error, usage or config, another daemon holds the state folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the daemon and returns its exit code."""
    said = _parser().parse_args(arguments)
    from daemon.config import ConfigRefused, load
    from daemon.named_models import not_found
    from daemon.sources import check_sources

    try:
        path = said.config or _config_path(os.environ)
        state = said.state or _state_path(os.environ)
        config = load(path)
        _check(config, path)
        if said.check:
            check_sources(config)
            for note in (*config.without_effect(), *not_found(config, None)):
                print(f"quorumd: {note}", file=sys.stderr)  # noqa: T201
            print(f"{path or 'no config: the defaults'}: ok")  # noqa: T201  a command's own output
            return STOPPED
    except ConfigRefused as refused:
        print(f"quorumd: {refused}", file=sys.stderr)  # noqa: T201
        return WRONG
    return _serve(config, state, said.socket or _socket_path(os.environ))


def _check(config: Config, path: Path | None) -> None:
    """The settings of the config, by those who own them, and the models that it names. Raises ConfigRefused."""
    from actors.settings import check_config
    from daemon.config import ConfigRefused
    from daemon.named_models import check_named_models
    from protocols.errors import BadRequest

    try:
        check_config(config.settings, config.tasks)
    except BadRequest as error:
        raise ConfigRefused(f"{path}: [settings]: {error.message}") from None
    try:
        check_named_models(config)
    except ConfigRefused as refused:
        raise ConfigRefused(f"{path}: {refused}") from None


def _serve(config: Config, state: Path, socket: Path) -> int:
    import sqlite3

    import anyio
    import structlog

    from actors.store.sqlite import StoreRefused
    from actors.supervise import GaveUp
    from daemon import log, systemd
    from daemon.app import AlreadyRunning, CannotStart, Paths, run
    from daemon.config import ConfigRefused

    systemd.undumpable()
    lines = log.configure()
    say = structlog.get_logger("quorumd")
    try:
        anyio.run(run, config, Paths(state, socket), lines, backend="asyncio", backend_options={"use_uvloop": True})
    except AlreadyRunning as running:
        say.error("already_running", why=str(running))
        return RUNNING
    except ConfigRefused as refused:
        say.error("config_refused", why=str(refused))
        return WRONG
    except (StoreRefused, GaveUp, CannotStart, sqlite3.Error, OSError) as error:
        say.critical("ended", why=str(error))
        return FAILED
    finally:
        lines.flush()
        if lines.lost:
            sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  else Python's own last flush fails and makes the exit code 120
    return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quorumd",
        description="One daemon between your programs and the language models they call; in the foreground.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="config; default: $XDG_CONFIG_HOME/quorumd/config.toml or /etc/quorumd/config.toml",
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="state folder; default: $STATE_DIRECTORY or $XDG_STATE_HOME/quorumd"
    )
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="socket; default: $QUORUMD_SOCKET, $XDG_RUNTIME_DIR/quorumd/rpc.sock or /run/quorumd/rpc.sock",
    )
    parser.add_argument("--check", action="store_true", help="check the config and exit with 0 or 2")
    parser.add_argument("--version", action="version", version=f"quorumd {__version__}")
    return parser


def _config_path(environment: Mapping[str, str]) -> Path | None:
    home = environment.get("XDG_CONFIG_HOME") or _at_home(".config")
    own = [Path(home) / "quorumd/config.toml"] if home else []
    return next((path for path in (*own, Path("/etc/quorumd/config.toml")) if path.exists()), None)


def _state_path(environment: Mapping[str, str]) -> Path:
    from daemon.config import ConfigRefused
    from daemon.systemd import state_directory

    home = environment.get("XDG_STATE_HOME") or _at_home(".local/state")
    given = state_directory() or (Path(home) / "quorumd" if home else None)
    if given is None:
        raise ConfigRefused("this account has no home folder; name the state folder with --state, or set HOME")
    return given


def _at_home(folder: str) -> str | None:
    """A folder below the home of this account; None where it has none."""
    try:
        return str(Path("~", folder).expanduser())
    except RuntimeError:
        return None


def _socket_path(environment: Mapping[str, str]) -> Path:
    if environment.get("QUORUMD_SOCKET"):
        return Path(environment["QUORUMD_SOCKET"])
    runtime = environment.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "quorumd/rpc.sock" if runtime else Path("/run/quorumd/rpc.sock")


if __name__ == "__main__":
    sys.exit(main())
