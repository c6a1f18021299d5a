"""The messages of a round: what each holds, and its one form in bytes.

Clients answer the coordinator, and the coordinator tells all of them what the others said:

    client                                    coordinator
    Advertisement         keys for masks and shares      -> Advertisements
    NonceReveal           sparse graphs only             -> NonceReveals
    KeyShares             sealed shares, one per holder  -> Deliveries
    MaskedInput           names the masked vector        -> Survivors
    Agreement             signs who is in the sum        -> Agreements
    Unmasking             one share of each neighbour    -> Result
    Confirmation          signs the checked sum          -> ReceiptIssue

With a Paillier key instead of masks, which one client deals to the others:

    Advertisement         keys for sealing               -> Advertisements
    KeyDeal               the dealer's: the public key,
                          sealed copies of the private   -> KeyDelivery
    MaskedInput           names the encrypted vector     -> Survivors
    Agreement             signs who is in the sum        -> EncryptedSum
    Confirmation          signs the decrypted sum        -> Confirmations, to one of them
    Opening               the decrypted sum              -> ReceiptIssue

Every body travels in an `Envelope`, whose signature covers the body's digest, and protocol
version, round, sender and kind besides. What is too long for a body is attached, and named in the
body by its digest.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.shamir import SHARE_SALT_SIZE_BYTES, SHARE_SIZE_BYTES
from kumiai.secagg.descriptor import CLIENT_COUNT_MAX, PROTOCOL_VERSION, RoundDescriptor
from kumiai.secagg.tree import DIGEST_SIZE_BYTES
from kumiai.secagg.wire import (
    Codec,
    Reader,
    blob,
    choice,
    fixed,
    increasing,
    indices,
    many,
    number,
    record,
    text,
)

__all__ = [
    "ATTACHMENT_SIZE_MAX",
    "CODECS",
    "KEY_COPIES",
    "SHARE_ENTRIES",
    "SHARE_ENTRY",
    "SURVIVOR",
    "Abandonment",
    "Advertisement",
    "Advertisements",
    "Agreement",
    "Agreements",
    "Body",
    "Confirmation",
    "Confirmations",
    "Deliveries",
    "Delivery",
    "EncryptedSum",
    "Envelope",
    "KeyCopy",
    "KeyDeal",
    "KeyDelivery",
    "KeyShares",
    "Kind",
    "MaskedInput",
    "NonceReveal",
    "NonceReveals",
    "Opening",
    "ReceiptIssue",
    "Result",
    "RevealedShare",
    "SecretKind",
    "ShareEntry",
    "Signer",
    "Survivor",
    "Survivors",
    "Unmasking",
    "Verifier",
    "decode_body",
    "encode_body",
    "read_envelope",
    "seal_envelope",
    "verify_envelope",
]

T = TypeVar("T")
ATTACHMENT_SIZE_MAX: Final = 1 << 27
_BODY_SIZE_MAX: Final = 1 << 28
_SIGNATURE_SIZE_MAX: Final = 256
_SIGNATURE_LABEL: Final = "kumiai/secagg/message/v1"
_NAME_SIZE_MAX: Final = 128
_KEY_COPY_SIZE_MAX: Final = 1024
_DIGEST_SIZE: Final = DIGEST_SIZE_BYTES
_SEALED_SIZE_MAX: Final = 512
_DELIVERED_SIZE_MAX: Final = 1024
_DEPTH_MAX: Final = 16


class Signer(Protocol):
    """Who signs: a member's certified key."""

    def sign(self, label: str, message: bytes) -> bytes:
        """Return a signature of a message, good under this label alone."""
        ...


class Verifier(Protocol):
    """Who checks signatures."""

    def verify(self, key: bytes, label: str, message: bytes, signature: bytes) -> None:
        """Check a signature; a `KumiaiError` if it is not one of this key, label and message."""
        ...


class Kind(IntEnum):
    """Which message a body is."""

    ADVERTISEMENT = 1
    ADVERTISEMENTS = 2
    NONCE_REVEAL = 3
    NONCE_REVEALS = 4
    KEY_SHARES = 5
    DELIVERIES = 6
    MASKED_INPUT = 7
    SURVIVORS = 8
    AGREEMENT = 9
    AGREEMENTS = 10
    UNMASKING = 11
    RESULT = 12
    CONFIRMATION = 13
    RECEIPT_ISSUE = 14
    ABANDONMENT = 15
    KEY_DEAL = 16
    KEY_DELIVERY = 17
    ENCRYPTED_SUM = 18
    CONFIRMATIONS = 19
    OPENING = 20


