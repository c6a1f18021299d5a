"""The three small proofs: honest ones pass, and each changed number or point is found."""

import pickle  # noqa: TID251 - a committed secret must refuse it
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from kumiai.core.errors import ProofError
from kumiai.crypto import group
from kumiai.crypto.group import ORDER, Point, draw_scalar
from kumiai.crypto.pedersen import PedersenRows
from kumiai.crypto.sigma import (
    Committed,
    LinearProof,
    ProductProof,
    SquareProof,
    commit_numbers,
    prove_linear,
    prove_product,
    prove_square,
    verify_linear,
    verify_product,
    verify_square,
)
from kumiai.crypto.transcript import Transcript

ROWS = PedersenRows(16)
NUMBERS = st.integers(0, int(ORDER) - 1).map(mpz)
OTHER = group.certain(group.base_multiple(99))


def start() -> Transcript:
    return Transcript("test")


def committed(*numbers: int) -> Committed:
    return commit_numbers(ROWS, [mpz(number) % ORDER for number in numbers], draw_scalar)


def moved(point: Point) -> Point:
    return group.certain(group.add([point, OTHER]))


@given(NUMBERS)
@settings(max_examples=20)
def test_a_square_is_shown(number: mpz) -> None:
    root = committed(number)

    square, proof = prove_square(ROWS, root, start(), draw_scalar)

    assert square.numbers == [number * number % ORDER]
    opened = group.add(
        [
            group.multiply(ROWS.generators[0], square.numbers[0]),
            group.base_multiple(square.blinding),
        ]
    )
    assert group.same(square.point, opened)
    verify_square(ROWS, root.point, square.point, proof, start())


SQUARE_CHANGES: list[Callable[[SquareProof], SquareProof]] = [
    lambda proof: replace(proof, mask=moved(proof.mask)),
    lambda proof: replace(proof, square_mask=moved(proof.square_mask)),
    lambda proof: replace(proof, response=(proof.response + 1) % ORDER),
    lambda proof: replace(proof, blinding_response=(proof.blinding_response + 1) % ORDER),
    lambda proof: replace(proof, square_response=(proof.square_response + 1) % ORDER),
]


@pytest.mark.parametrize("change", SQUARE_CHANGES)
def test_a_changed_square_proof_is_refused(change: Callable[[SquareProof], SquareProof]) -> None:
    root = committed(5)
    square, proof = prove_square(ROWS, root, start(), draw_scalar)

    with pytest.raises(ProofError, match="square must be that of the committed number"):
        verify_square(ROWS, root.point, square.point, change(proof), start())


def test_a_square_of_another_number_is_refused() -> None:
    root, other = committed(5), committed(6)
    square, proof = prove_square(ROWS, root, start(), draw_scalar)

    for points in ((other.point, square.point), (root.point, committed(25).point)):
        with pytest.raises(ProofError):
            verify_square(ROWS, *points, proof, start())
    with pytest.raises(ProofError):
        verify_square(ROWS, root.point, square.point, proof, Transcript("another"))


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=4), min_size=1, max_size=4), st.data())
@settings(max_examples=20)
def test_a_linear_relation_is_shown(numbers: list[list[mpz]], data: st.DataObject) -> None:
    inside = [committed(*each) for each in numbers]
    weights = [[data.draw(NUMBERS) for _ in each] for each in numbers]
    total = mpz(0)
    for own, each in zip(weights, numbers, strict=True):
        total += sum(a * b for a, b in zip(own, each, strict=True))

    proof = prove_linear(ROWS, inside, weights, start(), draw_scalar)

    points = [each.point for each in inside]
    verify_linear(ROWS, points, weights, total % ORDER, proof=proof, transcript=start())
    with pytest.raises(ProofError, match="linear relation between committed numbers"):
        verify_linear(ROWS, points, weights, (total + 1) % ORDER, proof=proof, transcript=start())


WEIGHTS = [[mpz(2), mpz(3)], [mpz(5)]]


def linear() -> tuple[Sequence[Committed], LinearProof]:
    inside = [committed(7, 11), committed(13)]
    return inside, prove_linear(ROWS, inside, WEIGHTS, start(), draw_scalar)


def check_linear(points: Sequence[Point], proof: LinearProof) -> None:
    total = mpz(2 * 7 + 3 * 11 + 5 * 13)
    verify_linear(ROWS, points, WEIGHTS, total, proof=proof, transcript=start())


def test_numbers_that_cancel_out_in_the_relation_are_found_in_their_commitments() -> None:
    inside, proof = linear()
    (first, second), (third,) = proof.responses
    shifted = replace(proof, responses=((first + 3, second - 2), (third,)))

    check_linear([each.point for each in inside], proof)
    with pytest.raises(ProofError, match="responses must open the commitments"):
        check_linear([each.point for each in inside], shifted)


LINEAR_CHANGES: list[Callable[[LinearProof], LinearProof]] = [
    lambda proof: replace(proof, masks=(moved(proof.masks[0]), proof.masks[1])),
    lambda proof: replace(proof, masks=proof.masks[::-1]),
    lambda proof: replace(proof, masked_sum=(proof.masked_sum + 1) % ORDER),
    lambda proof: replace(proof, blinding_responses=proof.blinding_responses[::-1]),
    lambda proof: replace(
        proof, responses=(proof.responses[0], ((proof.responses[1][0] + 1) % ORDER,))
    ),
]


