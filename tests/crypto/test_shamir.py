import hashlib
import itertools
import math
import pickle  # noqa: TID251 - a share must refuse it
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto import shamir
from kumiai.crypto.fields import SHARE_FIELD, PrimeField
from kumiai.crypto.shamir import (
    Share,
    combine,
    combine_many,
    commitment_of,
    split,
    verify_share,
)

PRIME = SHARE_FIELD.prime
TINY = PrimeField(7)
SALT = bytes(range(32))

secrets_of_the_field = st.integers(0, PRIME - 1)


@st.composite
def sharings(draw: st.DrawFn) -> tuple[int, int, list[Share]]:
    """Give a secret, a threshold, and the shares in any order."""
    secret = draw(secrets_of_the_field)
    share_count = draw(st.integers(2, 12))
    threshold = draw(st.integers(2, share_count))
    shares = split(secret, threshold=threshold, share_count=share_count)
    return secret, threshold, draw(st.permutations(shares))


def weights_at(at: int, xs: list[int]) -> tuple[int, ...]:
    return shamir._weights_at(at, xs, shamir._differences(xs, SHARE_FIELD), SHARE_FIELD)


def value_at_zero(shares: list[Share]) -> int:
    """Interpolate slowly, from the definition, in rational numbers that are reduced at the end."""
    total = Fraction(0)
    for here in shares:
        term = Fraction(here.value)
        for other in shares:
            if other.x != here.x:
                term *= Fraction(-other.x, here.x - other.x)
        total += term
    return total.numerator * pow(total.denominator, PRIME - 2, PRIME) % PRIME


# ---------------------------------------------------------------------------- split and combine


@given(sharings())
def test_any_threshold_of_shares_give_the_secret(sharing: tuple[int, int, list[Share]]) -> None:
    secret, threshold, shares = sharing

    assert combine(shares[:threshold], threshold=threshold) == secret


@given(sharings())
def test_all_shares_together_give_the_secret(sharing: tuple[int, int, list[Share]]) -> None:
    secret, threshold, shares = sharing

    assert combine(shares, threshold=threshold) == secret


@given(sharings())
def test_the_secret_is_the_value_at_zero_of_the_polynomial_through_the_shares(
    sharing: tuple[int, int, list[Share]],
) -> None:
    _, threshold, shares = sharing

    assert combine(shares[:threshold], threshold=threshold) == value_at_zero(shares[:threshold])


@pytest.mark.parametrize("chosen", list(itertools.combinations(range(6), 4)))
def test_every_choice_of_four_of_six_gives_the_secret(chosen: tuple[int, ...]) -> None:
    shares = shamir._split_with(11, [5, 0, PRIME - 1], share_count=6, over=SHARE_FIELD)

    assert combine([shares[index] for index in chosen], threshold=4) == 11


def test_shares_are_the_values_of_the_polynomial_at_one_two_three() -> None:
    shares = shamir._split_with(3, [2, 1], share_count=4, over=PrimeField(101))

    assert [(share.x, share.value) for share in shares] == [(1, 6), (2, 11), (3, 18), (4, 27)]


@pytest.mark.parametrize("secret", [0, 1, PRIME - 1])
def test_the_edges_of_the_field_can_be_shared(secret: int) -> None:
    assert combine(split(secret, threshold=2, share_count=2), threshold=2) == secret


def test_a_secret_is_shared_differently_each_time() -> None:
    assert split(5, threshold=3, share_count=3) != split(5, threshold=3, share_count=3)


