import pytest

from kumiai.identity import (
    Identity,
    PeerRefusedError,
    Permission,
    Principal,
    Refusal,
    Role,
    principal_of,
    roles_with,
    verify_permission,
)
from kumiai.identity.permissions import PERMISSIONS


def test_every_role_stands_in_the_table_and_every_permission_is_somebodys() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert frozenset().union(*PERMISSIONS.values()) == set(Permission)


def test_clients_and_people_have_nothing_in_common() -> None:
    people = set(Role) - {Role.CLIENT}

    assert [role for role in people if PERMISSIONS[role] & PERMISSIONS[Role.CLIENT]] == []


@pytest.mark.parametrize(
    ("permission", "roles"),
    [
        # Nobody redacts what is written about himself, and nobody restores alone what he deletes.
        (Permission.AUDIT_REDACT, [Role.AUDITOR]),
        (Permission.BACKUPS_RESTORE, [Role.RECOVERY_OPERATOR]),
        (Permission.RUNS_DELETE, [Role.OPERATOR]),
        (Permission.SITES_MANAGE, [Role.OPERATOR]),
        (Permission.MODELS_DOWNLOAD, [Role.DATA_SCIENTIST, Role.OPERATOR]),
        (Permission.ROUNDS_JOIN, [Role.CLIENT]),
    ],
)
def test_the_powers_that_must_be_apart_are_apart(permission: Permission, roles: list[Role]) -> None:
    assert roles_with(permission) == roles


def test_an_owner_of_a_certificate_may_what_its_role_may() -> None:
    identity = Identity("hospitals", Role.AUDITOR, "aude", 1, 2e9)

    principal = principal_of(identity, "10.0.0.1", (b"pem",))

    assert principal.permissions == PERMISSIONS[Role.AUDITOR]
    assert principal.label == "auditor 'aude'"
    assert "pem" not in repr(principal)
    verify_permission(principal, Permission.AUDIT_READ)


@pytest.mark.parametrize(
    ("role", "mend"),
    [(Role.AUDITOR, "ask one of these"), (Role.OPERATOR, "`kumiai token create`")],
)
def test_who_lacks_a_permission_is_told_who_has_it(role: Role, mend: str) -> None:
    principal = Principal("ann", role, frozenset(), "10.0.0.1", token_id="abc")

    with pytest.raises(PeerRefusedError, match="the role operator has, got") as caught:
        verify_permission(principal, Permission.RUNS_DELETE)

    assert caught.value.refusal is Refusal.MISSING_PERMISSION
    assert f"{role} 'ann' with token abc" in str(caught.value)
    assert mend in str(caught.value)
