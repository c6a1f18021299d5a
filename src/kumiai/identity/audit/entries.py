"""What stands in the audit log: acts, who did them, and the one way to write each as bytes.

An entry is JSON with sorted keys and without blanks (RFC 8785 for texts, whole numbers, booleans
and null). The bytes are what is hashed, so exactly one text stands for an entry and every other
one is refused. Names and addresses of persons are in it only sealed (`persons`): the hash
covers the ciphertext, and forgetting the key changes no hash. Everything has a limit, so that no
caller can fill the disk and a proof stays below two kilobytes (`proofs`); texts count as they are
written, with a backslash before each quotation mark.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from kumiai.core.errors import IntegrityError
from kumiai.identity.names import Identity, Role

__all__ = [
    "BODY_BYTES_MAX",
    "Act",
    "Actor",
    "AuditEntry",
    "Detail",
    "NewEntry",
    "Outcome",
    "Sealed",
    "decode_entry",
    "encode_entry",
]

Detail = Mapping[str, str | int | bool | None]
"""What else is worth knowing, never a secret and nothing of a person's."""

BODY_BYTES_MAX: Final = 2048
_DETAIL_BYTES_MAX: Final = 360
_NAME_BYTES_MAX: Final = 63
_ADDRESS_BYTES_MAX: Final = 64
_SEALED_BYTES_MAX: Final = 512
_INTEGER_MAX: Final = 2**53 - 1
_VERSION: Final = 1

_ENTRY_KINDS: Final = [str, str, str, str, int, int, dict, dict]
_KEY: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WORD: Final = re.compile(r"[a-z][a-z0-9_.-]{0,47}")
_SUBJECT: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,80}")
_PERSON: Final = re.compile(r"[0-9a-f]{64}")


class Act(StrEnum):
    """What was done; a later version may add acts, and never changes what one means."""

    AUDIT_ENTRIES_LOST = "audit.entries_lost"
    AUDIT_EXPORTED = "audit.exported"
    AUDIT_REDACTED = "audit.redacted"
    AUTHENTICATION_REFUSED = "authentication.refused"
    BUDGETS_FROZEN = "budgets.frozen"
    BUDGETS_RECONCILED = "budgets.reconciled"
    BUDGET_CHARGED = "budget.charged"
    BUDGET_SET = "budget.set"
    CERTIFICATE_ISSUED = "certificate.issued"
    CERTIFICATE_REVOKED = "certificate.revoked"
    CLIENT_ATTACHED = "client.attached"
    CLIENT_DETACHED = "client.detached"
    CLIENT_EXCLUDED = "client.excluded"
    CLIENT_READMITTED = "client.readmitted"
    COORDINATOR_STARTED = "coordinator.started"
    COORDINATOR_STOPPED = "coordinator.stopped"
    MODEL_DELETED = "model.deleted"
    MODEL_DESCRIBED = "model.described"
    MODEL_PUBLISHED = "model.published"
    PERMISSION_DENIED = "permission.denied"
    ROLE_CHANGED = "role.changed"
    RUN_CREATED = "run.created"
    RUN_DELETED = "run.deleted"
    RUN_DESCRIBED = "run.described"
    RUN_FAILED = "run.failed"
    RUN_FINISHED = "run.finished"
    RUN_STOPPED = "run.stopped"
    RUN_STOP_REQUESTED = "run.stop_requested"
    SCHEMA_MIGRATED = "schema.migrated"
    SITE_APPROVED = "site.approved"
    SITE_INVITED = "site.invited"
    SITE_JOINED = "site.joined"
    SITE_REMOVED = "site.removed"
    SITE_RESUMED = "site.resumed"
    SITE_SUSPENDED = "site.suspended"
    SUM_REFUSED = "sum.refused"
    TOKEN_CREATED = "token.created"  # noqa: S105 - the name of an act
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    TRUST_CHANGED = "trust.changed"
    TRUST_FOLLOWED = "trust.followed"


