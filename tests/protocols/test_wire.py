"""The codec: bytes in, structs out; whatever comes, it answers with one of its three errors and stays small."""

from __future__ import annotations

import collections
import itertools
import json
import time
import tracemalloc
from typing import Any

import malformed
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.methods import METHODS
from protocols.chat import Chat, as_json
from protocols.errors import BadRequest, ProtocolViolation, TooLarge
from protocols.rpc import MAX_FRAME_BYTES, Call, Cancel, Done, Fault, Hello, Item, Ping, Welcome
from protocols.settings import SettingsSet
from protocols.wire import Frames, JsonLines, codec_for, decode_daemon, decode_value, encode_frame

FUZZED_FRAMES, FUZZED_LINES = 100_000, 20_000
IDS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=30)
PLAIN = st.recursive(
    st.none() | st.booleans() | IDS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SAID = st.one_of(
    st.fixed_dictionaries({"t": st.just("hello"), "protocol": IDS}, optional={"app": TEXT}),
    st.fixed_dictionaries({"t": st.just("cancel"), "id": IDS}),
    st.fixed_dictionaries(
        {"t": st.just("call"), "id": IDS, "method": TEXT},
        optional={"params": st.dictionaries(TEXT, PLAIN, max_size=4), "deadline_s": st.floats(0.1, 1e6)},
    ),
)


def as_frames(said: list[dict[str, Any]]) -> bytes:
    return b"".join(encode_frame(message) for message in said)


def as_lines(said: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in said)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def plain(message: Any, decode: Any) -> dict[str, Any]:
    """A message as the client said it."""
    match message:
        case Hello(protocol, app):
            return {"t": "hello", "protocol": protocol, "app": app}
        case Cancel(call_id):
            return {"t": "cancel", "id": call_id}
        case Call():
            params = decode(message.params) if len(message.params) else {}
            return {
                "t": "call",
                "id": message.id,
                "method": message.method,
                "params": params,
                "deadline_s": message.deadline_s,
            }
    raise AssertionError(message)


DEFAULTS = {"hello": {"app": "unknown"}, "cancel": {}, "call": {"params": {}, "deadline_s": None}}
WIRES = pytest.mark.parametrize(
    ("make", "encoded", "decode"),
    [(Frames, as_frames, msgspec.msgpack.decode), (JsonLines, as_lines, msgspec.json.decode)],
    ids=["frames", "lines"],
)


@WIRES
class TestWhatIsSaidIsHeard:
    @given(said=st.lists(SAID, max_size=5), cuts=st.lists(st.integers(0, 10_000), max_size=12))
    def test_however_the_bytes_are_split(self, make, encoded, decode, said, cuts):
        codec = make(MAX_FRAME_BYTES)
        heard = [message for piece in in_pieces(encoded(said), cuts) for message in codec.feed(piece)]
        assert [plain(message, decode) for message in heard] == [DEFAULTS[s["t"]] | s for s in said]
        assert not codec.unfinished

    def test_one_byte_at_a_time(self, make, encoded, decode):
        said = [s for s in malformed.valid_calls() if s["t"] == "call"]
        codec = make(MAX_FRAME_BYTES)
        heard = [message for byte in encoded(said) for message in codec.feed(bytes([byte]))]
        assert [plain(message, decode)["params"] for message in heard] == [s["params"] for s in said]

    def test_an_unfinished_message_is_known_as_such(self, make, encoded, decode):
        del decode
        data = encoded([{"t": "cancel", "id": 1}])
        codec = make(MAX_FRAME_BYTES)
        assert not codec.unfinished
        assert (codec.feed(data[:-1]), codec.unfinished) == ([], True)
        assert (codec.feed(data[-1:]), codec.unfinished) == ([Cancel(1)], False)

    def test_every_method_takes_its_right_params(self, make, encoded, decode):
        del decode
        assert malformed.PARAMS.keys() == METHODS.keys()
        for method, each in malformed.PARAMS.items():
            for params in each:
                codec = make(MAX_FRAME_BYTES)
                (call,) = codec.feed(encoded([{"t": "call", "id": 1, "method": method, "params": params}]))
                codec.params(METHODS[method].params, call.params)

    def test_a_call_without_params_has_their_defaults(self, make, encoded, decode):
        del decode
        codec = make(MAX_FRAME_BYTES)
        (call,) = codec.feed(encoded([{"t": "call", "id": 1, "method": "ping"}]))
        assert codec.params(Ping, call.params) == Ping()

    @pytest.mark.parametrize(
        ("said", "named"),
        [
            ({"t": "call", "id": 7, "method": "ping", "idem": "k"}, "idem"),
            ({"t": "call", "id": 7}, "method"),
            ({"t": "call", "id": 7, "method": 3}, "$.method"),
            ({"t": "call", "id": 7, "method": "ping", "deadline_s": "soon"}, "$.deadline_s"),
        ],
    )
    def test_a_wrong_call_is_answered_under_its_id_and_names_the_field(self, make, encoded, decode, said, named):
        del decode
        codec = make(MAX_FRAME_BYTES)
        wrong, after = codec.feed(encoded([said, {"t": "cancel", "id": 1}]))
        assert isinstance(wrong, BadRequest)
        assert wrong.detail == {"id": 7}
        assert named in wrong.message
        assert after == Cancel(1)

    @pytest.mark.parametrize(
        ("params", "named"),
        [
            ({"messages": [{"role": "user", "content": "hi", "colour": 1}]}, "`colour` - at `$.messages[0]`"),
            ({"messages": [{"role": "user"}], "modell": "x"}, "`modell`"),
            ({"messages": []}, "`messages` must have at least one message"),
            ({"messages": [{"role": "king"}]}, "$.messages[0].role"),
            ({}, "`messages`"),
            ({"messages": [{"role": "user"}], "max_tokens": 0}, "max_tokens"),
            ({"messages": [{"role": "user"}], "max_tokens": 10**10}, "max_tokens"),
            ({"messages": [{"role": "user"}], "seed": 2**64 - 1}, "$.seed"),
            ({"messages": [{"role": "user"}], "temperature": 3}, "temperature"),
            ([], "Expected `object`, got `array`"),
        ],
    )
    def test_wrong_params_name_the_place(self, make, encoded, decode, params, named):
        del decode
        codec = make(MAX_FRAME_BYTES)
        (call,) = codec.feed(encoded([{"t": "call", "id": 7, "method": "chat", "params": params}]))
        with pytest.raises(BadRequest) as refused:
            codec.params(Chat, call.params)
        assert named in refused.value.message

    @pytest.mark.parametrize(
        "said",
        [
            {},
            {"t": "bow"},
            {"t": "call"},
            {"t": "call", "id": "one", "method": "ping"},
            {"t": "call", "id": 2**64 - 1, "method": "ping"},
            {"t": "call", "id": 1.5, "method": "ping"},
            {"t": "cancel"},
            {"t": "cancel", "id": 1, "why": "so"},
            {"t": "hello"},
            {"t": "hello", "protocol": 1, "please": True},
            {"t": "done", "id": 1, "value": 1},
            {"id": 1, "method": "ping"},
            ["t", "call"],
        ],
    )
    def test_what_is_no_message_violates_the_protocol(self, make, encoded, decode, said):
        del decode
        with pytest.raises(ProtocolViolation):
            make(MAX_FRAME_BYTES).feed(encoded([said]))


class TestGarbage:
    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"\xc1",
            b"\x81",
            b"\xdf\xff\xff\xff\xff",
            b"\xdd\xff\xff\xff\xff",
            b"\x82\xa1t\xa4call\xa2id\xcf" + b"\xff" * 8,
            b"\x81\xa1t\xa2\xff\xfe",
            b"\x91" * 100_000,
            malformed.pack({"t": "call", "id": 1, "method": "chat"})[:-4] + b"\x91" * 100_000,
            b"\xc7\xff\x05" + b"x" * 255,
        ],
        ids=repr,
    )
    def test_frames_of_it_are_refused(self, payload):
        with pytest.raises(ProtocolViolation):
            Frames(MAX_FRAME_BYTES).feed(malformed.frame(payload))

    @pytest.mark.parametrize(
        "line",
        [
            b"{",
            b"{}",
            b"{{{{",
            b'{"t":"call","id":1e400}',
            b'{"t":"call","id":' + b"9" * 6000 + b',"method":"ping"}',
            b'{"t":"call","id":' + b"9" * 100 + b',"method":"ping"}',
            b'{"t":"\xff\xfe"}',
            b'{"t":"\\ud800"}',
            b'{"a":' * 100_000,
            b'{"t":"call","id":1,"method":"chat","params":' + b"[" * 100_000,
            b'{"t":"call",\0}',
        ],
        ids=lambda line: repr(line[:60]),
    )
    def test_lines_of_it_are_refused(self, line):
        with pytest.raises(ProtocolViolation):
            JsonLines(MAX_FRAME_BYTES).feed(line + b"\n")

    def test_empty_lines_say_nothing(self):
        assert JsonLines(100).feed(b'\n \r\n{"t":"cancel","id":1}\r\n\n') == [Cancel(1)]

    def test_the_last_of_two_equal_keys_counts_and_nothing_breaks(self):
        heard = JsonLines(100).feed(b'{"t":"cancel","id":1,"id":2}\n')
        assert heard == [Cancel(2)]

    def test_the_first_byte_tells_the_wire(self):
        assert isinstance(codec_for(b"{", 100), JsonLines)
        assert isinstance(codec_for(b"\0\0\0\x10", 100), Frames)
        assert isinstance(codec_for(b" {", 100), Frames)


