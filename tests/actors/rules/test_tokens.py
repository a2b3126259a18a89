from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from actors.rules.tokens import (
    CHAT_TOKENS,
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    OPENAI_CHAT_TOKENS,
    OPENAI_FACTOR_MILLI,
    OPENAI_MESSAGE_TOKENS,
    ORIGINAL_IMAGE_TOKENS,
    OTHER_FACTOR_MILLI,
    TILE_INFLATED_TOKENS,
    TOOL_TOKENS,
    TOOLS_TOKENS,
    PromptTokens,
    emitted_estimate,
    prompt_texts,
    prompt_tokens,
    prompt_upper_bound,
    text_upper_bound,
)
from protocols.chat import (
    Chat,
    FunctionCall,
    FunctionSpec,
    ImagePart,
    ImageURL,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    Message,
    TextPart,
    Tool,
    ToolCall,
)

# What the text is, its exact tokens in o200k (counted with bpe-openai 0.1.4), the text.
O200K = [
    (
        "english",
        50,
        (
            "Call me Ishmael. Some years ago—never mind how long precisely—having little or no mo"
            "ney in my purse, and nothing particular to interest me on shore, I thought I would s"
            "ail about a little and see the watery part of the world."
        ),
    ),
    (
        "shouting",
        22,
        ("THE PARTIES AGREE THAT THIS WARRANTY IS PROVIDED AS IS AND WITHOUT ANY OBLIGATION OF ANY KIND."),
    ),
    (
        "code",
        50,
        (
            "def find(self, key: str) -> Node | None:\n    node = self._root\n    while node is not"
            " None and node.key != key:\n        node = node.left if key < node.key else node.righ"
            "t\n    return node\n"
        ),
    ),
    (
        "minified code",
        47,
        ("function a(b,c){return b[c]?b:!c&&d(b,0)};function e(f,g){for(var h=0;h<f.length;h++)g(f[h],h);return!1}"),
    ),
    (
        "JSON",
        97,
        (
            '[{"id": 17, "name": "item-17", "price": 41.99, "tags": ["a", "b"], "ok": true, "nest'
            'ed": {"x": 119, "y": null}}, {"id": 18, "name": "item-18", "price": 7.5, "tags": [],'
            ' "ok": false, "nested": {"x": 126, "y": null}}]'
        ),
    ),
    ("compact JSON", 37, ('{"t":"object","p":{"a":{"t":"string"},"b":{"t":"integer"},"c":[1,2,3]},"r":["a","b"]}')),
    ("CSV", 48, "413.62,8.01,77.20,954.33\n12.75,640.09,3.14,288.41\n500.00,19.95,0.07,61.80\n"),
    (
        "log lines",
        75,
        (
            "2026-11-07T04:12:09.183402Z INFO [worker-3] GET /api/v1/users/48213?x=17 200 35ms\n20"
            "26-11-07T04:12:09.201944Z WARN [worker-1] POST /api/v1/login 401 8ms\n"
        ),
    ),
    ("a Markdown table", 36, "| 1 | yes | 12.5% |\n| 2 | no | 87.0% |\n| 3 | yes | 0.4% |\n"),
    ("HTML", 38, ('<div class="c7"><span id="s-7">Hello world</span><br/></div>\n<ul><li>One</li><li>Two</li></ul>\n')),
    (
        "Chinese",
        32,
        (
            "人工智能正在改变我们的生活方式。从智能手机到自动驾驶汽车，机器学习算法无处不在。然而"
            "，这项技术也带来了新的挑战。"
        ),
    ),
    ("classical Chinese", 34, "學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？"),
    (
        "Japanese",
        53,
        (
            "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじ"
            "めした所でニャーニャー泣いていた。"
        ),
    ),
    ("Korean", 24, "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다."),
    (
        "Russian",
        28,
        ("Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью."),
    ),
    ("Arabic", 29, "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا."),
    ("Hindi", 25, ("सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।")),
    ("Amharic", 79, "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።"),
    (
        "Polish",
        38,
        ("Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Zażółć gęślą jaźń."),
    ),
    (
        "Finnish",
        38,
        (
            "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Epäjär"
            "jestelmällistyttämättömyys."
        ),
    ),
    (
        "base64",
        274,
        (
            "MyqcamOeqQQGQD/dVABExOaCIv+gSl7NpsYgXSGG/KSjzXsyWPQGZB5JYLr4VqxnC4gjNEIWJvH4IIEBDWMl"
            "bxhD0eY3xBQo4jF7bDHpEB3+rAPSCjkqF8Ph/WeUauqT/aoB4q3BXl188/11L+bmxY2FnClaDEYhmy/MA+7o"
            "Ow2ePTKNtat6JHK7AqTEs3TODUvo6NFij2UyvsoWnT+nkg0lSJ8EyV7ti5vvXqNYvLzUfSSBdZfzK8DWWCVg"
            "6xJZiwWGSIywbCkdq2qFEB/6K+2N7eyVQC0REtnZG85wPGJWCpJ9qAjpwMJDCM48AMrKvzCF91F1Ac5v/IQy"
            "7ag2TVYobCCayVjW82ht8TGkIgu7a735xyut6VSelHs/xoRQSvSpDYKajpt6VRnt"
        ),
    ),
    (
        "wrapped base64",
        211,
        (
            "zpvLOzu/pPFCEf514D17IF5OE4hnLBaYa1ElwdqwcbAM6sPAXiX4msroc6UGoawIg1c2WXd/4pTc\nAKBTlz2"
            "QhVZ+wyevITXevszV16lKR3O9ZX+pPqTBjXfg8r3iAsZS/alnK1J3kXZOEVVwUFNmsDPZ\n/8VStNhBV3hElE"
            "drJDtDRkUg/4uEVVfPRnZFDIikGZaX4ukBUrKvqek839n4geD6CjF0wHlEupsv\nTeVPNsGIsgK0lBSX07hB+"
            "tfjfwmehX6TJ+yNLLkKru4nNFqK+Xd4YT+iASG5yJqZU1VVV5rXga2F\n"
        ),
    ),
    (
        "hex",
        173,
        (
            "a78edc99d41e710c2c8e4d145046cd12f16f39cfc957fdd0dcd121e0f7c75293d14856579b5211b80481"
            "fc227df64a01575d2c305e2e4845e4dc74890fef79a49bf91ce02a7fd7036afacfa37654a952ce5f42ec"
            "4a100f071b77543695f5505289e5a5537ec523de46b9d3bf3205ef06287b20a693bd7f7c1ce9c2676efb"
            "1a9c968fd0ad93cae5cc086978560159ac2c73eab40ee58c"
        ),
    ),
    (
        "a hex dump",
        220,
        (
            "67 2c 18 c0 11 a5 0d c8 d1 ed 1d 7f 16 42 af e3 2b 3f 09 ee ac 6e b7 e9 2a 4a ce 17 "
            "7d 9b 54 33 e7 1e 18 7c e3 00 ae 47 b9 97 2e dd b1 4e 8e 4d da e9 07 99 61 17 7b 95 "
            "f9 63 6c 8a 07 4a 99 c1 c7 9b a3 16 e2 07 8a 33 9b e6 c3 23 a0 c8 6f 78 0c aa 6b 45 "
            "79 d3 8c c4 a9 e2 9f e4 a5 02 dc c3 06 a0 6c d8 "
        ),
    ),
    (
        "UUIDs",
        116,
        (
            "b5fe78e8-3f79-ac11-26c2-5fc0b9037f9a\nb267eaa2-a147-0910-1b37-f43255fadbdd\ndd320aa0-a"
            "111-e20c-8073-81d8fabd985d\nf0bb5fc9-4f77-4e69-9fa3-a6179264a4a6\n056eaab7-7c92-aaf8-2"
            "723-6559dde53095"
        ),
    ),
    (
        "random small letters",
        163,
        (
            "pvrvnycimlwmqzjudioyabrwsjltlihcrdytvnzwdjfufxuxwdymmzxkmmpzklfwerxqnvjegkvcncqasvhs"
            "nmgsxizvzeehvyhqdjbxumjeuwwmtiwcyttqitghjdlvszclawqcdkgaouyeoiqbosrtzbbrodphjukkqshg"
            "rzgjzsrwahyfazqinlcuixcsdmmqsnhvbzlrkvicupsenovwtogktgdmfjygcxqaoygzwxgyigrywjxzaxxt"
            "xaclgnauxxurirlufsukljdbxfwlnazwoydkdelyppckzkpe"
        ),
    ),
    (
        "DNA",
        143,
        (
            "ggacagtgagagtactcttgtttgcttaatgtagacgtattacccttgttttcccatggcgtagcagaactttttcgtgggctc"
            "acagcttcgatcaggcaagggctcaattattgctcactctcgcgaaagggctgagaggcgattacaggagcacttaagatgttg"
            "tgggttcagctcgacatccctcgggttcttatcgtacttgtggactgaaaatttagcatagtaacctcaaacaagctcaaccgt"
            "gtaggaaactctcagaactcagtatctagaagcccgcgcatagggctg"
        ),
    ),
    (
        "URLs",
        70,
        (
            "https://www.example7.com/path/to/kQ9_xWz-41bTfVnLr0aYsd?utm_source=news&id=839201774"
            "#frag\nhttps://cdn.example.net/a/b/c.min.js?v=20261121&h=9f8e7d6c5b4a\n"
        ),
    ),
    ("a percent-encoded URL", 44, "https://x.y/?q=%E4%BA%BA%E5%B7%A5%E6%99%BA%E8%83%BD%E6%AD%A3%E5%9C%A8"),
    (
        "emoji",
        90,
        ("😀😃😄😁😆😅🤣😂🙂🙃😉😊😇🥰😍🤩😘🐶🐱🐭🐹🐰🦊🐻🐼🍏🍎🍐🍊🍋🍌🏀⚽🏈🚗🚕🚙🛸🧬🫠🫡🫥\U0001fabf\U0001fa77🛝"),
    ),
    ("joined emoji", 49, "👨\u200d👩\u200d👧\u200d👦👩🏽\u200d🚀🧑🏿\u200d🤝\u200d🧑🏻🏳️\u200d🌈🇩🇪🇫🇷🇯🇵"),
    (
        "zalgo",
        214,
        (
            "h\u0332\u031f\u034e\u0329\u0322\u0335e\u0365\u0313\u0326\u0311\u030c\u0365 \u036e\u032b\u0305\u0355\u0320\u0359c\u0341\u033f\u0337\u0318\u0365\u035ao\u033f\u0354\u0327\u032d\u034c\u035em\u035a\u032b\u0350\u032e\u030c\u0309e\u0332\u034f\u0317\u036c\u032e\u0347s\u030f\u033a\u0319\u0357\u0317\u0351 \u0368\u0365\u0326\u031e\u0335\u0308t\u0350\u0336\u032a\u0327\u0333\u036co\u0340\u0346\u0354\u0321\u034e\u0368 \u036d\u031e\u0356\u0340\u0330\u036e"
            "z\u034f\u0321\u0366\u031d\u0322\u036da\u031e\u030e\u0312\u0316\u0312\u0336l\u034b\u036b\u035b\u0313\u0305\u030dg\u032f\u030c\u0352\u0352\u0361\u0320o\u0342\u0346\u0322\u0360\u0322\u032a "
        ),
    ),
    ("mathematics", 65, "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε; ∑ᵢ₌₁ⁿ xᵢ² ≤ ∫₀¹ √(1+y²) dy ≈ π²⁄6"),
    ("LaTeX", 37, "\\begin{equation} \\int_{-\\infty}^{\\infty} e^{-x^2}\\,dx = \\sqrt{\\pi} \\end{equation}"),
    ("a regex", 47, "^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*)$"),
    ("chess", 57, "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7 6. Re1 b5 7. Bb3 d6 8. c3 O-O"),
    ("one digit after another", 39, "1 0 0 1 1 0 1 0 1 1 1 0 0 0 1 0 1 1 0 1"),
    ("one label after another", 41, "[1,0,0,1,1,0,1,0,1,1,1,0,0,0,1,0,1,1,0,1]"),
    ("one letter, 3 000 times", 375, "a" * 3_000),
    ("one slow letter, 3 000 times", 1500, "z" * 3_000),
    ("one digit, 3 000 times", 1000, "0" * 3_000),
    ("dots, 3 000 times", 48, "." * 3_000),
    ("spaces, 3 000 times", 24, " " * 3_000),
    ("newlines, 3 000 times", 188, "\n" * 3_000),
    ("tabs, 3 000 times", 188, "\t" * 3_000),
    ("one emoji, 3 000 times", 6000, "🎉" * 3_000),
]

