"""What a round of secure aggregation is: everything on which both sides must agree, in one value.

Its digest, the ``context``, goes into every signature, derived key and sealed share of the round:
whoever has another idea of the round cannot take part in it. A descriptor that could not keep
what it promises cannot be made.
"""

import hashlib
import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from kumiai.core.errors import SecureAggregationError
from kumiai.crypto.norm_statement import largest_norm_weight
from kumiai.secagg.parameters import PRIVACY_LOG2, Adversary, privacy_failure_log2
from kumiai.secagg.wire import (
    Codec,
    blob,
    choice,
    fixed,
    increasing,
    number,
    real,
    record,
    text,
)

__all__ = [
    "CLIENT_COUNT_MAX",
    "COMPLETE_COUNT_MAX",
    "DIMENSION_MAX",
    "KEY_BITS",
    "PAILLIER_DIMENSION_MAX",
    "PROTOCOL_VERSION",
    "SURVIVORS_LEAST",
    "Member",
    "Proofs",
    "RoundDescriptor",
    "Scheme",
]

PROTOCOL_VERSION: Final = 2
CLIENT_COUNT_MAX: Final = 4096
COMPLETE_COUNT_MAX: Final = 200
DIMENSION_MAX: Final = 1 << 32
KEY_BITS: Final = (2048, 3072, 4096)
"""How long a Paillier key may be: 112, 128 and about 150 bits of security."""
PAILLIER_DIMENSION_MAX: Final = 2_000_000
"""The decrypted sum comes back in one message; and larger ones would take hours to decrypt."""
SURVIVORS_LEAST: Final = 3
"""With two, each learns the other's update from the sum."""
_COORDINATORS_MAX: Final = 16
_NAME_SIZE_MAX: Final = 128
_KEY_SIZE_MAX: Final = 512
_SCALE_MAX: Final = 1 << 16
_NORM_STEPS_MAX: Final = 2.0**128
_NOISE_VARIANCE_MAX: Final = 1 << 51
_NOISE_DEVIATIONS: Final = 12
"""Noise beyond so many standard deviations does not happen; Gaussian noise: 2^-108."""
_CONTEXT_DOMAIN: Final = b"kumiai/secagg/round/v1/"


class Scheme(Enum):
    """What hides the updates."""

    MASKING = "masking"
    """Masks that cancel; against a coordinator that lies and clients that help it."""
    PAILLIER = "paillier"
    """A key that the clients share and the coordinator has not; nobody may lie or tell it."""


