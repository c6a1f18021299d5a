"""What callers may do: permissions, and which roles have them.

A permission is asked for by a route or a remote call, never by a role's name; a role is a set of
permissions. A token has some of those of whoever made it. Nobody has a permission that is not in
the table below: what is not granted is denied.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from kumiai.identity.check import PeerRefusedError, Refusal
from kumiai.identity.names import Identity, Role

__all__ = [
    "PERMISSIONS",
    "Permission",
    "Principal",
    "permissions_of",
    "principal_of",
    "roles_with",
    "verify_permission",
]


class Permission(StrEnum):
    """One kind of act."""

    ROUNDS_JOIN = "rounds.join"
    """Be asked to train and evaluate."""
    UPDATES_SUBMIT = "updates.submit"
    """Send an update or report for a task."""
    TASKS_FETCH = "tasks.fetch"
    """Fetch the model of a task."""
    INFO_READ = "info.read"
    """See which coordinator answers, and the description of its API."""
    METRICS_READ = "metrics.read"
    """Read the metrics."""
    CLIENTS_READ = "clients.read"
    """See the clients and what they do."""
    RUNS_READ = "runs.read"
    """See runs, their rounds, events and metrics."""
    RUNS_SUBMIT = "runs.submit"
    """Upload an initial model and start a run."""
    RUNS_DESCRIBE = "runs.describe"
    """Change a run's description and tags."""
    RUNS_STOP = "runs.stop"
    """Stop a run."""
    RUNS_DELETE = "runs.delete"
    """Delete a run that has ended, with its models."""
    MODELS_READ = "models.read"
    """See which models there are."""
    MODELS_DOWNLOAD = "models.download"
    """Take a model away."""
    MODELS_PUBLISH = "models.publish"
    """Release a model version."""
    MODELS_DESCRIBE = "models.describe"
    """Change a model's description and tags."""
    SITES_MANAGE = "sites.manage"
    """Invite, approve, suspend and remove sites."""
    TOKENS_USE = "tokens.use"
    """Make, list and revoke tokens of one's own."""
    TOKENS_MANAGE = "tokens.manage"
    """List and revoke everybody's tokens."""
    AUDIT_READ = "audit.read"
    """Read and verify the audit log."""
    AUDIT_REDACT = "audit.redact"
    """Make personal fields of audit entries unreadable."""
    BUDGETS_READ = "budgets.read"
    """See privacy budgets."""
    BUDGETS_MANAGE = "budgets.manage"
    """Set privacy budgets."""
    BACKUPS_READ = "backups.read"
    """See backups and their checks."""
    BACKUPS_MAKE = "backups.make"
    """Make a backup."""
    BACKUPS_RESTORE = "backups.restore"
    """Restore from a backup, promote a region."""


_LOOK: Final = frozenset(
    {
        Permission.INFO_READ,
        Permission.CLIENTS_READ,
        Permission.RUNS_READ,
        Permission.MODELS_READ,
        Permission.BUDGETS_READ,
        Permission.TOKENS_USE,
    }
)
_STUDY: Final = frozenset(
    {
        Permission.RUNS_SUBMIT,
        Permission.RUNS_DESCRIBE,
        Permission.RUNS_STOP,
        Permission.MODELS_DOWNLOAD,
        Permission.MODELS_DESCRIBE,
    }
)

PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = MappingProxyType(
    {
        Role.CLIENT: frozenset(
            {Permission.ROUNDS_JOIN, Permission.UPDATES_SUBMIT, Permission.TASKS_FETCH}
        ),
        Role.COORDINATOR: frozenset({Permission.METRICS_READ}),
        Role.DATA_SCIENTIST: _LOOK | _STUDY,
        Role.OPERATOR: _LOOK
        | _STUDY
        | {
            Permission.METRICS_READ,
            Permission.RUNS_DELETE,
            Permission.MODELS_PUBLISH,
            Permission.SITES_MANAGE,
            Permission.TOKENS_MANAGE,
            Permission.AUDIT_READ,
            Permission.BUDGETS_MANAGE,
            Permission.BACKUPS_READ,
            Permission.BACKUPS_MAKE,
        },
        # Who redacts is not who is written about: an operator's own acts stand in the log.
        Role.AUDITOR: _LOOK
        | {
            Permission.METRICS_READ,
            Permission.AUDIT_READ,
            Permission.AUDIT_REDACT,
            Permission.BACKUPS_READ,
        },
        # Who restores can bring back what was deleted and undo what was decided.
        Role.RECOVERY_OPERATOR: frozenset(
            {
                Permission.INFO_READ,
                Permission.METRICS_READ,
                Permission.TOKENS_USE,
                Permission.AUDIT_READ,
                Permission.BACKUPS_READ,
                Permission.BACKUPS_MAKE,
                Permission.BACKUPS_RESTORE,
            }
        ),
    }
)
"""What each role may do."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call, and what it may do.

    Attributes:
        name: of the certificate, or of the token's maker.
        role: likewise.
        permissions: what it may do; a token may do less than its maker.
        address: where the call comes from, without a port.
        identity: the certificate's; ``None`` for a token.
        chain: the certificates, to be judged again while the call lasts.
        token_id: the token's; ``None`` for a certificate.
    """

    name: str
    role: Role
    permissions: frozenset[Permission]
    address: str
    identity: Identity | None = None
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    token_id: str | None = None

    @property
    def label(self) -> str:
        """Who it is, for messages and logs."""
        return f"{self.role.value} {self.name!r}" + (
            f" with token {self.token_id}" if self.token_id else ""
        )


def permissions_of(role: Role) -> frozenset[Permission]:
    """Return what a role may do."""
    return PERMISSIONS[role]


def principal_of(identity: Identity, address: str, chain: tuple[bytes, ...]) -> Principal:
    """Return the owner of a certificate with all that its role may do."""
    return Principal(
        identity.name, identity.role, permissions_of(identity.role), address, identity, chain
    )


def roles_with(permission: Permission) -> list[Role]:
    """Return the roles that have a permission, sorted."""
    return sorted(role for role, granted in PERMISSIONS.items() if permission in granted)


def verify_permission(principal: Principal, permission: Permission) -> None:
    """Check that a caller may do something.

    Raises:
        PeerRefusedError: it may not; the message says which permission is missing and who has it.
    """
    if permission in principal.permissions:
        return
    who = " or ".join(roles_with(permission))
    is_of_role = permission in PERMISSIONS[principal.role]
    mend = "make a token with it, `kumiai token create`" if is_of_role else "ask one of these"
    raise PeerRefusedError(
        Refusal.MISSING_PERMISSION,
        f"caller must have the permission {permission.value}, which the role {who} has, got "
        f"{principal.label} without it; {mend}",
    )
