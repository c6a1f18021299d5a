import itertools
import math
import secrets
from collections.abc import Callable

import gmpy2
import pytest

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import primes
from kumiai.crypto.paillier.primes import (
    KEY_SIZE_MIN,
    new_blum_primes,
    new_safe_primes,
    verify_key_size,
    verify_modulus,
    verify_primes,
)
from tests.crypto.paillier.some_keys import SMALL_KEY

P, Q = SMALL_KEY.primes
MERSENNE = 2**2203 - 1  # a prime


def test_new_primes_make_a_blum_modulus_of_the_length_asked_for() -> None:
    p, q = new_blum_primes(512)

    assert (p * q).bit_length() == 512
    assert (p % 4, q % 4) == (3, 3)
    assert math.gcd(int(p) - 1, int(q) - 1) == 2


FIRST_BLUM = next(n for n in itertools.count(3 << 126 | 3, 4) if gmpy2.is_prime(n))
FIRST_SAFE = next(
    2 * n + 1
    for n in itertools.count(3 << 125 | 1, 2)
    if gmpy2.is_prime(n) and gmpy2.is_prime(2 * n + 1)
)


@pytest.mark.parametrize(
    ("draw", "first", "asked_for"),
    [
        (primes._new_blum_prime, FIRST_BLUM, [128] * (1 + FIRST_BLUM - (3 << 126 | 3))),
        (primes._new_safe_prime, FIRST_SAFE, [127]),
    ],
    ids=["Blum", "safe"],
)
def test_the_bits_that_make_a_modulus_long_and_a_blum_one_are_set_whatever_is_drawn(
    draw: Callable[[int], int],
    first: int,
    asked_for: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = itertools.count()
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or next(drawn))

    prime = draw(128)

    assert asked == asked_for
    assert prime == first
    assert prime >> 126 == 3
    assert prime % 4 == 3


def test_a_safe_prime_that_has_grown_too_long_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = [2**127 - 1, 0]
    monkeypatch.setattr(secrets, "randbits", lambda bits: drawn.pop(0))

    assert primes._new_safe_prime(128) == FIRST_SAFE


def test_primes_that_share_a_factor_in_their_predecessors_are_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = [7, 19, P, P, P, P + 4, P, Q]  # 6 and 18 share 6; what is equal or close is no pair
    monkeypatch.setattr(primes, "_new_blum_prime", lambda bits: drawn.pop(0))

    assert new_blum_primes(256) == (P, Q)


@pytest.mark.parametrize(
    ("n", "complaint"),
    [
        (0, "odd"),
        (1, "odd"),
        (-P * Q, "odd"),
        (2 * P, "odd"),
        (MERSENNE, "no prime"),
        (P * P, "square"),
        (P**3, "power"),
        (3 * P, "factor below"),
        (1_048_573 * P, "factor below"),  # the largest prime below 2^20
    ],
)
def test_a_modulus_that_is_none_is_refused(n: int, complaint: str) -> None:
    with pytest.raises(CryptoError, match=complaint):
        verify_modulus(n)


def test_a_factor_just_above_the_search_is_not_seen() -> None:
    verify_modulus(1_048_583 * P)


@pytest.mark.parametrize(
    ("p", "q", "complaint"),
    [
        (P, P, "differ"),
        (P, 7, "length"),
        (P, P + 2, "far apart"),
        (P, Q + 2, "prime"),
        (P + 2, Q, "prime"),
    ],
)
def test_primes_that_make_no_key_are_refused(p: int, q: int, complaint: str) -> None:
    with pytest.raises(CryptoError, match=complaint):
        verify_primes(p, q)


def test_primes_are_far_apart_from_a_difference_of_100_bits_less_on() -> None:
    q = 2**127  # neither is prime, which is asked last

    with pytest.raises(CryptoError, match="must be far apart"):
        verify_primes(q + 2**28 - 1, q)
    with pytest.raises(CryptoError, match="must be prime"):
        verify_primes(q + 2**28, q)


def test_a_prime_that_divides_the_predecessor_of_the_other_is_refused() -> None:
    # 11 divides 23 - 1, so 11 * 23 decrypts nothing; such a pair is never of one length.
    with pytest.raises(CryptoError, match="length"):
        verify_primes(11, 23)


@pytest.mark.parametrize("key_size", [15, 17, 8193, 8194])
def test_a_length_out_of_range_is_refused(key_size: int) -> None:
    with pytest.raises(CryptoError, match="must be even and from 16 to 8192 bits"):
        verify_key_size(key_size, 16)


@pytest.mark.parametrize("key_size", [16, 8192])
def test_the_shortest_and_the_longest_length_are_accepted(key_size: int) -> None:
    verify_key_size(key_size, 16)


def test_a_key_has_2048_bits_at_least() -> None:
    verify_key_size(2048, KEY_SIZE_MIN)

    with pytest.raises(CryptoError, match="from 2048 to 8192"):
        verify_key_size(2046, KEY_SIZE_MIN)


@pytest.mark.parametrize("key_size", [64, 256, 512])
def test_new_safe_primes_are_twice_a_prime_and_one(key_size: int) -> None:
    p, q = new_safe_primes(key_size)

    assert (p * q).bit_length() == key_size
    assert all(gmpy2.is_prime(each) and gmpy2.is_prime((each - 1) // 2) for each in (p, q))
    assert math.gcd(int(p) - 1, int(q) - 1) == 2


def test_two_safe_primes_that_are_equal_or_close_are_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = [P, P, P, P + 4, P, Q]
    monkeypatch.setattr(primes, "_new_safe_prime", lambda bits: drawn.pop(0))

    assert new_safe_primes(256) == (P, Q)


def test_a_sieve_strikes_out_whatever_has_a_small_factor_and_nothing_else() -> None:
    primes._sieve_primes.cache_clear()
    start = 2**40 + 1
    small = [n for n in range(3, 1 << 15, 2) if gmpy2.is_prime(n)]

    left = set(primes._unsieved(gmpy2.mpz(start)).tolist())

    for offset in range(3000):
        half = start + 2 * offset
        is_struck = any(half % each == 0 or (2 * half + 1) % each == 0 for each in small)
        assert (offset in left) != is_struck


def test_a_search_that_finds_no_safe_prime_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    real = primes._unsieved

    def unsieved(start: int) -> object:
        starts.append(start)
        return [] if len(starts) == 1 else real(start)

    monkeypatch.setattr(primes, "_unsieved", unsieved)
    new_safe_primes(128)

    assert len(starts) >= 3


def test_a_number_that_only_the_quick_test_takes_for_a_prime_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[int] = []
    real = primes._both_prime

    def both_prime(half: int, prime: int) -> bool:
        judged.append(int(prime))
        return len(judged) > 1 and real(half, prime)

    monkeypatch.setattr(primes, "_both_prime", both_prime)

    p, _ = new_safe_primes(128)

    assert judged[0] != p
    assert p in judged
