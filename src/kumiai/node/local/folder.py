"""The folder of a federation that lives on one machine: authority, certificates, settings, logs.

It holds ``ca/``; ``sites/``, the coordinator's issuer; ``coordinator/``, ``operator/`` and
``clients/<name>/``, each with its certificate and ``kumiai.toml``; and ``logs/``. It may be kept:
certificates that are still in force are used again, settings are written anew. All keys lie here,
the authority's too, so it is nothing for production. Reads and writes files.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kumiai.core.clock import Clock
from kumiai.core.errors import CertificateError, NotFoundError, StorageError
from kumiai.identity import CertificateManager, Role, verify_own_certificate

__all__ = ["FederationFolder", "Member", "Tables"]

Tables = Mapping[str, Mapping[str, Any]]
"""The tables of a ``kumiai.toml``."""

_FEDERATION = "local"
_HOSTS = ("localhost", "127.0.0.1", "::1")
_ISSUER_DAYS = 3650
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = "# Written anew at each start of this federation; what you change here is lost.\n"


@dataclass(frozen=True, slots=True)
class Member:
    """One of the federation.

    Attributes:
        role: what it is.
        name: as in its certificate.
    """

    role: Role
    name: str

    @property
    def path(self) -> str:
        """Its folder, from the federation's."""
        return f"clients/{self.name}" if self.role is Role.CLIENT else self.role.value


class FederationFolder:
    """Paths and files of one local federation."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        """Name the folder; nothing is read or written yet."""
        self.path = path.resolve()
        self._clock = clock
        self._authority = CertificateManager(self.path / "ca", clock=clock)

    def home(self, member: Member) -> Path:
        """Return the member's own folder."""
        return self.path / member.path

    def config(self, member: Member) -> Path:
        """Return the path of the member's settings."""
        return self.home(member) / "kumiai.toml"

    def log(self, member: Member) -> Path:
        """Return the path of the member's log."""
        name = f"client-{member.name}" if member.role is Role.CLIENT else member.role.value
        return self.path / "logs" / f"{name}.log"

    def identity(self, member: Member) -> tuple[Path, Path, Path]:
        """Return the paths of certificate, key and the authority's certificate."""
        home = self.home(member)
        return home / f"{member.name}.crt", home / f"{member.name}.key", home / "ca.crt"

    def ensure_authority(self) -> None:
        """Make the folder, the authority and the coordinator's issuer if there are none.

        Raises:
            StorageError: the folder can not be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"folder {self.path} can not be made: {error}") from error
        if not self._authority.certificate_path.exists():
            self._authority.create(_FEDERATION)
        if not self._issuer_files()[0].exists():
            self._authority.delegate(out_dir=self.path / "sites", days=_ISSUER_DAYS)

    def sites_table(self) -> Mapping[str, Any]:
        """Return the table of settings by which the coordinator signs for sites."""
        certificate, key = self._issuer_files()
        return {"issuer_certificate": str(certificate), "issuer_key": str(key)}

    def _issuer_files(self) -> tuple[Path, Path]:
        return self.path / "sites" / "issuer.crt", self.path / "sites" / "issuer.key"

    def ensure_identity(self, member: Member) -> None:
        """Issue the member's certificate unless it has one that is in force.

        Raises:
            NotFoundError: there is no authority.
            StorageError: a file can not be read or written.
        """
        files = self.identity(member)
        try:
            verify_own_certificate(*files, self._clock, role=member.role)
        except (NotFoundError, CertificateError):
            for path in files[:2]:
                path.unlink(missing_ok=True)
            hosts = _HOSTS if member.role is Role.COORDINATOR else ()
            self._authority.issue(member.role, member.name, hosts=hosts, out_dir=self.home(member))

    def write_config(self, member: Member, *layers: Tables) -> Path:
        """Write the member's settings and return their path.

        Args:
            member: whose.
            layers: tables; an entry of a later layer wins. The certificate's are added.
        """
        certificate, key, ca = (path.name for path in self.identity(member))
        identity = {"identity": {"certificate": certificate, "key": key, "ca": ca}}
        path = self.config(member)
        # Readable by the owner alone: a database's address may hold a password.
        path.touch(mode=0o600)
        path.write_text(_HEADER + _toml_of(_merged(identity, *layers)), encoding="utf-8")
        return path


def _merged(*layers: Tables) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for name, table in layer.items():
            tables.setdefault(name, {}).update(table)
    return tables


def _toml_of(tables: Tables) -> str:
    return "\n".join(_table_lines(name, table) for name, table in tables.items())


def _table_lines(name: str, table: Mapping[str, Any]) -> str:
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"[{name}]\n"]
    lines += [
        f"{_key(key)} = {_value(value)}\n" for key, value in table.items() if key not in nested
    ]
    lines += ["\n" + _table_lines(f"{name}.{_key(key)}", each) for key, each in nested.items()]
    return "".join(lines)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    # What JSON writes for a text, a number, a boolean or a list of them is TOML as well, if only
    # characters beyond ASCII stay as they are and the one control character it leaves does not.
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")
