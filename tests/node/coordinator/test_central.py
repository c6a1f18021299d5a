"""A round's noise is drawn once: whoever leads it again publishes what was sealed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kumiai.core import failpoints
from kumiai.core.codec import encode
from kumiai.core.errors import (
    BudgetExhaustedError,
    ConfigError,
    ConflictError,
    FencedError,
    IntegrityError,
    UpdateRejectedError,
)
from kumiai.node.central_rounds import central_round_of
from kumiai.node.coordinator.budgets import BudgetDesk, charge_of_round
from kumiai.node.coordinator.central import CentralRounds, NoisedMean, new_central_rounds
from kumiai.node.coordinator.engine import RoundEngine
from kumiai.node.coordinator.namespaces import (
    model_namespace,
    state_namespace,
    sum_namespace,
    update_namespace,
)
from kumiai.node.coordinator.tasks import TaskWriter
from kumiai.node.job import JobSpec, parse_job
from kumiai.privacy import DiscreteGaussianEvent, PrivacyUnit, ScheduledSum, event_to_json
from kumiai.privacy.budget import BudgetLimit
from kumiai.privacy.clipping_round import STEPS
from kumiai.privacy.events import Adjacency
from kumiai.privacy.ledger import BudgetScope, Charge, ChargeKey, EntryKind, Guarantee
from kumiai.privacy.reconciling import KeyedCharge, SiteCopy
from kumiai.storage import (
    AcceptRequest,
    BudgetRepository,
    ChargeRecord,
    DatabaseManager,
    Lease,
    MemoryBlobStore,
    RunRepository,
    SealedCharge,
    UpdateInbox,
    UpdateRecord,
)
from kumiai.testing.databases import SQLiteTemplate
from tests.storage.leading import TTL_SECONDS, new_run

SIZE = 50
MODEL = {"w": np.zeros(SIZE, np.float32)}


class CutOff(Exception):  # noqa: N818 - stands for a process that ended
    """The coordinator dies here."""


def job(**privacy: Any) -> JobSpec:
    return parse_job(
        {
            "run": {"app": "digits-app", "rounds": 3},
            "cohort": {"size": 2},
            "evaluation": {"every": 0},
            "privacy": {
                "unit": "client",
                "noise": "central",
                "clip": 1.0,
                "delta": 1e-5,
                "noise_multiplier": 1.0,
                **privacy,
            },
        }
    )


@dataclass
class Led:
    """A run whose first round is closed with two updates."""

    database: DatabaseManager
    blobs: MemoryBlobStore
    folder: Path
    lease: Lease

    @property
    def runs(self) -> RunRepository:
        return RunRepository(self.database)

    @property
    def ledger(self) -> BudgetRepository:
        return BudgetRepository(self.database)

    def rounds(self, lease: Lease | None = None, asked: JobSpec | None = None) -> CentralRounds:
        """Return what a coordinator that has just started has."""
        desk = BudgetDesk(self.ledger, self.folder, "c-1")
        # The other parts of an engine have no say in it.
        parts: Any = (self.runs, self.blobs, None, None, None, None, None)
        engine = RoundEngine(*parts, budgets=desk)
        made = new_central_rounds(engine, lease or self.lease, asked or job())
        assert made is not None
        return made

    async def noised(self, rounds: CentralRounds | None = None) -> NoisedMean:
        run, current = await self.runs.get("run-a"), await self.runs.round("run-a", 1)
        updates = [
            await self.update(client, [(-1) ** number * STEPS // 8] * SIZE)
            for number, client in enumerate(("site-1", "site-2"))
        ]
        return await (rounds or self.rounds()).noised(run, current, updates)

    async def update(self, client: str, steps: list[int]) -> UpdateRecord:
        content = encode({"contribution": np.array(steps, np.int32)})
        digest = await self.blobs.put(update_namespace("run-a", 1, client), content)
        return UpdateRecord(
            run_id="run-a",
            round=1,
            client_id=client,
            digest=digest,
            size_bytes=sum(each.nbytes for each in content),
            examples=1,
            metrics={},
            accepted_at=0.0,
        )

    async def accepted(self, client: str, update: UpdateRecord) -> None:
        inbox = UpdateInbox(self.database)
        await inbox.start()
        await inbox.accept(
            AcceptRequest(
                run_id="run-a",
                round=1,
                attempt=1,
                client_id=client,
                digest=update.digest,
                size_bytes=update.size_bytes,
                examples=1,
                metrics={},
            )
        )
        await inbox.close()

    def drawn(self) -> list[str]:
        """Return the digests of the noised sums that are kept of the first round."""
        namespace = sum_namespace("run-a", 1)
        return [digest for place, digest in self.blobs._blobs if place == namespace]

    async def kinds(self) -> list[str]:
        return [str(entry.kind) for entry in await self.ledger.entries()]


@pytest.fixture
async def led(sqlite_template: SQLiteTemplate, tmp_path: Path) -> AsyncIterator[Led]:
    database, blobs = DatabaseManager(sqlite_template.copy_to(tmp_path / "k.db")), MemoryBlobStore()
    await database.connect()
    runs = RunRepository(database)
    digest = await blobs.put(model_namespace("run-a"), encode(MODEL))
    await runs.create(new_run(model_digest=digest))
    lease = await runs.acquire_lease("run-a", "leader-1", TTL_SECONDS)
    assert lease is not None
    await runs.start(lease)
    await runs.open_round(
        lease,
        round=1,
        base_digest=digest,
        target_reports=2,
        min_reports=1,
        deadline_seconds=60.0,
        clients=[("site-1", 1), ("site-2", 2)],
        evaluate_clients=(),
        evaluate_round=None,
    )
    yield Led(database, blobs, tmp_path, lease)
    failpoints.install(None)
    await database.close()


def die_at(name: str) -> None:
    def die(reached: str) -> None:
        if reached == name:
            failpoints.install(None)
            raise CutOff

    failpoints.install(die)


async def test_the_same_noised_sum_is_let_out_however_often_the_round_is_led(led: Led) -> None:
    first = await led.noised()
    again = await led.noised()

    assert first.mean.tolist() == again.mean.tolist()
    assert first.charge == again.charge
    assert await led.kinds() == [EntryKind.CHARGED, EntryKind.SEALED]
    # The updates cancel out: what is left is noise, over the expected two.
    assert first.mean.std() == pytest.approx(0.5, rel=0.5)
    assert first.metrics == {}


async def test_noise_that_is_drawn_again_after_the_seal_finds_no_price(
    led: Led, monkeypatch: pytest.MonkeyPatch
) -> None:
    await led.noised()
    monkeypatch.setattr(ChargeRecord, "sealed", None)

    with pytest.raises(ConflictError, match="must be sealed once, got other bytes"):
        await led.noised()


async def test_a_noised_sum_that_was_not_sealed_is_never_let_out(led: Led) -> None:
    die_at("coordinator.central.noised")
    with pytest.raises(CutOff):
        await led.noised()
    (lost,) = led.drawn()

    again = await led.noised()

    assert again.charge.digest != lost
    assert await led.kinds() == [EntryKind.CHARGED, EntryKind.SEALED]
    assert (await led.noised()).mean.tolist() == again.mean.tolist()


async def test_a_draw_that_finds_no_price_is_destroyed_at_once(
    led: Led, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = BudgetDesk.seal
    theirs: list[NoisedMean] = []

    async def overtaken(desk: BudgetDesk, *told: Any) -> SealedCharge:
        monkeypatch.setattr(BudgetDesk, "seal", seal)
        await led.runs.release_lease(led.lease)
        newer = await led.runs.acquire_lease("run-a", "leader-2", TTL_SECONDS)
        theirs.append(await led.noised(led.rounds(newer)))
        return await seal(desk, *told)

    monkeypatch.setattr(BudgetDesk, "seal", overtaken)

    with pytest.raises(FencedError):
        await led.noised()

    assert led.drawn() == [theirs[0].charge.digest]


async def test_no_draw_is_left_where_the_updates_of_a_round_are_deleted(led: Led) -> None:
    die_at("coordinator.central.noised")
    with pytest.raises(CutOff):
        await led.noised()
    await led.noised()
    assert len(led.drawn()) == 2

    await led.rounds().forget(1)

    assert led.drawn() == []


async def test_one_who_leads_no_more_lets_nothing_out(led: Led) -> None:
    old = led.rounds()
    die_at("coordinator.central.noised")
    with pytest.raises(CutOff):
        await led.noised(old)
    await led.runs.release_lease(led.lease)
    newer = await led.runs.acquire_lease("run-a", "leader-2", TTL_SECONDS)
    assert newer is not None

    with pytest.raises(FencedError):
        await led.noised(old)
    theirs = await led.noised(led.rounds(newer))

    assert theirs.charge.key.attempt == 1


async def test_an_update_that_has_changed_since_it_came_is_in_no_sum(led: Led) -> None:
    longer = await led.update("site-1", [STEPS] * SIZE)
    run, current = await led.runs.get("run-a"), await led.runs.round("run-a", 1)

    with pytest.raises(UpdateRejectedError, match="breaks the clip that its round pays for"):
        await led.rounds().noised(run, current, [longer])


async def test_where_the_clip_follows_the_updates_it_is_told_with_the_noisy_count(
    led: Led,
) -> None:
    asked = job(adaptive={})
    assert asked.privacy is not None
    sign = central_round_of(asked, asked.privacy, 1.0).sign_steps
    run, current = await led.runs.get("run-a"), await led.runs.round("run-a", 1)
    update = await led.update("site-1", [0] * SIZE + [sign])

    found = await led.rounds(asked=asked).noised(run, current, [update])

    assert found.mean.shape == (SIZE,)
    assert found.metrics["privacy.clip"] == 1.0
    assert 0.0 <= found.metrics["privacy.unclipped"] <= 1.0


async def test_who_is_asked_can_pay_or_nobody_works(led: Led) -> None:
    limit = BudgetLimit(
        BudgetScope.parse("client/site-2"),
        Guarantee(PrivacyUnit.CLIENT, Adjacency.ZERO_OUT),
        epsilon=0.01,
        delta=1e-5,
    )
    await led.ledger.set_limit(limit, by="ann")
    run = await led.runs.get("run-a")

    await led.rounds().verify_affordable(run, 1, ["site-1"])
    with pytest.raises(BudgetExhaustedError, match="client/site-2"):
        await led.rounds().verify_affordable(run, 1, ["site-1", "site-2"])
    with pytest.raises(BudgetExhaustedError, match="client/site-2"):
        await led.noised()

    assert not list(await led.ledger.entries())[1:]


def test_a_coordinator_without_a_ledger_leads_no_private_run(led: Led) -> None:
    nothing: Any = (None,) * 7

    with pytest.raises(ConfigError, match="keeps no ledger"):
        new_central_rounds(RoundEngine(*nothing), led.lease, job())
    plain = parse_job({"run": {"app": "digits-app"}})
    assert new_central_rounds(RoundEngine(*nothing), led.lease, plain) is None


async def test_a_round_on_a_schedule_carries_what_the_next_ones_are_blended_with(led: Led) -> None:
    rounds = led.rounds(asked=job(separation=3))

    first = await led.noised(rounds)
    again = await led.noised(led.rounds(asked=job(separation=3)))

    assert first.mean.tolist() == again.mean.tolist()
    totals, released = first.carried["privacy.totals"], first.carried["privacy.released"]
    assert totals.tolist() == [[0] * SIZE]
    unit = 1.0 / (STEPS * 2)
    np.testing.assert_allclose(released[0] * unit, first.mean, rtol=1e-6)


async def test_on_a_schedule_the_model_pays_for_the_worst_of_all_clients_and_no_more(
    led: Led,
) -> None:
    asked = job(separation=3)
    assert asked.privacy is not None
    this = central_round_of(asked, asked.privacy, 1.0)
    await led.noised(led.rounds(asked=asked))

    (paid, *_) = await led.ledger.entries()
    events = Charge.from_content(paid.content).events_of()

    assert events[BudgetScope.parse("client/site-1")] == {event_to_json(this.event): 1}
    assert isinstance(this, ScheduledSum)
    assert events[BudgetScope.parse("model/digits")] == {event_to_json(this.event_at(0)): 1}


async def test_where_earlier_rounds_are_lost_the_noise_begins_anew(led: Led) -> None:
    run, current = await led.runs.get("run-a"), await led.runs.round("run-a", 1)
    update = await led.update("site-1", [STEPS // 8] * SIZE)
    lost = replace(run, state_digest="0" * 64)

    found = await led.rounds(asked=job(separation=3)).noised(lost, current, [update])

    assert found.carried["privacy.totals"].shape == (1, SIZE)


async def test_a_round_that_was_let_out_before_a_restore_is_blended_with_nobody_again(
    led: Led,
) -> None:
    asked = job(separation=3, noise_multiplier=1e-6)
    run, current = await led.runs.get("run-a"), await led.runs.round("run-a", 1)
    update = await led.update("site-1", [STEPS // 8] * SIZE)
    before = {
        "privacy.totals": np.full((1, SIZE), STEPS // 4),
        "privacy.released": np.zeros((1, SIZE)),
    }
    digest = await led.blobs.put(state_namespace("run-a", 0), encode(before))
    led_on = replace(run, state_digest=digest)
    assert asked.privacy is not None
    event = central_round_of(asked, asked.privacy, 1.0).event
    paid = charge_of_round(run, "client", event, ["site-1"])
    lost = KeyedCharge(ChargeKey("run-a", 1, 1), paid)

    await led.ledger.reconcile([SiteCopy("site-1", [lost])], {}, by="ann")
    found = await led.rounds(asked=asked).noised(led_on, current, [update])

    np.testing.assert_allclose(found.mean, 1 / 16, rtol=1e-3)
    assert found.carried["privacy.totals"].shape == (1, SIZE)


async def test_an_opening_tells_whether_the_round_may_have_been_let_out_before_a_restore(
    led: Led,
) -> None:
    asked = job()
    run = await led.runs.get("run-a")
    orders = TaskWriter(led.runs, led.ledger)
    assigned = await led.runs.assignments("run-a", 1)
    (first, *_) = await orders.orders(run, asked, assigned)
    (same, *_) = await orders.orders(run, asked, assigned)
    lost = KeyedCharge(
        ChargeKey("run-a", 1, 1),
        charge_of_round(run, "client", DiscreteGaussianEvent(1.0, 1.0), ["site-1"]),
    )

    await led.ledger.reconcile([SiteCopy("site-1", [lost])], {}, by="ann")
    (later, *_) = await orders.orders(run, asked, assigned)

    openings = [each.central and each.central.opening for each in (first, same, later)]
    assert openings[0] == openings[1] != openings[2]
    assert None not in openings


async def test_who_has_not_rested_is_in_no_sum(led: Led) -> None:
    rounds = led.rounds(asked=job(separation=2))
    run, current = await led.runs.get("run-a"), await led.runs.round("run-a", 1)
    update = await led.update("site-1", [0] * SIZE)

    await led.accepted("site-1", update)
    assert [await rounds.resting(number) for number in (1, 2, 3)] == [
        frozenset(),
        frozenset({"site-1"}),
        frozenset(),
    ]
    with pytest.raises(IntegrityError, match=r"got 1 that are; privacy\.separation is 2"):
        await rounds.noised(run, replace(current, round=2), [update])
    assert await led.kinds() == []
