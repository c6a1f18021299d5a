"""What every list of every repository keeps, on both databases: pages, filters, orders."""

import asyncio
import base64
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.storage import (
    Changes,
    ClientQuery,
    DatabaseManager,
    EvaluationRecord,
    MetricFloor,
    ModelQuery,
    NewClient,
    NewModel,
    Page,
    SessionQuery,
)
from kumiai.storage.paging import PAGE_LIMIT_MAX, name_of_list
from tests.storage.catalogue import Catalogue, all_pages
from tests.storage.leading import new_run

Fetch = Callable[[Catalogue, int, str | None], Awaitable[Page[object]]]


async def sessions(catalogue: Catalogue, limit: int, cursor: str | None) -> Page[object]:
    return await catalogue.history.list_sessions(limit=limit, cursor=cursor)  # type: ignore[return-value]


async def sessions_by_name(catalogue: Catalogue, limit: int, cursor: str | None) -> Page[object]:
    query = SessionQuery(order="name")
    return await catalogue.history.list_sessions(query, limit=limit, cursor=cursor)  # type: ignore[return-value]


async def models(catalogue: Catalogue, limit: int, cursor: str | None) -> Page[object]:
    return await catalogue.models.list_models(limit=limit, cursor=cursor)  # type: ignore[return-value]


async def best_models(catalogue: Catalogue, limit: int, cursor: str | None) -> Page[object]:
    query = ModelQuery(order="highest", order_metric="accuracy")
    return await catalogue.models.list_models(query, limit=limit, cursor=cursor)  # type: ignore[return-value]


async def clients(catalogue: Catalogue, limit: int, cursor: str | None) -> Page[object]:
    return await catalogue.clients.list_page(limit=limit, cursor=cursor)  # type: ignore[return-value]


async def clients_by_arrival(catalogue: Catalogue, limit: int, cursor: str | None) -> Page[object]:
    query = ClientQuery(order="newest")
    return await catalogue.clients.list_page(query, limit=limit, cursor=cursor)  # type: ignore[return-value]


async def rounds(catalogue: Catalogue, limit: int, cursor: str | None) -> Page[object]:
    return await catalogue.history.list_rounds("run-0", limit=limit, cursor=cursor)  # type: ignore[return-value]


async def evaluations(catalogue: Catalogue, limit: int, cursor: str | None) -> Page[object]:
    return await catalogue.history.list_evaluations("run-0", limit=limit, cursor=cursor)  # type: ignore[return-value]


LISTS: dict[str, Fetch] = {
    each.__name__: each
    for each in (
        sessions, sessions_by_name, models, best_models, clients, clients_by_arrival, rounds,
        evaluations,
    )
}  # fmt: skip


async def fill(catalogue: Catalogue) -> None:
    """Make seven or more rows for each list, some with equal keys."""
    for number in range(7):
        await catalogue.add_run(f"run-{number}", name="abc"[number % 3])
    await catalogue.models.add_many(
        NewModel("run-1", number, f"d{number}", 1, "m", {"accuracy": 0.5 + (number % 3) / 10}, 5.0)
        for number in range(1, 8)
    )
    await catalogue.add_clients(*(f"client-{number}" for number in range(7)))
    leading = await catalogue.lead("run-0")
    for number in range(1, 4):
        await leading.play(number)
    await catalogue.history.add_evaluations(
        EvaluationRecord("run-0", number, f"client-{who}", 3, {"accuracy": 0.5}, 7.0)
        for number in range(3)
        for who in range(3)
    )


@pytest.mark.parametrize("name", LISTS)
async def test_pages_of_any_size_make_the_same_list(catalogue: Catalogue, name: str) -> None:
    await fill(catalogue)
    fetch = LISTS[name]

    whole = list((await fetch(catalogue, 100, None)).items)

    assert len(whole) >= 4
    for limit in (1, 2, 3, len(whole), len(whole) + 1):
        pages = await all_pages(lambda cursor, n=limit: fetch(catalogue, n, cursor))  # type: ignore[misc]
        assert pages == whole


