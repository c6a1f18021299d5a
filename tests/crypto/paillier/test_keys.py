import copy
import hashlib
import pickle  # noqa: TID251 - a private key must refuse it

import phe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import PaillierPrivateKey, PaillierPublicKey
from tests.crypto.paillier.some_keys import (
    OTHER_SMALL_KEY,
    SMALL_KEY,
    SMALL_KEY_NOT_BLUM,
    SmallPrivateKey,
    SmallPublicKey,
    real_key,
)

KEY = SMALL_KEY.public_key
N = KEY.n
P, Q = SMALL_KEY.primes

residues = st.integers(0, N - 1)
units = st.integers(1, N - 1)


def encrypted(plaintext: int, unit: int) -> int:
    return KEY.raw_encrypt(plaintext, pow(unit, N, N * N))


def slowly_decrypted(ciphertext: int) -> int:
    """Decrypt by the definition of 1999, without Chinese remainders."""
    order = (P - 1) * (Q - 1)
    power = pow(ciphertext, order, N * N)
    return (power - 1) // N * pow(order, -1, N) % N


@given(residues, units)
def test_what_is_encrypted_is_decrypted(plaintext: int, unit: int) -> None:
    ciphertext = encrypted(plaintext, unit)

    assert SMALL_KEY.raw_decrypt(ciphertext) == plaintext
    assert slowly_decrypted(ciphertext) == plaintext


