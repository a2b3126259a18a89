import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.hints import Hint, in_language, parse_hint
from actors.rules.languages import language_tag
from protocols.chat import Chat, Message
from protocols.errors import BadRequest, UnknownProvider

NAMES = ["openai", "anthropic", "claude", "deepseek", "my-claude", "us", "us-west", "latn", "gpt"]


@pytest.mark.parametrize(
    ("text", "language", "name"),
    [
        ("en", "en", None),
        ("pt-BR", "pt-BR", None),
        ("zh-Hans", "zh-Hans", None),
        ("claude", None, "claude"),
        ("my-claude", None, "my-claude"),
        ("gpt", None, "gpt"),
        ("us", None, "us"),
        ("en-claude", "en", "claude"),
        ("EN-claude", "en", "claude"),
        ("pt-br-claude", "pt-BR", "claude"),
        ("zh-Hans-deepseek", "zh-Hans", "deepseek"),
        ("zh-Hant-TW-deepseek", "zh-Hant-TW", "deepseek"),
        ("de-1996-openai", "de-1996", "openai"),
        ("en-my-claude", "en", "my-claude"),
        ("ms-MY-claude", "ms-MY", "claude"),
        ("en-us", "en", "us"),
        ("en-us-west", "en", "us-west"),
        ("en-US", "en-US", None),
        ("en-US-us", "en-US", "us"),
        ("sr-latn", "sr", "latn"),
    ],
)
def test_a_hint_is_a_language_a_name_or_both_and_the_longest_name_wins(text, language, name):
    assert parse_hint(text, NAMES) == Hint(language, name)


def test_a_shorter_name_is_taken_where_the_longer_leaves_no_language():
    assert parse_hint("de-ch-1996-claude", ["ch-1996-claude", "claude"]) == Hint("de", "ch-1996-claude")
    assert parse_hint("de-ch-claude", ["de-ch-claude"]) == Hint(None, "de-ch-claude")
    assert parse_hint("sl-rozaj-solba-sim", ["sim"]) == Hint("sl-rozaj-solba", "sim")


@pytest.mark.parametrize(
    ("text", "end", "near"),
    [
        ("en-cluade", "cluade", "did you mean `claude`?"),
        ("cluade", "cluade", "did you mean `claude`?"),
        ("Claude", "Claude", "did you mean `claude`?"),
        ("zh-Hans-deepsek", "deepsek", "did you mean `deepseek`?"),
        ("en-groq", "groq", "there are: openai, anthropic"),
        ("en-hf", "hf", "there are: openai, anthropic"),
        ("en-claude-x", "claude-x", "did you mean `claude`?"),
        ("en-openai:gpt-4o", "openai:gpt-4o", "there are: openai"),
        ("pt_BR", "pt_BR", "there are: openai"),
        ("english", "english", "there are: openai"),
    ],
)
def test_an_unknown_end_is_refused_with_what_there_is(text, end, near):
    with pytest.raises(UnknownProvider) as refused:
        parse_hint(text, NAMES)
    assert refused.value.detail == {"provider": end}
    assert f"hint `{text}`: there is no provider or alias `{end}`; " in refused.value.message
    assert near in refused.value.message


@pytest.mark.parametrize(
    ("text", "before", "end"),
    [
        ("klingon-claude", "klingon", "claude"),
        ("x-my-claude", "x", "my-claude"),
        ("-claude", "", "claude"),
        ("en-groq-claude", "en-groq", "claude"),
    ],
)
def test_a_beginning_that_is_no_language_is_refused(text, before, end):
    with pytest.raises(BadRequest, match=f"`{before}`, before `{end}`, is no language tag"):
        parse_hint(text, NAMES)


@pytest.mark.parametrize("text", ["en-", "-", "claude-", "en-claude-"])
def test_a_hint_that_ends_before_a_name_says_so(text):
    with pytest.raises(BadRequest, match=f"hint `{text}` ends before a name"):
        parse_hint(text, NAMES)
    assert parse_hint("en-mine-", ["mine-"]) == Hint("en", "mine-")


def test_an_empty_hint_says_what_one_is():
    with pytest.raises(BadRequest, match="the hint is empty; write a language"):
        parse_hint("", NAMES)


def test_without_any_provider_it_says_so():
    with pytest.raises(UnknownProvider, match="there are: none"):
        parse_hint("claude", [])


tags = st.sampled_from(["en", "pt-BR", "zh-Hans", "zh-Hant-TW", "es-419", "de-1996", "sl-rozaj"])
providers = st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True)


@given(st.none() | tags, st.none() | providers, st.sets(providers, max_size=5))
def test_nothing_of_a_hint_is_ever_dropped(tag, name, others):
    names = sorted(others | ({name} if name is not None else set()))
    text = "-".join(part for part in (tag, name) if part is not None)
    if not text:
        return
    hint = parse_hint(text, names)
    said = [part for part in (hint.language, hint.name) if part is not None]
    assert "-".join(said).lower() == text.lower()
    assert hint.name is None or (hint.name in names and len(hint.name) >= len(name or ""))
    assert hint.language is None or language_tag(hint.language) == hint.language


@given(st.text(st.sampled_from("aen-BRhs1x"), max_size=14), st.sets(providers, max_size=4))
def test_any_text_is_read_whole_or_refused(text, names):
    try:
        hint = parse_hint(text, names)
    except (BadRequest, UnknownProvider) as refused:
        assert f"`{text}`" in refused.message or not text  # noqa: PT017  both outcomes are right
        return
    assert "-".join(part for part in (hint.language, hint.name) if part is not None).lower() == text.lower()


def test_the_language_is_asked_for_before_all_else_and_the_call_stays_as_it_was():
    asked = Chat(messages=[Message("system", "Be short."), Message("user", "hi")], model="openai:gpt-4o")
    sent = in_language(asked, "pt-BR")
    assert [message.text() for message in sent.messages] == ["Answer in pt-BR.", "Be short.", "hi"]
    assert sent.messages[0].role == "system"
    assert (len(asked.messages), sent.model) == (2, "openai:gpt-4o")
