"""Bytes in, structs out: frames of msgpack, or lines of JSON. No sockets.

A frame is 4 bytes of big-endian length and one msgpack map. A connection whose first byte is `{` speaks JSON, one object
a line: as a frame's length that byte would mean 2 GB, so it can't be one.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct

from protocols.errors import BadRequest, ProtocolViolation, TooLarge
from protocols.rpc import Call, CallId, ClientMessage, DaemonMessage, Params

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = TypeVar("P", bound=Params)

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""The three families of exceptions that msgspec raises on bytes that it can't decode."""

_LENGTH = 4
_REASON_LENGTH = 500


class _Envelope(Struct):
    """The least that a wrong message must have to be answered under its id."""

    t: str
    id: CallId


class Codec(Protocol):
    """One of the two ways to speak; an object per connection, since it keeps the bytes of an unfinished message."""

    def feed(self, data: bytes) -> list[ClientMessage | BadRequest]:
        """The messages complete with these bytes; a call that is wrong but has an id is a BadRequest with `detail.id`.

        Raises ProtocolViolation or TooLarge: nothing after it can be read.
        """
        ...

    def append(self, out: bytearray, message: Struct) -> None:
        """Adds a message to the bytes to send."""
        ...

    def params(self, cls: type[P], raw: Raw) -> P:
        """The params of a call. Raises BadRequest that names the field."""
        ...

    @property
    def unfinished(self) -> bool:
        """Whether a message has begun and not ended."""
        ...


class Frames:
    """Frames of msgpack.

    State: the bytes of a message that has not ended, and how many it takes to look at them again.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self._limit = max_frame_bytes
        self._rest = bytearray()
        self._wanted = _LENGTH

    @property
    def unfinished(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[ClientMessage | BadRequest]:
        """See `Codec.feed`."""
        return [_message(_MSGPACK_IN, _MSGPACK_ENVELOPE, payload) for payload in self.split(data)]

    def split(self, data: bytes) -> list[memoryview]:
        """The payloads complete with these bytes. Raises TooLarge."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = bytes(self._rest)
        payloads = []
        view = memoryview(data)
        start, end = 0, len(data)
        self._wanted = _LENGTH
        while end - start >= _LENGTH:
            size = int.from_bytes(view[start : start + _LENGTH], "big")
            if size > self._limit:
                raise TooLarge(
                    f"a frame of {size} bytes is above the limit of {self._limit}", detail={"limit": self._limit}
                )
            stop = start + _LENGTH + size
            if stop > end:
                self._wanted = stop - start
                break
            payloads.append(view[start + _LENGTH : stop])
            start = stop
        self._rest = bytearray(view[start:])
        return payloads

    def append(self, out: bytearray, message: Struct) -> None:
        """See `Codec.append`."""
        start = len(out)
        out += b"\0\0\0\0"
        try:
            _MSGPACK_OUT.encode_into(message, out, start + _LENGTH)
        except BaseException:
            del out[start:]  # half a frame would be read as the length of the next one
            raise
        out[start : start + _LENGTH] = (len(out) - start - _LENGTH).to_bytes(_LENGTH, "big")

    def params(self, cls: type[P], raw: Raw) -> P:
        """See `Codec.params`."""
        return _params(_msgpack_decoder(cls), raw, b"\x80")