@pytest.mark.parametrize("holders", [(1,), (2,), (1, 2), (2, 3), (1, 3)])
def test_fewer_shares_than_the_threshold_fit_every_secret_equally(
    holders: tuple[int, ...],
) -> None:
    # All polynomials of degree 2 over the field of 7 elements, for all secrets.
    seen: dict[tuple[int, ...], Counter[int]] = {}
    for secret, first, second in itertools.product(range(7), repeat=3):
        shares = shamir._split_with(secret, [first, second], share_count=3, over=TINY)
        values = tuple(shares[x - 1].value for x in holders)
        seen.setdefault(values, Counter())[secret] += 1

    assert len(seen) == 7 ** len(holders)
    assert {frozenset(secrets.items()) for secrets in seen.values()} == {
        frozenset((secret, 7 ** (2 - len(holders))) for secret in range(7))
    }


def test_the_polynomial_has_as_many_random_coefficients_as_the_threshold_needs() -> None:
    # With one coefficient fewer, two shares of a threshold of three would give the secret.
    drawn = [split(0, threshold=3, share_count=2 + 1, over=TINY) for _ in range(2000)]

    assert {tuple(share.value for share in shares) for shares in drawn} == {
        tuple(share.value for share in shamir._split_with(0, [a, b], share_count=3, over=TINY))
        for a, b in itertools.product(range(7), repeat=2)
    }


@given(sharings())
def test_one_share_fewer_than_the_threshold_is_refused(
    sharing: tuple[int, int, list[Share]],
) -> None:
    _, threshold, shares = sharing

    with pytest.raises(
        CryptoError,
        match=f"shares must be at least the threshold {threshold}, got {threshold - 1}",
    ):
        combine(shares[: threshold - 1], threshold=threshold)


@pytest.mark.parametrize("chosen", list(itertools.combinations(range(5), 3)))
def test_three_shares_of_a_threshold_of_four_do_not_give_the_secret(
    chosen: tuple[int, ...],
) -> None:
    shares = split(9, threshold=4, share_count=5)

    # By chance they would with a probability of 2^-255.
    assert combine([shares[index] for index in chosen], threshold=3) != 9


def test_one_wrong_share_among_exactly_enough_gives_another_secret() -> None:
    first, second, third = split(9, threshold=3, share_count=3)
    wrong = Share(third.x, (third.value + 1) % PRIME)

    assert combine([first, second, wrong], threshold=3) != 9


@pytest.mark.parametrize("place", range(5))
def test_one_wrong_share_beyond_the_threshold_is_noticed(place: int) -> None:
    shares = list(split(9, threshold=3, share_count=5))
    shares[place] = Share(shares[place].x, (shares[place].value + 1) % PRIME)

    with pytest.raises(CryptoError, match="shares must lie on one polynomial, got one that"):
        combine(shares, threshold=3)


def test_shares_of_a_higher_threshold_than_promised_are_noticed() -> None:
    shares = split(9, threshold=4, share_count=5)

    with pytest.raises(CryptoError, match="shares must lie on one polynomial"):
        combine(shares, threshold=3)


def test_swapped_places_are_noticed() -> None:
    first, second, third = split(9, threshold=2, share_count=3)
    swapped = [Share(1, second.value), Share(2, first.value), third]

    with pytest.raises(CryptoError, match="shares must lie on one polynomial"):
        combine(swapped, threshold=2)


def test_the_same_share_twice_does_not_count_twice() -> None:
    first, second, _ = split(9, threshold=3, share_count=3)

    with pytest.raises(CryptoError, match="shares must stand at distinct x, got two at the same"):
        combine([first, second, first], threshold=3)


def test_a_share_whose_value_happens_to_be_zero_is_as_good_as_any() -> None:
    shares = shamir._split_with(5, [PRIME - 5], share_count=3, over=SHARE_FIELD)

    assert shares[0] == Share(1, 0)
    assert combine(shares, threshold=2) == 5


def test_a_value_out_of_the_field_is_refused() -> None:
    first, second = split(9, threshold=2, share_count=2)

    for value in (second.value + PRIME, PRIME, -1):
        with pytest.raises(CryptoError, match="value of a share must be an element of the field"):
            combine([first, Share(2, value)], threshold=2)


