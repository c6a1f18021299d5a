import copy
import pickle  # noqa: TID251 - it must be refused
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from kumiai.core.errors import CryptoError
from kumiai.crypto import PaillierCrypto
from kumiai.crypto.paillier import Exponents, PaillierPrivateKey, PaillierPublicKey, SlotLayout
from tests.crypto.paillier.some_keys import (
    OTHER_SMALL_KEY,
    SMALL_KEY,
    SMALL_KEY_NOT_BLUM,
    real_key,
)

P, Q = SMALL_KEY.primes


class DirectExecutor(Executor):
    """Does the work at once, or gives what it is told to; keeps what it was asked to do."""

    def __init__(self, answer: list[int] | None = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._answer = answer

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.asked.append(args)
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs) if self._answer is None else self._answer)
        return future


def test_a_number_is_encrypted_calculated_with_and_decrypted() -> None:
    crypto = PaillierCrypto(key_size=2048)

    answer = crypto.encrypt(42)

    assert crypto.decrypt(answer) == 42
    assert crypto.decrypt(answer + crypto.encrypt(-2) * 3) == 36
    assert crypto.decrypt(answer * 0.5 - 1) == 20.0
    assert crypto.public_key.key_size == 2048


def test_the_default_key_has_2048_bits_and_can_be_read_by_nobody_else() -> None:
    one, other = PaillierCrypto(), PaillierCrypto()

    assert one.public_key.key_size == 2048
    assert one.public_key != other.public_key
    with pytest.raises(CryptoError, match="must be of key"):
        other.decrypt(one.encrypt(42))


@pytest.mark.parametrize("key_size", [512, 1024, 2047, 10_000])
def test_a_key_that_is_too_short_too_long_or_odd_is_refused(key_size: int) -> None:
    with pytest.raises(CryptoError, match="key_size"):
        PaillierCrypto(key_size=key_size)


def test_who_has_the_public_key_alone_encrypts_and_cannot_decrypt() -> None:
    crypto = PaillierCrypto(key=SMALL_KEY.public_key)
    number = crypto.encrypt(42)
    vector = crypto.encrypt_many([1, 2], SlotLayout())

    with pytest.raises(CryptoError, match="got only the public one"):
        crypto.decrypt(number)
    with pytest.raises(CryptoError, match="got only the public one"):
        crypto.decrypt_many(vector)
    with pytest.raises(CryptoError, match="got only the public one"):
        _ = crypto.private_key
    assert PaillierCrypto(key=SMALL_KEY).decrypt(number) == 42


def test_what_is_of_another_key_is_refused() -> None:
    crypto, other = PaillierCrypto(key=SMALL_KEY), PaillierCrypto(key=OTHER_SMALL_KEY)

    with pytest.raises(CryptoError, match="must be of key"):
        crypto.decrypt(other.encrypt(1))
    with pytest.raises(CryptoError, match="must be of key"):
        crypto.decrypt_many(other.encrypt_many([1], SlotLayout()))
    with pytest.raises(CryptoError, match="must be of key"):
        crypto.rerandomised(other.encrypt(1))


def test_a_key_that_is_not_known_to_be_a_blum_key_gets_full_exponents() -> None:
    crypto = PaillierCrypto(key=SMALL_KEY_NOT_BLUM.public_key)

    assert PaillierCrypto(key=SMALL_KEY_NOT_BLUM).decrypt(crypto.encrypt(42)) == 42
    with pytest.raises(CryptoError, match="must be 'full'"):
        PaillierCrypto(key=SMALL_KEY_NOT_BLUM.public_key, exponents=Exponents.HALF)