class SecretKind(IntEnum):
    """Which of a client's two secrets a share is of."""

    MASK_KEY = 1
    """The key of its pairwise masks: rebuilt if it dropped out."""
    SELF_MASK = 2
    """Its own mask: rebuilt if it is in the sum."""


@dataclass(frozen=True, slots=True)
class Advertisement:
    """A client's public keys for this round.

    Attributes:
        mask_key: X25519, for the pairwise masks.
        channel_key: X25519, for sealing shares.
        nonce_digest: what it will add to the seed of a sparse graph, hidden; else empty.
    """

    mask_key: bytes
    channel_key: bytes
    nonce_digest: bytes


@dataclass(frozen=True, slots=True)
class _Relayed:
    """What clients said, handed on as they signed it."""

    envelopes: tuple[bytes, ...]


class Advertisements(_Relayed):
    """All advertisements, as their clients signed them, by the clients' names."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class NonceReveal:
    """What a client adds to the seed of the graph, and the advertisements that it saw before."""

    nonce: bytes
    seen: bytes


class NonceReveals(_Relayed):
    """All nonces, as their clients signed them."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ShareEntry:
    """What one holder gets of an author: a leaf of the author's tree.

    A round of 500 clients has 42 000, which the coordinator hashes and passes on, and rarely looks
    into: they are kept as they are written.

    Attributes:
        holder: its index.
        form: all of it, as `of` or a message gave it.
    """

    holder: int
    form: bytes

    @classmethod
    def of(
        cls, holder: int, mask_key_digest: bytes, self_mask_digest: bytes, sealed: bytes
    ) -> "ShareEntry":
        """Make an entry.

        Args:
            holder: its index.
            mask_key_digest: commitment to its share of the mask key.
            self_mask_digest: commitment to its share of the self mask.
            sealed: both shares with their salts, sealed; empty for the author itself.

        Raises:
            ValueError: an argument is out of its limits.
        """
        if not 0 <= holder < CLIENT_COUNT_MAX:
            raise ValueError(f"holder must be 0 to {CLIENT_COUNT_MAX - 1}, got {holder}")
        lengths = len(mask_key_digest), len(self_mask_digest), len(sealed)
        if lengths[:2] != (_DIGEST_SIZE, _DIGEST_SIZE) or lengths[2] > _SEALED_SIZE_MAX:
            raise ValueError(
                f"entry must have digests of {_DIGEST_SIZE} bytes and at most {_SEALED_SIZE_MAX} "
                "sealed, got {}, {} and {}".format(*lengths)
            )
        head = _ENTRY_HEAD.pack(holder, mask_key_digest, self_mask_digest, len(sealed))
        return cls(holder, head + sealed)

    @property
    def mask_key_digest(self) -> bytes:
        """What commits to its share of the mask key."""
        return self.form[2 : 2 + _DIGEST_SIZE]

    @property
    def self_mask_digest(self) -> bytes:
        """What commits to its share of the self mask."""
        return self.form[2 + _DIGEST_SIZE : 2 + 2 * _DIGEST_SIZE]

    @property
    def sealed(self) -> bytes:
        """Both shares with their salts, sealed; empty for the author itself."""
        return self.form[_ENTRY_HEAD.size :]


