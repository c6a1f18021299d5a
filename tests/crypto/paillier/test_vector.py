from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import EncryptedVector, PaillierCrypto, SlotLayout, sum_of_vectors
from tests.crypto.paillier.some_keys import OTHER_SMALL_KEY, SMALL_KEY, SmallPublicKey, real_key

CRYPTO = PaillierCrypto(key=SMALL_KEY)
KEY = CRYPTO.public_key
LAYOUT = SlotLayout(value_bits=8, summand_count_max=10)

values = st.lists(st.integers(-127, 127), min_size=13, max_size=13)


def encrypted(plain: list[int]) -> EncryptedVector:
    return CRYPTO.encrypt_many(plain, LAYOUT)


@given(st.lists(values, min_size=1, max_size=10))
def test_a_sum_of_vectors_is_the_sum_of_each_value(rows: list[list[int]]) -> None:
    total = sum_of_vectors(encrypted(row) for row in rows)

    assert CRYPTO.decrypt_many(total).tolist() == np.sum(rows, axis=0).tolist()
    assert total.summand_count == len(rows)


@given(values, values, st.integers(-4, 4))
def test_weights_multiply_and_plain_values_are_added(a: list[int], b: list[int], k: int) -> None:
    total = encrypted(a) * k + 2 * encrypted(b)

    total = total.plus(a)

    wanted = (k + 1) * np.array(a) + 2 * np.array(b)
    assert CRYPTO.decrypt_many(total).tolist() == wanted.tolist()
    assert total.summand_count == abs(k) + 3


def test_integers_come_back_as_integers_and_steps_as_floats() -> None:
    layout = SlotLayout.for_clip(2.0, summand_count_max=3)
    gradient = np.array([0.5, -2.0, 2.0, 1e-9], dtype=np.float32)

    sums = CRYPTO.decrypt_many(sum_of_vectors([CRYPTO.encrypt_many(gradient, layout)] * 3))

    assert CRYPTO.decrypt_many(encrypted([1] * 13)).dtype == np.int64
    assert sums.dtype == np.float64
    assert sums == pytest.approx(3 * gradient.astype(np.float64), abs=3 * 2.0 / 32767 / 2)


def test_a_hundred_summands_at_the_end_of_the_head_room_are_exact_with_a_real_key() -> None:
    crypto = PaillierCrypto(key=real_key())
    layout = SlotLayout(value_bits=16, summand_count_max=100)
    plain = [32767, -32767] * 50

    total = sum_of_vectors([crypto.encrypt_many(plain, layout)] * 100)

    assert crypto.decrypt_many(total).tolist() == [3276700, -3276700] * 50
    with pytest.raises(CryptoError, match="summand_count must be from 0 to 100"):
        total + crypto.encrypt_many(plain, layout)


def test_a_real_gradient_is_summed_like_its_rational_twin() -> None:
    generator = np.random.default_rng(5)
    layout = SlotLayout.for_clip(1.0, summand_count_max=5)
    rows = generator.uniform(-1, 1, (5, 40))

    sums = CRYPTO.decrypt_many(sum_of_vectors(CRYPTO.encrypt_many(row, layout) for row in rows))

    step = Fraction(layout.step or 0)
    twin = [sum(round(Fraction(each) / step) for each in column) for column in rows.T.tolist()]
    assert sums.tolist() == [float(units) * float(step) for units in twin]


@pytest.mark.parametrize("weight", [11, -11, 10**9])
def test_a_weight_without_head_room_is_refused(weight: int) -> None:
    with pytest.raises(CryptoError, match="from 0 to 10 in this layout"):
        encrypted([1] * 13) * weight


def test_a_weight_without_head_room_is_refused_before_it_costs_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vector = encrypted([1] * 13)
    raised: list[int] = []
    monkeypatch.setattr(SmallPublicKey, "raw_multiply", lambda *_: raised.append(1))

    with pytest.raises(CryptoError, match="summand_count"):
        vector * 11

    assert raised == []


def test_the_last_weight_with_head_room_is_exact() -> None:
    plain = [127, -127] * 6 + [0]

    assert CRYPTO.decrypt_many(encrypted(plain) * -10).tolist() == [-10 * each for each in plain]


def test_a_plain_summand_without_head_room_is_refused() -> None:
    full = encrypted([1] * 13) * 10

    with pytest.raises(CryptoError, match="got 11"):
        full.plus([1] * 13)


def test_vectors_that_do_not_belong_together_are_not_added() -> None:
    vector = encrypted([1] * 13)
    other_layout = SlotLayout(value_bits=8, summand_count_max=11)
    other_step = SlotLayout(value_bits=8, summand_count_max=10, step=1.0)

    with pytest.raises(CryptoError, match="must be of key"):
        vector + PaillierCrypto(key=OTHER_SMALL_KEY).encrypt_many([1] * 13, LAYOUT)
    with pytest.raises(CryptoError, match="same layout"):
        vector + CRYPTO.encrypt_many([1] * 13, other_layout)
    with pytest.raises(CryptoError, match="same layout"):
        vector + CRYPTO.encrypt_many([1] * 13, other_step)
    with pytest.raises(CryptoError, match="same length"):
        vector + encrypted([1] * 12)
    with pytest.raises(CryptoError, match="same length"):
        vector.plus([1] * 12)


def test_what_is_no_vector_or_weight_is_refused() -> None:
    vector = encrypted([1] * 13)

    with pytest.raises(TypeError):
        vector + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        vector * 0.5  # type: ignore[operator]
    with pytest.raises(TypeError):
        vector * vector  # type: ignore[operator]
    assert vector.__mul__(0.5) is NotImplemented  # type: ignore[arg-type]


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        sum_of_vectors([])


def test_a_vector_of_nothing_is_a_vector() -> None:
    assert CRYPTO.decrypt_many(encrypted([])).tolist() == []


def test_a_vector_with_a_wrong_number_of_ciphertexts_is_refused() -> None:
    with pytest.raises(CryptoError, match="must have 1 ciphertexts, got 2"):
        EncryptedVector(KEY, LAYOUT, 13, 1, (1, 1))


@pytest.mark.parametrize("summand_count", [-1, 11])
def test_a_vector_with_a_wrong_number_of_summands_is_refused(summand_count: int) -> None:
    with pytest.raises(CryptoError, match="summand_count"):
        EncryptedVector(KEY, LAYOUT, 1, summand_count, (1,))


def test_a_vector_shows_nothing() -> None:
    vector = encrypted([1] * 13)

    assert str(vector.ciphertexts[0]) not in repr(vector)
    assert "13 values, 1 summands" in repr(vector)
