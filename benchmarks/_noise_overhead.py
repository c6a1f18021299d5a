"""What noise costs in a round, for each way in which a run can be private.

Rounds without any training show the noise at its dearest: nothing else costs anything. Beside them
the hospitals of ``kumiai demo --study heart --dp``, as processes and with their real training.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from _federation import ended
from _measuring import CpuMeter, Goal, at_most, print_table

import kumiai as km
from kumiai.node.demo.options import DemoOptions, new_plan
from kumiai.node.job import EvaluationSpec, JobSpec, parse_job
from kumiai.node.local.federation import LocalFederation
from kumiai.node.studies import STUDIES
from kumiai.node.study import initial_model

__all__ = ["overhead"]

GOAL: Final = 1.10
DEVIATION, DEVIATIONS = 1e-3, 4
NUMBERS, SITES = 100_000, 4
HOSPITAL_ROUNDS: Final = 40


@dataclass(frozen=True, slots=True)
class Pair:
    """One job without noise and with it.

    Attributes:
        name: what the updates go through.
        without: the same clients, masks and checks, and no ``[privacy]``.
        noised: the same with noise.
    """

    name: str
    without: JobSpec
    noised: JobSpec


def overhead(*, repeats: int, rounds: int) -> list[Goal]:
    """Time rounds with noise and without, by turns, and print what came out.

    Args:
        repeats: how often each is timed, after once in vain; the least CPU of all counts.
        rounds: in each run without training.
    """
    found = {pair.name: wide_seconds(pair, repeats, rounds) for pair in pairs(rounds)}
    print_table(
        f"CPU s of a round, all members: {SITES} sites, {NUMBERS:,} numbers, no training",
        ["", "without noise", "with", "times"],
        [
            [name, f"{without:.3f}", f"{noised:.3f}", f"{noised / without:.2f}"]
            for name, (without, noised) in found.items()
        ],
    )
    goals = [
        at_most(f"CPU of a round with noise, {name}", GOAL, noised / without, "x")
        for name, (without, noised) in found.items()
    ]
    return [*goals, asyncio.run(hospitals(repeats))]


def pairs(rounds: int) -> list[Pair]:
    """Return what is timed without training.

    Commitments cost by the size of what is committed to. So rounds with checked sums are timed
    twice: with updates of a few steps, as they are with the clip that a job has by itself, and with
    ones that use all of their bits, as noised ones do.
    """
    tight = {"clip": DEVIATIONS * DEVIATION}
    return [
        Pair(
            "noise of the coordinator",
            *jobs(rounds, {"mode": "none"}, privacy={"noise": "central"}),
        ),
        Pair("noise of the sites, sums not checked", *jobs(rounds, {"verification": "off"})),
        Pair("noise of the sites, sums checked", *jobs(rounds, {"verification": "sum"})),
        Pair(
            "the same, of updates that use all bits",
            jobs(rounds, {"verification": "sum", **tight})[0],
            jobs(rounds, {"verification": "sum"})[1],
        ),
    ]


def jobs(
    rounds: int, hiding: Mapping[str, Any], privacy: Mapping[str, Any] | None = None
) -> tuple[JobSpec, JobSpec]:
    tables = {
        "run": {"app": "wide", "rounds": rounds},
        "cohort": {"size": SITES, "min_reports": SITES},
        "strategy": {"name": "fedavgm", "momentum": 0.0},
        "evaluation": {"every": 0},
        "secure_aggregation": {"mode": "masking", "colluders": 0, **hiding},
    }
    noise = {"unit": "client", "clip": 1.0, "delta": 1e-4, "noise_multiplier": 1.0}
    return parse_job(tables), parse_job({**tables, "privacy": {**noise, **(privacy or {})}})


def wide_app() -> km.App:
    app = km.App("wide")
    app.model(lambda _config: {"w": np.zeros(NUMBERS, np.float32)})

    @app.train
    def train(weights: dict[str, Any], context: km.Context) -> km.Update:
        moved = context.rng.normal(0, DEVIATION, NUMBERS)
        weights["w"] += moved.astype(np.float32)
        return km.Update(weights, examples=1)

    return app


def wide_seconds(pair: Pair, repeats: int, rounds: int) -> tuple[float, float]:
    app = wide_app()

    def seconds(job: JobSpec) -> float:
        began = time.process_time()
        km.simulate(app, job, sites=SITES)
        return (time.process_time() - began) / rounds

    # The first ones make the tables of commitments.
    timed = [(seconds(pair.without), seconds(pair.noised)) for _ in range(repeats + 1)][1:]
    return min(without for without, _ in timed), min(noised for _, noised in timed)


async def hospitals(repeats: int) -> Goal:
    """Time the demo's runs at four hospitals, each a process, with noise and without."""
    plan = new_plan(
        DemoOptions(study="heart", rounds=HOSPITAL_ROUNDS, dp=True, out=Path("unwritten"))
    )
    plain = new_plan(DemoOptions(study="heart", rounds=HOSPITAL_ROUNDS, out=Path("unwritten")))
    # A private run evaluates at no hospital; so the other one does not, either.
    without = plain.job.model_copy(update={"evaluation": EvaluationSpec(every=0)})
    with tempfile.TemporaryDirectory(prefix="kumiai-hospitals-") as folder:
        federation = LocalFederation(
            Path(folder),
            client_names=list(plan.sites),
            apps=[plan.app],
            client_data=plan.sites,
            log_level="warning",
        )
        async with federation:
            timed = [
                (
                    await hospital_round(federation, without),
                    await hospital_round(federation, plan.job),
                )
                for _ in range(repeats + 1)
            ][1:]  # the first ones load the data and make the tables
    least = [[min(each[side][what] for each in timed) for side in (0, 1)] for what in (0, 1)]
    print_table(
        "a round of kumiai demo --study heart: four hospitals as processes, training included",
        ["", "without noise", "with --dp", "times"],
        [
            [name, f"{without:.3f}", f"{noised:.3f}", f"{noised / without:.2f}"]
            for name, (without, noised) in zip(
                ["CPU s, all members", "s, the median round"], least, strict=True
            )
        ],
    )
    cpu_without, cpu_noised = least[0]
    return at_most("CPU of a round at the hospitals", GOAL, cpu_noised / cpu_without, "x")


async def hospital_round(federation: LocalFederation, job: JobSpec) -> tuple[float, float]:
    """Return CPU and wall seconds of one round of a run."""
    model = initial_model(STUDIES[job.run.app], job.train, seed=job.run.seed)
    pids = [federation.coordinator.pid, *(each.pid for each in federation.clients.values())]
    pids += [child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    meter = CpuMeter(pids)
    run_id = await federation.api.submit(job, model)
    await ended(federation, run_id)
    cpu = meter.seconds() / job.run.rounds
    published = [each["published_at"] for each in await federation.api.rounds(run_id)]
    walls = [after - before for before, after in pairwise(published[1:])]
    return cpu, statistics.median(walls)
