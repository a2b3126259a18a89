import ast
from datetime import date
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.rules.canonical import _BY_TYPE, Canonical, canonical
from actors.rules.canonical.choice import distinct
from protocols.tournament import AnswerSpec, AnswerType

LABELLED = ("A) Rome", "B) Paris", "C) New York")
CITIES = ("Rome", "Paris", "New York")


def key(answer, kind, **spec):
    found = canonical(answer, AnswerSpec(type=kind, **spec))
    return found and found.key


def test_every_type_of_answer_has_a_rule():
    assert set(_BY_TYPE) == set(get_args(AnswerType))


@pytest.mark.parametrize(
    ("kind", "spec", "one", "other"),
    [
        ("bool", {}, "yes", "no"),
        ("choice", {"choices": CITIES}, "Rome", "Paris"),
        ("choice", {"choices": ("C", "C++", "C#")}, "C", "C++"),
        ("choice", {"choices": ("(0, 1)", "[0, 1]")}, "(0, 1)", "[0, 1]"),
        ("choice", {"choices": ("a", "A")}, "a", "A"),
        ("choice", {"choices": ("1.5", "15")}, "1.5", "15"),
        ("choice", {"choices": ("is safe", "is not safe")}, "is safe", "is not safe"),
        ("number", {}, "42", "43"),
        ("number", {}, "42", "-42"),
        ("number", {}, "1,500", "1.500"),
        ("number", {}, "0.1", "0.1000000000000000000000000001"),
        ("number", {}, "1/3", "0.3333333333333333"),
        ("number", {}, "9007199254740993", "9007199254740992"),
        ("number", {}, "1½", "5.5"),
        ("number", {"locale": "de"}, "1,5", "15"),
        ("number", {"unit": "km"}, "5 km", "5 m"),
        ("number", {"unit": "W"}, "5 mW", "5 MW"),
        ("date", {}, "June 3", "June 4"),
        ("date", {}, "June 3", "June 3, 2026"),
        ("date", {}, "June 2026", "June 20"),
        ("date", {}, "6/3/2026", "3/6/2026"),
        ("set", {}, "a, b", "a, b, c"),
        ("set", {}, "salt and pepper; oil", "salt; pepper; oil"),
        ("set", {}, "a b", "a, b"),
        ("set", {}, "safe; cheap", "not safe; cheap"),
        ("json", {}, "1", '"1"'),
        ("json", {}, "[1, 2]", "[2, 1]"),
        ("json", {}, '{"a": null}', "{}"),
        ("json", {}, "true", "1"),
        ("json", {}, "0.1", "0.10000000000000000001"),
        ("json", {}, '"a"', '"A"'),
        ("json", {}, '["a,b"]', '["a", "b"]'),
        ("code", {"language": "python"}, "def f(x): return x", "def f(y): return y"),
        ("code", {"language": "python"}, "a - b", "b - a"),
        ("code", {"language": "python"}, "x = 1", "x = 1.0"),
        ("code", {"language": "python"}, "x = 1", "x = True"),
        ("code", {"language": "python"}, "x = '1'", "x = b'1'"),
        ("code", {"language": "python"}, "if a:\n  b\n  c", "if a:\n  b\nc"),
        ("code", {"language": "python"}, "if a:\n  b\nelse:\n  c\nd", "if a:\n  b\nelse:\n  c\n  d"),
        ("code", {"language": "python"}, "f(a, *b)", "f(*a, b)"),
        ("code", {"language": "python"}, "x = '''a\n  \nb'''", "x = '''a\n\nb'''"),
        ("code", {"language": "python"}, "'a'", "'b'"),
        ("code", {"language": "python"}, "x = ['a, b']", "x = ['a', 'b']"),
        ("code", {"language": "rust"}, "let x = 1;", "let x = 2;"),
        ("code", {}, "if a:\n  b", "if a:\n b"),
        ("short_text", {}, "is safe", "is not safe"),
        ("short_text", {}, "is safe", "isn't safe"),
        ("short_text", {}, "safe", "safe?"),
        ("short_text", {}, "10²", "102"),
        ("short_text", {}, "101₂", "1012"),
        ("short_text", {}, "1½", "11/2"),
        ("short_text", {}, "5!", "5"),
        ("short_text", {}, "-5", "5"),
        ("short_text", {}, "C", "C++"),
        ("short_text", {}, "(0, 1)", "[0, 1]"),
        ("short_text", {}, "increase", "decrease"),
        ("short_text", {}, "pre-war", "pre war"),
        ("short_text", {}, '"a" or "b"', "a or b"),
        ("short_text", {}, "A", "B"),
        ("short_text", {}, "a and b", "and b"),
        ("short_text", {}, "a is b", "is b"),
        ("short_text", {}, "a - b", "- b"),
        ("short_text", {"locale": "de"}, "the Band", "Band"),
    ],
)
def test_near_misses_are_two_answers(kind, spec, one, other):
    keys = [key(one, kind, **spec), key(other, kind, **spec)]
    assert None not in keys
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("said", "locale", "means"),
    [
        ("yes", "en", "yes"),
        ("Yes.", "en", "yes"),
        ("**YES**", "en", "yes"),
        ("(true)", "en", "yes"),
        ("ｙｅｓ", "en", "yes"),
        ("`False`", "en", "no"),
        ("No!", "en", "no"),
        ("n", "en", "no"),
        ("Ja", "de", "yes"),
        ("nein", "de-AT", "no"),
        ("yes", "de", "yes"),
        ("Oui", "fr", "yes"),
        ("sí", "es_MX", "yes"),
        ("não", "pt-BR", "no"),
        ("si", "fr", None),
        ("ja", "en", None),
        ("safe", "en", None),
        ("not safe", "en", None),
        ("not true", "en", None),
        ("yes and no", "en", None),
        ("yes, but not always", "en", None),
        ("no no", "en", None),
        ("Yes?", "en", None),
        ("maybe", "en", None),
        ("1", "en", None),
        ("", "en", None),
    ],
)
def test_yes_or_no_is_a_word_that_says_so_alone(said, locale, means):
    assert key(said, "bool", locale=locale) == means


