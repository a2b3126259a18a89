"""What a call of `tournament` may say."""

import msgspec
import pytest

from protocols.tournament import Tournament

USER = {"role": "user", "content": "Is it?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def read(**said):
    return msgspec.convert(said, Tournament)


@pytest.mark.parametrize(
    "said",
    [
        {"prompt": "Is it?"},
        {"messages": [USER]},
        {"messages": [SYSTEM, USER, {"role": "assistant", "content": "No"}]},
    ],
)
def test_something_is_asked(said):
    assert read(**said)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({}, "either `messages` or `prompt`"),
        ({"prompt": "Is it?", "messages": [USER]}, "either `messages` or `prompt`"),
        ({"prompt": ""}, "`prompt` is empty"),
        ({"prompt": " \n\t"}, "`prompt` is empty"),
        ({"messages": [SYSTEM]}, "none of the role `user`"),
        ({"messages": [{"role": "assistant", "content": "No"}]}, "none of the role `user`"),
    ],
)
def test_nothing_asked_is_refused(said, wrong):
    with pytest.raises(msgspec.ValidationError, match=wrong):
        read(**said)
