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


# Written out a second time: who may do what is not changed by one slip.
LOOK = {
    *("info.read", "clients.read", "runs.read", "models.read", "budgets.read", "tokens.use"),
}
STUDY = {
    *("runs.submit", "runs.describe", "runs.stop", "models.download", "models.describe"),
}
TABLE = {
    "client": {"rounds.join", "updates.submit", "tasks.fetch"},
    "coordinator": {"metrics.read"},
    "data-scientist": {*LOOK, *STUDY},
    "operator": {
        *LOOK,
        *STUDY,
        *("metrics.read", "runs.delete", "models.publish", "sites.manage", "tokens.manage"),
        *("audit.read", "budgets.manage", "backups.read", "backups.make"),
    },
    "auditor": {*LOOK, "metrics.read", "audit.read", "audit.redact", "backups.read"},
    "recovery-operator": {
        *("info.read", "metrics.read", "tokens.use", "audit.read"),
        *("backups.read", "backups.make", "backups.restore"),
    },
}


def test_each_role_may_do_what_the_table_says_and_nothing_else() -> None:
    found = {str(role): {*map(str, granted)} for role, granted in PERMISSIONS.items()}

    assert found == TABLE


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
        (Permission.BUDGETS_MANAGE, [Role.OPERATOR]),
        (
            Permission.AUDIT_READ,
            [Role.AUDITOR, Role.OPERATOR, Role.RECOVERY_OPERATOR],
        ),
    ],
)
def test_the_powers_that_must_be_apart_are_apart(permission: Permission, roles: list[Role]) -> None:
    assert roles_with(permission) == roles


def test_an_owner_of_a_certificate_may_what_its_role_may() -> None:
    identity = Identity("hospitals", Role.AUDITOR, "aude", 1, 2e9)

    principal = principal_of(identity, "10.0.0.1", (b"pem",))

    assert principal.permissions == PERMISSIONS[Role.AUDITOR]
    assert principal.label == "auditor 'aude'"
    assert (principal.identity, principal.address) == (identity, "10.0.0.1")
    assert principal.chain == (b"pem",)
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
