"""Prices of known models, from a file beside the ledger that a short-lived child process builds.

The data is genai-prices'. Its import costs 38 MB and 0.14 s, so only the child (`actors.store.build_prices`) pays it and
leaves integers here; a model's name is matched by the same clauses as there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import structlog
from msgspec import Raw, Struct

from actors.rules.pricing import DAY_S, Price

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "prices.msgpack"

FORMAT = 2
"""Of the file; another one is built anew. Structs are arrays there, so each new field of a price makes a new format."""

BUILD_TIMEOUT_S = 30.0

BY_KIND = {"openai": "openai", "anthropic": "anthropic"}
"""Whose prices a provider of unknown origin and name is taken to have."""

LONGEST_NAME = 256
"""Characters; nothing longer is a model's name, or worth the memory of an answer kept."""

_CHILD_ENV = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TZ")
"""All that the child is given: keys in the environment stay here."""

log = structlog.get_logger()


class Equals(Struct, frozen=True, array_like=True, tag=0):
    """The whole name. Like all clauses it meets names in lower case, and is kept in lower case."""

    text: str

    def matches(self, name: str) -> bool:
        """Whether `name` is meant."""
        return name == self.text


class StartsWith(Struct, frozen=True, array_like=True, tag=1):
    """The beginning of the name."""

    text: str

    def matches(self, name: str) -> bool:
        """Whether `name` is meant."""
        return name.startswith(self.text)


class EndsWith(Struct, frozen=True, array_like=True, tag=2):
    """The end of the name."""

    text: str

    def matches(self, name: str) -> bool:
        """Whether `name` is meant."""
        return name.endswith(self.text)


class Contains(Struct, frozen=True, array_like=True, tag=3):
    """Any part of the name."""

    text: str

    def matches(self, name: str) -> bool:
        """Whether `name` is meant."""
        return self.text in name


class Regex(Struct, frozen=True, array_like=True, tag=4):
    """A pattern found anywhere in the name; case matters to it."""

    pattern: str

    def matches(self, name: str) -> bool:
        """Whether `name` is meant."""
        return re.search(self.pattern, name) is not None


class AnyOf(Struct, frozen=True, array_like=True, tag=5):
    """At least one clause."""

    clauses: tuple[Clause, ...]

    def matches(self, name: str) -> bool:
        """Whether `name` is meant."""
        return any(clause.matches(name) for clause in self.clauses)


class AllOf(Struct, frozen=True, array_like=True, tag=6):
    """Every clause."""

    clauses: tuple[Clause, ...]

    def matches(self, name: str) -> bool:
        """Whether `name` is meant."""
        return all(clause.matches(name) for clause in self.clauses)


Clause = Equals | StartsWith | EndsWith | Contains | Regex | AnyOf | AllOf


class Model(Struct, frozen=True, array_like=True):
    """A model: which names mean it, its price (None: known to exist, price not) and its context in tokens."""

    match: Clause
    price: Price | None = None
    context_tokens: int | None = None


class Vendor(Struct, frozen=True, array_like=True):
    """A provider of genai-prices. `models` are undecoded `Model`s, in the order in which they are tried.

    `api_pattern` is a regex that its URLs begin with; `others` are vendors whose models it offers too.
    """

    id: str
    api_pattern: str
    others: tuple[str, ...]
    models: Raw


class Contents(Struct, frozen=True, array_like=True):
    """The file. `built_s` is Unix seconds, `source` the version of genai-prices."""

    format: int
    source: str
    built_s: int
    vendors: tuple[Vendor, ...]


