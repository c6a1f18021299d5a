import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto import keys
from kumiai.crypto.keys import derive, open_sealed, seal
from tests.crypto.known_answers import known_answers

KEY = bytes(range(32))
GCM = known_answers("aes256_gcm")


def hkdf(secret: bytes, info: bytes, size_bytes: int) -> bytes:
    """RFC 5869 from its definition, with no salt."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    block, made, count = b"", b"", 0
    while len(made) < size_bytes:
        count += 1
        block = hmac.digest(extracted, block + info + bytes([count]), "sha256")
        made += block
    return made[:size_bytes]


@pytest.mark.parametrize("vector", known_answers("hkdf_sha256")["vectors"])
def test_keys_are_derived_as_in_rfc_5869(vector: dict[str, Any]) -> None:
    key = keys._hkdf(
        bytes.fromhex(vector["secret"]),
        salt=bytes.fromhex(vector["salt"]),
        info=bytes.fromhex(vector["info"]),
        size_bytes=vector["size_bytes"],
    )

    assert key.hex() == vector["key"]


@pytest.mark.parametrize("size_bytes", [1, 32, 33, 8160])
def test_a_derived_key_is_hkdf_of_domain_label_and_context(size_bytes: int) -> None:
    key = derive(KEY, label="mask", context=b"round 1", size_bytes=size_bytes)

    assert key == hkdf(KEY, b"kumiai/crypto/derive/v1/\x04maskround 1", size_bytes)


def test_a_derived_key_has_256_bits_unless_asked_otherwise() -> None:
    assert len(derive(KEY, label="mask", context=b"")) == 32


def test_other_purposes_have_other_keys() -> None:
    derived = {
        derive(KEY, label="mask", context=b"round 1"),
        derive(KEY[::-1], label="mask", context=b"round 1"),
        derive(KEY, label="share", context=b"round 1"),
        derive(KEY, label="mask", context=b"round 2"),
        # What is at the border belongs to the one or to the other.
        derive(KEY, label="maskr", context=b"ound 1"),
        derive(KEY, label="mas", context=b"kround 1"),
    }

    assert len(derived) == 6


@pytest.mark.parametrize("size", [0, 4, 31])
def test_a_secret_that_could_be_guessed_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"secret must be at least 32 bytes, got {size}"):
        derive(bytes(size), label="mask", context=b"")


@pytest.mark.parametrize(("label", "size"), [("", 0), ("x" * 256, 256), ("é" * 128, 256)])
def test_a_label_must_name_the_purpose(label: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"label must be 1 to 255 bytes, got {size}"):
        derive(KEY, label=label, context=b"")


@pytest.mark.parametrize("size", [1, 255])
def test_the_shortest_and_the_longest_label_serve(size: int) -> None:
    assert len(derive(KEY, label="x" * size, context=b"")) == 32


@pytest.mark.parametrize("size_bytes", [-1, 0, 8161])
def test_a_key_of_no_length_or_too_long_is_refused(size_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"size_bytes must be 1 to 8160, got {size_bytes}"):
        derive(KEY, label="mask", context=b"", size_bytes=size_bytes)


# ---------------------------------------------------------------------------------------- sealed


@pytest.mark.parametrize("vector", GCM["vectors"])
def test_messages_are_sealed_as_nist_says(vector: dict[str, str]) -> None:
    given = {name: bytes.fromhex(text) for name, text in vector.items()}
    key, plaintext, data = given["key"], given["plaintext"], given["associated_data"]

    sealed = keys._seal_with(key, plaintext, data, nonce=given["nonce"])

    assert sealed == given["nonce"] + given["ciphertext"] + given["tag"]
    assert open_sealed(key, sealed, data) == plaintext


@pytest.mark.parametrize("vector", GCM["refused"])
def test_messages_that_nist_says_are_forged_do_not_open(vector: dict[str, str]) -> None:
    given = {name: bytes.fromhex(text) for name, text in vector.items()}
    sealed = given["nonce"] + given["ciphertext"] + given["tag"]

    with pytest.raises(CryptoError, match=f"sealed message of {len(sealed)} bytes must be"):
        open_sealed(given["key"], sealed, given["associated_data"])


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_what_was_sealed_opens_with_the_same_key_and_purpose(message: bytes, data: bytes) -> None:
    sealed = seal(KEY, message, data)

    assert len(sealed) == len(message) + keys.SEAL_OVERHEAD_BYTES
    assert open_sealed(KEY, sealed, data) == message


def test_sealing_twice_gives_two_texts() -> None:
    assert seal(KEY, b"message", b"")[:12] != seal(KEY, b"message", b"")[:12]


def test_a_changed_bit_does_not_open() -> None:
    sealed = seal(KEY, b"message", b"data")

    for place in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(CryptoError, match="must be unchanged and sealed with this key for"):
            open_sealed(KEY, bytes(changed), b"data")


@pytest.mark.parametrize("data", [b"", b"dat", b"data1", b"datb"])
def test_it_does_not_open_for_another_purpose(data: bytes) -> None:
    with pytest.raises(CryptoError, match="sealed message"):
        open_sealed(KEY, seal(KEY, b"message", b"data"), data)


def test_it_does_not_open_with_another_key() -> None:
    with pytest.raises(CryptoError, match="sealed message"):
        open_sealed(hashlib.sha256(KEY).digest(), seal(KEY, b"message", b""), b"")


@pytest.mark.parametrize("size", [0, 11, 12, 27])
def test_too_few_bytes_are_no_sealed_message(size: int) -> None:
    with pytest.raises(CryptoError, match=f"sealed message must be at least 28 bytes, got {size}"):
        open_sealed(KEY, bytes(size), b"")


def test_the_empty_message_can_be_sealed() -> None:
    assert open_sealed(KEY, seal(KEY, b"", b"x"), b"x") == b""


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    for act in (seal, open_sealed):
        with pytest.raises(ValueError, match=f"key must be 32 bytes, got {size}"):
            act(bytes(size), bytes(40), b"")
