"""The messages of a round: the bytes of each, its limits, and what their senders sign."""

import hashlib
from typing import Any

import pytest

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.messages import (
    ATTACHMENT_SIZE_MAX,
    CODECS,
    KEY_COPIES,
    SHARE_ENTRIES,
    Abandonment,
    Advertisement,
    Advertisements,
    Agreement,
    Agreements,
    Body,
    Confirmation,
    Confirmations,
    Deliveries,
    Delivery,
    EncryptedSum,
    Envelope,
    KeyCopy,
    KeyDeal,
    KeyDelivery,
    KeyShares,
    Kind,
    MaskedInput,
    NonceReveal,
    NonceReveals,
    Opening,
    ReceiptIssue,
    Result,
    RevealedShare,
    SecretKind,
    ShareEntry,
    Survivor,
    Survivors,
    Unmasking,
    decode_body,
    encode_body,
    read_envelope,
    seal_envelope,
    verify_envelope,
)
from tests.secagg.forms import changed_at, size
from tests.secagg.rounds import describe, signers_of

A, B, C = b"A" * 32, b"B" * 32, b"C" * 32
SALT, SHARE = b"s" * 32, b"h" * 34
ENTRY = ShareEntry.of(0x0102, A, B, b"sealed")
ENTRY_BYTES = b"\x02\x01" + A + B + size(6) + b"sealed"
LISTED = size(2) + size(1) + b"x" + size(2) + b"yy"
BODIES: dict[Kind, tuple[Any, bytes]] = {
    Kind.ADVERTISEMENT: (Advertisement(A, B, b"n"), A + B + size(1) + b"n"),
    Kind.ADVERTISEMENTS: (Advertisements((b"x", b"yy")), LISTED),
    Kind.NONCE_REVEAL: (NonceReveal(A, B), A + B),
    Kind.NONCE_REVEALS: (NonceReveals((b"x", b"yy")), LISTED),
    Kind.KEY_SHARES: (KeyShares(A, B, C), A + B + C),
    Kind.DELIVERIES: (
        Deliveries((3, 4), (Delivery(b"e", ENTRY, 5, A + C),)),
        b"".join(
            [
                *(size(2), b"\x03\0\x04\0", size(1)),
                *(size(1), b"e", ENTRY_BYTES, b"\x05\0", size(2), A, C),
            ]
        ),
    ),
    Kind.MASKED_INPUT: (
        MaskedInput(A, 0x0102, 0x0304, b"c", b"p", (6, 7)),
        b"".join(
            [
                *(A, b"\x02\x01" + bytes(6), b"\x04\x03\0\0", size(1), b"c", size(1), b"p"),
                *(size(2), b"\x06\0\x07\0"),
            ]
        ),
    ),
    Kind.SURVIVORS: (
        Survivors((Survivor(1, B), Survivor(2, A))),
        size(2) + b"\x01\0" + B + b"\x02\0" + A,
    ),
    Kind.AGREEMENT: (Agreement(A), A),
    Kind.AGREEMENTS: (Agreements((b"x", b"yy")), LISTED),
    Kind.UNMASKING: (
        Unmasking(
            (
                RevealedShare(1, SecretKind.SELF_MASK, SHARE, SALT),
                RevealedShare(2, SecretKind.MASK_KEY, SHARE, SALT),
            )
        ),
        size(2) + b"\x01\0\x02" + SHARE + SALT + b"\x02\0\x01" + SHARE + SALT,
    ),
    Kind.RESULT: (Result((b"x", b"yy"), A), LISTED + A),
    Kind.CONFIRMATION: (Confirmation(A, is_right=False), A + b"\x02"),
    Kind.RECEIPT_ISSUE: (ReceiptIssue(b"r"), size(1) + b"r"),
    Kind.ABANDONMENT: (Abandonment("why"), size(3) + b"why"),
    Kind.KEY_DEAL: (KeyDeal(b"k", A), size(1) + b"k" + A),
    Kind.KEY_DELIVERY: (KeyDelivery(b"e", b"ss"), size(1) + b"e" + size(2) + b"ss"),
    Kind.ENCRYPTED_SUM: (
        EncryptedSum((b"x", b"yy"), (b"z",), A),
        LISTED + size(1) + size(1) + b"z" + A,
    ),
    Kind.CONFIRMATIONS: (Confirmations((b"x", b"yy")), LISTED),
    Kind.OPENING: (Opening(A), A),
}
"""One body of each kind, and how it is written."""
DESCRIPTOR = describe(signers_of(4), run_id="run", round_id=bytes(range(16)))
CONTEXT = DESCRIPTOR.context()
ENVELOPE = b"".join(
    [
        *(b"\x02\0", bytes(range(16)), size(4), b"site", b"\x09"),
        *(size(32), A, size(3), b"sig"),
    ]
)


