import hashlib
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import IntegrityError
from kumiai.identity.audit import (
    KEPT_LEVELS,
    Frontier,
    consistency_ranges,
    folded,
    included_root,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    subtrees,
    verify_consistency,
)

# The test tree of Certificate Transparency's own implementations.
INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
          "606162636465666768696a6b6c6d6e6f")  # fmt: skip
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
LEAVES = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]


def slow_root(leaves: Sequence[bytes]) -> bytes:
    """Return MTH of RFC 6962 section 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = max(2**power for power in range(30) if 2**power < len(leaves))
    return hashlib.sha256(b"\x01" + slow_root(leaves[:half]) + slow_root(leaves[half:])).digest()


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(4, "big")) for number in range(count)]


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    return [slow_root(leaves[a:b]) for a, b in inclusion_ranges(index, len(leaves))]


def consistency(leaves: Sequence[bytes], first: int) -> list[bytes]:
    return [slow_root(leaves[a:b]) for a, b in consistency_ranges(first, len(leaves))]


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_certificate_transparency(size: int) -> None:
    edge = Frontier()
    for leaf in LEAVES[:size]:
        edge.append(leaf)

    assert edge.root().hex() == ROOTS[size]
    assert slow_root(LEAVES[:size]).hex() == ROOTS[size]


def test_a_proof_of_inclusion_is_that_of_certificate_transparency() -> None:
    assert [each.hex() for each in inclusion(LEAVES, 5)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        ROOTS[4],
    ]


def test_a_proof_of_consistency_is_that_of_certificate_transparency() -> None:
    assert [each.hex() for each in consistency(LEAVES, 6)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        ROOTS[4],
    ]


@given(st.integers(0, 600))
def test_appending_gives_the_root_of_the_definition(size: int) -> None:
    edge, leaves = Frontier(), leaves_of(size)
    for leaf in leaves:
        edge.append(leaf)

    assert edge.root() == slow_root(leaves)
    assert len(edge.to_bytes()) == 32 * size.bit_count()


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_frontier_goes_on_from_its_bytes(first: int, more: int) -> None:
    leaves = leaves_of(first + more)
    edge = Frontier()
    for leaf in leaves[:first]:
        edge.append(leaf)

    later = Frontier(first, edge.to_bytes())
    for leaf in leaves[first:]:
        later.append(leaf)

    assert later.root() == slow_root(leaves)


def test_the_nodes_to_be_kept_are_those_over_256_entries() -> None:
    leaves, edge = leaves_of(1030), Frontier()

    kept = [node for leaf in leaves for node in edge.append(leaf)]

    assert kept == [
        (KEPT_LEVELS, place, slow_root(leaves[256 * place : 256 * place + 256]))
        for place in range(4)
    ]


@pytest.mark.parametrize(
    ("size", "content"), [(1, b""), (0, b"x"), (3, bytes(32)), (-1, b""), (-1, bytes(32))]
)
def test_a_frontier_of_another_size_is_refused(size: int, content: bytes) -> None:
    with pytest.raises(IntegrityError, match="frontier of"):
        Frontier(size, content)


def root_shown(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    try:
        return included_root(leaf, index, size, path)
    except IntegrityError:
        return None


@given(st.integers(1, 300), st.data())
def test_every_entry_is_proved_and_no_other(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    path, root = inclusion(leaves, index), slow_root(leaves)

    assert included_root(leaves[index], index, size, path) == root
    wrong = [
        (leaf_hash(b"another"), index, size, path),
        (leaves[index], index, size, [*path, bytes(32)]),
        (leaves[index], size, size, path),
        (leaves[index], -1, size, path),
    ]
    if path:
        wrong += [
            (leaves[index], index, size, path[:-1]),
            (leaves[index], index, size, [bytes(32), *path[1:]]),
            (leaves[index], (index + 1) % size, size, path),
            (leaves[index], index, size, [b"short", *path[1:]]),
        ]
    assert root not in [root_shown(*arguments) for arguments in wrong]


@given(st.integers(1, 300), st.data())
def test_growth_is_proved_and_no_rewriting(second: int, data: st.DataObject) -> None:
    leaves = leaves_of(second)
    first = data.draw(st.integers(1, second))
    changed = data.draw(st.integers(0, first - 1))
    path, old, new = consistency(leaves, first), slow_root(leaves[:first]), slow_root(leaves)
    rewritten = [*leaves]
    rewritten[changed] = leaf_hash(b"another")

    verify_consistency(first, second, path, old, new)
    wrong = [
        (first, second, path, slow_root(rewritten[:first]), new),
        (first, second, consistency(rewritten, first), old, slow_root(rewritten)),
        (first, second, [*path, bytes(32)], old, new),
        (second + 1, second, path, old, new),
        (0, second, path, old, new),
    ]
    if path:
        wrong += [
            (first, second, path[:-1], old, new),
            (first, second, [bytes(31), *path[1:]], old, new),
        ]
    for arguments in wrong:
        with pytest.raises(IntegrityError):
            verify_consistency(*arguments)


@given(st.integers(1, 5000), st.data())
def test_the_ranges_of_proofs_are_made_of_perfect_subtrees(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    ranges = inclusion_ranges(index, size) + consistency_ranges(index + 1, size)

    for start, end in ranges:
        pieces = [(pos << level, (pos + 1) << level) for level, pos in subtrees(start, end)]
        assert pieces[0][0] == start
        assert pieces[-1][1] == end
        assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))


def test_subtrees_fold_into_the_root_of_their_range() -> None:
    leaves = leaves_of(13)

    pieces = [slow_root(leaves[p << n : (p + 1) << n]) for n, p in subtrees(0, 13)]

    assert folded(pieces) == slow_root(leaves)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_there_is_no_proof_of_an_entry_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="index must be"):
        inclusion_ranges(index, size)


@pytest.mark.parametrize(("first", "second"), [(0, 3), (4, 3)])
def test_there_is_no_proof_that_a_log_has_shrunk(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="sizes must be"):
        consistency_ranges(first, second)


def test_a_proof_that_no_tree_can_need_is_not_even_followed() -> None:
    leaf = leaf_hash(b"a")

    with pytest.raises(
        IntegrityError, match="must lead from the entry to a root, got too many or few"
    ):
        included_root(leaf, 0, 2**62, [bytes(32)] * 124)
    with pytest.raises(IntegrityError, match="must be a few hashes of 32 bytes, got 125"):
        included_root(leaf, 0, 2**62, [bytes(32)] * 125)


def test_a_path_longer_than_the_tree_is_high_proves_nothing_wherever_it_leads() -> None:
    leaf, *more = (bytes([number]) * 32 for number in range(4))
    old = node_hash(more[2], node_hash(more[1], leaf))
    new = node_hash(more[2], node_hash(more[1], node_hash(leaf, more[0])))

    with pytest.raises(IntegrityError, match="must lead from the entry"):
        included_root(leaf, 0, 1, [more[0]])
    with pytest.raises(IntegrityError, match="history was rewritten"):
        verify_consistency(3, 4, [leaf, *more], old, new)


def test_a_path_that_ends_below_the_root_proves_nothing_wherever_it_ends() -> None:
    leaf, root = leaf_hash(b"a"), node_hash(leaf_hash(b"a"), leaf_hash(b"b"))

    with pytest.raises(IntegrityError, match="must lead from the entry"):
        included_root(leaf, 0, 2, [])
    with pytest.raises(IntegrityError, match="history was rewritten"):
        verify_consistency(2, 4, [], root, root)


def test_a_hash_of_another_length_is_no_part_of_a_proof() -> None:
    leaf, short = leaf_hash(b"a"), b"short"

    with pytest.raises(IntegrityError, match="must be a few hashes of 32 bytes"):
        included_root(leaf, 0, 2, [short])
    with pytest.raises(IntegrityError, match="must be a few hashes of 32 bytes"):
        verify_consistency(1, 2, [short], leaf, node_hash(leaf, short))


def test_the_labels_are_those_of_the_standard() -> None:
    assert leaf_hash(b"a") == hashlib.sha256(b"\x00a").digest()
    assert (
        node_hash(b"l" * 32, b"r" * 32) == hashlib.sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()
    )


def test_a_leaf_is_never_a_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")

    assert leaf_hash(left + right) != node_hash(left, right)


def test_an_empty_proof_of_growth_from_no_perfect_tree_is_refused() -> None:
    leaves = leaves_of(5)

    with pytest.raises(IntegrityError, match="history was rewritten"):
        verify_consistency(3, 5, [], slow_root(leaves[:3]), slow_root(leaves))
