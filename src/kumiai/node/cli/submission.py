"""From a job file and a study or a model file to a run at the coordinator."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from kumiai.core.arrays import NamedArrays
from kumiai.core.codec import decode, encode
from kumiai.core.digest import digest_of
from kumiai.core.errors import CodecError, ConfigError, NotFoundError
from kumiai.core.ids import new_id
from kumiai.node.cli.job_source import load_job, split_overrides
from kumiai.node.cli.output import Table, shown_size
from kumiai.node.cli.transfer_bar import transfer_bar
from kumiai.node.job import JobSpec
from kumiai.node.noised_rounds import outlook_of
from kumiai.node.operator.client import OperatorClient

__all__ = ["PreparedRun", "prepare", "run_id_of_token", "submit_prepared"]

_TOKEN_LENGTH_MAX = 1_000
# Tokens are hashed for this purpose alone, so that none is equal to a random id by design.
_TOKEN_CONTEXT = "kumiai 2026-01 run submit token"  # noqa: S105 - a label, not a secret


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is ready to be submitted.

    Attributes:
        run_id: chosen here, so that submitting again after a lost answer gives the same run.
        job: checked.
        arrays: the initial model.
    """

    run_id: str
    job: JobSpec
    arrays: NamedArrays

    def summary(self) -> dict[str, Any]:
        """Return what would be submitted."""
        buffers = encode(self.arrays)
        return {
            "run_id": self.run_id,
            "job": self.job.model_dump(mode="json"),
            "model": {
                "digest": digest_of(buffers),
                "size_bytes": sum(buffer.nbytes for buffer in buffers),
                "arrays": {
                    name: {"dtype": str(array.dtype), "shape": list(array.shape)}
                    for name, array in self.arrays.items()
                },
            },
        }

    def outlook(self) -> list[str]:
        """Return what the job promises to hide, and what will come of it.

        Raises:
            ConfigError: it cannot be kept.
        """
        return outlook_of(self.job, sum(array.size for array in self.arrays.values()))

    def table(self) -> Table:
        """Return the same for people."""
        told = self.summary()
        job, model = self.job, told["model"]
        numbers = sum(array.size for array in self.arrays.values())
        array_count = "1 array" if len(self.arrays) == 1 else f"{len(self.arrays)} arrays"
        rows = [
            ("app", job.run.app),
            ("rounds", str(job.run.rounds)),
            ("strategy", job.strategy.name),
            ("model", f"{array_count}, {numbers} numbers"),
            ("size", shown_size(model["size_bytes"])),
            ("digest", model["digest"]),
        ]
        return Table((), rows, note="nothing was submitted: --dry-run")


def prepare(
    path: Path,
    overrides: Mapping[str, str],
    *,
    app_reference: str | None,
    model: Path | None,
    token: str | None,
) -> tuple[PreparedRun, dict[str, str]]:
    """Return the run, and those of the overrides that are for the settings.

    Raises:
        ConfigError: the job, the study or the token is wrong, or not exactly one of app and
            model is given.
        NotFoundError: a file is missing.
        CodecError: the model file holds something else.
        StudyError: the study's code failed.
    """
    for_job, for_settings = split_overrides(overrides)
    job = load_job(path, for_job)
    if (app_reference is None) == (model is None):
        raise ConfigError(
            "the initial model must be given by one of --app study.py and --model file.safetensors"
        )
    arrays = _read_model(model) if model else _build_model(app_reference or "", job)
    run_id = new_id("run") if token is None else run_id_of_token(token)
    return PreparedRun(run_id, job, arrays), for_settings


def run_id_of_token(token: str) -> str:
    """Return the run's identifier that belongs to the submitter's own key.

    Raises:
        ConfigError: it is empty or too long.
    """
    if not 0 < len(token) <= _TOKEN_LENGTH_MAX:
        raise ConfigError(f"--token must be 1 to {_TOKEN_LENGTH_MAX} characters, got {len(token)}")
    hashed = blake3(token.encode(), derive_key_context=_TOKEN_CONTEXT).digest(length=20)
    return f"run-{base64.b32encode(hashed).decode().lower()}"


def submit_prepared(client: OperatorClient, prepared: PreparedRun) -> dict[str, Any]:
    """Upload the model, create the run and return it as the coordinator tells it."""
    with transfer_bar("model") as begin:
        size_bytes = sum(buffer.nbytes for buffer in encode(prepared.arrays))
        uploaded = client.upload_model(prepared.run_id, prepared.arrays, begin(size_bytes))
    return client.submit(prepared.run_id, prepared.job.model_dump(mode="json"), uploaded.digest)


def _build_model(reference: str, job: JobSpec) -> NamedArrays:
    from kumiai.node.study import initial_model, load_app

    study = load_app(reference)
    if study.name != job.run.app:
        raise ConfigError(
            f"run.app must be the name of the study in --app, {study.name!r}, got {job.run.app!r}"
        )
    return initial_model(study, job.train, seed=job.run.seed)


def _read_model(path: Path) -> NamedArrays:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"model file must exist, got none at {path}") from None
    except OSError as error:
        raise ConfigError(
            f"model file must be readable, got {error.strerror} for {path}"
        ) from error
    try:
        return decode(content).arrays
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from None
