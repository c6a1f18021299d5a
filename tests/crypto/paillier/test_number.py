from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import EncryptedNumber, Exponents, PaillierCrypto
from tests.crypto.paillier.some_keys import OTHER_SMALL_KEY, SMALL_KEY, real_key

CRYPTO = PaillierCrypto(key=SMALL_KEY)
OTHER = PaillierCrypto(key=OTHER_SMALL_KEY)
KEY = CRYPTO.public_key
MOST = KEY.plaintext_max
LIMB_BITS = KEY.key_size - 2 - 64

small = st.integers(-(2**100), 2**100)
large = st.integers(-(2**1000), 2**1000)
scalars = st.integers(-(2**60), 2**60)
floats = st.floats(-1e6, 1e6)


@given(large)
def test_an_integer_of_any_size_comes_back(value: int) -> None:
    assert CRYPTO.decrypt(CRYPTO.encrypt(value)) == value


@pytest.mark.parametrize("value", [0, 1, -1, MOST, -MOST, MOST + 1, -MOST - 1, 2**9000, -(3**5000)])
def test_integers_at_the_seams_come_back(value: int) -> None:
    assert CRYPTO.decrypt(CRYPTO.encrypt(value)) == value


@pytest.mark.parametrize(
    ("value", "limb_count"),
    [(0, 1), (MOST, 1), (-MOST, 1), (MOST + 1, 2), (1 << (2 * LIMB_BITS), 3)],
)
def test_an_integer_takes_as_many_limbs_as_it_needs(value: int, limb_count: int) -> None:
    assert len(CRYPTO.encrypt(value).limbs) == limb_count


def test_a_limb_of_a_real_key_leaves_128_bits_of_head_room() -> None:
    crypto = PaillierCrypto(key=real_key())
    width = 2048 - 2 - 128

    assert len(crypto.encrypt((1 << (2 * width)) - 1).limbs) == 2
    assert len(crypto.encrypt(1 << (2 * width)).limbs) == 3


def test_an_integer_beyond_all_limbs_is_refused() -> None:
    CRYPTO.encrypt((1 << (LIMB_BITS * 256)) - 1)

    with pytest.raises(ValueError, match="at most 48640 bits"):
        CRYPTO.encrypt(1 << (LIMB_BITS * 256))


@given(st.lists(large, min_size=2, max_size=5))
def test_a_sum_of_ciphertexts_is_the_sum_of_the_integers(values: list[int]) -> None:
    total = sum((CRYPTO.encrypt(value) for value in values[1:]), CRYPTO.encrypt(values[0]))

    assert CRYPTO.decrypt(total) == sum(values)


@given(large, large)
def test_a_difference_of_ciphertexts_is_the_difference(left: int, right: int) -> None:
    assert CRYPTO.decrypt(CRYPTO.encrypt(left) - CRYPTO.encrypt(right)) == left - right
    assert CRYPTO.decrypt(-CRYPTO.encrypt(left)) == -left


@given(small, small)
def test_plain_numbers_are_added_and_subtracted_from_both_sides(secret: int, plain: int) -> None:
    number = CRYPTO.encrypt(secret)

    assert CRYPTO.decrypt(number + plain) == secret + plain
    assert CRYPTO.decrypt(plain + number) == secret + plain
    assert CRYPTO.decrypt(number - plain) == secret - plain
    assert CRYPTO.decrypt(plain - number) == plain - secret


@given(large, scalars)
def test_a_scalar_multiplies_from_both_sides(secret: int, scalar: int) -> None:
    number = CRYPTO.encrypt(secret)

    assert CRYPTO.decrypt(number * scalar) == secret * scalar
    assert CRYPTO.decrypt(scalar * number) == secret * scalar


@given(small, small, st.integers(-1000, 1000))
def test_scaling_a_sum_is_the_sum_of_what_is_scaled(a: int, b: int, scalar: int) -> None:
    left, right = CRYPTO.encrypt(a), CRYPTO.encrypt(b)

    assert CRYPTO.decrypt((left + right) * scalar) == CRYPTO.decrypt(left * scalar + right * scalar)


