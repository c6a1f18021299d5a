"""All keys of a client in a round follow from one seed, each by a label of its own."""

import hashlib

import pytest

from kumiai.crypto.agreement import AgreementKey
from kumiai.crypto.fields import SHARE_FIELD
from kumiai.crypto.keys import derive
from kumiai.crypto.masks import Mask
from kumiai.secagg.round_keys import (
    SEED_SIZE_BYTES,
    RoundKeys,
    blinding_mask,
    mask_key_of,
    nonce_digest_of,
    pair_key,
    pair_sign,
    place_context,
    self_mask_digest_of,
    self_mask_of,
    share_key,
    vector_mask,
)

SEED, CONTEXT = bytes(range(32)), b"the round"
OWN, PEER = AgreementKey(bytes(range(32))), AgreementKey(bytes(range(1, 33)))


def test_each_key_has_a_label_of_its_own() -> None:
    keys = RoundKeys(SEED, CONTEXT)

    for name, label in (("channel", "channel"), ("mask_key", "mask key")):
        source = SEED if name == "channel" else SHARE_FIELD.encode(keys.mask_secret)
        expected = AgreementKey(derive(source, label=label, context=CONTEXT))
        assert getattr(keys, name).public == expected.public
    assert keys.nonce == derive(SEED, label="nonce", context=CONTEXT)
    assert keys.rounding == derive(SEED, label="rounding", context=CONTEXT)
    assert keys.noise == derive(SEED, label="noise", context=CONTEXT)
    assert keys.self_mask == self_mask_of(keys.self_secret, CONTEXT)
    assert SEED_SIZE_BYTES == 32


def test_the_shared_secrets_are_elements_of_the_field() -> None:
    keys = RoundKeys(SEED, CONTEXT)

    for name, found in (("mask secret", keys.mask_secret), ("self secret", keys.self_secret)):
        uniform = derive(SEED, label=name, context=CONTEXT, size_bytes=64)
        assert found == int.from_bytes(uniform, "little") % SHARE_FIELD.prime


def test_what_is_derived_from_a_shared_secret_is_this() -> None:
    secret = SHARE_FIELD.encode(5)

    own = mask_key_of(5, CONTEXT)

    expected = AgreementKey(derive(secret, label="mask key", context=CONTEXT))
    assert own.public == expected.public
    key = self_mask_of(5, CONTEXT)
    assert key == derive(secret, label="self mask", context=CONTEXT)
    digest = derive(key, label="self mask digest", context=CONTEXT)
    assert self_mask_digest_of(key, CONTEXT) == digest


def test_a_nonce_is_hidden_with_its_round() -> None:
    digest = hashlib.sha256(b"kumiai/secagg/nonce/v1/" + CONTEXT + SEED).digest()

    assert nonce_digest_of(SEED, CONTEXT) == digest


def test_both_ends_of_a_pair_have_one_key_and_opposite_signs() -> None:
    shared = OWN.exchange(PEER.public)

    assert pair_key(OWN, PEER.public, CONTEXT) == pair_key(PEER, OWN.public, CONTEXT)
    assert pair_key(OWN, PEER.public, CONTEXT) == derive(shared, label="pair mask", context=CONTEXT)
    assert (pair_sign(1, 2), pair_sign(2, 1)) == (1, -1)


def test_shares_are_sealed_with_a_key_for_their_place() -> None:
    place = place_context(CONTEXT, 1, 258)

    assert place == CONTEXT + b"\x01\x00" + b"\x02\x01"
    shared = OWN.exchange(PEER.public)
    assert share_key(OWN, PEER.public, place) == derive(shared, label="share", context=place)


def test_keys_show_nothing_and_are_not_pickled() -> None:
    keys = RoundKeys(SEED, CONTEXT)

    assert repr(keys) == "RoundKeys()"
    with pytest.raises(TypeError, match="RoundKeys cannot be pickled"):
        keys.__reduce__()


def test_the_vector_and_the_blindings_have_masks_of_their_own() -> None:
    assert vector_mask(SEED, 1) == Mask(derive(SEED, label="vector", context=b""), 1)
    assert blinding_mask(SEED, -1) == Mask(derive(SEED, label="blindings", context=b""), -1)
