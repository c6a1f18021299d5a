"""A site that gave shares away in one attempt takes part in another only as a whole group."""

from dataclasses import replace
from pathlib import Path

import pytest

from kumiai.core.errors import IntegrityError, SecureAggregationError
from kumiai.node.client.secure.revealed import RevealedAttempt
from kumiai.secagg import Member, Proofs, RoundDescriptor
from tests.secagg.rounds import describe, signers_of

SIGNERS = signers_of(8)
WHOLE = describe(SIGNERS, proofs=Proofs.SUM, rerun_size=4, colluders=2)
NAMES = [member.name for member in WHOLE.roster]
GROUPS = tuple(NAMES[:4]), tuple(NAMES[4:])


def part(members: tuple[Member, ...] = WHOLE.roster[:4], **changes: object) -> RoundDescriptor:
    fields = {"threshold": len(members), "minimum_survivors": len(members), **changes}
    return replace(WHOLE, round_id=bytes(16), roster=members, **fields)  # type: ignore[arg-type]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.revealed"
    assert RevealedAttempt.find(path) is None

    for groups in ((), GROUPS):
        written = RevealedAttempt.of(WHOLE, groups)
        written.write(path)
        assert RevealedAttempt.find(path) == written


@pytest.mark.parametrize("content", [b"x", b"[]", b"{}", b'{"round_id": "zz", "groups": []}'])
def test_a_damaged_file_keeps_the_site_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.revealed").write_bytes(content)

    with pytest.raises(IntegrityError, match="the round goes on without this site"):
        RevealedAttempt.find(tmp_path / "x.revealed")


def test_the_same_attempt_goes_on_and_each_group_of_a_wrong_sum_may_follow() -> None:
    found = RevealedAttempt.of(WHOLE, GROUPS)

    found.verify(WHOLE)
    found.verify(part())
    found.verify(part(WHOLE.roster[4:]))


@pytest.mark.parametrize(
    "members", [WHOLE.roster[:5], WHOLE.roster[1:5], WHOLE.roster[:7], WHOLE.roster]
)
def test_other_sites_together_are_refused(members: tuple[Member, ...]) -> None:
    with pytest.raises(SecureAggregationError, match="must not be summed twice with this site"):
        RevealedAttempt.of(WHOLE, GROUPS).verify(part(members))


def test_no_group_goes_again_where_the_sum_was_right_or_is_not_known() -> None:
    with pytest.raises(SecureAggregationError, match="must not be summed twice with this site"):
        RevealedAttempt.of(WHOLE, ()).verify(part())


def test_a_group_that_may_lose_a_member_is_refused() -> None:
    loose = part(WHOLE.roster[:4], threshold=4, minimum_survivors=4)
    object.__setattr__(loose, "minimum_survivors", 3)

    with pytest.raises(SecureAggregationError, match="must be summed whole"):
        RevealedAttempt.of(WHOLE, GROUPS).verify(loose)


@pytest.mark.parametrize("changes", [{"colluders": 1}, {"rerun_size": 5}, {"rerun_size": 0}])
def test_a_group_on_other_terms_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SecureAggregationError, match="colluders and rerun_size of a group must be"):
        RevealedAttempt.of(WHOLE, GROUPS).verify(part(**changes))
