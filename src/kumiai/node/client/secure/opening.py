"""Whether this site takes part in a round that is opened: who is in it, and on what terms.

The coordinator is not believed. Each member's signing key must be vouched for by a certificate of
the federation, and be the one that this site remembers; the terms must be those that keep an
update hidden from a coordinator that lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kumiai.core.clock import Clock
from kumiai.core.errors import DeniedError, SecureAggregationError
from kumiai.core.ids import verify_name
from kumiai.identity import (
    NoDenials,
    PeerRules,
    Role,
    TrustBundle,
    VouchedKey,
    identity_uri,
    verify_voucher,
)
from kumiai.node.client.secure.known_peers import KnownPeers
from kumiai.node.wire import kumiai_pb2 as pb
from kumiai.node.wire.secure_parts import RoundKey
from kumiai.secagg import Adversary, Member, Proofs, RoundDescriptor, Scheme

__all__ = ["RoundTerms", "SecurePolicy", "read_opening"]


@dataclass(frozen=True, slots=True)
class SecurePolicy:
    """What this site asks of a round.

    Attributes:
        requires_secure: take no task whose update the coordinator would see.
        requires_verification: take part only where the sum is verified.
        minimum_survivors: with fewer updates in a sum, this site's is not among them; >= 3.
        accepts_paillier: take part in rounds whose updates are encrypted with a key that all sites
            share, and which a coordinator that lies, or has one site's help, opens.
        knows_all_peers: talk to nobody whose signing key was not written down beforehand.
        counters_dir: where rounds' counters are, best on another disk than the records; ``None``:
            beside them.
    """

    requires_secure: bool = False
    requires_verification: bool = True
    minimum_survivors: int = 3
    accepts_paillier: bool = False
    knows_all_peers: bool = False
    counters_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class RoundTerms:
    """What an opening is judged by.

    Attributes:
        name: this site's.
        federation: this site's.
        verification_key: of this site's signing key.
        ca: the federation's authorities; read at each use.
        clock: says whether certificates are in force.
        peers: the keys that this site remembers.
        policy: what it asks for.
    """

    name: str
    federation: str
    verification_key: bytes
    ca: Path
    clock: Clock
    peers: KnownPeers
    policy: SecurePolicy


def read_opening(key: RoundKey, opening: pb.SecureOpening, terms: RoundTerms) -> RoundDescriptor:
    """Return the round that is opened, if this site may take part; reads and writes files.

    Raises:
        KumiaiError: a member is not who it says, its key is another than before, or the terms are
            not those of this site; names what is wrong.
    """
    verify_name("run", key[0])  # files are named after it
    descriptor = RoundDescriptor.decode(opening.descriptor)
    if (descriptor.run_id, descriptor.round_number) != key[:2]:
        raise SecureAggregationError(
            f"descriptor must be of round {key[1]} of run {key[0]}, got one of round "
            f"{descriptor.round_number} of run {descriptor.run_id}"
        )
    _verify_terms(descriptor, terms.policy)
    trust = TrustBundle.load(terms.ca)
    rules = PeerRules(terms.federation, None, NoDenials())
    vouched = [
        verify_voucher(voucher, trust, rules, terms.clock.now()) for voucher in opening.vouchers
    ]
    coordinators = _keys(descriptor.coordinators, vouched, Role.COORDINATOR)
    clients = _keys(descriptor.roster, vouched, Role.CLIENT)
    if clients.get(_own_uri(terms)) != terms.verification_key:
        raise SecureAggregationError(
            f"roster must hold {terms.name!r} with its own signing key, got another or none"
        )
    terms.peers.verify(coordinators | clients)
    return descriptor


def _verify_terms(descriptor: RoundDescriptor, policy: SecurePolicy) -> None:
    if descriptor.scheme is Scheme.PAILLIER:
        if not policy.accepts_paillier:
            raise DeniedError(
                "round must hide updates by masks, got a Paillier key that all sites share: with "
                "the help of one of them, the coordinator reads every update; ask for masking in "
                "the job, or set client.accepts_paillier = true at this site"
            )
    elif descriptor.adversary is not Adversary.MALICIOUS:
        raise DeniedError(
            "round must withstand a lying coordinator, got one that trusts it; this site refuses"
        )
    if policy.requires_verification and descriptor.proofs is Proofs.OFF:
        raise DeniedError(
            "sum of the round must be verified, got verification off; ask for it in the job, or "
            "set client.requires_verification = false at this site"
        )
    if 0 < descriptor.rerun_size < policy.minimum_survivors:
        raise DeniedError(
            f"groups of a wrong sum must have at least {policy.minimum_survivors} members for this "
            f"site, got {descriptor.rerun_size}; set secure_aggregation.rerun_size in the job to "
            "that, or to 0, or see client.minimum_survivors"
        )
    if descriptor.minimum_survivors < policy.minimum_survivors:
        raise DeniedError(
            f"sum of the round must have at least {policy.minimum_survivors} updates for this "
            f"site, got {descriptor.minimum_survivors}; see client.minimum_survivors"
        )


def _keys(members: Sequence[Member], vouched: Sequence[VouchedKey], role: Role) -> dict[str, bytes]:
    """Return the members' keys by URI; each must have one voucher of this role."""
    found = {each.identity.name: each for each in vouched if each.identity.role is role}
    keys: dict[str, bytes] = {}
    for member in members:
        voucher = found.get(member.name)
        if voucher is None or voucher.public_key != member.verification_key:
            raise SecureAggregationError(
                f"signing key of {role.value} {member.name!r} must be vouched for by its "
                "certificate, got no such voucher"
            )
        keys[voucher.identity.uri] = voucher.public_key
    return keys


def _own_uri(terms: RoundTerms) -> str:
    return identity_uri(terms.federation, Role.CLIENT, terms.name)
