import base64
import json
from typing import Any

import phe
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phe.command_line import cli, load_public_key, serialise_encrypted

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import (
    Exponents,
    PaillierCrypto,
    number_from_phe,
    number_to_phe,
    phe_format,
    private_key_from_phe,
    private_key_to_phe,
    public_key_from_phe,
    public_key_to_phe,
)
from tests.crypto.paillier.some_keys import SMALL_KEY, real_key

CRYPTO = PaillierCrypto(key=SMALL_KEY)
KEY = CRYPTO.public_key
THEIR_KEY = phe.PaillierPublicKey(KEY.n)
THEIR_PRIVATE_KEY = phe.PaillierPrivateKey(THEIR_KEY, *SMALL_KEY.primes)


def read_by_phe(text: str) -> Any:
    fields = json.loads(text)
    number = phe.EncryptedNumber(THEIR_KEY, int(fields["v"]), int(fields["e"]))
    return THEIR_PRIVATE_KEY.decrypt(number)


@given(st.integers(-(2**250), 2**250))
def test_phe_reads_our_integers_and_we_read_theirs(value: int) -> None:
    ours = number_to_phe(CRYPTO.encrypt(value))
    theirs = THEIR_KEY.encrypt(value)
    text = json.dumps({"v": str(theirs.ciphertext()), "e": theirs.exponent})

    assert read_by_phe(ours) == value
    assert CRYPTO.decrypt(number_from_phe(text, KEY)) == value


@given(st.floats(-1e6, 1e6), st.integers(1, 60))
def test_phe_reads_our_floats_of_any_precision(value: float, fraction_bits: int) -> None:
    number = CRYPTO.encrypt(value, fraction_bits=fraction_bits)

    assert read_by_phe(number_to_phe(number)) == CRYPTO.decrypt(number)


@given(
    st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda value: abs(value) > 1e-9 or not value)
)
def test_we_read_the_floats_of_phe(value: float) -> None:
    text = serialise_encrypted(THEIR_KEY.encrypt(value, precision=1e-20))

    assert CRYPTO.decrypt(number_from_phe(text, KEY)) == pytest.approx(value, abs=1e-20)


@given(st.integers(0, KEY.n - 1), st.integers(1, KEY.n - 1))
@settings(max_examples=50)
def test_raw_ciphertexts_of_one_plaintext_and_unit_are_equal(plaintext: int, unit: int) -> None:
    ours = KEY.raw_encrypt(plaintext, pow(unit, KEY.n, KEY.n**2))

    assert ours == THEIR_KEY.raw_encrypt(plaintext, unit)
    assert THEIR_PRIVATE_KEY.raw_decrypt(int(ours)) == SMALL_KEY.raw_decrypt(ours) == plaintext


def test_a_sum_is_begun_by_us_and_ended_by_phe() -> None:
    ours = json.loads(number_to_phe(CRYPTO.encrypt(40)))

    total = phe.EncryptedNumber(THEIR_KEY, int(ours["v"]), ours["e"]) + THEIR_KEY.encrypt(2)

    assert THEIR_PRIVATE_KEY.decrypt(total) == 42


def test_keys_of_real_size_pass_in_both_directions() -> None:
    key = real_key()

    theirs = load_public_key(json.loads(public_key_to_phe(key.public_key)))
    ours = private_key_from_phe(private_key_to_phe(key))
    number = PaillierCrypto(key=key).encrypt(-42)

    assert theirs.n == key.public_key.n
    assert ours.primes == key.primes
    text = json.loads(number_to_phe(number))
    their_number = phe.EncryptedNumber(theirs, int(text["v"]), text["e"])
    assert phe.PaillierPrivateKey(theirs, *key.primes).decrypt(their_number) == -42


def test_keys_that_the_program_of_phe_wrote_are_read(tmp_path: Any) -> None:
    from click.testing import CliRunner

    runner = CliRunner()
    private, public, number = (tmp_path / name for name in ("key", "public", "number"))
    runner.invoke(cli, ["genpkey", "--keysize", "2048", str(private)], catch_exceptions=False)
    runner.invoke(cli, ["extract", str(private), str(public)], catch_exceptions=False)
    runner.invoke(cli, ["encrypt", str(public), "2.5", "--output", str(number)])

    key = private_key_from_phe(private.read_text())
    public_key = public_key_from_phe(public.read_text())

    assert public_key == key.public_key
    assert not public_key.is_blum
    read = number_from_phe(number.read_text(), public_key)
    assert PaillierCrypto(key=key).decrypt(read) == 2.5
    back = PaillierCrypto(key=public_key).encrypt(-7)
    number.write_text(number_to_phe(back))
    shown = runner.invoke(cli, ["decrypt", str(private), str(number)], catch_exceptions=False)
    assert shown.output.split()[-1] == "-7"


