"""Secure aggregation from its front: both sides of a round, and a whole round in one process."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from kumiai.core.errors import SecureAggregationError
from kumiai.secagg.actions import Action, AskUpdate, KeepReceipt, Outcome, Publish, Send, Stop
from kumiai.secagg.client import ClientRound
from kumiai.secagg.descriptor import RoundDescriptor
from kumiai.secagg.messages import Signer, Verifier
from kumiai.secagg.proofs import UpdateProofs
from kumiai.secagg.quantizing import Numbers
from kumiai.secagg.schemes import client_machine, server_machine
from kumiai.secagg.server import ServerRound
from kumiai.secagg.server_records import ServerPhase
from kumiai.secagg.vectors import Blocks

__all__ = ["LocalResult", "SecureAggregationProtocol"]

Updates = Mapping[str, tuple[Numbers, int]]


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What a round in one process gave.

    Attributes:
        outcome: the sum.
        receipts: by client.
        excluded: clients that were left out, with the reason.
    """

    outcome: Outcome
    receipts: dict[str, bytes] = field(repr=False)
    excluded: dict[str, str]


class SecureAggregationProtocol:
    """Makes the two sides of rounds.

    Args:
        verifier: checks signatures of the kind that the members make.
        proofs: commits to updates and checks them; for rounds with proofs.
    """

    __slots__ = ("_proofs", "_verifier")

    def __init__(self, verifier: Verifier, proofs: UpdateProofs | None = None) -> None:
        """Take what both sides need."""
        self._verifier = verifier
        self._proofs = proofs

    def client(self, descriptor: RoundDescriptor, name: str, signer: Signer) -> ClientRound:
        """Return a client's side of a round.

        Raises:
            SecureAggregationError: the client is not in the roster.
        """
        return client_machine(descriptor)(
            descriptor, name, signer=signer, verifier=self._verifier, proofs=self._proofs
        )

    def server(self, descriptor: RoundDescriptor, name: str, signer: Signer) -> ServerRound:
        """Return the coordinator's side of a round.

        Raises:
            SecureAggregationError: ``name`` is not one of the round's coordinators.
        """
        return server_machine(descriptor)(
            descriptor, name, signer=signer, verifier=self._verifier, proofs=self._proofs
        )

    def run(
        self, descriptor: RoundDescriptor, signers: Mapping[str, Signer], updates: Updates
    ) -> LocalResult:
        """Run a whole round in this process, for simulations.

        Args:
            descriptor: the round, with one coordinator.
            signers: of all members, the coordinator among them, by name.
            updates: update and weight of each client; a client without one drops out before it
                sends its input.

        Raises:
            SecureAggregationError: the round ended without a result.
        """
        coordinator = descriptor.coordinators[0].name
        server = self.server(descriptor, coordinator, signers[coordinator])
        clients = {
            member.name: self.client(descriptor, member.name, signers[member.name])
            for member in descriptor.roster
        }
        return _LocalRound(server, clients, updates).run()


class _LocalRound:
    """Carries messages from hand to hand, in the order in which they were sent."""

    _reason: str

    def __init__(
        self, server: ServerRound, clients: Mapping[str, ClientRound], updates: Updates
    ) -> None:
        self._server = server
        self._clients = clients
        self._updates = updates
        self._waiting: deque[tuple[str, Send]] = deque()
        self._outcome: Outcome | None = None
        self._receipts: dict[str, bytes] = {}

    def run(self) -> LocalResult:
        for name, client in self._clients.items():
            self._take_from_client(name, client.begin())
        self._deliver()
        while self._server.phase < ServerPhase.PUBLISHED:
            self._take_from_server(self._server.end_phase())
            self._deliver()
        if self._outcome is None:
            raise SecureAggregationError(f"round must come to a result, got none: {self._reason}")
        return LocalResult(self._outcome, self._receipts, self._server.excluded)

    def _deliver(self) -> None:
        while self._waiting:
            name, send = self._waiting.popleft()
            vector = send.vector
            if send.recipients:
                self._take_from_client(name, self._clients[name].receive(send.message, vector))
                continue
            actions = self._server.receive(name, send.message, send.attachment)
            self._take_from_server(actions)
            if vector is not None:
                self._take_from_server(self._server.add_upload(name, _once(vector)))

    def _take_from_client(self, name: str, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._waiting.append((name, action))
                case AskUpdate() if name in self._updates:
                    update, weight = self._updates[name]
                    self._take_from_client(name, self._clients[name].submit(update, weight))
                case KeepReceipt(receipt):
                    self._receipts[name] = receipt
                case _:
                    pass

    def _take_from_server(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._waiting.extend((name, action) for name in action.recipients)
                case Publish(outcome):
                    self._outcome = outcome
                case Stop(reason):
                    self._reason = reason
                case _:
                    pass


def _once(vector: memoryview) -> Blocks:
    return lambda: [vector]
