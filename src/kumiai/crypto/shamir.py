"""Shamir's secret sharing: any ``threshold`` shares give the secret, fewer give nothing.

A share is the value of a random polynomial at its holder's ``x``; the secret is the value at 0, so
that no share may ever stand at 0. Shares do not say whether they are genuine: their author
publishes `commitment_of` each, and whoever gets one checks it with `verify_share`. A dealer whose
shares do not lie on one polynomial is found out when the secret is rebuilt and does not fit what
the dealer has published about it.

Source: Shamir 1979, "How to share a secret".
"""

import hashlib
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

import numpy as np

from kumiai.core.errors import CryptoError
from kumiai.crypto.fields import SHARE_FIELD, PrimeField

__all__ = [
    "SHARE_COUNT_MAX",
    "SHARE_SALT_SIZE_BYTES",
    "SHARE_SIZE_BYTES",
    "Share",
    "combine",
    "combine_many",
    "commitment_of",
    "split",
    "verify_share",
]

SHARE_COUNT_MAX: Final = 65_535
SHARE_SALT_SIZE_BYTES: Final = 32
_X_SIZE_BYTES: Final = 2
SHARE_SIZE_BYTES: Final = _X_SIZE_BYTES + SHARE_FIELD.size_bytes

_WORD_BITS: Final = 63
_ROWS_AT_ONCE: Final = 256

_COMMITMENT_DOMAIN: Final = b"kumiai/crypto/share/v1/"


@dataclass(frozen=True, slots=True)
class Share:
    """One holder's share of a secret.

    Attributes:
        x: where the polynomial was evaluated, 1 to 65 535.
        value: what came out, an element of the field.
    """

    x: int
    value: int = field(repr=False)

    def __post_init__(self) -> None:
        """Check the place: the share at 0 would be the secret itself.

        Raises:
            CryptoError: ``x`` is out of its range.
        """
        if not 1 <= self.x <= SHARE_COUNT_MAX:
            raise CryptoError(f"x of a share must be 1 to {SHARE_COUNT_MAX}, got {self.x}")

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a share travels sealed, and on purpose."""
        raise TypeError("a Share cannot be pickled")

    def encode(self) -> bytes:
        """Return the share as 34 bytes, to be sealed for its holder.

        Raises:
            ValueError: the value is not an element of the field that secrets are shared in.
        """
        return self.x.to_bytes(_X_SIZE_BYTES, "little") + SHARE_FIELD.encode(self.value)

    @classmethod
    def decode(cls, data: bytes) -> "Share":
        """Return the share that the bytes stand for.

        Raises:
            CryptoError: the length is wrong, ``x`` is 0, or the value is no element of the field.
        """
        if len(data) != SHARE_SIZE_BYTES:
            raise CryptoError(f"share must be {SHARE_SIZE_BYTES} bytes, got {len(data)}")
        x, value = data[:_X_SIZE_BYTES], data[_X_SIZE_BYTES:]
        return cls(int.from_bytes(x, "little"), SHARE_FIELD.decode(value))


def split(
    secret: int, *, threshold: int, share_count: int, over: PrimeField = SHARE_FIELD
) -> tuple[Share, ...]:
    """Share a secret among holders at 1, 2, … ``share_count``.

    Args:
        secret: an element of the field.
        threshold: how many shares give the secret back, at least 2: with 1 each is the secret.
        share_count: how many shares to make, at least ``threshold`` and at most 65 535.
        over: the field.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 <= secret < over.prime:
        raise ValueError(
            f"secret must be an element of the field, got a number of {secret.bit_length()} bits"
        )
    _verify_threshold(threshold)
    count_max = min(SHARE_COUNT_MAX, over.prime - 1)
    if not threshold <= share_count <= count_max:
        raise ValueError(
            f"share_count must be {threshold} (the threshold) to {count_max}, got {share_count}"
        )
    # The highest coefficient may be zero as well: to rule that out would tell something.
    coefficients = [over.random_element() for _ in range(threshold - 1)]
    return _split_with(secret, coefficients, share_count=share_count, over=over)


def combine(shares: Sequence[Share], *, threshold: int, over: PrimeField = SHARE_FIELD) -> int:
    """Return the secret.

    Args:
        shares: at least ``threshold``, in any order; those beyond it must agree with the others.
        threshold: what the secret was split with.
        over: the field.

    Raises:
        CryptoError: the shares are too few, two have the same ``x``, a value is not in the field,
            or they do not lie on one polynomial.
        ValueError: the threshold is less than 2.
    """
    return combine_many([shares], threshold=threshold, over=over)[0]


def combine_many(
    share_sets: Sequence[Sequence[Share]], *, threshold: int, over: PrimeField = SHARE_FIELD
) -> tuple[int, ...]:
    """Return the secret of each set of shares.

    The weights of a set of holders are computed once, however many secrets they hold shares of.

    Raises:
        CryptoError: as `combine`, for any of the sets.
        ValueError: the threshold is less than 2.
    """
    _verify_threshold(threshold)
    weights: dict[tuple[int, ...], _Weights] = {}
    secrets_found = []
    for shares in share_sets:
        ordered = sorted(shares, key=lambda share: share.x)
        xs = tuple(share.x for share in ordered)
        if xs not in weights:
            weights[xs] = _Weights.of(xs, threshold, over)
        secrets_found.append(weights[xs].secret([share.value for share in ordered], over))
    return tuple(secrets_found)


