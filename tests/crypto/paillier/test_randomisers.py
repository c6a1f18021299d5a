import copy
import secrets
from collections import Counter
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import Exponents
from kumiai.crypto.paillier.keys import PaillierPrivateKey
from kumiai.crypto.paillier.randomisers import (
    FixedBase,
    RandomiserSource,
    draw_many,
    new_key_holder_source,
    new_source,
)
from tests.crypto.paillier.some_keys import (
    SMALL_KEY,
    SMALL_KEY_NOT_BLUM,
    SmallPublicKey,
    real_key,
)

CHI_SQUARE_MOST = 57.0  # of 15 degrees of freedom: passed once in a million
N = SMALL_KEY.public_key.n
SOURCES = {
    **{f"{each} of anybody": new_source(SMALL_KEY.public_key, each) for each in Exponents},
    **{f"{each} of the holder": new_key_holder_source(SMALL_KEY, each) for each in Exponents},
}


def chi_square(counts: Counter[int]) -> float:
    """Return how far sixteen counts are from even."""
    wanted = counts.total() / 16
    return sum((counts[digit] - wanted) ** 2 / wanted for digit in range(16))


@given(st.integers(2, N), st.integers(0, 2**100 - 1))
def test_a_table_gives_the_powers_of_its_base(base: int, exponent: int) -> None:
    assert FixedBase(base, N, 100).power(exponent) == pow(base, exponent, N)


def test_a_table_gives_its_last_power_and_refuses_the_next() -> None:
    table = FixedBase(3, N, 16)

    assert table.power(2**16 - 1) == pow(3, 2**16 - 1, N)
    assert table.power(0) == 1
    with pytest.raises(OverflowError):
        table.power(2**16)
    with pytest.raises(OverflowError):
        table.power(-1)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_randomiser_is_a_residue_that_hides_nothing_of_its_own(source: RandomiserSource) -> None:
    drawn = [source.draw() for _ in range(20)]

    assert [SMALL_KEY.raw_decrypt(each) for each in drawn] == [0] * 20
    assert len(set(drawn)) == 20


