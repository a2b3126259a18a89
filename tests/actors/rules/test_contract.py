from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from actors.rules.canonical import canonical
from actors.rules.contract import _FORMS, extract, with_contract
from protocols.chat import Chat, JsonObjectFormat, JsonSchema, JsonSchemaFormat, Message, TextFormat
from protocols.errors import BadRequest
from protocols.tournament import AnswerSpec, AnswerType

YES_NO = AnswerSpec(type="bool")
NUMBER = AnswerSpec(type="number")
CITY = AnswerSpec(type="choice", choices=("A) Rome", "B) Paris"))
DAY = AnswerSpec(type="date")
SET = AnswerSpec(type="set")
JSON = AnswerSpec(type="json")
PYTHON = AnswerSpec(type="code", language="python")
SHORT = AnswerSpec(type="short_text")

SCHEMA = JsonSchemaFormat(JsonSchema("answer", Raw(b'{"type":"object"}')))


def asked(**said):
    return Chat(messages=[Message("system", "Be brief."), Message("user", "Is it safe?")], **said)


def instruction(spec, **said):
    return with_contract(asked(**said), spec).messages[0].text()


def vote(reply, spec):
    found = extract(reply, spec)
    return found and found.key


def test_every_type_of_answer_has_its_form():
    assert set(_FORMS) == set(get_args(AnswerType))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (YES_NO, ["`ANSWER: `", "`yes` or `no`"]),
        (CITY, ["`ANSWER: `", '["A) Rome", "B) Paris"]']),
        (AnswerSpec(type="choice", choices=("a\nb", 'say "é"')), [r'["a\nb", "say \"é\""]']),
        (NUMBER, ["1234.5", "without a unit"]),
        (AnswerSpec(type="number", unit="km", locale="de"), ["1234,5", "in km and without the unit"]),
        (DAY, ["YYYY-MM-DD"]),
        (SET, ["semicolons"]),
        (JSON, ["`ANSWER:`", "JSON", "fenced code block"]),
        (PYTHON, ["`ANSWER:`", "python", "fenced code block"]),
        (AnswerSpec(type="code"), ["the whole code in one"]),
        (SHORT, ["few words"]),
    ],
)
def test_the_contract_asks_for_one_last_line_in_the_form_of_its_type(spec, words):
    chat = asked(temperature=0.5)
    told = with_contract(chat, spec)
    assert told.messages[1:] == chat.messages
    assert told.messages[0].role == "system"
    assert told.temperature == 0.5
    assert told.response_format is None
    assert len(chat.messages) == 2
    assert all(word in told.messages[0].text() for word in [*words, "nothing after it"])


def test_an_answer_in_the_form_that_the_contract_names_is_a_vote():
    assert vote("ANSWER: 1234.5", NUMBER) == "2469/2"
    assert vote("ANSWER: 1234,5", AnswerSpec(type="number", locale="de")) == "2469/2"
    assert vote("ANSWER: --06-03", DAY) == "--06-03"
    assert vote("ANSWER: A) Rome", CITY) == "A) Rome"


@pytest.mark.parametrize("said", [JsonObjectFormat(), SCHEMA])
def test_a_format_of_the_users_own_stays_and_a_reply_in_it_is_the_answer(said):
    told = with_contract(asked(response_format=said), JSON)
    assert told.response_format is said
    assert "ANSWER" not in told.messages[0].text()
    assert "JSON" in told.messages[0].text()


@pytest.mark.parametrize("said", [JsonObjectFormat(), SCHEMA])
@pytest.mark.parametrize("kind", sorted(set(get_args(AnswerType)) - {"json"}))
def test_a_format_of_json_and_an_answer_of_another_type_is_refused_before_anybody_is_called(said, kind):
    with pytest.raises(BadRequest, match=f"`answer.type` is {kind}"):
        with_contract(asked(response_format=said), AnswerSpec(type=kind))


def test_a_format_of_plain_text_goes_with_the_contract():
    assert "ANSWER" in instruction(JSON, response_format=TextFormat())
    assert with_contract(asked(response_format=TextFormat()), YES_NO).response_format == TextFormat()


