"""Every error that Kumiai raises about the world, as one tree.

    KumiaiError
    ├── ConfigError            a setting, job file or argument is wrong          (exit code 2)
    ├── NotFoundError          the named thing does not exist                    (3)
    ├── DeniedError            the caller may not do this                        (4)
    │   └── CertificateError   a certificate is not acceptable
    ├── DeadlineError          a wait ended without its result                   (5)
    │   └── QuorumLostError    too few clients reported
    ├── BudgetExhaustedError   a privacy budget does not allow the release       (6)
    ├── IntegrityError         bytes are not what they claim to be               (7)
    │   └── CodecError         bytes do not parse as named arrays
    ├── CryptoError            a key, share, point, ciphertext or signature is not acceptable
    │   └── ProofError         a commitment or proof is malformed, or does not prove
    ├── SecureAggregationError a message or an act must not be in a round of secure aggregation
    ├── ConflictError          the present state forbids the act
    │   └── FencedError        another coordinator leads this run now
    ├── DivergedError          a new model has numbers that are NaN or infinite
    ├── UpdateRejectedError    a client's update cannot enter the sum
    ├── TransportError         the other side cannot be reached; trying again may help
    └── StorageError           the database or blob store failed
        ├── SchemaError        the database's schema does not fit this version
        └── UnavailableError   the store cannot be reached; trying again may help

Mistakes of the calling code are ``ValueError`` and ``TypeError``, never these. Messages read
``{name} must {rule}, got {value}``, lower case, without a full stop and without secrets.
"""

__all__ = [
    "BudgetExhaustedError",
    "CertificateError",
    "CodecError",
    "ConfigError",
    "ConflictError",
    "CryptoError",
    "DeadlineError",
    "DeniedError",
    "DivergedError",
    "FencedError",
    "IntegrityError",
    "KumiaiError",
    "NotFoundError",
    "ProofError",
    "QuorumLostError",
    "SchemaError",
    "SecureAggregationError",
    "StorageError",
    "TransportError",
    "UnavailableError",
    "UpdateRejectedError",
]


class KumiaiError(Exception):
    """The root: catch this to catch all of ours."""


class ConfigError(KumiaiError):
    """A setting, a job file or an argument is wrong; the message names key, problem and mend."""


class NotFoundError(KumiaiError):
    """The named run, model, client or blob does not exist."""


class DeniedError(KumiaiError):
    """The caller is known or unknown, and may not do this."""


class CertificateError(DeniedError):
    """A certificate is foreign, expired, revoked, of the wrong role or unreadable."""


class DeadlineError(KumiaiError):
    """A wait ended without its result."""


class QuorumLostError(DeadlineError):
    """Fewer clients reported than the round needs."""


class BudgetExhaustedError(KumiaiError):
    """A privacy budget does not allow the release; nothing was charged, and nothing may leave."""


class IntegrityError(KumiaiError):
    """Bytes do not match their digest, size or signature."""


class CodecError(IntegrityError):
    """Bytes do not parse as named arrays."""


class CryptoError(KumiaiError):
    """A key, a share, a point, a ciphertext or a signature from outside is not acceptable."""


class ProofError(CryptoError):
    """A commitment or a proof is malformed, or does not prove what it should."""


class SecureAggregationError(KumiaiError):
    """A message or an act must not be in a round of secure aggregation; nothing has changed."""


class ConflictError(KumiaiError):
    """The present state forbids the act, or the same key already stands for something else."""


class FencedError(ConflictError):
    """Another coordinator leads this run now: stop at once, change nothing."""


class DivergedError(KumiaiError):
    """A new model has numbers that are NaN or infinite: going on would not make it better."""


class UpdateRejectedError(KumiaiError):
    """A client's update cannot enter the sum; the round goes on without it."""


class TransportError(KumiaiError):
    """The other side cannot be reached; trying again may help."""


class StorageError(KumiaiError):
    """The database or the blob store failed."""


class SchemaError(StorageError):
    """The database's schema is older or newer than this version of Kumiai, or damaged."""


class UnavailableError(StorageError):
    """The store cannot be reached now; trying again may help."""
