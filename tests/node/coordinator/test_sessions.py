"""The sessions that are open, without a network."""

import asyncio

import pytest

from kumiai.core.clock import SystemClock
from kumiai.core.errors import ConflictError
from kumiai.node.coordinator.orders import TaskKey, TaskOrder
from kumiai.node.coordinator.sessions import ClientSession, SessionHub


def session(client_id: str, instance_id: str = "one", *apps: str) -> ClientSession:
    return ClientSession(
        client_id=client_id,
        instance_id=instance_id,
        address="127.0.0.1",
        software_version="0",
        apps=apps or ("heart",),
        attached_at=0.0,
        last_heard=0.0,
    )


def order(client_id: str) -> TaskOrder:
    key = TaskKey("run-a", 1, "train", client_id)
    return TaskOrder(key, "heart", 3, "0" * 64, 10, "{}", 7, 60.0)


@pytest.fixture
def hub() -> SessionHub:
    return SessionHub(SystemClock())


def test_clients_are_available_for_the_apps_that_they_offer(hub: SessionHub) -> None:
    hub.attach(session("b", "one", "heart", "digits"))
    hub.attach(session("a"))

    assert hub.available("heart") == ["a", "b"]
    assert hub.available("digits") == ["b"]
    assert hub.available("other") == []


def test_an_order_waits_for_its_client_alone(hub: SessionHub) -> None:
    here, other = session("a"), session("b")
    hub.attach(here)
    hub.attach(other)

    hub.deliver([order("a"), order("not-attached")])

    message = here.outgoing.get_nowait()
    assert message.task.key.run_id == "run-a"
    assert message.task.seed == 7
    assert other.outgoing.empty()


def test_another_process_of_the_same_client_is_refused(hub: SessionHub) -> None:
    hub.attach(session("a", "one"))

    with pytest.raises(ConflictError, match=r"already attached from 127\.0\.0\.1"):
        hub.attach(session("a", "two"))


def test_the_same_process_replaces_its_own_session(hub: SessionHub) -> None:
    old, new = session("a", "one"), session("a", "one")
    hub.attach(old)
    hub.attach(new)

    hub.detach(old)

    assert old.ended.is_set()
    assert hub.find("a") is new


def test_a_client_that_does_not_read_is_cut_off(hub: SessionHub) -> None:
    slow = session("a")
    hub.attach(slow)

    for _ in range(1_001):
        hub.deliver([order("a")])

    assert slow.ended.is_set()
    assert "does not read" in slow.end_reason


def test_a_cancel_reaches_everybody(hub: SessionHub) -> None:
    sessions = [session("a"), session("b")]
    for each in sessions:
        hub.attach(each)

    hub.cancel("run-a", None, "stopped")

    assert [each.outgoing.get_nowait().cancel.reason for each in sessions] == ["stopped"] * 2


async def test_waiting_ends_when_a_client_attaches(hub: SessionHub) -> None:
    waiting = asyncio.create_task(hub.wait_for_change(60))
    await asyncio.sleep(0)

    hub.attach(session("a"))

    async with asyncio.timeout(30):
        await waiting


async def test_waiting_ends_by_itself(hub: SessionHub) -> None:
    async with asyncio.timeout(30):
        await hub.wait_for_change(0.001)


def test_a_shutdown_ends_all(hub: SessionHub) -> None:
    hub.attach(session("a"))

    hub.end_all("stopping")

    assert [each.end_reason for each in hub.sessions()] == ["stopping"]
