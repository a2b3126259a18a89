import pytest
from msgspec.structs import replace

from actors.rules.catalogue import Catalogue, ModelConfig, described
from actors.rules.pricing import FREE, Price
from protocols.provider import ProviderView

KNOWN = Price(input=2_500_000, output=10_000_000, version="book")


def view(name, host, *models, local):
    return ProviderView(
        name=name,
        kind=name,
        host=host,
        state="healthy",
        why=None,
        local=local,
        simulated=False,
        billing_on_cancel="emitted",
        needs_key=not local,
        models=models,
    )


OPENAI = view("openai", "api.openai.com", "gpt-4o", "new", local=False)
OLLAMA = view("ollama", "localhost", "llama3:8b", local=True)


class Book:
    """Knows `gpt-4o`.

    State: how often it was asked.
    """

    def __init__(self):
        self.asked = 0

    def find(self, origin_host, provider_name, kind, model):
        assert (origin_host, kind) in {("api.openai.com", "openai"), ("localhost", "ollama")}
        self.asked += 1
        return KNOWN if (provider_name, model) == ("openai", "gpt-4o") else None

    def context(self, origin_host, provider_name, kind, model):
        del origin_host, provider_name, kind
        return 128_000 if model == "gpt-4o" else None


@pytest.mark.parametrize(
    ("view", "model", "entry", "price"),
    [
        (OPENAI, "gpt-4o", {}, KNOWN),
        (OPENAI, "new", {}, None),
        (OPENAI, "new", {"input_usd_per_mtok": 1.0}, None),
        (OPENAI, "new", {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}, (1_000_000, 2_000_000)),
        (OPENAI, "gpt-4o", {"input_usd_per_mtok": 1.0}, (1_000_000, 10_000_000)),
        (OPENAI, "gpt-4o", {"output_usd_per_mtok": 0.0}, (2_500_000, 0)),
        (
            OPENAI,
            "gpt-4o",
            {"audio_input_usd_per_mtok": 9.0, "audio_output_usd_per_mtok": 8.0},
            replace(KNOWN, audio_input=9_000_000, audio_output=8_000_000, version="book + config"),
        ),
        (OPENAI, "gpt-4o", {"local": True}, FREE),
        (OLLAMA, "llama3:8b", {}, FREE),
        (OLLAMA, "llama3:8b", {"local": False}, None),
        (
            OLLAMA,
            "cloud",
            {"local": False, "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0},
            (1_000_000, 2_000_000),
        ),
    ],
)
def test_a_price_is_the_configs_over_the_books_and_local_is_free(view, model, entry, price):
    found = Catalogue({f"{view.name}:{model}": ModelConfig(**entry)} if entry else {}, Book()).price(view, model)
    assert (found if not isinstance(price, tuple) else (found.input, found.output)) == price


def test_a_price_is_looked_up_once():
    book = Book()
    catalogue = Catalogue({}, book)
    for _ in range(3):
        catalogue.price(OPENAI, "gpt-4o")
        catalogue.price(OPENAI, "new")
    assert book.asked == 2


def test_the_cache_of_prices_is_bounded():
    catalogue = Catalogue({}, Book())
    for n in range(Catalogue.CACHED + 10):
        catalogue.price(OPENAI, f"invented {n}")
    assert len(catalogue._cache) <= Catalogue.CACHED


def test_every_model_that_is_listed_or_named_has_a_row_in_config_order():
    entries = {
        "openai:special": ModelConfig(quality=9.0, strengths=("coding",), family="gpt", context_tokens=5, speed="fast"),
        "ollama:old": ModelConfig(retired=True),
    }
    down = replace(OLLAMA, state="open", why="refused")
    infos = {row.id: row for row in Catalogue(entries, Book()).infos((OPENAI, down))}
    assert list(infos) == ["openai:special", "openai:gpt-4o", "openai:new", "ollama:old", "ollama:llama3:8b"]
    known = infos["openai:gpt-4o"]
    assert (known.input_usd_per_mtok, known.output_usd_per_mtok, known.context_tokens) == (2.5, 10.0, 128_000)
    assert (known.source, known.needs_key, known.available, known.why_not) == ("provider", True, True, None)
    special = infos["openai:special"]
    assert (special.source, special.quality, special.strengths, special.context_tokens) == (
        "config",
        9.0,
        ["coding"],
        5,
    )
    assert special.input_usd_per_mtok is None
    assert (infos["ollama:old"].available, infos["ollama:old"].why_not) == (False, "retired")
    assert (infos["ollama:llama3:8b"].available, infos["ollama:llama3:8b"].why_not) == (False, "refused")
    assert infos["ollama:llama3:8b"].local


ANTHROPIC = view("anthropic", "api.anthropic.com", "claude-3-5-sonnet-20241022", local=False)


def test_the_config_wins_over_the_matrix_field_by_field():
    known = described(ModelConfig(), OPENAI, "gpt-4o")
    assert (known.quality, known.family, known.speed) == (8.0, "openai", "fast")
    said = ModelConfig(quality=0.0, strengths=(), family="mine", speed="slow", context_tokens=5, max_output_tokens=6)
    assert described(said, OPENAI, "gpt-4o") == replace(said, retired=False)
    assert described(ModelConfig(quality=3.0), OPENAI, "gpt-4o") == replace(known, quality=3.0)
    assert described(said, OPENAI, "nobody knows it") is said


def test_what_could_run_at_home_is_local_only_where_its_provider_is():
    hosted = view("groq", "api.groq.com", "llama3.2", local=False)
    assert described(ModelConfig(), hosted, "llama3.2").local is None


@pytest.mark.parametrize(
    ("view", "retired"),
    [
        (ANTHROPIC, True),
        (replace(ANTHROPIC, name="claude"), True),
        (replace(ANTHROPIC, kind="openai"), True),
        (view("openrouter", "openrouter.ai", local=False), False),
        (replace(ANTHROPIC, name="bedrock", kind="openai"), False),
    ],
)
def test_what_a_vendor_retired_is_retired_there_and_not_at_a_router(view, retired):
    assert described(ModelConfig(), view, "claude-3-5-sonnet-20241022").retired is retired
    for said in (True, False):
        assert described(ModelConfig(retired=said), view, "claude-3-5-sonnet-20241022").retired is said


@pytest.mark.parametrize(("name", "retired"), [("openai", True), ("azure", False)])
def test_a_server_that_speaks_openais_dialect_is_not_openai(name, retired):
    assert described(ModelConfig(), replace(OPENAI, name=name), "gpt-3.5-turbo").retired is retired


class FreeBook(Book):
    """Knows no prices."""

    def find(self, *_):
        return None


def test_a_row_says_whose_rating_it_has_and_what_follows_a_retired_model():
    entries = {"anthropic:mine": ModelConfig(quality=5.0), "openai:gpt-4o": ModelConfig(context_tokens=9)}
    rows = {row.id: row for row in Catalogue(entries, FreeBook()).infos((ANTHROPIC, OPENAI))}
    old = rows["anthropic:claude-3-5-sonnet-20241022"]
    assert (old.available, old.why_not) == (False, "retired; its successor is `anthropic:claude-sonnet-4-6`")
    assert (old.rated_by, old.family, old.context_tokens) == ("quorumd", "anthropic", 200_000)
    assert (rows["anthropic:mine"].rated_by, rows["openai:new"].rated_by) == ("config", None)
    assert (rows["openai:gpt-4o"].rated_by, rows["openai:gpt-4o"].context_tokens) == ("quorumd", 9)


def test_the_best_local_model_is_the_matrixs_best_unless_the_config_rates_another():
    ollama = view("ollama", "localhost", "llama3.2", "qwen3:32b", "unheard-of", local=True)
    assert Catalogue({}, FreeBook()).best_local((ollama,)).id == "ollama:qwen3:32b"
    entries = {"ollama:unheard-of": ModelConfig(quality=9.0)}
    assert Catalogue(entries, FreeBook()).best_local((ollama,)).id == "ollama:unheard-of"
    assert Catalogue({}, FreeBook()).best_local((ollama,), tokens=lambda *_: 100_000).id == "ollama:llama3.2"


def test_the_longest_answer_is_the_configs_else_the_matrixs():
    catalogue = Catalogue({"openai:gpt-4o": ModelConfig(max_output_tokens=7)}, FreeBook())
    answers = [catalogue.longest_answer("openai", name) for name in ("gpt-4o", "gpt-4o-mini", "nobody knows it")]
    assert answers == [7, 16_384, None]