@pytest.mark.parametrize(
    "reply",
    [
        "ANSWER: yes",
        "ANSWER:yes",
        "Answer: yes",
        "Final answer: Yes.",
        "ANSWER：yes",
        "  ANSWER: yes  ",
        "It seems so.\n\nANSWER: yes\n\n",
        "It seems so.\r\nANSWER: yes\r\n",
        "**ANSWER:** yes",
        "**ANSWER**: yes",
        "**ANSWER: yes**",
        "ANSWER: **yes**",
        "ANSWER:**yes**",
        "`ANSWER: yes`",
        "__ANSWER: yes__",
        "### ANSWER: yes",
        "ANSWER:\nyes",
        "ANSWER:\n\n**yes**",
        "```\nANSWER: yes\n```",
        "```text\nIt seems so.\nANSWER: yes\n```\n",
        "````\n```\nANSWER: yes\n```\n````",
        "Like this:\n```\nANSWER: yes\n```\nSo:\nANSWER: yes",
        "```no fence```\nANSWER: yes",
        "~~~\n```\n~~~\nANSWER: yes",
        "ANSWER: perhaps\nANSWER: possibly\nANSWER: yes",
        "ANSWER:\n```\nyes\n```",
        "ANSWER: yes\n\nOnce more:\nANSWER: Yes",
        "I was told to end with\nANSWER: <yes or no>\nso here it is.\nANSWER: yes",
        "ANSWER: perhaps\nOr rather:\nANSWER: yes",
        "<think>\nANSWER: no\n</think>\nANSWER: yes",
        "ANSWER: no is what I first thought.</think>\n\nyes",
        "yes",
        "Yes.",
        "**Yes**",
        "```\nyes\n```",
        "\n\n yes \n",
    ],
)
def test_the_last_line_in_the_contracts_form_or_a_reply_that_is_the_answer_is_a_vote(reply):
    assert vote(reply, YES_NO) == "yes"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I would not say yes",
        "yes, but",
        "Yes. No.",
        "yes\nyes",
        "yes\nbecause",
        "The answer: yes",
        "My ANSWER: yes",
        "The answer is yes",
        "You want `ANSWER: yes` at the end.",
        '"ANSWER: yes"',
        "> ANSWER: yes",
        "- ANSWER: yes",
        "ANSWER yes",
        "ANSWERS: yes",
        "ANSWER: yes, if it rains",
        "ANSWER: yes or no",
        "ANSWER: <yes>",
        "ANSWER:",
        "yes\nANSWER:",
        "ANSWER: yes\nOn second thought, it may not be.",
        "ANSWER: yes\n\nI can't decide.",
        "ANSWER: no\nANSWER: yes",
        "ANSWER: no\nWait.\nANSWER: yes",
        "ANSWER: yes\nANSWER: perhaps",
        "```\nANSWER: yes\n```\nis what I was asked to write.",
        "The format you want is:\n```\nANSWER: yes\n```",
        "It seems so:\n```text\nANSWER: yes\n```\n",
        "It seems so:\n\n~~~\nANSWER: yes\n~~~",
        "It seems so:\n```\nANSWER: yes",
        "It seems so:\n````\n```\nANSWER: yes\n````",
        "```\nx\n```\n```\nANSWER: yes\n```",
        "ANSWER: perhaps\nANSWER: possibly\nANSWER: likely\nANSWER: yes",
        "```\n" + "\n" * 2_000 + "yes\n```",
        "ANSWER:\n```\nyes\n```\nor so",
        "ANSWER:\n```\nyes",
        "<think>ANSWER: yes",
        "<think>\nANSWER: yes",
        "<think>\nANSWER: yes\n</think>\nI can't tell.",
        "ANSWER: yes\n" * 21,
    ],
)
def test_prose_a_mention_or_two_answers_are_no_vote(reply):
    assert vote(reply, YES_NO) is None


