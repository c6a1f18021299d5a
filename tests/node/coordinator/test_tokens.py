"""Whom a token speaks for, for how long, and what a flood of bad ones costs."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kumiai.core.errors import StorageError
from kumiai.identity import (
    APITokenSecret,
    CallLimits,
    LimitRules,
    PeerRefusedError,
    Permission,
    Principal,
    Refusal,
    Role,
    new_api_token,
)
from kumiai.node.coordinator.tokens import REMEMBERED_MAX, TokenDesk
from kumiai.storage import APITokenRecord

ADDRESS = "10.0.0.1"


class Clock:
    seconds = 1_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Rows:
    """The table, in memory; counts how often it is asked."""

    records: dict[str, APITokenRecord] = field(default_factory=dict)
    asked: int = 0
    used: list[str] = field(default_factory=list)
    error: Exception | None = None

    async def find(self, token_id: str) -> APITokenRecord | None:
        self.asked += 1
        return self.records.get(token_id)

    async def note_use(self, token_id: str) -> None:
        if self.error is not None:
            raise self.error
        self.used.append(token_id)
        self.records[token_id] = replace(self.records[token_id], last_used_at=1_000.0)

    def add(self, *permissions: str, role: str = "operator") -> APITokenSecret:
        token = new_api_token()
        self.records[token.token_id] = APITokenRecord(
            token.token_id, token.secret_hash, "nightly", role, "ann", permissions,
            900.0, 2_000.0, None, None, None,
        )  # fmt: skip
        return token


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(rows: Any, clock: Clock) -> TokenDesk:
    rules = LimitRules(address_calls_max=5, failures_max=50, identity_calls_max=2_000)
    return TokenDesk(rows, CallLimits(clock, rules), clock)


async def present(desk: TokenDesk, token: APITokenSecret) -> Principal:
    return await desk.principal_of_token(token.text, ADDRESS)


async def refusal(desk: TokenDesk, text: str) -> tuple[Refusal, str]:
    with pytest.raises(PeerRefusedError) as caught:
        await desk.principal_of_token(text, ADDRESS)
    return caught.value.refusal, str(caught.value)


async def test_a_token_speaks_for_its_maker_with_what_it_was_given(
    desk: TokenDesk, rows: Rows
) -> None:
    token = rows.add("runs.read", "tokens.use")

    principal = await present(desk, token)

    assert (principal.name, principal.role) == ("ann", Role.OPERATOR)
    assert principal.permissions == {Permission.RUNS_READ, Permission.TOKENS_USE}
    assert principal.token_id == token.token_id
    await desk.verify_token(token.token_id)


async def test_a_token_has_nothing_that_its_makers_role_has_not(
    desk: TokenDesk, rows: Rows
) -> None:
    token = rows.add("runs.read", "runs.delete", role="auditor")

    assert (await present(desk, token)).permissions == {Permission.RUNS_READ}


async def test_an_unknown_token_and_a_wrong_secret_are_told_alike(
    desk: TokenDesk, rows: Rows
) -> None:
    known, unknown = rows.add("runs.read"), new_api_token()
    forged = f"kumiai_{known.token_id}_{unknown.text[-43:]}"

    first, second = await refusal(desk, forged), await refusal(desk, unknown.text)

    assert first[0] is second[0] is Refusal.BAD_TOKEN
    assert first[1].replace(known.token_id, "") == second[1].replace(unknown.token_id, "")
    assert unknown.text[-43:] not in first[1] + second[1]


async def test_a_token_that_is_revoked_anywhere_is_refused_within_two_seconds(
    desk: TokenDesk, rows: Rows, clock: Clock
) -> None:
    token = rows.add("runs.read")
    await present(desk, token)
    await present(desk, token)
    rows.records[token.token_id] = replace(
        rows.records[token.token_id], revoked_at=1.0, revoked_by="bob"
    )

    clock.seconds += 2.0

    assert await refusal(desk, token.text) == (
        Refusal.BAD_TOKEN,
        (
            f"token {token.token_id} must not be revoked, got one that bob revoked; "
            "make a new one with `kumiai token create`"
        ),
    )
    with pytest.raises(PeerRefusedError, match="bob revoked"):
        await desk.verify_token(token.token_id)


async def test_a_token_ends_by_itself(desk: TokenDesk, rows: Rows, clock: Clock) -> None:
    token = rows.add("runs.read")
    await present(desk, token)

    clock.seconds = 2_000.0

    assert "expired 0 s ago" in (await refusal(desk, token.text))[1]


async def test_a_token_whose_row_is_gone_no_longer_holds(desk: TokenDesk) -> None:
    with pytest.raises(PeerRefusedError, match="that this coordinator knows"):
        await desk.verify_token("0" * 20)


async def test_a_flood_of_unknown_tokens_is_turned_away_before_the_database(
    desk: TokenDesk, rows: Rows
) -> None:
    known = rows.add("runs.read")
    await present(desk, known)
    rows.asked = 0

    kinds = [(await refusal(desk, new_api_token().text))[0] for _ in range(40)]

    assert rows.asked == kinds.count(Refusal.BAD_TOKEN) < 5
    assert kinds[-1] is Refusal.RATE_LIMITED
    # Who was known before is not kept out by the others of its address.
    assert (await present(desk, known)).name == "ann"


async def test_rows_are_asked_rarely_and_use_is_noted_coarsely(
    desk: TokenDesk, rows: Rows, clock: Clock
) -> None:
    token = rows.add("runs.read")
    for _ in range(100):
        await present(desk, token)
    in_a_burst = (rows.asked, len(rows.used))

    clock.seconds += 301.0
    await present(desk, token)

    assert in_a_burst == (1, 1)
    assert len(rows.used) == 2


async def test_a_use_that_can_not_be_noted_stops_nobody(desk: TokenDesk, rows: Rows) -> None:
    rows.error = StorageError("the disk is full")

    assert (await present(desk, rows.add("runs.read"))).name == "ann"


async def test_what_is_remembered_has_a_limit(rows: Any, clock: Clock) -> None:
    rules = LimitRules(address_calls_max=10_000)
    desk = TokenDesk(rows, CallLimits(clock, rules), clock)
    rows.error = StorageError("no")

    for _ in range(REMEMBERED_MAX + 9):
        await present(desk, rows.add("runs.read"))

    assert len(desk._known) == REMEMBERED_MAX
