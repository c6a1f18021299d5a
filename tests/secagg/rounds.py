"""Rounds for tests: members with keys, a descriptor, and a network that may lose and change."""

import functools
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kumiai.crypto.pedersen import PedersenRows
from kumiai.crypto.signatures import Ed25519Signer, Ed25519Verifier
from kumiai.secagg.actions import (
    Action,
    Advance,
    AskUpdate,
    Exclude,
    KeepReceipt,
    Outcome,
    Persist,
    Publish,
    Send,
    Stop,
)
from kumiai.secagg.conversation import Conversation
from kumiai.secagg.descriptor import PROTOCOL_VERSION, Member, Proofs, RoundDescriptor, Scheme
from kumiai.secagg.messages import (
    _SIGNATURE_LABEL,
    Body,
    Envelope,
    Kind,
    ShareEntry,
    _signed_bytes,
    decode_body,
    read_envelope,
)
from kumiai.secagg.parameters import Adversary
from kumiai.secagg.pedersen_proofs import PedersenProofs
from kumiai.secagg.proofs import UpdateProofs
from kumiai.secagg.schemes import client_machine, server_machine

VERIFIER = Ed25519Verifier()
COORDINATOR = "coordinator"
DIMENSION = 37
PAILLIER: dict[str, Any] = {
    "scheme": Scheme.PAILLIER,
    "key_bits": 2048,
    "adversary": Adversary.SEMI_HONEST,
    "colluders": 0,
}
SPARSE: dict[str, Any] = {
    "degree": 10,
    "threshold": 4,
    "minimum_survivors": 13,
    "adversary": Adversary.SEMI_HONEST,
    "colluders": 1,
    "dimension": 3,
}
"""Of a round in which each of 16 clients masks towards ten others."""
T = TypeVar("T")


def names_of(count: int) -> list[str]:
    return [f"site-{number:04}" for number in range(count)]


def signers_of(count: int) -> dict[str, Ed25519Signer]:
    return {name: Ed25519Signer.generate() for name in [*names_of(count), COORDINATOR]}


@functools.cache
def pedersen_proofs() -> PedersenProofs:
    """Return proofs over short rows: quick, and several rows in a small update."""
    return PedersenProofs(PedersenRows(16))