class TestSize:
    def test_a_frame_above_the_limit_is_refused_by_its_length_alone(self):
        codec = Frames(1000)
        with pytest.raises(TooLarge, match="1001") as refused:
            codec.feed((1001).to_bytes(4, "big"))
        assert refused.value.detail == {"limit": 1000}

    def test_a_frame_at_the_limit_is_read(self):
        payload = malformed.pack({"t": "call", "id": 1, "method": "m", "params": {"a": ""}})
        filled = malformed.pack({"t": "call", "id": 1, "method": "m", "params": {"a": "x" * (1000 - len(payload) - 2)}})
        assert len(filled) == 1000
        assert len(Frames(1000).feed(malformed.frame(filled))) == 1

    def test_a_line_above_the_limit_is_refused_before_its_end_comes(self):
        codec = JsonLines(1000)
        assert codec.feed(b"{" * 1000) == []
        with pytest.raises(TooLarge):
            codec.feed(b"{")

    def test_a_finished_line_above_the_limit_is_refused(self):
        with pytest.raises(TooLarge):
            JsonLines(1000).feed(b"{" * 1001 + b"\n")

    @pytest.mark.parametrize("make", [Frames, JsonLines])
    def test_a_large_message_byte_by_byte_costs_no_more_than_its_bytes(self, make):
        """A copy of what is there for every byte would be 200 GB here."""
        begun = (5_000_000).to_bytes(4, "big") if make is Frames else b"{"
        codec = make(MAX_FRAME_BYTES)
        codec.feed(begun + b"x" * 4_000_000)
        before = time.process_time()
        for _ in range(50_000):
            codec.feed(b"x")
        assert codec.unfinished
        assert time.process_time() - before < 5