class Outcome(StrEnum):
    """How it ended."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it.

    Attributes:
        role: of their certificate or token; ``nobody`` for a peer that is not known.
        name: of their certificate or token; empty for a peer that is not known.
        serial: of their certificate; 0: they have none.
        address: where they called from; empty if they did not call.
    """

    role: str
    name: str = ""
    serial: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: the role is no short word, or name or address are too long.
        """
        if not _WORD.fullmatch(self.role):
            raise ValueError(f"actor's role must be a short word, got {self.role[:80]!r}")
        for field_name, value, limit in (
            ("name", self.name, _NAME_BYTES_MAX),
            ("address", self.address, _ADDRESS_BYTES_MAX),
        ):
            if not value.isprintable() or _written_bytes(value) > limit:
                raise ValueError(
                    f"actor's {field_name} must be at most {limit} printable bytes, "
                    f"got {len(value)} characters"
                )

    @classmethod
    def of(cls, identity: Identity, address: str = "") -> "Actor":
        """Return the owner of a certificate as the one who acts."""
        return cls(identity.role.value, identity.name, identity.serial, address)

    @property
    def person(self) -> tuple[str, str] | None:
        """Under whose key their name and address are sealed: kind and name.

        A peer without a name goes by its address. Coordinators are machines of the federation,
        and stand in the clear.
        """
        if self.role == Role.COORDINATOR.value:
            return None
        if self.name:
            return self.role, self.name
        return ("address", self.address) if self.address else None


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An act that is to be recorded.

    Attributes:
        act: what.
        actor: who.
        subject: what it was done to, ``run/<id>``; a thing, never a person. Empty: to nothing.
        outcome: how it ended.
        detail: what else.
    """

    act: Act
    actor: Actor
    subject: str = ""
    outcome: Outcome = Outcome.DONE
    detail: Detail = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: the subject or the detail is too large, or of another form.
        """
        if self.subject and not _SUBJECT.fullmatch(self.subject):
            raise ValueError(
                "subject must be at most 80 printable characters without blanks, quotation marks "
                f"and backslashes, got {self.subject[:100]!r}"
            )
        _verify_detail(self.detail)
        # Not when an entry is read: what an earlier version has let in stays in its log.
        size = len(orjson.dumps(dict(self.detail)))
        if size > _DETAIL_BYTES_MAX:
            raise ValueError(f"detail must be at most {_DETAIL_BYTES_MAX} bytes, got {size}")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A person in an entry.

    Attributes:
        person: the commitment to the key, 64 hexadecimal digits: a pseudonym.
        content: nonce and ciphertext.
    """

    person: str
    content: bytes


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry as it stands in the log.

    Attributes:
        sequence: its place, counting from 0.
        at_us: when, microseconds since 1970-01-01 UTC, by the database's clock.
        act, outcome: words; of a newer version perhaps some that this one does not know.
        role: of the actor.
        actor: the actor's name in the clear, or sealed; ``None``: nothing is known of them.
        subject: what it was done to.
        detail: what else.
    """

    sequence: int
    at_us: int
    act: str
    outcome: str
    role: str
    actor: str | Sealed | None
    subject: str
    detail: Detail

    @property
    def at(self) -> float:
        """When, seconds since 1970-01-01 UTC."""
        return self.at_us / 1e6

    @property
    def person(self) -> str | None:
        """The pseudonym of the actor, if they are a person."""
        return self.actor.person if isinstance(self.actor, Sealed) else None


def encode_entry(entry: AuditEntry) -> bytes:
    """Return the bytes that stand for the entry.

    Raises:
        ValueError: they are too many, or a text is not valid Unicode.
    """
    actor: dict[str, str] = {"role": entry.role}
    match entry.actor:
        case Sealed(person, content):
            actor |= {"person": person, "sealed": base64.b64encode(content).decode()}
        case str(name):
            actor["name"] = name
    try:
        body = orjson.dumps(
            {
                "act": entry.act,
                "actor": actor,
                "at": entry.at_us,
                "detail": dict(entry.detail),
                "outcome": entry.outcome,
                "seq": entry.sequence,
                "subject": entry.subject,
                "v": _VERSION,
            },
            option=orjson.OPT_SORT_KEYS,
        )
    except orjson.JSONEncodeError as error:
        raise ValueError("entry must be valid Unicode, got something else") from error
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"entry must be at most {BODY_BYTES_MAX} bytes, got {len(body)}")
    return body


def decode_entry(body: bytes) -> AuditEntry:
    """Return the entry that the bytes stand for.

    Raises:
        IntegrityError: they are too many, no entry, or not written in the one way.
    """
    if len(body) > BODY_BYTES_MAX:
        raise IntegrityError(f"entry must be at most {BODY_BYTES_MAX} bytes, got {len(body)}")
    try:
        entry = _entry_of(orjson.loads(body))
        if entry is not None and encode_entry(entry) == body:
            return entry
    except ValueError:
        pass
    raise IntegrityError(f"entry must be as it was written, got {len(body)} bytes of no entry")


def _entry_of(told: Any) -> AuditEntry | None:
    # By hand and not by `match`: of a million entries that takes half of the time to read them.
    try:
        act, outcome, subject = told["act"], told["outcome"], told["subject"]
        sequence, at_us, version = told["seq"], told["at"], told["v"]
        detail, actor, role = told["detail"], told["actor"], told["actor"]["role"]
    except (KeyError, TypeError, IndexError):
        return None
    # A boolean is an integer for Python, and "true" no number for anybody else.
    kinds = [type(each) for each in (act, outcome, subject, role, sequence, at_us, detail, actor)]
    if kinds != _ENTRY_KINDS or version != _VERSION or sequence < 0:
        return None
    if not _WORD.fullmatch(act) or not _WORD.fullmatch(outcome):
        return None
    _verify_detail(detail)
    return AuditEntry(sequence, at_us, act, outcome, role, _actor_of(actor), subject, detail)


def _actor_of(told: Mapping[str, Any]) -> str | Sealed | None:
    name, person, text = told.get("name"), told.get("person"), told.get("sealed")
    if isinstance(name, str):
        return name
    if not isinstance(person, str) or not isinstance(text, str) or not _PERSON.fullmatch(person):
        return None
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return Sealed(person, content) if len(content) <= _SEALED_BYTES_MAX else None


def _verify_detail(detail: Detail) -> None:
    for key, value in detail.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"detail's keys must be short words, got {key[:80]!r}")
        if isinstance(value, int) and abs(value) > _INTEGER_MAX:
            raise ValueError(f"detail {key} must be a whole number below 2^53, got a larger one")
        # Floats are left out: two programs may write one in two ways.
        if not (value is None or isinstance(value, str | int)):
            raise ValueError(
                f"detail {key} must be a text, a whole number, a boolean or nothing, "
                f"got {type(value).__name__}"
            )


def _written_bytes(text: str) -> int:
    return len(orjson.dumps(text)) - len('""')