@pytest.mark.parametrize("plaintext", [0, 1, N - 1, N // 2 - 1, N // 2, N // 2 + 1])
def test_the_ends_and_the_middle_of_the_plaintexts_come_back(plaintext: int) -> None:
    assert SMALL_KEY.raw_decrypt(encrypted(plaintext, 2)) == plaintext


def test_the_ends_and_the_middle_come_back_with_a_key_of_real_size() -> None:
    key = real_key()
    n = key.public_key.n
    randomiser = pow(3, n, n * n)
    known = [0, 1, n - 1, n // 2 - 1, n // 2, n // 2 + 1]

    came_back = [key.raw_decrypt(key.public_key.raw_encrypt(m, randomiser)) for m in known]

    assert came_back == known


def test_a_known_ciphertext_is_reached() -> None:
    p, q = 4_194_287, 4_194_271  # about the smallest that have no factor below 2^20
    key = SmallPrivateKey(p, q)
    n = p * q

    ciphertext = key.public_key.raw_encrypt(123_456, pow(7, n, n * n))

    assert ciphertext == pow(1 + n, 123_456, n * n) * pow(7, n, n * n) % (n * n)
    assert key.raw_decrypt(ciphertext) == 123_456


@given(residues, units, residues, units)
def test_adding_ciphertexts_adds_plaintexts(a: int, r: int, b: int, s: int) -> None:
    total = KEY.raw_add(encrypted(a, r), encrypted(b, s))

    assert SMALL_KEY.raw_decrypt(total) == (a + b) % N


@given(residues, units, st.integers(-N, N))
def test_raising_a_ciphertext_multiplies_its_plaintext(a: int, r: int, scalar: int) -> None:
    product = KEY.raw_multiply(encrypted(a, r), scalar)

    assert SMALL_KEY.raw_decrypt(product) == a * scalar % N


@pytest.mark.parametrize(
    "ciphertext", [0, -1, N, 2 * N, P, P * 12345, Q * P * 7, N * N, N * N + 1, -(N + 1)]
)
def test_what_is_no_ciphertext_is_refused(ciphertext: int) -> None:
    with pytest.raises(CryptoError, match="ciphertext"):
        SMALL_KEY.raw_decrypt(ciphertext)
    with pytest.raises(CryptoError, match="ciphertext"):
        KEY.verify_ciphertexts([encrypted(1, 2), ciphertext, encrypted(3, 4)])


def test_ciphertexts_are_accepted_together() -> None:
    KEY.verify_ciphertexts([1, encrypted(1, 2), N * N - 1])
    KEY.verify_ciphertexts([])


def test_a_key_knows_whether_it_is_a_blum_key() -> None:
    assert SMALL_KEY.public_key.is_blum
    assert not SMALL_KEY_NOT_BLUM.public_key.is_blum
    assert not SmallPrivateKey(4_194_287, 4_194_301).public_key.is_blum  # 3 and 1 mod 4
    assert not SmallPrivateKey(4_194_301, 4_194_287).public_key.is_blum
    assert not SmallPublicKey(N).is_blum


def test_blum_primes_whose_predecessors_share_a_factor_are_not_taken_for_a_blum_key() -> None:
    p, q = 4_194_271, 4_194_247  # both 3 mod 4, and 3 divides both predecessors

    assert (p % 4, q % 4, p % 3, q % 3) == (3, 3, 1, 1)
    assert not SmallPrivateKey(p, q).public_key.is_blum


def test_a_fingerprint_is_the_modulus_alone() -> None:
    same = SmallPublicKey(N, is_blum=False)

    assert same == KEY
    assert hash(same) == hash(KEY)
    assert same.fingerprint == KEY.fingerprint
    assert OTHER_SMALL_KEY.public_key != KEY
    assert hash(OTHER_SMALL_KEY.public_key) != hash(KEY)
    assert OTHER_SMALL_KEY.public_key.fingerprint != KEY.fingerprint
    assert KEY != N


def test_a_fingerprint_is_the_hash_of_label_and_modulus() -> None:
    data = b"kumiai/paillier/key-fingerprint/v1\0" + N.to_bytes(32, "big")

    assert KEY.fingerprint == hashlib.sha256(data).digest()
    assert KEY.short_name == KEY.fingerprint.hex()[:8]


def test_sizes_follow_from_the_modulus() -> None:
    assert (KEY.key_size, KEY.ciphertext_size) == (256, 64)
    assert KEY.plaintext_max == N // 3 - 1 == phe.PaillierPublicKey(N).max_int


def test_a_key_of_another_modulus_is_refused_by_name() -> None:
    KEY.verify_same(SmallPublicKey(N))

    with pytest.raises(CryptoError, match=f"of key {KEY.short_name}, got one of"):
        KEY.verify_same(OTHER_SMALL_KEY.public_key)


def test_a_new_key_has_the_size_asked_for_and_else_2048_bits() -> None:
    key = PaillierPrivateKey.generate()

    assert key.public_key.key_size == 2048
    assert PaillierPrivateKey.generate(2050).public_key.key_size == 2050
    assert key.public_key.is_blum
    assert key.raw_decrypt(key.public_key.raw_encrypt(42, 1)) == 42


def test_a_private_key_shows_neither_prime() -> None:
    shown = repr(SMALL_KEY) + str(SMALL_KEY) + repr(KEY)

    assert KEY.short_name in shown
    assert not any(digits in shown for digits in (str(P), f"{P:x}", str(Q), f"{Q:x}"))


@pytest.mark.parametrize("key_size", [1024, 2047, 2049, 8194, 1_000_000])
def test_a_key_of_a_wrong_length_is_refused_before_it_is_looked_for(key_size: int) -> None:
    with pytest.raises(CryptoError, match="key_size must be even and from 2048 to 8192"):
        PaillierPrivateKey.generate(key_size)


def test_a_modulus_of_a_wrong_length_or_kind_is_refused() -> None:
    with pytest.raises(CryptoError, match="key_size"):
        PaillierPublicKey(N)
    with pytest.raises(CryptoError, match="key_size"):
        PaillierPrivateKey(P, Q)
    with pytest.raises(CryptoError, match="no square"):
        SmallPublicKey(P * P)
    with pytest.raises(CryptoError, match="must differ"):
        SmallPrivateKey(P, P)


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_private_key_is_neither_pickled_nor_copied(leak: object) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        leak(SMALL_KEY)  # type: ignore[operator]