@given(floats, floats)
def test_floats_are_added_to_2_to_the_minus_64(left: float, right: float) -> None:
    exact = Fraction(left) + Fraction(right)

    total = CRYPTO.decrypt(CRYPTO.encrypt(left) + CRYPTO.encrypt(right))
    with_plain = CRYPTO.decrypt(CRYPTO.encrypt(left) + right)

    assert isinstance(total, float)
    assert abs(Fraction(total) - exact) <= Fraction(1, 2**63) + abs(exact) / 2**53
    assert with_plain == total


@given(floats, st.floats(-1000, 1000))
def test_a_float_scalar_multiplies(secret: float, scalar: float) -> None:
    product = CRYPTO.decrypt(CRYPTO.encrypt(secret) * scalar)

    assert product == pytest.approx(secret * scalar, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("value", [0.1, -0.1, 1.0, 3.14159, -2.5, 0.001, 123456.789, 0.0])
def test_everyday_floats_come_back_exactly(value: float) -> None:
    came_back = CRYPTO.decrypt(CRYPTO.encrypt(value))

    assert isinstance(came_back, float)
    assert came_back == value


def test_numbers_mix() -> None:
    number = CRYPTO.encrypt(21)

    assert CRYPTO.decrypt(number * 2.0 + 0.5 - CRYPTO.encrypt(0.25)) == 42.25
    assert isinstance(CRYPTO.decrypt(number + 21), int)


def test_numbers_of_different_precision_are_added_in_either_order() -> None:
    coarse, fine = CRYPTO.encrypt(3), CRYPTO.encrypt(0.25, fraction_bits=2)

    assert CRYPTO.decrypt(coarse + fine) == 3.25
    assert CRYPTO.decrypt(fine + coarse) == 3.25
    assert CRYPTO.decrypt(fine + 3) == 3.25
    assert CRYPTO.decrypt(coarse + CRYPTO.encrypt(0.5, fraction_bits=1)) == 3.5
    assert CRYPTO.decrypt(coarse + 0.25) == 3.25


@given(st.integers(2**300, 2**1000), small)
def test_a_short_plain_number_is_added_to_a_long_one(secret: int, plain: int) -> None:
    assert CRYPTO.decrypt(CRYPTO.encrypt(secret) + plain) == secret + plain


def test_a_number_has_no_fraction_bits_unless_it_is_told() -> None:
    assert EncryptedNumber(KEY, (1,)).fraction_bits == 0


def test_the_precision_of_a_float_is_what_was_asked_for() -> None:
    third = CRYPTO.encrypt(1 / 3, fraction_bits=4)

    assert third.fraction_bits == 4
    assert CRYPTO.decrypt(third) == 5 / 16
    assert CRYPTO.decrypt(CRYPTO.encrypt(1).plus(1 / 3, fraction_bits=4)) == 21 / 16
    assert CRYPTO.decrypt(CRYPTO.encrypt(3).times(1 / 3, fraction_bits=4)) == 15 / 16
    assert CRYPTO.decrypt(CRYPTO.encrypt(2.5, fraction_bits=0)) == 2


def test_an_integer_with_fraction_bits_is_a_float_when_it_comes_back() -> None:
    came_back = CRYPTO.decrypt(CRYPTO.encrypt(7, fraction_bits=8))

    assert isinstance(came_back, float)
    assert came_back == 7.0


def test_fraction_bits_do_not_depend_on_the_value() -> None:
    assert {CRYPTO.encrypt(each).fraction_bits for each in (1.0, 1e-30, 1e9, 0.1, 0.0)} == {64}


@pytest.mark.parametrize("value", [np.int64(-3), np.uint8(200), np.float32(0.5), np.float64(-2.25)])
def test_numbers_of_numpy_are_numbers(value: np.generic) -> None:
    assert CRYPTO.decrypt(CRYPTO.encrypt(value)) == value.item()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    number = CRYPTO.encrypt(1)

    with pytest.raises(ValueError, match="finite"):
        CRYPTO.encrypt(value)
    with pytest.raises(ValueError, match="finite"):
        number + value
    with pytest.raises(ValueError, match="finite"):
        number * value


@pytest.mark.parametrize("value", ["42", None, 1 + 2j, b"1", [1]])
def test_what_is_no_number_is_refused(value: object) -> None:
    number = CRYPTO.encrypt(1)

    with pytest.raises(TypeError):
        CRYPTO.encrypt(value)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        number + value  # type: ignore[operator]
    with pytest.raises(TypeError):
        number - value  # type: ignore[operator]
    with pytest.raises(TypeError):
        number * value  # type: ignore[operator]
    assert number.__add__(value) is NotImplemented  # type: ignore[arg-type]
    assert number.__sub__(value) is NotImplemented  # type: ignore[arg-type]
    assert number.__mul__(value) is NotImplemented  # type: ignore[arg-type]


def test_two_ciphertexts_are_not_multiplied() -> None:
    with pytest.raises(TypeError):
        CRYPTO.encrypt(2) * CRYPTO.encrypt(3)  # type: ignore[operator]


def test_negative_fraction_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        CRYPTO.encrypt(1.5, fraction_bits=-1)


def test_so_many_float_scalars_that_the_key_is_full_are_refused() -> None:
    number = CRYPTO.encrypt(1) * 0.5 * 0.5

    with pytest.raises(CryptoError, match="fraction_bits must be from 0 to 128"):
        number * 0.5


def test_a_number_of_several_limbs_takes_one_float_scalar() -> None:
    number = CRYPTO.encrypt(2**300) * 0.5

    assert CRYPTO.decrypt(number) == 2.0**299
    with pytest.raises(CryptoError, match="from 0 to 64"):
        number * 0.5


def test_a_scalar_that_a_limb_has_no_room_for_is_refused() -> None:
    limbs = CRYPTO.encrypt(2**300)

    assert CRYPTO.decrypt(limbs * (2**64 - 1)) == 2**300 * (2**64 - 1)
    with pytest.raises(ValueError, match="at most 64 bits"):
        limbs * 2**64
    with pytest.raises(ValueError, match="at most 254 bits"):
        CRYPTO.encrypt(1) * 2**254


def test_a_plain_number_that_is_longer_than_the_encrypted_one_is_refused() -> None:
    with pytest.raises(CryptoError, match="encrypt it, then add"):
        CRYPTO.encrypt(1) + 2**300


def test_an_overflow_into_the_empty_third_is_refused() -> None:
    with pytest.raises(CryptoError, match="overflowed"):
        CRYPTO.decrypt(CRYPTO.encrypt(MOST) + 1)
    with pytest.raises(CryptoError, match="overflowed"):
        CRYPTO.decrypt(CRYPTO.encrypt(-MOST) - 1)


def test_a_result_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(CryptoError, match="float"):
        CRYPTO.decrypt(CRYPTO.encrypt(2**2000, fraction_bits=1))


def test_numbers_of_two_keys_are_not_added() -> None:
    with pytest.raises(CryptoError, match="must be of key"):
        CRYPTO.encrypt(1) + OTHER.encrypt(1)


@pytest.mark.parametrize("limbs", [(), (1,) * 257])
def test_a_number_has_a_bounded_count_of_limbs(limbs: tuple[int, ...]) -> None:
    with pytest.raises(CryptoError, match="limbs"):
        EncryptedNumber(KEY, limbs)


def test_a_number_shows_nothing() -> None:
    number = CRYPTO.encrypt(42)

    assert str(number.limbs[0]) not in repr(number)
    assert KEY.short_name in repr(number)


def test_encrypting_twice_gives_two_ciphertexts() -> None:
    assert CRYPTO.encrypt(42).limbs != CRYPTO.encrypt(42).limbs


def test_a_rerandomised_number_is_another_ciphertext_of_the_same() -> None:
    for value in (42, 0.5, 2**300):
        number = CRYPTO.encrypt(value)

        again = CRYPTO.rerandomised(number)

        assert set(again.limbs).isdisjoint(number.limbs)
        assert CRYPTO.decrypt(again) == value


@pytest.mark.parametrize("exponents", Exponents)
def test_every_way_to_draw_randomisers_encrypts(exponents: Exponents) -> None:
    holder = PaillierCrypto(key=SMALL_KEY, exponents=exponents)
    anybody = PaillierCrypto(key=KEY, exponents=exponents)

    assert CRYPTO.decrypt(holder.encrypt(-5) + anybody.encrypt(7)) == 2