class JsonLines:
    """Lines of JSON.

    State: the bytes of a line that has not ended.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self._limit = max_frame_bytes
        self._rest = bytearray()

    @property
    def unfinished(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[ClientMessage | BadRequest]:
        """See `Codec.feed`."""
        return [_message(_JSON_IN, _JSON_ENVELOPE, line) for line in self.split(data) if line.strip()]

    def split(self, data: bytes) -> list[bytes]:
        """The lines complete with these bytes. Raises TooLarge."""
        last = data.rfind(b"\n")
        if last < 0:
            self._rest += data
            lines = []
        else:
            self._rest += data[:last]
            lines = bytes(self._rest).split(b"\n")
            self._rest = bytearray(data[last + 1 :])
        if max(len(self._rest), *map(len, lines), 0) > self._limit:
            raise TooLarge(f"a line is above the limit of {self._limit} bytes", detail={"limit": self._limit})
        return lines

    def append(self, out: bytearray, message: Struct) -> None:
        """See `Codec.append`."""
        _JSON_OUT.encode_into(message, out, len(out))
        out += b"\n"

    def params(self, cls: type[P], raw: Raw) -> P:
        """See `Codec.params`."""
        return _params(_json_decoder(cls), raw, b"{}")


def codec_for(first: bytes, max_frame_bytes: int) -> Codec:
    """The way that a connection speaks, told by its first byte."""
    return JsonLines(max_frame_bytes) if first[:1] == b"{" else Frames(max_frame_bytes)


def encode_frame(message: Struct | dict[str, Any]) -> bytes:
    """One message as a frame, as a client sends it."""
    payload = _MSGPACK_OUT.encode(message)
    return len(payload).to_bytes(_LENGTH, "big") + payload


def decode_daemon(payload: bytes | memoryview) -> DaemonMessage:
    """A daemon's message as a client reads it. Raises ProtocolViolation."""
    try:
        return _DAEMON_IN.decode(payload)
    except UNREADABLE as error:
        raise ProtocolViolation(f"the daemon sent what is no message: {error}") from None


def decode_value(raw: Raw, cls: type[T]) -> T:
    """A value of an item or a result, from msgpack; `Any` for plain objects."""
    return msgspec.msgpack.decode(raw, type=cls, strict=False) if len(raw) else msgspec.convert({}, cls)


_MSGPACK_OUT = msgspec.msgpack.Encoder()
_JSON_OUT = msgspec.json.Encoder()
_MSGPACK_IN = msgspec.msgpack.Decoder(ClientMessage)
_JSON_IN = msgspec.json.Decoder(ClientMessage)
_MSGPACK_ENVELOPE = msgspec.msgpack.Decoder(_Envelope)
_JSON_ENVELOPE = msgspec.json.Decoder(_Envelope)
_DAEMON_IN: _Decoder[DaemonMessage] = msgspec.msgpack.Decoder(DaemonMessage)
_msgpack_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}
_json_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def _msgpack_decoder(cls: type[P]) -> msgspec.msgpack.Decoder[P]:
    decoder = _msgpack_decoders.get(cls)
    if decoder is None:
        decoder = _msgpack_decoders[cls] = msgspec.msgpack.Decoder(cls)
    return decoder


def _json_decoder(cls: type[P]) -> msgspec.json.Decoder[P]:
    decoder = _json_decoders.get(cls)
    if decoder is None:
        decoder = _json_decoders[cls] = msgspec.json.Decoder(cls)
    return decoder


class _Decoder(Protocol[T_co]):
    def decode(self, data: Any, /) -> T_co: ...


def _message(
    decoder: _Decoder[ClientMessage], envelope: _Decoder[_Envelope], payload: bytes | memoryview
) -> ClientMessage | BadRequest:
    try:
        return decoder.decode(payload)
    except UNREADABLE as error:
        reason = _reason(error)
    try:
        wrong = envelope.decode(payload)
    except UNREADABLE:
        wrong = None
    if wrong is None or wrong.t != Call.__struct_config__.tag:
        raise ProtocolViolation(f"this is no message of the protocol: {reason}")
    return BadRequest(f"wrong call: {reason}", detail={"id": wrong.id})


def _params(decoder: _Decoder[P], raw: Raw, empty: bytes) -> P:
    try:
        return decoder.decode(raw if len(raw) else empty)
    except UNREADABLE as error:
        raise BadRequest(f"wrong params: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What is wrong and where. Msgspec names fields, types and words that are no choice; a client's own may be long."""
    if isinstance(error, UnicodeDecodeError):
        return "a string is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)[:_REASON_LENGTH]
