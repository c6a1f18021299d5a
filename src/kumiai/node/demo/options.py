"""What the demo is asked for, and what follows from it: the sites, their data, the job."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kumiai.core.errors import ConfigError
from kumiai.node.datasets.files import load_heart
from kumiai.node.job import JobSpec, SecureAggregationSpec, parse_job

__all__ = ["DemoOptions", "DemoPlan", "new_plan"]

_STUDIES = ("digits", "heart")
_CLIENTS = 5
_SUM_LEAST = 3
_CLIENTS_MAX = 50
_ROUNDS_MAX = 10_000
_GRACE_SECONDS = 30.0
_DP_EPSILON, _DP_DELTA = 1.7, 1e-4
_DP_LEARNING_RATE = 2.5
_NO_NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What can be chosen.

    Attributes:
        study: ``digits`` or ``heart``.
        clients: how many sites; ``None``: five for digits, for heart its four hospitals.
        rounds: how many, >= 1.
        dirichlet: how unevenly the digits lie: the smaller, the more; heart's are what they are.
        seed: everything random derives from it, but for noise; >= 0.
        dp: whether noise hides every record; for heart, at three sites or more.
        exit: whether to end after the last table although a terminal looks on.
        json: whether to print one JSON document and nothing else.
        kill: whether to kill a client in the middle of a round.
        directory: keeps the federation's files; ``None``: they go with the demo.
        out: receives the model; ``None``: ``demo-model.safetensors`` in the working directory.
    """

    study: str = "digits"
    clients: int | None = None
    rounds: int = 20
    dirichlet: float = 0.3
    seed: int = 7
    dp: bool = False
    exit: bool = False
    json: bool = False
    kill: bool = True
    directory: Path | None = None
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What is going to be run.

    Attributes:
        app: reference of the study.
        sites: client to the ``data`` table of its settings.
        job: as it will be submitted.
        open_job: the same without noise, to compare with; ``None``: the job has none.
        victim: the client that is killed; ``None``: nobody.
        kill_after_round: it is killed in a round after this one.
        out: receives the model.
    """

    app: str
    sites: Mapping[str, Mapping[str, Any]]
    job: JobSpec
    open_job: JobSpec | None
    victim: str | None
    kill_after_round: int
    out: Path


def new_plan(options: DemoOptions) -> DemoPlan:
    """Return the plan.

    Raises:
        ConfigError: an option breaks its rule.
    """
    _verify(options)
    sites = _sites(options)
    names = list(sites)
    out = (options.out or Path("demo-model.safetensors")).absolute()
    if not out.parent.is_dir():
        raise ConfigError(f"out must be in a folder that exists, got {out}")
    job = _job(options, len(sites))
    return DemoPlan(
        app=f"kumiai.node.studies.{options.study}",
        sites=sites,
        job=job,
        open_job=_open_job(job),
        victim=names[len(names) // 2] if options.kill else None,
        # A round lasts a twentieth of a second: of a short run only the beginning is sure.
        kill_after_round=options.rounds // 3 if options.rounds >= 10 else 0,
        out=out,
    )


def _verify(options: DemoOptions) -> None:
    if options.study not in _STUDIES:
        raise ConfigError(f"study must be one of {', '.join(_STUDIES)}, got {options.study!r}")
    most = _CLIENTS_MAX if options.study == "digits" else len(load_heart().sites)
    if options.clients is not None and not 1 <= options.clients <= most:
        raise ConfigError(
            f"clients must be 1 to {most} for the study {options.study}, got {options.clients}"
        )
    if options.dp and (options.study != "heart" or (options.clients or most) < _SUM_LEAST):
        raise ConfigError(
            f"dp must be used with the study heart at {_SUM_LEAST} sites or more, got "
            f"{options.study} at {options.clients or most}"
        )
    if not 1 <= options.rounds <= _ROUNDS_MAX:
        raise ConfigError(f"rounds must be 1 to {_ROUNDS_MAX}, got {options.rounds}")
    if not (math.isfinite(options.dirichlet) and options.dirichlet > 0):
        raise ConfigError(f"dirichlet must be a number above 0, got {options.dirichlet}")
    if not 0 <= options.seed < 2**63:
        raise ConfigError(f"seed must be 0 to 2**63 - 1, got {options.seed}")


def _sites(options: DemoOptions) -> dict[str, dict[str, Any]]:
    if options.study == "heart":
        hospitals = load_heart().sites
        count, shared = options.clients or len(hospitals), {}
        names = list(hospitals) if count == len(hospitals) else _numbered(count)
    else:
        count = options.clients or _CLIENTS
        names, shared = _numbered(count), {"dirichlet": options.dirichlet, "seed": options.seed}
    return {
        name: {"partition": index, "partitions": count, **shared}
        for index, name in enumerate(names)
    }


def _numbered(count: int) -> list[str]:
    return [f"site-{number:0{len(str(count))}}" for number in range(1, count + 1)]


def _job(options: DemoOptions, clients: int) -> JobSpec:
    # With fewer, a sum would tell each site the other's update.
    is_hidden = clients >= _SUM_LEAST
    return parse_job(
        {
            "run": {
                "app": options.study,
                "name": f"demo-{options.study}",
                "rounds": options.rounds,
                "seed": options.seed,
            },
            "cohort": {
                "size": clients,
                # One may be missing, and is waited for a while.
                "min_reports": max(clients - 1, _SUM_LEAST if is_hidden else 1),
                "grace_seconds": _GRACE_SECONDS,
                "deadline_seconds": 4 * _GRACE_SECONDS,
            },
            "secure_aggregation": {"mode": "masking" if is_hidden else "none"},
            **(_private_tables(clients) if options.dp else {}),
        }
    )


def _private_tables(clients: int) -> dict[str, Any]:
    """Return what makes the run private: gradient descent on sums of patients, with noise."""
    hospitals = load_heart()
    # How many patients each hospital reported is published; so nothing is told by dividing by it.
    sizes = [int((hospitals.site == index).sum()) for index in range(len(hospitals.sites))]
    is_natural = clients == len(sizes)
    return {
        "strategy": {"name": "fedavgm", "momentum": 0.0, "learning_rate": _DP_LEARNING_RATE},
        "evaluation": {"every": 0},
        "privacy": {
            "unit": "record",
            "clip": 1.0,
            "epsilon": _DP_EPSILON,
            "delta": _DP_DELTA,
            "records": sum(sizes),
            "records_per_site": max(sizes) if is_natural else sum(sizes),
        },
    }


def _open_job(job: JobSpec) -> JobSpec | None:
    """Return a private job with next to no noise, to be simulated; ``None``: it has none anyway."""
    if job.privacy is None:
        return None
    quiet = {"epsilon": None, "noise_multiplier": _NO_NOISE}
    return job.model_copy(
        update={
            "privacy": job.privacy.model_copy(update=quiet),
            "secure_aggregation": SecureAggregationSpec(mode="masking", verification="off"),
        }
    )
