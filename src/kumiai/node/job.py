"""The job: everything that a run is told, as one validated value.

A job is data, never code: it names the study (``app``) that the sites have installed, and says
how many rounds to run, with whom, for how long and with which strategy. It is read from TOML by
the command line, travels as JSON, and stands in the run's row as it was submitted.
"""

import math
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kumiai.core.errors import ConfigError
from kumiai.core.ids import verify_name
from kumiai.learning import STRATEGY_NAMES, Strategy, new_strategy

__all__ = [
    "AdaptiveClipSpec",
    "AsynchronousSpec",
    "CohortSpec",
    "EvaluationSpec",
    "JobSpec",
    "PrivacySpec",
    "RunSpec",
    "SecureAggregationSpec",
    "StrategySpec",
    "TrainValue",
    "parse_job",
    "parse_job_toml",
]

TrainValue = bool | int | float | str
_TRAIN_ENTRIES_MAX = 64
_HIDDEN_LEAST = 3


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunSpec(_Table):
    """What is trained, and for how long."""

    app: str
    name: str = ""
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    keep_versions: Annotated[int, Field(ge=1)] = 5
    """How many of the newest model versions keep their bytes; the first and last always do."""

    @field_validator("app")
    @classmethod
    def _names_a_study(cls, value: str) -> str:
        if not value:
            raise ValueError("must name a study that the sites have installed, got ''")
        return _name(value)

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return value and _name(value)


class CohortSpec(_Table):
    """Who takes part in a round, and how long it waits for them."""

    size: Annotated[int, Field(ge=1)] | None = None
    """Reports wanted a round; ``None`` takes every client that is attached."""
    over_selection: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Extra clients asked, as a fraction of ``size``; the round ends when ``size`` reported."""
    min_clients: Annotated[int, Field(ge=1)] = 1
    """A round does not begin before this many clients are attached."""
    min_reports: Annotated[int, Field(ge=1)] | None = None
    """The quorum; ``None`` means two thirds of the reports wanted, rounded up."""
    deadline_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] = 600.0
    grace_seconds: Annotated[float, Field(ge=0, le=86400)] = 10.0
    """How long the round stays open for the others once the quorum stands."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a round's deadline is set anew when it missed its quorum."""
    patience_seconds: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """How long a run waits for enough clients to attach before it fails."""

    def quorum(self, target_reports: int) -> int:
        """Return how many reports a round of this target needs."""
        return self.min_reports or math.ceil(2 * target_reports / 3)

    @model_validator(mode="after")
    def _quorum_fits(self) -> Self:
        if self.size is not None and (self.min_reports or 0) > self.size:
            raise ValueError(
                f"min_reports must be at most size ({self.size}), got {self.min_reports}"
            )
        return self


class StrategySpec(BaseModel):
    """The aggregation strategy by name; the other keys are its parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str = "fedavg"
    weighting: Literal["examples", "uniform"] = "examples"

    def build(self) -> Strategy:
        """Return the strategy.

        Raises:
            ConfigError: the name or a parameter is wrong.
        """
        return new_strategy(self.name, dict(self.model_extra or {}))

    @field_validator("name")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in STRATEGY_NAMES:
            raise ValueError(f"must be one of {', '.join(STRATEGY_NAMES)}, got {value!r}")
        return value

    @model_validator(mode="after")
    def _builds(self) -> Self:
        try:
            self.build()
        except ConfigError as error:
            raise ValueError(str(error).removeprefix(f"{self.name}.")) from None
        return self


class EvaluationSpec(_Table):
    """Federated evaluation, and the coordinator's own if it has data."""

    every: Annotated[int, Field(ge=0)] = 1
    """Evaluate each so many rounds, and the last; 0 never."""
    central: bool = False
    """Evaluate at the coordinator too; it must have the app installed."""
    deadline_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] = 120.0
    """How long the last evaluation waits for the clients."""

    def is_due(self, round_number: int, rounds_total: int) -> bool:
        """Return whether the model that this round published is evaluated."""
        return self.every > 0 and (round_number % self.every == 0 or round_number == rounds_total)


