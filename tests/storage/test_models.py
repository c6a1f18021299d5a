import asyncio

import pytest

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError, StorageError
from kumiai.identity.audit import Act, Actor, AuditScribe, NewEntry
from kumiai.storage import (
    AuditLog,
    DatabaseManager,
    MetricFloor,
    ModelQuery,
    ModelRecord,
    ModelRepository,
    NewModel,
    ReachableBlob,
    UpdateInbox,
)
from tests.storage.catalogue import Catalogue
from tests.storage.leading import Leading, request_of


async def reached(catalogue: Catalogue, page_rows: int = 1000) -> list[ReachableBlob]:
    pages = catalogue.models.reachable_digests(page_rows=page_rows)
    return [blob async for page in pages for blob in page]


async def test_a_model_is_found_by_its_identifier(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")

    model = await catalogue.models.get("run-a.0")

    assert model == await catalogue.runs.find_model("run-a", 0)
    for unknown in ("run-a.1", "", "\x00", "x" * 500):
        with pytest.raises(NotFoundError, match="model must exist"):
            await catalogue.models.get(unknown)


async def test_a_model_from_elsewhere_enters_beside_the_others(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")

    new = NewModel(
        "run-a", 7, "dx", 99, "imported", {"accuracy": 0.5}, 12.5, "from the old system", ("old",)
    )
    model = await catalogue.models.add(new)

    assert model == ModelRecord(
        "run-a", 7, "run-a.7", "dx", 99, "imported", {"accuracy": 0.5}, 12.5,
        "from the old system", ("old",), 1,
    )  # fmt: skip
    assert model in await catalogue.runs.models("run-a")
    found = await catalogue.models.list_models(ModelQuery(search="old system", tags=["old"]))
    assert found.items == (model,)


async def test_a_model_without_a_time_is_of_now(catalogue: Catalogue) -> None:
    run = await catalogue.add_run("run-a")

    model = await catalogue.models.add(NewModel("run-a", 1, "d", 1, "n"))

    assert model.created_at >= run.created_at - 0.001


@pytest.mark.parametrize("count", [0, 1, 2_000, 2_001, 10_001])
async def test_many_models_enter_together(catalogue: Catalogue, count: int) -> None:
    await catalogue.add_run("run-a")

    entered = await catalogue.models.add_many(
        NewModel("run-a", number, "d", 1, "n") for number in range(1, count + 1)
    )

    assert entered == count
    assert len(await catalogue.runs.models("run-a")) == count + 1


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (NewModel("run-a", 0, "d", 1, "n"), ConflictError),
        (NewModel("run-a", 1, "d", 1, "n"), ConflictError),
        (NewModel("run-none", 1, "d", 1, "n"), NotFoundError),
        (NewModel("run-a", 9999, "d", 1, "n", tags=("No",)), ConfigError),
        (NewModel("run-a", 9999, "d", 1, "n", {"accuracy": float("nan")}), ValueError),
        (NewModel("run-a", 9999, "d", 1, "n", {"a\x00b": 1.0}), ConfigError),
        (NewModel("run-a", 9999, None, 1, "n"), StorageError),  # type: ignore[arg-type]
    ],
)
async def test_of_many_models_all_enter_or_none(
    catalogue: Catalogue, bad: NewModel, error: type[Exception]
) -> None:
    await catalogue.add_run("run-a")
    good = [NewModel("run-a", number, "d", 1, "n") for number in range(1, 3000)]

    with pytest.raises(error):
        await catalogue.models.add_many([*good, bad])

    assert len(await catalogue.runs.models("run-a")) == 1
    assert len((await catalogue.models.list_models()).items) == 1