@pytest.mark.parametrize("name", LISTS)
async def test_a_page_that_ends_the_list_says_so(catalogue: Catalogue, name: str) -> None:
    await fill(catalogue)
    whole = await LISTS[name](catalogue, 100, None)

    exact = await LISTS[name](catalogue, len(whole.items), None)
    less = await LISTS[name](catalogue, len(whole.items) - 1, None)

    assert whole.next_cursor is exact.next_cursor is None
    assert less.next_cursor is not None


@pytest.mark.parametrize("limit", [0, -1, PAGE_LIMIT_MAX + 1])
async def test_a_limit_out_of_range_is_a_mistake(catalogue: Catalogue, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be 1 to 1000"):
        await catalogue.history.list_sessions(limit=limit)


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "%%%", "é", "bm8", "W10", "x" * 5000, "WyJhIiwxLjAsMl0", "bnVsbA==", "MQ", "[" * 999],
)
async def test_a_cursor_that_is_none_is_refused(catalogue: Catalogue, cursor: str) -> None:
    with pytest.raises(ConfigError, match="cursor must be the one that the page before gave"):
        await catalogue.history.list_sessions(cursor=cursor)


@pytest.mark.parametrize(
    "place", ['NaN,"a"', 'Infinity,"a"', '1,"a"', '"x","a"', 'true,"a"', '1.0,"a\\u0000"',
              '1.0,"\\ud800"', '1e999,"a"', "1.0,1", '[1.0],"a"'],
)  # fmt: skip
async def test_a_cursor_with_values_of_another_kind_is_refused(
    catalogue: Catalogue, place: str
) -> None:
    name = name_of_list("sessions", SessionQuery())
    cursor = base64.urlsafe_b64encode(f'["{name}",{place}]'.encode()).decode()

    with pytest.raises(ConfigError, match="cursor must be the one"):
        await catalogue.history.list_sessions(cursor=cursor)


async def test_a_cursor_belongs_to_its_list(catalogue: Catalogue) -> None:
    await fill(catalogue)
    cursor = (await catalogue.history.list_sessions(limit=1)).next_cursor

    for query in (
        SessionQuery(app="other"),
        SessionQuery(order="oldest"),
        SessionQuery(tags=["a"]),
    ):
        with pytest.raises(ConfigError, match="cursor must be of this list"):
            await catalogue.history.list_sessions(query, cursor=cursor)
    with pytest.raises(ConfigError, match="cursor must be of this list"):
        await catalogue.models.list_models(cursor=cursor)


def test_the_name_of_a_list_knows_sets_and_lists_alike() -> None:
    first = SessionQuery(states={"running", "failed"}, tags=["b", "a"])
    second = SessionQuery(states=["failed", "running"], tags=("a", "b"))

    assert name_of_list("sessions", first) == name_of_list("sessions", second)
    assert name_of_list("models", first) != name_of_list("sessions", first)


@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_there_is_listed_once_whatever_comes_meanwhile(
    database_url: str, data: st.DataObject
) -> None:
    """Rows come between the pages, at any place of the order; keys are often equal."""
    times = st.sampled_from([1.0, 2.0, 3.0, 1e9 + 0.1])
    metrics = st.sampled_from(
        [None, {"accuracy": 0.1}, {"accuracy": 0.30000000000000004}, {"a": 1}]
    )
    batches = data.draw(st.lists(st.lists(st.tuples(times, metrics), max_size=5), max_size=5))
    limit = data.draw(st.integers(1, 4))
    query = data.draw(
        st.sampled_from(
            [
                ModelQuery(run_id="run-x", order="newest"),
                ModelQuery(run_id="run-x", order="oldest"),
                ModelQuery(run_id="run-x", order="name"),
                ModelQuery(run_id="run-x", order="lowest", order_metric="accuracy"),
                ModelQuery(run_id="run-x", metric=MetricFloor("accuracy", 0.1)),
            ]
        )
    )

    async def check() -> None:
        database = DatabaseManager(database_url)
        await database.connect()
        try:
            catalogue = Catalogue(database)
            run_id = "run-x"
            if await catalogue.runs.find(run_id) is not None:
                await catalogue.end(run_id)
                await catalogue.history.delete(run_id)
            await catalogue.add_run(run_id)
            waiting = list(batches)
            rounds_left = iter(range(1, 1000))

            async def insert() -> None:
                batch = waiting.pop(0) if waiting else []
                await catalogue.models.add_many(
                    NewModel(run_id, next(rounds_left), "d", 1, "n", metric, at)
                    for at, metric in batch
                )

            await insert()
            before = {each.model_id for each in (await catalogue.models.list_models(query)).items}
            found: list[str] = []
            cursor: str | None = None
            while True:
                page = await catalogue.models.list_models(query, limit=limit, cursor=cursor)
                found += [each.model_id for each in page.items]
                cursor = page.next_cursor
                if cursor is None:
                    break
                await insert()

            assert len(found) == len(set(found))
            assert before <= set(found)
        finally:
            await database.close()

    asyncio.run(check())


