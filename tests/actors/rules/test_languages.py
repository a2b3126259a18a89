import pytest

from actors.rules.languages import language_tag


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("en", "en"),
        ("tlh", "tlh"),
        ("pt-BR", "pt-BR"),
        ("PT-br", "pt-BR"),
        ("es-419", "es-419"),
        ("zh-hans", "zh-Hans"),
        ("zh-Hant-TW", "zh-Hant-TW"),
        ("de-1996", "de-1996"),
        ("de-CH-1901", "de-CH-1901"),
        ("sl-rozaj-solba", "sl-rozaj-solba"),
        ("ca-ES-valencia", "ca-ES-valencia"),
        ("sr-Latn-RS-ekavsk", "sr-Latn-RS-ekavsk"),
    ],
)
def test_a_tag_is_written_by_convention_however_it_came(text, tag):
    assert language_tag(text) == language_tag(text.upper()) == tag


@pytest.mark.parametrize(
    "text",
    [
        "",
        "e",
        "-",
        "en-",
        "-en",
        "en--US",
        "e1",
        "english",
        "en_US",
        "en-claude",
        "en-groq",
        "en-hf",
        "en-mistral",
        "en-US-Latn",
        "en-US-GB",
        "de-1996-1996",
        "1996",
        "BR-pt-",
        "en\n",
        "d\u0435",
        "es-\u0664\u0661\u0669",
    ],
)
def test_what_is_no_tag_is_none(text):
    assert language_tag(text) is None
