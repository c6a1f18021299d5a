from typing import Any

import pytest

from kumiai.core.errors import ConfigError, ConflictError, NotFoundError
from kumiai.storage import APITokenRecord, APITokenRepository, DatabaseManager, NewAPIToken
from kumiai.storage import tokens as tokens_module


class Trail:
    """Notes the entries that it is given."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    async def append(self, _connection: Any, entry: Any) -> int:
        self.entries.append(entry)
        return len(self.entries)


@pytest.fixture
def trail() -> Trail:
    return Trail()


@pytest.fixture
def tokens(database: DatabaseManager, trail: Trail) -> APITokenRepository:
    return APITokenRepository(database, trail=trail)


async def create(
    tokens: APITokenRepository, token_id: str = "t1", by: str = "ann", **changes: Any
) -> APITokenRecord:
    values = {
        "token_id": token_id,
        "secret_hash": "00ff",
        "name": "nightly",
        "role": "operator",
        "created_by": by,
        "permissions": ["runs.read", "clients.read"],
        "lifetime_seconds": 60.0,
        **changes,
    }
    return await tokens.create(NewAPIToken(**values), entry=f"created {token_id}")


async def test_a_token_is_kept_with_its_entry(tokens: APITokenRepository, trail: Trail) -> None:
    record = await create(tokens)

    assert record.permissions == ("clients.read", "runs.read")
    assert 59 < record.expires_at - record.created_at < 61
    assert (record.last_used_at, record.revoked_at) == (None, None)
    assert await tokens.find("t1") == record
    assert trail.entries == ["created t1"]
    assert "00ff" not in repr(record)


async def test_an_unknown_token_is_not_found(tokens: APITokenRepository) -> None:
    assert await tokens.find("t1") is None
    with pytest.raises(NotFoundError, match="token must exist, got 't1'"):
        await tokens.revoke("t1", by="ann")


async def test_a_name_that_is_none_is_refused(tokens: APITokenRepository) -> None:
    with pytest.raises(ConfigError, match="token's name"):
        await create(tokens, name="a b")


async def test_tokens_are_listed_the_newest_first_and_by_maker(tokens: APITokenRepository) -> None:
    await create(tokens, "t1")
    await create(tokens, "t2", by="bob")
    await create(tokens, "t3", role="auditor")

    assert [each.token_id for each in await tokens.list_tokens()] == ["t3", "t2", "t1"]
    mine = await tokens.list_tokens(created_by="ann", role="operator")
    assert [each.token_id for each in mine] == ["t1"]


async def test_a_token_is_revoked_once(tokens: APITokenRepository, trail: Trail) -> None:
    await create(tokens)

    first = await tokens.revoke("t1", by="bob", entry="revoked")
    again = await tokens.revoke("t1", by="ann", entry="revoked again")

    assert (first.revoked_by, again.revoked_by) == ("bob", "bob")
    assert again == first
    assert trail.entries == ["created t1", "revoked"]


async def test_a_use_is_noted(tokens: APITokenRepository) -> None:
    record = await create(tokens)

    await tokens.note_use("t1")

    used = await tokens.find("t1")
    assert used is not None
    assert used.last_used_at is not None
    assert used.last_used_at >= record.created_at


async def test_a_maker_has_so_many_good_tokens_and_no_more(
    tokens: APITokenRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "LIVE_TOKENS_MAX", 2)
    await create(tokens, "t1")
    await create(tokens, "t2")
    await create(tokens, "t9", by="bob")

    with pytest.raises(ConflictError, match="at most 2 tokens"):
        await create(tokens, "t3")
    await tokens.revoke("t1", by="ann")

    assert (await create(tokens, "t3")).token_id == "t3"


async def test_all_tokens_of_a_maker_end_at_once_with_an_entry_each(
    tokens: APITokenRepository, trail: Trail
) -> None:
    for token_id, changes in {
        "t1": {},
        "t2": {},
        "t3": {"role": "auditor"},
        "t4": {"by": "bob"},
    }.items():
        await create(tokens, token_id, **changes)
    await tokens.revoke("t2", by="ann")
    trail.entries.clear()

    first = await tokens.revoke_all("ann", role="operator", by="olga", entry="ended {}".format)
    rest = await tokens.revoke_all("ann", by="olga", entry="ended {}".format)
    again = await tokens.revoke_all("ann", by="olga")

    assert [each.token_id for each in first] == ["t1"]
    assert [each.token_id for each in rest] == ["t3"]
    assert again == []
    assert trail.entries == ["ended t1", "ended t3"]
    left = {each.token_id: each.revoked_by for each in await tokens.list_tokens()}
    assert left == {"t1": "olga", "t2": "ann", "t3": "olga", "t4": None}


async def test_a_token_that_has_ended_by_itself_is_left_as_it_is(
    tokens: APITokenRepository,
) -> None:
    await create(tokens, lifetime_seconds=-1.0)

    assert await tokens.revoke_all("ann", by="olga") == []