def encoded(number: int) -> str:
    size = -(-number.bit_length() // 8)
    return base64.urlsafe_b64encode(number.to_bytes(size, "big")).decode().replace("=", "")


def test_our_keys_have_the_fields_of_phe() -> None:
    key = real_key()
    name = key.public_key.short_name

    private = json.loads(private_key_to_phe(key))

    public = {
        "kty": "DAJ",
        "alg": "PAI-GN1",
        "key_ops": ["encrypt"],
        "n": encoded(key.public_key.n),
        "kid": f"Paillier public key {name}",
    }
    assert json.loads(public_key_to_phe(key.public_key)) == private.pop("pub") == public
    assert private == {
        "kty": "DAJ",
        "key_ops": ["decrypt"],
        "p": encoded(key.primes[0]),
        "q": encoded(key.primes[1]),
        "kid": f"Paillier private key {name}",
    }


@given(st.integers(1, 2**200))
@example(0x010017)  # AQAX
@example(2**56 - 1)
def test_numbers_of_any_length_are_written_without_padding_and_read(number: int) -> None:
    written = phe_format._base64_of(number)

    assert written == encoded(number)
    assert phe_format._integer_of({"n": written}, "n") == number


def test_a_text_may_have_65536_characters() -> None:
    text = json.dumps({**GOOD, "x": ""})
    text = json.dumps({**GOOD, "x": "x" * (65_536 - len(text))})

    assert len(text) == 65_536
    assert CRYPTO.decrypt(number_from_phe(text, KEY)) == 1


def test_a_key_of_phe_takes_full_exponents() -> None:
    public_key = public_key_from_phe(public_key_to_phe(real_key().public_key))

    with pytest.raises(CryptoError, match="must be 'full'"):
        PaillierCrypto(key=public_key, exponents=Exponents.HALF)


def test_a_number_with_a_positive_exponent_is_read() -> None:
    theirs = THEIR_KEY.encrypt(512, precision=16.0)
    text = json.dumps({"v": str(theirs.ciphertext()), "e": theirs.exponent})

    assert theirs.exponent == 1
    assert CRYPTO.decrypt(number_from_phe(text, KEY)) == 512


def test_a_number_of_several_limbs_is_not_written() -> None:
    with pytest.raises(CryptoError, match="one limb"):
        number_to_phe(CRYPTO.encrypt(2**400))


GOOD = json.loads(number_to_phe(CRYPTO.encrypt(1)))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be JSON"),
        ("[" * 50_000, "must be JSON"),
        ("[]", "JSON object"),
        ("{}", "decimal digits"),
        (json.dumps({**GOOD, "v": 5}), "decimal digits"),
        (json.dumps({**GOOD, "v": "-5"}), "decimal digits"),
        (json.dumps({**GOOD, "v": "٣"}), "decimal digits"),
        (json.dumps({**GOOD, "v": "0"}), "from 1 to"),
        (json.dumps({**GOOD, "v": "9" * 1000}), "from 1 to"),
        (json.dumps({**GOOD, "v": str(SMALL_KEY.primes[0])}), "no factor"),
        (json.dumps({**GOOD, "e": True}), "e must be an integer"),
        (json.dumps({**GOOD, "e": 1.0}), "e must be an integer"),
        (json.dumps({**GOOD, "e": 64}), "e must be below 64"),
        (json.dumps({**GOOD, "e": 10**9}), "e must be below 64"),
        (json.dumps({**GOOD, "e": -33}), "fraction_bits"),
        (json.dumps({**GOOD, "e": -(10**9)}), "fraction_bits"),
        (json.dumps({**GOOD, "x": "x" * 70_000}), "at most 65536"),
    ],
)
def test_a_text_that_is_no_number_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(CryptoError, match=complaint):
        number_from_phe(text, KEY)


PRIVATE = json.loads(private_key_to_phe(real_key()))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kty": "RSA"}, "kty DAJ"),
        ({"key_ops": ["encrypt"]}, "key_ops decrypt"),
        ({"key_ops": None}, "key_ops decrypt"),
        ({"p": None}, "p must be a string"),
        ({"p": "A"}, "p must be a string of base64url"),
        ({"p": "ü"}, "p must be a string of base64url"),
        ({"q": PRIVATE["p"]}, "p and q must differ"),
        ({"pub": None}, "its own modulus"),
        ({"pub": {**PRIVATE["pub"], "n": "AQAB"}}, "its own modulus"),
        ({"pub": {**PRIVATE["pub"], "alg": "RSA"}}, "alg PAI-GN1"),
        ({"pub": {**PRIVATE["pub"], "kty": "RSA"}}, "kty DAJ"),
    ],
)
def test_a_text_that_is_no_private_key_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CryptoError, match=complaint):
        private_key_from_phe(json.dumps({**PRIVATE, **changes}))


def test_a_short_modulus_from_phe_is_refused() -> None:
    short = phe.generate_paillier_keypair(n_length=512)[0].n
    n = base64.urlsafe_b64encode(short.to_bytes(64, "big")).decode().rstrip("=")

    with pytest.raises(CryptoError, match="key_size"):
        public_key_from_phe(json.dumps({**PRIVATE["pub"], "n": n}))


def test_no_refusal_repeats_a_prime() -> None:
    p = PRIVATE["p"]
    with pytest.raises(CryptoError) as caught:
        private_key_from_phe(json.dumps({**PRIVATE, "q": p[:-2] + "ü"}))

    assert p[:8] not in str(caught.value)
    assert caught.value.__cause__ is None
