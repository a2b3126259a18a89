"""With no provider configured: keys in the environment by their usual names, Ollama on its usual port, else the simulated one."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from daemon.config import ProviderSection
from daemon.secrets import KeySource

USUAL_KEYS: dict[str, tuple[str, str, str | None]] = {
    "ANTHROPIC_API_KEY": ("anthropic", "anthropic", None),
    "OPENAI_API_KEY": ("openai", "openai", None),
    "DEEPSEEK_API_KEY": ("deepseek", "openai", "https://api.deepseek.com/v1"),
    "DASHSCOPE_API_KEY": ("qwen", "openai", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
    "GEMINI_API_KEY": ("google", "openai", "https://generativelanguage.googleapis.com/v1beta/openai"),
    "GROQ_API_KEY": ("groq", "openai", "https://api.groq.com/openai/v1"),
    "MISTRAL_API_KEY": ("mistral", "openai", "https://api.mistral.ai/v1"),
    "OPENROUTER_API_KEY": ("openrouter", "openai", "https://openrouter.ai/api/v1"),
    "TOGETHER_API_KEY": ("together", "openai", "https://api.together.xyz/v1"),
    "FIREWORKS_API_KEY": ("fireworks", "openai", "https://api.fireworks.ai/inference/v1"),
    "XAI_API_KEY": ("xai", "openai", "https://api.x.ai/v1"),
}
"""The environment's variable → provider name, kind, base URL (None: the kind's own)."""

OLLAMA_PORT = 11434
CONNECT_S = 0.2
SIMULATED = "simulated"


def providers(environment: Mapping[str, str]) -> dict[str, ProviderSection]:
    """What can be used without a config, in the order in which it is asked."""
    found = {
        name: ProviderSection(kind=kind, base_url=base_url, api_key=KeySource(env=variable))  # type: ignore[arg-type]  # the table's kinds
        for variable, (name, kind, base_url) in USUAL_KEYS.items()
        if environment.get(variable, "").strip()
    }
    ollama = _ollama(environment)
    if ollama is not None:
        found["ollama"] = ProviderSection(kind="ollama", base_url=ollama)
    return found or {SIMULATED: ProviderSection(kind="simulated")}


def _ollama(environment: Mapping[str, str]) -> str | None:
    """Ollama's address if something listens there; $OLLAMA_HOST as Ollama itself reads it."""
    said = environment.get("OLLAMA_HOST", "").strip() or "127.0.0.1"
    try:
        parts = urlsplit(said if "://" in said else f"http://{said}")
        host = parts.hostname or "127.0.0.1"
        host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104  what a server binds, a client does not dial
        port = parts.port or OLLAMA_PORT
        with socket.create_connection((host, port), timeout=CONNECT_S):
            return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    except (OSError, ValueError):
        return None


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for our child processes: none of them needs a key."""
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
    )
    source = os.environ if environment is None else environment
    return {name: source[name] for name in kept if name in source}
