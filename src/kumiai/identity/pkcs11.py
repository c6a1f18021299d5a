"""Private keys that stay in a PKCS#11 token, such as a hardware security module.

A `TokenKey` is used like any private key on P-256: the token computes the signature, and this
process never has the key. The library of the token is native code that the operator names; its
PIN is asked for when it is first needed, and shown to nobody.

Rules: a PIN that a token refused is never shown to it again, and one that would be its last try
is not shown at all, because tokens lock; every signature is verified before it is used; nothing
in a token is made, changed or deleted.

Each signature has a session of its own, so that a token that was away for a while is used again.
Waits for the token: a program with an event loop calls from a thread.

Source: PKCS #11 Cryptographic Token Interface 2.40, sections 5.4, 5.11 and 2.3.1 (ECDSA).
"""

import contextlib
import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from kumiai.core.errors import (
    ConfigError,
    IntegrityError,
    KumiaiError,
    NotFoundError,
    UnavailableError,
)
from kumiai.identity import files
from kumiai.identity.pkcs11_uri import KeyURI

if TYPE_CHECKING:
    from types import ModuleType

    from pkcs11 import ObjectClass, Session, Token
    from pkcs11.types import Object

__all__ = ["KeyTokens", "TokenKey", "pin_in"]

_HALF_SIZE_BYTES: Final = 32
"""Of a signature: r, then s."""
_P256_PARAMETERS: Final = bytes.fromhex("06082a8648ce3d030107")
"""``CKA_EC_PARAMS`` of P-256: its object identifier, DER."""
_POINT_HEADER: Final = b"\x04\x41"
"""``CKA_EC_POINT`` is an octet string of 65 bytes; some tokens leave its header out."""
_POINT_SIZE_BYTES: Final = 65
_PIN_SIZE_BYTES_MAX: Final = 1024
_PROOF_DOMAIN: Final = b"kumiai/identity/token-proof/v1/"

_LOCK: Final = threading.Lock()
"""A library's logins are the process's own, and not every library may be entered twice."""

_VENDOR: Final = "with its maker's tool"
_WRONG_KEY: Final = (
    "must sign by CKM_ECDSA with this key, got one that does not; use a key on P-256 that is made "
    "for signing"
)
_MENDS: Final = {
    "KeyTypeInconsistent": _WRONG_KEY,
    "MechanismInvalid": _WRONG_KEY,
    "PinExpired": f"must have a PIN in force, got one that expired; set another {_VENDOR}",
    "PinLocked": "must not be locked, got one that is; have its security officer unlock it",
    "UserNotLoggedIn": (
        "must sign after one login, got one that wants its PIN for each signature; use a key "
        "without CKA_ALWAYS_AUTHENTICATE"
    ),
    "UserPinNotInitialized": f"must have a PIN for its user, got none; set one {_VENDOR}",
}
_PIN_REFUSED: Final = frozenset({"PinIncorrect", "PinInvalid", "PinLenRange"})


class TokenKey(ec.EllipticCurvePrivateKey):
    """A private key on P-256 that signs inside its token.

    Attributes:
        uri: its name.
    """

    def __init__(
        self, uri: KeyURI, public_key: ec.EllipticCurvePublicKey, sign: Callable[[bytes], bytes]
    ) -> None:
        """Stand for the key; `KeyTokens.key` finds it.

        Args:
            uri: its name.
            public_key: its other half.
            sign: returns the verified signature of what it is given, DER.
        """
        self.uri = uri
        self._public_key = public_key
        self._sign = sign

    def __repr__(self) -> str:
        """Return the key's name."""
        return f"TokenKey({str(self.uri)!r})"

    @property
    def reference(self) -> bytes:
        """What a file holds in the key's place."""
        return f"{self.uri}\n".encode()

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half."""
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """In bits."""
        return self._public_key.key_size

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return the token's signature of the data, DER, after verifying it.

        Args:
            data: bytes.
            signature_algorithm: ECDSA with SHA-256, and nothing else.

        Raises:
            UnavailableError: the token is away, failed, or signs no more.
        """
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise TypeError("a TokenKey signs with SHA-256 alone")
        try:
            return self._sign(bytes(data))
        except (ConfigError, NotFoundError, IntegrityError) as error:
            # Found in order when it was opened: whoever asks for a signature now is not to blame.
            raise UnavailableError(str(error)) from error

    def verify_whole(self) -> None:
        """Check, by a signature that means nothing, that the token can sign with this key.

        Raises:
            ConfigError: the key is not made for signing, or the PIN is refused.
            NotFoundError: its private half is gone.
            UnavailableError: the token is away, or fails.
            IntegrityError: its halves do not belong together.
        """
        self._sign(_PROOF_DOMAIN + secrets.token_bytes(32))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Refuse: the key signs.

        Raises:
            TypeError: always.
        """
        raise TypeError("a TokenKey signs, and does nothing else")

    def private_numbers(self) -> NoReturn:
        """Refuse: the key stays in its token.

        Raises:
            TypeError: always.
        """
        raise TypeError("a TokenKey cannot be read: it stays in its token")

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:  # noqa: A002 - its base's name
        """Refuse: the key stays in its token.

        Raises:
            TypeError: always.
        """
        raise TypeError("a TokenKey cannot be read: it stays in its token")

    def __copy__(self) -> "TokenKey":
        """Return the key itself: it does not change."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenKey":
        """Return the key itself: it does not change."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: the token is this process's.

        Raises:
            TypeError: always.
        """
        raise TypeError("a TokenKey cannot be pickled: its token is open in this process")


