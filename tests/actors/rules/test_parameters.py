import pytest
from msgspec import ValidationError, convert, json, msgpack

from actors.rules.parameters import parameter_steps, with_parameters
from protocols.chat import Chat, Message
from protocols.users import NO_LAYERS, Layers, Parameters

HI = [Message("user", "hi")]


def layers(defaults=None, overrides=None):
    return Layers(defaults=Parameters(**(defaults or {})), overrides=Parameters(**(overrides or {})))


@pytest.mark.parametrize(
    ("said", "defaults", "overrides", "sent"),
    [
        ({}, {"temperature": 0.2}, {}, {"temperature": 0.2}),
        ({"temperature": 1.0}, {"temperature": 0.2}, {}, {"temperature": 1.0}),
        ({"temperature": 0.0}, {"temperature": 0.2}, {}, {"temperature": 0.0}),
        ({}, {}, {"temperature": 0.2}, {"temperature": 0.2}),
        ({"temperature": 1.0}, {}, {"temperature": 0.2}, {"temperature": 0.2}),
        ({"max_tokens": 900}, {"max_tokens": 50}, {"max_tokens": 100}, {"max_tokens": 100}),
        ({}, {"max_tokens": 50}, {"max_tokens": 100}, {"max_tokens": 100}),
        ({"top_p": 0.5}, {"seed": 7}, {"stop": ["END"]}, {"top_p": 0.5, "seed": 7, "stop": ["END"]}),
        ({}, {"reasoning_effort": "low"}, {"seed": 0}, {"reasoning_effort": "low", "seed": 0}),
    ],
)
def test_defaults_fill_what_a_request_leaves_out_and_overrides_replace_what_it_says(said, defaults, overrides, sent):
    made = with_parameters(Chat(messages=HI, **said), layers(defaults, overrides))
    assert made == Chat(messages=HI, **sent)


@pytest.mark.parametrize("said", [NO_LAYERS, layers({"temperature": 0.2}), layers({}, {"temperature": 1.0})])
def test_a_request_that_nothing_changes_stays_the_same_object(said):
    chat = Chat(messages=HI, temperature=1.0)
    assert with_parameters(chat, said) is chat
    assert parameter_steps(chat, said, "openai:m") == []


def test_the_steps_say_which_layer_changed_what():
    chat = Chat(messages=HI, max_tokens=900, seed=1)
    said = layers({"temperature": 0.5, "seed": 2}, {"max_tokens": 100, "stop": "END"})
    steps = parameter_steps(chat, said, "openai:m")
    assert [(step.step, step.value) for step in steps] == [
        ("parameter_defaults", "temperature = 0.5"),
        ("parameter_overrides", 'max_tokens = 100, stop = "END"'),
    ]
    assert all("openai:m" in step.why for step in steps)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 2.1},
        {"temperature": -0.1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"max_tokens": 1_000_000_001},
        {"stop": ""},
        {"stop": ["x"] * 17},
        {"stop": ["x" * 257]},
        {"seed": 2**63},
        {"reasoning_effort": "extreme"},
        {"temprature": 1},
    ],
)
def test_a_parameter_out_of_its_bounds_is_refused_on_both_wires(wrong):
    for decode, encode in ((json.decode, json.encode), (msgpack.decode, msgpack.encode)):
        with pytest.raises(ValidationError):
            decode(encode({"overrides": wrong}), type=Layers)
    with pytest.raises(ValidationError):
        convert({"defaults": wrong}, Layers)


@pytest.mark.parametrize("name", ["temperature", "top_p"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_where_a_wire_can_say_it(name, number):
    with pytest.raises(ValidationError):
        msgpack.decode(msgpack.encode({"defaults": {name: number}}), type=Layers)
