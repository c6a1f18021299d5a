"""What updates count that were made ahead of their round."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.node.ahead import damping_of, others_seconds, policy_of, versions_kept
from kumiai.node.job import JobSpec, parse_job
from kumiai.secagg import FRESH_SCALE, BufferPolicy
from kumiai.storage import UpdateRecord


def job(**tables: Any) -> JobSpec:
    return parse_job({"run": {"app": "digits", "keep_versions": 3}, **tables})


def update(client: str, examples: int = 10) -> UpdateRecord:
    return UpdateRecord("run-a", 1, client, "d", 1, examples, {}, 0.0)


def test_a_synchronous_run_has_no_policy_and_keeps_what_its_job_says() -> None:
    assert policy_of(job()) is None
    assert versions_kept(job()) == 3


def test_an_asynchronous_run_keeps_every_version_that_updates_may_be_from() -> None:
    spec = job(asynchronous={"group_size": 2, "staleness_max": 7, "staleness_exponent": 1.0})

    assert policy_of(spec) == BufferPolicy(staleness_max=7, staleness_exponent=1.0)
    assert versions_kept(spec) == 8
    assert versions_kept(job(asynchronous={"group_size": 2, "staleness_max": 0})) == 3


def test_a_round_waits_as_long_for_others_who_train_ahead_as_patience_lasts() -> None:
    cohort, group = {"deadline_seconds": 60, "patience_seconds": 900}, {"group_size": 2}

    assert others_seconds(job(cohort=cohort)) == 60
    assert others_seconds(job(cohort=cohort, asynchronous=group)) == 900
    assert others_seconds(job(cohort={**cohort, "patience_seconds": 5}, asynchronous=group)) == 60


def test_a_mean_of_old_updates_is_as_much_shorter_as_they_count_less() -> None:
    updates = [update("a"), update("b", 30)]

    assert damping_of(updates, {"a": 16, "b": 16}, weighting="examples") == 1.0
    assert damping_of(updates, {"a": 8, "b": 8}, weighting="examples") == 0.5
    assert damping_of(updates, {"a": 16, "b": 8}, weighting="examples") == (10 * 16 + 30 * 8) / 640
    assert damping_of(updates, {"a": 16, "b": 8}, weighting="uniform") == 0.75
    assert damping_of(updates, {}, weighting="examples") == 1.0


@given(
    st.lists(
        st.tuples(st.integers(1, 10**12), st.integers(1, FRESH_SCALE)), min_size=1, max_size=20
    )
)
def test_no_count_of_examples_moves_the_damping_out_of_what_the_ages_say(
    clients: list[tuple[int, int]],
) -> None:
    updates = [update(f"c{index}", examples) for index, (examples, _) in enumerate(clients)]
    scales = {f"c{index}": scale for index, (_, scale) in enumerate(clients)}

    damping = damping_of(updates, scales, weighting="examples")

    least, most = min(scales.values()) / FRESH_SCALE, max(scales.values()) / FRESH_SCALE
    assert least * (1 - 1e-12) <= damping <= most * (1 + 1e-12)


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"asynchronous": {}}, "asynchronous.group_size must be given"),
        ({"asynchronous": {"group_size": 0}}, "asynchronous.group_size must be greater"),
        (
            {"asynchronous": {"group_size": 2}, "secure_aggregation": {"mode": "masking"}},
            "asynchronous.group_size must be at least 3 where updates are hidden, got 2",
        ),
        (
            {"asynchronous": {"group_size": 2}, "cohort": {"size": 4}},
            "cohort.size and cohort.over_selection must be left out with asynchronous",
        ),
        (
            {"asynchronous": {"group_size": 2}, "cohort": {"over_selection": 0.5}},
            "cohort.size and cohort.over_selection must be left out with asynchronous",
        ),
        (
            {"asynchronous": {"group_size": 2}, "cohort": {"min_reports": 3}},
            r"cohort.min_reports must be at most asynchronous.group_size \(2\), got 3",
        ),
        (
            {
                "asynchronous": {"group_size": 3},
                "secure_aggregation": {"mode": "masking"},
                "evaluation": {"every": 0},
                "privacy": {"unit": "client", "clip": 1.0, "delta": 1e-5, "epsilon": 4.0},
            },
            "asynchronous must be left out with privacy",
        ),
    ],
)
def test_a_job_that_cannot_be_asynchronous_is_refused(tables: Any, problem: str) -> None:
    with pytest.raises(Exception, match=f"^{problem}"):
        job(**tables)
