import pytest

from kumiai.core.errors import NotFoundError
from kumiai.storage import ClientRecord, ClientRegistryRepository, DatabaseManager


@pytest.fixture
def clients(database: DatabaseManager) -> ClientRegistryRepository:
    return ClientRegistryRepository(database)


async def attach(
    clients: ClientRegistryRepository, client_id: str = "a", instance_id: str = "one"
) -> ClientRecord:
    return await clients.attach(
        client_id=client_id,
        instance_id=instance_id,
        software_version="0.1.0",
        apps=["digits", "heart"],
        address="10.0.0.7:5000",
    )


async def test_a_client_that_attaches_is_known(clients: ClientRegistryRepository) -> None:
    record = await attach(clients)

    assert (record.client_id, record.instance_id, record.state) == ("a", "one", "attached")
    assert (record.apps, record.address) == (("digits", "heart"), "10.0.0.7:5000")
    assert 1.7e9 < record.first_seen_at <= record.last_seen_at + 0.001
    assert await clients.get("a") == record


async def test_the_newest_instance_stands(clients: ClientRegistryRepository) -> None:
    first = await attach(clients)
    second = await attach(clients, instance_id="two")

    assert second.instance_id == "two"
    assert second.first_seen_at == first.first_seen_at
    assert second.last_seen_at > first.last_seen_at


async def test_a_client_detaches_once(clients: ClientRegistryRepository) -> None:
    await attach(clients)

    assert await clients.detach("a", "one")
    assert not await clients.detach("a", "one")
    assert (await clients.get("a")).state == "detached"


async def test_an_older_instance_does_not_detach_the_newer(
    clients: ClientRegistryRepository,
) -> None:
    await attach(clients)
    await attach(clients, instance_id="two")

    assert not await clients.detach("a", "one")
    assert (await clients.get("a")).state == "attached"


async def test_clients_are_listed_by_name(clients: ClientRegistryRepository) -> None:
    for client_id in ("b", "C", "a"):
        await attach(clients, client_id)

    assert [client.client_id for client in await clients.list_clients()] == ["C", "a", "b"]


async def test_a_client_that_never_attached_is_not_found(
    clients: ClientRegistryRepository,
) -> None:
    with pytest.raises(NotFoundError, match="'x'"):
        await clients.get("x")
