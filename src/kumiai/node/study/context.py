"""What a study's function knows besides the model: its task, its site's data, its randomness."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from kumiai.node.study.errors import TaskCancelledError
from kumiai.node.study.site import Site
from kumiai.privacy import PrivateTraining

__all__ = ["TEXT_LENGTH_MAX", "Context"]

TEXT_LENGTH_MAX = 200


class Context:
    """The second argument of ``train`` and ``evaluate``: one task at one site.

    Everything random in a study should come from ``rng``, or from a library seeded with ``seed``:
    then a task that is repeated after a crash gives the same update to the bit.
    """

    __slots__ = (
        "_cancelled",
        "_config",
        "_load_data",
        "_privacy",
        "_report",
        "_rng",
        "_round",
        "_rounds",
        "_seed",
        "_site",
    )

    def __init__(
        self,
        site: Site,
        *,
        load_data: Callable[[], Any],
        round: int = 1,  # noqa: A002  the field's plain word
        rounds: int = 1,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        report: Callable[[float, str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        privacy: PrivateTraining | None = None,
    ) -> None:
        """Build the context of one task; ``App.context`` does it with the app's own data.

        Args:
            site: where the task runs.
            load_data: returns the site's data; called when ``data`` is read, so it should cache.
            round: counts from 1; an evaluation of the initial model is round 0.
            rounds: how many rounds the run has.
            config: the job's ``train`` table merged with the strategy's client settings.
            seed: >= 0, the same for every attempt at this task.
            report: receives progress (0 to 1) and text; called in the study's
                thread. ``None``: nobody listens.
            cancelled: says whether the task was withdrawn; called in the study's
                thread. ``None``: it never is.
            privacy: the steps of a training whose noise is added here; ``None``: it has none.
        """
        self._site = site
        self._load_data = load_data
        self._round = round
        self._rounds = rounds
        self._config = MappingProxyType(dict(config or {}))
        self._seed = seed
        self._report = report
        self._cancelled = cancelled
        self._privacy = privacy
        self._rng = np.random.Generator(np.random.PCG64(seed))

    @property
    def site(self) -> str:
        """The client's id."""
        return self._site.name

    @property
    def round(self) -> int:
        """The round, counted from 1; 0 while the initial model is evaluated."""
        return self._round

    @property
    def rounds(self) -> int:
        """How many rounds the run has."""
        return self._rounds

    @property
    def config(self) -> Mapping[str, Any]:
        """The job's ``train`` table and the strategy's client settings such as ``proximal_mu``."""
        return self._config

    @property
    def data(self) -> Any:
        """What the app's data loader returned for this site; loaded once per process."""
        return self._load_data()

    @property
    def data_options(self) -> Mapping[str, Any]:
        """The ``data`` table of the client's settings."""
        return self._site.options

    @property
    def partition(self) -> int:
        """Which part of artificially split data this site holds; counts from 0."""
        return self._site.partition

    @property
    def partitions(self) -> int:
        """Into how many parts the data are split; 1 when they are not."""
        return self._site.partitions

    @property
    def seed(self) -> int:
        """The task's seed, the same for every attempt; for libraries with their own generators."""
        return self._seed

    @property
    def rng(self) -> np.random.Generator:
        """A generator seeded with ``seed`` (PCG64); one stream for the whole task."""
        return self._rng

    @property
    def privacy(self) -> PrivateTraining | None:
        """The steps by which to train, clipped and noised; ``None`` where no noise is added here.

        A job with ``noise = "local"`` sets it. An update that was not made by them never leaves.
        """
        return self._privacy

    @property
    def cancelled(self) -> bool:
        """Whether the task was withdrawn: its result is no longer wanted."""
        return self._cancelled is not None and self._cancelled()

    def check_cancelled(self) -> None:
        """Stop here if the task was withdrawn; call it between batches or epochs.

        Raises:
            TaskCancelledError: it was; let it pass.
        """
        if self.cancelled:
            raise TaskCancelledError(
                f"task of round {self._round} at site {self.site!r} was cancelled"
            )

    def report(self, progress: float, text: str = "") -> None:
        """Tell how far this task is.

        Args:
            progress: 0 to 1; what lies outside is moved to the nearer end.
            text: shown to people, cut at 200 characters; never put data into it.

        Raises:
            ValueError: ``progress`` is not a number.
        """
        if math.isnan(progress):
            raise ValueError("progress must be a number from 0 to 1, got nan")
        if self._report is not None:
            self._report(min(max(float(progress), 0.0), 1.0), text[:TEXT_LENGTH_MAX])
