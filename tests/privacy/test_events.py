import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.privacy.events import (
    COUNT_MAX,
    Adjacency,
    DiscreteGaussianEvent,
    Event,
    FixedSizeGaussianEvent,
    GaussianEvent,
    MatrixEvent,
    PoissonDiscreteGaussianEvent,
    PoissonGaussianEvent,
    SkellamEvent,
    TreeEvent,
    event_from_json,
    event_to_json,
    l1_norm_max_of,
)

RIGHT: dict[type[Event], dict[str, Any]] = {
    GaussianEvent: {"noise_multiplier": 1.5},
    PoissonGaussianEvent: {"sampling_rate": 0.25, "noise_multiplier": 1.5},
    PoissonDiscreteGaussianEvent: {"sampling_rate": 0.25, "noise_multiplier": 1.5},
    FixedSizeGaussianEvent: {"sample_size": 10, "population": 100, "noise_multiplier": 4.0},
    DiscreteGaussianEvent: {"scale": 100.0, "l2_norm_max": 64.0},
    SkellamEvent: {"variance": 1e6, "l2_norm_max": 64.0, "l1_norm_max": 512.0},
    MatrixEvent: {
        "noise_multiplier": 4.0,
        "coefficients": (1.0, 0.5),
        "rounds": 20,
        "separation": 4,
    },
    TreeEvent: {"noise_multiplier": 4.0, "rounds": 20, "separation": 4},
}
EVENTS = [kind(**numbers) for kind, numbers in RIGHT.items()]
EVERY_NUMBER = [(kind, name) for kind, each in RIGHT.items() for name in each]
REFUSED: list[tuple[Any, type[Exception]]] = [
    (float("nan"), ValueError),
    (float("inf"), ValueError),
    (float("-inf"), ValueError),
    (-1, ValueError),
    (10**400, ValueError),
    (True, (TypeError, ValueError)),
    (np.bool_(True), (TypeError, ValueError)),
    ("1", (TypeError, ValueError)),
    (None, (TypeError, ValueError)),
    (1j, (TypeError, ValueError)),
]  # type: ignore[list-item]


def name_of(value: Any) -> str:
    return getattr(value, "__name__", str(value)[:12])


@pytest.mark.parametrize(("kind", "field"), EVERY_NUMBER, ids=name_of)
@pytest.mark.parametrize(("value", "error"), REFUSED, ids=name_of)
def test_a_number_that_is_none_is_refused_by_the_name_of_its_field(
    kind: type[Event], field: str, value: Any, error: type[Exception]
) -> None:
    wrong = (value,) if field == "coefficients" and value != -1 else value

    with pytest.raises(error, match=field):
        kind(**RIGHT[kind] | {field: wrong})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (GaussianEvent, "noise_multiplier", 0),
        (PoissonGaussianEvent, "sampling_rate", 1.0000001),
        (PoissonGaussianEvent, "sampling_rate", -1e-9),
        (PoissonGaussianEvent, "noise_multiplier", 0.0),
        (FixedSizeGaussianEvent, "sample_size", 0),
        (FixedSizeGaussianEvent, "sample_size", 10.5),
        (FixedSizeGaussianEvent, "sample_size", 101),
        (FixedSizeGaussianEvent, "population", COUNT_MAX + 1),
        (DiscreteGaussianEvent, "scale", 0),
        (DiscreteGaussianEvent, "l2_norm_max", 0),
        (SkellamEvent, "variance", 0),
        (SkellamEvent, "l1_norm_max", 63.9),
        (MatrixEvent, "coefficients", ()),
        (MatrixEvent, "coefficients", (0.0, 1.0)),
        (MatrixEvent, "coefficients", (1.0,) * 4097),
        (MatrixEvent, "coefficients", "12"),
        (MatrixEvent, "separation", 1),
        (TreeEvent, "rounds", 0),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_the_name_of_its_field(
    kind: type[Event], field: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=field):
        kind(**RIGHT[kind] | {field: value})


@pytest.mark.parametrize("value", ["replace", "ZERO_OUT", 1, None, [], True])
@pytest.mark.parametrize("kind", RIGHT, ids=name_of)
def test_an_unknown_adjacency_is_refused(kind: type[Event], value: Any) -> None:
    with pytest.raises(ValueError, match="adjacency"):
        kind(**RIGHT[kind], adjacency=value)


@pytest.mark.parametrize(
    ("kind", "adjacency"),
    [
        (PoissonGaussianEvent, Adjacency.REPLACE_ONE),
        (PoissonDiscreteGaussianEvent, Adjacency.REPLACE_ONE),
        (FixedSizeGaussianEvent, Adjacency.ZERO_OUT),
        (FixedSizeGaussianEvent, Adjacency.ADD_OR_REMOVE),
    ],
)
def test_an_adjacency_without_a_proven_price_is_refused(
    kind: type[Event], adjacency: Adjacency
) -> None:
    with pytest.raises(ValueError, match="adjacency"):
        kind(**RIGHT[kind], adjacency=adjacency)


