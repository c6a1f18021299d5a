"""What a federated result is compared with: each site alone, and all data in one place.

Both train the same model with the same functions and settings for as many rounds as the federated
run, and both are measured as that is: on every site's held-out rows, weighted by their number.
This needs all sites' data in one process, so it is for demonstrations and benchmarks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kumiai.core.arrays import NamedArrays
from kumiai.node.datasets import SiteData
from kumiai.node.study import App, Context, Site, initial_model, run_evaluate, run_train

__all__ = ["Baselines", "baselines", "measured_everywhere"]


@dataclass(frozen=True, slots=True)
class Baselines:
    """Two yardsticks, in one metric.

    Attributes:
        metric: its name.
        local: site to the value that its own model reaches on the held-out rows of all sites.
        pooled: the value of one model trained on all sites' rows together.
    """

    metric: str
    local: Mapping[str, float]
    pooled: float

    @property
    def local_mean(self) -> float:
        """The unweighted mean over the sites."""
        return sum(self.local.values()) / len(self.local)


def baselines(
    app: App,
    sites: Sequence[Site],
    *,
    rounds: int,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    metric: str = "accuracy",
) -> Baselines:
    """Train each site alone and all together, and return how well they do everywhere.

    Args:
        app: a study whose loader returns ``SiteData``.
        sites: all sites of the federation.
        rounds: as many as the federated run has, >= 1.
        config: the job's ``train`` table.
        seed: of the run.
        metric: one that the study's ``evaluate`` returns.

    Raises:
        StudyError: the study failed.
        ValueError: there are no sites, or no site returned ``metric``.
    """
    if not sites:
        raise ValueError("sites must be at least one, got none")
    data = {site.name: app.data_of(site) for site in sites}
    trainer = _Trainer(app, sites, rounds, dict(config or {}), seed, metric)
    local = {
        site.name: trainer.value_of(site, data[site.name], stream)
        for stream, site in enumerate(sites)
    }
    together = _together(list(data.values()))
    pooled = trainer.value_of(Site("pooled"), together, len(sites))
    return Baselines(metric, local, pooled)


def measured_everywhere(
    app: App,
    sites: Sequence[Site],
    weights: NamedArrays,
    *,
    config: Mapping[str, Any],
    metric: str = "accuracy",
) -> float:
    """Return a model's metric on every site's held-out rows, weighted by their number.

    Args:
        app: a study whose loader returns ``SiteData``.
        sites: all sites of the federation.
        weights: the model.
        config: the job's ``train`` table.
        metric: one that the study's ``evaluate`` returns.

    Raises:
        StudyError: the study failed.
        ValueError: no site returned ``metric``.
    """
    results = [run_evaluate(app, weights, app.context(site, config=config)) for site in sites]
    pairs = [(r.examples, r.metrics[metric]) for r in results if metric in r.metrics]
    if not pairs:
        raise ValueError(f"metric must be one that the study returns, got {metric!r}")
    examples, values = zip(*pairs, strict=True)
    return float(np.average(values, weights=examples))


@dataclass(frozen=True, slots=True)
class _Trainer:
    app: App
    sites: Sequence[Site]
    rounds: int
    config: Mapping[str, Any]
    seed: int
    metric: str

    def value_of(self, site: Site, data: SiteData, stream: int) -> float:
        weights: NamedArrays = initial_model(self.app, self.config, seed=self.seed)
        for number in range(1, self.rounds + 1):
            words = np.random.SeedSequence([self.seed, stream, number]).generate_state(1, np.uint64)
            context = Context(
                site,
                load_data=lambda: data,
                round=number,
                rounds=self.rounds,
                config=self.config,
                seed=int(words[0]),
            )
            weights = run_train(self.app, weights, context).weights
        return measured_everywhere(
            self.app, self.sites, weights, config=self.config, metric=self.metric
        )


def _together(parts: Sequence[SiteData]) -> SiteData:
    return SiteData(
        np.concatenate([part.x_train for part in parts]),
        np.concatenate([part.y_train for part in parts]),
        np.concatenate([part.x_test for part in parts]),
        np.concatenate([part.y_test for part in parts]),
        features=parts[0].features,
        classes=parts[0].classes,
    )
