"""A peer sends a point of low order: the secret, or the signature, would be known to everybody.

Keys of low order make an X25519 secret zero whatever the other side's key, and make one Ed25519
signature pass for any message. Both curves have eight such points; here they are computed from
the curves' equations, not copied from the list under test.
"""

import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from kumiai.core.errors import CryptoError
from kumiai.crypto.agreement import AgreementKey, verify_public_key
from kumiai.crypto.signatures import Ed25519Verifier

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
BASE_Y = 4 * pow(5, -1, P) % P
Point = tuple[int, int]


def x_of(y: int) -> int | None:
    """Return the even x of the point of edwards25519 at y, if there is one."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    for x in (root, root * pow(2, (P - 1) // 4, P) % P):
        if x * x % P == square:
            return x if x % 2 == 0 else P - x
    return None


def add(first: Point, second: Point) -> Point:
    (x, y), (other_x, other_y) = first, second
    product = D * x * other_x * y * other_y % P
    return (
        (x * other_y + other_x * y) * pow(1 + product, -1, P) % P,
        (y * other_y + x * other_x) * pow(1 - product, -1, P) % P,
    )


def times(count: int, point: Point) -> Point:
    total = (0, 1)
    while count:
        total = add(total, point) if count & 1 else total
        point = add(point, point)
        count >>= 1
    return total


def low_order_points() -> set[Point]:
    """Return all points whose order divides eight: one of order eight and its multiples."""
    y = 2
    while True:
        x = x_of(y)
        if x is not None:
            small = times(ORDER, (x, y))
            if times(4, small) != (0, 1):
                return {times(count, small) for count in range(8)}
        y += 1


POINTS = low_order_points()
Y = sorted({y for _, y in POINTS})
# Montgomery's u = (1 + y) / (1 - y) of each, and -1, which is of low order on the twist alone;
# the neutral element's u is at infinity, which X25519 writes as 0 like the point of order two.
U = sorted({(1 + y) * pow(1 - y, -1, P) % P for y in Y if y != 1} | {P - 1})


def test_there_are_eight_points_of_low_order_with_five_places_on_each_curve() -> None:
    assert (len(POINTS), len(Y), len(U)) == (8, 5, 5)


@pytest.mark.parametrize("place", U)
def test_the_attack_would_make_the_secret_zero(place: int) -> None:
    public = X25519PublicKey.from_public_bytes(place.to_bytes(32, "little"))

    # The library's own last defence: it refuses a product of zero.
    with pytest.raises(ValueError, match="Error computing shared key"):
        X25519PrivateKey.generate().exchange(public)


@pytest.mark.parametrize("place", U)
def test_a_low_order_public_key_is_refused(place: int) -> None:
    public = place.to_bytes(32, "little")

    with pytest.raises(CryptoError, match="public key must not be of low order, got one that is"):
        AgreementKey.generate().exchange(public)
    with pytest.raises(CryptoError, match="public key must not be of low order, got one that is"):
        verify_public_key(public)


@pytest.mark.parametrize(
    "place", [*(u + P for u in U if u + P < 2**255), *(u | 1 << 255 for u in U)]
)
def test_another_form_of_a_low_order_public_key_is_refused(place: int) -> None:
    with pytest.raises(CryptoError, match="public key must be in canonical form"):
        AgreementKey.generate().exchange(place.to_bytes(32, "little"))


def test_ones_own_key_in_another_form_is_not_taken_for_a_peers() -> None:
    key = AgreementKey.generate()
    echoed = key.public[:31] + bytes([key.public[31] | 0x80])

    with pytest.raises(CryptoError, match="public key must be in canonical form"):
        key.exchange(echoed)


def forged_signature() -> bytes:
    """Return what verifies any message under the neutral element: R = B and S = 1."""
    return BASE_Y.to_bytes(32, "little") + (1).to_bytes(32, "little")


def test_the_attack_would_sign_every_message_under_the_neutral_element() -> None:
    neutral = Ed25519PublicKey.from_public_bytes((1).to_bytes(32, "little"))

    for _ in range(3):
        neutral.verify(forged_signature(), secrets.token_bytes(20))


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", Y)
def test_a_low_order_verification_key_is_refused(y: int, sign: int) -> None:
    key = (y | sign).to_bytes(32, "little")

    with pytest.raises(CryptoError, match="verification key must not be of low order, got one"):
        Ed25519Verifier().verify(key, "label", b"anything", forged_signature())
