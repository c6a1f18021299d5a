import copy
import hashlib
import math
import pickle  # noqa: TID251 - a key share must refuse it
import secrets
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import gmpy2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import (
    DecryptionShare,
    EncryptedVector,
    PaillierCrypto,
    SlotLayout,
    ThresholdKey,
    ThresholdKeyShare,
    deal_threshold_key,
    sum_of_vectors,
)
from kumiai.crypto.paillier import threshold as threshold_module
from kumiai.crypto.paillier.decryption_proof import (
    DecryptionProof,
    prove_decryption,
    response_bits_max,
)
from kumiai.crypto.paillier.threshold import deal_primes
from tests.crypto.paillier.some_keys import OTHER_SMALL_KEY, SMALL_SAFE_KEY, real_safe_key

PUBLIC = SMALL_SAFE_KEY.public_key
N = PUBLIC.n
ORDER = math.prod((prime - 1) // 2 for prime in SMALL_SAFE_KEY.primes)
KEY, SHARES = deal_primes(PUBLIC, SMALL_SAFE_KEY.primes, threshold=3, share_count=5)
CRYPTO = PaillierCrypto(key=PUBLIC)
LAYOUT = SlotLayout(value_bits=8, summand_count_max=10)


def answers(encrypted: object, *indexes: int) -> list[DecryptionShare]:
    return [SHARES[index - 1].decryption_share(encrypted) for index in indexes]  # type: ignore[arg-type]


@given(st.integers(-(2**500), 2**500), st.permutations(range(1, 6)))
def test_any_three_of_five_decrypt_in_any_order(value: int, order: list[int]) -> None:
    number = CRYPTO.encrypt(value)

    assert KEY.decrypt(number, answers(number, *order[:3])) == value


@pytest.mark.parametrize(("threshold", "share_count"), [(2, 2), (2, 5), (5, 5), (2, 100), (4, 7)])
def test_every_shape_of_sharing_decrypts(threshold: int, share_count: int) -> None:
    key, shares = deal_primes(
        PUBLIC, SMALL_SAFE_KEY.primes, threshold=threshold, share_count=share_count
    )
    number = CRYPTO.encrypt(-42) + CRYPTO.encrypt(0.5)

    found = [share.decryption_share(number) for share in shares[-threshold:]]

    assert key.decrypt(number, found) == -41.5


def test_a_sum_of_vectors_is_decrypted_together() -> None:
    rows = [[1, -2, 3] * 20, [-127, 127, 0] * 20]
    total = sum_of_vectors(CRYPTO.encrypt_many(row, LAYOUT) for row in rows)

    sums = KEY.decrypt_many(total, answers(total, 5, 1, 3))

    assert len(total.ciphertexts) > 2
    assert sums.tolist() == [-126, 125, 3] * 20


def test_a_vector_with_a_step_is_decrypted_to_floats_and_an_empty_one_to_nothing() -> None:
    vector = CRYPTO.encrypt_many([0.5, -1.0], SlotLayout(step=0.25))
    nothing = CRYPTO.encrypt_many([], LAYOUT)

    assert KEY.decrypt_many(vector, answers(vector, 1, 2, 3)).tolist() == [0.5, -1.0]
    assert KEY.decrypt_many(nothing, answers(nothing, 1, 2, 3)).tolist() == []


def test_more_shares_than_needed_do_no_harm() -> None:
    number = CRYPTO.encrypt(42)

    assert KEY.decrypt(number, answers(number, 1, 2, 3, 4, 5)) == 42


def interpolated_at_zero(points: list[tuple[int, int]], modulus: int) -> int:
    """Interpolate slowly, from the definition, in rational numbers that are reduced at the end."""
    total = Fraction(0)
    for x, y in points:
        term = Fraction(y)
        for other, _ in points:
            if other != x:
                term *= Fraction(-other, x - other)
        total += term
    return total.numerator * pow(total.denominator, -1, modulus) % modulus


@pytest.mark.parametrize("chosen", [(0, 1, 2), (1, 3, 4), (0, 1, 2, 3, 4)])
def test_shares_lie_on_a_polynomial_that_begins_with_the_decryption_exponent(
    chosen: tuple[int, ...],
) -> None:
    points = [(SHARES[index].index, SHARES[index].value) for index in chosen]

    exponent = interpolated_at_zero(points, N * ORDER)

    assert exponent % ORDER == 0
    assert exponent % N == 1


def test_two_of_three_shares_lie_on_no_such_line() -> None:
    exponents = {
        interpolated_at_zero([(a.index, a.value), (b.index, b.value)], N * ORDER)
        for a, b in combinations(SHARES, 2)
    }

    assert len(exponents) == 10  # each pair finds something else
    assert not any(each % ORDER == 0 or each % N == 1 for each in exponents)


def test_too_few_shares_are_refused() -> None:
    number = CRYPTO.encrypt(42)

    with pytest.raises(CryptoError, match="3 different holders, got 2"):
        KEY.decrypt(number, answers(number, 1, 2))
    with pytest.raises(CryptoError, match="3 different holders, got 2"):
        KEY.decrypt(number, answers(number, 1, 2, 2))
    with pytest.raises(CryptoError, match="3 different holders, got 0"):
        KEY.decrypt(number, [])


def test_too_few_shares_decrypt_to_something_else_even_if_nobody_refuses() -> None:
    number = CRYPTO.encrypt(42)
    careless = replace(KEY, threshold=2)

    found = [
        careless._joined(number, answers(number, *pair)) for pair in combinations(range(1, 6), 2)
    ]

    assert [42] not in found
    assert len(found) == 10


def refused(number: object, *shares: DecryptionShare, match: str) -> None:
    with pytest.raises(CryptoError, match=match):
        KEY.decrypt(number, shares)  # type: ignore[arg-type]


def test_a_wrong_share_is_pinned_on_its_author() -> None:
    number = CRYPTO.encrypt(42)
    one, two, four = answers(number, 1, 2, 4)
    n_squared = N * N
    wrong = replace(four, values=(four.values[0] * (1 + N) % n_squared,))

    refused(number, one, two, wrong, match="decryption share 4 must match")
    assert KEY.decrypt(number, answers(number, 1, 2, 3)) == 42


def test_no_part_of_a_share_can_be_changed() -> None:
    number = CRYPTO.encrypt(42)
    one, two, four = answers(number, 1, 2, 4)
    proof = four.proof
    forged = [
        replace(four, values=one.values),
        replace(four, values=(N * N - four.values[0],)),
        replace(four, index=5),
        replace(four, proof=one.proof),
        replace(four, proof=replace(proof, challenge=proof.challenge ^ 1)),
        replace(four, proof=replace(proof, response=proof.response + 1)),
        replace(four, proof=DecryptionProof(0, 0)),
    ]

    for each in forged:
        refused(number, one, two, each, match="must match its key share")


def test_an_answer_to_something_else_is_refused() -> None:
    number, other = CRYPTO.encrypt(42), CRYPTO.encrypt(42)
    (replayed,) = answers(other, 3)

    refused(number, *answers(number, 1, 2), replayed, match="share 3 must match")


def test_values_that_only_agree_in_their_product_are_refused() -> None:
    vector = CRYPTO.encrypt_many([1] * 60, LAYOUT)
    honest = SHARES[3].decryption_share(vector)
    twist = pow(5, 4, N * N)
    first, second, *rest = honest.values
    values = (first * twist % N**2, second * pow(twist, -1, N**2) % N**2, *rest)
    exponent = math.factorial(5) * SHARES[3].value
    statement = KEY.statement(4, vector.ciphertexts, values)

    cheated = DecryptionShare(4, values, prove_decryption(statement, exponent))

    with pytest.raises(CryptoError, match="share 4 must match"):
        KEY.verify_share(vector, cheated)
    KEY.verify_share(vector, honest)


def test_a_sign_that_a_holder_turned_changes_no_plaintext() -> None:
    number = CRYPTO.encrypt(42)
    one, two, four = answers(number, 1, 2, 4)
    values = (N * N - four.values[0],)
    statement = KEY.statement(4, number.limbs, values)
    proof = prove_decryption(statement, math.factorial(5) * SHARES[3].value)

    assert KEY.decrypt(number, [one, two, DecryptionShare(4, values, proof)]) == 42


@pytest.mark.parametrize("index", [0, -1, 6])
def test_an_index_that_nobody_has_is_refused(index: int) -> None:
    number = CRYPTO.encrypt(42)
    one, two, four = answers(number, 1, 2, 4)

    refused(number, one, two, replace(four, index=index), match="index must be from 1 to 5")
    with pytest.raises(CryptoError, match="index must be from 1 to 5"):
        ThresholdKeyShare(KEY, index, SHARES[0].value)


def test_a_proof_of_a_wrong_length_is_refused() -> None:
    number = CRYPTO.encrypt(42)
    one, two, four = answers(number, 1, 2, 4)
    longest = 1 << response_bits_max(KEY.secret_bits)
    proofs = [
        replace(four.proof, challenge=four.proof.challenge + (1 << 256)),
        replace(four.proof, challenge=-1),
        replace(four.proof, response=longest),
        replace(four.proof, response=-1),
    ]

    for proof in proofs:
        refused(number, one, two, replace(four, proof=proof), match="must be of its length")


def test_a_wrong_number_of_values_is_refused() -> None:
    number = CRYPTO.encrypt(42)
    one, two, four = answers(number, 1, 2, 4)

    refused(number, one, two, replace(four, values=()), match="must have 1 values, got 0")
    refused(number, one, two, replace(four, values=four.values * 2), match="got 2")


def test_a_value_that_is_no_ciphertext_is_refused() -> None:
    number = CRYPTO.encrypt(42)
    one, two, four = answers(number, 1, 2, 4)

    for value in (0, N, N * N, -1):
        refused(number, one, two, replace(four, values=(value,)), match="ciphertext")


def test_what_is_of_another_key_or_forged_is_neither_answered_nor_decrypted() -> None:
    other = PaillierCrypto(key=OTHER_SMALL_KEY).encrypt(1)
    forged = EncryptedVector(PUBLIC, LAYOUT, 1, 1, (SMALL_SAFE_KEY.primes[0],))

    with pytest.raises(CryptoError, match="must be of key"):
        SHARES[0].decryption_share(other)
    with pytest.raises(CryptoError, match="must be of key"):
        KEY.decrypt(other, answers(CRYPTO.encrypt(1), 1, 2, 3))
    with pytest.raises(CryptoError, match="share no factor"):
        SHARES[0].decryption_share(forged)


def test_a_key_share_that_the_dealer_did_not_publish_is_refused() -> None:
    for index, value in [(1, SHARES[1].value), (2, SHARES[0].value), (1, SHARES[0].value + 1)]:
        with pytest.raises(CryptoError, match=f"key share {index} must fit"):
            ThresholdKeyShare(KEY, index, value)
    for value in (0, -1, N * N):
        with pytest.raises(CryptoError, match="from 1 to"):
            ThresholdKeyShare(KEY, 1, value)


@pytest.mark.parametrize(
    ("threshold", "share_count"), [(1, 5), (0, 5), (6, 5), (2, 1), (2, 101), (-1, 3)]
)
def test_a_sharing_that_cannot_be_is_refused(threshold: int, share_count: int) -> None:
    with pytest.raises(CryptoError, match="threshold must be from 2"):
        deal_primes(PUBLIC, SMALL_SAFE_KEY.primes, threshold=threshold, share_count=share_count)
    with pytest.raises(CryptoError, match="threshold must be from 2"):
        deal_threshold_key(2048, threshold=threshold, share_count=share_count)
    with pytest.raises(CryptoError, match="threshold must be from 2"):
        ThresholdKey(PUBLIC, threshold, share_count, KEY.base, KEY.verifiers)


def test_a_key_with_a_wrong_number_of_verifiers_or_forged_ones_is_refused() -> None:
    with pytest.raises(CryptoError, match="verifiers must be 5, got 4"):
        replace(KEY, verifiers=KEY.verifiers[:4])
    with pytest.raises(CryptoError, match="ciphertext"):
        replace(KEY, verifiers=(0, *KEY.verifiers[1:]))
    with pytest.raises(CryptoError, match="ciphertext"):
        replace(KEY, base=N)


def test_a_key_that_is_too_short_is_not_dealt() -> None:
    with pytest.raises(CryptoError, match="key_size"):
        deal_threshold_key(1024, threshold=2, share_count=3)


@pytest.mark.parametrize(("key_size", "share_count"), [(1024, 3), (2049, 3), (2048, 1)])
def test_what_cannot_be_dealt_is_refused_before_primes_are_drawn(
    key_size: int, share_count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(threshold_module, "new_safe_primes", asked.append)

    with pytest.raises(CryptoError, match="must be"):
        deal_threshold_key(key_size, threshold=2, share_count=share_count)

    assert asked == []


def test_the_base_is_the_square_of_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbelow", lambda limit: asked.append(limit) or limit - 2)

    key, _ = deal_primes(PUBLIC, SMALL_SAFE_KEY.primes, threshold=2, share_count=3)

    assert key.base == 2**2  # of -2 modulo n^2
    assert asked == [N * ORDER, N * N - 1]


def test_a_key_of_real_size_is_dealt_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    primes = {2048: tuple(gmpy2.mpz(each) for each in real_safe_key().primes)}
    monkeypatch.setattr(threshold_module, "new_safe_primes", primes.__getitem__)

    key, shares = deal_threshold_key(threshold=2, share_count=3)
    number = PaillierCrypto(key=key.public_key).encrypt(42) * -2
    found = [share.decryption_share(number) for share in shares[1:]]

    assert key.public_key.is_blum
    assert key.decrypt(number, found) == -84
    assert PaillierCrypto(key=real_safe_key()).decrypt(number) == -84


def test_a_proof_hides_its_exponent_by_a_longer_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    number = CRYPTO.encrypt(42)
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or 7)

    SHARES[0].decryption_share(number)

    exponent = math.factorial(5) * max(share.value for share in SHARES)
    assert KEY.secret_bits == 2 * 256 + 7  # 5! has 7 bits
    assert asked == [KEY.secret_bits + 256 + 128]
    assert exponent.bit_length() <= KEY.secret_bits
    assert response_bits_max(KEY.secret_bits) == KEY.secret_bits + 256 + 128 + 1


def hashed(label: bytes, *numbers: int) -> bytes:
    """Hash what the proof of holder 4 is about, then numbers, by the definition."""
    about = (4, KEY.base, KEY.verifiers[3], len(numbers))
    wide = b"".join(int(each).to_bytes(64, "big") for each in (*about, *numbers))
    return hashlib.sha256(label + PUBLIC.fingerprint + wide).digest()


def test_a_proof_is_what_its_definition_says(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = CRYPTO.encrypt_many([1] * 60, LAYOUT)
    n_squared, x = N * N, math.factorial(5) * SHARES[3].value
    monkeypatch.setattr(secrets, "randbits", lambda bits: 1 << 700)

    share = SHARES[3].decryption_share(vector)

    values = tuple(pow(int(each), 2 * x, n_squared) for each in vector.ciphertexts)
    label = b"kumiai/paillier/decryption-share/products/v1\0"
    stream = hashlib.shake_256(hashed(label, *vector.ciphertexts, *values)).digest(16 * len(values))
    a = 1
    for index, ciphertext in enumerate(vector.ciphertexts):
        exponent = int.from_bytes(stream[16 * index : 16 * index + 16], "big")
        a = a * pow(int(ciphertext), 4 * exponent, n_squared) % n_squared
    commitments = pow(a, 1 << 700, n_squared), pow(int(KEY.base), 1 << 700, n_squared)
    label = b"kumiai/paillier/decryption-share/challenge/v1\0"
    challenge = int.from_bytes(hashed(label, a, pow(a, x, n_squared), *commitments), "big")
    assert share.values == values
    assert share.proof == DecryptionProof(challenge, (1 << 700) + challenge * x)


@pytest.mark.parametrize("value", [1, N * N - 1])
def test_the_smallest_and_the_largest_key_share_are_taken(value: int) -> None:
    verifier = gmpy2.powmod(KEY.base, math.factorial(5) * value, N * N)

    share = ThresholdKeyShare(replace(KEY, verifiers=(verifier, *KEY.verifiers[1:])), 1, value)

    assert share.value == value


def test_two_proofs_of_one_share_differ() -> None:
    number = CRYPTO.encrypt(42)

    first, second = (SHARES[0].decryption_share(number) for _ in range(2))

    assert first.values == second.values
    assert first.proof != second.proof


def test_a_key_share_shows_nothing_and_is_neither_pickled_nor_copied() -> None:
    share = SHARES[0]

    assert repr(share) == f"<ThresholdKeyShare 1 of {PUBLIC!r}>"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            leak(share)