@dataclass(frozen=True, slots=True)
class KeyShares:
    """A client's shares; the entries are attached.

    Attributes:
        root: of the tree over its entries.
        self_mask_digest: of the key that its self mask comes from.
        seen: digest of all that was said before.
    """

    root: bytes
    self_mask_digest: bytes
    seen: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """One author's entry for the receiver, and why it is what the author signed.

    Attributes:
        envelope: the author's `KeyShares`.
        entry: for the receiver.
        position: of the entry in the author's tree.
        path: of `HashTree.paths`, from the entry up to the root.
    """

    envelope: bytes
    entry: ShareEntry
    position: int
    path: bytes


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Who has shared its secrets, and what the receiver holds of its neighbours.

    Attributes:
        sharers: indices of all who have.
        deliveries: of the receiver's neighbours among them, by index.
    """

    sharers: tuple[int, ...]
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class MaskedInput:
    """A client's masked vector by its digest; the proof of its norm is attached.

    Attributes:
        vector_digest: BLAKE3 of the masked vector.
        vector_size_bytes: its length.
        weight: what the client gave its update, public.
        commitments: to its rows; empty without proofs.
        proof_digest: SHA-256 of the proof; empty without.
        complaints: authors whose delivery could not be opened or did not fit.
    """

    vector_digest: bytes
    vector_size_bytes: int
    weight: int
    commitments: bytes
    proof_digest: bytes
    complaints: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Survivor:
    """Who is in the sum, and with which `MaskedInput` (by the digest of its body)."""

    index: int
    input_digest: bytes


@dataclass(frozen=True, slots=True)
class Survivors:
    """All who are in the sum."""

    entries: tuple[Survivor, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """A client's word that this, and nothing else, is what it saw of the round so far."""

    digest: bytes


class Agreements(_Relayed):
    """The clients' agreements, as they signed them."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RevealedShare:
    """A share that its holder gives away: one secret of an author, never both.

    Attributes:
        author: whose secret, by index.
        secret: which.
        share: `Share.encode`.
        salt: of the author's commitment to it.
    """

    author: int
    secret: SecretKind
    share: bytes
    salt: bytes

    def __repr__(self) -> str:
        """Leave the share out."""
        return f"RevealedShare(author={self.author}, secret={self.secret.name})"


@dataclass(frozen=True, slots=True)
class Unmasking:
    """What a client reveals: of survivors the self mask, of those lost the mask key."""

    shares: tuple[RevealedShare, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """The sum, attached, and what proves it.

    Attributes:
        inputs: the survivors' `MaskedInput`, as they signed them.
        sum_digest: BLAKE3 of the sum and the summed blindings.
    """

    inputs: tuple[bytes, ...]
    sum_digest: bytes


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A client's word on the result.

    Attributes:
        digest: of the round, the survivors and the sum.
        is_right: whether the sum is that of the commitments.
    """

    digest: bytes
    is_right: bool


@dataclass(frozen=True, slots=True)
class ReceiptIssue:
    """A client's receipt."""

    receipt: bytes


@dataclass(frozen=True, slots=True)
class Abandonment:
    """The round ends without a result; begin another."""

    reason: str


@dataclass(frozen=True, slots=True)
class KeyCopy:
    """The private key, sealed for one holder.

    Attributes:
        holder: its index.
        sealed: under the channel keys of dealer and holder.
    """

    holder: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class KeyDeal:
    """The round's Paillier key from its dealer; the copies of the private one are attached.

    Attributes:
        public_key: `public_key_to_bytes`.
        seen: digest of all that was said before.
    """

    public_key: bytes
    seen: bytes


@dataclass(frozen=True, slots=True)
class KeyDelivery:
    """What one holder gets of the dealer.

    Attributes:
        envelope: the dealer's `KeyDeal`.
        sealed: the holder's copy of the private key; empty for the dealer itself.
    """

    envelope: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class EncryptedSum:
    """The sum of the ciphertexts, attached, and who is in it.

    Attributes:
        agreements: of the survivors, as they signed them.
        inputs: the survivors' `MaskedInput`, as they signed them.
        sum_digest: BLAKE3 of the summed ciphertexts.
    """

    agreements: tuple[bytes, ...]
    inputs: tuple[bytes, ...]
    sum_digest: bytes


