"""``kumiai token``: made with a certificate, used without one."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.node.cli.program import Outcome, invoke
from tests.node.http.api import RunningApi


async def as_operator(api: RunningApi, *arguments: object) -> Outcome:
    own = api.certificates.operator
    environ = {
        "KUMIAI_OPERATOR__URL": api.url,
        "KUMIAI_IDENTITY__CERTIFICATE": str(own.cert),
        "KUMIAI_IDENTITY__KEY": str(own.key),
        "KUMIAI_IDENTITY__CA": str(own.ca),
    }
    return await asyncio.to_thread(invoke, *arguments, environ=environ)


async def with_token(api: RunningApi, token: str, *arguments: object) -> Outcome:
    environ = {
        "KUMIAI_OPERATOR__URL": api.url,
        "KUMIAI_IDENTITY__CA": str(api.certificates.coordinator.ca),
        "KUMIAI_TOKEN": token,
    }
    return await asyncio.to_thread(invoke, *arguments, environ=environ)


async def made(api: RunningApi, *permissions: str) -> dict[str, Any]:
    options = [part for each in permissions for part in ("-p", each)]
    outcome = await as_operator(api, "token", "create", "nightly", *options, "-o", "json")
    assert outcome.code == 0, outcome.err
    answer: dict[str, Any] = outcome.data
    return answer


async def test_a_token_stands_in_for_a_certificate(
    api: RunningApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = (await made(api, "runs.read"))["token"]
    monkeypatch.chdir(tmp_path)

    listed = await with_token(api, token, "run", "list", "-o", "json")
    shown = await with_token(api, token, "config", "show")

    assert (listed.code, listed.data) == (0, [])
    assert token not in shown.out + shown.err


async def test_who_lacks_a_permission_is_told_which_and_who_has_it(api: RunningApi) -> None:
    token = (await made(api, "runs.read"))["token"]

    denied = await with_token(api, token, "token", "list")

    assert denied.code == 4
    assert "must have the permission tokens.use" in denied.err
    assert "make a token with it" in denied.err


async def test_people_see_the_token_once_and_how_to_use_it(api: RunningApi) -> None:
    shown = await as_operator(api, "token", "create", "report", "-p", "runs.read", "--days", "7")
    listed = await as_operator(api, "token", "list")

    token = shown.out.splitlines()[0]
    assert token.startswith("kumiai_")
    assert "use it as KUMIAI_TOKEN. It may runs.read until" in shown.out
    assert "report" in listed.out
    assert token[-43:] not in listed.out
    assert token.split("_")[1] in listed.out


async def test_a_revoked_token_is_listed_as_such(api: RunningApi) -> None:
    empty = await as_operator(api, "token", "list")
    token_id = (await made(api, "runs.read"))["made"]["token_id"]

    revoked = await as_operator(api, "token", "revoke", token_id)
    listed = await as_operator(api, "token", "list")

    assert "no tokens yet" in empty.out
    assert revoked.out == f"revoked {token_id} (nightly)\n"
    assert "revoked by olivia" in listed.out


async def test_all_tokens_of_a_maker_are_revoked_in_one(api: RunningApi) -> None:
    ids = [(await made(api, "runs.read"))["made"]["token_id"] for _ in range(2)]

    revoked = await as_operator(api, "token", "revoke", "--made-by", "olivia", "--role", "operator")
    again = await as_operator(api, "token", "revoke", "--made-by", "olivia")

    assert revoked.code == 0, revoked.err
    assert all(f"{each} (nightly)" in revoked.out for each in ids)
    assert again.out == "olivia has no good token\n"


@pytest.mark.parametrize("arguments", [(), ("t1", "--made-by", "ann"), ("t1", "--role", "client")])
def test_one_token_or_one_maker_is_to_be_named(arguments: tuple[str, ...]) -> None:
    outcome = invoke("token", "revoke", *arguments)

    assert outcome.code == 2
    assert "must be given alone" in outcome.err
