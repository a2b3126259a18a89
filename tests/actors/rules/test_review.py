"""Which ballots a person says were right."""

import pytest
from tournaments import MODELS, ballot

from actors.rules.review import Review, review
from protocols.errors import BadRequest
from protocols.tournament import AnswerSpec


def ballots(*answers, clusters=()):
    made = [ballot(slot, answer, text=answer or "") for slot, answer in enumerate(answers)]
    for one, cluster in zip(made, clusters, strict=False):
        one.cluster = cluster
    return made


@pytest.mark.parametrize(
    ("spec", "given", "said", "answer", "slots"),
    [
        (AnswerSpec(type="bool"), ("yes", "no", None), "Yes.", "yes", (0,)),
        (AnswerSpec(type="bool"), ("yes", "yes"), "no", "no", ()),
        (AnswerSpec(type="choice", choices=("A) Paris", "B) Rome")), ("A) Paris", "B) Rome"), "b", "B) Rome", (1,)),
        (AnswerSpec(type="number"), ("12", "12.5"), "12.0", "12", (0,)),
        (AnswerSpec(type="number", tolerance=0.5), ("12", "12.5", "13"), "12.5", "12.5", (0, 1, 2)),
        (AnswerSpec(type="number", locale="de"), ("1,5", "15"), "1,50", "1,5", (0,)),
        (AnswerSpec(type="set"), ("a; b", "b; a", "a"), "b;a", '["a", "b"]', (0, 1)),
        (AnswerSpec(type="json"), ('{"a":1}', '{"a":2}'), '{ "a": 1 }', '{"a":1}', (0,)),
        (AnswerSpec(type="short_text"), ("Paris", "Rome"), "paris", "paris", (0,)),
    ],
)
def test_with_a_type_the_answer_is_read_as_ballots_are(spec, given, said, answer, slots):
    found = review(said, spec, ballots(*given))
    assert found.slots == slots
    assert found.answer.casefold() == answer.casefold()


@pytest.mark.parametrize(
    ("spec", "said", "wants"),
    [
        (AnswerSpec(type="bool"), "", "say yes or no"),
        (AnswerSpec(type="choice", choices=("red", "blue")), "green", "it is one of `red`, `blue`"),
        (AnswerSpec(type="number", unit="km"), "far", "say a number in km, written as in `en`"),
        (AnswerSpec(type="date"), "someday", "2027-01-31"),
        (AnswerSpec(type="set"), "", "semicolons"),
        (AnswerSpec(type="json"), "{", "a JSON value"),
        (AnswerSpec(type="code", language="python"), "x" * 20_000, "say python"),
        (AnswerSpec(type="short_text"), "x" * 5000, "a few words"),
    ],
)
def test_an_answer_of_another_type_is_refused_with_what_is_wanted(spec, said, wants):
    with pytest.raises(BadRequest, match=wants) as refused:
        review(said, spec, ballots("yes"))
    assert len(refused.value.message) < 300


THREE = ("The capital is\nParis.", "It is Paris.", "Rome")


@pytest.mark.parametrize(
    ("clusters", "said", "slots"),
    [
        ((0, 0, 1), MODELS[0], (0, 1)),
        ((0, 0, 1), MODELS[2], (2,)),
        ((0, 0, 1), "1", (2,)),
        ((0, 0, 1), " 0 ", (0, 1)),
        ((0, 0, 1), "It  is Paris.", (0, 1)),
        ((), MODELS[1], (1,)),
        ((), "The capital is Paris.", (0,)),
        ((None, None, 1), MODELS[0], (0,)),
        ((0, 0, 1), "none", ()),
    ],
)
def test_without_a_type_a_member_a_cluster_or_a_text_is_named(clusters, said, slots):
    assert review(said, None, ballots(*THREE, clusters=clusters)) == Review(said.strip(), slots)


@pytest.mark.parametrize("said", ["", "Paris", "2", "openai", MODELS[3], "None of them"])
def test_what_names_no_ballot_is_refused_and_does_not_count_against_all(said):
    with pytest.raises(BadRequest, match=r"name a member that was right .`openai:a`.*a cluster .0, 1.*`none`"):
        review(said, None, ballots(*THREE, clusters=(0, 0, 1)))


def test_a_member_that_failed_was_not_right():
    with pytest.raises(BadRequest, match="nobody answered"):
        review(MODELS[0], None, ballots(None))