class Pen:
    """Signs everything alike, checks nothing, and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def sign(self, label: str, message: bytes) -> bytes:
        self.seen.append((label, message))
        return b"sig"

    def verify(self, key: bytes, label: str, message: bytes, signature: bytes) -> None:
        self.seen.append((key, label, message, signature))


@pytest.mark.parametrize("kind", Kind)
def test_the_bytes_of_each_body_are_these(kind: Kind) -> None:
    body, data = BODIES[kind]
    envelope = Envelope(2, DESCRIPTOR.round_id, "site", kind, data, b"sig")

    assert encode_body(body) == data
    assert decode_body(envelope, type(body)) == body
    assert CODECS[kind][0] is type(body)


def test_attached_lists_have_these_bytes() -> None:
    other = ShareEntry.of(0x0103, B, A, b"")

    assert SHARE_ENTRIES.write((ENTRY, other)) == (
        size(2) + ENTRY_BYTES + b"\x03\x01" + B + A + size(0)
    )
    assert KEY_COPIES.write((KeyCopy(1, b"k"), KeyCopy(2, b""))) == (
        size(2) + b"\x01\0" + size(1) + b"k" + b"\x02\0" + size(0)
    )


def test_a_kind_is_written_as_its_number() -> None:
    assert [kind.value for kind in Kind] == list(range(1, 21))
    assert [kind.value for kind in SecretKind] == [1, 2]
    assert ENVELOPE[26] == Kind.AGREEMENT


def test_a_body_travels_in_this_envelope_under_this_signature() -> None:
    pen = Pen()
    signed = b"".join(
        [
            *(b"\x02\0", CONTEXT, size(3), b"run", bytes(range(16))),
            *(size(4), b"site", b"\x09", hashlib.sha256(A).digest()),
        ]
    )

    data = seal_envelope(
        Agreement(A), sender="site", signer=pen, descriptor=DESCRIPTOR, context=CONTEXT
    )
    envelope = read_envelope(data, DESCRIPTOR)
    verify_envelope(envelope, key=b"key", verifier=pen, descriptor=DESCRIPTOR, context=CONTEXT)

    assert data == ENVELOPE
    assert envelope.encode() == data
    assert pen.seen == [
        ("kumiai/secagg/message/v1", signed),
        (b"key", "kumiai/secagg/message/v1", signed, b"sig"),
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (changed_at(ENVELOPE, 0, b"\x03"), "version must be 2 to 2, got 3"),
        (changed_at(ENVELOPE, 0, b"\x01"), "version must be 2 to 2, got 1"),
        (changed_at(ENVELOPE, 2, b"\xff"), "message must be of round 000102.*, got one of ff0102"),
        (ENVELOPE[:17], "round_id must be 16 bytes, got the last 15"),
        (changed_at(ENVELOPE, 18, size(129)), "length of sender must be 0 to 128, got 129"),
        (changed_at(ENVELOPE, 26, b"\0"), "kind must be 1 to 20, got 0"),
        (changed_at(ENVELOPE, 27, size(2**28 + 1)), "length of body must be 0 to 268435456, got"),
        (changed_at(ENVELOPE, 63, size(257)), "length of signature must be 0 to 256, got 257"),
    ],
)
def test_an_envelope_of_another_round_or_beyond_a_limit_is_refused(
    data: bytes, problem: str
) -> None:
    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        read_envelope(data, DESCRIPTOR)


def delivering(
    *,
    envelope: bytes = b"envelope",
    entry: ShareEntry = ENTRY,
    position: int = 0,
    path: bytes = b"",
) -> Deliveries:
    return Deliveries((1,), (Delivery(envelope, entry, position, path),))


def changed(kind: Kind, place: int, content: bytes) -> bytes:
    return changed_at(BODIES[kind][1], place, content)


def cut(kind: Kind, count: int) -> bytes:
    return BODIES[kind][1][:count]


@pytest.mark.parametrize(
    ("kind", "data", "problem"),
    [
        (Kind.ADVERTISEMENT, A[:31], "mask_key must be 32 bytes, got the last 31"),
        (Kind.ADVERTISEMENT, A + A[:31], "channel_key must be 32 bytes, got the last 31"),
        (
            Kind.ADVERTISEMENT,
            changed(Kind.ADVERTISEMENT, 64, size(33)),
            "length of nonce_digest must be 0 to 32, got 33",
        ),
        (Kind.ADVERTISEMENTS, size(4097), "count of envelopes must be 0 to 4096, got 4097"),
        (
            Kind.ADVERTISEMENTS,
            size(1) + size(2**28 + 1),
            "length of envelope must be 0 to 268435456, got 268435457",
        ),
        (Kind.NONCE_REVEAL, A[:31], "nonce must be 32 bytes, got the last 31"),
        (Kind.KEY_SHARES, A[:31], "digest must be 32 bytes, got the last 31"),
        (Kind.DELIVERIES, size(4097), "count of sharers must be 0 to 4096, got 4097"),
        (Kind.DELIVERIES, size(1) + b"\0\x10", "sharers must be 0 to 4095, got 4096 to 4096"),
        (Kind.DELIVERIES, size(0) + size(4097), "count of deliveries must be 0 to 4096, got 4097"),
        (
            Kind.DELIVERIES,
            changed(Kind.DELIVERIES, 12, size(1025)),
            "length of envelope must be 0 to 1024, got 1025",
        ),
        (
            Kind.DELIVERIES,
            changed(Kind.DELIVERIES, 83, size(513)),
            "length of sealed shares must be 0 to 512, got 513",
        ),
        (
            Kind.DELIVERIES,
            changed(Kind.DELIVERIES, 93, b"\0\x10"),
            "position must be 0 to 4095, got 4096",
        ),
        (
            Kind.DELIVERIES,
            changed(Kind.DELIVERIES, 95, size(17)),
            "count of path must be 0 to 16, got 17",
        ),
        (Kind.DELIVERIES, cut(Kind.DELIVERIES, 98), "place of an entry must be 6 bytes, got the"),
        (Kind.DELIVERIES, cut(Kind.DELIVERIES, 162), "path must be 64 bytes, got the last 63"),
        (
            Kind.MASKED_INPUT,
            cut(Kind.MASKED_INPUT, 39),
            "vector_size_bytes must be 8 bytes, got the last 7",
        ),
        (
            Kind.MASKED_INPUT,
            changed(Kind.MASKED_INPUT, 40, size(0)),
            "weight must be 1 to 4294967295, got 0",
        ),
        (
            Kind.MASKED_INPUT,
            changed(Kind.MASKED_INPUT, 44, size(2**28 + 1)),
            "length of commitments must be 0 to 268435456, got 268435457",
        ),
        (
            Kind.MASKED_INPUT,
            changed(Kind.MASKED_INPUT, 49, size(33)),
            "length of proof_digest must be 0 to 32, got 33",
        ),
        (
            Kind.MASKED_INPUT,
            changed(Kind.MASKED_INPUT, 54, size(4097)),
            "count of complaints must be 0 to 4096, got 4097",
        ),
        (Kind.MASKED_INPUT, changed(Kind.MASKED_INPUT, 60, b"\x06"), "complaints must increase"),
        (Kind.SURVIVORS, size(4097), "count of survivors must be 0 to 4096, got 4097"),
        (Kind.SURVIVORS, changed(Kind.SURVIVORS, 38, b"\x01"), "survivors must increase"),
        (Kind.SURVIVORS, size(1) + b"\0\x10" + A, "index must be 0 to 4095, got 4096"),
        (Kind.UNMASKING, size(4097), "count of shares must be 0 to 4096, got 4097"),
        (
            Kind.UNMASKING,
            changed(Kind.UNMASKING, 4, b"\0\x10"),
            "author must be 0 to 4095, got 4096",
        ),
        (Kind.UNMASKING, changed(Kind.UNMASKING, 6, b"\x03"), "secret must be 1 to 2, got 3"),
        (
            Kind.UNMASKING,
            cut(Kind.UNMASKING, 40),
            "revealed share must be 69 bytes, got the last 36",
        ),
        (
            Kind.UNMASKING,
            cut(Kind.UNMASKING, 72),
            "revealed share must be 69 bytes, got the last 68",
        ),
        (Kind.UNMASKING, changed(Kind.UNMASKING, 73, b"\x01"), "shares must increase"),
        (Kind.CONFIRMATION, A + b"\x03", "is_right must be 1 to 2, got 3"),
        (
            Kind.RECEIPT_ISSUE,
            size(2**24 + 1),
            "length of receipt must be 0 to 16777216, got 16777217",
        ),
        (Kind.ABANDONMENT, size(1025), "length of reason must be 0 to 1024, got 1025"),
        (Kind.KEY_DEAL, size(1025), "length of public key must be 0 to 1024, got 1025"),
        (Kind.KEY_DELIVERY, size(2049), "length of envelope must be 0 to 2048, got 2049"),
        (
            Kind.KEY_DELIVERY,
            changed(Kind.KEY_DELIVERY, 5, size(1025)),
            "length of sealed key must be 0 to 1024, got 1025",
        ),
    ],
)
def test_a_body_beyond_a_limit_is_refused(kind: Kind, data: bytes, problem: str) -> None:
    envelope = Envelope(2, DESCRIPTOR.round_id, "site", kind, data, b"sig")

    with pytest.raises(SecureAggregationError, match=f"^{problem}"):
        decode_body(envelope, CODECS[kind][0])


def test_attached_lists_beyond_a_limit_are_refused() -> None:
    for codec, data, problem in (
        (SHARE_ENTRIES, size(4097), "count of entries must be 0 to 4096, got 4097"),
        (SHARE_ENTRIES, size(2) + 2 * ENTRY_BYTES, "entries must increase"),
        (
            SHARE_ENTRIES,
            size(1) + b"\0\x10" + A + B + size(0),
            "holder must be 0 to 4095, got 4096",
        ),
        (KEY_COPIES, size(4097), "count of key copies must be 0 to 4096, got 4097"),
        (KEY_COPIES, size(2) + 2 * (b"\x01\0" + size(0)), "key copies must increase"),
        (KEY_COPIES, size(1) + b"\0\0" + size(1025), "length of sealed key must be 0 to 1024"),
    ):
        with pytest.raises(SecureAggregationError, match=f"^{problem}"):
            codec.decode(data)

    assert ATTACHMENT_SIZE_MAX == 2**27


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (Unmasking((RevealedShare(1, SecretKind.SELF_MASK, SHARE[1:], SALT),)), "got 33 and 32"),
        (Unmasking((RevealedShare(1, SecretKind.SELF_MASK, SHARE, SALT + b"s"),)), "got 34 and 33"),
        (Unmasking((RevealedShare(4096, SecretKind.SELF_MASK, SHARE, SALT),)), "got 4096"),
        (Unmasking((RevealedShare(-1, SecretKind.SELF_MASK, SHARE, SALT),)), "got -1"),
        (
            delivering(envelope=bytes(1025)),
            "at most 1024 bytes .* 16 digests, got 1025 and 0 bytes",
        ),
        (delivering(path=bytes(33)), "got 8 and 33 bytes"),
        (delivering(path=bytes(17 * 32)), "got 8 and 544 bytes"),
        (delivering(position=-1), "position must be 0 to 4095, got -1"),
        (delivering(position=4096), "position must be 0 to 4095, got 4096"),
    ],
)
def test_what_does_not_fit_its_form_is_not_written(body: Body, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        encode_body(body)


@pytest.mark.parametrize(
    ("holder", "first", "second", "sealed", "problem"),
    [
        (4096, A, B, b"", "holder must be 0 to 4095, got 4096"),
        (-1, A, B, b"", "holder must be 0 to 4095, got -1"),
        (1, A[1:], B, b"", "digests of 32 bytes and at most 512 sealed, got 31, 32 and 0"),
        (1, A, B + b"b", b"", "got 32, 33 and 0"),
        (1, A, B, bytes(513), "got 32, 32 and 513"),
    ],
)
def test_an_entry_that_does_not_fit_its_form_is_not_made(
    holder: int, first: bytes, second: bytes, sealed: bytes, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        ShareEntry.of(holder, first, second, sealed)


def test_an_entry_tells_its_parts() -> None:
    assert (ENTRY.holder, ENTRY.mask_key_digest, ENTRY.self_mask_digest) == (0x0102, A, B)
    assert (ENTRY.sealed, ENTRY.form) == (b"sealed", ENTRY_BYTES)
    assert SHARE_ENTRIES.decode(size(1) + ENTRY_BYTES) == (ENTRY,)


def test_what_is_the_first_clients_is_written_and_read() -> None:
    body = delivering(entry=ShareEntry.of(0, A, B, b""), position=0)
    shares = Unmasking((RevealedShare(0, SecretKind.MASK_KEY, SHARE, SALT),))

    assert CODECS[Kind.DELIVERIES][1].decode(encode_body(body)) == body
    assert CODECS[Kind.UNMASKING][1].decode(encode_body(shares)) == shares


def test_the_longest_delivery_is_written_and_read() -> None:
    body = delivering(
        envelope=bytes(1024),
        entry=ShareEntry.of(4095, A, B, bytes(512)),
        position=4095,
        path=bytes(16 * 32),
    )

    assert CODECS[Kind.DELIVERIES][1].decode(encode_body(body)) == body


def test_a_body_is_read_as_the_kind_that_was_signed_and_as_no_other() -> None:
    envelope = Envelope(2, DESCRIPTOR.round_id, "site", Kind.OPENING, A, b"sig")

    with pytest.raises(
        SecureAggregationError, match=r"^message must be Agreement, got Opening of 'site'"
    ):
        decode_body(envelope, Agreement)


def test_a_revealed_share_does_not_show_itself() -> None:
    share = RevealedShare(1, SecretKind.SELF_MASK, SHARE, SALT)

    assert repr(share) == "RevealedShare(author=1, secret=SELF_MASK)"