@pytest.mark.parametrize(
    ("spec", "reply", "key"),
    [
        (NUMBER, "42", "42"),
        (NUMBER, "$$42$$", "42"),
        (NUMBER, "The answer is 42", None),
        (NUMBER, "The answer is 42 because", None),
        (NUMBER, "It is 42.\nANSWER: 43", "43"),
        (NUMBER, "ANSWER: $\\boxed{42}$", "42"),
        (NUMBER, "ANSWER: 41\nANSWER: 42", None),
        (NUMBER, "ANSWER: 42.0\nANSWER: 42", "42"),
        (NUMBER, "42\n43", None),
        (NUMBER, "42\n500", None),
        (DAY, "June\n3", None),
        (CITY, "B", "B) Paris"),
        (CITY, "I would not choose B", None),
        (CITY, "ANSWER: (B) Paris", "B) Paris"),
        (CITY, "ANSWER: A or B", None),
        (DAY, "June 3", "--06-03"),
        (DAY, "It was on June 3", None),
        (DAY, "**ANSWER:** June 3, 2026", "2026-06-03"),
        (SHORT, "Paris", "paris"),
        (SHORT, "The Paris.", "paris"),
        (SHORT, "Paris\nRome", None),
        (SHORT, "Paris. It was Rome before.", None),
        (SHORT, "Well: Paris", None),
        (SHORT, "Which city?", None),
        (SHORT, "I don't know", None),
        (SHORT, "I’m not sure", None),
        (SHORT, "Sorry, no idea", None),
        (SHORT, "Iceland", "iceland"),
        (SHORT, "I", "i"),
        (SHORT, "p" * 80, "p" * 80),
        (SHORT, "p" * 81, None),
        (SHORT, "ANSWER: " + "p" * 81, "p" * 81),
        (SHORT, "ANSWER: St. John's", "st. john's"),
        (SHORT, "ANSWER: <answer>", None),
        (SHORT, "ANSWER: Unable to determine", None),
        (SHORT, "ANSWER: Unable to determine the year from the text.", None),
        (SHORT, "ANSWER: N/A", None),
        (SHORT, "ANSWER: n.a.", None),
        (SHORT, "ANSWER: **Unknown**", None),
        (SHORT, "ANSWER: No idea", None),
        (SHORT, "ANSWER: I don't know", None),
        (SHORT, "ANSWER: I do not know.", None),
        (SHORT, "ANSWER: I’m not sure", None),
        (SHORT, "ANSWER: cannot be determined", None),
        (SHORT, "ANSWER: Insufficient information", None),
        (SHORT, "ANSWER: Sorry, I can't tell", None),
        (SHORT, "Unknown", None),
        (SHORT, "ANSWER: Paris\nANSWER: unknown", None),
        (AnswerSpec(type="short_text", locale="de"), "ANSWER: I don't know", None),
        (SHORT, "ANSWER: Unknown Pleasures", "unknown pleasures"),
        (SHORT, "ANSWER: not safe", "not safe"),
        (SHORT, "ANSWER: none", "none"),
        (SHORT, "ANSWER: undefined", "undefined"),
        (SHORT, "ANSWER: Unable to fly", "unable to fly"),
        (SHORT, "ANSWER: Na", "na"),
        (SET, "ANSWER: unknown", None),
        (SET, "ANSWER: N/A", None),
        (SET, "ANSWER: unknown; Rome", '["rome", "unknown"]'),
        (SET, "ANSWER: a, and b", '["a", "b"]'),
        (SET, "ANSWER: a and b", None),
        (AnswerSpec(type="choice", choices=("Rome", "unknown")), "ANSWER: Unknown", "unknown"),
        (SET, "ANSWER: b; a", '["a", "b"]'),
        (SET, "ANSWER: b, a", '["a", "b"]'),
        (SET, "ANSWER:\n- b\n- a\n", '["a", "b"]'),
        (SET, "ANSWER:\n- b\n- a\nThese are all.", None),
        (SET, "ANSWER:\nb\na", None),
        (SET, '["b", "a"]', '["a", "b"]'),
        (SET, "{b, a}", '["a", "b"]'),
        (SET, "* b\n* a", '["a", "b"]'),
        (SET, "b, a", None),
        (SET, "I think of Rome, perhaps of Paris", None),
        (SET, "[1] Rome, as they say [2]", None),
        (SET, "1. First, look at Rome.\n2. Then leave", None),
        (SET, "- I would say Rome\n- Paris", None),
        (SET, "Two cities:\n- Rome\n- Paris", None),
        (JSON, '{"a": 1}', '{"a":1}'),
        (JSON, '```json\n{"a": 1}\n```', '{"a":1}'),
        (JSON, 'ANSWER: {"a": 1}', '{"a":1}'),
        (JSON, 'ANSWER:\n{\n  "a": 1\n}', '{"a":1}'),
        (JSON, 'ANSWER:\n```json\n{"a": 1}\n```', '{"a":1}'),
        (JSON, "\n".join(f"ANSWER: {n}" for n in (1, 1.0, "1e0")), "1"),
        (JSON, "\n".join(f"ANSWER: {n}" for n in (1, 1.0, "1e0", "10e-1")), None),
        (JSON, "ANSWER: [1]\n" * 20, "[1]"),
        (JSON, 'ANSWER: ```json\n{"a": 1}\n```', '{"a":1}'),
        (JSON, '**ANSWER:**\n\n```json\n{"a": 1}\n```\n', '{"a":1}'),
        (JSON, '```\nANSWER: {"a": 1}\n```', '{"a":1}'),
        (JSON, 'ANSWER:\n```\n{"a": 1}\n```\nThat is it.', None),
        (JSON, 'ANSWER: {"a": 1} I think', None),
        (JSON, 'It is {"a": 1}', None),
        (JSON, 'For example:\n```json\n{"a": 1}\n```', None),
        (JSON, 'ANSWER:\n```\n{"a": 2}\n```\nor\nANSWER:\n```\n{"a": 1}\n```', None),
        (JSON, 'ANSWER:\n```\n{"a": 1}\n```\nor\nANSWER:\n```\n{"a": 1}\n```', '{"a":1}'),
    ],
)
def test_each_type_has_its_own_forms_and_its_own_prose(spec, reply, key):
    assert vote(reply, spec) == key


