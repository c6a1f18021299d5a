import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import CryptoError
from kumiai.crypto.paillier import SlotLayout
from kumiai.crypto.paillier.slots import packed, unpacked, values_of
from tests.crypto.paillier.some_keys import SMALL_KEY, real_key

KEY = SMALL_KEY.public_key
N = KEY.n


@st.composite
def layouts(draw: st.DrawFn) -> SlotLayout:
    return SlotLayout(
        value_bits=draw(st.integers(2, 32)), summand_count_max=draw(st.integers(1, 1000))
    )


@given(st.data(), layouts())
def test_what_is_packed_is_unpacked(data: st.DataObject, layout: SlotLayout) -> None:
    values = data.draw(st.lists(st.integers(-layout.value_max, layout.value_max), max_size=50))

    plaintexts = list(packed(layout, KEY, np.array(values, dtype=np.int64)))

    assert all(abs(each) <= KEY.plaintext_max for each in plaintexts)
    assert len(plaintexts) == layout.ciphertext_count(KEY, len(values))
    came_back = unpacked(layout, KEY, [each % N for each in plaintexts], len(values))
    assert came_back.tolist() == values


@given(layouts(), st.data())
def test_a_sum_of_plaintexts_is_the_sum_of_each_slot(
    layout: SlotLayout, data: st.DataObject
) -> None:
    some = st.integers(-layout.value_max, layout.value_max)
    rows = data.draw(
        st.lists(
            st.lists(some, min_size=9, max_size=9),
            min_size=1,
            max_size=min(20, layout.summand_count_max),
        )
    )

    plaintexts = [list(packed(layout, KEY, np.array(row))) for row in rows]
    sums = [sum(column) % N for column in zip(*plaintexts, strict=True)]

    assert unpacked(layout, KEY, sums, 9).tolist() == np.sum(rows, axis=0).tolist()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("value_bits", "summand_count_max"), [(16, 100), (2, 1), (2, 3), (32, 2)])
def test_sums_are_exact_where_the_head_room_ends(
    sign: int, value_bits: int, summand_count_max: int
) -> None:
    layout = SlotLayout(value_bits=value_bits, summand_count_max=summand_count_max)
    slots = layout.slot_count(KEY)
    signs = np.where(np.arange(slots) % 2, 1, -1) * sign
    (plaintext,) = packed(layout, KEY, signs * layout.value_max)

    sums = unpacked(layout, KEY, [plaintext * summand_count_max % N], slots)

    assert sums.tolist() == (signs * layout.value_max * summand_count_max).tolist()


def test_all_slots_at_the_least_of_their_range_come_back() -> None:
    layout = SlotLayout(value_bits=2, summand_count_max=3)  # slots of 3 bits: -4 to 3
    least = -(1 << (layout.slot_bits - 1))
    slots = layout.slot_count(KEY)
    plaintext = sum(least << (layout.slot_bits * index) for index in range(slots))

    assert unpacked(layout, KEY, [plaintext % N], slots).tolist() == [least] * slots


def test_a_slot_is_as_wide_as_the_largest_sum_and_a_sign() -> None:
    assert SlotLayout(value_bits=16, summand_count_max=100).slot_bits == 23
    assert SlotLayout(value_bits=2, summand_count_max=1).slot_bits == 2
    assert SlotLayout(value_bits=2, summand_count_max=2).slot_bits == 3


def test_88_values_of_16_bits_and_100_summands_fit_a_key_of_2048_bits() -> None:
    layout = SlotLayout(value_bits=16, summand_count_max=100)

    assert layout.slot_count(real_key().public_key) == 88
    assert layout.ciphertext_count(real_key().public_key, 89) == 2


@pytest.mark.parametrize("excess", [1, -1])
def test_a_plaintext_beyond_its_slots_is_refused(excess: int) -> None:
    layout = SlotLayout(value_bits=16, summand_count_max=100)
    bits = layout.slot_bits * layout.slot_count(KEY)

    with pytest.raises(CryptoError, match="plaintext 0 must fit 11 slots of 23 bits"):
        unpacked(layout, KEY, [excess * (1 << bits) % N], 11)


def test_the_first_plaintexts_beyond_the_slots_are_refused() -> None:
    layout = SlotLayout(value_bits=16, summand_count_max=100)
    bias = sum(1 << (23 * index + 22) for index in range(11))
    most = (1 << (23 * 11)) - 1 - bias

    assert unpacked(layout, KEY, [most], 11).tolist() == [(1 << 22) - 1] * 11
    assert unpacked(layout, KEY, [-bias % N], 11).tolist() == [-(1 << 22)] * 11
    for beyond in (most + 1, (-bias - 1) % N):
        with pytest.raises(CryptoError, match="must fit 11 slots"):
            unpacked(layout, KEY, [beyond], 11)