class SecureAggregationSpec(_Table):
    """Whether the coordinator sees updates, or their sum alone."""

    mode: Literal["none", "masking", "paillier"] = "none"
    """``masking``: the coordinator learns the sum of a round's updates and no single one;
    ``paillier``: the same while it follows the protocol and no client helps it."""
    verification: Literal["sum", "norm", "off"] = "sum"
    """``sum``: every client checks the sum against what all committed to; ``norm``: and each update
    is proven to keep ``norm_bound``; ``off``: neither, against an honest coordinator alone."""
    clip: Annotated[float, Field(gt=0, le=1e6)] = 4.0
    """The largest magnitude of a number of an update; what is larger is cut to it."""
    value_bits: Annotated[int, Field(ge=2, le=24)] = 16
    """How finely an update is quantised: so many bits a number, its sign among them."""
    ring_bits: Literal[32, 64] = 32
    """Bits that each number takes on the wire; what is left above ``value_bits`` is for weights."""
    norm_bound: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """The largest L2 norm of an update; for ``verification = "norm"``."""
    examples_per_weight: Annotated[int, Field(ge=1, lt=2**31)] = 1
    """Examples that count as one when updates are weighted by them; more for very large sites."""
    colluders: Annotated[int, Field(ge=0)] | None = None
    """How many clients may work for a lying coordinator; ``None``: a fifth of those asked."""
    threshold: Annotated[int, Field(ge=2)] | None = None
    """How many clients are needed to unmask; ``None``: the fewest that ``colluders`` allows."""
    rerun_size: Annotated[int, Field(ge=0, le=4096)] | None = None
    """Clients in the smallest group that is summed apart when a sum is wrong; 0: none is; ``None``:
    the fewest that ``colluders`` allows."""
    phase_seconds: Annotated[float, Field(gt=0, le=86400)] = 30.0
    """How long each exchange of messages before and after the training waits for a client."""
    key_bits: Literal[2048, 3072, 4096] | None = None
    """How long the key of ``paillier`` is; ``None``: 3072."""

    @model_validator(mode="after")
    def _fits_the_mode(self) -> Self:
        if self.mode != "paillier":
            if self.key_bits is not None:
                raise ValueError(
                    f'key_bits must be left out with mode = "{self.mode}", got {self.key_bits}; it '
                    'is for mode = "paillier"'
                )
            return self
        if self.colluders:
            raise ValueError(
                f'colluders must be 0 with mode = "paillier", got {self.colluders}: a client that '
                'helps the coordinator opens every update; use mode = "masking"'
            )
        if self.ring_bits != 32:
            raise ValueError(
                f'ring_bits must be 32 with mode = "paillier", got {self.ring_bits}; raise '
                'examples_per_weight, or use mode = "masking"'
            )
        return self

    @model_validator(mode="after")
    def _norm_has_a_bound(self) -> Self:
        if (self.verification == "norm") is not (self.norm_bound is not None):
            raise ValueError(
                'norm_bound must be given with verification = "norm", and with no other, '
                f"got {_shown(self.norm_bound)} with {self.verification!r}"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Whether updates are hidden."""
        return self.mode != "none"


class AdaptiveClipSpec(_Table):
    """How the clip follows the norms of the updates, from round to round."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The part of the updates that shall be within the clip."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    """How far the clip's logarithm moves in a round, for each whole that the part is off."""
    clip_min: Annotated[float, Field(gt=0, le=1e6)] = 1e-6
    """It never falls below this."""
    clip_max: Annotated[float, Field(gt=0, le=1e6)] = 1e6
    """It never rises above this."""


class AsynchronousSpec(_Table):
    """Rounds of those who are ready: nobody waits for a slower client."""

    group_size: Annotated[int, Field(ge=1, le=4096)]
    """As soon as so many clients hold an update, theirs make the next version of the model."""
    staleness_max: Annotated[int, Field(ge=0, le=10_000)] = 20
    """How many versions an update may be behind; a client further behind begins anew."""
    staleness_exponent: Annotated[float, Field(ge=0, le=4)] = 0.5
    """An update that is s versions behind counts (1 + s) to minus this; 0: all count the same."""
    deadline_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] = 86400.0
    """How long a client may train; its training is ended then, and it is asked anew."""