NATURAL = {"english", "code", "JSON", "CSV", "HTML", "Chinese", "Japanese", "Korean", "Polish", "base64", "hex"}

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

FRAME = CHAT_TOKENS + MESSAGE_TOKENS


def chat(**fields) -> Chat:
    return Chat(messages=[Message(role="user", **fields)])


def bound(of: Chat, factor_milli: int = OPENAI_FACTOR_MILLI, model: str = "") -> int:
    return prompt_upper_bound(of, factor_milli, model)


@pytest.mark.parametrize(("kind", "exact", "text"), O200K, ids=[kind for kind, *_ in O200K])
def test_the_bound_is_above_the_exact_count(kind, exact, text):
    assert text_upper_bound(text) >= exact
    if kind in NATURAL:
        assert text_upper_bound(text) <= 2.3 * exact, "a bound far above keeps calls from running"


def test_noise_is_not_hidden_by_the_words_around_it():
    counts = {kind: (exact, text) for kind, exact, text in O200K}
    (words, english), (letters, noise) = counts["english"], counts["random small letters"]
    mixed = (english + "\n") * 50 + noise * 120 + "\n" + (english + "\n") * 50
    assert text_upper_bound(mixed) >= 100 * (words + 1) + 120 * letters


@given(st.text(max_size=300))
def test_no_text_has_more_than_a_token_a_byte_nor_less_than_none(text):
    assert 0 <= text_upper_bound(text) <= len(text.encode())
    assert (text_upper_bound(text) > 0) is bool(text)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff b"])