@pytest.mark.parametrize(
    ("choices", "found"),
    [
        (("A", "B"), True),
        (("a", "A"), True),
        (("(0, 1)", "[0, 1]"), True),
        (("Rome", "Rome"), False),
        (("Rome", "Paris", "Rome "), False),
        (("New York", "New  York"), False),
        (("Rome", "Ｒｏｍｅ"), False),
        (("Rome", "Ro\u200bme"), False),
        (("Rome", " "), False),
    ],
)
def test_choices_that_look_the_same_are_not_distinct(choices, found):
    assert distinct(choices) is found


@pytest.mark.parametrize(
    ("choices", "said", "means"),
    [
        (CITIES, "paris", "Paris"),
        (CITIES, '"Paris".', "Paris"),
        (CITIES, "**NEW  YORK**", "New York"),
        (CITIES, "[Rome]", "Rome"),
        (CITIES, "B", None),
        (CITIES, "B) Paris", None),
        (CITIES, "Paris or Rome", None),
        (CITIES, "not Paris", None),
        (CITIES, "Par", None),
        (LABELLED, "B) Paris", "B) Paris"),
        (LABELLED, "b", "B) Paris"),
        (LABELLED, "(B)", "B) Paris"),
        (LABELLED, "B.", "B) Paris"),
        (LABELLED, "Option B", "B) Paris"),
        (LABELLED, "(B) Paris", "B) Paris"),
        (LABELLED, "B: Paris", "B) Paris"),
        (LABELLED, "b - paris", "B) Paris"),
        (LABELLED, "Paris", "B) Paris"),
        (LABELLED, "B) Rome", None),
        (LABELLED, "D", None),
        (LABELLED, "A and B", None),
        (LABELLED, "A, B", None),
        (LABELLED, "not B", None),
        (LABELLED, "B) is wrong", None),
        (("A", "B"), "b)", None),
        (("A", "B"), "(b)", "B"),
        (("A) B", "B) A"), "B", None),
        (("A) B", "B) A"), "B) A", "B) A"),
        (("A) x", "A) y"), "A", None),
        (("A) x", "B) x"), "x", None),
        (("1.5", "2.5"), "1", None),
        (("1:30", "2:45"), "30", None),
        (("yes", "Yes"), "YES", None),
        (("...", "Rome"), "!", None),
        ((), "Paris", None),
    ],
)
def test_a_choice_is_meant_by_its_text_or_its_label_if_it_can_be_one_alone(choices, said, means):
    assert key(said, "choice", choices=choices) == means