class Confirmations(_Relayed):
    """A quorum's confirmations of one decrypted sum, as they signed them."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """The decrypted sum, attached, after a quorum has confirmed it.

    Attributes:
        sum_digest: BLAKE3 of the sum and the summed blindings.
    """

    sum_digest: bytes


Body = (
    Advertisement
    | Advertisements
    | NonceReveal
    | NonceReveals
    | KeyShares
    | Deliveries
    | MaskedInput
    | Survivors
    | Agreement
    | Agreements
    | Unmasking
    | Result
    | Confirmation
    | ReceiptIssue
    | Abandonment
    | KeyDeal
    | KeyDelivery
    | EncryptedSum
    | Confirmations
    | Opening
)

_index = number(2, "index", most=CLIENT_COUNT_MAX - 1)
_digest = fixed(_DIGEST_SIZE, "digest")
_envelopes = many(blob(_BODY_SIZE_MAX, "envelope"), CLIENT_COUNT_MAX, "envelopes")


# As many shares are revealed as there are entries: their forms are packed at once, not field by
# field, which would take the coordinator longer than to use them.
_ENTRY_HEAD: Final = struct.Struct(f"<H{_DIGEST_SIZE}s{_DIGEST_SIZE}sI")
_PLACE_FORM: Final = struct.Struct("<HI")
_DELIVERED: Final = blob(_DELIVERED_SIZE_MAX, "envelope")
_REVEALED_FORM: Final = struct.Struct(f"<HB{SHARE_SIZE_BYTES}s{SHARE_SALT_SIZE_BYTES}s")
_SECRET_KINDS: Final = {int(kind): kind for kind in SecretKind}


def _read_entry(reader: Reader) -> ShareEntry:
    head = reader.take(_ENTRY_HEAD.size, "head of an entry")
    holder, _, _, size = _ENTRY_HEAD.unpack(head)
    if holder >= CLIENT_COUNT_MAX:
        raise SecureAggregationError(f"holder must be 0 to {CLIENT_COUNT_MAX - 1}, got {holder}")
    if size > _SEALED_SIZE_MAX:
        raise SecureAggregationError(
            f"length of sealed shares must be 0 to {_SEALED_SIZE_MAX}, got {size}"
        )
    return ShareEntry(holder, head + reader.take(size, "sealed shares"))


def _write_delivery(delivery: Delivery) -> bytes:
    envelope, position, path = delivery.envelope, delivery.position, delivery.path
    digests, rest = divmod(len(path), _DIGEST_SIZE)
    if len(envelope) > _DELIVERED_SIZE_MAX or rest or digests > _DEPTH_MAX:
        raise ValueError(
            f"delivery must have an envelope of at most {_DELIVERED_SIZE_MAX} bytes and a path of "
            f"at most {_DEPTH_MAX} digests, got {len(envelope)} and {len(path)} bytes"
        )
    if not 0 <= position < CLIENT_COUNT_MAX:
        raise ValueError(f"position must be 0 to {CLIENT_COUNT_MAX - 1}, got {position}")
    size = len(envelope).to_bytes(4, "little")
    return b"".join(
        (size, envelope, delivery.entry.form, _PLACE_FORM.pack(position, digests), path)
    )


def _read_delivery(reader: Reader) -> Delivery:
    envelope, entry = _DELIVERED.read(reader), SHARE_ENTRY.read(reader)
    position, digests = _PLACE_FORM.unpack(reader.take(_PLACE_FORM.size, "place of an entry"))
    if position >= CLIENT_COUNT_MAX:
        raise SecureAggregationError(
            f"position must be 0 to {CLIENT_COUNT_MAX - 1}, got {position}"
        )
    if digests > _DEPTH_MAX:
        raise SecureAggregationError(f"count of path must be 0 to {_DEPTH_MAX}, got {digests}")
    return Delivery(envelope, entry, position, reader.take(digests * _DIGEST_SIZE, "path"))


def _write_revealed(revealed: RevealedShare) -> bytes:
    share, salt = revealed.share, revealed.salt
    if not 0 <= revealed.author < CLIENT_COUNT_MAX:
        raise ValueError(f"author must be 0 to {CLIENT_COUNT_MAX - 1}, got {revealed.author}")
    if len(share) != SHARE_SIZE_BYTES or len(salt) != SHARE_SALT_SIZE_BYTES:
        raise ValueError(
            f"share and salt must be {SHARE_SIZE_BYTES} and {SHARE_SALT_SIZE_BYTES} bytes, "
            f"got {len(share)} and {len(salt)}"
        )
    return _REVEALED_FORM.pack(revealed.author, revealed.secret, share, salt)


def _read_revealed(reader: Reader) -> RevealedShare:
    form = reader.take(_REVEALED_FORM.size, "revealed share")
    author, secret, share, salt = _REVEALED_FORM.unpack(form)
    if author >= CLIENT_COUNT_MAX:
        raise SecureAggregationError(f"author must be 0 to {CLIENT_COUNT_MAX - 1}, got {author}")
    kind = _SECRET_KINDS.get(secret)
    if kind is None:
        raise SecureAggregationError(f"secret must be 1 to {len(_SECRET_KINDS)}, got {secret}")
    return RevealedShare(author, kind, share, salt)


SHARE_ENTRY: Final[Codec[ShareEntry]] = Codec(attrgetter("form"), _read_entry)
SHARE_ENTRIES: Final[Codec[tuple[ShareEntry, ...]]] = increasing(
    SHARE_ENTRY, CLIENT_COUNT_MAX, "entries", key=lambda entry: entry.holder
)
_DELIVERY: Final = Codec(_write_delivery, _read_delivery)
_KEY_COPY: Final[Codec[KeyCopy]] = record(
    KeyCopy, holder=_index, sealed=blob(_KEY_COPY_SIZE_MAX, "sealed key")
)
KEY_COPIES: Final[Codec[tuple[KeyCopy, ...]]] = increasing(
    _KEY_COPY, CLIENT_COUNT_MAX, "key copies", key=lambda copy: copy.holder
)
SURVIVOR: Final[Codec[Survivor]] = record(Survivor, index=_index, input_digest=_digest)
_REVEALED: Final = Codec(_write_revealed, _read_revealed)


def _body(kind: type[T], /, **fields: Codec[Any]) -> tuple[type[T], Codec[T]]:
    return kind, record(kind, **fields)


CODECS: Final[dict[Kind, tuple[type[Any], Codec[Any]]]] = {
    Kind.ADVERTISEMENT: _body(
        Advertisement,
        mask_key=fixed(32, "mask_key"),
        channel_key=fixed(32, "channel_key"),
        nonce_digest=blob(32, "nonce_digest"),
    ),
    Kind.ADVERTISEMENTS: _body(Advertisements, envelopes=_envelopes),
    Kind.NONCE_REVEAL: _body(NonceReveal, nonce=fixed(32, "nonce"), seen=_digest),
    Kind.NONCE_REVEALS: _body(NonceReveals, envelopes=_envelopes),
    Kind.KEY_SHARES: _body(KeyShares, root=_digest, self_mask_digest=_digest, seen=_digest),
    Kind.DELIVERIES: _body(
        Deliveries,
        sharers=indices(CLIENT_COUNT_MAX, "sharers"),
        deliveries=many(_DELIVERY, CLIENT_COUNT_MAX, "deliveries"),
    ),
    Kind.MASKED_INPUT: _body(
        MaskedInput,
        vector_digest=_digest,
        vector_size_bytes=number(8, "vector_size_bytes"),
        weight=number(4, "weight", least=1),
        commitments=blob(_BODY_SIZE_MAX, "commitments"),
        proof_digest=blob(32, "proof_digest"),
        complaints=indices(CLIENT_COUNT_MAX, "complaints"),
    ),
    Kind.SURVIVORS: _body(
        Survivors,
        entries=increasing(SURVIVOR, CLIENT_COUNT_MAX, "survivors", key=lambda entry: entry.index),
    ),
    Kind.AGREEMENT: _body(Agreement, digest=_digest),
    Kind.AGREEMENTS: _body(Agreements, envelopes=_envelopes),
    Kind.UNMASKING: _body(
        Unmasking,
        shares=increasing(_REVEALED, CLIENT_COUNT_MAX, "shares", key=lambda share: share.author),
    ),
    Kind.RESULT: _body(Result, inputs=_envelopes, sum_digest=_digest),
    Kind.CONFIRMATION: _body(
        Confirmation, digest=_digest, is_right=choice((True, False), "is_right")
    ),
    Kind.RECEIPT_ISSUE: _body(ReceiptIssue, receipt=blob(1 << 24, "receipt")),
    Kind.ABANDONMENT: _body(Abandonment, reason=text(1024, "reason")),
    Kind.KEY_DEAL: _body(KeyDeal, public_key=blob(_KEY_COPY_SIZE_MAX, "public key"), seen=_digest),
    Kind.KEY_DELIVERY: _body(
        KeyDelivery,
        envelope=blob(2 * _KEY_COPY_SIZE_MAX, "envelope"),
        sealed=blob(_KEY_COPY_SIZE_MAX, "sealed key"),
    ),
    Kind.ENCRYPTED_SUM: _body(
        EncryptedSum, agreements=_envelopes, inputs=_envelopes, sum_digest=_digest
    ),
    Kind.CONFIRMATIONS: _body(Confirmations, envelopes=_envelopes),
    Kind.OPENING: _body(Opening, sum_digest=_digest),
}
_KINDS: Final = {kind_of_body: kind for kind, (kind_of_body, _) in CODECS.items()}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed body.

    Attributes:
        version: of the protocol.
        round_id: of the round it belongs to.
        sender: the name of who signed.
        kind: of the body.
        body: its bytes.
        signature: over all of it and the round's context.
    """

    version: int
    round_id: bytes
    sender: str
    kind: Kind
    body: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return the envelope as bytes."""
        return _ENVELOPE.write(self)


_ENVELOPE: Final[Codec[Envelope]] = record(
    Envelope,
    version=number(2, "version", least=PROTOCOL_VERSION, most=PROTOCOL_VERSION),
    round_id=fixed(16, "round_id"),
    sender=text(_NAME_SIZE_MAX, "sender"),
    kind=choice(tuple(Kind), "kind"),
    body=blob(_BODY_SIZE_MAX, "body"),
    signature=blob(_SIGNATURE_SIZE_MAX, "signature"),
)


def encode_body(body: Body) -> bytes:
    """Return a body's bytes."""
    return CODECS[_KINDS[type(body)]][1].write(body)