class PriceBook:
    """Prices by provider and model; an empty one knows none.

    State: the models of vendors asked for, decoded; the latest answers.
    """

    def __init__(self, contents: Contents | None = None) -> None:
        self._vendors = {vendor.id: vendor for vendor in contents.vendors} if contents else {}
        self._models: dict[str, list[Model]] = {}
        self._find = lru_cache(maxsize=4_096)(self._look_up)
        self.built_s = contents.built_s if contents else 0
        self.version = _version(contents) if contents else ""

    def __repr__(self) -> str:
        return f"<PriceBook {self.version}, {len(self._vendors)} providers>" if self._vendors else "<PriceBook empty>"

    def find(self, origin: str, provider_name: str, kind: str, model: str) -> Price | None:
        """What `model` costs at a provider, or None where that is not known.

        Whose prices: of the vendor whose API the origin (a host or a base URL) is; of an unknown origin, the vendor that
        the provider is named like; else the vendor that the kind is named after. A vendor that lacks the model ends the
        search: another one's price would be a guess.
        """
        found = self._known(origin, provider_name, kind, model)
        return found.price if found else None

    def context(self, origin: str, provider_name: str, kind: str, model: str) -> int | None:
        """The model's context in tokens, if known; found as `find` does."""
        found = self._known(origin, provider_name, kind, model)
        return found.context_tokens if found else None

    def stale(self, now_s: float) -> bool:
        """Whether to open the book anew: prices change on dates, and are resolved when it is built."""
        return not 0 <= now_s - self.built_s < DAY_S

    def _known(self, origin: str, provider_name: str, kind: str, model: str) -> Model | None:
        return self._find(origin, provider_name, kind, model) if len(model) <= LONGEST_NAME else None

    def _look_up(self, origin: str, provider_name: str, kind: str, model: str) -> Model | None:
        vendor = self._vendor_at(origin) or self._vendors.get(provider_name) or self._vendors.get(BY_KIND.get(kind, ""))
        if vendor is None:
            return None
        name = model.lower()
        found = self._match(vendor, name) or self._match(vendor, dashed_date(name))
        if found is None or found.price is None:
            return found
        return msgspec.structs.replace(found, price=msgspec.structs.replace(found.price, version=self.version))

    def _vendor_at(self, origin: str) -> Vendor | None:
        if not origin:
            return None
        url = "https://" + origin.split("://", 1)[-1].lower()
        return next((vendor for vendor in self._vendors.values() if re.match(vendor.api_pattern, url)), None)

    def _match(self, vendor: Vendor, name: str) -> Model | None:
        for each in (vendor.id, *vendor.others):
            for model in self._decoded(each):
                if model.match.matches(name):
                    return model
        return None

    def _decoded(self, vendor_id: str) -> list[Model]:
        """A vendor's models, decoded when first asked for: most vendors never are."""
        if vendor_id not in self._models:
            vendor = self._vendors.get(vendor_id)
            self._models[vendor_id] = _MODELS.decode(vendor.models) if vendor else []
        return self._models[vendor_id]


_MODELS = msgspec.msgpack.Decoder(list[Model])
_CONTENTS = msgspec.msgpack.Decoder(Contents)
_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


async def open_price_book(state: Path, clock: Callable[[], float] = time.time) -> PriceBook:
    """The book in the state folder, built first where there is none, or an old one, or another data version's.

    Never raises for a failed build: the old book is used, or an empty one, and the log says so.
    """
    path = state / FILE
    book = _read(path)
    if book and not book.stale(clock()) and _same_source(book):
        return book
    fault = await _build(path)
    if fault is None and (built := _read(path)):
        return built
    if book:
        log.warning("price_book_is_old", book=repr(book), fault=fault or "the new file can't be read")
        return book
    log.warning("price_book_is_empty", effect="every price is unknown", fault=fault or "the file can't be read")
    return PriceBook()


def installed_version() -> str:
    """The version of genai-prices, or nothing where it can't be seen.

    It is in the name of the metadata folder; to import importlib.metadata and read it there takes far longer.
    """
    spec = find_spec("genai_prices")
    if spec is None or spec.origin is None:
        return ""
    found = Path(spec.origin).parent.parent.glob("genai_prices-*.dist-info")
    return next((path.stem.partition("-")[2] for path in found), "")


def dashed_date(name: str) -> str:
    """A name ending in `-20251211` with the date as `-2025-12-11`, as genai-prices tries it when a name is not found."""

    def dashed(found: re.Match[str]) -> str:
        year, month, day = map(int, found.groups())
        try:
            return f"-{date(year, month, day).isoformat()}"
        except ValueError:
            return found.group()

    return _COMPACT_DATE.sub(dashed, name)


def _read(path: Path) -> PriceBook | None:
    try:
        contents = _CONTENTS.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return PriceBook(contents) if contents.format == FORMAT else None


def _version(contents: Contents) -> str:
    return f"genai-prices {contents.source} {datetime.fromtimestamp(contents.built_s, UTC).date()}"


def _same_source(book: PriceBook) -> bool:
    installed = installed_version()
    return not installed or book.version.startswith(f"genai-prices {installed} ")


async def _build(path: Path) -> str | None:
    """Run the child; why it failed, or None."""
    command = [sys.executable, "-m", "actors.store.build_prices", str(path)]
    env = {name: os.environ[name] for name in _CHILD_ENV if name in os.environ}
    try:
        with anyio.fail_after(BUILD_TIMEOUT_S):
            done = await anyio.run_process(command, check=False, env=env, stdin=subprocess.DEVNULL)
    except TimeoutError:
        return f"the build took more than {BUILD_TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"the build can't be started: {error}"
    if done.returncode == 0:
        return None
    last_line = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"the build ended with {done.returncode}: {last_line[:300]}"