def test_floats_are_rounded_to_the_nearest_step() -> None:
    layout = SlotLayout.for_clip(1.0, value_bits=8)
    values = np.array([-1.0, -0.5, 0.0, 0.123, 1.0], dtype=np.float32)

    units = layout.units(values)

    assert layout.step == 1 / 127
    assert units.tolist() == [-127, -64, 0, 16, 127]


@pytest.mark.parametrize("bad", [1.01, -1.01, np.nan, np.inf, -np.inf, 1e308])
def test_a_float_out_of_range_is_refused_and_counted(bad: float) -> None:
    layout = SlotLayout.for_clip(1.0)

    with pytest.raises(ValueError, match=r"within \+-1, got 2 that are not"):
        list(packed(layout, KEY, [0.5, bad, 0.25, bad]))


def test_a_quotient_that_overflows_is_refused_without_a_warning() -> None:
    with pytest.raises(ValueError, match="got 1 that are not"):
        list(packed(SlotLayout(step=1e-300), KEY, [1e300]))


@pytest.mark.parametrize("value", [32768, -32768, 2**62])
def test_an_integer_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=r"within \+-32767"):
        list(packed(SlotLayout(), KEY, [value]))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64])
def test_integers_of_every_kind_are_taken(dtype: type[np.integer]) -> None:
    values = np.array([0, 1, 100], dtype=dtype)

    assert SlotLayout().units(values).tolist() == [0, 1, 100]


def test_sums_are_whole_numbers_without_a_step_and_else_multiples_of_it() -> None:
    whole, stepped = SlotLayout(value_bits=8), SlotLayout(value_bits=8, step=0.5)
    plaintexts = [each % N for each in packed(whole, KEY, [3, -7, 100])]

    sums, values = (values_of(each, KEY, plaintexts, 3) for each in (whole, stepped))

    assert sums.dtype == np.int64
    assert sums.tolist() == [3, -7, 100]
    assert values.dtype == np.float64
    assert values.tolist() == [1.5, -3.5, 50.0]


def test_floats_are_refused_by_a_layout_without_step() -> None:
    with pytest.raises(TypeError, match="must be integers"):
        list(packed(SlotLayout(), KEY, [0.5]))


def test_values_of_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="one dimension, got 2"):
        list(packed(SlotLayout(), KEY, [[1, 2], [3, 4]]))


def test_many_values_are_packed_block_by_block() -> None:
    layout = SlotLayout(value_bits=3, summand_count_max=1)
    values = np.random.default_rng(3).integers(-3, 4, 70_000)

    plaintexts = [each % N for each in packed(layout, KEY, values)]

    assert len(plaintexts) == layout.ciphertext_count(KEY, 70_000)
    sums = unpacked(layout, KEY, plaintexts, 70_000)
    assert sums.dtype == np.int64
    assert sums.tolist() == values.tolist()


def test_sums_of_62_bits_are_exact() -> None:
    layout = SlotLayout(value_bits=32, summand_count_max=2**30)
    most = layout.value_max * layout.summand_count_max
    plaintext = most - 1 - (most << 62)

    assert layout.slot_bits == 62
    assert unpacked(layout, KEY, [plaintext % N], 2).tolist() == [most - 1, -most]


def test_a_layout_is_for_16_bits_and_100_summands_unless_it_is_told() -> None:
    assert SlotLayout() == SlotLayout(value_bits=16, summand_count_max=100, step=None)
    assert SlotLayout.for_clip(1.0) == SlotLayout(
        value_bits=16, summand_count_max=100, step=1 / 32767
    )
    assert SlotLayout.for_clip(2.0, value_bits=8, summand_count_max=7) == SlotLayout(
        value_bits=8, summand_count_max=7, step=2 / 127
    )


def test_a_key_may_be_just_long_enough_for_one_slot() -> None:
    layout = SlotLayout(value_bits=32, summand_count_max=2**8)

    assert layout.slot_count(type(KEY)(4_194_287 * 4_194_271)) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"value_bits": 1}, "value_bits"),
        ({"value_bits": 33}, "value_bits"),
        ({"summand_count_max": 0}, "summand_count_max"),
        ({"summand_count_max": 2**32}, "summand_count_max"),
        ({"step": 0.0}, "step"),
        ({"step": -1.0}, "step"),
        ({"step": float("inf")}, "step"),
        ({"step": float("nan")}, "step"),
        ({"value_bits": 32, "summand_count_max": 2**31}, "slot_bits"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(arguments: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SlotLayout(**arguments)  # type: ignore[arg-type]


def test_a_key_too_short_for_a_slot_is_refused() -> None:
    layout = SlotLayout(value_bits=32, summand_count_max=2**30)

    with pytest.raises(ValueError, match="longer key"):
        layout.slot_count(type(KEY)(4_194_287 * 4_194_271))
