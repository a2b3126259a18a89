"""daemonctl as a real process, against a scripted daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from scripted_daemon import ScriptedDaemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Ran = subprocess.CompletedProcess[str]

CTL = [sys.executable, "-W", "error", "-m", "daemon.ctl"]


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is buffered, as it is for users."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDaemon]:
    """A daemon that daemonctl finds by itself."""
    path = tmp_path / "rpc.sock"
    monkeypatch.setenv("QUORUMD_SOCKET", str(path))
    with ScriptedDaemon(path) as daemon:
        yield daemon


@pytest.fixture
def ctl() -> Callable[..., Ran]:
    """Runs daemonctl to its end."""

    def run(*words: str, stdin: str = "", **env: Any) -> Ran:
        return subprocess.run(
            [*CTL, *words],
            check=False,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=20,
            env={**os.environ, **env},
        )

    return run