def test_half_a_surrogate_pair_is_counted_and_not_refused(text):
    assert text_upper_bound(text) > 0
    assert emitted_estimate(text) > 0


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("four", 1), ("fiver", 2), ("é" * 4, 2), ("🎉", 1)])
def test_what_was_emitted_is_estimated_at_four_bytes_a_token(text, tokens):
    assert emitted_estimate(text) == tokens


def test_a_prompt_is_its_text_and_a_frame():
    text = "Call me Ishmael."
    assert bound(chat(content=text)) == FRAME + text_upper_bound(text)
    assert bound(Chat(messages=[Message(role="user", content="")] * 3)) == CHAT_TOKENS + 3 * MESSAGE_TOKENS


def test_text_parts_count_like_text():
    text = "Some years ago, never mind how long"
    parts = [TextPart(text[:10]), TextPart(text[10:])]
    assert bound(chat(content=parts)) == bound(chat(content=text))


@pytest.mark.parametrize("exact", [0, 1, 7, 1_000])
def test_the_factor_rounds_up_in_integers(exact):
    prompt = chat(content="🎉" * exact)
    tokens = FRAME + 4 * exact
    assert bound(prompt) == tokens
    assert bound(prompt, OTHER_FACTOR_MILLI) == -(-tokens * 6 // 5)
    assert bound(prompt, 1) == -(-tokens // 1_000)


@pytest.mark.parametrize(
    ("more", "at_least"),
    [
        ({"name": "Queequeg"}, 3),
        ({"tool_call_id": "call_9f8e7d6c5b4a"}, 11),
        (
            {"tool_calls": [ToolCall(id="", function=FunctionCall(name="", arguments='{"city": "Nantucket"}'))]},
            TOOL_TOKENS + 8,
        ),
        ({"tool_calls": [ToolCall(id="", function=FunctionCall(name="get_weather_of_city"))]}, TOOL_TOKENS + 4),
        ({"tool_calls": [ToolCall(id="call_9f8e7d6c5b4a", function=FunctionCall(name=""))]}, TOOL_TOKENS + 11),
    ],
)
def test_every_field_of_a_message_counts(more, at_least):
    plain = Chat(messages=[Message(role="tool", content="x")])
    full = Chat(messages=[Message(role="tool", content="x", **more)])
    assert bound(full) >= bound(plain) + at_least


def tool(parameters: bytes | None, **more) -> Chat:
    spec = (
        FunctionSpec(name="f", **more) if parameters is None else FunctionSpec("f", parameters=Raw(parameters), **more)
    )
    return Chat(messages=[Message(role="user", content="x")], tools=[Tool(function=spec)])


def test_tools_count_with_their_hidden_prompt_and_all_their_bytes():
    without = bound(chat(content="x"))
    bare = bound(tool(None))
    assert bare >= without + TOOLS_TOKENS + TOOL_TOKENS
    assert bound(tool(None, description="Tells the weather")) > bare
    assert bound(tool(msgspec.json.encode(SCHEMA))) >= bare + 19


def test_a_schema_in_msgpack_counts_no_less_than_its_json_has_tokens():
    exact_of_json = 19
    assert bound(tool(msgspec.msgpack.encode(SCHEMA))) >= bound(tool(None)) + exact_of_json


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_the_schema_of_an_answer_counts(encode):
    def answer(schema: JsonSchema) -> Chat:
        response_format = JsonSchemaFormat(json_schema=schema)
        return Chat(messages=[Message(role="user", content="x")], response_format=response_format)

    bare = bound(answer(JsonSchema(name="place")))
    assert bare > bound(chat(content="x")) + TOOLS_TOKENS
    assert bound(answer(JsonSchema(name="place", description="Where it is"))) > bare
    assert bound(answer(JsonSchema(name="place", schema=Raw(encode(SCHEMA))))) >= bare + 19


def test_a_format_without_a_schema_costs_nothing():
    plain = Chat(messages=[Message(role="user", content="x")], response_format=JsonObjectFormat())
    assert bound(plain) == bound(chat(content="x"))


@pytest.mark.parametrize(
    ("detail", "model", "tokens"),
    [
        (None, "", IMAGE_TOKENS),
        ("low", "claude-opus-4-7", IMAGE_TOKENS),
        ("high", "gpt-4.1-nano", IMAGE_TOKENS),
        ("original", "gpt-5.4", ORIGINAL_IMAGE_TOKENS),
        ("high", "gpt-4o-mini", TILE_INFLATED_TOKENS),
        ("auto", "openai/gpt-4o-mini-2024-07-18", TILE_INFLATED_TOKENS),
    ],
)
def test_an_image_counts_at_its_largest_and_its_bytes_as_no_text(detail, model, tokens):
    image = ImagePart(ImageURL(url="data:image/png;base64," + "iVBORw0KGgo" * 1_000, detail=detail))
    text = [TextPart("Describe these.")]
    without = bound(chat(content=text), OTHER_FACTOR_MILLI, model)
    assert bound(chat(content=[*text, image, image]), OTHER_FACTOR_MILLI, model) == without + 2 * tokens


TOOL_CALL = ToolCall(id="call_9", function=FunctionCall(name="weather", arguments='{"city": "Nantucket"}'))
IMAGE = ImagePart(ImageURL(url="data:image/png;base64,iVBORw0KGgo"))


def test_a_tokenizer_counts_all_texts_but_schemas():
    messages = [
        Message(role="user", content=[TextPart("Call me "), IMAGE, TextPart("Ishmael.")], name="Queequeg"),
        Message(role="assistant", tool_calls=[TOOL_CALL]),
        Message(role="tool", content="sunny", tool_call_id="call_9"),
    ]
    texts = prompt_texts(Chat(messages=messages, tools=tool(msgspec.json.encode(SCHEMA)).tools))
    small = ["Queequeg", "call_9", "weather", '{"city": "Nantucket"}', "call_9"]
    assert sorted(text for text in texts if text) == sorted(["Call me Ishmael.", "sunny", *small])


def test_a_counted_prompt_of_text_alone_is_known_but_for_its_frame():
    about = 1_000 + OPENAI_CHAT_TOKENS + OPENAI_MESSAGE_TOKENS
    assert prompt_tokens(chat(content="x"), 1_000, "gpt-4o") == PromptTokens(about, 1_000 + FRAME)


@pytest.mark.parametrize(
    "prompt",
    [
        chat(content="x" * 99),
        chat(content=[TextPart("x"), IMAGE]),
        chat(content="x", name="Queequeg"),
        Chat(messages=[Message(role="assistant", tool_calls=[TOOL_CALL]), Message(role="tool", content="sunny")]),
        tool(msgspec.json.encode(SCHEMA)),
        tool(msgspec.msgpack.encode(SCHEMA)),
        Chat(messages=[Message(role="user")], response_format=JsonSchemaFormat(json_schema=JsonSchema(name="place"))),
    ],
)
def test_what_a_tokenizer_does_not_count_has_the_same_bound_with_one_and_without(prompt):
    texts = sum(map(text_upper_bound, prompt_texts(prompt)))
    with_one, without = prompt_tokens(prompt, texts, "gpt-4o"), bound(prompt, model="gpt-4o")
    assert without <= with_one.at_most <= without + len(prompt_texts(prompt))  # each text is rounded up on its own
    plain = prompt.messages[0].content == "x" * 99
    assert (with_one.about == with_one.at_most) is not plain