def test_a_place_out_of_the_field_is_refused() -> None:
    with pytest.raises(CryptoError, match="x of a share must be below the prime, got 7"):
        combine([Share(1, 1), Share(2, 1), Share(7, 1)], threshold=2, over=TINY)


@pytest.mark.parametrize("threshold", [-1, 0, 1])
def test_a_threshold_under_which_one_share_is_the_secret_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match=f"threshold must be at least 2, got {threshold}"):
        split(1, threshold=threshold, share_count=3)
    with pytest.raises(ValueError, match=f"threshold must be at least 2, got {threshold}"):
        combine([Share(1, 1), Share(2, 1)], threshold=threshold)


@pytest.mark.parametrize("share_count", [1, 2, 65_536])
def test_a_share_count_that_cannot_serve_is_refused(share_count: int) -> None:
    with pytest.raises(
        ValueError, match=rf"share_count must be 3 \(the threshold\) to 65535, got {share_count}"
    ):
        split(1, threshold=3, share_count=share_count)


def test_a_field_has_no_more_shares_than_places() -> None:
    assert len(split(1, threshold=2, share_count=6, over=TINY)) == 6
    with pytest.raises(ValueError, match="to 6, got 7"):
        split(1, threshold=2, share_count=7, over=TINY)


@pytest.mark.parametrize("secret", [-1, PRIME, 2**300])
def test_a_secret_out_of_the_field_is_refused_without_being_shown(secret: int) -> None:
    with pytest.raises(ValueError, match="secret must be an element of the field") as caught:
        split(secret, threshold=2, share_count=2)

    assert str(secret) not in str(caught.value)


# ---------------------------------------------------------------------------------- many at once


@given(st.lists(secrets_of_the_field, min_size=1, max_size=5), st.data())
def test_many_secrets_with_different_holders_come_back_in_their_order(
    secrets: list[int], data: st.DataObject
) -> None:
    sets = [
        data.draw(st.permutations(split(secret, threshold=3, share_count=6)))[:3]
        for secret in secrets
    ]

    assert combine_many(sets, threshold=3) == tuple(secrets)


def test_of_no_sets_of_shares_no_secrets_come_back() -> None:
    assert combine_many([], threshold=2) == ()


def test_the_weights_of_a_set_of_holders_are_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[tuple[int, ...]] = []

    def watched(xs: tuple[int, ...], over: PrimeField) -> list[int]:
        computed.append(xs)
        return differences_of(xs, over)

    differences_of = shamir._differences
    monkeypatch.setattr(shamir, "_differences", watched)
    sets = [split(secret, threshold=3, share_count=3)[::-1] for secret in range(4)]
    sets += [split(4, threshold=3, share_count=4)[1:]]

    assert combine_many(sets, threshold=3) == (0, 1, 2, 3, 4)
    assert computed == [(1, 2, 3), (2, 3, 4)]


@given(
    st.lists(st.integers(1, 65_535), min_size=1, max_size=8, unique=True),
    st.lists(secrets_of_the_field, min_size=8, max_size=8),
    st.integers(65_536, 70_000),
)
def test_weights_foretell_a_polynomial_at_any_other_place(
    xs: list[int], coefficients: list[int], at: int
) -> None:
    def polynomial(x: int) -> int:
        return sum(each * x**power for power, each in enumerate(coefficients[: len(xs)])) % PRIME

    weights = weights_at(at, xs)

    total = sum(weight * polynomial(x) for weight, x in zip(weights, xs, strict=True))
    assert total % PRIME == polynomial(at)


def test_differences_of_many_far_places_are_those_of_the_formula() -> None:
    # More rows than are taken at once, and as few factors to a word as there can be.
    xs = [*range(1, 300), *range(65_236, 65_536)]

    differences = shamir._differences(xs, SHARE_FIELD)

    assert len(differences) == len(xs)
    for place in (0, 255, 256, 298, 299, 598):
        product = math.prod(xs[place] - x for x in xs if x != xs[place])
        assert differences[place] == product % PRIME