@pytest.mark.parametrize(
    "reply",
    [
        "```python\nx = 1\n```",
        "ANSWER:\n```python\nx = 1\n```",
        "First ```x = 2```.\n\nANSWER:\n\n```\nx = 1\n```\n",
        "Not this:\n```python\nanswer: int = 2\n```\nANSWER:\n```python\nx = 1\n```",
        "ANSWER: ```python\nx=1\n```",
    ],
)
def test_code_is_a_vote_in_the_block_after_the_line_or_as_the_whole_reply(reply):
    assert extract(reply, PYTHON) == canonical(extract(reply, PYTHON).shown, PYTHON)
    assert vote(reply, PYTHON) == canonical("x = 1", PYTHON).key


@pytest.mark.parametrize(
    "reply",
    [
        "nothing is certain",
        "x = 1",
        "ANSWER: nothing is certain",
        "ANSWER: x = 1",
        "Don't do this:\n```python\nx = 1\n```",
        "```python\nx = 1\n```\nThat is it.",
        "ANSWER:\n```python\nx = 1\n```\nThat is it.",
        "ANSWER:\n```python\nx = \n```",
        "ANSWER:\n```python\nx = 2\n```\nANSWER:\n```python\nx = 1\n```",
        "```python\nx = 2\n```\n```python\nx = 1\n```",
    ],
)
def test_prose_that_would_be_code_is_no_vote(reply):
    assert vote(reply, PYTHON) is None


def test_a_field_called_answer_in_code_is_no_line_of_the_contract():
    code = "class A:\n  pass\nanswer: int = 1"
    assert vote(f"ANSWER:\n```\n{code}\n```", PYTHON) == canonical(code, PYTHON).key
    assert vote(f"```\n{code}\n```", PYTHON) == canonical(code, PYTHON).key


FENCES = ["`" * marks for marks in range(1_400, 2, -1)]


@pytest.mark.parametrize("kind", get_args(AnswerType))
@pytest.mark.parametrize(
    "hostile",
    [
        "[" * 1_000_000,
        "ANSWER: 1\n" * 100_000,
        "answer:\n```\n" * 80_000,
        "answer: " + " " * 1_000_000,
        "```\n" * 250_000,
        "- a\n" * 250_000,
        "\n" * 1_000_000,
        "\n".join([*FENCES, "yes", *FENCES[::-1]]),
        "\n".join(f"ANSWER:\n```\nx = {n}\n```" for n in range(20)),
    ],
    ids=[
        *["brackets", "answers", "answers in fences", "spaces", "fences", "bullets", "lines", "fences in fences"],
        "answers that differ",
    ],
)
def test_hostile_replies_are_no_vote(kind, hostile):
    assert vote(hostile, AnswerSpec(type=kind, language="python")) is None


PIECES = st.sampled_from(
    [
        *[
            "ANSWER: ",
            "ANSWER:",
            "answer:",
            "**",
            "`",
            "```\n",
            "\n```\n",
            "\n",
            "\r\n",
            "> ",
            "- ",
            "# ",
            "<think>",
            "</think>",
            "<",
            ">",
        ],
        *[
            "yes",
            "no",
            "42",
            "43",
            "Paris",
            "June 3",
            "[1]",
            '{"a": 1}',
            "x = 1",
            "a; b",
            "because",
            " ",
            ".",
            "?",
            "\ud800",
            "\u200b",
        ],
    ]
)
REPLIES = st.text() | st.lists(PIECES, max_size=14).map("".join)
SPECS = st.sampled_from([YES_NO, NUMBER, CITY, DAY, SET, JSON, PYTHON, SHORT, AnswerSpec(type="code")])


@given(REPLIES, SPECS)
def test_no_reply_raises_and_a_vote_is_an_answer_of_the_type(reply, spec):
    found = extract(reply, spec)
    assert found is None or canonical(found.shown, spec) == found


@given(
    st.lists(
        st.sampled_from(["I think", "yes", "no", "42", "perhaps", "it is", "so", "not", "the answer is", "because"]),
        min_size=2,
    )
)
def test_words_in_a_row_are_never_a_vote_of_a_typed_answer(words):
    for spec in (YES_NO, NUMBER, CITY, DAY, SET, JSON, PYTHON):
        assert extract(" ".join(words), spec) is None


@given(SPECS, st.sampled_from(["", "Let me see.\n", "It could be 7, yes or B.\n\n", "```\nx = 2\n```\n"]))
def test_what_is_shown_of_a_vote_is_the_same_vote_in_the_contracts_form(spec, before):
    shown = {
        "bool": "yes",
        "number": "42",
        "choice": "B) Paris",
        "date": "--06-03",
        "set": '["a", "b"]',
        "short_text": "Paris",
    }.get(spec.type)
    body = f"ANSWER: {shown}" if shown else "ANSWER:\n```\n[1]\n```"
    found = extract(before + body, spec)
    assert found is not None
    assert found.shown == (shown or "[1]")