class PrivacySpec(_Table):
    """Differential privacy: what is hidden, how far, and what it may cost."""

    unit: Literal["record", "client"]
    """Whose part is hidden: each record's of a site, or all of a client's. There is no default:
    the two promise different things."""
    noise: Literal["distributed", "central", "local"] = "distributed"
    """Where the noise is added. ``distributed``: every site adds its share before its update is
    masked, and nobody ever has a sum without noise; ``central``: the coordinator, which sees the
    updates and is trusted with them, adds it to their sum; ``local``: every site, to each step of
    its training."""
    clip: Annotated[float, Field(gt=0, le=1e6)]
    """The L2 norm to which each record's gradient, or each client's update, is cut."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """The epsilon is stated at this delta; below one over the number of units."""
    epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None
    """What all rounds together may cost; the noise follows from it."""
    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """The standard deviation of the noise, divided by the clip; instead of ``epsilon``."""
    records: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """How many records all sites have, by public knowledge: the sum is divided by it; for
    ``unit = "record"``."""
    records_per_site: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """No site has more; ``None``: as many as ``records``. With ``noise = "local"`` the size of a
    site by which its steps are divided."""
    steps: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """How many steps of training a site takes in a round; for ``noise = "local"``."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """The chance of each record to join a step, by a coin that nobody sees; for
    ``noise = "local"``."""
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Of those steps, where the study gives gradients; ``None``: 0.1."""
    separation: Annotated[int, Field(ge=2, le=64)] | None = None
    """How many rounds later a client takes part again at the earliest; with ``noise = "central"``
    the noise of a round then takes back some of that of those before it; ``None``: it may take part
    in every round."""
    adaptive: AdaptiveClipSpec | None = None
    """Lets ``clip`` be only the first round's; ``None``: it is that of all. For
    ``noise = "central"``."""

    @model_validator(mode="after")
    def _is_one_promise(self) -> Self:
        if (self.epsilon is None) is (self.noise_multiplier is None):
            raise ValueError(
                "epsilon must be given or else noise_multiplier, got "
                + ("nothing" if self.epsilon is None else "both")
            )
        if (self.unit == "record") is (self.records is None):
            raise ValueError(
                f'records must be given with unit = "record" and with no other, got '
                f"{_shown(self.records)} with {self.unit!r}"
            )
        if self.records_per_site is not None and self.records_per_site > (self.records or 0):
            rule = (
                f"at most records ({self.records})" if self.records else "left out without records"
            )
            raise ValueError(f"records_per_site must be {rule}, got {self.records_per_site}")
        return self

    @model_validator(mode="after")
    def _fits_where_the_noise_is_added(self) -> Self:
        if self.noise == "central" and self.unit != "client":
            raise ValueError(
                f'unit must be "client" with noise = "central", got "{self.unit}": what sites send '
                'is an update of all of their records; use noise = "distributed"'
            )
        self._verify_steps()
        self._verify_separation()
        if self.adaptive is None:
            return self
        if self.noise != "central":
            raise ValueError(
                f'adaptive must be left out with noise = "{self.noise}": how many updates are '
                'within the clip is counted with noise = "central" alone'
            )
        if not self.adaptive.clip_min <= self.clip <= self.adaptive.clip_max:
            raise ValueError(
                f"clip must be from adaptive.clip_min to adaptive.clip_max "
                f"({self.adaptive.clip_min:g} to {self.adaptive.clip_max:g}), got {self.clip:g}"
            )
        return self

    def _verify_separation(self) -> None:
        if self.separation is None:
            return
        if self.noise != "central":
            raise ValueError(
                f'separation must be left out with noise = "{self.noise}", got {self.separation}; '
                'it is for noise = "central"'
            )
        if self.adaptive is not None:
            raise ValueError(
                "adaptive must be left out with separation: noise that takes back that of another "
                "round must be of the same clip"
            )

    def _verify_steps(self) -> None:
        if self.noise != "local":
            for name in ("steps", "sampling_rate", "learning_rate"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(
                        f'{name} must be left out with noise = "{self.noise}", got {value:g}; it '
                        'is for noise = "local"'
                    )
            return
        if self.unit != "record":
            raise ValueError(
                f'unit must be "record" with noise = "local", got "{self.unit}": a site hides its '
                "records by itself, and could hide itself only by noise that drowns its update; "
                'use noise = "distributed"'
            )
        for name in ("steps", "sampling_rate", "records_per_site"):
            if getattr(self, name) is None:
                raise ValueError(f'{name} must be given with noise = "local", got nothing')


class JobSpec(_Table):
    """A whole job."""

    run: RunSpec
    cohort: CohortSpec = CohortSpec()
    strategy: StrategySpec = StrategySpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    asynchronous: AsynchronousSpec | None = None
    """``None``: each round asks its clients to train, and waits for them."""
    secure_aggregation: SecureAggregationSpec = SecureAggregationSpec()
    privacy: PrivacySpec | None = None
    """``None``: no noise; what a model tells about those whose data it saw has no bound."""
    train: dict[str, TrainValue] = {}
    """Handed to the study as ``context.config``."""
    examples_max: Annotated[int, Field(ge=1, lt=2**53)] = 1_000_000_000
    """An update that claims more training examples than this is refused."""

    @model_validator(mode="after")
    def _nothing_leaks_beside_the_noise(self) -> Self:
        if self.privacy is None:
            return self
        match self.privacy.noise:
            case "central":
                self._verify_central()
            case "distributed":
                self._verify_distributed()
            case "local":
                pass  # what leaves a site is noised, hidden or not
        if self.evaluation.every > 0:
            raise ValueError(
                f"evaluation.every must be 0 with privacy, got {self.evaluation.every}: what sites "
                "measure on their data would leave them without noise; evaluate at the coordinator"
            )
        return self

    def _verify_central(self) -> None:
        if self.secure_aggregation.is_on:
            raise ValueError(
                'secure_aggregation.mode must be "none" with privacy.noise = "central", got '
                f'"{self.secure_aggregation.mode}": the coordinator adds noise to a sum that it '
                "sees; to hide updates from it, leave privacy.noise out"
            )
        if self.cohort.size is None:
            raise ValueError(
                'cohort.size must be given with privacy.noise = "central": the sum is divided by '
                "it, whoever comes"
            )

    def _verify_distributed(self) -> None:
        if not self.secure_aggregation.is_on:
            raise ValueError(
                'secure_aggregation.mode must be "masking" with privacy, got "none": each site '
                "adds only a share of the noise"
            )
        if self.secure_aggregation.verification == "norm":
            raise ValueError(
                'secure_aggregation.verification must be "sum" or "off" with privacy, got "norm": '
                "noise makes an update larger than its bound"
            )

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.asynchronous is None:
            return self
        cohort, size = self.cohort, self.asynchronous.group_size
        if cohort.size is not None or cohort.over_selection:
            raise ValueError(
                "cohort.size and cohort.over_selection must be left out with asynchronous: whoever "
                "is ready takes part, in groups of asynchronous.group_size"
            )
        if (cohort.min_reports or 0) > size:
            raise ValueError(
                f"cohort.min_reports must be at most asynchronous.group_size ({size}), got "
                f"{cohort.min_reports}"
            )
        if self.secure_aggregation.is_on and size < _HIDDEN_LEAST:
            raise ValueError(
                f"asynchronous.group_size must be at least {_HIDDEN_LEAST} where updates are "
                f"hidden, got {size}: the sum of fewer tells a client the others'"
            )
        if self.privacy is not None:
            raise ValueError(
                "asynchronous must be left out with privacy: an update that counts less or more "
                "by its age would have another share of noise than was paid for; where sites are "
                "slow, lower cohort.min_reports and cohort.grace_seconds"
            )
        return self

    @field_validator("train", mode="before")
    @classmethod
    def _train_is_plain(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            # ValueError throughout: pydantic turns no other error into a problem with a key.
            raise ValueError(f"must be a table, got {type(value).__name__}")  # noqa: TRY004
        if len(value) > _TRAIN_ENTRIES_MAX:
            raise ValueError(f"must have at most {_TRAIN_ENTRIES_MAX} entries, got {len(value)}")
        for key, entry in value.items():
            if not isinstance(entry, bool | int | float | str):
                raise ValueError(  # noqa: TRY004
                    f"{key} must be a number, a string or a boolean, got {type(entry).__name__}"
                )
            if isinstance(entry, float) and not math.isfinite(entry):
                raise ValueError(f"{key} must be finite, got {entry}")
        return value


def parse_job(data: Mapping[str, Any]) -> JobSpec:
    """Return the job that ``data`` describes.

    Raises:
        ConfigError: one line per problem, each with the key and the mend.
    """
    try:
        return JobSpec.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_problem_lines(error))) from None