@pytest.mark.parametrize(
    ("said", "locale", "value"),
    [
        ("42", "en", 42),
        ("42.", "en", 42),
        ("+42", "en", 42),
        ("-42", "en", -42),
        ("−42", "en", -42),
        ("-0", "en", 0),
        ("**42**", "en", 42),
        ("$42$", "en", 42),
        (r"$\boxed{42}$", "en", 42),
        ("４２", "en", 42),
        ("٤٢", "ar", 42),
        ("007", "en", 7),
        (".5", "en", "1/2"),
        ("1.50", "en", "3/2"),
        ("1,5", "en", None),
        ("1,500", "en", 1500),
        ("1,500,000.25", "en", "6000001/4"),
        ("1,50,000", "en", None),
        ("1,50,000", "en-IN", 150000),
        ("1,500,00", "en", None),
        ("0,500", "en", None),
        ("1,500 000", "en", None),
        ("1 500 000", "en", 1500000),
        ("1 5", "en", None),
        ("1\n500", "en", None),
        ("1,5", "de", "3/2"),
        ("1.5", "de", None),
        ("1.500", "de", 1500),
        ("1.500,5", "de", "3001/2"),
        ("1,500", "de", "3/2"),
        ("1 500,5", "fr-FR", "3001/2"),
        ("1'500.5", "de-CH", "3001/2"),
        ("1’500", "de-CH", 1500),
        ("1.5", "es-MX", "3/2"),
        ("1.5", "xx", "3/2"),
        ("1e3", "en", 1000),
        ("1.5E-3", "en", "3/2000"),
        ("1.5 × 10³", "en", 1500),
        ("1.5x10^-3", "en", "3/2000"),
        ("10²", "en", None),
        ("1e400", "en", None),
        ("1e399", "en", 10**399),
        ("1e-400", "en", None),
        ("1e999999999", "en", None),
        ("1e9999", "en", None),
        ("1/2", "en", "1/2"),
        ("-1/2", "en", "-1/2"),
        ("½", "en", "1/2"),
        ("1½", "en", "3/2"),
        ("1 1/2", "en", "3/2"),
        ("1 3/2", "en", None),
        ("1/0", "en", None),
        ("1.5 million", "en", 1500000),
        ("2 billion", "en", 2 * 10**9),
        ("2 Billionen", "de", 2 * 10**12),
        ("1,5 Mio.", "de", 1500000),
        ("2 billion", "ja", None),
        ("5k", "en", None),
        ("5 km", "en", None),
        ("$5", "en", None),
        ("42%", "en", None),
        ("~42", "en", None),
        ("about 42", "en", None),
        ("42 or 43", "en", None),
        ("42-43", "en", None),
        ("--42", "en", None),
        ("- 42", "en", None),
        ("(42)", "en", None),
        ("42!", "en", None),
        ("1.2.3", "en", None),
        ("forty-two", "en", None),
        ("nan", "en", None),
        ("inf", "en", None),
        ("0x10", "en", None),
        ("1_000", "en", None),
        ("101₂", "en", None),
        ("", "en", None),
    ],
)
def test_a_number_is_read_exactly_as_its_locale_writes_it(said, locale, value):
    found = canonical(said, AnswerSpec(type="number", locale=locale))
    assert (found and found.number) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("said", "unit", "value"),
    [
        ("5", "km", 5),
        ("5 km", "km", 5),
        ("5km", "km", 5),
        ("5000 m", "km", 5),
        ("5 kilometers", "km", 5),
        ("5 Kilometre", "kilometres", 5),
        ("5 KM", "km", 5),
        ("1 mile", "km", "1.609344"),
        ("5 kg", "km", None),
        ("5 apples", "km", None),
        ("2500 g", "kg", "2.5"),
        ("2 lb", "g", "907.18474"),
        ("2 pounds", "kg", None),
        ("90 s", "min", "1.5"),
        ("90 min", "h", "1.5"),
        ("5 M", "m", None),
        ("5 k", "K", None),
        ("5 mw", "W", None),
        ("5 mW", "W", "0.005"),
        ("5 μm", "µm", 5),
        ("20 °C", "°C", 20),
        ("20 ℃", "celsius", 20),
        ("20 °F", "°C", None),
        ("36 km/h", "m/s", 10),
        ("2 m²", "cm^2", 20000),
        ("2 square metres", "m2", 2),
        ("2 m³", "L", 2000),
        ("1 KiB", "B", 1024),
        ("1 kB", "B", 1000),
        ("8 bit", "byte", 1),
        ("1 kWh", "MJ", "3.6"),
        ("42%", "%", 42),
        ("42 percent", "%", 42),
        ("5‰", "%", "0.5"),
        ("0.42", "%", "0.42"),
        ("$5", "USD", 5),
        ("-$1,500.50", "USD", "-1500.5"),
        ("US$5", "$", 5),
        ("$5 USD", "USD", 5),
        ("$5 EUR", "USD", None),
        ("5 €", "USD", None),
        ("5 dollars", "USD", 5),
        ("$5", "CAD", None),
        ("CAD 5", "CAD", 5),
        ("$1.5 million", "USD", 1500000),
        ("1.5 million km", "km", 1500000),
        ("12 apples", "apple", 12),
        ("12 apples", "pears", None),
        ("12", "apples", 12),
    ],
)
def test_a_unit_is_converted_into_the_declared_one_of_its_kind(said, unit, value):
    found = canonical(said, AnswerSpec(type="number", unit=unit))
    assert (found and found.number) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("said", "locale", "shown"),
    [
        ("1,500.50", "en", "1500.5"),
        ("1,5", "de", "1,5"),
        ("1/3", "en", "1/3"),
        ("1e30", "en", "1e30"),
        ("1,25e-30", "de", "1,25e-30"),
        ("0.000001", "en", "0.000001"),
        ("1e-7", "en", "1e-7"),
        ("-2/4", "en", "-0.5"),
        ("1e21", "en", "1" + "0" * 21),
        (f"1/{2**900}", "en", f"1/{2**900}"),
    ],
)
def test_a_number_is_shown_as_its_locale_writes_it(said, locale, shown):
    found = canonical(said, AnswerSpec(type="number", locale=locale))
    assert found is not None
    assert found.shown == shown


