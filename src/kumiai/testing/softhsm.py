"""A real PKCS#11 token in software, where SoftHSM2 is installed.

SoftHSM reads the place of its tokens once in the life of a process, from the environment: there
is one token for each process that tests run in, and each test makes keys of its own in it.
"""

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters

from kumiai.identity.pkcs11_uri import KeyURI

__all__ = ["SoftHSM", "softhsm_library"]

_PLACES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


def softhsm_library() -> Path | None:
    """Return SoftHSM's library, ``None`` where it or its tool is not installed."""
    if shutil.which("softhsm2-util") is None:
        return None
    return next((Path(place) for place in _PLACES if Path(place).exists()), None)


class SoftHSM:
    """One token of SoftHSM, for the rest of this process.

    Attributes:
        module: SoftHSM's library.
        label: the token's.
        pin: its user's.
        environ: what a process needs to find it.
    """

    def __init__(self, module: Path, directory: Path) -> None:
        """Make a token.

        Args:
            module: from `softhsm_library`.
            directory: an existing one, for the token.
        """
        self.module = module
        self.label = "authority"
        self.pin = secrets.token_urlsafe(12)
        (directory / "tokens").mkdir()
        config = directory / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {directory / 'tokens'}\nlog.level = ERROR\n")
        self.environ = {"SOFTHSM2_CONF": str(config)}
        os.environ.update(self.environ)
        command = ["softhsm2-util", "--init-token", "--free", "--label", self.label]
        pins = ["--so-pin", secrets.token_urlsafe(12), "--pin", self.pin]
        subprocess.run([*command, *pins], check=True, capture_output=True)  # noqa: S603 - its own tool

    def new_key(self, name: str = "key", *, kind: str = "secp256r1") -> KeyURI:
        """Make a key pair, and return its name.

        Args:
            name: begins its label.
            kind: a curve, or ``rsa``.
        """
        label = f"{name}-{secrets.token_hex(4)}"
        names: dict[str, Any] = {"store": True, "label": label, "id": secrets.token_bytes(4)}
        token = pkcs11.lib(str(self.module)).get_token(token_label=self.label)
        with token.open(rw=True, user_pin=self.pin) as session:
            if kind == "rsa":
                session.generate_keypair(pkcs11.KeyType.RSA, 2048, **names)
            else:
                curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(kind)}
                session.create_domain_parameters(
                    pkcs11.KeyType.EC, curve, local=True
                ).generate_keypair(**names)
        return KeyURI(token=self.label, object=label)
