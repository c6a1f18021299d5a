"""Keys in a token that keeps the rules of PKCS#11, and every way in which one fails."""

import copy
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kumiai.core.errors import (
    CertificateError,
    ConfigError,
    IntegrityError,
    KumiaiError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from kumiai.identity.keys import new_key
from kumiai.identity.pkcs11 import KeyTokens, TokenKey, pin_in
from kumiai.identity.pkcs11_uri import KeyURI
from kumiai.testing.fake_tokens import FakeKey, FakeToken, FakeTokenLibrary
from kumiai.testing.signing_contract import Keys, SigningKeyContract

ROOT = KeyURI(token="authority", object="root")
ECDSA = ec.ECDSA(hashes.SHA256())
MODULE = Path("/opt/vendor/pkcs11.so")


@pytest.fixture
def token() -> FakeToken:
    return FakeToken([FakeKey("root"), FakeKey("issuer", id=b"\x02")])


@pytest.fixture
def library(token: FakeToken) -> FakeTokenLibrary:
    return FakeTokenLibrary([token])


@pytest.fixture
def tokens(library: FakeTokenLibrary, token: FakeToken) -> KeyTokens:
    return KeyTokens(MODULE, lambda _: token.pin, load=library)


class TestKeysInFiles(SigningKeyContract):
    @pytest.fixture
    def keys(self) -> Keys:
        return new_key(), new_key()


class TestKeysInAToken(SigningKeyContract):
    @pytest.fixture
    def keys(self, tokens: KeyTokens) -> Keys:
        return tokens.key(ROOT), tokens.key(KeyURI(token="authority", id=b"\x02"))


# ---------------------------------------------------------------- finding a key


@pytest.mark.parametrize(
    "uri",
    [
        KeyURI(token="authority", object="root"),
        KeyURI(token="authority", id=b"\x01"),
        KeyURI(serial="0ba1d22d2944bf73", object="root", id=b"\x01"),
        KeyURI(token="authority", manufacturer="Kumiai", model="fake", object="root"),
    ],
)
def test_a_key_is_found_by_any_of_its_names(
    tokens: KeyTokens, token: FakeToken, uri: KeyURI
) -> None:
    key = tokens.key(uri)

    assert key.public_key() == token.keys[0].private.public_key()
    assert key.uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        KeyURI(token="other", object="root"),
        KeyURI(token="authority", serial="1", object="root"),
        KeyURI(token="authority", manufacturer="other", object="root"),
        KeyURI(token="authority", model="other", object="root"),
    ],
)
def test_a_token_that_is_not_there_is_named(tokens: KeyTokens, uri: KeyURI) -> None:
    with pytest.raises(UnavailableError, match=r"must be there.*connect it"):
        tokens.key(uri)


def test_one_of_two_tokens_of_the_same_name_is_told_by_its_serial_number(
    library: FakeTokenLibrary, token: FakeToken
) -> None:
    library.tokens.append(FakeToken([FakeKey("root")], serial=b"1", pin="another"))
    pins = iter([token.pin, "another"])
    tokens = KeyTokens(MODULE, lambda _: next(pins), load=library)

    with pytest.raises(ConfigError, match=r"must fit one token, got 2.*serial number"):
        tokens.key(ROOT)
    for each in library.tokens:
        uri = KeyURI(token="authority", serial=each.serial.decode(), object="root")
        assert tokens.key(uri).public_key() == each.keys[0].private.public_key()


def test_a_neighbour_with_a_serial_number_that_is_no_text_does_no_harm(
    tokens: KeyTokens, library: FakeTokenLibrary
) -> None:
    library.tokens.insert(0, FakeToken(label="other", serial=b"\xff\xfe"))

    assert tokens.key(ROOT)


@pytest.mark.parametrize(
    ("missing", "what"), [("has_private", "private key"), ("has_public", "public key")]
)
def test_half_a_key_is_none(tokens: KeyTokens, token: FakeToken, missing: str, what: str) -> None:
    setattr(token.keys[0], missing, False)

    with pytest.raises(NotFoundError, match=f"{what} must be in token 'authority', got none"):
        tokens.key(ROOT)


