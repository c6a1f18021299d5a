"""The strategies against slow scalar code, and their parameters."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.core.arrays import BFLOAT16, layout_of
from kumiai.core.codec import decode, encode
from kumiai.core.errors import ConfigError
from kumiai.learning import STRATEGY_NAMES, FedAdam, FedAvgM, FedProx, FedYogi, new_strategy

State = dict[str, float]
Scalar = Callable[[float, float, State, dict[str, float]], float]


def scalar_fedavg(x: float, d: float, s: State, p: dict[str, float]) -> float:
    return x + d


def scalar_fedavgm(x: float, d: float, s: State, p: dict[str, float]) -> float:
    s["m"] = p["momentum"] * s.get("m", 0.0) + d
    return x + p["learning_rate"] * s["m"]


def scalar_adaptive(x: float, d: float, s: State, p: dict[str, float], v: float) -> float:
    s["m"] = p["beta_1"] * s.get("m", 0.0) + (1 - p["beta_1"]) * d
    s["v"] = v
    return x + p["learning_rate"] * s["m"] / (math.sqrt(v) + p["tau"])


def scalar_fedadagrad(x: float, d: float, s: State, p: dict[str, float]) -> float:
    return scalar_adaptive(x, d, s, p, s.get("v", p["tau"] ** 2) + d * d)


def scalar_fedadam(x: float, d: float, s: State, p: dict[str, float]) -> float:
    v = p["beta_2"] * s.get("v", p["tau"] ** 2) + (1 - p["beta_2"]) * d * d
    return scalar_adaptive(x, d, s, p, v)


def scalar_fedyogi(x: float, d: float, s: State, p: dict[str, float]) -> float:
    v = s.get("v", p["tau"] ** 2)
    sign = (v > d * d) - (v < d * d)
    return scalar_adaptive(x, d, s, p, v - (1 - p["beta_2"]) * d * d * sign)


def scalar_corrected_adam(x: float, d: float, s: State, p: dict[str, float]) -> float:
    s["t"] = s.get("t", 0) + 1
    s["m"] = p["beta_1"] * s.get("m", 0.0) + (1 - p["beta_1"]) * d
    s["v"] = p["beta_2"] * s.get("v", 0.0) + (1 - p["beta_2"]) * d * d
    m_hat = s["m"] / (1 - p["beta_1"] ** s["t"])
    v_hat = s["v"] / (1 - p["beta_2"] ** s["t"])
    return x + p["learning_rate"] * m_hat / (math.sqrt(v_hat) + p["tau"])


MOMENTUM = {"learning_rate": 0.7, "momentum": 0.8}
ADAGRAD = {"learning_rate": 0.2, "beta_1": 0.3, "tau": 0.01}
ADAM = {"learning_rate": 0.05, "beta_1": 0.9, "beta_2": 0.95, "tau": 0.001}
CASES: list[tuple[str, dict[str, Any], Scalar]] = [
    ("fedavg", {}, scalar_fedavg),
    ("fedprox", {"proximal_mu": 0.1}, scalar_fedavg),
    ("fedavgm", MOMENTUM, scalar_fedavgm),
    ("fedadagrad", ADAGRAD, scalar_fedadagrad),
    ("fedadam", ADAM, scalar_fedadam),
    ("fedadam", {**ADAM, "bias_correction": True}, scalar_corrected_adam),
    ("fedyogi", ADAM, scalar_fedyogi),
]


@pytest.mark.parametrize(("name", "params", "scalar"), CASES)
@settings(max_examples=25)
@given(
    st.lists(
        st.lists(st.floats(-10, 10), min_size=3, max_size=3),
        min_size=1,
        max_size=6,
    )
)
def test_a_strategy_moves_each_number_as_the_scalar_code_does(
    name: str, params: dict[str, Any], scalar: Scalar, rounds: list[list[float]]
) -> None:
    strategy = new_strategy(name, params)
    model: Any = {"a": np.array([1.0, -2.0]), "b": np.array(0.5)}
    state: Any = strategy.initial_state(model)
    numbers, states = [1.0, -2.0, 0.5], [State(), State(), State()]

    for d in rounds:
        mean = {"a": np.array(d[:2]), "b": np.array(d[2])}
        model, state = strategy.apply(model, mean, state)
        numbers = [scalar(*each, params) for each in zip(numbers, d, states, strict=True)]

    np.testing.assert_allclose([*model["a"], model["b"]], numbers, rtol=1e-9, atol=1e-9)


def copied(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays that a strategy may use up."""
    return {name: array.copy() for name, array in arrays.items()}