class KeyTokens:
    """The tokens that one PKCS#11 library reaches."""

    def __init__(
        self,
        module: Path | None = None,
        ask_pin: Callable[[str], str | None] | None = None,
        *,
        load: Callable[[str], Any] | None = None,
    ) -> None:
        """Name the library; it is loaded when a key is needed.

        Args:
            module: the library, a file; ``None``: no key can lie in a token.
            ask_pin: returns the PIN of the token that it is told, or ``None``; asked until it
                was a right one. ``None``: nobody knows one.
            load: loads the library; ``None``: python-pkcs11 does.
        """
        self._module = module
        self._ask_pin = ask_pin
        self._load = load
        self._pins: dict[tuple[bytes, str], str] = {}
        self._refused: dict[tuple[bytes, str], str] = {}

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the PINs stay in this process.

        Raises:
            TypeError: always.
        """
        raise TypeError("KeyTokens cannot be pickled or copied: they hold a secret")

    def key(self, uri: KeyURI) -> TokenKey:
        """Return a key.

        Raises:
            ConfigError: the library or the PIN is missing or wrong, the name fits several keys,
                or the key is of another kind.
            NotFoundError: the token has no such key.
            UnavailableError: the token is not there, or fails.
            IntegrityError: its public half is damaged.
        """
        with self._session(uri) as (api, session):
            _signing_key_of(api, session, uri)
            public = _only(api, session, uri, api.ObjectClass.PUBLIC_KEY)
            public_key = _public_key_of(api, public, uri)
        return TokenKey(uri, public_key, lambda data: self._signature_of(data, uri, public_key))

    def key_in(self, content: bytes) -> TokenKey:
        """Return the key that a file names instead of holding one.

        Raises:
            KumiaiError: as for `key`, and `ConfigError` if the name can not be read.
        """
        return self.key(KeyURI.parse(content.decode("utf-8", "replace").strip()))

    def _signature_of(
        self, data: bytes, uri: KeyURI, public_key: ec.EllipticCurvePublicKey
    ) -> bytes:
        with self._session(uri) as (api, session):
            key = _signing_key_of(api, session, uri)
            raw = key.sign(hashlib.sha256(data).digest(), mechanism=api.Mechanism.ECDSA)
        halves = raw[:_HALF_SIZE_BYTES], raw[_HALF_SIZE_BYTES:]
        signature = encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))
        try:
            public_key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise IntegrityError(
                f"token {uri.token_name} must sign by the private half of the public key in it, "
                f"got another signature of {len(raw)} bytes; look at the keys named {uri}"
            ) from error
        return signature

    @contextlib.contextmanager
    def _session(self, uri: KeyURI) -> Iterator[tuple["ModuleType", "Session"]]:
        api = _api()
        with _LOCK:
            library = self._library(api)
            try:
                with self._opened(api, _token_of(library, uri), uri) as session:
                    yield api, session
            except api.PKCS11Error as error:
                raise _meaning_of(type(error).__name__, uri) from error

    def _opened(self, api: "ModuleType", token: "Token", uri: KeyURI) -> "Session":
        which = (token.serial, token.label)
        pin = self._pin_of(api, token, which, uri.token_name)
        try:
            return token.open(user_pin=pin)
        except api.PKCS11Error as error:
            if type(error).__name__ in _PIN_REFUSED:
                self._refused[which] = self._pins.pop(which)
            raise

    def _library(self, api: "ModuleType") -> Any:
        if self._module is None:
            raise ConfigError(
                "library of the token must be named, got none; set KUMIAI_PKCS11_MODULE to its "
                "path, and at a coordinator sites.pkcs11_module"
            )
        try:
            return (self._load or api.lib)(str(self._module))
        except api.PKCS11Error as error:
            raise ConfigError(
                f"library of the token must be a PKCS#11 module that loads, got {self._module}: "
                f"{str(error) or type(error).__name__}"
            ) from error

    def _pin_of(
        self, api: "ModuleType", token: "Token", which: tuple[bytes, str], name: str
    ) -> str:
        if token.flags & api.TokenFlag.USER_PIN_FINAL_TRY:
            raise ConfigError(
                f"token {name} must have tries of its PIN to spare, got its last one; it is not "
                f"risked here: log in {_VENDOR} first"
            )
        pin = self._pins.get(which) or (self._ask_pin and self._ask_pin(name))
        if not pin:
            raise ConfigError(
                f"PIN of token {name} must be given, got none; set KUMIAI_PKCS11_PIN_FILE to a "
                "file that holds it, and at a coordinator sites.pkcs11_pin_file"
            )
        refused = self._refused.get(which)
        if refused is not None and hmac.compare_digest(pin.encode(), refused.encode()):
            raise ConfigError(
                f"PIN of token {name} must be right, got one that it refused before; it is not "
                "tried again, because tokens lock: mend it"
            )
        self._pins[which] = pin
        return pin


def pin_in(path: Path) -> str:
    """Return the PIN in a file that its owner alone can read.

    Raises:
        NotFoundError, StorageError: it cannot be read.
        CertificateError: others may read it.
        ConfigError: it is not text.
    """
    files.verify_private(path, "PIN's file")
    content = files.read_file(path, "PIN's file", size_bytes_max=_PIN_SIZE_BYTES_MAX)
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        # Without its cause, which quotes the bytes.
        raise ConfigError(f"PIN's file must hold UTF-8, got other bytes in {path}") from None


def _meaning_of(kind: str, uri: KeyURI) -> KumiaiError:
    name = uri.token_name
    if kind in _PIN_REFUSED:
        return ConfigError(
            f"PIN of token {name} must be right, got one that it refuses; it is not tried again, "
            "because tokens lock: mend it"
        )
    if kind in _MENDS:
        return ConfigError(f"token {name} {_MENDS[kind]}")
    return UnavailableError(
        f"token {name} must answer, got {kind} from its library; see that it is connected and "
        "look into its own log, then try again"
    )


def _api() -> "ModuleType":
    try:
        import pkcs11  # noqa: PLC0415 - an extra: keys in files work without it
    except ImportError as error:
        raise ConfigError(
            "key must lie in a file, got one in a token without the library for it; "
            "install kumiai[pkcs11]"
        ) from error
    return pkcs11


def _token_of(library: Any, uri: KeyURI) -> "Token":
    tokens: list[Token] = [token for token in library.get_tokens() if _is_named(token, uri)]
    if not tokens:
        raise UnavailableError(
            f"token {uri.token_name} must be there, got none that fits {uri}; connect it, and "
            "compare with what its library lists"
        )
    if len(tokens) > 1:
        raise ConfigError(
            f"key's URI must fit one token, got {len(tokens)} for {uri}; add its serial number"
        )
    return tokens[0]


def _is_named(token: "Token", uri: KeyURI) -> bool:
    pairs = (
        (uri.token, token.label),
        (uri.manufacturer, token.manufacturer_id),
        (uri.model, token.model),
        (uri.serial, token.serial.decode("utf-8", "replace")),
    )
    return all(wanted is None or wanted == is_ for wanted, is_ in pairs)


def _only(api: "ModuleType", session: "Session", uri: KeyURI, kind: "ObjectClass") -> "Object":
    names = {api.Attribute.LABEL: uri.object, api.Attribute.ID: uri.id}
    wanted = {name: value for name, value in names.items() if value is not None}
    found = list(session.get_objects({api.Attribute.CLASS: kind, **wanted}))
    what = kind.name.lower().replace("_", " ")
    if not found:
        raise NotFoundError(
            f"{what} must be in token {uri.token_name}, got none that fits {uri}; make the pair "
            "there, as docs/how-to/keep-the-authority-in-an-hsm.md shows"
        )
    if len(found) > 1:
        raise ConfigError(f"key's URI must fit one {what}, got {len(found)} for {uri}; add its id")
    return found[0]


def _signing_key_of(api: "ModuleType", session: "Session", uri: KeyURI) -> Any:
    key = _only(api, session, uri, api.ObjectClass.PRIVATE_KEY)
    # The library gives a key this method only if the token lets it sign.
    if not isinstance(key, api.SignMixin):
        raise ConfigError(f"token {uri.token_name} {_WRONG_KEY}")
    return key


def _public_key_of(api: "ModuleType", key: "Object", uri: KeyURI) -> ec.EllipticCurvePublicKey:
    kind = key[api.Attribute.KEY_TYPE]
    if kind != api.KeyType.EC or key[api.Attribute.EC_PARAMS] != _P256_PARAMETERS:
        got = "another curve" if kind == api.KeyType.EC else "another kind"
        raise ConfigError(f"key must be on P-256, got {got} for {uri}; make another in its token")
    point: bytes = key[api.Attribute.EC_POINT]
    if len(point) != _POINT_SIZE_BYTES:
        point = point.removeprefix(_POINT_HEADER)
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise IntegrityError(
            f"public key must be a point on P-256, got {len(point)} bytes that are none for {uri}"
        ) from error
