"""The three files that a member gets: its certificate with its issuer's, its key, the roots.

The certificate's file is written last: who finds it finds the rest. Reads and writes files.
"""

from dataclasses import dataclass
from pathlib import Path

from kumiai.core import failpoints
from kumiai.core.errors import ConfigError, ConflictError
from kumiai.core.ids import verify_name
from kumiai.identity import files

__all__ = ["MemberFiles", "member_files"]

_PUBLIC = 0o644
_SECRET = 0o600


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """Where a member's files lie.

    Attributes:
        cert: its certificate, then its issuer's, PEM.
        key: its private key, PEM, readable by its owner alone.
        ca: the roots that it trusts, PEM.
    """

    cert: Path
    key: Path
    ca: Path

    def verify_vacant(self, trust_bundle: bytes) -> None:
        """Check that nothing would be overwritten.

        Raises:
            ConflictError: something would.
        """
        for path in (self.cert, self.key):
            if path.exists():
                raise ConflictError(
                    f"{path} must not exist yet; choose another directory, or move it away"
                )
        if self.ca.exists() and files.read_file(self.ca, "ca.crt") != trust_bundle:
            raise ConflictError(
                f"{self.ca} must be this authority's certificate, got another federation's or "
                "an older one; choose another directory, or move it away"
            )

    def save(self, *, chain: bytes, key: bytes | None, trust_bundle: bytes) -> None:
        """Write the files.

        Args:
            chain: the member's certificate, then its issuer's, PEM.
            key: its private key, PEM; ``None``: it lies elsewhere.
            trust_bundle: the roots, PEM.

        Raises:
            StorageError: one cannot be written.
        """
        files.write_atomic(self.ca, trust_bundle, mode=_PUBLIC)
        if key is not None:
            files.write_atomic(self.key, key, mode=_SECRET)
        failpoints.reach("identity.member.before")
        files.write_atomic(self.cert, chain, mode=_PUBLIC)


def member_files(directory: Path, name: str) -> MemberFiles:
    """Return where the files of a member lie in a directory.

    Raises:
        ConfigError: the name breaks its rule, or is ``ca``.
    """
    verify_name("name", name)
    # Without regard to case, because the file system may have none.
    if name.lower() == "ca":
        raise ConfigError(f"name must not be 'ca', which is the authority's, got {name!r}")
    return MemberFiles(directory / f"{name}.crt", directory / f"{name}.key", directory / "ca.crt")
