"""What is found without a config: keys in the environment, a listening Ollama, else the simulated provider."""

from __future__ import annotations

import socket
from contextlib import contextmanager

import pytest

from daemon import discover
from daemon.config import ConfigRefused, parse
from daemon.secrets import KeySource
from daemon.sources import open_sources

NOBODY = {"OLLAMA_HOST": "127.0.0.1:9"}


@contextmanager
def listening(host: str = "127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(("variable", "known"), discover.USUAL_KEYS.items())
def test_a_key_in_the_environment_is_a_provider(variable, known):
    name, kind, base_url = known
    found = discover.providers(NOBODY | {variable: "sk-1"})
    assert list(found) == [name]
    assert (found[name].kind, found[name].base_url, found[name].api_key) == (kind, base_url, KeySource(env=variable))


def test_what_is_found_would_also_be_right_in_a_config():
    found = discover.providers(NOBODY | dict.fromkeys(discover.USUAL_KEYS, "sk-1"))
    assert len(found) == len(discover.USUAL_KEYS)
    parse(
        {
            "providers": {
                name: {"kind": p.kind} | ({"base_url": p.base_url} if p.base_url else {}) for name, p in found.items()
            }
        }
    )


def test_several_keys_come_in_the_order_of_the_list_whatever_the_environments():
    found = discover.providers(NOBODY | {"OPENAI_API_KEY": "b", "GROQ_API_KEY": "c", "ANTHROPIC_API_KEY": "a"})
    assert list(found) == ["anthropic", "openai", "groq"]


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_key_is_none(empty):
    assert list(discover.providers(NOBODY | {"OPENAI_API_KEY": empty})) == ["simulated"]


def test_nothing_found_is_the_simulated_provider():
    found = discover.providers(NOBODY)
    assert list(found) == ["simulated"]
    assert found["simulated"].kind == "simulated"


@pytest.mark.parametrize(
    ("said", "dialled"),
    [
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}"),
        ("http://127.0.0.1:{port}", "http://127.0.0.1:{port}"),
        ("http://127.0.0.1:{port}/", "http://127.0.0.1:{port}"),
        ("localhost:{port}", "http://localhost:{port}"),
        ("0.0.0.0:{port}", "http://127.0.0.1:{port}"),
        (" 127.0.0.1:{port} ", "http://127.0.0.1:{port}"),
    ],
)
def test_ollama_is_found_where_it_listens(said, dialled):
    with listening() as port:
        found = discover.providers({"OLLAMA_HOST": said.format(port=port)})
    assert list(found) == ["ollama"]
    assert (found["ollama"].kind, found["ollama"].base_url) == ("ollama", dialled.format(port=port))


def test_ollama_comes_after_the_keys():
    with listening() as port:
        found = discover.providers({"OLLAMA_HOST": f"127.0.0.1:{port}", "OPENAI_API_KEY": "sk-1"})
    assert list(found) == ["openai", "ollama"]


@pytest.mark.parametrize(
    "said", ["127.0.0.1:9", "127.0.0.1:99999", "127.0.0.1:port", "http://[::1", "[", "http://[::1]:9"]
)
def test_an_ollama_that_is_not_there_is_not_found(said):
    found = discover.providers({"OLLAMA_HOST": said})
    assert list(found) == ["simulated"]


def test_children_get_no_key():
    said = {"PATH": "/bin", "OPENAI_API_KEY": "sk-1", "QUORUM_SECRET": "x", "HOME": "/h"}
    assert discover.clean_environment(said) == {"PATH": "/bin", "HOME": "/h"}


def test_a_provider_without_its_key_is_there_and_says_what_to_add():
    with open_sources(parse({"providers": {"openai": {"kind": "openai"}}})) as (source,):
        assert "api_key" in (source.misconfigured or "")
        assert "[providers.openai]" in (source.misconfigured or "")


def test_an_address_that_no_request_can_go_to_is_refused():
    config = parse({"providers": {"o": {"kind": "openai", "base_url": "https://example.org:99999/v1"}}})
    with pytest.raises(ConfigRefused, match=r"\[providers\.o\]"), open_sources(config):
        pass
