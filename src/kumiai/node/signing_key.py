"""The key with which a member signs what it says in a round, and its certificate's word for it.

One Ed25519 key for the member's life: certificates change daily, and what was signed under one of
them must stay checkable. The other members remember it.
"""

from pathlib import Path
from typing import Final

from kumiai.crypto.signatures import Ed25519Signer
from kumiai.identity import files, new_voucher
from kumiai.node.wire.channel import TlsFiles

__all__ = ["KEY_FILE", "load_signer", "voucher_of"]

KEY_FILE: Final = "signing.key"
_SEED_SIZE_BYTES: Final = 32


def load_signer(folder: Path) -> Ed25519Signer:
    """Return the signer whose key lies in a folder, made at the first time.

    Args:
        folder: private; it must exist.

    Raises:
        IntegrityError: the file is damaged.
        CertificateError: others may read it.
        StorageError: it cannot be read or written.
    """
    seed = files.new_or_kept_secret(
        folder / KEY_FILE,
        "signing key",
        size_bytes=_SEED_SIZE_BYTES,
        mend="restore it, or move it away and let the other members' operators know of the new one",
    )
    return Ed25519Signer(seed)


def voucher_of(signer: Ed25519Signer, tls: TlsFiles, now: float) -> bytes:
    """Return the word of a member's present certificate for its signing key; reads files.

    Raises:
        CertificateError: certificate or key cannot be used.
        NotFoundError, StorageError: a file cannot be read.
    """
    chain = files.read_file(tls.certificate, "certificate")
    key = files.read_file(tls.key, "private key")
    return new_voucher(signer.public, chain, key, now)
