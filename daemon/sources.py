"""Providers from the config: addresses, keys and dialects put together; the simulated one's process started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from actors.provider import Source
from actors.providers.transport import Endpoint
from daemon import discover, secrets
from daemon.config import Config, ConfigRefused, ProviderSection, check_aliases
from protocols.dialects import DIALECTS, Dialect
from protocols.provider import BillingOnCancel

BACKLOG = 4096

BILLED_WHOLE = ("googleapis.com", "groq.com", "mistral.ai", "perplexity.ai", "amazonaws.com")
"""Hosts that bill a stream to its end although the client hung up (measured, see docs/providers.md)."""

log = structlog.get_logger("providers")


@contextmanager
def open_sources(config: Config) -> Iterator[list[Source]]:
    """The configured providers, or those that are found; simulated ones run as a child process until the end.

    Raises ConfigRefused.
    """
    sections = dict(config.providers) or discover.providers(secrets.environment())
    check_aliases(config, sections)  # those that are found have names, too
    log.info("providers", names=list(sections), found=not config.providers)
    children: list[subprocess.Popen[bytes]] = []
    try:
        yield [_source(name, section, children) for name, section in sections.items()]
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()


def check_sources(config: Config) -> None:
    """For `--check`: everything but the processes. Raises ConfigRefused."""
    for name, section in config.providers.items():
        _built(name, section, section.base_url or "http://127.0.0.1:1")


def _source(name: str, section: ProviderSection, children: list[subprocess.Popen[bytes]]) -> Source:
    base_url = section.base_url
    if section.kind == "simulated" and base_url is None:
        base_url = _start_simulated(children)
    return _built(name, section, base_url)


def _built(name: str, section: ProviderSection, base_url: str | None) -> Source:
    dialect = DIALECTS["openai" if section.kind == "simulated" else section.kind]
    simulated = section.kind == "simulated"
    local = section.local if section.local is not None else section.kind in {"ollama", "simulated"}
    headers, missing = _headers(name, section, dialect)
    try:
        endpoint = Endpoint(
            _with_version(base_url or dialect.default_base_url, section.kind), headers, proxy=section.proxy
        )
    except ValueError as error:
        raise ConfigRefused(f"[providers.{name}]: {error}") from None
    return Source(
        name,
        section,
        endpoint,
        dialect,
        local,
        simulated,
        section.billing_on_cancel or _billing(endpoint.host),
        missing,
    )


def _with_version(base_url: str, kind: str) -> str:
    """An OpenAI or Anthropic address that is nothing but an origin gets `/v1`: the dialects' paths lie below it."""
    bare = base_url.rstrip("/")
    return f"{bare}/v1" if kind != "ollama" and bare.count("/") == 2 else bare  # noqa: PLR2004  the two of ://


def _headers(name: str, section: ProviderSection, dialect: Dialect) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """The headers with the key, and what is missing if there is none."""
    if section.api_key is None:
        needed = dialect.needs_key and section.kind != "simulated" and section.base_url is None
        return (), f"no key is configured; add `api_key = {{ env = … }}` under [providers.{name}]" if needed else None
    try:
        return dialect.auth(secrets.read(section.api_key, secrets.environment()).reveal()), None
    except secrets.KeyRefused as refused:
        log.error("key_missing", provider=name, why=str(refused))  # noqa: TRY400  no traceback near a key
        return (), str(refused)


def _billing(host: str) -> BillingOnCancel:
    return "whole" if any(host == h or host.endswith(f".{h}") for h in BILLED_WHOLE) else "emitted"


def _start_simulated(children: list[subprocess.Popen[bytes]]) -> str:
    """The simulated provider on a socket that we bind: calls wait in its backlog while the process starts."""
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        port = listener.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "actors.providers.simulated",
            "--fd",
            str(listener.fileno()),
            "--parent-pid",
            str(os.getpid()),
        ]
        environment: Mapping[str, str] = discover.clean_environment()
        children.append(
            subprocess.Popen(command, pass_fds=[listener.fileno()], env=environment, stdin=subprocess.DEVNULL)  # noqa: S603  our own module
        )
    return f"http://127.0.0.1:{port}/v1"
