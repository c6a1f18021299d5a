import copy
import pickle  # noqa: TID251 - a keystream must refuse it

import numpy as np
import pytest

from kumiai.privacy.keystream import Keystream
from tests.crypto.known_answers import known_answers
from tests.privacy.statistics_of_noise import KEY


def words_of(keystream: Keystream, count: int) -> list[int]:
    words = np.zeros(count, "<u8")
    keystream.fill(words)
    return words.tolist()


def test_the_words_are_the_keystream_of_nist() -> None:
    (vector,) = known_answers("aes256_ctr")["vectors"]
    plaintext, ciphertext = (bytes.fromhex(vector[name]) for name in ("plaintext", "ciphertext"))
    stream = bytes(a ^ b for a, b in zip(plaintext, ciphertext, strict=True))
    keystream = Keystream(bytes.fromhex(vector["key"]))
    # The published blocks begin at a counter that is far beyond reach, so the cipher is put there.
    counter = int(vector["counter"], 16)
    keystream._cipher.reset_nonce(counter.to_bytes(16, "big"))

    words = words_of(keystream, len(stream) // 8)

    assert np.array(words, "<u8").tobytes() == stream


def test_each_word_is_given_out_once_in_whatever_pieces_it_is_asked_for() -> None:
    whole = words_of(Keystream(KEY), 40_000)
    keystream = Keystream(KEY)

    pieces = [*words_of(keystream, 3), keystream.draw_word(), *words_of(keystream, 39_996)]

    assert pieces == whole
    assert len(set(whole)) == len(whole)


def test_fresh_keystreams_have_keys_of_their_own() -> None:
    firsts = {Keystream.fresh().draw_word() for _ in range(100)}

    assert len(firsts) == 100


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="key must be 32 bytes, got 16"):
        Keystream(bytes(16))


def test_a_keystream_shows_no_secrets_and_is_neither_pickled_nor_copied() -> None:
    keystream = Keystream(KEY)

    assert repr(keystream) == "<Keystream>"
    with pytest.raises(TypeError, match="each word is used once"):
        pickle.dumps(keystream)
    with pytest.raises(TypeError, match="each word is used once"):
        copy.copy(keystream)
