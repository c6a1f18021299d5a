import pytest

from kumiai.core.errors import ConflictError, NotFoundError
from kumiai.storage import (
    Changes,
    EvaluationRecord,
    MetricFloor,
    MetricPoint,
    RunRepository,
    SessionQuery,
)
from tests.storage.catalogue import Catalogue


async def test_a_session_is_the_run_that_was_submitted(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")

    assert await catalogue.history.get("run-a") == await catalogue.runs.get("run-a")
    for unknown in ("run-", "run-b", "\x00", ""):
        with pytest.raises(NotFoundError, match="run must exist"):
            await catalogue.history.get(unknown)


async def test_sessions_are_counted_by_state(catalogue: Catalogue) -> None:
    assert await catalogue.history.count_by_state() == {}

    for run_id in ("run-a", "run-b", "run-c"):
        await catalogue.add_run(run_id)
    await catalogue.end("run-a")

    assert await catalogue.history.count_by_state() == {"finished": 1, "submitted": 2}


async def test_describing_leaves_the_machinery_alone(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    leading = await catalogue.lead("run-a")

    before = await catalogue.runs.get("run-a")
    told = await catalogue.history.update("run-a", Changes(tags=["x"]), by="olga")
    await leading.play(1)

    assert (told.epoch, told.leader, told.round) == (before.epoch, before.leader, before.round)
    assert told.updated_at == before.updated_at
    after = await catalogue.history.get("run-a")
    assert (after.tags, after.row_version, after.round) == (("x",), told.row_version, 1)


async def test_who_described_it_is_told_once_for_each_change(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    for by in ("olga", "olga", None):
        await catalogue.history.update("run-a", Changes(description="d"), by=by)
    await catalogue.history.update("run-a", Changes(description="e"), by="otto")

    texts = [e.text for e in await catalogue.runs.events("run-a") if e.kind == "run_described"]

    assert texts == ["described by olga", "described by otto"]


async def test_a_session_that_has_ended_is_deleted_with_all_that_is_its_own(
    catalogue: Catalogue,
) -> None:
    await catalogue.add_run("run-a")
    await catalogue.add_run("run-b")
    leading = await catalogue.lead("run-a")
    await leading.play(1)
    await catalogue.runs.finish(leading.lease, "failed", "no clients")

    gone = await catalogue.history.delete("run-a")

    assert gone.namespaces == ("models/run-a", "states/run-a", "updates/run-a")
    assert await catalogue.runs.find("run-a") is None
    assert await catalogue.runs.rounds("run-a") == []
    assert await catalogue.runs.models("run-a") == []
    assert await catalogue.runs.events("run-a") == []
    assert len(await catalogue.runs.models("run-b")) == 1
    with pytest.raises(NotFoundError, match="run must exist"):
        await catalogue.history.delete("run-a")


@pytest.mark.parametrize("is_led", [False, True])
async def test_a_session_that_goes_on_is_not_deleted(catalogue: Catalogue, is_led: bool) -> None:
    await catalogue.add_run("run-a")
    if is_led:
        await catalogue.lead("run-a")

    with pytest.raises(ConflictError, match="must have ended before it is deleted, got "):
        await catalogue.history.delete("run-a")

    assert await catalogue.runs.find("run-a") is not None


async def test_sessions_are_found_by_what_their_models_reached(catalogue: Catalogue) -> None:
    for run_id, accuracy in (("run-a", 0.5), ("run-b", 0.9)):
        await catalogue.add_run(run_id)
        leading = await catalogue.lead(run_id)
        await catalogue.runs.record_evaluation(leading.lease, 0, {"accuracy": accuracy}, 2)
        await leading.play(1)
    await catalogue.add_run("run-c")

    async def ids(floor: MetricFloor) -> list[str]:
        page = await catalogue.history.list_sessions(SessionQuery(metric=floor, order="oldest"))
        return [run.run_id for run in page.items]

    assert await ids(MetricFloor("accuracy", 0.5)) == ["run-a", "run-b"]
    assert await ids(MetricFloor("accuracy", 0.6)) == ["run-b"]
    assert await ids(MetricFloor("loss", 0.0)) == []


async def test_a_metric_is_told_over_the_rounds(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    leading = await catalogue.lead("run-a")
    await leading.play(1)
    await catalogue.runs.record_evaluation(leading.lease, 0, {"accuracy": 0.25}, 2)
    await catalogue.runs.record_evaluation(leading.lease, 1, {"accuracy": 0.75, "f1": 0.5}, 2)
    await leading.open(2)
    history = catalogue.history
    published = [each.published_at for each in await catalogue.runs.rounds("run-a")]

    assert await history.metric_series("run-a", "accuracy") == [
        MetricPoint(0, 0.25, published[0] or 0),
        MetricPoint(1, 0.75, published[1] or 0),
    ]
    assert [p.round for p in await history.metric_series("run-a", "f1")] == [1]
    assert [p.value for p in await history.metric_series("run-a", "loss", "training")] == [0.25]
    assert await history.metric_series("run-a", "unknown") == []
    assert await history.metric_series("run-none", "accuracy") == []
    assert await history.metric_names("run-a") == ["accuracy", "f1"]
    assert await history.metric_names("run-a", "training") == ["loss"]


async def test_reports_from_elsewhere_are_told_by_client_and_round(
    catalogue: Catalogue, runs: RunRepository
) -> None:
    await catalogue.add_run("run-a")
    records = [
        EvaluationRecord("run-a", number, client, 5, {"accuracy": number / 4}, 100.0 + number)
        for number in (2, 0, 1)
        for client in ("b", "a", "B")
    ]
    history = catalogue.history

    assert await history.add_evaluations(iter(records)) == 9
    everything = await history.list_evaluations("run-a")
    of_round = await history.list_evaluations("run-a", round=1)
    of_client = await history.list_evaluations("run-a", client_id="b", limit=2)

    assert list(everything.items) == sorted(records, key=lambda r: (r.round, r.client_id))
    assert [each.client_id for each in of_round.items] == ["B", "a", "b"]
    assert [each.round for each in of_client.items] == [0, 1]
    assert await history.client_series("run-a", "b", "accuracy") == [
        MetricPoint(number, number / 4, 100.0 + number) for number in range(3)
    ]
    assert list(of_round.items) == await runs.evaluations("run-a", 1)


async def test_a_report_stands_once(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    record = EvaluationRecord("run-a", 0, "a", 5, {"accuracy": 0.5}, 1.0)
    await catalogue.history.add_evaluations([record])

    with pytest.raises(ConflictError, match="rows for evaluations must have keys of their own"):
        await catalogue.history.add_evaluations([record])
    with pytest.raises(NotFoundError, match="must belong to a run that exists"):
        await catalogue.history.add_evaluations([EvaluationRecord("run-none", 0, "a", 5, {}, 1.0)])


async def test_rounds_are_paged_in_order(catalogue: Catalogue) -> None:
    await catalogue.add_run("run-a")
    leading = await catalogue.lead("run-a")
    for number in range(1, 12):
        await leading.play(number)

    page = await catalogue.history.list_rounds("run-a", limit=11)
    rest = await catalogue.history.list_rounds("run-a", limit=11, cursor=page.next_cursor)

    assert [each.round for each in (*page.items, *rest.items)] == list(range(12))