def commitment_of(share: bytes, *, salt: bytes, context: bytes) -> bytes:
    """Return what a share's author publishes, so that a wrong share can be told from the right one.

    Args:
        share: of `Share.encode`.
        salt: 32 random bytes, which travel with the share and hide it until then.
        context: what the share is for: round, author, holder and which secret; of any length.

    Raises:
        CryptoError: share or salt has another length.
    """
    # Both have fixed lengths, so that nothing can move from one part to the next.
    if len(share) != SHARE_SIZE_BYTES or len(salt) != SHARE_SALT_SIZE_BYTES:
        raise CryptoError(
            f"share and salt must be {SHARE_SIZE_BYTES} and {SHARE_SALT_SIZE_BYTES} bytes, "
            f"got {len(share)} and {len(salt)}"
        )
    return hashlib.sha256(_COMMITMENT_DOMAIN + share + salt + context).digest()


def verify_share(share: bytes, *, salt: bytes, context: bytes, commitment: bytes) -> None:
    """Check a share, of `Share.encode`, against what its author published.

    Raises:
        CryptoError: it is not the share that was committed to.
    """
    if not hmac.compare_digest(commitment_of(share, salt=salt, context=context), commitment):
        raise CryptoError("share must be the one that its author published, got another")


def _verify_threshold(threshold: int) -> None:
    if threshold < 2:
        raise ValueError(f"threshold must be at least 2, got {threshold}")


def _split_with(
    secret: int, coefficients: Sequence[int], *, share_count: int, over: PrimeField
) -> tuple[Share, ...]:
    """Evaluate ``secret + coefficients[0] x + coefficients[1] x^2 + …`` at 1, 2, ….

    Source: Horner's rule.
    """
    falling = [*reversed(coefficients), secret]
    shares = []
    for x in range(1, share_count + 1):
        value = 0
        for coefficient in falling:
            value = (value * x + coefficient) % over.prime
        shares.append(Share(x, value))
    return tuple(shares)


@dataclass(frozen=True, slots=True)
class _Weights:
    """What turns the values of one set of holders into the secret, and checks those too many.

    Attributes:
        at_zero: weights of the first ``threshold`` values.
        at_others: for each further value, the weights that foretell it from the first ones.
    """

    at_zero: tuple[int, ...]
    at_others: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, xs: tuple[int, ...], threshold: int, over: PrimeField) -> "_Weights":
        if len(xs) < threshold:
            raise CryptoError(f"shares must be at least the threshold {threshold}, got {len(xs)}")
        if len(set(xs)) < len(xs):
            raise CryptoError("shares must stand at distinct x, got two at the same")
        if xs[-1] >= over.prime:
            raise CryptoError(f"x of a share must be below the prime, got {xs[-1]}")
        first = xs[:threshold]
        differences = _differences(first, over)
        at_zero, *at_others = (
            _weights_at(at, first, differences, over) for at in (0, *xs[threshold:])
        )
        return cls(at_zero, tuple(at_others))

    def secret(self, values: Sequence[int], over: PrimeField) -> int:
        if not all(0 <= value < over.prime for value in values):
            raise CryptoError("value of a share must be an element of the field, got another")
        known, others = values[: len(self.at_zero)], values[len(self.at_zero) :]
        for weights, value in zip(self.at_others, others, strict=True):
            if _dot(weights, known) % over.prime != value:
                raise CryptoError("shares must lie on one polynomial, got one that does not")
        return _dot(self.at_zero, known) % over.prime


def _differences(xs: Sequence[int], over: PrimeField) -> list[int]:
    """Return for each place its differences from all others, multiplied.

    Source: Berrut and Trefethen 2004, equation 3.2.
    """
    places, count = np.array(xs, np.int64), len(xs)
    # Multiplied in words, as many as surely fit; the rest of the last word is filled up with ones.
    at_once = _WORD_BITS // max(xs).bit_length()
    words = -(-count // at_once)
    products: list[int] = []
    for rows in np.split(places, range(_ROWS_AT_ONCE, count, _ROWS_AT_ONCE)):
        differences = np.ones((len(rows), words * at_once), np.int64)
        differences[:, :count] = rows[:, None] - places
        differences[differences == 0] = 1
        multiplied = differences.reshape(len(rows), words, at_once).prod(axis=2)
        products += [math.prod(each) % over.prime for each in multiplied.tolist()]
    return products


def _weights_at(
    at: int, xs: Sequence[int], differences: Sequence[int], over: PrimeField
) -> tuple[int, ...]:
    """Return the weights of the values at ``xs`` in the value at ``at``.

    Source: Berrut and Trefethen 2004, equations 3.1 and 3.3.
    """
    away = [at - x for x in xs]
    node = math.prod(away) % over.prime
    inverses = over.inverses([a * b for a, b in zip(away, differences, strict=True)])
    return tuple([node * inverse % over.prime for inverse in inverses])


def _dot(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True))
