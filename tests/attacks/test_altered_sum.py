"""A coordinator publishes another sum than that of the clients' updates, or one of other clients.

The commitments stand: each client signed its own. What the coordinator says about them must fit.
"""

import numpy as np
import pytest

from kumiai.core.errors import ProofError
from kumiai.crypto.blindings import sum_blindings
from kumiai.crypto.group import ORDER
from kumiai.crypto.pedersen import Opening, PedersenRows
from kumiai.crypto.sum_check import verify_sum

ROWS = PedersenRows(16)
RNG = np.random.default_rng(11)
VECTORS = RNG.integers(-30_000, 30_000, (5, 50))
CLIENTS = [ROWS.commit(vector) for vector in VECTORS]


def published(indices: list[int]) -> tuple[np.ndarray, list[int]]:
    """Return what an unmasking of these clients' uploads gives."""
    blindings = [0] * 4
    for index in indices:
        blindings = sum_blindings(blindings, CLIENTS[index].blindings)
    return VECTORS[indices].sum(axis=0), blindings


def check(clients: list[Opening], total: np.ndarray, blindings: list[int]) -> None:
    verify_sum(ROWS, [client.commitments for client in clients], total, blindings)


def test_the_true_sum_of_all_passes() -> None:
    check(CLIENTS, *published([0, 1, 2, 3, 4]))


def test_one_is_added_to_one_coordinate() -> None:
    total, blindings = published([0, 1, 2, 3, 4])

    for coordinate in (0, 15, 16, 49):
        altered = total.copy()
        altered[coordinate] += 1
        with pytest.raises(ProofError, match="must be that of the committed vectors"):
            check(CLIENTS, altered, blindings)


@pytest.mark.parametrize(
    "summed",
    [[0, 1, 2, 3], [0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 3], [0, 0, 0, 0, 0], []],
    ids=["one left out", "one twice", "one in another's place", "one five times", "nobody"],
)
def test_the_sum_of_others_is_published(summed: list[int]) -> None:
    with pytest.raises(ProofError, match="must be that of the committed vectors"):
        check(CLIENTS, *published(summed))


def test_the_coordinator_adds_a_vector_of_its_own() -> None:
    total, blindings = published([0, 1, 2, 3, 4])
    own = ROWS.commit(np.full(50, 3))

    with pytest.raises(ProofError):
        check(CLIENTS, total + 3, sum_blindings(blindings, own.blindings))


def test_numbers_that_only_blindings_could_make_fit_are_found() -> None:
    """Blindings count times another generator: no change of theirs makes up for a coordinate."""
    total, blindings = published([0, 1, 2, 3, 4])
    total[0] += 1

    for change in (1, int(ORDER) - 1, 2**200):
        with pytest.raises(ProofError):
            check(CLIENTS, total, [(blindings[0] + change) % int(ORDER), *blindings[1:]])


def test_a_client_uploads_something_else_than_it_committed_to() -> None:
    total, blindings = published([0, 1, 2, 3, 4])
    upload = VECTORS[2].copy()
    upload[7] += 100

    with pytest.raises(ProofError):
        check(CLIENTS, total - VECTORS[2] + upload, blindings)


def test_a_sum_that_wrapped_around_its_ring_is_found() -> None:
    total, blindings = published([0, 1, 2, 3, 4])

    with pytest.raises(ProofError):
        check(CLIENTS, total - 2**32, blindings)
    with pytest.raises(ProofError):
        check(CLIENTS, total % 2**32, blindings)
