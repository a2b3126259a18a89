"""What holds for every dialect whatever the bytes: any split gives the same, and nothing but our own errors comes out."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dialects import DIALECTS, MalformedAnswer, StreamFailed

OPENAI_STREAM = (
    b": hello\r\n\r\n"
    b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"na\xc3\xafve"},"finish_reason":null}],"usage":null}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"so"}}]}\r\n\r\n'
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":""}}]}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}\n\n'
    b"data: [DONE]\n\n"
)
ANTHROPIC_STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
    b'event: ping\r\ndata: {"type": "ping"}\r\n\r\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xe2\x82\xac"}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":1}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":9}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
OLLAMA_STREAM = (
    b'{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n'
    b'{"message":{"role":"assistant","content":"\xc3\xa9"},"done":false}\r\n'
    b'{"message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":[1]}}}]},"done":false}\n'
    b'{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":5,"eval_count":7}\n'
)
STREAMS = {"openai": OPENAI_STREAM, "anthropic": ANTHROPIC_STREAM, "ollama": OLLAMA_STREAM}
BROKEN = {
    "openai": OPENAI_STREAM[:700] + b'\n\ndata: {"error":{"message":"x"}}\n\n' + OPENAI_STREAM[700:],
    "anthropic": ANTHROPIC_STREAM[:700]
    + b'\n\ndata: {"type":"error","error":{"message":"x"}}\n\n'
    + ANTHROPIC_STREAM[700:],
    "ollama": OLLAMA_STREAM[:150] + b'\n{"error":"x"}\n' + OLLAMA_STREAM[150:],
}
REPLIES = {
    "openai": b'{"choices":[{"message":{"content":"a","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":1}}}',
    "anthropic": b'{"content":[{"type":"text","text":"a"},{"type":"tool_use","id":"t","name":"f","input":{"a":"\xc3\xa9"}}],'
    b'"stop_reason":"tool_use","usage":{"input_tokens":5,"output_tokens":7}}',
    "ollama": b'{"message":{"content":"a","tool_calls":[{"function":{"name":"f","arguments":{"a":"\xc3\xa9"}}}]},"done":true,'
    b'"done_reason":"stop","prompt_eval_count":5,"eval_count":7}',
}
LISTS = {
    "openai": b'{"data":[{"id":"a"}]}',
    "anthropic": b'{"data":[{"id":"a"}]}',
    "ollama": b'{"models":[{"name":"a"}]}',
}

kinds = st.sampled_from(sorted(DIALECTS))
cuts = st.lists(st.integers(0, 100_000), max_size=12)


def in_pieces(stream, cuts):
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(places)]


def all_of(kind, pieces):
    """Every event, whether the end was marked, and the failure; fed as a caller should, with nothing at the end."""
    stream, events = DIALECTS[kind].stream(), []
    try:
        for piece in [*pieces, b""]:
            events += stream.feed(piece)
    except (MalformedAnswer, StreamFailed) as failure:
        return events, stream.complete, str(failure)
    return events, stream.complete, None


@st.composite
def mutated(draw, good):
    """A good body with a few pieces replaced, doubled or cut out."""
    kind = draw(kinds)
    body = good[kind]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 12)))
        new = draw(
            st.binary(max_size=4)
            | st.sampled_from(
                [b"null", b"{}", b"[]", b"1", b'"', b"\n", b"\r", b"\n\n", b"-1", b"1e99", b"\\ud800", b"[" * 2000]
            )
            | st.just(body[start:end] * 2)
        )
        body = body[:start] + new + body[end:]
    return kind, body


@pytest.mark.parametrize("kind", sorted(DIALECTS))
def test_each_sample_is_a_good_one(kind):
    events, complete, failure = all_of(kind, [STREAMS[kind]])
    assert complete
    assert failure is None
    assert len({type(event) for event in events}) >= 4
    assert DIALECTS[kind].reply(REPLIES[kind]).tool_calls[0].function.name == "f"
    assert DIALECTS[kind].models(LISTS[kind]) == ["a"]
    assert all_of(kind, [BROKEN[kind]])[2] is not None


@given(kinds, cuts)
def test_bytes_split_anywhere_give_the_same_events(kind, cuts):
    assert all_of(kind, in_pieces(STREAMS[kind], cuts)) == all_of(kind, [STREAMS[kind]])


@pytest.mark.parametrize("kind", sorted(DIALECTS))
@pytest.mark.parametrize("streams", [STREAMS, BROKEN], ids=["good", "broken"])
def test_byte_by_byte_gives_the_same_events(kind, streams):
    stream = streams[kind]
    assert all_of(kind, [bytes([byte]) for byte in stream]) == all_of(kind, [stream])


@given(mutated(STREAMS), cuts)
def test_a_damaged_stream_split_anywhere_gives_the_same_events_and_the_same_failure(sample, cuts):
    kind, stream = sample
    assert all_of(kind, in_pieces(stream, cuts)) == all_of(kind, [stream])


@given(kinds, st.binary(max_size=300))
def test_any_bytes_are_events_or_our_own_error(kind, data):
    all_of(kind, [data, data + b"\n\n", b"data: " + data + b"\n\n"])


@given(st.sampled_from(sorted(DIALECTS)), cuts)
def test_a_stream_cut_anywhere_before_its_end_is_told(kind, cuts):
    for cut in cuts:
        part = STREAMS[kind][: cut % len(STREAMS[kind])]
        ended = {"openai": b'"tool_calls"}]}\n\n', "anthropic": b"message_stop\n", "ollama": b'"done":true,'}[
            kind
        ] in part
        events, complete, _ = all_of(kind, [part])
        assert complete is (ended and kind == "openai")
        assert not complete or any(type(event).__name__ == "Finished" for event in events)


@given(mutated(REPLIES) | st.tuples(kinds, st.binary(max_size=200)))
def test_any_body_is_a_reply_or_malformed(sample):
    kind, body = sample
    try:
        reply = DIALECTS[kind].reply(body)
    except MalformedAnswer:
        return
    msgspec.json.encode(reply)  # what is read can be sent on


@given(mutated(LISTS) | st.tuples(kinds, st.binary(max_size=200)))
def test_any_list_of_models_is_names_or_malformed(sample):
    kind, body = sample
    try:
        assert all(isinstance(name, str) for name in DIALECTS[kind].models(body))
    except MalformedAnswer:
        return