class Proofs(Enum):
    """What is proven about the hidden updates."""

    OFF = "off"
    """Nothing: the sum is what the coordinator says."""
    SUM = "sum"
    """That the published sum is the one of the updates committed to."""
    NORM = "norm"
    """That, and that each update's norm keeps the bound."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who takes part.

    Attributes:
        name: unique in its list.
        verification_key: what checks its signatures, in the form that the verifier reads.
        scale: by how much its weight is multiplied, public; 1 in synchronous rounds.
    """

    name: str
    verification_key: bytes
    scale: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundDescriptor:
    """One round.

    Attributes:
        run_id: the run it belongs to.
        round_number: which of the run's rounds.
        round_id: 16 random bytes, never used before; a round begun again has a new one.
        coordinators: who may speak for the coordinator (its replicas), by name.
        roster: the clients, by name.
        threshold: how many shares rebuild a secret, and how many clients must agree.
        minimum_survivors: with fewer updates there is no sum.
        adversary: what the coordinator may do.
        colluders: how many clients may work for it.
        degree: neighbours of each client; 0: all.
        dimension: how many numbers an update has.
        ring_bits: 32 or 64; sums are modulo 2 to this power.
        clip: the largest magnitude of a number, > 0.
        value_bits: how many bits a quantised number has, its sign among them.
        weight_bound: the largest weight that a client may give its update.
        norm_bound: the largest L2 norm of an update.
        proofs: what is proven.
        rerun_size: clients in the smallest group that is summed apart when the sum is not that of
            the commitments; 0: no group is.
        noise_variance: of the Skellam noise that each client adds to each number, in squared steps,
            an even number; 0: none.
        scheme: what hides the updates.
        key_bits: of the Paillier key; 0 with masks.

    Raises:
        SecureAggregationError: a field is out of its range, or the fields together cannot give
            an exact sum or keep a secret; names field, value and mend.
    """

    run_id: str
    round_number: int
    round_id: bytes
    coordinators: tuple[Member, ...]
    roster: tuple[Member, ...]
    threshold: int
    minimum_survivors: int
    adversary: Adversary
    colluders: int
    degree: int
    dimension: int
    ring_bits: int
    clip: float
    value_bits: int
    weight_bound: int
    norm_bound: float
    proofs: Proofs
    rerun_size: int = 0
    noise_variance: int = 0
    scheme: Scheme = Scheme.MASKING
    key_bits: int = 0

    def __post_init__(self) -> None:
        """Check every field, then what they mean together."""
        try:
            self.encode()
        except ValueError as error:
            raise SecureAggregationError(str(error)) from error
        self._verify_counts()
        self._verify_exact()
        self._verify_norm()
        self._verify_rerun()
        self._verify_noise()
        if self.scheme is Scheme.PAILLIER:
            self._verify_paillier()
        else:
            _verify(
                self.key_bits == 0,
                f"key_bits must be 0 with masks, got {self.key_bits}; leave it out",
            )
        if self.degree:
            self._verify_sparse()
        else:
            self._verify_complete()

    @property
    def client_count(self) -> int:
        """How many clients are invited."""
        return len(self.roster)

    @property
    def quorum(self) -> int:
        """How many clients must confirm a sum, so that no two sums can be confirmed."""
        if not self.degree:
            return self.threshold
        return min(self.minimum_survivors, (self.client_count + self.colluders) // 2 + 1)

    @property
    def levels(self) -> int:
        """The largest quantised number; `clip` is quantised to it."""
        return (1 << (self.value_bits - 1)) - 1

    @property
    def noised_levels(self) -> int:
        """The largest number that a client sends: a quantised one with its noise."""
        return self.levels + math.ceil(_NOISE_DEVIATIONS * math.sqrt(self.noise_variance))

    @property
    def noised_bits(self) -> int:
        """How many bits such a number has, its sign among them."""
        return self.noised_levels.bit_length() + 1

    @property
    def bound_squared(self) -> int:
        """What the squared norm of a quantised update may reach.

        Rounding moves a number by half a step on average, so that an honest client's quantised
        update lies within; one that does not is rounded towards zero instead.
        """
        return int((self._norm_steps + math.sqrt(self.dimension) / 2) ** 2)

    @property
    def provable_weight(self) -> int:
        """The largest weight with which a norm can be proven; 0: none can."""
        return largest_norm_weight(dimension=self.dimension, bound_squared=self.bound_squared)

    @property
    def upload_words(self) -> int:
        """How many ring words an upload has: the numbers and the weight."""
        return self.dimension + 1

    def index_of(self, name: str) -> int:
        """Return a client's place in the roster.

        Raises:
            SecureAggregationError: it is not in the roster.
        """
        for index, member in enumerate(self.roster):
            if member.name == name:
                return index
        raise SecureAggregationError(f"client must be in the round's roster, got {name!r}")

    def encode(self) -> bytes:
        """Return the one form of this round as bytes."""
        return _DESCRIPTOR.write(self)

    @classmethod
    def decode(cls, data: bytes) -> "RoundDescriptor":
        """Return the round that the bytes stand for.

        Raises:
            SecureAggregationError: they stand for none, or for one that must not be.
        """
        return _DESCRIPTOR.decode(data)

    def context(self) -> bytes:
        """Return 32 bytes that stand for this round and no other."""
        return hashlib.sha256(_CONTEXT_DOMAIN + self.encode()).digest()

    def _verify_counts(self) -> None:
        keys = [member.verification_key for member in (*self.roster, *self.coordinators)]
        _verify(
            len(set(keys)) == len(keys),
            "roster must have a verification key of its own for each member, got one twice; "
            "let each member make its own key",
        )
        _verify(
            bool(self.coordinators), "coordinators must hold at least one, got none; name yours"
        )
        _verify(
            SURVIVORS_LEAST <= self.minimum_survivors <= self.client_count,
            f"minimum_survivors must be {SURVIVORS_LEAST} to the {self.client_count} clients of "
            f"the roster, got {self.minimum_survivors}; with fewer than {SURVIVORS_LEAST} updates "
            "the sum tells a client the others'; invite more clients",
        )
        _verify(
            self.colluders < self.threshold,
            f"colluders must be fewer than the threshold {self.threshold}, got {self.colluders}; "
            "together they could rebuild every secret: raise threshold",
        )
        _verify(
            self.minimum_survivors >= self.colluders + 2,
            f"minimum_survivors must be at least {self.colluders + 2}, two more than colluders, "
            f"got {self.minimum_survivors}; else the sum tells colluders the only other update: "
            "raise minimum_survivors",
        )

    def _verify_exact(self) -> None:
        weight = self.weight_bound * sum(member.scale for member in self.roster)
        bits = self.noised_bits
        needed = bits + (weight - 1).bit_length()
        _verify(
            self.ring_bits in {32, 64}, f"ring_bits must be 32 or 64, got {self.ring_bits}; use 32"
        )
        _verify(
            self.ring_bits >= needed,
            f"ring_bits must be at least {needed}, got {self.ring_bits}: {bits} bits of "
            f"value_bits and noise, and {needed - bits} for weights of up to {weight} in all; "
            "lower value_bits or weight_bound, or use 64",
        )

    def _verify_noise(self) -> None:
        _verify(
            self.noise_variance % 2 == 0,
            f"noise_variance must be an even number, got {self.noise_variance}; add one",
        )
        if not self.noise_variance:
            return
        scale = max(member.scale for member in self.roster)
        _verify(
            self.weight_bound == 1 and scale == 1,
            f"weight_bound must be 1 in a round with noise, and every scale, got "
            f"{self.weight_bound} and {scale}; a weight would multiply the noise",
        )
        _verify(
            self.proofs is not Proofs.NORM,
            "proofs must be sum or off in a round with noise, got norm: an update with noise in it "
            "is larger than its bound",
        )

    def _verify_rerun(self) -> None:
        least = max(SURVIVORS_LEAST, self.colluders + 2)
        _verify(
            self.rerun_size == 0 or self.rerun_size >= least,
            f"rerun_size must be 0 or at least {least}, got {self.rerun_size}; else the sum of a "
            "group tells colluders the only other update: raise rerun_size",
        )
        _verify(
            self.rerun_size == 0
            or (
                self.proofs is not Proofs.OFF
                and self.scheme is Scheme.MASKING
                and self.noise_variance == 0
            ),
            "rerun_size must be 0 without proofs, with scheme paillier and with noise, "
            f"got {self.rerun_size}; leave it out",
        )

    @property
    def _norm_steps(self) -> float:
        return self.norm_bound * self.levels / self.clip

    def _verify_norm(self) -> None:
        _verify(
            self._norm_steps < _NORM_STEPS_MAX,
            f"norm_bound must be less than 2^128 steps of the quantisation, got {self.norm_bound} "
            f"with {self.value_bits} value_bits and a clip of {self.clip}; lower it, or raise clip",
        )
        if self.proofs is not Proofs.NORM:
            return
        provable = self.provable_weight
        _verify(
            provable > 0,
            f"norm_bound must be provable for {self.dimension} numbers, got {self.norm_bound} with "
            f"{self.value_bits} value_bits and a clip of {self.clip}; lower norm_bound or "
            "value_bits, or raise clip",
        )
        weight = self.weight_bound * max(member.scale for member in self.roster)
        _verify(
            weight <= provable,
            f"weight_bound must be at most {provable} in all for norms to be provable, got "
            f"{weight} with a norm_bound of {self.norm_bound}; lower weight_bound or norm_bound",
        )

    def _verify_paillier(self) -> None:
        _verify(
            self.key_bits in KEY_BITS,
            f"key_bits must be one of {', '.join(map(str, KEY_BITS))}, got {self.key_bits}; use "
            "3072",
        )
        _verify(
            self.adversary is Adversary.SEMI_HONEST and self.colluders == 0,
            f"colluders must be 0 with scheme paillier, and the adversary semi-honest, got "
            f"{self.colluders} and {self.adversary.value}; a client that helps the coordinator "
            "opens every update with the key that all share: use masking",
        )
        _verify(
            self.degree == 0 and self.client_count <= COMPLETE_COUNT_MAX,
            f"roster must have at most {COMPLETE_COUNT_MAX} clients with scheme paillier, and "
            f"degree be 0, got {self.client_count} and {self.degree}; use masking",
        )
        _verify(
            self.ring_bits == 32,
            f"ring_bits must be 32 with scheme paillier, got {self.ring_bits}; lower value_bits or "
            "weight_bound, or use masking",
        )
        _verify(
            self.dimension <= PAILLIER_DIMENSION_MAX,
            f"dimension must be at most {PAILLIER_DIMENSION_MAX} with scheme paillier, got "
            f"{self.dimension}; use masking",
        )
        needed = self.client_count // 2 + 1
        _verify(
            self.threshold >= needed,
            f"threshold must be at least {needed} with scheme paillier, got {self.threshold}; two "
            "parts of the clients could each agree to a sum: raise threshold",
        )

    def _verify_complete(self) -> None:
        _verify(
            self.client_count <= COMPLETE_COUNT_MAX,
            f"degree must be given for more than {COMPLETE_COUNT_MAX} clients, got 0 for "
            f"{self.client_count}; take it from smallest_graph",
        )
        _verify(
            self.threshold <= self.minimum_survivors,
            f"threshold must be at most minimum_survivors {self.minimum_survivors}, got "
            f"{self.threshold}; with fewer left no secret could be rebuilt: raise that",
        )
        needed = (self.client_count + self.colluders) // 2 + 1
        _verify(
            self.adversary is Adversary.SEMI_HONEST or self.threshold >= needed,
            f"threshold must be at least {needed} against a malicious coordinator with "
            f"{self.colluders} of {self.client_count} clients, got {self.threshold}; it could let "
            "two parts of the clients rebuild both secrets of one: raise threshold",
        )

    def _verify_sparse(self) -> None:
        _verify(
            self.degree % 2 == 0 and self.degree < self.client_count,
            f"degree must be even and below the {self.client_count} clients, got {self.degree}; "
            "take it from smallest_graph, or 0 for all",
        )
        _verify(
            self.threshold <= self.degree,
            f"threshold must be at most degree {self.degree}, got {self.threshold}; take both "
            "from smallest_graph",
        )
        dropouts = self.client_count - self.minimum_survivors
        failure = privacy_failure_log2(
            self.client_count,
            colluders=self.colluders,
            dropouts=dropouts,
            degree=self.degree,
            threshold=self.threshold,
            adversary=self.adversary,
        )
        _verify(
            failure <= PRIVACY_LOG2,
            f"degree {self.degree} and threshold {self.threshold} must keep the chance of seeing "
            f"more than the sum below 2^{PRIVACY_LOG2:.0f}, got 2^{failure:.1f}; take both from "
            "smallest_graph, or raise minimum_survivors",
        )
        # A malicious coordinator does not drop clients at random: whoever it drops around a stretch
        # of the ring cuts the stretch off, which takes the honest neighbours on both its sides.
        cut = self.degree * (self.client_count - self.colluders) // self.client_count
        _verify(
            self.adversary is Adversary.SEMI_HONEST or dropouts < cut,
            f"minimum_survivors must be more than {self.client_count - cut} against a malicious "
            f"coordinator, got {self.minimum_survivors}; it could cut the graph in two: raise "
            "minimum_survivors or degree",
        )


def _verify(is_right: bool, problem: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not is_right:
        raise SecureAggregationError(problem)


_MEMBER: Final[Codec[Member]] = record(
    Member,
    name=text(_NAME_SIZE_MAX, "name"),
    verification_key=blob(_KEY_SIZE_MAX, "verification_key"),
    scale=number(4, "scale", least=1, most=_SCALE_MAX),
)


def _by_name(member: Member) -> bytes:
    return member.name.encode()


_DESCRIPTOR: Final[Codec[RoundDescriptor]] = record(
    RoundDescriptor,
    run_id=text(_NAME_SIZE_MAX, "run_id"),
    round_number=number(8, "round_number"),
    round_id=fixed(16, "round_id"),
    coordinators=increasing(_MEMBER, _COORDINATORS_MAX, "coordinators", key=_by_name),
    roster=increasing(_MEMBER, CLIENT_COUNT_MAX, "roster", key=_by_name),
    threshold=number(2, "threshold", least=2, most=CLIENT_COUNT_MAX),
    minimum_survivors=number(2, "minimum_survivors", most=CLIENT_COUNT_MAX),
    adversary=choice(tuple(Adversary), "adversary"),
    colluders=number(2, "colluders", most=CLIENT_COUNT_MAX),
    degree=number(2, "degree", most=CLIENT_COUNT_MAX),
    dimension=number(8, "dimension", least=1, most=DIMENSION_MAX),
    ring_bits=number(1, "ring_bits"),
    clip=real("clip"),
    value_bits=number(1, "value_bits", least=2, most=24),
    weight_bound=number(4, "weight_bound", least=1),
    norm_bound=real("norm_bound"),
    proofs=choice(tuple(Proofs), "proofs"),
    rerun_size=number(2, "rerun_size", most=CLIENT_COUNT_MAX),
    noise_variance=number(8, "noise_variance", most=_NOISE_VARIANCE_MAX),
    scheme=choice(tuple(Scheme), "scheme"),
    key_bits=number(2, "key_bits"),
)
