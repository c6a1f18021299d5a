"""Secure aggregation: the coordinator learns the sum of a round's updates, and no single one.

State machines of the client's and the coordinator's side, their messages, and what both compute.
Everything here is pure and synchronous: messages in, actions out; whoever calls makes records
durable, sends messages and keeps the time.
"""

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
    WrongSum,
)
from kumiai.secagg.buffering import (
    FRESH_SCALE,
    BufferPolicy,
    TrainedAhead,
    next_group,
    verify_scales,
)
from kumiai.secagg.client import ClientRound
from kumiai.secagg.client_records import ClientPhase
from kumiai.secagg.descriptor import Member, Proofs, RoundDescriptor, Scheme
from kumiai.secagg.kept import KeptSum
from kumiai.secagg.messages import Signer, Verifier
from kumiai.secagg.parameters import Adversary, GraphParameters, smallest_graph
from kumiai.secagg.pedersen_proofs import PedersenProofs
from kumiai.secagg.proofs import CommittedUpdate, UpdateProofs
from kumiai.secagg.protocol import LocalResult, SecureAggregationProtocol
from kumiai.secagg.quantizing import Numbers, cut_count
from kumiai.secagg.receipts import ReceiptFacts, verify_receipt
from kumiai.secagg.reruns import plan_rerun, suspects
from kumiai.secagg.schemes import client_machine, server_machine
from kumiai.secagg.server import ServerRound
from kumiai.secagg.server_records import ServerPhase
from kumiai.secagg.standing import Standing, standing_of
from kumiai.secagg.vectors import Blocks

__all__ = [
    "FRESH_SCALE",
    "Action",
    "Advance",
    "Adversary",
    "AskUpdate",
    "Blocks",
    "BufferPolicy",
    "ClientPhase",
    "ClientRound",
    "CommittedUpdate",
    "Exclude",
    "GraphParameters",
    "KeepReceipt",
    "KeptSum",
    "LocalResult",
    "Member",
    "Numbers",
    "Outcome",
    "PedersenProofs",
    "Persist",
    "Proofs",
    "Publish",
    "ReceiptFacts",
    "RoundDescriptor",
    "Scheme",
    "SecureAggregationProtocol",
    "Send",
    "ServerPhase",
    "ServerRound",
    "Signer",
    "Standing",
    "Stop",
    "TrainedAhead",
    "UpdateProofs",
    "Verifier",
    "WrongSum",
    "client_machine",
    "cut_count",
    "next_group",
    "plan_rerun",
    "server_machine",
    "smallest_graph",
    "standing_of",
    "suspects",
    "verify_receipt",
    "verify_scales",
]
