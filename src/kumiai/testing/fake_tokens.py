"""A PKCS#11 library without hardware, as python-pkcs11 shows one: tokens, sessions, key objects.

It keeps the rules that callers stumble over: nothing private is seen without a login, one login
at a time, wrong PINs count until the token locks, a closed session answers nothing, and each
object has only the attributes of its class. Faults are ordered by the test.

Source: PKCS #11 Cryptographic Token Interface 2.40; the documentation of python-pkcs11.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["FakeKey", "FakeSession", "FakeToken", "FakeTokenLibrary"]

_P256 = bytes.fromhex("06082a8648ce3d030107")
_TRIES = 3


@dataclass
class FakeKey:
    """A key pair in a token.

    Attributes:
        label: of both halves.
        id: of both halves.
        private: the private half.
        public: the public half; another's, where a test breaks the pair.
        may_sign: whether it was made for signing.
        has_private: whether the private half is there.
        has_public: whether the public half is.
        kind: what both say that they are.
        params: the curve, DER.
        is_point_wrapped: whether the point is an octet string, as it should be.
    """

    label: str
    id: bytes = b"\x01"
    private: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    public: ec.EllipticCurvePublicKey | None = None
    may_sign: bool = True
    has_private: bool = True
    has_public: bool = True
    kind: pkcs11.KeyType = pkcs11.KeyType.EC
    params: bytes = _P256
    is_point_wrapped: bool = True

    @property
    def point(self) -> bytes:
        """``CKA_EC_POINT``."""
        public = self.public or self.private.public_key()
        raw = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return b"\x04" + bytes([len(raw)]) + raw if self.is_point_wrapped else raw


class _Object:
    """One object, as a session sees it."""

    def __init__(self, session: "FakeSession", attributes: dict[pkcs11.Attribute, Any]) -> None:
        self._session = session
        self._attributes = attributes

    def __getitem__(self, name: pkcs11.Attribute) -> Any:
        self._session.verify_open()
        if name is pkcs11.Attribute.VALUE:
            raise pkcs11.AttributeSensitive
        if name not in self._attributes:
            raise pkcs11.AttributeTypeInvalid
        return self._attributes[name]


class _SigningObject(_Object, pkcs11.SignMixin):
    """A private key that may sign."""

    def __init__(
        self,
        session: "FakeSession",
        attributes: dict[pkcs11.Attribute, Any],
        key: ec.EllipticCurvePrivateKey,
    ) -> None:
        super().__init__(session, attributes)
        self._key = key

    def sign(self, data: Any, **options: Any) -> bytes:
        """Return r and s, 32 bytes each, of a digest."""
        token = self._session.verify_open()
        if options.pop("mechanism", None) is not pkcs11.Mechanism.ECDSA or options:
            raise pkcs11.MechanismInvalid
        if len(data) != 32:
            raise pkcs11.DataLenRange
        token.signature_count += 1
        if token.signing_fault is not None:
            raise token.signing_fault
        der = self._key.sign(data, ec.ECDSA(Prehashed(hashes.SHA256())))
        raw = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der))
        return raw[: token.signature_size_bytes]


class FakeSession:
    """One session, with the user logged in or not."""

    def __init__(self, token: "FakeToken", *, is_user: bool) -> None:
        """Open; `FakeToken.open` does it."""
        self._token = token
        self._is_user = is_user
        self._is_open = True

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(self, *_: object) -> None:
        """Log out and close."""
        self.close()

    def close(self) -> None:
        """Log out and close."""
        self.verify_open()
        self._is_open = False
        self._token.is_logged_in = False

    def verify_open(self) -> "FakeToken":
        """Return the token, if the session is open still."""
        if not self._is_open:
            raise pkcs11.SessionHandleInvalid
        return self._token

    def get_objects(self, attrs: dict[pkcs11.Attribute, Any] | None = None) -> Iterator[_Object]:
        """Give the objects with these attributes."""
        for found in self._objects():
            if all(found[name] == value for name, value in (attrs or {}).items()):
                yield found

    def _objects(self) -> Iterator[_Object]:
        name = pkcs11.Attribute
        for key in self.verify_open().keys:
            shared: dict[pkcs11.Attribute, Any] = {
                name.LABEL: key.label,
                name.ID: key.id,
                name.KEY_TYPE: key.kind,
                name.EC_PARAMS: key.params,
            }
            if key.has_public:
                public = {name.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, name.EC_POINT: key.point}
                yield _Object(self, {**shared, **public})
            if key.has_private and self._is_user:
                private = {**shared, name.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}
                if key.may_sign:
                    yield _SigningObject(self, private, key.private)
                else:
                    yield _Object(self, private)


@dataclass
class FakeToken:
    """One token in one slot.

    Attributes:
        keys: what lies in it.
        label: its name.
        pin: its user's.
        serial: its serial number.
        is_present: whether it is connected.
        wrong_pins: how often in a row a wrong PIN was shown to it.
        is_logged_in: whether its user is.
        open_fault: what opening a session raises.
        signing_fault: what signing raises.
        signature_size_bytes: where signatures are cut off.
        signature_count: how many it was asked for.
    """

    keys: list[FakeKey] = field(default_factory=list)
    label: str = "authority"
    pin: str = "a-secret-pin"
    serial: bytes = b"0ba1d22d2944bf73"
    manufacturer_id: str = "Kumiai"
    model: str = "fake"
    is_present: bool = True
    wrong_pins: int = 0
    is_logged_in: bool = False
    open_fault: Exception | None = None
    signing_fault: Exception | None = None
    signature_size_bytes: int = 64
    signature_count: int = 0

    @property
    def flags(self) -> pkcs11.TokenFlag:
        """What the token says of itself."""
        flag = pkcs11.TokenFlag
        state = flag.LOGIN_REQUIRED | flag.USER_PIN_INITIALIZED | flag.TOKEN_INITIALIZED
        if self.wrong_pins:
            state |= flag.USER_PIN_COUNT_LOW
        if self.wrong_pins == _TRIES - 1:
            state |= flag.USER_PIN_FINAL_TRY
        if self.wrong_pins >= _TRIES:
            state |= flag.USER_PIN_LOCKED
        return state

    def open(self, *, user_pin: str | None = None) -> FakeSession:
        """Open a session, and log in if there is a PIN."""
        if not self.is_present:
            raise pkcs11.TokenNotPresent
        if self.open_fault is not None:
            raise self.open_fault
        if user_pin is not None:
            self._log_in(user_pin)
        return FakeSession(self, is_user=user_pin is not None)

    def _log_in(self, pin: str) -> None:
        if self.is_logged_in:
            raise pkcs11.UserAlreadyLoggedIn
        if self.wrong_pins >= _TRIES:
            raise pkcs11.PinLocked
        if pin != self.pin:
            self.wrong_pins += 1
            raise pkcs11.PinIncorrect
        self.wrong_pins = 0
        self.is_logged_in = True


@dataclass
class FakeTokenLibrary:
    """What loading a PKCS#11 library returns; call it with the library's path.

    Attributes:
        tokens: those in its slots.
        fault: what loading raises.
        loaded: the paths that were asked for.
    """

    tokens: list[FakeToken] = field(default_factory=list)
    fault: Exception | None = None
    loaded: list[str] = field(default_factory=list)

    def __call__(self, path: str) -> "FakeTokenLibrary":
        """Load."""
        self.loaded.append(path)
        if self.fault is not None:
            raise self.fault
        return self

    def get_tokens(self) -> Iterator[FakeToken]:
        """Give the tokens that are connected."""
        yield from (token for token in self.tokens if token.is_present)
