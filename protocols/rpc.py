"""The messages of the wire: hello, call, cancel from a client; welcome, item, done, fault from the daemon."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

PROTOCOL = 1
MAX_FRAME_BYTES = 8_388_608

Right = Literal["observe", "use", "operate", "admin"]

CallId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What both wires can carry back."""


Name = Annotated[str, Meta(max_length=256)]
"""A name that a client gives: it becomes a key of caches, a column, a line of the log."""


Conversation = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"\A[^\x00]*\Z")]
"""An app's own name for a conversation: any text but none at all, and without NUL, which no table can show."""


class Hello(Struct, tag_field="t", tag="hello", forbid_unknown_fields=True):
    """The first message of a client. `app` is a label for reports."""

    protocol: int
    app: str = "unknown"


class Call(Struct, tag_field="t", tag="call", forbid_unknown_fields=True):
    """One call; `params` are decoded when the method is known. `deadline_s` counts from when the daemon reads it."""

    id: CallId
    method: Name
    params: Raw = Raw(b"")
    deadline_s: float | None = None
    idempotency_key: Name | None = None


class Cancel(Struct, tag_field="t", tag="cancel", forbid_unknown_fields=True):
    """Ends a call of this connection; the call is answered with a fault `cancelled`, or with what it had finished."""

    id: int


ClientMessage = Hello | Call | Cancel


class Welcome(Struct, tag_field="t", tag="welcome"):
    """The answer to hello: who the kernel says the peer is, and what it may do."""

    protocol: int
    version: str
    user: str
    rights: list[str]
    max_frame_bytes: int


class Item(Struct, tag_field="t", tag="item"):
    """A piece of a call's stream."""

    id: int
    value: Any


class Done(Struct, tag_field="t", tag="done"):
    """A call's result; nothing follows for this id."""

    id: int
    value: Any


class Fault(Struct, tag_field="t", tag="fault", omit_defaults=True):
    """A call failed, or without `id` the connection did."""

    code: str
    message: str
    id: int | UnsetType = UNSET
    detail: dict[str, Any] | UnsetType = UNSET
    retry_after_s: float | UnsetType = UNSET


class DoneRaw(Struct, tag_field="t", tag="done"):
    """`Done` as a client reads it, the value not yet decoded."""

    id: int
    value: Raw


class ItemRaw(Struct, tag_field="t", tag="item"):
    """`Item` as a client reads it, the value not yet decoded."""

    id: int
    value: Raw


DaemonMessage = Welcome | ItemRaw | DoneRaw | Fault
"""What a client decodes; unknown fields of a newer daemon are tolerated."""


class Params(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The params of a method: the struct declares the method's name, the right that it needs, and whether it takes a key.

    A `lasting` one goes on until the client cancels it or the daemon stops, and then ends at once: it has no deadline but one that
    the client gives it.
    """

    method: ClassVar[str]
    right: ClassVar[Right]
    keyed: ClassVar[bool] = False
    lasting: ClassVar[bool] = False


class Ping(Params):
    """Is the daemon there?"""

    method: ClassVar[str] = "ping"
    right: ClassVar[Right] = "observe"