@pytest.mark.parametrize(("exponents", "bits"), [(None, 128), ("half", 128), ("short", 256)])
def test_exponents_are_known_by_their_word(
    exponents: str | None, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    crypto = PaillierCrypto(key=SMALL_KEY.public_key, exponents=exponents)
    crypto.encrypt(1)
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbits", lambda length: asked.append(length) or 5)

    crypto.encrypt(1)

    assert asked == [bits]


@pytest.mark.parametrize(
    ("exponents", "limits"),
    [(None, [P - 1, Q - 1]), ("half", [P - 1, Q - 1]), ("short", [2**256, 2**256])],
)
def test_who_has_the_primes_draws_exponents_below_them(
    exponents: str | None, limits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    crypto = PaillierCrypto(key=SMALL_KEY, exponents=exponents)
    crypto.encrypt(1)
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbelow", lambda limit: asked.append(limit) or 5)

    crypto.encrypt(1)

    assert asked == limits


def test_the_table_of_powers_is_made_once() -> None:
    crypto = PaillierCrypto(key=SMALL_KEY)

    assert crypto._randomisers is crypto._randomisers


def test_a_float_has_the_precision_asked_for() -> None:
    crypto = PaillierCrypto(key=SMALL_KEY)

    assert crypto.encrypt(2.5, fraction_bits=7).fraction_bits == 7
    assert crypto.encrypt(2.5).fraction_bits == 64


@pytest.mark.parametrize("value", [42, -1.5, 2**400])
def test_another_encryption_of_a_number_is_one_of_the_same_number(value: float) -> None:
    crypto = PaillierCrypto(key=SMALL_KEY)
    number = crypto.encrypt(value)

    another = crypto.rerandomised(number)

    assert crypto.decrypt(another) == value
    assert another.fraction_bits == number.fraction_bits
    assert set(another.limbs).isdisjoint(number.limbs)


def test_vectors_are_encrypted_and_decrypted_where_the_caller_says() -> None:
    crypto, executor = PaillierCrypto(key=real_key()), DirectExecutor()
    plain = np.arange(-50, 50)

    vector = crypto.encrypt_many(plain, SlotLayout(), executor=executor)
    found = crypto.decrypt_many(vector, executor=executor)

    assert found.tolist() == crypto.decrypt_many(vector).tolist() == plain.tolist()
    assert (vector.count, vector.summand_count) == (100, 1)
    assert len(executor.asked) == 2


@pytest.mark.parametrize("exponents", ["", "none", "HALF"])
def test_unknown_exponents_are_refused(exponents: str) -> None:
    with pytest.raises(ValueError, match="not a valid Exponents"):
        PaillierCrypto(key=SMALL_KEY, exponents=exponents)


def test_the_private_key_is_handed_out_when_it_is_asked_for() -> None:
    assert PaillierCrypto(key=SMALL_KEY).private_key is SMALL_KEY


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_neither_pickled_nor_copied(leak: object) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        leak(PaillierCrypto(key=SMALL_KEY))  # type: ignore[operator]


def test_it_shows_which_key_it_has_and_nothing_of_it() -> None:
    shown = repr(PaillierCrypto(key=SMALL_KEY)), repr(PaillierCrypto(key=SMALL_KEY.public_key))

    assert all(SMALL_KEY.public_key.short_name in each for each in shown)
    assert "encrypts and decrypts" in shown[0]
    assert shown[1].startswith("<PaillierCrypto that encrypts with")
    assert str(SMALL_KEY.primes[0]) not in shown[0]


@pytest.mark.parametrize("key", [SMALL_KEY, SMALL_KEY.public_key, SMALL_KEY_NOT_BLUM])
def test_numbers_are_encrypted_with_randomisers_made_ahead(key: object) -> None:
    with ThreadPoolExecutor(1) as executor:
        crypto = PaillierCrypto(key=key)  # type: ignore[arg-type]
        crypto.precompute(executor, size=8)
        numbers = [crypto.encrypt(index) for index in range(40)]

    private_key = SMALL_KEY_NOT_BLUM if key is SMALL_KEY_NOT_BLUM else SMALL_KEY
    reader = PaillierCrypto(key=private_key)
    assert [reader.decrypt(each) for each in numbers] == list(range(40))
    assert len({each.limbs for each in numbers}) == 40
    assert len({each.limbs[0] % private_key.public_key.n for each in numbers}) == 40


@pytest.mark.parametrize(
    ("key", "exponents"),
    [(SMALL_KEY, Exponents.SHORT), (SMALL_KEY_NOT_BLUM, Exponents.FULL)],
    ids=["Blum", "any"],
)
def test_randomisers_made_ahead_are_drawn_as_the_key_allows_and_are_used(
    key: PaillierPrivateKey, exponents: Exponents
) -> None:
    crypto, executor = PaillierCrypto(key=key, exponents="short"), DirectExecutor([1] * 32)

    crypto.precompute(executor)

    assert executor.asked == [(crypto.public_key, exponents, 32)] * 32
    assert crypto.encrypt(5).limbs == (crypto.public_key.raw_encrypt(5, 1),)


def test_asking_twice_for_randomisers_ahead_replaces_the_first_pool() -> None:
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        crypto = PaillierCrypto(key=SMALL_KEY)
        crypto.precompute(first, size=4)
        crypto.precompute(second, size=4)
        first.shutdown()

        assert crypto.decrypt(crypto.encrypt(42)) == 42


def test_several_threads_encrypt_with_one_object() -> None:
    crypto = PaillierCrypto(key=SMALL_KEY)
    barrier = threading.Barrier(4)

    def encrypt(start: int) -> list[int | float]:
        barrier.wait()
        return [crypto.decrypt(crypto.encrypt(start + index)) for index in range(50)]

    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(encrypt, (0, 50, 100, 150)))

    assert [each for part in found for each in part] == list(range(200))


def test_a_key_of_real_size_may_come_from_elsewhere() -> None:
    public_key = PaillierPublicKey(real_key().public_key.n)
    number = PaillierCrypto(key=public_key).encrypt(-1)

    assert PaillierCrypto(key=real_key()).decrypt(number) == -1
