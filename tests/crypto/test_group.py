import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.core.errors import ProofError
from kumiai.crypto import group
from tests.crypto.plain_curve import BASE, ORDER, PRIME, affine, plain_add, plain_multiply

SCALARS = st.integers(0, 2**256)
EDGES = [0, 1, 2, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1, -1]


@given(SCALARS, SCALARS)
@settings(max_examples=20)
def test_points_add_up_as_the_textbook_says(a: int, b: int) -> None:
    left, right = group.base_multiple(a), group.base_multiple(b)

    total = group.add([left, right])

    assert affine(total) == plain_add(affine(left), affine(right))
    assert affine(total) == plain_multiply(BASE, a + b)


@pytest.mark.parametrize("scalar", EDGES)
def test_multiples_are_those_of_the_textbook(scalar: int) -> None:
    base = group.base_multiple(1)
    other = group.base_multiple(5)

    assert affine(base) == BASE
    assert affine(group.base_multiple(scalar)) == plain_multiply(BASE, scalar)
    assert affine(group.multiply(other, scalar)) == plain_multiply(BASE, 5 * scalar)


def test_the_neutral_element_changes_nothing() -> None:
    point = group.base_multiple(7)

    assert group.same(group.add([None, point, None]), point)
    assert group.add([]) is None
    assert group.multiply(None, 3) is None
    assert group.negate(None) is None
    assert group.base_multiple(0) is None


def test_a_point_and_its_opposite_cancel_out() -> None:
    point = group.base_multiple(11)

    assert group.add([point, group.negate(point)]) is None
    assert group.same(group.negate(point), group.base_multiple(-11))


def test_sums_of_products_are_the_products_of_sums() -> None:
    points = [group.base_multiple(scalar) for scalar in (2, 3, 5)]

    total = group.multiply_many(points, [7, 0, 11])

    assert group.same(total, group.base_multiple(2 * 7 + 5 * 11))
    for scalars in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match=f"must be 3, one a point, got {len(scalars)}"):
            group.multiply_many(points, scalars)


def test_products_of_scalars_are_summed_up_modulo_the_order() -> None:
    large = group.ORDER - 1

    assert group.dot([large, large], [large, 3]) == (1 - 3) % ORDER
    assert group.dot([], []) == 0
    with pytest.raises(ValueError, match="as many on both sides, got 1, 2"):
        group.dot([large], [large, large])


def test_points_are_compared_by_where_they_are() -> None:
    point = group.base_multiple(3)

    assert group.same(point, group.base_multiple(3))
    assert not group.same(point, group.base_multiple(4))
    assert not group.same(point, None)
    assert not group.same(None, point)
    assert group.same(None, None)


@given(st.integers(1, ORDER - 1))
@settings(max_examples=20)
def test_a_point_survives_its_bytes(scalar: int) -> None:
    point = group.base_multiple(scalar)

    content = group.encode_point(point)

    assert len(content) == group.POINT_BYTES
    assert group.same(group.decode_point(content, name="point"), point)


BASE_BYTES = b"\x02" + BASE[0].to_bytes(32, "big")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(bytes(33), id="zeros, as some write the neutral element"),
        pytest.param(b"\x00", id="one zero, as others write it"),
        pytest.param(b"\x02" + (5).to_bytes(32, "big"), id="not on the curve"),
        pytest.param(b"\x02" + PRIME.to_bytes(32, "big"), id="coordinate not below the prime"),
        pytest.param(b"\x02" + b"\xff" * 32, id="coordinate of all ones"),
        pytest.param(b"\x04" + BASE_BYTES[1:], id="other form"),
        pytest.param(BASE_BYTES[:-1], id="too short"),
        pytest.param(BASE_BYTES + b"\x00", id="too long"),
        pytest.param(b"", id="nothing"),
        pytest.param(
            b"\x04" + BASE[0].to_bytes(32, "big") + BASE[1].to_bytes(32, "big"), id="uncompressed"
        ),
        pytest.param(
            b"\x06" + BASE[0].to_bytes(32, "big") + BASE[1].to_bytes(32, "big"), id="hybrid"
        ),
    ],
)
def test_bytes_that_are_no_point_are_refused_by_name(content: bytes) -> None:
    with pytest.raises(ProofError, match="row 7 must"):
        group.decode_point(content, name="row 7")


def test_a_scalar_survives_its_bytes() -> None:
    assert group.decode_scalar(group.encode_scalar(ORDER - 1), name="scalar") == ORDER - 1


@pytest.mark.parametrize("value", [ORDER, ORDER + 1, 2**256 - 1])
def test_a_scalar_that_is_not_below_the_order_is_refused(value: int) -> None:
    with pytest.raises(ProofError, match="response 3 must be below the order"):
        group.decode_scalar(value.to_bytes(32, "big"), name="response 3")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_scalar_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProofError, match=f"response 3 must have 32 bytes, got {size}"):
        group.decode_scalar(bytes(size), name="response 3")


def test_the_neutral_element_has_no_bytes() -> None:
    with pytest.raises(ValueError, match="no encoding"):
        group.encode_point(None)


def test_a_commitment_that_vanished_is_not_sent() -> None:
    point = group.base_multiple(9)

    assert group.same(group.certain(point), point)
    with pytest.raises(ProofError, match="commit again"):
        group.certain(None)


def test_drawn_scalars_are_in_range_and_never_twice_the_same() -> None:
    drawn = [group.draw_scalar() for _ in range(64)]

    assert len(set(drawn)) == 64
    assert all(0 <= scalar < ORDER for scalar in drawn)
    assert max(drawn) > 2**250
