"""A sum is right when its weights add up and, with proofs, its commitments do."""

import numpy as np
import pytest
from numpy.typing import NDArray

from kumiai.crypto.blindings import sum_blindings
from kumiai.secagg.descriptor import Proofs
from kumiai.secagg.messages import MaskedInput
from kumiai.secagg.sum_checks import is_sum_of
from kumiai.secagg.vectors import VectorLayout
from tests.secagg.rounds import describe, pedersen_proofs, signers_of


def shown(numbers: list[int], blindings: list[int]) -> tuple[VectorLayout, NDArray[np.uint8]]:
    layout = VectorLayout(len(numbers), 32, len(blindings))
    vector = layout.empty()
    layout.words(vector)[:] = np.array(numbers, np.int64).view(np.uint64)
    layout.write_blindings(vector, blindings)
    return layout, vector


def said(weight: int, commitments: bytes = b"") -> MaskedInput:
    return MaskedInput(bytes(32), 0, weight, commitments, b"", ())


@pytest.mark.parametrize(("total", "is_right"), [(5, True), (4, False), (-5, False)])
def test_without_proofs_the_weights_must_add_up(total: int, is_right: bool) -> None:
    layout, vector = shown([7, -7, total], [])

    assert is_sum_of(vector, [said(2), said(3)], layout=layout, proofs=None) is is_right


def test_with_proofs_the_commitments_must_add_up() -> None:
    descriptor = describe(signers_of(4), proofs=Proofs.SUM)
    proofs = pedersen_proofs()
    numbers = [np.full(38, number, np.int64) for number in (2, 3)]
    made = [proofs.commit(each, descriptor, b"") for each in numbers]
    inputs = [said(number, each.commitments) for number, each in zip((2, 3), made, strict=True)]
    blindings = sum_blindings(*(each.blindings for each in made))
    total = sum(numbers).tolist()

    def found(numbers: list[int], blindings: list[int]) -> bool:
        layout, vector = shown(numbers, blindings)
        return is_sum_of(vector, inputs, layout=layout, proofs=proofs)

    assert found(total, blindings)
    assert not found([total[0] + 1, *total[1:]], blindings)
    assert not found(total, [blindings[0] + 1, *blindings[1:]])
    assert not found(total[1:], blindings[1:])
    layout, vector = shown(total, blindings)
    vector[layout.ring_size_bytes :] = 0xFF
    assert not is_sum_of(vector, inputs, layout=layout, proofs=proofs)
