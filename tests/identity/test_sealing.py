import base64
import hashlib
import json
import secrets

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kumiai.core.errors import ConfigError, IntegrityError
from kumiai.identity import sealing

PASSPHRASE = b"correct horse battery"
LABEL = "a test's secret"


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return sealing.seal(b"planted secret", PASSPHRASE, label=LABEL)


def test_what_was_sealed_is_unsealed(sealed: bytes) -> None:
    assert sealing.unseal(sealed, PASSPHRASE, label=LABEL) == b"planted secret"


def test_the_format_is_scrypt_and_aes_gcm() -> None:
    salt, nonce = bytes(range(16)), bytes(range(12))

    sealed = sealing._seal_with(b"secret", PASSPHRASE, label=LABEL, salt=salt, nonce=nonce)

    # An independent way to the same bytes: the standard library's scrypt.
    key = hashlib.scrypt(
        PASSPHRASE, salt=salt, n=131_072, r=8, p=1, maxmem=256 * 1024 * 1024, dklen=32
    )
    context = b"kumiai/identity/sealed/v1/a test's secret"
    assert json.loads(sealed) == {
        "kumiai_sealed": 1,
        "salt": base64.b64encode(salt).decode(),
        "nonce": base64.b64encode(nonce).decode(),
        "ciphertext": base64.b64encode(AESGCM(key).encrypt(nonce, b"secret", context)).decode(),
    }
    assert sealed.startswith(b'{\n  "kumiai_sealed": 1,\n  "salt": ')
    assert sealing.unseal(sealed, PASSPHRASE, label=LABEL) == b"secret"


def test_nothing_at_all_can_be_sealed() -> None:
    sealed = sealing.seal(b"", PASSPHRASE, label=LABEL)

    assert sealing.unseal(sealed, PASSPHRASE, label=LABEL) == b""


@pytest.mark.parametrize("field", ["salt", "nonce", "ciphertext"])
def test_what_is_not_base64_throughout_is_refused(sealed: bytes, field: str) -> None:
    fields = json.loads(sealed)
    fields[field] = "!" + fields[field]

    with pytest.raises(IntegrityError, match="sealed secret of version 1"):
        sealing.unseal(json.dumps(fields).encode(), PASSPHRASE, label=LABEL)


def test_sealing_twice_draws_a_new_salt_and_nonce(sealed: bytes) -> None:
    first, second = json.loads(sealed), json.loads(sealing.seal(b"", PASSPHRASE, label=LABEL))

    assert first["salt"] != second["salt"]
    assert first["nonce"] != second["nonce"]


def test_a_sealed_secret_does_not_show(sealed: bytes) -> None:
    ciphertext = base64.b64decode(json.loads(sealed)["ciphertext"])

    assert b"planted" not in sealed + ciphertext


@pytest.mark.parametrize(
    ("passphrase", "label"), [(b"another passphrase", LABEL), (PASSPHRASE, "another")]
)
def test_another_passphrase_or_label_does_not_unseal(
    sealed: bytes, passphrase: bytes, label: str
) -> None:
    with pytest.raises(ConfigError, match="passphrase must be the one that sealed") as caught:
        sealing.unseal(sealed, passphrase, label=label)

    assert passphrase.decode() not in str(caught.value)


def test_a_changed_byte_does_not_unseal(sealed: bytes) -> None:
    fields = json.loads(sealed)
    ciphertext = bytearray(base64.b64decode(fields["ciphertext"]))
    ciphertext[secrets.randbelow(len(ciphertext))] ^= 1
    fields["ciphertext"] = base64.b64encode(ciphertext).decode()

    with pytest.raises(ConfigError):
        sealing.unseal(json.dumps(fields).encode(), PASSPHRASE, label=LABEL)


@pytest.mark.parametrize(
    "change",
    [
        {"kumiai_sealed": 2},
        {"more": 1},
        {"salt": 1},
        {"salt": "!!"},
        {"salt": "AAAA"},
        {"nonce": "AAAA"},
        {"ciphertext": "AAAA"},
    ],
)
def test_a_damaged_file_is_refused(sealed: bytes, change: dict[str, object]) -> None:
    damaged = json.dumps({**json.loads(sealed), **change}).encode()

    with pytest.raises(IntegrityError, match="sealed file must"):
        sealing.unseal(damaged, PASSPHRASE, label=LABEL)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_a_file_of_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=f"got {len(content)} bytes of something else"):
        sealing.unseal(content, PASSPHRASE, label=LABEL)


@pytest.mark.parametrize("size_bytes", [0, 11, 1025])
def test_a_passphrase_of_another_length_is_refused(size_bytes: int) -> None:
    with pytest.raises(ConfigError, match=f"must be 12 to 1024 bytes, got {size_bytes}"):
        sealing.seal(b"", b"x" * size_bytes, label=LABEL)


@pytest.mark.parametrize("size_bytes", [12, 1024])
def test_a_passphrase_at_the_limits_is_accepted(size_bytes: int) -> None:
    sealing.verify_passphrase(b"x" * size_bytes)
