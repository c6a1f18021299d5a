"""The privacy accountant: new and remembered curves, long histories, calibration, the tight figure.

CPU seconds on one core, best of some turns. dp-accounting's own accountant does the same beside it
where it can, with the orders of our grid that it shares.
"""

import argparse
import contextlib
import time
from collections.abc import Callable

from _measuring import Goal, Load, at_least, at_most, load_line, print_goals, print_table
from absl import logging

from kumiai.privacy import (
    DEFAULT_ORDERS,
    FixedSizeGaussianEvent,
    GaussianEvent,
    PoissonGaussianEvent,
    PrivacyHistory,
    RDPAccountant,
    SkellamEvent,
    rdp_of,
    tight_epsilon,
)

ROUNDS = 100_000
KINDS = 20
SAMPLED = PoissonGaussianEvent(0.01, 1.1)
DELTA = 1e-5


def seconds(act: Callable[[], object], turns: int) -> float:
    """Return the CPU time of the fastest turn: what others do makes it slower, never faster."""
    times = []
    for _ in range(turns):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return min(times)


def new_curve(event: object) -> None:
    rdp_of.__globals__["_curve"].cache_clear()
    rdp_of(event)  # type: ignore[arg-type]


def long_run(kinds: int) -> RDPAccountant:
    """Account for each round of a run, one by one, and read off the epsilon at the end."""
    accountant = RDPAccountant()
    events = [PoissonGaussianEvent(0.001 * (1 + kind), 1.1) for kind in range(kinds)]
    for number in range(ROUNDS):
        accountant.compose(events[number % kinds])
    accountant.epsilon(DELTA)
    return accountant


def theirs() -> None:
    import dp_accounting as dp
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(DEFAULT_ORDERS[:-2])
    accountant.compose(dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(1.1)), 1000)
    with contextlib.suppress(ValueError):
        accountant.get_epsilon(DELTA)


def measure(turns: int) -> list[Goal]:
    accountant = RDPAccountant()
    accountant.compute_rdp(0.01, 1.1, 1000)
    curves = {
        "Poisson": seconds(lambda: new_curve(SAMPLED), turns),
        "fixed size": seconds(lambda: new_curve(FixedSizeGaussianEvent(100, 10_000, 4)), turns),
        "Skellam": seconds(lambda: new_curve(SkellamEvent(1e12, 2**16, 2**26)), turns),
        "dp-accounting, Poisson": seconds(theirs, turns),
    }
    remembered = seconds(
        lambda: [accountant.compute_rdp(0.01, 1.1, 1000) for _ in range(100)], turns
    )
    one, many = seconds(lambda: long_run(1), turns), seconds(lambda: long_run(KINDS), turns)
    text = long_run(KINDS).history.to_text()
    reading = seconds(lambda: PrivacyHistory.from_text(text), 1)
    calibration = seconds(
        lambda: accountant.calibrate_noise(
            lambda z: PoissonGaussianEvent(0.0101, z),
            steps=1000,
            target_epsilon=3,
            target_delta=DELTA,
        ),
        1,
    )
    tight_epsilon({GaussianEvent(9): 1}, DELTA)  # loads the library
    tight = {
        count: seconds(lambda count=count: tight_epsilon({SAMPLED: count}, DELTA), turns)
        for count in (1000, ROUNDS)
    }
    rows = [[f"a new curve, {name}", f"{each * 1e3:,.1f}"] for name, each in curves.items()]
    rows += [
        ["a curve that is remembered", f"{remembered * 10:,.3f}"],
        [f"{ROUNDS:,} rounds of one kind, and their epsilon", f"{one * 1e3:,.0f}"],
        [f"{ROUNDS:,} rounds of {KINDS} kinds, and their epsilon", f"{many * 1e3:,.0f}"],
        [f"reading and checking a history of {ROUNDS:,}", f"{reading * 1e3:,.0f}"],
        ["calibrating the noise of 1,000 rounds", f"{calibration * 1e3:,.0f}"],
        *([f"tight epsilon of {n:,} rounds", f"{each * 1e3:,.0f}"] for n, each in tight.items()),
    ]
    print_table("accounting", ["", "CPU ms"], rows)
    return [
        at_most("a new curve, CPU ms", 150, max(curves["Poisson"], curves["fixed size"]) * 1e3),
        at_least(
            "a new curve, times dp-accounting",
            1,
            curves["dp-accounting, Poisson"] / curves["Poisson"],
        ),
        at_most("compute_rdp remembered, CPU ms", 1, remembered * 10),
        at_most(f"{ROUNDS:,} rounds one by one, CPU s", 1, max(one, many)),
        at_most("calibration, CPU s", 5, calibration),
        at_most("tight epsilon, CPU s", 1, max(tight.values())),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer turns")
    turns = 3 if parser.parse_args().short else 9
    logging.set_verbosity(logging.ERROR)  # of dp-accounting, on orders that it leaves out
    load = Load(list)
    goals = measure(turns)
    print(f"\n{load_line()}; others used {load.other_cores():.1f} cores meanwhile")
    print_goals(goals)


if __name__ == "__main__":
    main()
