"""Bytes split anywhere give the same pieces; the SSE splitter does what the standard says, checked by a plain reading."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dialects import MalformedAnswer
from protocols.dialects.ndjson import MAX_LINE_BYTES, LineSplitter
from protocols.dialects.sse import MAX_EVENT_BYTES, SseSplitter


def read_by_the_standard(stream: bytes) -> list[bytes]:
    """The standard's own procedure, a line at a time, on the whole stream."""
    events, fields = [], []
    *lines, _unfinished = re.split(rb"\r\n|\n|\r", stream)
    for line in lines:
        if not line:
            if fields:
                events.append(b"\n".join(fields))
            fields = []
        elif line.startswith(b"data:"):
            fields.append(line[5:].removeprefix(b" "))
    return events


def in_pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(places)]


fragments = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"data",
        b"event: x",
        b": c",
        b"{}",
        b'{"a":1}',
        b" ",
        b":",
        b"\n",
        b"\n",
        b"\r",
        b"\r\n",
        b"",
    ]
)
streams = st.lists(fragments, max_size=40).map(b"".join)
cuts = st.lists(st.integers(0, 10_000), max_size=20)


@given(streams, cuts)
def test_any_framing_split_anywhere_is_read_as_the_standard_says(stream, cuts):
    splitter = SseSplitter()
    found = [event for piece in in_pieces(stream, cuts) for event in splitter.split(piece)]
    assert found == read_by_the_standard(stream)


@given(streams)
def test_byte_by_byte_is_read_like_at_once(stream):
    splitter = SseSplitter()
    found = [event for byte in stream for event in splitter.split(bytes([byte]))]
    assert found == SseSplitter().split(stream)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\r\n\r\ndata: b\r\r", [b"a", b"b"]),
        (b": comment\n\ndata: a\n\n", [b"a"]),
        (b"event: ping\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:  a\n\n", [b" a"]),
        (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b"data: a\n", []),
        (b"database: a\n\n", []),
    ],
)
def test_each_framing_is_understood(stream, events):
    assert SseSplitter().split(stream) == events


@pytest.mark.parametrize(
    "pieces", [(b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"), (b"data: a\r", b"", b"\n\r\n", b"data: b\n\n")]
)
def test_a_line_end_may_be_split_in_its_middle(pieces):
    splitter = SseSplitter()
    assert [event for piece in pieces for event in splitter.split(piece)] == [b"a", b"b"]


@pytest.mark.parametrize("endless", [b"data: " + b"x" * MAX_EVENT_BYTES, b"data: x\n" * (MAX_EVENT_BYTES // 2 + 1)])
def test_an_event_without_end_is_malformed(endless):
    with pytest.raises(MalformedAnswer, match="longer than"):
        SseSplitter().split(endless)


@given(st.lists(st.sampled_from([b'{"a":1}', b"", b" ", b"\n", b"\r\n"]), max_size=30).map(b"".join), cuts)
def test_lines_split_anywhere_are_the_lines(stream, cuts):
    splitter = LineSplitter()
    found = [line for piece in in_pieces(stream, cuts) for line in splitter.split(piece)]
    assert found == [line for line in stream.split(b"\n")[:-1] if line.strip()]


def test_a_line_without_end_is_malformed():
    with pytest.raises(MalformedAnswer, match="longer than"):
        LineSplitter().split(b"x" * (MAX_LINE_BYTES + 1))
