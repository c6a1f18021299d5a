"""From an update's real numbers to whole ones that can be masked, and back.

A number is clipped, scaled to ``levels`` steps, and rounded at random to one of the two next whole
numbers, so that its expectation stays; the rounding's randomness is a stream of AES-256-CTR, the
same whenever the same update is quantised with the same key. Weights multiply the whole numbers,
and follow them as one more word.

Where a round asks for noise, every client adds its share of it here, to whole numbers, before
anything is masked: what leaves is noised, and the same again after a restart. Shares are Skellam
noise, so that those of the survivors add up to Skellam noise whose variance is the sum.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.masks import Words, add_mask
from kumiai.privacy import skellam_again
from kumiai.secagg.descriptor import RoundDescriptor

__all__ = ["Numbers", "cut_count", "quantize", "signed", "words_dtype"]

Numbers = NDArray[np.float32] | NDArray[np.int64]
"""An update: real numbers to be quantised, or whole ones that count steps already."""

_BLOCK_COUNT: Final = 1 << 16
"""Numbers at once: what belongs to them stays in the processor's cache."""
_WORD: Final = 2.0**-32
_DTYPES: Final = (np.dtype(np.float32), np.dtype(np.int64))


def words_dtype(ring_bits: int) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
    """Return the type of the ring's words, as they travel: the least significant byte first."""
    return np.dtype("<u4") if ring_bits == 32 else np.dtype("<u8")


def signed(words: Words) -> NDArray[np.int64]:
    """Return words as the signed numbers that they stand for."""
    return words.view(np.dtype(f"<i{words.itemsize}")).astype(np.int64)


def cut_count(update: Numbers, descriptor: RoundDescriptor) -> int:
    """Return how many numbers of an update a round cuts to its clip.

    Where it adds noise, none: there an update is clipped on purpose, to its norm, and how many
    numbers were beyond would tell of the data.
    """
    if descriptor.noise_variance:
        return 0
    return int(np.count_nonzero(np.abs(update) > descriptor.clip))


def quantize(
    words: Words,
    update: Numbers,
    weight: int,
    *,
    key: bytes,
    noise_key: bytes,
    descriptor: RoundDescriptor,
) -> None:
    """Write a weighted, quantised update and its weight, ready to be masked.

    Args:
        words: where to; shape (dimension + 1,), the ring's words.
        update: shape (dimension,); float32, finite: clipped to the round's norm bound, then to its
            clip; or int64: steps, cut to the round's levels.
        weight: 1 to the round's weight bound; the client's public scale is already in it.
        key: 32 bytes for the rounding.
        noise_key: 32 bytes for the noise, if the round has any.
        descriptor: the round.

    Raises:
        SecureAggregationError: the update has another shape or type, or numbers that are not
            finite.
    """
    if update.shape != (descriptor.dimension,) or update.dtype not in _DTYPES:
        raise SecureAggregationError(
            f"update must be float32 or int64 of shape ({descriptor.dimension},), got "
            f"{update.dtype} of {update.shape}"
        )
    if update.dtype == np.int64:
        _copy_steps(words, update, weight, descriptor.levels)
    else:
        _round(words, update, weight, key, descriptor)
    if descriptor.noise_variance:
        _add_noise(words, noise_key, descriptor)
    words[-1] = weight


def _copy_steps(words: Words, update: Numbers, weight: int, levels: int) -> None:
    # Cut and not refused: a refusal before the noise would tell of the data. Cutting each number
    # brings two vectors no further apart, so that what noise was sized for still holds.
    words[:-1] = (np.clip(update, -levels, levels) * weight).view(np.uint64)


def _add_noise(words: Words, key: bytes, descriptor: RoundDescriptor) -> None:
    numbers = signed(words[:-1])
    numbers += skellam_again(key, numbers.size, descriptor.noise_variance)
    # What lies beyond is as good as impossible, and cutting what is noised already tells nothing.
    np.clip(numbers, -descriptor.noised_levels, descriptor.noised_levels, out=numbers)
    words[:-1] = numbers.view(np.uint64)


def _round(
    words: Words,
    update: Numbers,
    weight: int,
    key: bytes,
    descriptor: RoundDescriptor,
) -> None:
    norm = _norm(update)
    if not np.isfinite(norm):
        raise SecureAggregationError("update must be finite, got NaN or infinity; train again")
    factor = min(1.0, descriptor.norm_bound / norm) if norm else 1.0
    squared = _fill(words, update, weight, factor=factor, key=key, descriptor=descriptor)
    if squared > descriptor.bound_squared:
        # Towards zero no number grows, so that the norm keeps the bound whatever the chance.
        _fill(words, update, weight, factor=factor, key=None, descriptor=descriptor)


def _norm(update: Numbers) -> float:
    squared = 0.0
    for start in range(0, update.size, _BLOCK_COUNT):
        block = update[start : start + _BLOCK_COUNT].astype(np.float64)
        # Not @: BLAS would wake all its threads for each block.
        squared += float(np.einsum("i,i->", block, block))
    return float(np.sqrt(squared))


def _fill(
    words: Words,
    update: Numbers,
    weight: int,
    *,
    factor: float,
    key: bytes | None,
    descriptor: RoundDescriptor,
) -> int:
    """Quantise into the words; return the squared norm before the weight."""
    levels = descriptor.levels
    squared = 0
    for start in range(0, update.size, _BLOCK_COUNT):
        block = update[start : start + _BLOCK_COUNT].astype(np.float64)
        block *= factor
        block *= levels / descriptor.clip
        if key is not None:
            draws = np.zeros(block.size, np.uint32)
            add_mask(draws, key, offset_bytes=4 * start)
            block += draws * _WORD
            np.floor(block, out=block)
        # The clip: what is beyond it is beyond the largest level.
        np.clip(block, -levels, levels, out=block)
        numbers = block.astype(np.int64)  # towards zero what no chance has rounded
        squared += int(np.einsum("i,i->", numbers, numbers))
        numbers *= weight
        words[start : start + block.size] = numbers.view(np.uint64)
    return squared