def test_one_of_two_keys_of_the_same_name_is_told_by_its_id(
    tokens: KeyTokens, token: FakeToken
) -> None:
    token.keys[1].label = "root"

    with pytest.raises(ConfigError, match=r"must fit one private key, got 2.*add its id"):
        tokens.key(ROOT)
    assert tokens.key(KeyURI(token="authority", object="root", id=b"\x02"))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"kind": pkcs11.KeyType.RSA}, "another kind"),
        ({"params": bytes.fromhex("06052b81040022")}, "another curve"),
    ],
)
def test_a_key_of_another_kind_is_refused(
    tokens: KeyTokens, token: FakeToken, change: dict[str, Any], got: str
) -> None:
    for name, value in change.items():
        setattr(token.keys[0], name, value)

    with pytest.raises(ConfigError, match=f"must be on P-256, got {got} for {ROOT}"):
        tokens.key(ROOT)


def test_a_key_that_is_not_made_for_signing_is_refused(tokens: KeyTokens, token: FakeToken) -> None:
    token.keys[0].may_sign = False

    with pytest.raises(ConfigError, match="must sign by CKM_ECDSA with this key"):
        tokens.key(ROOT)


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_point_is_read_with_and_without_its_header(
    tokens: KeyTokens, token: FakeToken, is_wrapped: bool
) -> None:
    # 0x04 begins a header and a point alike; here the byte after it is the header's as well.
    keys = (ec.derive_private_key(number, ec.SECP256R1()) for number in range(1, 5000))
    private = next(key for key in keys if key.public_key().public_numbers().x >> 248 == 0x41)
    token.keys[0] = FakeKey("root", private=private, is_point_wrapped=is_wrapped)

    assert tokens.key(ROOT).public_key() == private.public_key()


def test_a_damaged_public_key_is_refused(
    tokens: KeyTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeKey, "point", b"\x04\x41\x04" + bytes(64))

    with pytest.raises(IntegrityError, match="must be a point on P-256, got 65 bytes"):
        tokens.key(ROOT)


# ---------------------------------------------------------------- the PIN


def test_a_wrong_pin_is_shown_once_and_never_again(
    library: FakeTokenLibrary, token: FakeToken
) -> None:
    tokens = KeyTokens(MODULE, lambda _: "planted-wrong-pin", load=library)

    for problem in ("got one that it refuses", "refused before", "refused before"):
        with pytest.raises(ConfigError, match=problem) as caught:
            tokens.key(ROOT)
        assert "planted" not in str(caught.value)
    assert token.wrong_pins == 1


def test_a_pin_is_not_shown_when_it_would_be_the_last_try(
    tokens: KeyTokens, token: FakeToken
) -> None:
    token.wrong_pins = 2

    with pytest.raises(ConfigError, match="must have tries of its PIN to spare, got its last one"):
        tokens.key(ROOT)
    assert token.wrong_pins == 2


def test_a_pin_is_asked_for_once_for_each_token(
    library: FakeTokenLibrary, token: FakeToken
) -> None:
    library.tokens.append(FakeToken([FakeKey("root")], label="second", pin="another"))
    pins, asked = {"'authority'": token.pin, "'second'": "another"}, []

    def ask(name: str) -> str:
        asked.append(name)
        return pins[name]

    tokens = KeyTokens(MODULE, ask, load=library)
    tokens.key(ROOT).sign(b"", ECDSA)
    tokens.key(KeyURI(token="second", object="root")).sign(b"", ECDSA)

    assert asked == ["'authority'", "'second'"]


@pytest.mark.parametrize("ask", [None, lambda _: None, lambda _: ""])
def test_a_missing_pin_is_not_tried_and_says_where_to_put_it(
    library: FakeTokenLibrary, token: FakeToken, ask: Callable[[str], str | None] | None
) -> None:
    with pytest.raises(ConfigError, match=r"must be given.*KUMIAI_PKCS11_PIN_FILE"):
        KeyTokens(MODULE, ask, load=library).key(ROOT)

    assert token.wrong_pins == 0


def test_another_pin_is_tried_after_a_wrong_one(
    library: FakeTokenLibrary, token: FakeToken
) -> None:
    pins = iter(["wrong", "wrong", token.pin])
    tokens = KeyTokens(MODULE, lambda _: next(pins), load=library)
    for _ in range(2):
        with pytest.raises(ConfigError, match="must be right"):
            tokens.key(ROOT)

    assert tokens.key(ROOT).sign(b"", ECDSA)


def test_a_pin_that_is_changed_meanwhile_is_asked_for_anew(
    tokens: KeyTokens, token: FakeToken
) -> None:
    key = tokens.key(ROOT)
    token.pin = "the next pin"
    with pytest.raises(UnavailableError, match="PIN of token 'authority' must be right"):
        key.sign(b"", ECDSA)

    assert key.sign(b"", ECDSA)
    assert token.wrong_pins == 0


