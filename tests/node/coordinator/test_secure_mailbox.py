"""What clients say in secure rounds before anybody looks: bounded, and for whom it concerns."""

from kumiai.node.coordinator.secure.mailbox import Letter, SecureMailbox

KEY = ("run-a", 1, 1)


def letter(client: str = "site-1", run: str = "run-a", body: bytes = b"x") -> Letter:
    return Letter((run, 1, 1), client, body, b"")


def test_letters_come_out_once_and_in_their_order() -> None:
    woken: list[str] = []
    mailbox = SecureMailbox(woken.append)
    mailbox.open("run-a", ["site-1", "site-2"])

    assert mailbox.put(letter("site-2", body=b"1"))
    assert mailbox.put(letter("site-1", body=b"2"))
    mailbox.arrive("site-3")

    letters, arrived = mailbox.drain("run-a")
    assert [each.envelope for each in letters] == [b"1", b"2"]
    assert arrived == {"site-3"}
    assert woken == ["run-a"] * 3
    assert mailbox.drain("run-a") == ([], set())


def test_a_client_can_not_fill_the_box() -> None:
    mailbox = SecureMailbox(lambda _run: None)
    mailbox.open("run-a", ["site-1", "site-2"])

    taken = [mailbox.put(letter()) for _ in range(10)]

    assert taken == [True] * 4 + [False] * 6
    assert mailbox.put(letter("site-2"))
    mailbox.drain("run-a")
    assert mailbox.put(letter())


def test_nothing_is_taken_for_a_run_that_is_not_led_here_or_of_a_stranger_to_it() -> None:
    mailbox = SecureMailbox(lambda _run: None)
    mailbox.open("run-a", ["site-1"])

    assert not mailbox.put(letter(run="run-b"))
    assert not mailbox.put(letter("site-9"))
    mailbox.close("run-a")
    assert not mailbox.put(letter())
    assert mailbox.drain("run-a") == ([], set())