class TestMemory:
    @pytest.mark.parametrize(
        ("cls", "bomb"),
        [
            (Chat, {"messages": "BOMB"}),
            (Chat, {"messages": [{"role": "user", "content": "BOMB"}]}),
            (Chat, {"messages": [{"role": "user"}], "stop": "BOMB"}),
            (Chat, {"messages": [{"role": "user"}], "tools": "BOMB"}),
            (SettingsSet, {"key": "month_usd", "value": "BOMB"}),
        ],
    )
    @pytest.mark.parametrize("wire", ["frames", "lines"])
    def test_an_array_of_empty_arrays_stays_as_small_as_its_bytes(self, cls, bomb, wire):
        """Decoded untyped, each byte of such a bomb would become an object of 56 bytes and more."""
        count = 1_000_000
        if wire == "frames":
            inner = b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
            data = malformed.pack(bomb).replace(b"\xa4BOMB", inner)
            codec: Any = Frames(MAX_FRAME_BYTES)
        else:
            data = json.dumps(bomb).encode().replace(b'"BOMB"', b"[" + b"[]," * (count - 1) + b"[]]")
            codec = JsonLines(MAX_FRAME_BYTES)
        tracemalloc.start()
        with pytest.raises(BadRequest):
            codec.params(cls, msgspec.Raw(data))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * len(data)

    def test_a_schema_is_bounded_where_it_becomes_json(self):
        bomb = msgspec.Raw(b"\x81\xa1a\xdd" + (200_000).to_bytes(4, "big") + b"\x90" * 200_000)
        with pytest.raises(BadRequest, match="too long"):
            as_json(bomb)

    @pytest.mark.parametrize(
        "schema", [b"\x90", b"\x81\x80\x01", b"\x81\xa1a" + b"\x91" * 5000, b"\xc1", b"\x81\x01\xc4\x01x"]
    )
    def test_a_schema_that_is_no_object_of_json_is_a_bad_request(self, schema):
        try:
            json.loads(bytes(as_json(msgspec.Raw(schema))))
        except BadRequest:
            return