@pytest.mark.parametrize(
    ("said", "locale", "iso"),
    [
        ("2026-06-03", "en", "2026-06-03"),
        ("2026/6/3", "de", "2026-06-03"),
        ("2026.06.03", "en", "2026-06-03"),
        ("June 3, 2026", "en", "2026-06-03"),
        ("3 June 2026", "en", "2026-06-03"),
        ("the 3rd of June 2026", "en", "2026-06-03"),
        ("June 3rd, 2026.", "en", "2026-06-03"),
        ("JUN. 3 2026", "en", "2026-06-03"),
        ("03-Jun-2026", "en", "2026-06-03"),
        ("2026 June 3", "en", "2026-06-03"),
        ("Wednesday, June 3, 2026", "en", "2026-06-03"),
        ("Thursday, June 3, 2026", "en", None),
        ("Thursday, June 3", "en", "--06-03"),
        ("Thursday, June 2026", "en", None),
        ("June 3", "en", "--06-03"),
        ("3 June", "en", "--06-03"),
        ("--06-03", "en", "--06-03"),
        ("February 29", "en", "--02-29"),
        ("February 30", "en", None),
        ("February 29, 2026", "en", None),
        ("June 2026", "en", "2026-06"),
        ("2026-06", "en", "2026-06"),
        ("1969", "en", "1969"),
        ("June", "en", None),
        ("3", "en", None),
        ("6/3/2026", "en", "2026-06-03"),
        ("6/3/2026", "en-US", "2026-06-03"),
        ("3/6/2026", "en-GB", "2026-06-03"),
        ("25/12/2026", "en", None),
        ("12/25/2026", "en-GB", None),
        ("6/3", "en", "--06-03"),
        ("3/6/26", "en", None),
        ("3.6.2026", "en", None),
        ("3.6.2026", "de", "2026-06-03"),
        ("3.6.", "de", "--06-03"),
        ("3. Juni 2026", "de", "2026-06-03"),
        ("3. Juni 2026", "en", None),
        ("June 3, 2026", "de", "2026-06-03"),
        ("1er mai 2026", "fr", "2026-05-01"),
        ("3 de junio de 2026", "es", "2026-06-03"),
        ("2026年6月3日", "ja", "2026-06-03"),
        ("3/6/2026", "ja", None),
        ("June 3-5, 2026", "en", None),
        ("June 3 or June 4", "en", None),
        ("around June 3", "en", None),
        ("2026-13-01", "en", None),
        ("0000-01-01", "en", None),
        ("2026-06-03T10:00:00Z", "en", None),
        ("", "en", None),
    ],
)
def test_a_date_is_its_day_however_it_is_written(said, locale, iso):
    assert key(said, "date", locale=locale) == iso


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        ("a; b", '["a", "b"]'),
        ("b, a", '["a", "b"]'),
        ("B, the a, b.", '["a", "b"]'),
        ("- b\n- a", '["a", "b"]'),
        ("1. b\n2) a\n", '["a", "b"]'),
        ("b\r\na", '["a", "b"]'),
        ("```\n* a\n* b\n```", '["a", "b"]'),
        ('["b", "a"]', '["a", "b"]'),
        ("['b', 'a']", '["a", "b"]'),
        ("{b, a}", '["a", "b"]'),
        ("a, b, and c", '["a", "b", "c"]'),
        ("a, and b", '["a", "b"]'),
        ("a, & b.", '["a", "b"]'),
        ("a, b, and c,", '["a", "b", "c"]'),
        ("a; b; and c;", '["a", "b", "c"]'),
        ("- a\n- b\n- and c\n", '["a", "b", "c"]'),
        ("- a\n- b, and\n- c", '["a", "b", "c"]'),
        ("a and b, and c", '["a and b", "c"]'),
        ("a and b; c", '["a and b", "c"]'),
        ("- a and b\n- c", '["a and b", "c"]'),
        ('["a and b"]', '["a and b"]'),
        ("sand, android", '["android", "sand"]'),
        ("a and b", None),
        ("a, b and c", None),
        ("a & b", None),
        ("b、a", '["a", "b"]'),
        ("a", '["a"]'),
        ("well - known; a", '["a", "well - known"]'),
        ("[2, 1.0]", '["1.0", "2"]'),
        ("2, 1", '["1", "2"]'),
        ("New York, NY; Rome", '["new york, ny", "rome"]'),
        ("[]", "[]"),
        ("{ }", "[]"),
        ("1,500", None),
        ("1,500, 2,000", None),
        ("[[1], 2]", '["2", "[1]"]'),
        ("a; ...; b", None),
        (f"a; {'b' * 257}", None),
        ("", None),
        ("; ;", None),
    ],
)
def test_a_set_has_no_order_and_no_repeats(said, keys):
    assert key(said, "set") == keys