@pytest.mark.parametrize(("name", "params", "scalar"), CASES)
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32, np.float64])
def test_models_keep_their_layout_and_states_survive_storage(
    name: str, params: dict[str, Any], scalar: Scalar, dtype: Any
) -> None:
    strategy = new_strategy(name, params)
    model: Any = {
        "w": np.ones((2, 3), dtype),
        "bias": np.array(1, dtype),
        "none": np.zeros((0,), dtype),
        "count": np.array(7),
        "mask": np.array([True, False]),
    }
    mean = {
        "w": np.full((2, 3), 0.5, np.float32),
        "bias": np.array(-0.25, np.float32),
        "none": np.zeros((0,), np.float32),
        "count": np.array(1.6),
        "mask": np.array([0.2, 0.8]),
    }

    once, state = strategy.apply(model, copied(mean), strategy.initial_state(model))
    stored = decode(b"".join(encode(state))).arrays
    twice, again = strategy.apply(once, mean, stored)

    assert layout_of(twice) == layout_of(once) == layout_of(model)
    assert layout_of(again) == layout_of(state) == layout_of(strategy.initial_state(model))
    assert (once["count"], twice["count"]) == (9, 11)
    assert once["mask"].tolist() == [True, True]
    assert (once["w"] > model["w"]).all()
    assert once["bias"] < model["bias"]


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_a_strategy_changes_none_of_its_arguments(name: str) -> None:
    strategy = new_strategy(name, {})
    model = {"a": np.ones(3, np.float32)}
    mean = {"a": np.full(3, 0.5, np.float32)}
    state = strategy.initial_state(model)
    for array in (*model.values(), *mean.values(), *state.values()):
        array.flags.writeable = False

    new_model, new_state = strategy.apply(model, mean, state)

    arguments = [*model.values(), *mean.values(), *state.values()]
    results = [*new_model.values(), *new_state.values()]
    assert not any(np.shares_memory(old, new) for old in arguments for new in results)


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_a_strategy_made_by_name_has_that_name_and_defaults(name: str) -> None:
    strategy = new_strategy(name, {})

    assert strategy.name == name
    assert strategy == type(strategy)()


def test_the_first_step_of_yogi_with_a_silent_client_stays_put() -> None:
    model = {"a": np.zeros(2, np.float32)}
    strategy = FedYogi()

    moved, _ = strategy.apply(model, model, strategy.initial_state(model))

    assert moved["a"].tolist() == [0.0, 0.0]


def test_the_smallest_tau_does_not_divide_by_zero() -> None:
    model = {"a": np.zeros(2, np.float32)}
    strategy = FedAdam(tau=1e-15, bias_correction=True)

    moved, _ = strategy.apply(model, model, strategy.initial_state(model))

    assert moved["a"].tolist() == [0.0, 0.0]


def test_clients_are_told_the_proximal_term_and_nothing_else() -> None:
    told = {name: new_strategy(name, {}).client_config() for name in STRATEGY_NAMES}

    assert told.pop("fedprox") == {"proximal_mu": 0.01}
    assert not any(told.values())
    assert FedProx(proximal_mu=0).client_config() == {"proximal_mu": 0.0}


def test_whole_numbers_are_numbers() -> None:
    assert new_strategy("fedavgm", {"momentum": 0, "learning_rate": 1}) == FedAvgM(momentum=0.0)


# What is refused


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("fedadm", {}, "must be one of fedavg, .*, got 'fedadm'; did you mean 'fedadam'"),
        ("FedAvg", {}, "strategy must be one of .*, got 'FedAvg'; did you mean 'fedavg'"),
        ("krum", {}, "fedadagrad, fedadam, fedyogi, got 'krum'$"),
        ("fedavg", {"momentum": 0.9}, "of fedavg must be left out, there are none, got 'momentum'"),
        ("fedavgm", {"momentun": 0.9}, "one of learning_rate, momentum, got .*mean 'momentum'"),
        ("fedavgm", {"name": "x"}, "parameter of fedavgm must be one of .*, got 'name'"),
        ("fedavgm", {"momentum": 1.0}, "fedavgm.momentum must be a number from 0 to below 1, got"),
        ("fedavgm", {"momentum": -0.1}, "fedavgm.momentum must be .*, got -0.1"),
        ("fedavgm", {"momentum": True}, "fedavgm.momentum must be .*, got True"),
        ("fedavgm", {"momentum": "0.9"}, "fedavgm.momentum must be .*, got '0.9'"),
        ("fedavgm", {"momentum": None}, "fedavgm.momentum must be .*, got None"),
        ("fedavgm", {"learning_rate": 0}, "fedavgm.learning_rate must be a number greater than 0"),
        ("fedavgm", {"learning_rate": math.nan}, "fedavgm.learning_rate must be .*, got nan"),
        ("fedavgm", {"learning_rate": math.inf}, "fedavgm.learning_rate must be .*, got inf"),
        ("fedavgm", {"learning_rate": 10**400}, "fedavgm.learning_rate must be a number greater"),
        ("fedprox", {"proximal_mu": -1}, "fedprox.proximal_mu must be a number of at least 0, got"),
        (
            "fedadagrad",
            {"beta_1": 1},
            "fedadagrad.beta_1 must be a number from 0 to below 1, got 1",
        ),
        ("fedadam", {"beta_2": 1.5}, "fedadam.beta_2 must be a number from 0 to below 1, got 1.5"),
        ("fedyogi", {"beta_2": -1}, "fedyogi.beta_2 must be a number from 0 to below 1, got -1"),
        ("fedadam", {"tau": 0}, "fedadam.tau must be a number from 1e-15 to 1, got 0"),
        ("fedadam", {"tau": 2.0}, "fedadam.tau must be a number from 1e-15 to 1, got 2.0"),
        ("fedadam", {"bias_correction": 1}, "fedadam.bias_correction must be true or false, got 1"),
    ],
)
def test_wrong_names_and_parameters_are_refused(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        new_strategy(name, params)


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_the_mean_of_a_large_model_is_not_copied_but_used_up(name: str) -> None:
    model = {"w": np.ones(4, np.float32)}
    mean = {"w": np.full(4, 0.5, np.float32)}
    strategy = new_strategy(name, {})

    new, _ = strategy.apply(model, mean, strategy.initial_state(model))

    assert new["w"] is mean["w"]
    assert new["w"].tolist() == [1.5] * 4
    assert model["w"].tolist() == [1] * 4