async def test_names_are_ordered_alike_on_both_databases(catalogue: Catalogue) -> None:
    names = ["b", "B", "a", "A", "a.b", "a-b", "ab", "a_b"]
    for number, name in enumerate(names):
        await catalogue.add_run(f"run-{number}", name=name)
    await catalogue.clients.register_many(NewClient(name) for name in names)

    runs = await catalogue.history.list_sessions(SessionQuery(order="name"))
    found = await catalogue.clients.list_page()

    assert [run.name for run in runs.items] == sorted(names)
    assert [each.client_id for each in found.items] == sorted(names)


async def test_filters_are_all_to_hold(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a", app="digits", tags=["x", "y"])
    await catalogue.add_run("run-b", app="heart", tags=["x"])
    await catalogue.end("run-b")
    history = catalogue.history
    created = (await history.get("run-b")).created_at

    async def ids(**filters: object) -> list[str]:
        query = SessionQuery(order="oldest", **filters)  # type: ignore[arg-type]
        return [run.run_id for run in (await history.list_sessions(query)).items]

    assert await ids(tags=["x"]) == ["run-a", "run-b"]
    assert await ids(tags=["x", "y"]) == ["run-a"]
    assert await ids(tags=["x"], app="heart") == ["run-b"]
    assert await ids(states=["finished"]) == ["run-b"]
    assert await ids(states=[]) == []
    assert await ids(name="digits", search="digi") == ["run-a", "run-b"]
    assert await ids(created_from=created) == ["run-b"]
    assert await ids(created_before=created) == ["run-a"]


async def test_a_tag_is_no_part_of_another_tag(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a", tags=["site:a-b"])
    await catalogue.add_run("run-b", description="site a b", tags=["site:a", "b"])

    page = await catalogue.history.list_sessions(SessionQuery(tags=["site:a-b"]))
    other = await catalogue.history.list_sessions(SessionQuery(tags=["site:a"]))

    assert [run.run_id for run in page.items] == ["run-a"]
    assert [run.run_id for run in other.items] == ["run-b"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
async def test_times_and_metrics_are_finite(catalogue: Catalogue, bad: float) -> None:
    with pytest.raises(ConfigError, match="must be finite"):
        MetricFloor("accuracy", bad)
    with pytest.raises(ConfigError, match="since must be finite"):
        await catalogue.history.list_sessions(SessionQuery(created_from=bad))
    with pytest.raises(ConfigError, match="before must be finite"):
        await catalogue.clients.list_page(ClientQuery(seen_before=bad))
    with pytest.raises(ConfigError, match="created_at of a model"):
        await catalogue.models.add(NewModel("run-a", 1, "d", 1, "n", created_at=bad))


DESCRIBED = ["run", "model", "client"]


async def describe(
    catalogue: Catalogue, kind: str, changes: Changes, expected_version: int | None = None
) -> tuple[str, tuple[str, ...], int]:
    match kind:
        case "run":
            record = await catalogue.history.update(
                "run-a", changes, expected_version=expected_version
            )
        case "model":
            record = await catalogue.models.update(  # type: ignore[assignment]
                "run-a.0", changes, expected_version=expected_version
            )
        case _:
            record = await catalogue.clients.update(  # type: ignore[assignment]
                "client-a", changes, expected_version=expected_version
            )
    return record.description, record.tags, record.row_version


@pytest.mark.parametrize("kind", DESCRIBED)
async def test_what_is_described_has_a_version(catalogue: Catalogue, kind: str) -> None:
    await catalogue.runs.create(new_run("run-a"))
    await catalogue.add_clients("client-a")

    first = await describe(catalogue, kind, Changes(description="d", tags=["b", "a"]))
    same = await describe(catalogue, kind, Changes(description="d", add_tags=["a"]), 2)
    third = await describe(catalogue, kind, Changes(add_tags=["c"], remove_tags=["a", "z"]), 2)
    fourth = await describe(catalogue, kind, Changes(description="", tags=[]))

    assert first == ("d", ("a", "b"), 2)
    assert same == first
    assert third == ("d", ("b", "c"), 3)
    assert fourth == ("", (), 4)
    with pytest.raises(ConflictError, match="must be of version 3, got 4"):
        await describe(catalogue, kind, Changes(description="late"), 3)
    assert (await describe(catalogue, kind, Changes()))[2] == 4


@pytest.mark.parametrize("kind", DESCRIBED)
async def test_of_many_changes_of_one_version_one_is_made(catalogue: Catalogue, kind: str) -> None:
    await catalogue.runs.create(new_run("run-a"))
    await catalogue.add_clients("client-a")

    outcomes = await asyncio.gather(
        *(describe(catalogue, kind, Changes(description=f"by {number}"), 1) for number in range(8)),
        return_exceptions=True,
    )

    assert sum(isinstance(each, ConflictError) for each in outcomes) == 7
    made = next(each for each in outcomes if not isinstance(each, BaseException))
    assert await describe(catalogue, kind, Changes()) == made


@pytest.mark.parametrize("kind", DESCRIBED)
async def test_tags_that_are_added_at_once_are_all_there(catalogue: Catalogue, kind: str) -> None:
    await catalogue.runs.create(new_run("run-a"))
    await catalogue.add_clients("client-a")

    await asyncio.gather(
        *(describe(catalogue, kind, Changes(add_tags=[f"t{number}"])) for number in range(8))
    )

    assert (await describe(catalogue, kind, Changes()))[1] == tuple(f"t{n}" for n in range(8))


@pytest.mark.parametrize("kind", DESCRIBED)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (Changes(tags=["No"]), "tag must be 1 to 63"),
        (Changes(add_tags=["x" * 100]), "tag must be 1 to 63"),
        (Changes(add_tags=["a\n"]), "tag must be 1 to 63"),
        (Changes(tags=[f"t{number}" for number in range(33)]), "tags must be at most 32, got 33"),
        (Changes(description="x" * 2001), "description must be at most 2000 characters"),
    ],
)
async def test_a_wrong_description_changes_nothing(
    catalogue: Catalogue, kind: str, changes: Changes, words: str
) -> None:
    await catalogue.runs.create(new_run("run-a"))
    await catalogue.add_clients("client-a")

    with pytest.raises(ConfigError, match=words):
        await describe(catalogue, kind, changes)

    assert await describe(catalogue, kind, Changes()) == ("", (), 1)


@pytest.mark.parametrize("kind", DESCRIBED)
async def test_nobody_is_described_who_is_not_there(catalogue: Catalogue, kind: str) -> None:
    with pytest.raises(NotFoundError):
        await describe(catalogue, kind, Changes(description="d"))


async def test_a_description_can_not_steer_a_terminal_or_break_a_database(
    catalogue: Catalogue,
) -> None:
    await catalogue.add_run("run-a")

    told = await catalogue.history.update("run-a", Changes(description="\x00\x1b[2J\ud800 fine"))

    assert told.description == "��[2J� fine"
    assert [each.run_id for each in (await catalogue.history.list_sessions(
        SessionQuery(search="fine"))).items] == ["run-a"]  # fmt: skip