async def test_models_are_ordered_by_a_metric(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    values = {1: 0.1, 2: 0.30000000000000004, 3: 0.3, 4: 1e-300, 5: -2.0, 6: 1e300}
    await catalogue.models.add_many(
        NewModel("run-a", number, "d", 1, "n", {'it\'s "odd" %s ?': value, "z": 0.0})
        for number, value in values.items()
    )
    metric = 'it\'s "odd" %s ?'

    async def rounds(**filters: object) -> list[int]:
        query = ModelQuery(order_metric=metric, **filters)  # type: ignore[arg-type]
        return [model.round for model in (await catalogue.models.list_models(query)).items]

    assert await rounds(order="highest") == [6, 2, 3, 1, 4, 5]
    assert await rounds(order="lowest") == [5, 4, 1, 3, 2, 6]
    assert await rounds(order="highest", metric=MetricFloor(metric, 0.3)) == [6, 2, 3]
    assert await rounds(order="highest", metric=MetricFloor("z", 0.5)) == []


async def test_an_order_by_metric_names_it(catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match="order highest must name its metric"):
        await catalogue.models.list_models(ModelQuery(order="highest"))


async def test_a_model_between_first_and_last_is_deleted(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    await catalogue.add_models("run-a", 3)
    await catalogue.models.add(NewModel("run-a", 4, "d1", 1, "n"))
    await catalogue.end("run-a")

    shared = await catalogue.models.delete("run-a.1")
    alone = await catalogue.models.delete("run-a.2")

    assert (shared.namespace, shared.digest, shared.is_unreachable) == ("models/run-a", "d1", False)
    assert (alone.digest, alone.is_unreachable) == ("d2", True)
    assert [model.round for model in await catalogue.runs.models("run-a")] == [0, 3, 4]
    for kept in ("run-a.0", "run-a.4"):
        with pytest.raises(ConflictError, match="neither the first nor the last"):
            await catalogue.models.delete(kept)
    with pytest.raises(NotFoundError):
        await catalogue.models.delete("run-a.1")


async def test_a_model_is_deleted_together_with_its_entry_in_the_audit_log(
    catalogue: Catalogue, database: DatabaseManager
) -> None:
    log = AuditLog(database, AuditScribe())
    models = ModelRepository(database, trail=log)
    await catalogue.add_run("run-a")
    await catalogue.add_models("run-a", 2)
    await catalogue.end("run-a")
    entry = NewEntry(Act.MODEL_DELETED, Actor("operator", "ann"), "model/run-a.1")

    await models.delete("run-a.1", entry=entry)
    with pytest.raises(NotFoundError):
        await models.delete("run-a.1", entry=entry)

    told = [(each.act, each.subject) async for each in log.read(0, 10)]
    assert told == [("model.deleted", "model/run-a.1")]


async def test_a_model_is_deleted_once(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    await catalogue.add_models("run-a", 2)
    await catalogue.end("run-a")

    outcomes = await asyncio.gather(
        *(catalogue.models.delete("run-a.1") for _ in range(5)), return_exceptions=True
    )

    assert sum(isinstance(each, NotFoundError) for each in outcomes) == 4


async def test_no_model_of_a_run_that_goes_on_is_deleted(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    await catalogue.add_models("run-a", 2)

    with pytest.raises(ConflictError, match="must have ended, got submitted"):
        await catalogue.models.delete("run-a.1")


@pytest.mark.parametrize("page_rows", [1, 2, 1000])
async def test_every_blob_that_a_row_speaks_of_is_reached(
    catalogue: Catalogue, page_rows: int
) -> None:
    await catalogue.add_run("run-b")
    await catalogue.add_run("run-a")
    leading: Leading = await catalogue.lead("run-a")
    await leading.play(1)
    await leading.open(2)
    await accept_all(catalogue, "a", "b")

    found = await reached(catalogue, page_rows)

    assert [(blob.kind, blob.namespace, blob.digest, blob.size_bytes) for blob in found] == [
        ("model", "models/run-a", "d0", 10),
        ("model", "models/run-a", "d1", 11),
        ("model", "models/run-b", "d0", 10),
        ("state", "states/run-a/1", "s1", None),
        ("update", "updates/run-a/2/a", "update-a", 100),
        ("update", "updates/run-a/2/b", "update-b", 100),
    ]


async def test_what_a_run_needs_no_more_is_not_reached(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    leading = await catalogue.lead("run-a")
    await leading.open(1)
    await accept_all(catalogue, "a", round_=1)
    await catalogue.runs.close_round(leading.lease, 1, "all")
    closed = await reached(catalogue)
    await leading.publish(1)
    published = await reached(catalogue)
    await catalogue.runs.finish(leading.lease, "finished", "done")
    ended = await reached(catalogue)
    await catalogue.history.delete("run-a")

    assert [blob.kind for blob in closed] == ["model", "update"]
    assert [blob.kind for blob in published] == ["model", "model", "state"]
    assert [blob.kind for blob in ended] == ["model", "model"]
    assert await reached(catalogue) == []


async def accept_all(catalogue: Catalogue, *clients: str, round_: int = 2) -> None:
    inbox = UpdateInbox(catalogue.database)
    await inbox.start()
    for client in clients:
        await inbox.accept(request_of(client, round_=round_))
    await inbox.close()
