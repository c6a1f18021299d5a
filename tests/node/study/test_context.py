"""Context: task, data, randomness, progress and cancellation."""

import numpy as np
import pytest

from kumiai.node.study import App, Context, Site, TaskCancelledError


def test_a_context_tells_task_and_site() -> None:
    site = Site("hospital-a", {"partition": 2, "partitions": 5, "path": "x.csv"})

    context = Context(
        site, load_data=lambda: [1, 2], round=3, rounds=20, config={"epochs": 2}, seed=9
    )

    assert (context.site, context.round, context.rounds, context.seed) == ("hospital-a", 3, 20, 9)
    assert (context.partition, context.partitions) == (2, 5)
    assert context.data_options["path"] == "x.csv"
    assert context.config["epochs"] == 2
    assert context.data == [1, 2]


def test_the_config_cannot_be_changed_by_a_study() -> None:
    context = Context(Site("a"), load_data=lambda: None, config={"epochs": 2})

    with pytest.raises(TypeError):
        context.config["epochs"] = 3  # type: ignore[index]


def test_two_attempts_at_a_task_draw_the_same_numbers() -> None:
    first = Context(Site("a"), load_data=lambda: None, seed=2**63 - 1)
    second = Context(Site("a"), load_data=lambda: None, seed=2**63 - 1)
    other = Context(Site("a"), load_data=lambda: None, seed=1)

    numbers = first.rng.random(8)

    np.testing.assert_array_equal(numbers, second.rng.random(8))
    np.testing.assert_array_equal(
        numbers, np.random.Generator(np.random.PCG64(2**63 - 1)).random(8)
    )
    assert not np.array_equal(numbers, other.rng.random(8))


def test_the_generator_is_one_stream_for_the_whole_task() -> None:
    context = Context(Site("a"), load_data=lambda: None)

    assert context.rng.random() != context.rng.random()


def test_progress_reaches_the_listener_within_zero_and_one_and_with_short_text() -> None:
    heard: list[tuple[float, str]] = []
    context = Context(
        Site("a"), load_data=lambda: None, report=lambda *report: heard.append(report)
    )

    context.report(0.5, "epoch 1")
    context.report(-1)
    context.report(1.0001, "x" * 300)

    assert heard == [(0.5, "epoch 1"), (0.0, ""), (1.0, "x" * 200)]


def test_progress_that_is_no_number_is_refused_even_when_nobody_listens() -> None:
    context = App("a", data=len).context("a")

    context.report(0.5)

    with pytest.raises(ValueError, match="progress must be a number from 0 to 1, got nan"):
        context.report(float("nan"))


def test_a_withdrawn_task_stops_where_the_study_asks() -> None:
    withdrawn = False
    context = Context(Site("a"), load_data=lambda: None, round=4, cancelled=lambda: withdrawn)

    context.check_cancelled()
    assert not context.cancelled
    withdrawn = True

    assert context.cancelled
    with pytest.raises(TaskCancelledError, match="task of round 4 at site 'a' was cancelled"):
        context.check_cancelled()


def test_a_task_that_nobody_can_withdraw_is_never_cancelled() -> None:
    context = Context(Site("a"), load_data=lambda: None)

    context.check_cancelled()

    assert context.cancelled is False