@pytest.mark.parametrize("fault", [pkcs11.PinLenRange(), pkcs11.PinInvalid()])
def test_a_pin_that_can_not_be_right_is_not_tried_again(
    tokens: KeyTokens, token: FakeToken, fault: Exception
) -> None:
    token.open_fault = fault
    with pytest.raises(ConfigError, match="got one that it refuses"):
        tokens.key(ROOT)
    token.open_fault = None

    with pytest.raises(ConfigError, match="refused before"):
        tokens.key(ROOT)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (pkcs11.PinLocked(), "must not be locked, got one that is; have its security officer"),
        (pkcs11.PinExpired(), "must have a PIN in force, got one that expired"),
    ],
)
def test_a_right_pin_works_again_after_the_token_was_unlocked(
    tokens: KeyTokens, token: FakeToken, fault: Exception, problem: str
) -> None:
    token.open_fault = fault
    with pytest.raises(ConfigError, match=problem):
        tokens.key(ROOT)
    token.open_fault = None

    assert tokens.key(ROOT)


def test_a_token_without_a_pin_of_its_user_is_named(tokens: KeyTokens, token: FakeToken) -> None:
    token.open_fault = pkcs11.UserPinNotInitialized()

    with pytest.raises(ConfigError, match=r"must have a PIN for its user.*its maker's tool"):
        tokens.key(ROOT)