def parse_job_toml(text: str, *, source: str) -> JobSpec:
    """Return the job written in a TOML text.

    Args:
        text: the file's content.
        source: the file's name, for the messages.

    Raises:
        ConfigError: the text is no TOML, or no job; the message names source, key and problem.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} must be valid TOML: {error}") from None
    try:
        return parse_job(data)
    except ConfigError as error:
        raise ConfigError(
            "\n".join(f"{source}: {line}" for line in str(error).split("\n"))
        ) from None


def _problem_lines(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in problem["loc"] if part not in {"bool", "int", "str"})
        match problem["type"]:
            case "extra_forbidden":
                lines.append(f"{key} must be removed: no such key")
            case "missing":
                lines.append(f"{key} must be given")
            case "value_error":
                lines.append(_with_key(key, problem["msg"].removeprefix("Value error, ")))
            case _:
                rule = problem["msg"].removeprefix("Input should be ")
                lines.append(f"{key} must be {rule}" + f", got {problem['input']!r}"[:200])
    return lines


def _with_key(key: str, message: str) -> str:
    """Return one of our own messages with its whole key in front, once."""
    if message.startswith("must "):
        return f"{key} {message}"
    if not key:
        return message
    _, _, rest = message.partition(" ")
    return f"{key}.{message}" if rest.startswith("must ") else f"{key}: {message}"


def _shown(value: object) -> object:
    return "nothing" if value is None else value


def _name(value: str) -> str:
    # pydantic turns ValueError, and only that, into a problem with a key.
    try:
        return verify_name("name", value)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("name ")) from None
