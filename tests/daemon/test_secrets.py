"""Keys: where they are read, what is refused, and that they are nowhere to be seen."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import msgspec
import pytest

from daemon import secrets
from daemon.secrets import KeyRefused, KeySource, Secret

CANARY = "sk-canary-0123456789"


def test_a_key_of_the_environment():
    assert secrets.read(KeySource(env="KEY"), {"KEY": f" {CANARY}\n"}).reveal() == CANARY


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_of_a_private_file(tmp_path, mode):
    path = tmp_path / "key"
    path.write_text(f"{CANARY}\n")
    path.chmod(mode)
    assert secrets.read(KeySource(file=str(path)), {}).reveal() == CANARY


def test_a_file_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text(CANARY)
    (tmp_path / "key").chmod(0o600)
    assert secrets.read(KeySource(file="~/key"), {}).reveal() == CANARY


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_file_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path, mode):
    path = tmp_path / "key"
    path.write_text(CANARY)
    path.chmod(mode)
    with pytest.raises(KeyRefused) as refused:
        secrets.read(KeySource(file=str(path)), {})
    assert f"chmod 600 {path}" in str(refused.value)
    assert CANARY not in str(refused.value)


def test_a_credential_of_systemd(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "openai").write_text(f"{CANARY}\n")
    assert secrets.read(KeySource(credential="openai"), {}).reveal() == CANARY


def test_a_credential_without_systemd_says_what_to_do(monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(KeyRefused, match=r"`openai` is passed by systemd alone.*env.*file"):
        secrets.read(KeySource(credential="openai"), {})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "holds no key"),
        (" \n", "holds no key"),
        ("sk-canary\nsk-2", "unprintable"),
        ("sk-canary\0", "unprintable"),
        ("sk-canäry", "can't be a key"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(value, said):
    with pytest.raises(KeyRefused) as refused:
        secrets.read(KeySource(env="KEY"), {"KEY": value})
    assert said in str(refused.value)
    assert "KEY" in str(refused.value)
    assert "sk-can" not in str(refused.value)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(KeyRefused, match="the environment variable KEY holds no key"):
        secrets.read(KeySource(env="KEY"), {})
    with pytest.raises(KeyRefused, match="No such file"):
        secrets.read(KeySource(file=str(tmp_path / "none")), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(KeyRefused, match="not text"):
        secrets.read(KeySource(file=str(tmp_path / "binary")), {})


@pytest.mark.parametrize(
    "places",
    [{}, {"env": "A", "file": "b"}, {"env": "A", "credential": "c"}, {"env": "A", "file": "b", "credential": "c"}],
)
def test_a_key_has_exactly_one_place(places):
    with pytest.raises(ValueError, match="one place"):
        KeySource(**places)


class TestSecret:
    @pytest.mark.parametrize(
        "show",
        [
            repr,
            str,
            "{}".format,
            "{!r}".format,
            "{:>40}".format,
            lambda s: f"{s}",
            lambda s: f"{[s]}",
        ],
    )
    def test_no_text_of_it_has_the_key(self, show):
        shown = show(Secret(CANARY))
        assert CANARY not in shown
        assert "<secret>" in shown

    @pytest.mark.parametrize(
        "write", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, msgspec.json.encode, msgspec.msgpack.encode]
    )
    def test_it_is_written_nowhere(self, write):
        with pytest.raises(TypeError):
            write(Secret(CANARY))

    def test_it_has_no_attributes_to_dump(self):
        assert not hasattr(Secret(CANARY), "__dict__")
        with pytest.raises(TypeError):
            vars(Secret(CANARY))

    def test_logging_does_not_have_it(self, caplog):
        with caplog.at_level(logging.INFO):
            logging.getLogger("test").info("key %s %r", Secret(CANARY), Secret(CANARY))
        assert CANARY not in caplog.text