def test_a_pin_is_read_from_a_file_of_its_owners_own(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_bytes("pläin 4711X \r\n".encode())
    path.chmod(0o600)

    assert pin_in(path) == "pläin 4711X "


def test_a_pin_ends_where_its_line_does(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_text("4711X\n\n")
    path.chmod(0o600)

    assert pin_in(path) == "4711X"


def test_a_pins_file_of_more_than_a_kilobyte_is_another(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_bytes(b"1" * 1024)
    path.chmod(0o600)

    assert len(pin_in(path)) == 1024
    path.write_bytes(b"1" * 1025)
    with pytest.raises(StorageError, match="PIN's file must be at most 1024 bytes"):
        pin_in(path)


def test_a_pins_file_that_is_no_good_is_refused_without_being_shown(tmp_path: Path) -> None:
    (tmp_path / "open").write_text("planted")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "odd").write_bytes(b"planted\xff")
    (tmp_path / "odd").chmod(0o600)

    with pytest.raises(NotFoundError, match="PIN's file must exist"):
        pin_in(tmp_path / "none")
    with pytest.raises(CertificateError, match="PIN's file must be readable by its owner alone"):
        pin_in(tmp_path / "open")
    with pytest.raises(ConfigError, match="PIN's file must hold UTF-8") as caught:
        pin_in(tmp_path / "odd")
    assert "planted" not in f"{caught.value}{caught.value.__cause__}"


# ---------------------------------------------------------------- the library


def test_without_a_library_no_key_is_in_a_token() -> None:
    with pytest.raises(ConfigError, match=r"must be named.*KUMIAI_PKCS11_MODULE"):
        KeyTokens().key(ROOT)


def test_the_library_is_loaded_only_when_a_key_is_needed(
    tokens: KeyTokens, library: FakeTokenLibrary
) -> None:
    before = list(library.loaded)
    tokens.key(ROOT)

    assert before == []
    assert set(library.loaded) == {str(MODULE)}


def test_a_library_that_does_not_load_is_named(
    tokens: KeyTokens, library: FakeTokenLibrary
) -> None:
    library.fault = pkcs11.GeneralError()

    with pytest.raises(ConfigError, match=f"that loads, got {MODULE}: GeneralError"):
        tokens.key(ROOT)


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "not.so").write_text("nothing")

    with pytest.raises(ConfigError, match=r"must be a PKCS#11 module that loads, got .*not\.so"):
        KeyTokens(tmp_path / "not.so").key(ROOT)


def test_without_the_extra_it_is_named(tokens: KeyTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)

    with pytest.raises(ConfigError, match=r"install kumiai\[pkcs11\]"):
        tokens.key(ROOT)


def test_a_key_is_named_by_a_file(tokens: KeyTokens) -> None:
    key = tokens.key(ROOT)

    assert key.reference == b"pkcs11:token=authority;object=root\n"
    assert tokens.key_in(key.reference).uri == ROOT
    with pytest.raises(ConfigError, match="every unusual character"):
        tokens.key_in(b"pkcs11:token=\xff;object=x")


# ---------------------------------------------------------------- signing


@pytest.fixture
def key(tokens: KeyTokens) -> TokenKey:
    return tokens.key(ROOT)


def test_a_key_that_can_sign_proves_it(key: TokenKey, token: FakeToken) -> None:
    key.verify_whole()

    assert token.signature_count == 1


@pytest.mark.parametrize("size_bytes", [64, 63, 32, 0])
def test_halves_that_do_not_belong_together_are_found(
    token: FakeToken, tokens: KeyTokens, size_bytes: int
) -> None:
    token.signature_size_bytes = size_bytes
    token.keys[0].public = new_key().public_key()

    with pytest.raises(IntegrityError, match=f"got another signature of {size_bytes} bytes"):
        tokens.key(ROOT).verify_whole()


@pytest.mark.parametrize(
    ("fault", "kind", "problem"),
    [
        (pkcs11.DeviceRemoved(), UnavailableError, "must answer, got DeviceRemoved"),
        (pkcs11.DeviceError(), UnavailableError, "must answer, got DeviceError"),
        (pkcs11.PKCS11Error("0x80000001"), UnavailableError, "must answer, got PKCS11Error"),
        (pkcs11.MechanismInvalid(), ConfigError, "must sign by CKM_ECDSA"),
        (pkcs11.KeyTypeInconsistent(), ConfigError, "must sign by CKM_ECDSA"),
        (pkcs11.UserNotLoggedIn(), ConfigError, "without CKA_ALWAYS_AUTHENTICATE"),
    ],
)
def test_a_token_that_fails_says_how(
    key: TokenKey, token: FakeToken, fault: Exception, kind: type[KumiaiError], problem: str
) -> None:
    token.signing_fault = fault

    with pytest.raises(kind, match=problem):
        key.verify_whole()
    # Who wants a certificate now has done nothing wrong: for him it is away.
    with pytest.raises(UnavailableError, match=problem):
        key.sign(b"", ECDSA)


def test_a_wrong_signature_is_not_handed_out(key: TokenKey, token: FakeToken) -> None:
    token.keys[0].private = new_key()

    with pytest.raises(UnavailableError, match="must sign by the private half"):
        key.sign(b"data", ECDSA)


def test_a_token_that_was_away_is_used_again(key: TokenKey, token: FakeToken) -> None:
    token.is_present = False
    with pytest.raises(UnavailableError, match="must be there"):
        key.sign(b"data", ECDSA)
    token.is_present = True

    key.public_key().verify(key.sign(b"data", ECDSA), b"data", ECDSA)


def test_a_token_is_logged_out_after_each_use_and_after_each_failure(
    key: TokenKey, token: FakeToken
) -> None:
    states = [token.is_logged_in]
    key.sign(b"data", ECDSA)
    states.append(token.is_logged_in)
    token.signing_fault = pkcs11.DeviceError()
    with pytest.raises(UnavailableError):
        key.sign(b"data", ECDSA)
    states.append(token.is_logged_in)

    assert states == [False, False, False]


def test_threads_take_turns(key: TokenKey) -> None:
    # The token lets its user in once: a second login meanwhile would be an error.
    def sign(number: int) -> bytes:
        return key.sign(number.to_bytes(2, "big"), ECDSA)

    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(sign, range(200)))

    for number, signature in enumerate(signatures):
        key.public_key().verify(signature, number.to_bytes(2, "big"), ECDSA)


@pytest.mark.parametrize(
    "algorithm", [ec.ECDSA(hashes.SHA384()), ec.ECDSA(Prehashed(hashes.SHA256()))]
)
def test_other_hashes_are_not_signed(key: TokenKey, algorithm: ec.ECDSA) -> None:
    with pytest.raises(TypeError, match="signs with SHA-256 alone"):
        key.sign(bytes(48), algorithm)


def test_a_key_does_not_leave_its_token(key: TokenKey, tokens: KeyTokens) -> None:
    with pytest.raises(TypeError, match="stays in its token"):
        key.private_numbers()
    with pytest.raises(TypeError, match="stays in its token"):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TypeError, match="signs, and does nothing else"):
        key.exchange(ec.ECDH(), new_key().public_key())
    with pytest.raises(TypeError, match="cannot be pickled"):
        key.__reduce_ex__(4)
    with pytest.raises(TypeError, match="they hold a secret"):
        copy.copy(tokens)


def test_no_pin_is_in_a_representation(key: TokenKey, tokens: KeyTokens, token: FakeToken) -> None:
    assert repr(key) == "TokenKey('pkcs11:token=authority;object=root')"
    assert token.pin not in repr(tokens)
