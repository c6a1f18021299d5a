import pytest

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.storage import (
    Changes,
    ClientQuery,
    ClientRecord,
    ClientRegistryRepository,
    DatabaseManager,
    NewClient,
)


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


async def test_a_client_is_announced_before_it_comes(clients: ClientRegistryRepository) -> None:
    announced = await clients.register(
        NewClient("a", "Charité", "the largest", ("berlin", "adult"))
    )
    came = await attach(clients)

    assert (announced.state, announced.instance_id, announced.apps) == ("registered", "", ())
    assert (announced.display_name, announced.tags) == ("Charité", ("adult", "berlin"))
    assert (came.state, came.instance_id) == ("attached", "one")
    assert (came.display_name, came.description, came.tags) == (
        "Charité", "the largest", ("adult", "berlin"),
    )  # fmt: skip
    assert came.first_seen_at > announced.first_seen_at
    assert (await attach(clients, instance_id="two")).first_seen_at == came.first_seen_at


async def test_who_is_known_is_not_announced_again(clients: ClientRegistryRepository) -> None:
    await attach(clients)

    with pytest.raises(ConflictError, match="rows for clients must have keys of their own"):
        await clients.register_many([NewClient("b"), NewClient("a")])

    assert [client.client_id for client in await clients.list_clients()] == ["a"]


@pytest.mark.parametrize(
    "wrong",
    [NewClient("no name"), NewClient(""), NewClient("a", "x" * 201), NewClient("a", tags=("T",))],
)
async def test_a_client_is_announced_by_a_name(
    clients: ClientRegistryRepository, wrong: NewClient
) -> None:
    with pytest.raises(ConfigError):
        await clients.register(wrong)

    assert await clients.list_clients() == []


async def test_a_client_that_is_not_here_is_forgotten(clients: ClientRegistryRepository) -> None:
    await attach(clients)

    with pytest.raises(ConflictError, match="must be detached before it is forgotten"):
        await clients.delete("a")
    await clients.detach("a", "one")
    await clients.delete("a")

    assert await clients.list_clients() == []
    with pytest.raises(NotFoundError):
        await clients.delete("a")


async def test_clients_are_filtered(clients: ClientRegistryRepository) -> None:
    await clients.register(NewClient("c", tags=("x",)))
    await attach(clients, "a")
    await attach(clients, "b")
    await clients.detach("b", "one")
    await clients.update("a", Changes(tags=["x"]))
    seen = (await clients.get("b")).last_seen_at

    async def ids(**filters: object) -> list[str]:
        page = await clients.list_page(ClientQuery(**filters))  # type: ignore[arg-type]
        return [client.client_id for client in page.items]

    assert await ids(states=["attached"]) == ["a"]
    assert await ids(states=["registered", "detached"]) == ["b", "c"]
    assert await ids(app="digits") == ["a", "b"]
    assert await ids(app="digit") == []
    assert await ids(tags=["x"]) == ["a", "c"]
    assert await ids(seen_from=seen) == ["b"]
    assert await ids(seen_before=seen) == ["a", "c"]
    assert await ids(order="recent") == ["b", "a", "c"]
    assert await ids(order="newest") == ["b", "a", "c"]


async def test_a_new_name_is_searched_at_once(clients: ClientRegistryRepository) -> None:
    await attach(clients)
    renamed = await clients.update("a", Changes(), display_name="St. Mary's")

    found = await clients.list_page(ClientQuery(search="mary"))

    assert found.items == (renamed,)
    assert (renamed.display_name, renamed.row_version) == ("St. Mary's", 2)
