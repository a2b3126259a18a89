"""Users and what they chose: a model for each provider, one of them the default, parameters, models of conversations."""

from __future__ import annotations

import sys
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from protocols.audit import Actor
from protocols.chat import MAX_TOKENS, ExplainedFault, ReasoningEffort
from protocols.model import Tier
from protocols.request import Request
from protocols.routing import Reason, Rejected, Step
from protocols.rpc import Conversation, Name, Params, Right
from protocols.warned import Warned

MAX_CONVERSATIONS = 1000
"""Defaults of conversations that a user has at most; the one set longest ago goes first."""

Model = Annotated[str, Meta(min_length=1, max_length=256)]

Stop = Annotated[str, Meta(min_length=1, max_length=256)]


class Parameters(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Parameters of a chat, with the meaning and the bounds that they have there; None says nothing."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    reasoning_effort: ReasoningEffort | None = None


NONE_SAID = Parameters()


class Layers(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two layers: `defaults` fill what a request leaves out, `overrides` replace what it says."""

    defaults: Parameters = NONE_SAID
    overrides: Parameters = NONE_SAID


NO_LAYERS = Layers()

LARGEST = sys.float_info.max
"""Keeps out infinity and what is no number: JSON has neither, so they would be kept as null."""

Text = Annotated[str, Meta(max_length=1024)]

Noted = (
    Text
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
    | bool
    | None
    | Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=16)]
)
"""What both wires can carry, and small: it is in the audit twice, and in every answer that shows the model."""

Metadata = Annotated[dict[Annotated[str, Meta(max_length=64)], Noted], Meta(max_length=32)]
"""What an app notes beside a model; the daemon only keeps it."""


class UserModel(Struct, frozen=True, kw_only=True):
    """A user's model at a provider; `use_count` are the answers that it gave since it was chosen."""

    provider: str
    model: str
    is_default: bool
    parameters: Layers
    metadata: dict[str, Any]
    use_count: int
    created_at: str
    updated_at: str


class Choices(Struct, frozen=True):
    """What a user chose, as a call goes by it: model ids, parameters by model id, models of conversations."""

    default: str | None = None
    models: tuple[str, ...] = ()
    parameters: dict[str, Layers] = {}
    conversations: dict[str, str] = {}


class SetDefault(Params):
    """Makes a model the user's default and the user's model of its provider; without `model` the one that the user has there.

    `model` may be `<provider>:<model>` or an alias, and with `provider` the bare name. What is left out of `parameters` and
    `metadata` stays as it is for the same model.
    """

    method: ClassVar[str] = "user_models.set_default"
    right: ClassVar[Right] = "use"

    provider: Name | None = None
    model: Model | None = None
    parameters: Layers | None = None
    metadata: Metadata | None = None
    user: Name | None = None


class AddModel(Params):
    """Makes a model the user's for its provider; the user's default provider stays the same."""

    method: ClassVar[str] = "user_models.add"
    right: ClassVar[Right] = "use"

    model: Model
    provider: Name | None = None
    parameters: Layers | None = None
    metadata: Metadata | None = None
    user: Name | None = None


class RemoveModel(Params):
    """Forgets the user's model of a provider."""

    method: ClassVar[str] = "user_models.remove"
    right: ClassVar[Right] = "use"

    provider: Name
    user: Name | None = None


class GetDefault(Params):
    """The user's default."""

    method: ClassVar[str] = "user_models.get_default"
    right: ClassVar[Right] = "use"

    user: Name | None = None


class ListModels(Params):
    """The user's models."""

    method: ClassVar[str] = "user_models.list"
    right: ClassVar[Right] = "use"

    user: Name | None = None


class Resolve(Params):
    """Which model a call that says this would go to, and why; nobody is called and no budget is asked."""

    method: ClassVar[str] = "user_models.resolved"
    right: ClassVar[Right] = "use"

    provider: Name | None = None
    model: Name | None = None
    conversation: Conversation | None = None
    task_type: Name | None = None
    quality_tier: Tier | None = None
    user: Name | None = None


class SetConversationDefault(Params):
    """Sets a conversation's default model, or with null takes it back."""

    method: ClassVar[str] = "conversations.set_default"
    right: ClassVar[Right] = "use"

    conversation: Conversation
    model: Model | None
    user: Name | None = None


class Users(Params):
    """Lists the users who chose anything, by name: so many, of those whose names come after `after`."""

    method: ClassVar[str] = "users"
    right: ClassVar[Right] = "operate"

    first: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    after: Name | None = None


class ChosenModel(Struct):
    """Result of `user_models.set_default` and `.add`: the row, and a warning when the provider does not list the model."""

    model: UserModel
    warnings: list[Warned]


class DefaultModel(Struct):
    """Result of `user_models.get_default`."""

    model: UserModel | None


class UserModels(Struct):
    """Result of `user_models.list`, by provider."""

    models: list[UserModel]


class Resolved(Struct):
    """Result of `user_models.resolved`; without a model `fault` says what `chat` would answer."""

    model: str | None
    reason: Reason
    targets: list[str]
    steps: list[Step]
    rejected: list[Rejected]
    parameters: Layers
    fault: ExplainedFault | None = None


class ConversationDefault(Struct):
    """Result of `conversations.set_default`."""

    conversation: str
    model: str | None
    warnings: list[Warned]


class UserRow(Struct):
    """A row of `users`; `models` and `conversations` are how many have one."""

    user: str
    created_at: str
    default_model: str | None
    models: int
    conversations: int


class UserList(Struct):
    """Result of `users`, by name."""

    users: list[UserRow]


class ChoicesOf(Request[Choices], frozen=True):
    """Users actor: what a user chose, read from the store."""

    user: str


class ModelsOf(Request[list[UserModel]], frozen=True):
    """Users actor: a user's models."""

    user: str


class ChooseModel(Request[UserModel], frozen=True):
    """Users actor: a user's model at a provider, audited; `model` None is the one that is there, `parameters` and `metadata` too.

    Raises NotFound without one; LedgerReadonly.
    """

    user: str
    provider: str
    model: str | None
    as_default: bool
    parameters: Layers | None
    metadata: dict[str, Any] | None
    actor: Actor


class ForgetModel(Request[None], frozen=True):
    """Users actor: forget a user's model of a provider, audited. Raises NotFound; LedgerReadonly."""

    user: str
    provider: str
    actor: Actor


class ChooseForConversation(Request[None], frozen=True):
    """Users actor: a conversation's model, or None to forget it, audited. Raises LedgerReadonly."""

    user: str
    conversation: str
    model: str | None
    actor: Actor


class Used(Request[None], frozen=True):
    """Users actor: a model (its id) answered a call of this user."""

    user: str
    model: str


class ListUsers(Request[list[UserRow]], frozen=True):
    """Users actor: so many of them by name, of those whose names come after `after`."""

    first: int = 1000
    after: str = ""


class ChoicesChanged(Request[None], frozen=True):
    """Told upwards when a user chose something else."""

    user: str


class WatchChoices(Request[None], frozen=True):
    """Users actor: tell this ref of every change from now on."""

    watcher: Any
