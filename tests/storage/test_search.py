"""Finding by words: the same on both databases, whatever the words are."""

import asyncio
import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kumiai.core.errors import ConfigError
from kumiai.storage import (
    Changes,
    ClientQuery,
    DatabaseManager,
    ModelQuery,
    NewClient,
    SessionQuery,
    TrainingHistoryRepository,
)
from kumiai.storage.rows import clean
from kumiai.storage.search import TERM_CHARS_MAX, search_terms, terms_of
from tests.storage.catalogue import Catalogue

WORDS = st.text(max_size=40)


async def found(history: TrainingHistoryRepository, search: str) -> list[str]:
    page = await history.list_sessions(SessionQuery(search=search, order="oldest"))
    return [run.run_id for run in page.items]


def is_match(question: str, text: str) -> bool:
    """Tell what a search must answer, found without any index."""
    wanted, there = terms_of(question), terms_of(text)
    return bool(wanted) and all(any(term.startswith(word) for term in there) for word in wanted)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Heart study, v1.2-beta", ["heart", "study", "v1", "2", "beta"]),
        ("Zürich ZÜRICH zurich", ["zurich"]),
        ("Straße", ["strasse"]),
        ("\ufb01ne \uff12\uff15\uff10 Åse", ["fine", "250", "ase"]),
        ("heart_study/2026:a+b", ["heart", "study", "2026", "a", "b"]),
        ("हिन्दी", ["हिनदी"]),
        ("' \" \\ : * & | ! ( ) <-> NEAR", ["near"]),
        ("", []),
        ("x" * 100, ["x" * TERM_CHARS_MAX]),
    ],
)
def test_text_is_cut_into_terms(text: str, terms: list[str]) -> None:
    assert terms_of(text) == [unicodedata.normalize("NFKD", term) for term in terms]


@given(WORDS)
def test_terms_are_made_of_letters_digits_and_marks_alone(text: str) -> None:
    for term in terms_of(text):
        assert all(unicodedata.category(each)[0] in "LNM" for each in term)
        assert 0 < len(term) <= TERM_CHARS_MAX


@given(WORDS)
def test_terms_of_terms_are_the_same_terms(text: str) -> None:
    assert terms_of(search_terms(text)) == terms_of(text)


async def test_a_session_is_found_by_the_beginnings_of_its_words(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a", name="heart-study", description="Rare diseases in Zürich")
    await catalogue.add_run("run-b", name="digits", tags=["heart", "site:berlin"])

    history = catalogue.history
    assert await found(history, "heart") == ["run-a", "run-b"]
    assert await found(history, "HEA zuri") == ["run-a"]
    assert await found(history, "site:berlin") == ["run-b"]
    assert await found(history, "eart") == []
    assert await found(history, "heart nothing") == []


async def test_the_index_follows_every_change(catalogue: Catalogue) -> None:
    history = catalogue.history
    await catalogue.add_run("run-a", description="old words")
    await history.update("run-a", Changes(description="new words"))

    assert await found(history, "old") == []
    assert await found(history, "new words") == ["run-a"]

    await catalogue.end("run-a")
    await history.delete("run-a")
    await catalogue.add_run("run-b", description="another")

    assert await found(history, "words") == []
    assert await found(history, "another") == ["run-b"]


async def test_deleting_a_session_takes_its_models_out_of_the_search(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a", name="digits")
    await catalogue.add_models("run-a", 3)
    await catalogue.end("run-a")

    before = await catalogue.models.list_models(ModelQuery(search="digits"))
    await catalogue.history.delete("run-a")
    await catalogue.add_run("run-b", name="heart")
    after = await catalogue.models.list_models(ModelQuery(search="digits"))

    assert len(before.items) == 4
    assert after.items == ()


async def test_models_and_clients_are_found_by_their_words(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a", name="digits")
    await catalogue.models.update("run-a.0", Changes(description="the very first", tags=["best"]))
    await catalogue.add_clients("hospital-a", "hospital-b")
    await catalogue.clients.update("hospital-b", Changes(), display_name="Charité Berlin")

    models = await catalogue.models.list_models(ModelQuery(search="first best digi"))
    clients = await catalogue.clients.list_page(ClientQuery(search="charite hosp"))

    assert [model.model_id for model in models.items] == ["run-a.0"]
    assert [client.client_id for client in clients.items] == ["hospital-b"]


@pytest.mark.parametrize("question", ["", "  ", "***", "'\"", "!!! & |", "\x00", "\ud800"])
async def test_a_question_without_words_finds_nothing(catalogue: Catalogue, question: str) -> None:
    await catalogue.add_run("run-a")

    assert await found(catalogue.history, question) == []


async def test_a_question_has_a_limit(catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match="at most 500 characters"):
        await found(catalogue.history, "x" * 501)
    with pytest.raises(ConfigError, match="at most 16 words, got 17"):
        await found(catalogue.history, " ".join(str(number) for number in range(17)))


@example(texts=["terms:x", "a-b"], question='terms:x OR "a')
@example(texts=["don't", "dont"], question="don't")
@example(texts=["1.5e10", "-5", "1e5"], question="1e")
@example(texts=["a@b.org", "https://b.org/x?y"], question="b org")
@example(texts=["the and or not"], question="not")
@example(texts=["\u0130stanbul \u0131"], question="i")
@example(texts=["x" * 70], question="x" * 69)
@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=4),
    question=st.text(max_size=12),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_databases_find_what_the_terms_say(
    database_url: str, texts: list[str], question: str
) -> None:
    async def check() -> None:
        database = DatabaseManager(database_url)
        await database.connect()
        try:
            catalogue = Catalogue(database)
            known = [each.client_id for each in await catalogue.clients.list_clients()]
            for client_id in known:
                await catalogue.clients.delete(client_id)
            await catalogue.clients.register_many(
                NewClient(f"c{number}", text) for number, text in enumerate(texts)
            )
            page = await catalogue.clients.list_page(ClientQuery(search=question))
            expected = [
                f"c{number}"
                for number, text in enumerate(texts)
                if is_match(question, f"c{number} {clean(text)}")
            ]
            assert [each.client_id for each in page.items] == expected
        finally:
            await database.close()

    asyncio.run(check())
