"""Where a passphrase comes from: a setting, best given by the environment, or a file."""

from pathlib import Path

from pydantic import SecretStr

from kumiai.identity.files import read_file

__all__ = ["passphrase_of"]


def passphrase_of(given: SecretStr | None, file: Path | None) -> bytes | None:
    """Return the passphrase, ``None`` if there is none.

    Args:
        given: itself; wins.
        file: holds it, perhaps with a line break behind.

    Raises:
        NotFoundError, StorageError: the file cannot be read.
    """
    if given is not None:
        return given.get_secret_value().encode()
    return None if file is None else read_file(file, "passphrase").rstrip(b"\r\n")
