import pytest

from protocols.provider import about_it


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("provider `dead` can't be reached: refused", "it can't be reached: refused"),
        ("the answer of provider `dead` broke off", "the answer broke off"),
        ("provider `deader` can't be reached", "provider `deader` can't be reached"),
        ("no answer to the health probe within 10 s", "no answer to the health probe within 10 s"),
        ("", ""),
    ],
)
def test_a_reason_behind_a_providers_name_does_not_name_it_again(why, said):
    assert about_it("dead", why) == said
