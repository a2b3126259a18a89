"""What is assumed of a call, what it then costs, and sums that are exact and say what they lack."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.estimate import MOST_NANO_USD, assumed_answer, assumed_prompt, of_task, priced, summed
from actors.rules.matrix import Task
from actors.rules.orchestrator import Choice
from actors.rules.pricing import FREE, Dated, Price, cost
from protocols.chat import Chat, TokenCount
from protocols.errors import BadRequest
from protocols.estimate import Assumed, Missing
from protocols.model import ModelInfo

PRICE = Price(input=150_001, output=600_000, version="table")
PLAIN = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "12345678"}]}
TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
PICTURE = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE]}]


def row(model="openai:a", task="tag", calls=1, nano=None, **fields):
    usual = {
        "prompt_tokens": 1001,
        "prompt_source": "task",
        "response_tokens": 11,
        "response_source": "task",
        "why": "it is the best",
    }
    return Assumed(task=task, model=model, calls=calls, cost_nano_usd=nano, **(usual | fields))


def chosen(*ids, **fields):
    models = [ModelInfo(id=i, provider=i.partition(":")[0], display_name=i, source="config") for i in ids]
    return Choice(models, "it is the best", **fields)


@pytest.mark.parametrize(
    ("said", "counted", "expected"),
    [
        (PLAIN, None, (5, "estimate")),  # 18 bytes and a line's end, a token for each four
        (PLAIN, 33, (33, "tokenizer")),
        ({**PLAIN, "tools": [TOOL]}, None, (700, "upper_bound")),
        ({**PLAIN, "response_format": {"type": "json_object"}}, None, (700, "upper_bound")),
        ({"messages": PICTURE}, None, (700, "upper_bound")),
        ({"messages": PICTURE}, 33, (33, "tokenizer")),
    ],
)
def test_a_prompt_is_what_a_settlement_would_take_it_for(said, counted, expected):
    assert assumed_prompt(msgspec.convert(said, Chat), counted, 700) == expected


@pytest.mark.parametrize(
    ("task", "longest", "expected"),
    [
        (Task(response_tokens=800), 1024, (800, "task")),
        (Task(response_tokens=800), 800, (800, "task")),
        (Task(response_tokens=800), 799, (799, "limit")),
        (None, 1024, (500, "default")),
        (None, 9, (9, "limit")),
    ],
)
def test_an_answer_is_as_long_as_its_task_has_it_and_as_is_allowed(task, longest, expected):
    assert assumed_answer(task, longest) == expected


def test_calls_of_a_task_are_at_the_best_model_with_the_tokens_of_the_task():
    made = of_task(
        "tag", Task(prompt_tokens=7, response_tokens=3), 20, chosen("home:b", "openai:a", tier_exceeded=True)
    )
    assert made == row(
        "home:b", calls=20, prompt_tokens=7, response_tokens=3, tier_exceeded=True, bound_nano_usd=None, nano=None
    )


def test_a_task_without_a_model_is_missing_with_its_way_out():
    assert of_task("tag", Task(), 20, Choice(why="get one")) == Missing("tag", None, 20, "get one")


@pytest.mark.parametrize(
    ("price", "at_s", "expected"),
    [
        (PRICE, 0, (156_752, "table", False)),  # 156 751.001, rounded up once
        (FREE, 0, (0, "free", True)),
        (Price(input=0, output=0, version="table"), 0, (0, "table", False)),
        (None, 0, (None, None, False)),
        (Price(input=0, output=0, version="v", dated=(Dated(input=1000, output=0, since_s=50),)), 49, (0, "v", False)),
        (Price(input=0, output=0, version="v", dated=(Dated(input=1000, output=0, since_s=50),)), 50, (1001, "v", False)),
    ],
)  # fmt: skip
def test_a_call_costs_what_its_usage_line_would_at_that_time(price, at_s, expected):
    made = priced(row(), price, at_s)
    assert (made.cost_nano_usd, made.price_version, made.local) == expected


def test_sums_by_task_and_by_model_are_the_total():
    made = summed([row("a:x", "tag", 100, 7), row("a:x", "poem", 3, 11), row("b:y", "plot", 2, 0)])
    assert (made.total_nano_usd, made.by_task, made.by_model) == (
        733,
        {"tag": 700, "poem": 33, "plot": 0},
        {"a:x": 733, "b:y": 0},
    )
    assert made.missing == []


def test_a_request_without_a_task_counts_under_no_task():
    made = summed([row(task=None, nano=5)])
    assert (made.total_nano_usd, made.by_task, made.by_model) == (5, {}, {"openai:a": 5})


def test_what_has_no_price_or_no_model_is_in_no_sum_and_is_named():
    none = Missing("plot", None, 4, "get one")
    made = summed([row("a:x", "tag", 2, 7), row("b:y", "poem", 3)], [none])
    assert (made.total_nano_usd, made.by_task, made.by_model) == (14, {"tag": 14}, {"a:x": 14})
    assert [(each.task, each.model, each.calls) for each in made.missing] == [("plot", None, 4), ("poem", "b:y", 3)]
    assert "no price is known for `b:y`" in made.missing[1].why


@pytest.mark.parametrize("rows", [[], [row()]])
def test_a_total_of_nothing_known_is_unknown_and_not_zero(rows):
    assert summed(rows, [Missing("plot", None, 4, "get one")]).total_nano_usd is None


@pytest.mark.parametrize(
    "rows",
    [
        [row(calls=2, nano=MOST_NANO_USD // 2 + 1)],
        [row("a:x", calls=1, nano=MOST_NANO_USD), row("b:y", calls=1, nano=1)],
        [row(calls=0, nano=MOST_NANO_USD + 1)],
    ],
)
def test_more_money_than_a_number_can_say_is_refused(rows):
    with pytest.raises(BadRequest, match="estimate fewer"):
        summed(rows)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("xyz"),
            st.integers(0, 10**9),
            st.integers(0, 10**5),
            st.integers(0, 10**5),
            st.integers(0, 10**7),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_sums_agree_whatever_is_asked(mix):
    rows = []
    for n, (model, calls, prompt, answer, pico) in enumerate(mix):
        each = row(f"a:{model}", f"task {n}", calls, prompt_tokens=prompt, response_tokens=answer)
        rows.append(priced(each, Price(input=pico, output=pico, version="v"), 0))
    made = summed(rows)
    assert sum(made.by_task.values()) == sum(made.by_model.values()) == made.total_nano_usd
    first, tokens = rows[0], TokenCount(prompt=mix[0][2], response=mix[0][3])
    assert made.by_task["task 0"] == mix[0][1] * cost(Price(input=mix[0][4], output=mix[0][4], version="v"), tokens)
    assert first.calls == mix[0][1]
