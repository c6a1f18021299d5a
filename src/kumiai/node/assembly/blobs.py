"""How the blob store of a coordinator is put together from its settings."""

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from kumiai.core.errors import ConfigError
from kumiai.node.settings import Settings, StorageSettings
from kumiai.storage import LocalBlobStore, S3BlobStore, S3Place

__all__ = ["blob_place", "new_blob_store"]

_REGION = "us-east-1"


def new_blob_store(
    settings: Settings,
    *,
    environ: Mapping[str, str] = os.environ,
    cache_folder: Path | None = None,
) -> LocalBlobStore | S3BlobStore:
    """Return the store that the settings name.

    Args:
        settings: with absolute paths.
        environ: where AWS's own variables are looked up.
        cache_folder: for a program beside the coordinator: the coordinator's own is in use.

    Raises:
        ConfigError: the place or the files for it can not be used.
    """
    if settings.storage.blobs is None:
        return LocalBlobStore(settings.coordinator.data_dir / "blobs")
    return S3BlobStore(
        blob_place(settings.storage, environ),
        settings.coordinator.data_dir / "s3",
        cache_folder=cache_folder,
        cache_bytes=settings.storage.cache_bytes,
        deadline_seconds=settings.storage.s3_timeout_seconds,
    )


def blob_place(storage: StorageSettings, environ: Mapping[str, str]) -> S3Place:
    """Return the bucket that ``storage.blobs`` names, and how to get there.

    Raises:
        ConfigError: a file can not be used.
    """
    bucket, prefix = S3Place.parse(storage.blobs or "")
    key_id, secret, token = _keys(storage.s3_credentials, environ)
    return S3Place(
        bucket=bucket,
        prefix=prefix,
        endpoint=storage.s3_endpoint
        or environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_ENDPOINT_URL")
        or None,
        region=storage.s3_region
        or environ.get("AWS_REGION")
        or environ.get("AWS_DEFAULT_REGION")
        or _REGION,
        access_key_id=key_id,
        secret_access_key=secret,
        session_token=token,
        ca_pem=None if storage.s3_ca is None else _read(storage.s3_ca, "storage.s3_ca"),
    )


def _keys(
    path: Path | None, environ: Mapping[str, str]
) -> tuple[str | None, str | None, str | None]:
    if path is None:
        key_id = environ.get("AWS_ACCESS_KEY_ID")
        secret = environ.get("AWS_SECRET_ACCESS_KEY")
        if not key_id or not secret:
            return None, None, None
        return key_id, secret, environ.get("AWS_SESSION_TOKEN") or None
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(_read(path, "storage.s3_credentials").decode())
        table = parser["default"]
        return (
            table["aws_access_key_id"],
            table["aws_secret_access_key"],
            table.get("aws_session_token"),
        )
    except (configparser.Error, KeyError, UnicodeDecodeError):
        # Without its cause: it quotes the file.
        raise ConfigError(
            f"storage.s3_credentials must hold a section [default] with aws_access_key_id and "
            f"aws_secret_access_key, got another content of {path}"
        ) from None


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{name} must be a file that can be read, got {error.strerror} for {path}"
        ) from None