def test_a_place_whose_value_is_known_has_no_weights() -> None:
    with pytest.raises(ValueError, match="element must not be zero"):
        weights_at(2, [1, 2, 3])


# --------------------------------------------------------------------------------------- a share


@pytest.mark.parametrize("x", [0, -1, 65_536])
def test_a_share_at_zero_or_beyond_cannot_be_made(x: int) -> None:
    with pytest.raises(CryptoError, match=f"x of a share must be 1 to 65535, got {x}"):
        Share(x, 1)


@given(st.integers(1, 65_535), secrets_of_the_field)
def test_a_share_comes_back_from_its_bytes(x: int, value: int) -> None:
    data = Share(x, value).encode()

    assert len(data) == shamir.SHARE_SIZE_BYTES == 34
    assert Share.decode(data) == Share(x, value)


def test_the_bytes_of_a_share_are_its_place_and_its_value() -> None:
    assert Share(0x0102, 3).encode() == b"\x02\x01\x03" + bytes(31)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(2) + bytes(32), "x of a share must be 1 to 65535, got 0"),
        (b"\x01\x00" + PRIME.to_bytes(32, "little"), "field element must be below the prime"),
        (b"\x01\x00" + bytes(31), "share must be 34 bytes, got 33"),
        (b"\x01\x00" + bytes(33), "share must be 34 bytes, got 35"),
        (b"", "share must be 34 bytes, got 0"),
    ],
)
def test_bytes_that_are_no_share_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(CryptoError, match=message):
        Share.decode(data)


def test_a_share_does_not_show_its_value() -> None:
    assert repr(Share(3, 1234567)) == "Share(x=3)"
    assert "1234567" not in str(Share(3, 1234567))


def test_a_share_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="a Share cannot be pickled"):
        pickle.dumps(Share(3, 5))


# ----------------------------------------------------------------------------------- commitments


def test_a_commitment_is_the_labelled_hash_of_share_salt_and_context() -> None:
    labelled = b"kumiai/crypto/share/v1/" + b"\x03\x00" + b"\x07" + bytes(31) + SALT + b"round 1"

    commitment = commitment_of(Share(3, 7).encode(), salt=SALT, context=b"round 1")

    assert commitment == hashlib.sha256(labelled).digest()


def test_the_share_that_was_committed_to_passes() -> None:
    commitment = commitment_of(Share(3, 7).encode(), salt=SALT, context=b"round 1")

    verify_share(Share(3, 7).encode(), salt=SALT, context=b"round 1", commitment=commitment)


@pytest.mark.parametrize(
    ("share", "salt", "context"),
    [
        (Share(3, 8), SALT, b"round 1"),
        (Share(4, 7), SALT, b"round 1"),
        (Share(3, 7), SALT[::-1], b"round 1"),
        (Share(3, 7), SALT, b"round 2"),
    ],
    ids=["value", "place", "salt", "context"],
)
def test_anything_but_the_share_that_was_committed_to_is_named(
    share: Share, salt: bytes, context: bytes
) -> None:
    commitment = commitment_of(Share(3, 7).encode(), salt=SALT, context=b"round 1")

    with pytest.raises(
        CryptoError, match="share must be the one that its author published, got another"
    ):
        verify_share(share.encode(), salt=salt, context=context, commitment=commitment)


@pytest.mark.parametrize(("share", "salt"), [(34, 0), (34, 31), (34, 33), (33, 32), (35, 32)])
def test_a_share_or_a_salt_of_another_length_is_refused(share: int, salt: int) -> None:
    # A longer one could take bytes over from the next.
    problem = f"share and salt must be 34 and 32 bytes, got {share} and {salt}"
    with pytest.raises(CryptoError, match=problem):
        commitment_of(bytes(share), salt=bytes(salt), context=b"round 1")