def decode_body(envelope: Envelope, expected: type[T]) -> T:
    """Return an envelope's body, which must be of one kind.

    Raises:
        SecureAggregationError: it is of another, or malformed.
    """
    kind, codec = CODECS[envelope.kind]
    if kind is not expected:
        raise SecureAggregationError(
            f"message must be {expected.__name__}, got {kind.__name__} of {envelope.sender!r}"
        )
    value: T = codec.decode(envelope.body)
    return value


def seal_envelope(
    body: Body, *, sender: str, signer: Signer, descriptor: RoundDescriptor, context: bytes
) -> bytes:
    """Return a body in its envelope, signed."""
    kind, encoded = _KINDS[type(body)], encode_body(body)
    signature = signer.sign(
        _SIGNATURE_LABEL, _signed_bytes(descriptor, context, sender, kind, encoded)
    )
    return Envelope(
        PROTOCOL_VERSION, descriptor.round_id, sender, kind, encoded, signature
    ).encode()


def verify_envelope(
    envelope: Envelope,
    *,
    key: bytes,
    verifier: Verifier,
    descriptor: RoundDescriptor,
    context: bytes,
) -> None:
    """Check an envelope's signature.

    Args:
        envelope: of `read_envelope`.
        key: the verification key that its sender must have signed with.
        verifier: checks signatures.
        descriptor: of this round.
        context: its digest.

    Raises:
        KumiaiError: it was signed by somebody else or over something else.
    """
    message = _signed_bytes(descriptor, context, envelope.sender, envelope.kind, envelope.body)
    verifier.verify(key, _SIGNATURE_LABEL, message, envelope.signature)


def read_envelope(data: bytes, descriptor: RoundDescriptor) -> Envelope:
    """Return an envelope of this round whose signature nobody has checked yet.

    Raises:
        SecureAggregationError: it is malformed or of another round.
    """
    envelope = _ENVELOPE.decode(data)
    if envelope.round_id != descriptor.round_id:
        raise SecureAggregationError(
            f"message must be of round {descriptor.round_id.hex()}, got one of "
            f"{envelope.round_id.hex()}"
        )
    return envelope


def _signed_bytes(
    descriptor: RoundDescriptor, context: bytes, sender: str, kind: Kind, body: bytes
) -> bytes:
    return b"".join(
        [
            PROTOCOL_VERSION.to_bytes(2, "little"),
            context,
            _sized(descriptor.run_id.encode()),
            descriptor.round_id,
            _sized(sender.encode()),
            bytes([kind]),
            # The digest for the body: signing reads its message twice, and a token slowly.
            hashlib.sha256(body).digest(),
        ]
    )


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content