def test_a_set_is_shown_the_same_in_whatever_order_its_items_came():
    spec = AnswerSpec(type="set")
    assert canonical("paris; Rome; Paris", spec) == canonical("Paris; paris; Rome", spec)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ('{"b": 1, "a": [1.0, 10e-1, -0.0]}', '{"a":[1,1,0],"b":1}'),
        ('```json\n{"a": 1}\n```', '{"a":1}'),
        ("~~~\n[1]\n~~~", "[1]"),
        ('"\\u00e9\\n"', '"é\\n"'),
        ("1e30", "1e30"),
        ("100", "100"),
        ("1e2", "100"),
        ("12.50", "12.5"),
        ("0e999999999999", None),
        ("1e1000000", None),
        ("1e-2000000", None),
        ('{"a": 1, "a": 1}', None),
        ('{"a": {"b": 1, "b": 2}}', None),
        ("NaN", None),
        ("[-Infinity]", None),
        ('"\\ud800"', None),
        ("{'a': 1}", None),
        ("[1,]", None),
        ("here it is: [1]", None),
        ("[1] [2]", None),
        ("[" * 64 + "]" * 64, "[" * 64 + "]" * 64),
        ("[" * 66 + "]" * 66, None),
        ("", None),
    ],
)
def test_json_is_compared_by_value(said, value):
    assert key(said, "json") == value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x=1", "x = 1  # one"),
        ("x = (1)", "x = 1"),
        ("x = 'a'", 'x = "a"'),
        ("x = 'a'", "x = u'a'"),
        ("x = 16", "x = 0x10"),
        ("```python\nx = 1\n```", "x = 1"),
        ("  x = 1\n  y = 2", "x = 1\ny = 2"),
        ("x = 1\r\ny = 2\r\n", "x = 1; y = 2"),
        ("def f():\n  'what it does'\n  return 1", "def f(): return 1"),
        ("def f():\n  'what it does'", "def f(): pass"),
        ("class A:\n  'what it is'\n  x = 1", "class A:\n    x = 1"),
        ("'what it is'\nx = 1", "x = 1"),
        ("x = '\\d'", "x = '\\\\d'"),
    ],
)
def test_python_is_compared_by_its_syntax_tree(one, other):
    assert key(one, "code", language="Python") == key(other, "code", language="py") is not None


