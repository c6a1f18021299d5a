"""Somebody gets, asks for or hands in the share at x = 0, which is the secret itself.

A sharing that counts its holders from 0 gives the first of them everything, and a coordinator
that may name the places of shares asks for place 0.
"""

import pytest

from kumiai.core.errors import CryptoError
from kumiai.crypto.fields import SHARE_FIELD
from kumiai.crypto.shamir import Share, combine, split

SECRET = 1234567890123456789


@pytest.mark.parametrize(("threshold", "share_count"), [(2, 2), (2, 5), (3, 5), (67, 100)])
def test_no_holder_ever_gets_the_secret_as_a_share(threshold: int, share_count: int) -> None:
    shares = split(SECRET, threshold=threshold, share_count=share_count)

    assert [share.x for share in shares] == list(range(1, share_count + 1))
    # By chance one would be the secret with a probability below 2^-248.
    assert SECRET not in {share.value for share in shares}


def test_a_share_at_zero_cannot_even_be_named() -> None:
    with pytest.raises(CryptoError, match="x of a share must be 1 to 65535, got 0"):
        Share(0, SECRET)


def test_a_share_at_zero_cannot_be_sent() -> None:
    data = b"\x00\x00" + SHARE_FIELD.encode(SECRET)

    with pytest.raises(CryptoError, match="x of a share must be 1 to 65535, got 0"):
        Share.decode(data)


def test_a_place_that_is_zero_modulo_the_prime_cannot_be_named() -> None:
    with pytest.raises(CryptoError, match="x of a share must be 1 to 65535"):
        Share(SHARE_FIELD.prime, SECRET)


def test_one_share_is_never_enough() -> None:
    share = split(SECRET, threshold=2, share_count=3)[0]

    for copies in (1, 2, 3):
        with pytest.raises(CryptoError, match="shares must"):
            combine([share] * copies, threshold=2)
    with pytest.raises(ValueError, match="threshold must be at least 2, got 1"):
        combine([share], threshold=1)
