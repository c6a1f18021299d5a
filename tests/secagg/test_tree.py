"""One root stands for all entries of an author, and a path shows that one of them is under it."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.tree import HashTree, verify_path


def leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"kumiai/secagg/leaf/v1/" + content).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"kumiai/secagg/node/v1/" + left + right).digest()


def test_the_root_of_three_is_this() -> None:
    none = hashlib.sha256(b"kumiai/secagg/no-leaf/v1/").digest()

    tree = HashTree([b"a", b"b", b"c"])

    assert tree.root == node(node(leaf(b"a"), leaf(b"b")), node(leaf(b"c"), none))
    assert tree.paths()[2] == none + node(leaf(b"a"), leaf(b"b"))


def test_without_leaves_there_is_a_root_under_which_nothing_stands() -> None:
    tree = HashTree([])

    assert tree.root == hashlib.sha256(b"kumiai/secagg/no-leaf/v1/").digest()
    assert tree.paths() == [b""]


def test_one_leaf_is_its_own_root_and_a_full_tree_is_not_filled_up() -> None:
    assert HashTree([b"a"]).root == leaf(b"a")
    assert HashTree([b"a"]).paths() == [b""]
    assert HashTree([b"a", b"b"]).root == node(leaf(b"a"), leaf(b"b"))
    assert [len(path) // 32 for path in HashTree([b""] * 4).paths()] == [2] * 4
    assert [len(path) // 32 for path in HashTree([b""] * 5).paths()[:5]] == [3] * 5


@given(st.integers(1, 20), st.data())
def test_each_leaf_has_a_path_to_the_root_and_none_to_another_place(
    count: int, data: st.DataObject
) -> None:
    leaves = [bytes([number]) for number in range(count)]
    place, other = (data.draw(st.integers(0, count - 1)) for _ in range(2))
    tree = HashTree(leaves)

    verify_path(tree.root, leaves[place], place, tree.paths()[place])

    if other != place:
        problem = f"entry must stand at {other} under its author's root, got another root"
        with pytest.raises(SecureAggregationError, match=problem):
            verify_path(tree.root, leaves[place], other, tree.paths()[other])