def test_no_randomiser_of_a_hundred_thousand_repeats() -> None:
    drawn = draw_many(SMALL_KEY.public_key, Exponents.HALF, 100_000)

    assert len(set(drawn)) == 100_000


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_randomisers_never_repeat_and_their_low_digits_are_even(source: RandomiserSource) -> None:
    drawn = [int(source.draw()) for _ in range(4096)]

    low = Counter(each % 16 for each in drawn)
    high = Counter(each * 16 // (N * N) for each in drawn)

    assert len(set(drawn)) == 4096
    assert chi_square(low) < CHI_SQUARE_MOST
    assert chi_square(high) < CHI_SQUARE_MOST


@pytest.mark.parametrize(("exponents", "bits"), [(Exponents.HALF, 128), (Exponents.SHORT, 256)])
def test_exponents_have_the_length_that_they_promise(
    exponents: Exponents, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = new_source(SMALL_KEY.public_key, exponents)
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbits", lambda length: asked.append(length) or 5)

    source.draw()

    assert asked == [bits]


@pytest.mark.parametrize("exponents", [Exponents.HALF, Exponents.SHORT])
def test_the_holder_draws_two_independent_exponents(
    exponents: Exponents, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = new_key_holder_source(SMALL_KEY, exponents)
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbelow", lambda limit: asked.append(limit) or 5)

    source.draw()

    p, q = SMALL_KEY.primes
    wanted = {Exponents.HALF: [p - 1, q - 1], Exponents.SHORT: [2**256, 2**256]}
    assert asked == wanted[exponents]


def test_the_longest_exponents_of_the_holder_fit_the_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = [new_key_holder_source(SMALL_KEY, each) for each in Exponents]
    monkeypatch.setattr(secrets, "randbelow", lambda limit: limit - 1)

    assert [SMALL_KEY.raw_decrypt(each.draw()) for each in sources] == [0, 0, 0]


def test_the_longest_exponent_of_anybody_fits_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [new_source(SMALL_KEY.public_key, each) for each in Exponents]
    monkeypatch.setattr(secrets, "randbelow", lambda limit: limit - 1)
    monkeypatch.setattr(secrets, "randbits", lambda bits: (1 << bits) - 1)

    assert [SMALL_KEY.raw_decrypt(each.draw()) for each in sources] == [0, 0, 0]


def test_anybodys_randomisers_are_what_their_definitions_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[int] = []
    monkeypatch.setattr(secrets, "randbelow", lambda limit: limits.append(limit) or 5)
    monkeypatch.setattr(secrets, "randbits", lambda bits: 3)
    n_squared = N * N

    full = new_source(SMALL_KEY.public_key, Exponents.FULL).draw()
    half = new_source(SMALL_KEY.public_key, Exponents.HALF).draw()

    assert full == pow(6, N, n_squared)
    assert half == pow(pow(-36, N, n_squared), 3, n_squared)
    assert limits == [N - 1, N - 1]


def test_the_holders_randomisers_are_what_their_definitions_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[int] = []
    monkeypatch.setattr(secrets, "randbelow", lambda limit: limits.append(limit) or len(limits))
    p, q = SMALL_KEY.primes

    full = new_key_holder_source(SMALL_KEY, Exponents.FULL).draw()
    half = new_key_holder_source(SMALL_KEY, Exponents.HALF).draw()

    assert full % p**2 == pow(1 + 1, p, p**2)
    assert full % q**2 == pow(1 + 2, q, q**2)
    assert half % p**2 == pow(1 + 3, 5 * p, p**2)
    assert half % q**2 == pow(1 + 4, 6 * q, q**2)
    assert max(full, half) < N * N
    assert limits == [p - 1, q - 1] * 3


def test_no_unit_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbelow", lambda limit: 0)

    drawn = [
        new_source(SMALL_KEY.public_key, Exponents.FULL).draw(),
        new_key_holder_source(SMALL_KEY, Exponents.FULL).draw(),
    ]

    assert [gcd(int(each), N) for each in drawn] == [1, 1]


def test_two_sources_of_one_key_have_bases_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (new_source(SMALL_KEY.public_key, Exponents.HALF) for _ in range(2))
    monkeypatch.setattr(secrets, "randbits", lambda bits: 1)

    assert one.draw() != other.draw()


@pytest.mark.parametrize("exponents", [Exponents.HALF, Exponents.SHORT])
def test_short_exponents_are_refused_for_a_key_that_is_not_known_to_be_a_blum_key(
    exponents: Exponents,
) -> None:
    with pytest.raises(CryptoError, match="must be 'full'"):
        new_source(SMALL_KEY_NOT_BLUM.public_key, exponents)
    with pytest.raises(CryptoError, match="must be 'full'"):
        draw_many(SMALL_KEY_NOT_BLUM.public_key, exponents, 1)


@pytest.mark.parametrize("exponents", Exponents)
def test_the_holder_of_any_key_takes_any_exponents(exponents: Exponents) -> None:
    drawn = new_key_holder_source(SMALL_KEY_NOT_BLUM, exponents).draw()

    assert SMALL_KEY_NOT_BLUM.raw_decrypt(drawn) == 0


def test_full_exponents_are_sound_with_any_key() -> None:
    drawn = [
        new_source(SMALL_KEY_NOT_BLUM.public_key, Exponents.FULL).draw(),
        *draw_many(SMALL_KEY_NOT_BLUM.public_key, Exponents.FULL, 2),
    ]

    assert [SMALL_KEY_NOT_BLUM.raw_decrypt(each) for each in drawn] == [0] * 3


def test_a_worker_that_knows_a_modulus_as_blum_refuses_who_does_not() -> None:
    draw_many(SMALL_KEY.public_key, Exponents.HALF, 1)

    with pytest.raises(CryptoError, match="must be 'full'"):
        draw_many(SmallPublicKey(N), Exponents.HALF, 1)


def test_a_worker_draws_with_the_exponents_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for exponents in Exponents:
        draw_many(SMALL_KEY.public_key, exponents, 1)  # makes the table
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or 5)

    for exponents in (Exponents.HALF, Exponents.SHORT):
        draw_many(SMALL_KEY.public_key, exponents, 1)

    assert asked == [128, 256]


def test_tables_have_a_row_for_each_byte_of_an_exponent() -> None:
    assert len(new_key_holder_source(SMALL_KEY, Exponents.SHORT)._left._rows) == 32  # type: ignore[attr-defined]
    assert len(new_key_holder_source(SMALL_KEY, Exponents.HALF)._right._rows) == 16  # type: ignore[attr-defined]
    assert len(FixedBase(3, N, 9)._rows) == 2


def test_a_worker_draws_as_many_as_asked() -> None:
    drawn = draw_many(SMALL_KEY.public_key, Exponents.HALF, 5)

    assert len(set(drawn)) == 5
    assert [SMALL_KEY.raw_decrypt(each) for each in drawn] == [0] * 5


@pytest.mark.parametrize("exponents", Exponents)
def test_randomisers_of_a_real_key_hide_nothing_of_their_own(exponents: Exponents) -> None:
    key: PaillierPrivateKey = real_key()

    drawn = [
        new_source(key.public_key, exponents).draw(),
        new_key_holder_source(key, exponents).draw(),
    ]

    assert [key.raw_decrypt(each) for each in drawn] == [0, 0]


@pytest.mark.parametrize("exponents", Exponents)
def test_what_knows_the_primes_is_not_copied(exponents: Exponents) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.deepcopy(new_key_holder_source(SMALL_KEY, exponents))
