"""Random faults for as long as asked: ``make chaos``, ``CHAOS_SECONDS=600 make chaos``.

Coordinator and clients are killed or halted at random moments while one run follows the other.
Each run must end as if nothing had happened. The seed decides who is hit, how and after how long;
``CHAOS_SEED`` takes up an earlier one, though what a process is doing at that moment is its own.
"""

import asyncio
import os
import secrets
import signal
import time
from collections import Counter

import numpy as np
import pytest

from tests.system.conftest import JOB, Undisturbed
from tests.system.federation import SITES, Federation, Mortal, attempts_of, trace_of

pytestmark = pytest.mark.chaos

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60")) / 2  # there are two databases
RUN_SECONDS = 120.0
QUIET_SECONDS = 1.5
"""The longest that nothing happens; a run that nobody disturbs takes less."""
HALT_SECONDS = 3.0
"""The longest that a process is halted; longer than a lease, shorter than a heartbeat's end."""


async def test_whatever_happens_each_run_ends_as_if_nothing_had(
    federation: Federation, undisturbed: Undisturbed
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", secrets.randbits(32)))
    print(f"\nCHAOS_SEED={seed}")
    faults: Counter[str] = Counter()
    await federation.start_coordinator()
    mortals = [federation.coordinator]
    mortals += [await federation.start_mortal_client(name) for name in SITES]
    disturbing = asyncio.create_task(disturb(mortals, np.random.default_rng(seed), faults))
    ends_at, run_count = time.monotonic() + SECONDS, 0
    try:
        while time.monotonic() < ends_at:
            async with federation.within(RUN_SECONDS):
                run_id = await federation.submit(JOB)
                await federation.wait_for_end(run_id)
            run_count += 1
            assert not disturbing.done(), "whoever disturbs must not end"
            assert await trace_of(federation, run_id) == undisturbed.trace, federation.report()
            assert set(await attempts_of(federation, run_id)) == {1}
    finally:
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)

    print(f"{run_count} runs, {faults.total()} faults: {dict(sorted(faults.items()))}")


async def disturb(mortals: list[Mortal], random: np.random.Generator, faults: Counter[str]) -> None:
    """Kill or halt somebody, again and again."""
    while True:
        await asyncio.sleep(random.uniform(0, QUIET_SECONDS))
        # The coordinator as often as all the clients together.
        victim = mortals[max(0, int(random.integers(-2, len(mortals))))]
        is_halt = random.random() < 0.2
        faults[f"{victim.name} {'halted' if is_halt else 'killed'}"] += 1
        assert victim.child is not None
        if is_halt:
            child = victim.child
            child.send(signal.SIGSTOP)
            await asyncio.sleep(random.uniform(0, HALT_SECONDS))
            child.send(signal.SIGCONT)
        else:
            victim.child.send(signal.SIGKILL)
