"""What the coordinator checks of each message, and what it has heard of a round so far."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import KumiaiError, SecureAggregationError
from kumiai.crypto.agreement import verify_public_key
from kumiai.crypto.shamir import Share
from kumiai.secagg.actions import WrongSum
from kumiai.secagg.client_steps import proof_context, proof_digest
from kumiai.secagg.conversation import Conversation, Said
from kumiai.secagg.graph import Neighbourhoods, complete_graph, sparse_graph
from kumiai.secagg.messages import (
    SHARE_ENTRIES,
    Advertisement,
    Agreement,
    Confirmation,
    KeyShares,
    MaskedInput,
    NonceReveal,
    SecretKind,
    ShareEntry,
    Survivor,
    Unmasking,
)
from kumiai.secagg.proofs import UpdateProofs
from kumiai.secagg.reruns import rerun_groups
from kumiai.secagg.round_keys import nonce_digest_of
from kumiai.secagg.sharing import leaf_of, verify_revealed
from kumiai.secagg.sum_checks import is_sum_of
from kumiai.secagg.tree import HashTree
from kumiai.secagg.unmasking import Rebuilding
from kumiai.secagg.vectors import VectorLayout

__all__ = ["Answer", "Dealt", "MisbehaviourError", "ServerKnowledge"]


Answer = (
    Advertisement | NonceReveal | KeyShares | MaskedInput | Agreement | Unmasking | Confirmation
)
"""What a client says to the coordinator."""


class MisbehaviourError(Exception):
    """A client has signed what it must not; never leaves this room."""


@dataclass(frozen=True, slots=True)
class Dealt:
    """One author's shares.

    Attributes:
        said: its message.
        shares: the body.
        entries: by holder.
        paths: of the entries in the tree over them, in the order of the holders.
    """

    said: Said
    shares: KeyShares
    entries: dict[int, ShareEntry]
    paths: list[bytes]


class ServerKnowledge:
    """What the coordinator knows."""

    __slots__ = (
        "_proofs",
        "advertised",
        "agreed",
        "agreement",
        "answers",
        "confirmed",
        "conversation",
        "dealt",
        "entries",
        "excluded",
        "graph",
        "hidden",
        "inputs",
        "layout",
        "revealed",
        "seen",
        "taken_keys",
        "uploaded",
    )

    graph: Neighbourhoods
    hidden: bytes
    seen: bytes
    entries: tuple[Survivor, ...]
    agreement: bytes

    def __init__(self, conversation: Conversation, proofs: UpdateProofs | None) -> None:
        """Begin with the round alone."""
        self.conversation = conversation
        self._proofs = proofs
        descriptor = conversation.descriptor
        count = proofs.blinding_count(descriptor) if proofs else 0
        self.layout = VectorLayout.of(descriptor, count)
        self.advertised: dict[int, tuple[Said, Advertisement]] = {}
        self.revealed: dict[int, tuple[Said, NonceReveal]] = {}
        self.dealt: dict[int, Dealt] = {}
        self.inputs: dict[int, tuple[Said, MaskedInput]] = {}
        self.uploaded: set[int] = set()
        self.agreed: dict[int, Said] = {}
        self.answers: dict[int, dict[int, Share]] = {}
        self.confirmed: dict[int, tuple[Said, Confirmation]] = {}
        self.excluded: dict[int, str] = {}
        self.taken_keys: set[bytes] = set()

    # ------------------------------------------------------------ who is who

    @property
    def advertisements(self) -> dict[int, Advertisement]:
        """Everybody's keys, by index."""
        return {index: body for index, (_, body) in sorted(self.advertised.items())}

    @property
    def nonces(self) -> dict[int, NonceReveal]:
        """Everybody's nonces."""
        return {index: body for index, (_, body) in self.revealed.items()}

    @property
    def sharers(self) -> tuple[int, ...]:
        """Who has shared its secrets."""
        return tuple(sorted(self.dealt))

    @property
    def upload_size_bytes(self) -> int:
        """How long an upload is."""
        return self.layout.size_bytes

    @property
    def survivors(self) -> tuple[int, ...]:
        """Whose masked input is in the sum."""
        return tuple(sorted(self.uploaded))

    def fix_survivors(self) -> None:
        """Fix who is in the sum, and so what the survivors must sign."""
        self.entries = tuple(
            Survivor(index, self.conversation.input_digest(self.inputs[index][0].envelope.body))
            for index in self.survivors
        )
        self.agreement = self.conversation.agreement_digest(self.seen, self.sharers, self.entries)

    def is_right(self, vector: NDArray[np.uint8]) -> bool:
        """Return whether a sum is that of the survivors' inputs."""
        inputs = [self.inputs[index][1] for index in self.survivors]
        return is_sum_of(vector, inputs, layout=self.layout, proofs=self._proofs)

    def wrong_sum(self) -> WrongSum:
        """Return who was in a sum that is not right, and how they go again."""
        survivors = tuple(self.conversation.name(index) for index in self.survivors)
        size = self.conversation.descriptor.rerun_size
        groups = rerun_groups(survivors, agreement=self.agreement, minimum_size=size)
        return WrongSum(survivors, groups)

    def see_hidden(self) -> None:
        """Fix what all have seen before they reveal their nonces."""
        self.hidden = self.conversation.seen_digest(self.advertisements)

    def see(self) -> None:
        """Fix what all have seen, and the graph, before shares are made."""
        if self.conversation.descriptor.degree:
            members = tuple(self.nonces)
            self.seen = self.conversation.seen_digest(self.advertisements, self.nonces)
            self.graph = sparse_graph(members, self.conversation.descriptor.degree, self.seen)
        else:
            self.seen = self.conversation.seen_digest(self.advertisements)
            self.graph = complete_graph(tuple(self.advertisements))

    def rebuilding(self) -> Rebuilding:
        """Return what it takes to find the masks in the sum."""
        survivors = self.survivors
        shares: dict[int, dict[int, Share]] = {}
        for holder, given in self.answers.items():
            for author, share in given.items():
                shares.setdefault(author, {})[holder] = share
        return Rebuilding(
            graph=self.graph,
            threshold=self.conversation.descriptor.threshold,
            survivors=survivors,
            lost=tuple(index for index in self.sharers if index not in self.uploaded),
            shares=shares,
            advertisements=self.advertisements,
            self_mask_digests={
                index: dealt.shares.self_mask_digest for index, dealt in self.dealt.items()
            },
            context=self.conversation.context,
        )

    # -------------------------------------------------------------- messages

    def hear(self, said: Said, body: Answer, attachment: bytes, *, is_known: bool = False) -> None:
        """Take a message.

        Args:
            said: what was opened.
            body: of it.
            attachment: to it.
            is_known: it comes from a record; its proof was checked then.

        Raises:
            SecureAggregationError: the client must not send it now.
            MisbehaviourError: the client has signed what it must not; nothing has changed.
        """
        match body:
            case Advertisement():
                self._hear_advertisement(said, body)
            case NonceReveal():
                self._hear_nonce(said, body)
            case KeyShares():
                self._hear_shares(said, body, attachment)
            case MaskedInput():
                self._hear_input(said, body, attachment, is_known=is_known)
            case Agreement():
                self._hear_agreement(said, body)
            case Unmasking():
                self._hear_unmasking(said, body)
            case _:
                self._require(said, self.uploaded, "the survivors")
                self.confirmed[said.index] = (said, body)

    def _hear_advertisement(self, said: Said, body: Advertisement) -> None:
        if body.mask_key == body.channel_key or self.taken_keys & set(_keys(body)):
            raise MisbehaviourError("advertised a key that is in use already")
        size = 32 if self.conversation.descriptor.degree else 0
        if len(body.nonce_digest) != size:
            raise MisbehaviourError(f"advertised {len(body.nonce_digest)} bytes of a nonce")
        try:
            for key in _keys(body):
                verify_public_key(key)
        except KumiaiError as error:
            raise MisbehaviourError(f"advertised an unusable key: {error}") from error
        self.taken_keys |= set(_keys(body))
        self.advertised[said.index] = (said, body)

    def _hear_nonce(self, said: Said, body: NonceReveal) -> None:
        self._require(said, self.advertised.keys(), "those who advertised")
        hidden = self.advertised[said.index][1].nonce_digest
        if nonce_digest_of(body.nonce, self.conversation.context) != hidden:
            raise MisbehaviourError("revealed another nonce than it had hidden")
        if body.seen != self.hidden:
            raise MisbehaviourError("says that it has seen other advertisements")
        self.revealed[said.index] = (said, body)

    def _hear_shares(self, said: Said, body: KeyShares, attachment: bytes) -> None:
        self._require(said, self.graph.holders.keys(), "those in the graph")
        if body.seen != self.seen:
            raise MisbehaviourError("says that it has seen other advertisements")
        try:
            entries = SHARE_ENTRIES.decode(attachment)
        except SecureAggregationError as error:
            raise SecureAggregationError(f"shares must be attached: {error}") from error
        context = self.conversation.context
        tree = HashTree([leaf_of(context, said.index, entry) for entry in entries])
        if tree.root != body.root:
            raise SecureAggregationError("shares must be those under the signed root, got others")
        if tuple(entry.holder for entry in entries) != self.graph.holders[said.index]:
            raise MisbehaviourError("shared its secrets among others than its neighbours")
        by_holder = {entry.holder: entry for entry in entries}
        self.dealt[said.index] = Dealt(said, body, by_holder, tree.paths())

    def _hear_input(self, said: Said, body: MaskedInput, proof: bytes, *, is_known: bool) -> None:
        self._require(said, self.sharers, "those who shared")
        descriptor = self.conversation.descriptor
        scale = descriptor.roster[said.index].scale
        if proof_digest(proof) != body.proof_digest:
            raise SecureAggregationError(
                "proof must be the one that its client signed, got another"
            )
        if body.weight % scale or not 1 <= body.weight // scale <= descriptor.weight_bound:
            raise MisbehaviourError(f"gave its update the weight {body.weight}")
        if body.vector_size_bytes != self.upload_size_bytes:
            raise MisbehaviourError(f"named an upload of {body.vector_size_bytes} bytes")
        near = set(self.graph.neighbours(said.index)) & self.dealt.keys()
        if not set(body.complaints) <= near:
            raise MisbehaviourError("complained about clients that sent it nothing")
        if not is_known:
            self._verify_proof(said, body, proof)
        self.inputs[said.index] = (said, body)

    def _verify_proof(self, said: Said, body: MaskedInput, proof: bytes) -> None:
        if self._proofs is None:
            if body.commitments or body.proof_digest:
                raise MisbehaviourError("committed to its update in a round without proofs")
            return
        try:
            self._proofs.verify_update(
                body.commitments,
                proof,
                body.weight,
                descriptor=self.conversation.descriptor,
                context=proof_context(self.conversation, said.index),
            )
        except KumiaiError as error:
            raise MisbehaviourError(f"did not prove its update: {error}") from error

    def _hear_agreement(self, said: Said, body: Agreement) -> None:
        self._require(said, self.uploaded, "the survivors")
        if body.digest != self.agreement:
            raise MisbehaviourError("agreed to other survivors than it was told")
        self.agreed[said.index] = said

    def _hear_unmasking(self, said: Said, body: Unmasking) -> None:
        self._require(said, self.uploaded, "the survivors")
        complaints = self.inputs[said.index][1].complaints
        authors = set(self.graph.holders[said.index]) & self.dealt.keys() - set(complaints)
        if {share.author for share in body.shares} != authors:
            raise MisbehaviourError("revealed shares of others than its neighbours")
        given = {}
        for share in body.shares:
            author = share.author
            wanted = SecretKind.SELF_MASK if author in self.uploaded else SecretKind.MASK_KEY
            if share.secret is not wanted:
                raise MisbehaviourError("revealed a share of the wrong secret")
            try:
                given[author] = verify_revealed(
                    share,
                    self.dealt[author].entries[said.index],
                    graph=self.graph,
                    context=self.conversation.context,
                )
            except KumiaiError as error:
                raise MisbehaviourError(
                    f"revealed a wrong share of {self.conversation.name(author)!r}"
                ) from error
        self.answers[said.index] = given

    def _require(self, said: Said, allowed: Collection[int], who: str) -> None:
        if said.index not in allowed:
            raise SecureAggregationError(
                f"{self.conversation.name(said.index)!r} must be one of {who}, and is not"
            )


def _keys(body: Advertisement) -> tuple[bytes, bytes]:
    return body.mask_key, body.channel_key
