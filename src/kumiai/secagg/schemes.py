"""Which machines run a round: what hides its updates decides."""

from collections.abc import Mapping
from typing import Final

from kumiai.secagg.client import ClientRound
from kumiai.secagg.descriptor import RoundDescriptor, Scheme
from kumiai.secagg.paillier_client import PaillierClientRound
from kumiai.secagg.paillier_server import PaillierServerRound
from kumiai.secagg.server import ServerRound

__all__ = ["client_machine", "server_machine"]

_CLIENTS: Final[Mapping[Scheme, type[ClientRound]]] = {
    Scheme.MASKING: ClientRound,
    Scheme.PAILLIER: PaillierClientRound,
}
_SERVERS: Final[Mapping[Scheme, type[ServerRound]]] = {
    Scheme.MASKING: ServerRound,
    Scheme.PAILLIER: PaillierServerRound,
}


def client_machine(descriptor: RoundDescriptor) -> type[ClientRound]:
    """Return the client's machine for a round."""
    return _CLIENTS[descriptor.scheme]


def server_machine(descriptor: RoundDescriptor) -> type[ServerRound]:
    """Return the coordinator's machine for a round."""
    return _SERVERS[descriptor.scheme]