@pytest.mark.parametrize(
    "make", [int, float, np.float32, np.float64, np.int64, np.int8, np.float16]
)
def test_numbers_of_every_type_make_equal_events(make: Callable[[int], Any]) -> None:
    sampled = FixedSizeGaussianEvent(make(3), make(7), make(2))

    assert sampled == FixedSizeGaussianEvent(3, 7, 2.0)
    assert hash(sampled) == hash(FixedSizeGaussianEvent(3, 7, 2.0))
    assert event_to_json(sampled) == event_to_json(FixedSizeGaussianEvent(3, 7, 2.0))
    assert [type(getattr(sampled, each.name)) for each in fields(sampled)][1:] == [int, int, float]


def test_the_adjacencies_that_have_a_price_are_named() -> None:
    with pytest.raises(ValueError, match="must be add-or-remove or zero-out for poisson-gaussian"):
        PoissonGaussianEvent(0.1, 1, adjacency=Adjacency.REPLACE_ONE)


def test_a_replacement_moves_a_sum_by_two_bounds_and_all_else_by_one() -> None:
    factors = {each: GaussianEvent(1, adjacency=each).sensitivity_factor for each in Adjacency}

    assert factors == {
        Adjacency.ZERO_OUT: 1,
        Adjacency.ADD_OR_REMOVE: 1,
        Adjacency.REPLACE_ONE: 2,
    }


def test_a_zero_is_the_same_with_any_sign() -> None:
    assert event_to_json(PoissonGaussianEvent(-0.0, 1)) == event_to_json(PoissonGaussianEvent(0, 1))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_an_event_comes_back_from_its_json(event: Event) -> None:
    assert event_from_json(event_to_json(event)) == event


@given(st.floats(0, 1), st.floats(0, exclude_min=True, allow_infinity=False))
def test_no_digit_is_lost_in_json(sampling_rate: float, noise_multiplier: float) -> None:
    event = PoissonGaussianEvent(sampling_rate, noise_multiplier)

    assert event_from_json(event_to_json(event)) == event


def test_the_json_of_an_event_is_that_of_all_versions() -> None:
    zero_out = '{"adjacency":"zero-out",'
    sizes = '"noise_multiplier":4.0,"population":100,"sample_size":10}'
    steps = '"noise_multiplier":4.0,"rounds":20,"separation":4}'

    assert [event_to_json(event) for event in EVENTS] == [
        zero_out + '"kind":"gaussian","noise_multiplier":1.5}',
        zero_out + '"kind":"poisson-gaussian","noise_multiplier":1.5,"sampling_rate":0.25}',
        zero_out
        + '"kind":"poisson-discrete-gaussian","noise_multiplier":1.5,"sampling_rate":0.25}',
        '{"adjacency":"replace-one","kind":"fixed-size-gaussian",' + sizes,
        zero_out + '"kind":"discrete-gaussian","l2_norm_max":64.0,"scale":100.0}',
        zero_out + '"kind":"skellam","l1_norm_max":512.0,"l2_norm_max":64.0,"variance":1000000.0}',
        zero_out + '"coefficients":[1.0,0.5],"kind":"matrix",' + steps,
        zero_out + '"kind":"tree",' + steps,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "7",
        "[" * 100_000,
        "{}",
        '{"kind":"gaussian"}',
        '{"kind":["gaussian"],"noise_multiplier":1.0}',
        '{"adjacency":"zero-out","kind":"laplace","noise_multiplier":1.0}',
        '{"adjacency":"zero-out","kind":"gaussian","noise_multiplier":NaN}',
        '{"adjacency":"zero-out","kind":"gaussian","noise_multiplier":"1.0"}',
        '{"adjacency":"zero-out","kind":"gaussian","noise_multiplier":1}',
        '{"adjacency":"zero-out","kind":"gaussian","noise_multiplier":1.00}',
        '{"adjacency":"zero-out", "kind":"gaussian","noise_multiplier":1.0}',
        '{"kind":"gaussian","noise_multiplier":1.0}',
        '{"adjacency":"zero-out","kind":"gaussian","noise_multiplier":1.0,"steps":2}',
        '{"adjacency":"zero-out","kind":"gaussian","noise_multiplier":1.0,"noise_multiplier":9.0}',
        '{"adjacency":"zero-out","kind":"gaussian","noise_multiplier":1.0}\n',
    ],
)
def test_anything_but_the_one_spelling_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="event must be"):
        event_from_json(text)


def test_what_is_written_is_json() -> None:
    assert json.loads(event_to_json(EVENTS[0]))["noise_multiplier"] == 1.5


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=20).filter(any))
def test_the_bound_of_the_l1_norm_holds_for_every_vector_of_integers(vector: list[int]) -> None:
    l2_norm = float(np.linalg.norm(vector))

    assert sum(map(abs, vector)) <= l1_norm_max_of(l2_norm, len(vector)) * (1 + 1e-12)


def test_the_bound_of_the_l1_norm_is_never_below_that_of_the_l2_norm() -> None:
    assert l1_norm_max_of(0.5, 10) == 0.5
    assert l1_norm_max_of(10, 9) == 30
    assert l1_norm_max_of(10, 10_000) == 100


@pytest.mark.parametrize(
    ("l2_norm", "dimension", "name"),
    [
        (0, 3, "l2_norm_max"),
        (float("nan"), 2, "l2_norm_max"),
        (1, 0, "dimension"),
        (1, 2.5, "dimension"),
    ],
)
def test_the_bound_of_the_l1_norm_needs_a_norm_and_a_dimension(
    l2_norm: float, dimension: int, name: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        l1_norm_max_of(l2_norm, dimension)
