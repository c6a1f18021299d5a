"""The audit log: who did what, in a history that nobody can rewrite unseen.

Pure: entries, hashes, proofs and signatures as values. Where entries are kept is
`kumiai.storage.AuditLog`'s matter, what is recorded when the coordinator's.
"""

from kumiai.identity.audit.chain import CHAIN_START, LogHead, LogVerifier, chained
from kumiai.identity.audit.checkpoints import (
    CertifiedKey,
    Checkpoint,
    CheckpointSigner,
    open_note,
    origin_of,
)
from kumiai.identity.audit.entries import (
    BODY_BYTES_MAX,
    Act,
    Actor,
    AuditEntry,
    Detail,
    NewEntry,
    Outcome,
    Sealed,
    decode_entry,
    encode_entry,
)
from kumiai.identity.audit.merkle import (
    HASH_BYTES,
    KEPT_LEVELS,
    Frontier,
    Node,
    consistency_ranges,
    folded,
    included_root,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    subtrees,
    verify_consistency,
)
from kumiai.identity.audit.persons import PersonKey, open_actor, seal_actor
from kumiai.identity.audit.proofs import EntryProof
from kumiai.identity.audit.scribe import AuditScribe, WrittenEntry
from kumiai.identity.audit.sink import AuditSink

__all__ = [
    "BODY_BYTES_MAX",
    "CHAIN_START",
    "HASH_BYTES",
    "KEPT_LEVELS",
    "Act",
    "Actor",
    "AuditEntry",
    "AuditScribe",
    "AuditSink",
    "CertifiedKey",
    "Checkpoint",
    "CheckpointSigner",
    "Detail",
    "EntryProof",
    "Frontier",
    "LogHead",
    "LogVerifier",
    "NewEntry",
    "Node",
    "Outcome",
    "PersonKey",
    "Sealed",
    "WrittenEntry",
    "chained",
    "consistency_ranges",
    "decode_entry",
    "encode_entry",
    "folded",
    "included_root",
    "inclusion_ranges",
    "leaf_hash",
    "node_hash",
    "open_actor",
    "open_note",
    "origin_of",
    "seal_actor",
    "subtrees",
    "verify_consistency",
]
