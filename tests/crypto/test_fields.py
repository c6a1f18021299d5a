import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.fields import SHARE_FIELD, PrimeField

PRIME = 2**255 - 19
TINY = PrimeField(251)

elements = st.integers(0, PRIME - 1)
nonzero = st.integers(1, PRIME - 1)


def test_secrets_are_shared_modulo_the_prime_of_curve25519() -> None:
    assert (
        PrimeField(57896044618658097711785492504343953926634992332820282019728792003956564819949)
        == SHARE_FIELD
    )
    assert SHARE_FIELD.size_bytes == 32


@given(nonzero)
def test_an_element_times_its_inverse_is_one(element: int) -> None:
    assert element * SHARE_FIELD.inverse(element) % PRIME == 1


def test_every_inverse_of_a_tiny_field_is_the_one_found_by_search() -> None:
    found = [TINY.inverse(element) for element in range(1, 251)]

    searched = [
        next(other for other in range(251) if element * other % 251 == 1)
        for element in range(1, 251)
    ]
    assert found == searched


@pytest.mark.parametrize("zero", [0, PRIME, -PRIME])
def test_zero_has_no_inverse(zero: int) -> None:
    with pytest.raises(ValueError, match="element must not be zero to have an inverse, got zero"):
        SHARE_FIELD.inverse(zero)


@given(st.lists(nonzero, max_size=20))
def test_many_inverses_are_those_found_one_by_one(elements: list[int]) -> None:
    assert SHARE_FIELD.inverses(elements) == [pow(each, PRIME - 2, PRIME) for each in elements]


@given(st.lists(nonzero, max_size=5), st.lists(nonzero, max_size=5))
def test_one_zero_among_many_has_no_inverse(before: list[int], after: list[int]) -> None:
    with pytest.raises(ValueError, match="element must not be zero"):
        SHARE_FIELD.inverses([*before, 0, *after])


@given(elements)
def test_an_element_comes_back_from_its_bytes(element: int) -> None:
    assert SHARE_FIELD.decode(SHARE_FIELD.encode(element)) == element


def test_the_least_significant_byte_comes_first() -> None:
    assert SHARE_FIELD.encode(0x0201) == b"\x01\x02" + bytes(30)


@pytest.mark.parametrize("number", [-1, PRIME, 2**256])
def test_a_number_out_of_the_field_has_no_bytes(number: int) -> None:
    with pytest.raises(ValueError, match="element must be at least 0 and below the prime, got"):
        SHARE_FIELD.encode(number)


@pytest.mark.parametrize("number", [PRIME, PRIME + 1, 2**256 - 1])
def test_bytes_of_a_number_out_of_the_field_are_refused(number: int) -> None:
    with pytest.raises(CryptoError, match="field element must be below the prime"):
        SHARE_FIELD.decode(number.to_bytes(32, "little"))


def test_the_largest_element_is_read() -> None:
    assert SHARE_FIELD.decode((PRIME - 1).to_bytes(32, "little")) == PRIME - 1


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_bytes_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(CryptoError, match=f"field element must be 32 bytes, got {size}"):
        SHARE_FIELD.decode(bytes(size))


def test_a_byte_more_is_taken_where_the_prime_needs_it() -> None:
    assert [PrimeField(prime).size_bytes for prime in (2, 251, 257, 65_521, 65_537)] == [
        1,
        1,
        2,
        2,
        3,
    ]


def test_random_elements_are_every_element_and_nothing_else() -> None:
    # 20 000 draws of 251: one that never comes has a probability below 1e-32.
    assert {TINY.random_element() for _ in range(20_000)} == set(range(251))


def test_random_elements_fill_the_whole_field() -> None:
    drawn = [SHARE_FIELD.random_element() for _ in range(200)]

    assert len(set(drawn)) == 200
    assert max(drawn) > PRIME // 4 * 3
    assert min(drawn) < PRIME // 4
