"""Privacy budgets over HTTP, with the real server and database."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from kumiai.identity.audit import AuditScribe
from kumiai.privacy import GaussianEvent, PrivacyUnit, event_to_json
from kumiai.privacy.budget import epsilon_spent
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import BudgetScope, Charge, ChargeKey, Guarantee
from kumiai.storage import AuditLog, Lease
from kumiai.testing.databases import SQLiteTemplate
from tests.node.http.api import RunningApi, error_of
from tests.storage.leading import TTL_SECONDS, new_run

EVENT = event_to_json(GaussianEvent(4.0))
CLIENT_LEVEL = Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT)
SCOPES = ("client/site-1", "dataset/site-1/heart", "model/heart")
BUDGET = {
    "scope": "dataset/site-1/heart",
    "guarantee": "client/zero-out",
    "epsilon": epsilon_spent({EVENT: 10}, 1e-5),
    "delta": 1e-5,
}


@pytest.fixture
def database_url(sqlite_template: SQLiteTemplate, tmp_path: Path) -> str:
    return sqlite_template.copy_to(tmp_path / "kumiai.db")


async def led(api: RunningApi) -> Lease:
    await api.runs.create(new_run())
    lease = await api.runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)
    assert lease is not None
    await api.runs.start(lease)
    return lease


async def spend(api: RunningApi, count: int) -> Lease:
    lease = await led(api)
    await spend_more(api, lease, range(1, count + 1))
    return lease


async def spend_more(api: RunningApi, lease: Lease, rounds: Iterable[int]) -> None:
    charge = Charge.alike(CLIENT_LEVEL, map(BudgetScope.parse, SCOPES), {EVENT: 1})
    for round_ in rounds:
        await api.parts.budgets.charge(lease, round=round_, attempt=1, charge=charge)


async def told(api: RunningApi, method: str, path: str, **request: Any) -> Any:
    answer = await api.operator.request(method, f"/api/v1/budgets{path}", **request)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_budget_is_set_spent_and_taken_away(api: RunningApi) -> None:
    empty = await told(api, "GET", "")
    made = await told(api, "PUT", "", json=BUDGET)
    await spend(api, 4)

    listed = await told(api, "GET", "", params={"scope": BUDGET["scope"]})
    dropped = await told(api, "DELETE", "", params={"scope": BUDGET["scope"]})

    assert (empty["scopes"], empty["entries"], empty["frozen"]) == ([], 0, None)
    assert made["budgets"][0]["rounds_left"] is None
    ((scope,), (budget,)) = listed["scopes"], listed["scopes"][0]["budgets"]
    assert budget["rounds_left"] == 6
    assert budget["spent"] == epsilon_spent({EVENT: 4}, 1e-5)
    assert scope["spent"] == [
        {
            "guarantee": "client/zero-out",
            "epsilon": budget["spent"],
            "delta": 1e-5,
            "releases": 4,
            "sampling": ["none"],
        }
    ]
    assert dropped["budgets"] == []


async def test_the_history_goes_on_until_the_budget_is_spent(api: RunningApi) -> None:
    await told(api, "PUT", "", json=BUDGET)
    await spend(api, 4)

    history = await told(api, "GET", "/history", params={"scope": BUDGET["scope"]})
    unlimited = await told(api, "GET", "/history", params={"scope": "model/heart", "delta": 1e-6})

    assert [point["rounds"] for point in history["points"]] == [1, 2, 3, 4]
    assert [point["round"] for point in history["points"]] == [1, 2, 3, 4]
    assert [point["rounds"] for point in history["forecast"]] == [5, 6, 7, 8, 9, 10]
    assert history["forecast"][-1]["epsilon"] == history["limit"] == BUDGET["epsilon"]
    assert (unlimited["limit"], unlimited["forecast"], unlimited["delta"]) == (None, [], 1e-6)


async def test_a_history_goes_on_until_a_budget_of_so_many_days_is_spent(api: RunningApi) -> None:
    await told(api, "PUT", "", json={**BUDGET, "window_days": 400})
    await told(api, "PUT", "", json={**BUDGET, "window_days": 30})
    lease = await spend(api, 3)
    async with api.parts.database.transaction() as connection:
        await connection.execute(text("UPDATE budget_counts SET day = day - 31"))
    await spend_more(api, lease, range(4, 6))

    history = await told(api, "GET", "/history", params={"scope": BUDGET["scope"]})

    # Of both the one that is spent first, and of that what counts in its days alone.
    assert history["window_days"] == 400
    assert [point["round"] for point in history["points"]] == [1, 2, 3, 4, 5]
    assert [point["rounds"] for point in history["forecast"]] == [6, 7, 8, 9, 10]
    await told(api, "DELETE", "", params={"scope": BUDGET["scope"], "window_days": 400})
    history = await told(api, "GET", "/history", params={"scope": BUDGET["scope"]})
    assert (history["window_days"], history["limit"]) == (30, BUDGET["epsilon"])
    assert [point["round"] for point in history["points"]] == [4, 5]
    assert [point["rounds"] for point in history["points"]] == [1, 2]
    assert history["forecast"][-1]["rounds"] == 10
    assert history["rounds_left"] == 8


async def test_a_lifetimes_budget_is_shown_before_those_of_days(api: RunningApi) -> None:
    await told(api, "PUT", "", json=BUDGET)
    await spend(api, 4)
    await told(api, "PUT", "", json={**BUDGET, "window_days": 30, "epsilon": 0.1})

    history = await told(api, "GET", "/history", params={"scope": BUDGET["scope"]})

    assert (history["window_days"], history["rounds_left"]) == (0, 6)


async def test_what_was_spent_is_told_at_the_delta_of_its_budget_unless_asked_otherwise(
    api: RunningApi,
) -> None:
    await told(api, "PUT", "", json={**BUDGET, "delta": 1e-4})
    await spend(api, 1)

    by_itself = await told(api, "GET", "")
    asked = await told(api, "GET", "", params={"delta": 1e-6})

    deltas = [
        {each["scope"]: each["spent"][0]["delta"] for each in answer["scopes"]}
        for answer in (by_itself, asked)
    ]
    assert deltas == [
        {scope: 1e-4 if scope == BUDGET["scope"] else 1e-5 for scope in SCOPES},
        dict.fromkeys(SCOPES, 1e-6),
    ]
    assert by_itself["scopes"][1]["spent"][0]["epsilon"] == epsilon_spent({EVENT: 1}, 1e-4)


async def test_a_history_of_nothing_is_not_found(api: RunningApi) -> None:
    answer = await api.operator.get("/api/v1/budgets/history?scope=model/none")

    assert error_of(answer)[:2] == (404, "not_found")


async def test_a_frozen_ledger_is_brought_in_line_and_charges_again(api: RunningApi) -> None:
    await spend(api, 2)
    frozen = await told(api, "POST", "/freeze", json={"reason": "restored"})
    theirs = [
        [f"run-a/{round_}/1", Charge.alike(CLIENT_LEVEL, [scope], {EVENT: 1}).to_content()]
        for round_ in (1, 2, 3)
        for scope in [BudgetScope.parse("client/site-1")]
    ]

    refused = await api.operator.post("/api/v1/budgets/reconcile", json={"copies": []})
    done = await told(
        api,
        "POST",
        "/reconcile",
        json={
            "copies": [{"site": "site-1", "charges": theirs}],
            "assumed": {"dataset/site-1/heart": 1},
        },
    )

    assert frozen["frozen"] == "restored"
    assert error_of(refused)[:2] == (422, "config")
    assert done["charged"] == ["run-a/3/1", "run-a/3/2"]
    listed = await told(api, "GET", "")
    assert listed["frozen"] is None
    assert [scope["spent"][0]["releases"] for scope in listed["scopes"]] == [3, 3, 3]
    assert await told(api, "POST", "/check") == {
        "entries": listed["entries"],
        "chain": listed["chain"],
        "mended": [],
    }


async def test_many_charges_of_a_site_fit_into_one_request(api: RunningApi) -> None:
    charge = Charge.alike(CLIENT_LEVEL, [BudgetScope.parse("client/site-1")], {EVENT: 1})
    charges = [
        [str(ChargeKey("run-a", round_, 1)), charge.to_content()] for round_ in range(1, 6000)
    ]

    body = {"copies": [{"site": "site-1", "charges": charges}]}
    done = await told(api, "POST", "/reconcile", json=body, timeout=60)

    assert len(done["charged"]) == 5999


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scope": "site-1"}, "scope must be client/NAME"),
        ({"guarantee": "client"}, "guarantee must be UNIT/ADJACENCY"),
        ({"epsilon": 0}, "epsilon"),
        ({"delta": 1}, "delta"),
        ({"window_days": 40_000}, "window_days"),
        ({"more": 1}, "more"),
    ],
)
async def test_a_budget_that_can_not_be_is_refused_with_its_field(
    api: RunningApi, changes: dict[str, Any], words: str
) -> None:
    answer = await api.operator.put("/api/v1/budgets", json={**BUDGET, **changes})

    status, kind, message = error_of(answer)
    assert (status, kind) == (422, "config")
    assert words in message


@pytest.mark.parametrize(
    "charge", [["run-a/1", {}], ["run-a/1/1", {}], ["run-a/1/1", {"spends": 1}]]
)
async def test_a_copy_that_says_nothing_is_refused(api: RunningApi, charge: list[Any]) -> None:
    copies = {"copies": [{"site": "site-1", "charges": [charge]}]}

    answer = await api.operator.post("/api/v1/budgets/reconcile", json=copies)

    assert error_of(answer)[:2] == (422, "config")


async def test_who_may_only_look_changes_nothing(api: RunningApi) -> None:
    scientist = api.caller(api.certificates.scientist)

    assert (await scientist.get("/api/v1/budgets")).status_code == 200
    for method, path, body in (
        ("PUT", "", BUDGET),
        ("POST", "/freeze", {"reason": "x"}),
        ("POST", "/reconcile", {}),
        ("POST", "/check", None),
        ("DELETE", "?scope=model/heart", None),
    ):
        answer = await scientist.request(method, f"/api/v1/budgets{path}", json=body)
        assert error_of(answer)[:2] == (403, "denied")


async def test_what_operators_do_stands_in_the_audit_log(api: RunningApi) -> None:
    await told(api, "PUT", "", json=BUDGET)
    await told(api, "DELETE", "", params={"scope": BUDGET["scope"]})
    await told(api, "POST", "/freeze", json={"reason": "restored"})
    await told(api, "POST", "/reconcile", json={})

    log = AuditLog(api.parts.database, AuditScribe())
    found = [(record.act, record.subject) async for record in log.read(0, 100)]

    assert found == [
        ("budget.set", "budget/dataset/site-1/heart"),
        ("budget.set", "budget/dataset/site-1/heart"),
        ("budgets.frozen", "budgets/ledger"),
        ("budgets.reconciled", "budgets/ledger"),
    ]
