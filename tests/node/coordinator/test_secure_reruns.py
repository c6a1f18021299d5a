"""What is left to do of a round whose sum was wrong follows from its attempts."""

from kumiai.node.coordinator.secure.reruns import Ended, decode_wrong, encode_wrong, rerun_of
from kumiai.secagg import KeptSum, WrongSum
from kumiai.secagg.kept import KeptInput
from kumiai.storage import SecureRoundRecord

WHOLE = tuple("abcdefghijkl")
FIRST, SECOND = WHOLE[:6], WHOLE[6:]


def attempt(number: int) -> SecureRoundRecord:
    return SecureRoundRecord("run-a", 1, number, "done", None, b"", 0.0, 1.0)


def wrong(number: int, clients: tuple[str, ...], *groups: tuple[str, ...]) -> Ended:
    return Ended(attempt(number), wrong=WrongSum(clients, groups))


def done(number: int, clients: tuple[str, ...]) -> Ended:
    inputs = tuple(KeptInput(name, b"") for name in clients)
    return Ended(attempt(number), kept=KeptSum(bytes(32), 1, 1.0, b"", inputs))


def test_without_a_wrong_sum_nothing_goes_again_in_parts() -> None:
    assert rerun_of([]) is None
    assert rerun_of([Ended(attempt(1)), done(2, WHOLE)]) is None


def test_a_wrong_sum_is_followed_by_its_groups() -> None:
    found = rerun_of([Ended(attempt(1)), wrong(2, WHOLE, FIRST, SECOND)])

    assert found is not None
    assert (found.first.attempt, found.pending) == (2, (FIRST, SECOND))
    assert (found.counted, found.wrong) == ((), ())


def test_a_group_that_is_wrong_again_is_split_before_the_next_one() -> None:
    parts = FIRST[:3], FIRST[3:]
    attempts = [wrong(1, WHOLE, FIRST, SECOND), wrong(2, FIRST, *parts)]

    found = rerun_of(attempts)
    later = rerun_of([*attempts, done(3, parts[0])])
    end = rerun_of([*attempts, done(3, parts[0]), wrong(4, parts[1]), done(5, SECOND)])

    assert found is not None
    assert found.pending == (*parts, SECOND)
    assert later is not None
    assert (later.pending, later.counted) == ((parts[1], SECOND), parts[0])
    assert end is not None
    assert (end.pending, end.counted) == ((), (*parts[0], *SECOND))
    assert end.wrong == (parts[1],)


def test_a_group_that_lost_a_member_gives_nothing_and_is_not_blamed() -> None:
    found = rerun_of([wrong(1, WHOLE, FIRST, SECOND), Ended(attempt(2)), done(3, SECOND)])

    assert found is not None
    assert (found.pending, found.counted, found.wrong) == ((), SECOND, ())


def test_a_wrong_sum_that_cannot_be_split_leaves_nothing() -> None:
    found = rerun_of([wrong(1, FIRST[:5])])

    assert found is not None
    assert (found.pending, found.counted, found.wrong) == ((), (), (FIRST[:5],))


def test_a_wrong_sum_is_read_as_it_was_written() -> None:
    for each in (WrongSum(WHOLE, (FIRST, SECOND)), WrongSum(FIRST, ())):
        assert decode_wrong(encode_wrong(each)) == each
