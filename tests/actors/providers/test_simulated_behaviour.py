import pytest

from actors.providers.simulated.behaviour import Behaviour, SimulatedToolCall, combine, from_json, from_query, recovered


@pytest.mark.parametrize(
    ("query", "behaviour"),
    [
        ("", Behaviour()),
        ("latency_ms=50&chunks=20&fail=500", Behaviour(latency_ms=50, chunks=20, fail=500)),
        ("garbage", Behaviour(garbage=True)),
        ("garbage=false", Behaviour(garbage=False)),
        ("text=two+words%26more", Behaviour(text="two words&more")),
        ("text=[1]", Behaviour(text="[1]")),
        ("tool_calls=a,b", Behaviour(tool_calls=(SimulatedToolCall("a"), SimulatedToolCall("b")))),
        ('tool_calls=[{"name":"a","arguments":"{"}]', Behaviour(tool_calls=(SimulatedToolCall("a", "{"),))),
        ('headers={"x-left":"3"}', Behaviour(headers={"x-left": "3"})),
    ],
)
def test_a_query_says_knobs(query, behaviour):
    assert combine(from_query(query)) == behaviour


def test_later_layers_cover_earlier_ones():
    assert combine({"latency_ms": 1, "chunks": 2}, {"latency_ms": 3}) == Behaviour(latency_ms=3, chunks=2)


@pytest.mark.parametrize("knobs", [{"fail": 200}, {"chunks": 0}, {"latency_ms": -1}, {"speed": 1}, {"text": 5}])
def test_a_wrong_knob_is_named(knobs):
    with pytest.raises(ValueError, match=next(iter(knobs))):
        combine(knobs)


@pytest.mark.parametrize("text", ["", "[]", "{", b"\xff", "[" * 100_000])
def test_what_is_not_a_json_object_is_refused(text):
    with pytest.raises(ValueError, match="not a JSON object"):
        from_json(text)


def test_broken_json_in_a_query_is_refused():
    with pytest.raises(ValueError, match="tool_calls"):
        from_query("tool_calls=[")


def test_the_earliest_stop_counts():
    assert Behaviour(break_at=3, hang_at=1).stop() == (1, "hang")


def test_recovery_takes_away_the_faults_alone():
    ill = Behaviour(fail=500, break_at=1, garbage=True, latency_ms=5, text="x")
    assert recovered(ill) == Behaviour(latency_ms=5, text="x")
