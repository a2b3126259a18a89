"""Keys: read from the environment, a file of mode 0600 or systemd's credentials; kept in a type that never prints."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from daemon import systemd


class KeyRefused(Exception):
    """A key can't be read; the message says where it was looked for and what to do."""


class KeySource(Struct, frozen=True, forbid_unknown_fields=True):
    """`api_key` of the config: exactly one of the three; never the key itself."""

    env: str | None = None
    credential: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        """Exactly one place, so that nobody wonders which one won."""
        if sum(place is not None for place in (self.env, self.credential, self.file)) != 1:
            raise ValueError('`api_key` names one place: { env = "…" }, { credential = "…" } or { file = "…" }')


class Secret:
    """A key. It is in no repr, no log and no pickle; `reveal` is the one way to it."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """The key itself, for the header that carries it."""
        return self.__value

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, _: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")


def read(source: KeySource, environment: Mapping[str, str]) -> Secret:
    """The key at this place. Raises KeyRefused."""
    if source.env is not None:
        value = environment.get(source.env, "")
        where = f"the environment variable {source.env}"
    elif source.file is not None:
        value, where = _private(Path(source.file).expanduser()), source.file
    else:
        folder = systemd.credentials_directory()
        if folder is None:
            raise KeyRefused(
                f"the credential `{source.credential}` is passed by systemd alone; elsewhere use {{ env = … }} or {{ file = … }}"
            )
        value, where = _text(folder / str(source.credential)), f"the credential {source.credential}"
    value = value.strip()
    if not value or not value.isprintable() or not value.isascii():
        raise KeyRefused(
            f"{where} holds no key"
            if not value
            else f"what {where} holds can't be a key: it has unprintable characters"
        )
    return Secret(value)


def _private(path: Path) -> str:
    text = _text(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise KeyRefused(f"{path} can be read by others; run: chmod 600 {path}")
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyRefused(f"{path} can't be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None


def environment() -> Mapping[str, str]:
    """Where keys of the environment are looked up."""
    return os.environ
