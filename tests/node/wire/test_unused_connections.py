"""What can be known of connections that gRPC refused: how many."""

from kumiai.node.wire.unused_connections import UnusedConnections


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def accept(connections: UnusedConnections, count: int) -> None:
    for _ in range(count):
        connections.note_accepted()


def take_after(clock: Clock, connections: UnusedConnections, seconds: float = 600.0) -> int:
    clock.seconds += seconds
    return connections.take()


def test_those_without_a_call_are_counted_once_they_had_the_time_for_one() -> None:
    clock = Clock()
    connections = UnusedConnections(clock)
    accept(connections, 5)
    connections.note_call("ipv4:10.0.0.1:1")
    connections.note_call("ipv4:10.0.0.1:1")
    connections.note_call("ipv4:10.0.0.1:2")

    told = [take_after(clock, connections, 599.0), take_after(clock, connections, 1.0)]
    told += [connections.take(), take_after(clock, connections), take_after(clock, connections)]

    assert told == [0, 0, 0, 3, 0]


def test_one_that_is_used_later_than_it_was_accepted_is_no_loss() -> None:
    clock = Clock()
    connections = UnusedConnections(clock)
    accept(connections, 2)
    connections.note_call("ipv4:10.0.0.1:1")
    assert take_after(clock, connections) == 0
    connections.note_call("ipv4:10.0.0.1:2")
    accept(connections, 1)

    assert [take_after(clock, connections) for _ in range(3)] == [0, 1, 0]


def test_new_calls_of_one_time_do_not_hide_the_unused_of_another_for_ever() -> None:
    clock = Clock()
    connections = UnusedConnections(clock)
    accept(connections, 2)
    assert take_after(clock, connections) == 0
    for number in range(3):
        accept(connections, 1)
        connections.note_call(f"ipv4:10.0.0.1:{number}")

    assert [take_after(clock, connections) for _ in range(3)] == [0, 2, 0]


def test_what_is_remembered_of_calls_does_not_grow() -> None:
    connections = UnusedConnections(Clock())

    for number in range(10_000):
        connections.note_call(f"ipv4:10.0.0.1:{number}")

    assert len(connections._peers) == 4_096