@pytest.mark.parametrize("change", LINEAR_CHANGES)
def test_a_changed_linear_proof_is_refused(change: Callable[[LinearProof], LinearProof]) -> None:
    inside, proof = linear()

    with pytest.raises(ProofError):
        check_linear([each.point for each in inside], change(proof))


def test_a_linear_proof_is_good_for_its_commitments_alone() -> None:
    inside, proof = linear()
    points = [each.point for each in inside]

    with pytest.raises(ProofError, match="responses must open the commitments"):
        check_linear([points[0], moved(points[1])], proof)
    with pytest.raises(ProofError, match="responses must open the commitments"):
        check_linear(points[::-1], proof)


@given(st.lists(NUMBERS, min_size=1, max_size=16), st.data())
@settings(max_examples=20)
def test_a_product_is_shown(numbers: list[mpz], data: st.DataObject) -> None:
    weights = [data.draw(NUMBERS) for _ in numbers]
    blinding = mpz(draw_scalar())
    vector = ROWS.point_of(numbers, blinding)
    product = committed(sum(a * b for a, b in zip(numbers, weights, strict=True)))

    proof = prove_product(
        ROWS, (numbers, blinding), weights, product, transcript=start(), draw=draw_scalar
    )

    verify_product(ROWS, vector, weights, product.point, proof=proof, transcript=start())


VECTOR = [mpz(3), mpz(5), mpz(8)]
PUBLIC = [mpz(10), mpz(100), mpz(1000)]


def shown_product(number: int = 8530) -> tuple[Point | None, Point, ProductProof]:
    blinding = mpz(draw_scalar())
    product = committed(number)
    proof = prove_product(
        ROWS, (VECTOR, blinding), PUBLIC, product, transcript=start(), draw=draw_scalar
    )
    return ROWS.point_of(VECTOR, blinding), product.point, proof


def check_product(vector: Point | None, product: Point, proof: ProductProof) -> None:
    verify_product(ROWS, vector, PUBLIC, product, proof=proof, transcript=start())


PRODUCT_CHANGES: list[Callable[[ProductProof], ProductProof]] = [
    lambda proof: replace(proof, mask=moved(proof.mask)),
    lambda proof: replace(proof, product_mask=moved(proof.product_mask)),
    lambda proof: replace(proof, blinding_response=(proof.blinding_response + 1) % ORDER),
    lambda proof: replace(proof, product_response=(proof.product_response + 1) % ORDER),
    lambda proof: replace(proof, responses=proof.responses[::-1]),
    lambda proof: replace(
        proof,
        # The product with the public vector stays what it is.
        responses=((proof.responses[0] + 10) % ORDER, proof.responses[1] - 1, proof.responses[2]),
    ),
]


@pytest.mark.parametrize("change", PRODUCT_CHANGES)
def test_a_changed_product_proof_is_refused(
    change: Callable[[ProductProof], ProductProof],
) -> None:
    vector, product, proof = shown_product()

    check_product(vector, product, proof)
    with pytest.raises(ProofError):
        check_product(vector, product, change(proof))


def test_a_wrong_product_is_refused() -> None:
    with pytest.raises(ProofError, match="product must be that of the committed vector"):
        check_product(*shown_product(8531))


def test_the_product_of_another_vector_is_refused() -> None:
    vector, product, proof = shown_product()

    for another in (None, OTHER, group.add([vector, OTHER])):
        with pytest.raises(ProofError, match="responses must open the combined row"):
            check_product(another, product, proof)


def after(label: str, *content: bytes) -> object:
    """Return what comes next when this was said, and a challenge asked for."""
    transcript = start()
    transcript.append(label, *content)
    transcript.challenge(label)
    return transcript.challenge("next")


def test_every_mask_is_said_before_its_challenge_is_asked_for() -> None:
    """Who may choose a mask after the challenge proves anything."""
    encode = group.encode_point
    squared, related, multiplied = start(), start(), start()
    root, inside = committed(5), [committed(7, 11), committed(13)]

    square, shown = prove_square(ROWS, root, squared, draw_scalar)
    linear_proof = prove_linear(ROWS, inside, WEIGHTS, related, draw_scalar)
    product = prove_product(
        ROWS, (VECTOR, mpz(1)), PUBLIC, committed(8530), transcript=multiplied, draw=draw_scalar
    )

    points = (root.point, square.point, shown.mask, shown.square_mask)
    assert squared.challenge("next") == after("square", *map(encode, points))
    masked_sum = group.encode_scalar(linear_proof.masked_sum)
    said = [*map(encode, linear_proof.masks), masked_sum]
    assert related.challenge("next") == after("linear", *said)
    masks = (product.mask, product.product_mask)
    assert multiplied.challenge("next") == after("product", *map(encode, masks))


def test_a_committed_secret_tells_nothing_and_cannot_be_pickled() -> None:
    secret = committed(4711)

    assert "4711" not in repr(secret)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)