def describe(signers: dict[str, Ed25519Signer], **changes: object) -> RoundDescriptor:
    roster = tuple(
        Member(name, signer.public) for name, signer in sorted(signers.items())
        if name != COORDINATOR
    )  # fmt: skip
    count = len(roster)
    fields: dict[str, object] = {
        "run_id": "run-a",
        "round_number": 7,
        "round_id": secrets.token_bytes(16),
        "coordinators": (Member(COORDINATOR, signers[COORDINATOR].public),),
        "roster": roster,
        "threshold": 2 * count // 3 + 1,
        "minimum_survivors": max(3, 2 * count // 3 + 1),
        "adversary": Adversary.MALICIOUS,
        "colluders": (count - 1) // 3 if count > 3 else 0,
        "degree": 0,
        "dimension": DIMENSION,
        "ring_bits": 32,
        "clip": 1.0,
        "value_bits": 16,
        "weight_bound": 8,
        "norm_bound": 10.0,
        "proofs": Proofs.OFF,
    }
    return RoundDescriptor(**{**fields, **changes})  # type: ignore[arg-type]


def updates_of(
    descriptor: RoundDescriptor, seed: int = 1
) -> dict[str, tuple[NDArray[np.float32], int]]:
    rng = np.random.default_rng(seed)
    return {
        member.name: (
            rng.uniform(-1, 1, descriptor.dimension).astype(np.float32),
            int(rng.integers(1, descriptor.weight_bound + 1)),
        )
        for member in descriptor.roster
    }


Change = Callable[[str, Send], Send | None]
"""What happens to a message on its way from or to a client: another, or none."""


class Network:
    """Runs a round between machines, and keeps what they persist and everything that was sent."""

    def __init__(
        self,
        count: int = 4,
        *,
        signers: dict[str, Ed25519Signer] | None = None,
        mode: Proofs = Proofs.OFF,
        **changes: object,
    ) -> None:
        self.signers = signers or signers_of(count)
        self.descriptor = describe(self.signers, proofs=mode, **changes)
        proofs: UpdateProofs | None = None if mode is Proofs.OFF else pedersen_proofs()
        self.proofs = proofs
        self.updates = updates_of(self.descriptor)
        self.server = server_machine(self.descriptor)(
            self.descriptor,
            COORDINATOR,
            signer=self.signers[COORDINATOR],
            verifier=VERIFIER,
            proofs=proofs,
        )
        self.clients = {
            member.name: client_machine(self.descriptor)(
                self.descriptor,
                member.name,
                signer=self.signers[member.name],
                verifier=VERIFIER,
                proofs=proofs,
            )
            for member in self.descriptor.roster
        }
        self.names = list(self.clients)
        self.records: dict[str, list[bytes]] = {name: [] for name in [*self.names, COORDINATOR]}
        self.counters = dict.fromkeys(self.names, 0)
        self.sent: dict[str, list[Send]] = {name: [] for name in [*self.names, COORDINATOR]}
        self.told: dict[str, list[Send]] = {name: [] for name in self.names}
        self.uploads: dict[str, bytes] = {}
        self.refused: list[tuple[str, Exception]] = []
        self.outcome: Outcome | None = None
        self.stopped: str | None = None
        self.excluded: dict[str, str] = {}
        self.evidence: dict[str, bytes] = {}
        self.receipts: dict[str, bytes] = {}
        self.lost: set[str] = set()
        self.to_server: Change = lambda _, send: send
        self.to_client: Change = lambda _, send: send
        self._waiting: deque[tuple[str, Send]] = deque()
        self.raises = True

    def begin(self) -> None:
        for name, client in self.clients.items():
            if name not in self.lost:
                self.from_client(name, client.begin())

    def run(self) -> None:
        """Run the round to its end; phases in which clients are missing end as by a timer."""
        self.begin()
        self.deliver()
        while not (self.outcome or self.stopped):
            self.from_server(self.server.end_phase())
            self.deliver()

    def run_until(self, kind: Kind) -> dict[str, Send]:
        """Run the round until clients would get a message of this kind; return these messages."""
        held: dict[str, Send] = {}

        def hold(name: str, send: Send) -> Send | None:
            if self.kind_of(send) is kind:
                held[name] = send
                return None
            return send

        self.to_client = hold
        self.begin()
        self.deliver()
        while not held:
            self.from_server(self.server.end_phase())
            self.deliver()
        self.to_client = lambda _, send: send
        return held

    def body_for(self, name: str, kind: Kind, expected: type[T]) -> T:
        """Run until clients would get a message of a kind; return what one would be told."""
        return self.body_of(self.run_until(kind)[name], expected)

    def kept_back(self, kind: Kind, name: str | None = None) -> Send:
        """Run until a client, or that one, would send a message of some kind, and return it."""
        held: list[Send] = []

        def hold(sender: str, send: Send) -> Send | None:
            if name in {None, sender} and self.kind_of(send) is kind:
                held.append(send)
                return None
            return send

        self.to_server = hold
        self.begin()
        self.deliver()
        return held[0]

    def kind_of(self, send: Send) -> Kind:
        return read_envelope(send.message, self.descriptor).kind

    def body_of(self, send: Send, expected: type[T]) -> T:
        return decode_body(read_envelope(send.message, self.descriptor), expected)

    def lie(self, body: Body, sender: str = COORDINATOR) -> bytes:
        """Return a message that its sender signs, whatever it says."""
        return Conversation(self.descriptor, VERIFIER).seal(body, sender, self.signers[sender])

    def lie_in_bytes(self, kind: Kind, body: bytes) -> bytes:
        """Return a message of the coordinator whose body may be no body at all."""
        descriptor = self.descriptor
        message = _signed_bytes(descriptor, descriptor.context(), COORDINATOR, kind, body)
        signature = self.signers[COORDINATOR].sign(_SIGNATURE_LABEL, message)
        return Envelope(
            PROTOCOL_VERSION, descriptor.round_id, COORDINATOR, kind, body, signature
        ).encode()

    def tell(self, name: str, body: Body, vector: bytes = b"") -> tuple[Action, ...]:
        """Let a coordinator say something to a client, and the client act on it."""
        actions = self.clients[name].receive(self.lie(body), vector)
        self.from_client(name, actions)
        return actions

    def deliver(self) -> None:
        while self._waiting:
            name, send = self._waiting.popleft()
            if name in self.lost:
                continue
            try:
                self._carry(name, send)
            except Exception as error:
                if self.raises:
                    raise
                self.refused.append((name, error))

    def from_client(self, name: str, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Persist(record):
                    self.records[name].append(record)
                case Advance(counter):
                    assert counter == self.counters[name] + 1
                    self.counters[name] = counter
                case Send():
                    self.sent[name].append(action)
                    self._waiting.append((name, action))
                case AskUpdate():
                    if name in self.updates:
                        self.from_client(name, self.clients[name].submit(*self.updates[name]))
                case KeepReceipt(receipt):
                    self.receipts[name] = receipt

    def from_server(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Persist(record):
                    self.records[COORDINATOR].append(record)
                case Send():
                    self.sent[COORDINATOR].append(action)
                    self._waiting.extend((name, action) for name in action.recipients)
                case Exclude(client, reason, evidence):
                    self.excluded[client], self.evidence[client] = reason, evidence
                case Publish(outcome):
                    self.outcome = outcome
                case Stop(reason):
                    self.stopped = reason

    def plain_sum(self, survivors: tuple[str, ...]) -> tuple[NDArray[np.int64], int]:
        """Return the sum that must come out, computed apart from all masks."""
        total = np.zeros(self.descriptor.dimension, np.int64)
        weight = 0
        for name in survivors:
            words = plain_words(self, name)
            total += words[:-1]
            weight += int(words[-1])
        return total, weight

    def restart_client(self, name: str, counter: int | None = None) -> None:
        self.clients[name] = client_machine(self.descriptor).restore(
            self.descriptor,
            name,
            self.records[name],
            counter=self.counters[name] if counter is None else counter,
            signer=self.signers[name],
            verifier=VERIFIER,
            proofs=self.proofs,
        )

    def restart_server(self) -> None:
        self.server = server_machine(self.descriptor).restore(
            self.descriptor,
            COORDINATOR,
            self.records[COORDINATOR],
            signer=self.signers[COORDINATOR],
            verifier=VERIFIER,
            proofs=self.proofs,
        )
        for name in self.server.missing_uploads:
            self.from_server(self.server.add_upload(name, blocks_of(self.uploads[name])))

    def _carry(self, name: str, send: Send) -> None:
        if send.recipients:
            changed = self.to_client(name, send)
            if changed is not None:
                self.told[name].append(changed)
                vector = b"" if changed.vector is None else changed.vector
                self.from_client(name, self.clients[name].receive(changed.message, vector))
            return
        changed = self.to_server(name, send)
        if changed is None:
            return
        self.from_server(self.server.receive(name, changed.message, changed.attachment))
        if changed.vector is not None:
            self.uploads[name] = bytes(changed.vector)
            self.from_server(self.server.add_upload(name, blocks_of(self.uploads[name])))


def paillier_network(count: int = 4, **changes: Any) -> Network:
    """Return a round with a Paillier key, short so that it is quick to make."""
    threshold = changes.pop("threshold", count // 2 + 1)
    fields = {**PAILLIER, "threshold": threshold, "minimum_survivors": max(3, threshold)}
    return Network(count, **{**fields, **changes})


def blocks_of(content: bytes, size: int = 40) -> Callable[[], list[bytes]]:
    return lambda: [content[start : start + size] for start in range(0, len(content), size)]


def plain_words(network: Network, name: str) -> NDArray[np.int64]:
    """Return what a client's vector holds before it is masked, by the written formula."""
    from kumiai.crypto.masks import add_mask

    descriptor = network.descriptor
    update, weight = network.updates[name]
    weight *= descriptor.roster[descriptor.index_of(name)].scale
    key = network.clients[name]._knowledge.keys.rounding
    draws = np.zeros(update.size, np.uint32)
    add_mask(draws, key)
    levels = 2 ** (descriptor.value_bits - 1) - 1
    norm = float(np.sqrt(np.sum(update.astype(np.float64) ** 2)))
    scaled = update.astype(np.float64) * min(1.0, descriptor.norm_bound / norm)
    scaled = np.clip(scaled, -descriptor.clip, descriptor.clip)
    rounded = np.floor(scaled * (levels / descriptor.clip) + draws * 2.0**-32)
    return np.append(rounded.astype(np.int64) * weight, weight)


def with_sealed(entry: ShareEntry, sealed: bytes, *, holder: int | None = None) -> ShareEntry:
    """Return an entry with something else sealed in it, and perhaps for another holder."""
    return ShareEntry.of(
        entry.holder if holder is None else holder,
        entry.mask_key_digest,
        entry.self_mask_digest,
        sealed,
    )


def replaced(send: Send, **changes: object) -> Send:
    return replace(send, **changes)  # type: ignore[arg-type]


def lose(network: Network, losses: dict[str, Kind]) -> None:
    """Let clients vanish instead of sending a message of some kind."""

    def change(name: str, send: Send) -> Send | None:
        if losses.get(name) is network.kind_of(send):
            network.lost.add(name)
            return None
        return send

    network.to_server = change


def assert_plain_sum(network: Network) -> None:
    assert network.outcome is not None, network.stopped
    total, weight = network.plain_sum(network.outcome.survivors)
    assert np.array_equal(network.outcome.total, total)
    assert network.outcome.weight == weight
