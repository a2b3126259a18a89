"""What a call may come to at each of its targets: price, most tokens, the bound that is held."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from actors.rules.candidates import Target
from actors.rules.catalogue import Catalogue
from actors.rules.parameters import with_parameters
from actors.rules.pricing import Price, affordable, bound
from actors.rules.tokens import OPENAI_FACTOR_MILLI, OTHER_FACTOR_MILLI, PromptTokens, prompt_upper_bound
from protocols.chat import Chat
from protocols.errors import QuorumError
from protocols.money import NanoUSD
from protocols.provider import ProviderView
from protocols.session import Preferences
from protocols.users import NO_LAYERS

LEAST_ANSWER = 16
"""Tokens of an answer below which clamping is no help."""


class Quote(Struct, frozen=True):
    """What an attempt at a target may come to: its price, and the most tokens of its prompt and its answer.

    `about` is a tokenizer's count of the prompt, if there is one; `clamped` says that the longest answer was cut.
    """

    price: Price | None
    prompt_tokens: int
    longest_answer: int
    bound: NanoUSD | None
    about: int | None = None
    clamped: bool = False


class Quoted(Struct, frozen=True):
    """The target that a call would ask first and why, its quote, and the chat as it would be sent.

    `refused` is the budget's fault, where it would not let the call through.
    """

    model: str
    why: str
    quote: Quote
    chat: Chat
    refused: QuorumError | None


class Quotes:
    """The quotes of one call, and the request as each target is sent it.

    State: quotes by target, each made when it is asked for first.
    """

    __slots__ = ("_catalogue", "_chat", "_counted", "_made", "_preferences", "_views")

    def __init__(
        self,
        catalogue: Catalogue,
        chat: Chat,
        preferences: Preferences,
        views: tuple[ProviderView, ...],
        counted: Mapping[str, PromptTokens],
    ) -> None:
        """`counted` is the prompt by a tokenizer, by model."""
        self._catalogue = catalogue
        self._chat = chat
        self._preferences = preferences
        self._views = views
        self._counted = counted
        self._made: dict[Target, Quote] = {}

    def of(self, target: Target) -> Quote:
        """The quote of a target."""
        quote = self._made.get(target)
        if quote is None:
            quote = self._made[target] = self._new(target)
        return quote

    def tokens(self, provider: str, model: str) -> int:
        """Tokens that prompt and answer have at most at this model, with the user's parameters for it."""
        quote = self.of(Target(provider, model))
        return quote.prompt_tokens + quote.longest_answer

    def request(self, target: Target) -> Chat:
        """The request with the user's parameters for this target."""
        parameters = self._preferences.choices.parameters
        return with_parameters(self._chat, parameters.get(str(target), NO_LAYERS)) if parameters else self._chat

    def clamp(self, target: Target, room: NanoUSD) -> bool:
        """Cuts the longest answer to what fits, if the user allows it and neither the request nor the user's parameters name a limit."""
        quote, asked = self.of(target), self.request(target).max_tokens
        if not self._preferences.clamp_to_budget or asked is not None or quote.price is None:
            return False
        longest = min(affordable(quote.price, quote.prompt_tokens, room), quote.longest_answer - 1)
        if longest < LEAST_ANSWER:
            return False
        amount = bound(quote.price, quote.prompt_tokens, longest)
        self._made[target] = replace(quote, longest_answer=longest, bound=amount, clamped=True)
        return True

    def _new(self, target: Target) -> Quote:
        view = next(v for v in self._views if v.name == target.provider)
        price, longest = self._catalogue.price(view, target.model), self._longest_answer(target)
        openai = view.kind == "openai"
        exact = self._counted.get(target.model) if openai else None
        if exact is not None:
            amount = None if price is None else bound(price, exact.at_most, longest)
            return Quote(price, exact.at_most, longest, amount, exact.about)
        factor = OPENAI_FACTOR_MILLI if openai else OTHER_FACTOR_MILLI
        tokens = prompt_upper_bound(self._chat, factor, target.model)
        return Quote(price, tokens, longest, None if price is None else bound(price, tokens, longest))

    def _longest_answer(self, target: Target) -> int:
        """The limit of the request or of the user's parameters, else the user's default within what the model can."""
        asked = self.request(target).max_tokens
        if asked is not None:
            return asked
        most = self._catalogue.longest_answer(target.provider, target.model)
        default = self._preferences.default_max_tokens
        return default if most is None else min(default, most)