@pytest.mark.parametrize(
    "code",
    [
        "x = ",
        "just some words",
        "print 'a'",
        "x = '\x00'",
        "# nothing but a comment",
        "",
        "(" * 300 + ")" * 300,
        "-" * 8_000 + "1",
        "1" + "+1" * 4_000,
        "a" + ".b" * 4_000,
        "1" + "+1" * 400,
        "x = " + "9" * 5_000,
        "x = 0x" + "f" * 5_000,
        "\ud800",
    ],
)
def test_what_python_cannot_parse_or_what_is_too_deep_is_no_code(code):
    assert key(code, "code", language="python") is None


def test_long_python_is_compared_by_its_text_alone_so_that_it_costs_no_time():
    code = "x = 1\n" * 2_000
    assert (
        key(code, "code", language="python")
        == key(code.replace("\n", "  \n"), "code", language="python")
        == code.strip()
    )
    assert key(code.replace(" ", ""), "code", language="python") != key(code, "code", language="python")
    assert key("x = 1\n" * 10, "code", language="python").startswith("python:")
    spec = AnswerSpec(type="code", language="python")
    assert canonical(canonical(code, spec).shown, spec) == canonical(code, spec)


def test_a_tree_as_deep_as_an_answer_may_be_is_read_wherever_it_is_called_from():
    code = "1" + "+1" * 290

    def below(frames):
        return key(code, "code", language="python") if frames == 0 else below(frames - 1)

    assert below(0) == below(400) is not None


def test_code_is_never_run(tmp_path):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    assert ast.parse(code)
    assert key(code, "code", language="python") is not None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("rust", "let x = 1;  \n\n", "let x = 1;"),
        ("rust", "```rust\nlet x = 1;\r\nx\n```", "let x = 1;\nx"),
        (None, "~~~\n  a\n~~~", "  a"),
        ("json", '{"a": 1, "b": 2}', '```\n{"b": 2, "a": 1.0}\n```'),
    ],
)
def test_other_code_is_compared_by_its_text_and_json_by_its_value(language, one, other):
    assert key(one, "code", language=language) == key(other, "code", language=language) is not None


@pytest.mark.parametrize(
    ("said", "locale", "means"),
    [
        ("Paris", "en", "paris"),
        ("  PARIS. ", "en", "paris"),
        ("“Paris”!", "en", "paris"),
        ("**Paris**.", "en", "paris"),
        ('"**Paris.**"', "en", "paris"),
        ('"a" or "b"', "en", '"a" or "b"'),
        ("**a** or **b**", "en", "**a** or **b**"),
        ("the\n United  Kingdom", "en", "united kingdom"),
        ("A", "en", "a"),
        ("The The", "en", "the"),
        ("ﬁne", "en", "fine"),
        ("STRASSE", "de", "strasse"),
        ("Straße", "de", "strasse"),
        ("zero\u200bwidth", "en", "zerowidth"),
        ("isn't safe", "en", "is not safe"),
        ("isn’t safe", "en", "is not safe"),
        ("can't", "en", "can not"),
        ("cannot", "en", "can not"),
        ("1939–1945", "en", "1939-1945"),
        ("10²", "en", "10^2"),
        ("∞", "en", "∞"),
        ("...", "en", None),
        ("?", "en", None),
        ("", "en", None),
        ("a" * 257, "en", None),
        ("half \ud800", "en", None),
        ("a" + "\u0301" * 30, "en", "á" + "\u0301" * 29),
        ("a" + "\u0301" * 31, "en", None),
    ],
)
def test_short_text_is_its_words_without_case_article_and_quotes(said, locale, means):
    assert key(said, "short_text", locale=locale) == means


