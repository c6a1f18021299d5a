from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.crypto import hash_to_curve as module
from kumiai.crypto.hash_to_curve import hash_to_curve
from tests.crypto.known_answers import known_answers

PRIME = 2**256 - 2**32 - 977
ANSWERS = known_answers("secp256k1_hash_to_curve")
DST = ANSWERS["dst"].encode()


def hexadecimal(numbers: tuple[int, int]) -> list[str]:
    return [f"{number:064x}" for number in numbers]


def is_on_secp256k1(x: int, y: int) -> bool:
    return (y * y - x * x * x - 7) % PRIME == 0


@pytest.mark.parametrize("vector", ANSWERS["vectors"], ids=lambda vector: vector["message"][:8])
def test_points_are_those_of_rfc_9380(vector: dict[str, Any]) -> None:
    x, y = (int(number, 16) for number in vector["point"])

    point = hash_to_curve(vector["message"].encode(), DST)

    assert point == bytes([2 + y % 2]) + x.to_bytes(32, "big")


@pytest.mark.parametrize("vector", ANSWERS["vectors"], ids=lambda vector: vector["message"][:8])
def test_every_step_is_that_of_rfc_9380(vector: dict[str, Any]) -> None:
    first, second = module._hash_to_field(vector["message"].encode(), DST)
    points = module._map_to_curve(first), module._map_to_curve(second)

    assert hexadecimal((first, second)) == vector["u"]
    assert hexadecimal(points[0]) == vector["q0"]
    assert hexadecimal(points[1]) == vector["q1"]
    assert hexadecimal(module._add(*points)) == vector["point"]


@pytest.mark.parametrize("vector", ANSWERS["expansion"]["vectors"])
def test_bytes_are_expanded_as_in_rfc_9380(vector: dict[str, Any]) -> None:
    dst = ANSWERS["expansion"]["dst"].encode()

    expanded = module._expand(vector["message"].encode(), dst, vector["size_bytes"])

    assert expanded.hex() == vector["expanded"]


@given(st.integers(0, PRIME - 1))
def test_every_element_is_mapped_onto_the_curve(element: int) -> None:
    x, y = module._simplified_swu(element)

    assert (y * y - x * x * x - module._A * x - module._B) % PRIME == 0
    assert y % 2 == element % 2
    assert is_on_secp256k1(*module._map_to_curve(element))


def test_a_polynomial_is_given_from_its_constant_term_on() -> None:
    assert module._polynomial((1, 2, 3), 10) == 321
    assert module._polynomial((1, 1), PRIME - 1) == 0


ROOT_OF_AN_ELEVENTH = pow(pow(11, -1, PRIME), (PRIME + 1) // 4, PRIME)


@pytest.mark.parametrize("element", [0, ROOT_OF_AN_ELEVENTH, PRIME - ROOT_OF_AN_ELEVENTH])
def test_the_elements_that_the_formula_leaves_out_are_mapped_to_the_curve_as_well(
    element: int,
) -> None:
    assert (121 * element**4 - 11 * element**2) % PRIME == 0

    x, y = module._simplified_swu(element)

    # B / (Z A), as section 6.6.2 demands.
    assert x * -11 * module._A % PRIME == 1771
    assert y % 2 == element % 2
    assert is_on_secp256k1(*module._map_to_curve(element))


@given(st.binary(max_size=100))
def test_a_point_is_compressed_with_the_parity_of_its_y(message: bytes) -> None:
    point = hash_to_curve(message, DST)

    x = int.from_bytes(point[1:], "big")
    root = pow(x * x * x + 7, (PRIME + 1) // 4, PRIME)
    assert len(point) == module.POINT_SIZE_BYTES == 33
    assert point[0] in (2, 3)
    assert is_on_secp256k1(x, root)


def test_both_parities_occur() -> None:
    assert {hash_to_curve(bytes([n]), DST)[0] for n in range(20)} == {2, 3}


def test_other_messages_and_other_tags_give_other_points() -> None:
    points = {
        hash_to_curve(b"message", DST),
        hash_to_curve(b"message1", DST),
        hash_to_curve(b"message", DST + b"1"),
        hash_to_curve(b"", DST),
    }

    assert len(points) == 4


def test_the_same_message_gives_the_same_point() -> None:
    assert hash_to_curve(b"message", DST) == hash_to_curve(b"message", DST)


@pytest.mark.parametrize("size", [0, 15, 256])
def test_a_tag_that_does_not_separate_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"dst must be 16 to 255 bytes, got {size}"):
        hash_to_curve(b"message", bytes(size))


@pytest.mark.parametrize("size", [16, 255])
def test_the_shortest_and_the_longest_tag_serve(size: int) -> None:
    assert len(hash_to_curve(b"message", bytes(size))) == 33


def test_points_above_each_other_are_not_added_wrongly() -> None:
    x, y = module._map_to_curve(1)

    for other in ((x, y), (x, PRIME - y)):
        with pytest.raises(ValueError, match="element must not be zero to have an inverse"):
            module._add((x, y), other)