class TestHundredThousandWrongFrames:
    def test_frames_give_a_message_or_one_of_three_errors(self):
        outcomes: collections.Counter[str] = collections.Counter()
        for frame in malformed.frames(seed=20261121, count=FUZZED_FRAMES):
            outcomes.update(self._outcomes(Frames(65_536), frame))
        self._all_kinds_came(outcomes)

    def test_lines_give_a_message_or_one_of_three_errors(self):
        outcomes: collections.Counter[str] = collections.Counter()
        for line in malformed.lines(seed=20261121, count=FUZZED_LINES):
            outcomes.update(self._outcomes(JsonLines(4096), line))
        self._all_kinds_came(outcomes)

    def _outcomes(self, codec: Frames | JsonLines, data: bytes) -> list[str]:
        try:
            heard = codec.feed(data)
        except (ProtocolViolation, TooLarge) as refused:
            json.dumps(refused.message).encode()
            return [refused.code]
        return [self._outcome(codec, message) for message in heard] or ["unfinished"]

    def _outcome(self, codec: Frames | JsonLines, message: Any) -> str:
        if isinstance(message, BadRequest):
            codec.append(bytearray(), Fault(message.code, message.message, id=message.detail["id"]))
            return "wrong call"
        if not isinstance(message, Call):
            return "no call"
        method = METHODS.get(message.method)
        if method is None:
            return "unknown method"
        try:
            codec.params(method.params, message.params)
        except BadRequest as refused:
            codec.append(bytearray(), Fault(refused.code, refused.message, id=message.id))
            return "wrong params"
        return "call"

    def _all_kinds_came(self, outcomes: collections.Counter[str]) -> None:
        kinds = ("protocol", "too_large", "wrong call", "no call", "unknown method", "wrong params", "call")
        assert all(outcomes[kind] >= 50 for kind in kinds), outcomes


class TestWhatTheDaemonSays:
    MESSAGES = (
        Welcome(1, "0", "ana", ["use"], 100),
        Item(1, {"type": "delta", "text": "hö"}),
        Done(-(2**63), {"a": [1, 2.5, None]}),
        Fault("busy", "later", id=3, detail={"a": 1}, retry_after_s=1.5),
        Fault("protocol", "no"),
    )

    @pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
    def test_a_client_reads_it_from_a_frame(self, message):
        out = bytearray(b"before")
        Frames(1000).append(out, message)
        (payload,) = Frames(1000).split(bytes(out[6:]))
        heard = decode_daemon(payload)
        value = decode_value(heard.value, Any) if hasattr(heard, "value") else None
        assert type(heard).__struct_config__.tag == type(message).__struct_config__.tag
        assert value == getattr(message, "value", None)

    @pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
    def test_a_line_of_it_is_one_json_object(self, message):
        out = bytearray(b"{}\n")
        JsonLines(1000).append(out, message)
        said = bytes(out[3:])
        assert said.endswith(b"\n")
        assert said.count(b"\n") == 1
        assert json.loads(said) == msgspec.to_builtins(message)

    def test_a_fault_of_the_connection_has_no_id(self):
        out = bytearray()
        JsonLines(1000).append(out, Fault("protocol", "no"))
        assert json.loads(out) == {"t": "fault", "code": "protocol", "message": "no"}

    @given(st.binary(max_size=60))
    def test_a_client_refuses_what_is_no_message(self, data):
        try:
            decode_daemon(data)
        except ProtocolViolation:
            return

    @pytest.mark.parametrize(
        "params", [{"x" * 100_000: 1}, {"messages": [{"role": "x" * 100_000}]}, {"stop": {"x": "x" * 100_000}}]
    )
    def test_a_fault_does_not_send_a_long_mistake_back(self, params):
        with pytest.raises(BadRequest) as refused:
            Frames(1000).params(Chat, msgspec.Raw(malformed.pack(params)))
        assert len(refused.value.message) < 1000

    def test_a_fault_about_the_params_says_nothing_of_the_prompt(self):
        params = {
            "messages": [{"role": "user", "content": "canary"}, {"role": "user", "content": {"canary": "canary"}}]
        }
        with pytest.raises(BadRequest) as refused:
            Frames(1000).params(Chat, msgspec.Raw(malformed.pack(params)))
        assert "canary" not in refused.value.message


def test_a_message_that_no_frame_can_carry_leaves_nothing_before_the_next():
    frames, out = Frames(1024), bytearray()
    frames.append(out, Done(1, {}))
    before = bytes(out)
    with pytest.raises(OverflowError):
        frames.append(out, Done(2, {"a": 10**30}))
    assert bytes(out) == before