@pytest.mark.parametrize("kind", get_args(AnswerType))
@pytest.mark.parametrize(
    "hostile",
    [
        "[" * 1_000_000,
        "9" * 1_000_000,
        "a\u0301\u0327" * 300_000,
        "e" + "\u0301\u0327" * 8_000,
        "!" * 8_000,
        " " * 1_000_000,
        "```\n" * 250_000,
        "\n".join(["`" * marks for marks in range(160, 2, -1)] + ["`" * marks for marks in range(3, 161)]),
    ],
    ids=[
        "brackets",
        "digits",
        "long text",
        "marks to sort",
        "exclamation marks",
        "spaces",
        "fences",
        "fences in fences",
    ],
)
def test_hostile_text_is_no_answer(kind, hostile):
    assert key(hostile, kind, language="python", choices=("A", "B")) is None


WORDS = st.sampled_from(
    [
        *"0123456789.,;:-+/()[]{}'\"`*$%€ \n\t!?_^",
        *[
            "the ",
            "yes",
            "no",
            "not ",
            " and ",
            "km",
            "june",
            "```\n",
            "\n```",
            "- ",
            "1. ",
            "½",
            "²",
            "₂",
            "\u0301",
            "ß",
            "ﷺ",
            "İ",
            "№",
        ],
        *[
            "e",
            "a",
            "B) ",
            "n't",
            "million",
            "USD",
            "2026",
            "null",
            "true",
            '{"a":',
            "\\",
            "\r\n",
            "\u200b",
            "\ud800",
            "x = ",
            "def f():",
        ],
    ]
)
TEXTS = st.text() | st.lists(WORDS, max_size=12).map("".join)
SPECS = st.builds(
    AnswerSpec,
    type=st.sampled_from(get_args(AnswerType)),
    choices=st.lists(TEXTS, max_size=4).map(tuple),
    unit=st.none() | st.sampled_from(["km", "USD", "%", "apples", "5", " "]) | TEXTS,
    locale=st.sampled_from(["en", "de", "de-CH", "fr", "en-GB", "en-IN", "ja", "", "-", "x"]),
    language=st.none() | st.sampled_from(["python", "json", "rust"]),
)


@given(TEXTS, SPECS)
@example("1e399", AnswerSpec(type="number"))
@example("1/" + "9" * 399, AnswerSpec(type="number"))
@example("1e-399", AnswerSpec(type="number", locale="de"))
@example("0." + "0" * 200 + "1" * 150, AnswerSpec(type="number"))
@example("~~~\n```\na\n```\n~~~", AnswerSpec(type="code"))
@example("~~~~\n~~~\n```\na\n```\n~~~\n~~~~", AnswerSpec(type="code"))
def test_no_text_raises_and_what_is_shown_has_the_same_canonical_form(text, spec):
    found = canonical(text, spec)
    if found is not None:
        assert isinstance(found, Canonical)
        assert canonical(found.shown, spec) == found
        assert (found.number is not None) == (spec.type == "number")
        f"{found.key}{found.shown}".encode()


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12),
    st.sampled_from(["en", "de", "fr"]),
)
def test_a_decimal_keeps_its_exact_value_in_every_locale(value, locale):
    found = canonical(str(value).replace(".", "." if locale == "en" else ","), AnswerSpec(type="number", locale=locale))
    assert found is not None
    assert found.number == Fraction(value)


@given(st.integers(), st.integers())
def test_two_integers_agree_when_they_are_equal(one, other):
    assert (key(f"{one:,}", "number") == key(str(other), "number")) == (one == other)


@given(
    st.dates(min_value=date(1000, 1, 1)),
    st.sampled_from(["%B %d, %Y", "%d %B %Y", "%d %b %Y", "%Y-%m-%d", "%A, %B %d, %Y"]),
)
def test_every_day_is_read_in_each_of_its_ways_to_be_written(day, form):
    assert key(day.strftime(form), "date") == day.isoformat()


@given(st.lists(st.sampled_from(["Rome", "rome", "the Hague", "Paris"]), min_size=1), st.randoms())
def test_the_order_of_a_set_changes_nothing(names, random):
    spec = AnswerSpec(type="set")
    first = canonical("; ".join(names), spec)
    random.shuffle(names)
    assert first is not None
    assert canonical("\n".join(names) if len(names) > 1 else names[0], spec) == first
