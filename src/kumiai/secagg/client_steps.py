"""What a client checks of each message, what it learns from it, and what it answers.

Each step checks all of a message before it changes what the client knows. A step that is taken
again from a record gets what was drawn for it then, and draws nothing.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from kumiai.core.errors import CryptoError, SecureAggregationError
from kumiai.crypto.agreement import verify_public_key
from kumiai.crypto.blindings import add_blinding_masks
from kumiai.crypto.masks import add_masks
from kumiai.secagg.conversation import Conversation
from kumiai.secagg.graph import Neighbourhoods, complete_graph, sparse_graph
from kumiai.secagg.messages import (
    SHARE_ENTRIES,
    Advertisement,
    Advertisements,
    Agreement,
    Agreements,
    Body,
    Confirmation,
    Deliveries,
    Envelope,
    KeyShares,
    MaskedInput,
    NonceReveal,
    NonceReveals,
    Result,
    SecretKind,
    ShareEntry,
    Survivor,
    Survivors,
    Unmasking,
    decode_body,
    encode_body,
)
from kumiai.secagg.proofs import CommittedUpdate, UpdateProofs
from kumiai.secagg.quantizing import Numbers, quantize, signed
from kumiai.secagg.round_keys import (
    SEED_SIZE_BYTES,
    RoundKeys,
    blinding_mask,
    nonce_digest_of,
    pair_key,
    pair_sign,
    self_mask_digest_of,
    vector_mask,
)
from kumiai.secagg.sharing import SharePair, leaf_of, make_entries, open_entry
from kumiai.secagg.sum_checks import is_sum_of
from kumiai.secagg.tree import HashTree, verify_path
from kumiai.secagg.vectors import VectorLayout, vector_digest

__all__ = ["ClientKnowledge", "Step", "proof_context", "proof_digest", "verify_nonces"]

_PROOF_DOMAIN: Final = b"kumiai/secagg/proof/v1/"
_NOT_COMMITTED: Final = CommittedUpdate(b"", (), b"")


@dataclass(frozen=True, slots=True)
class Step:
    """What comes out of a step.

    Attributes:
        body: the answer, if there is one.
        attachment: to the answer.
        secret: what was drawn, to be kept for a restart.
    """

    body: Body | None = None
    attachment: bytes = field(default=b"", repr=False)
    secret: bytes = field(default=b"", repr=False)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a Step cannot be pickled")


class ClientKnowledge:
    """What a client knows of a round; what comes with a later step is not there before it."""

    __slots__ = (
        "_proofs",
        "advertisements",
        "agreement",
        "complaints",
        "conversation",
        "graph",
        "held",
        "index",
        "input",
        "keys",
        "layout",
        "own_pair",
        "seen",
        "sharers",
        "sum_digest",
        "survivors",
    )

    advertisements: dict[int, Advertisement]
    graph: Neighbourhoods
    seen: bytes
    own_pair: SharePair
    sharers: tuple[int, ...]
    held: dict[int, SharePair]
    complaints: tuple[int, ...]
    input: MaskedInput
    survivors: tuple[Survivor, ...]
    agreement: bytes
    sum_digest: bytes
    keys: RoundKeys

    def __init__(self, conversation: Conversation, index: int, proofs: UpdateProofs | None) -> None:
        """Begin with the round alone."""
        self.conversation = conversation
        self.index = index
        self._proofs = proofs
        descriptor = conversation.descriptor
        count = proofs.blinding_count(descriptor) if proofs else 0
        self.layout = VectorLayout.of(descriptor, count)

    @property
    def sum_size_bytes(self) -> int:
        """How long the sum is that comes to be checked."""
        return self.layout.size_bytes

    def __repr__(self) -> str:
        """Name the client alone."""
        return f"ClientKnowledge({self.conversation.name(self.index)!r})"

    # ------------------------------------------------------------------ keys

    def begin(self, drawn: bytes | None) -> Step:
        """Draw the round's keys and advertise them."""
        context = self.conversation.context
        seed = secrets.token_bytes(SEED_SIZE_BYTES) if drawn is None else drawn
        self.keys = RoundKeys(seed, context)
        is_sparse = bool(self.conversation.descriptor.degree)
        body = Advertisement(
            self.keys.mask_key.public,
            self.keys.channel.public,
            nonce_digest_of(self.keys.nonce, context) if is_sparse else b"",
        )
        return Step(body, secret=seed)

    def hear_advertisements(self, envelope: Envelope, drawn: bytes | None) -> Step:
        """Check everybody's keys; answer with shares, or reveal the nonce of a sparse graph."""
        conversation = self.conversation
        found = self._verified_advertisements(envelope)
        seen = conversation.seen_digest(found)
        if conversation.descriptor.degree:
            self.advertisements, self.seen = found, seen
            return Step(NonceReveal(self.keys.nonce, seen))
        return self._share(found, complete_graph(tuple(found)), seen, drawn)

    def _verified_advertisements(self, envelope: Envelope) -> dict[int, Advertisement]:
        conversation = self.conversation
        listed = decode_body(envelope, Advertisements).envelopes
        opened = conversation.open_all(listed, Advertisement)
        found = {index: body for index, (_, body) in opened.items()}
        self._verify_count("advertisements", len(found))
        own = found.get(self.index)
        if own is None or own.mask_key != self.keys.mask_key.public or (
            own.channel_key != self.keys.channel.public
        ):  # fmt: skip
            raise SecureAggregationError(
                "advertisements must hold this client's own keys, got none or others"
            )
        _verify_keys(found, is_sparse=bool(conversation.descriptor.degree))
        return found

    def hear_nonce_reveals(self, envelope: Envelope, drawn: bytes | None) -> Step:
        """Check everybody's nonces; the graph follows from them; answer with shares."""
        conversation, descriptor = self.conversation, self.conversation.descriptor
        opened = conversation.open_all(decode_body(envelope, NonceReveals).envelopes, NonceReveal)
        found = {index: body for index, (_, body) in opened.items()}
        self._verify_count("nonces", len(found))
        if self.index not in found:
            raise SecureAggregationError("nonces must hold this client's own, got none")
        verify_nonces(conversation, self.advertisements, found, self.seen)
        seen = conversation.seen_digest(self.advertisements, found)
        members = {index: self.advertisements[index] for index in found}
        graph = sparse_graph(tuple(members), descriptor.degree, seen)
        return self._share(members, graph, seen, drawn)

    def _share(
        self,
        members: dict[int, Advertisement],
        graph: Neighbourhoods,
        seen: bytes,
        drawn: bytes | None,
    ) -> Step:
        context = self.conversation.context
        body: Body | None = None
        entries: tuple[ShareEntry, ...] = ()
        if drawn is not None:
            own = SharePair.decode(drawn)
        else:
            own, entries = make_entries(
                self.index,
                self.keys,
                graph=graph,
                threshold=self.conversation.descriptor.threshold,
                channel_keys={index: each.channel_key for index, each in members.items()},
                context=context,
            )
            tree = HashTree([leaf_of(context, self.index, entry) for entry in entries])
            digest = self_mask_digest_of(self.keys.self_mask, context)
            body = KeyShares(tree.root, digest, seen)
        self.advertisements, self.graph, self.seen, self.own_pair = members, graph, seen, own
        return Step(body, SHARE_ENTRIES.write(entries), own.encode())

    def hear_deliveries(self, envelope: Envelope) -> Step:
        """Open what the neighbours have sealed; remember whose shares are not what they must be."""
        body = decode_body(envelope, Deliveries)
        self._verify_count("sharers", len(body.sharers))
        if self.index not in body.sharers or not set(body.sharers) <= set(self.advertisements):
            raise SecureAggregationError(
                "sharers must be of those who advertised, this client among them, got others"
            )
        neighbours = set(self.graph.neighbours(self.index)) & set(body.sharers)
        opened = self.conversation.open_all(
            (delivery.envelope for delivery in body.deliveries), KeyShares
        )
        if set(opened) != neighbours:
            raise SecureAggregationError(
                f"deliveries must be of all {len(neighbours)} neighbours who shared, "
                f"got {len(opened)}"
            )
        held, complaints = {self.index: self.own_pair}, []
        for (author, (_, shares)), delivery in zip(opened.items(), body.deliveries, strict=True):
            if shares.seen != self.seen:
                raise SecureAggregationError(
                    f"{self.conversation.name(author)!r} must have seen the same advertisements, "
                    "got others; the coordinator tells different stories"
                )
            entry = delivery.entry
            if entry.holder != self.index:
                raise SecureAggregationError("delivery must be for this client, got another's")
            leaf = leaf_of(self.conversation.context, author, entry)
            verify_path(shares.root, leaf, delivery.position, delivery.path)
            try:
                held[author] = open_entry(
                    entry,
                    author,
                    self.keys.channel,
                    peer=self.advertisements[author].channel_key,
                    graph=self.graph,
                    context=self.conversation.context,
                )
            except CryptoError:
                complaints.append(author)
        self.sharers, self.held, self.complaints = body.sharers, held, tuple(complaints)
        return Step()

    # ------------------------------------------------------------------ input

    def submit(self, update: Numbers, weight: int) -> tuple[Step, NDArray[np.uint8]]:
        """Quantise, commit to, and mask an update; return the answer and the masked vector."""
        vector, scaled = self._quantized(update, weight)
        made = self._committed(vector)
        masks = self._masks()
        add_masks(self.layout.words(vector), [vector_mask(key, sign) for key, sign in masks])
        if made.blindings:
            hidden = [blinding_mask(key, sign) for key, sign in masks]
            self.layout.write_blindings(vector, add_blinding_masks(made.blindings, hidden))
        self.input = MaskedInput(
            vector_digest(vector),
            vector.nbytes,
            scaled,
            made.commitments,
            proof_digest(made.proof),
            self.complaints,
        )
        return Step(self.input, made.proof, vector[self.layout.ring_size_bytes :].tobytes()), vector

    def submitted_again(self, update: Numbers, weight: int, drawn: bytes) -> NDArray[np.uint8]:
        """Return the same masked vector once more.

        Raises:
            SecureAggregationError: the update or the weight is another one.
        """
        vector, _ = self._quantized(update, weight)  # the weight is its last word
        masks = [vector_mask(key, sign) for key, sign in self._masks()]
        add_masks(self.layout.words(vector), masks)
        vector[self.layout.ring_size_bytes :] = np.frombuffer(drawn, np.uint8)
        if vector_digest(vector) != self.input.vector_digest:
            raise SecureAggregationError(
                "update must be the one that was submitted, got another; two under the same masks "
                "would give their difference away: take part in the next round with it"
            )
        return vector

    def hear_own_input(self, envelope: Envelope) -> None:
        """Remember from a record what was submitted."""
        self.input = decode_body(envelope, MaskedInput)

    def _quantized(self, update: Numbers, weight: int) -> tuple[NDArray[np.uint8], int]:
        descriptor = self.conversation.descriptor
        if not 1 <= weight <= descriptor.weight_bound:
            raise SecureAggregationError(
                f"weight must be 1 to the round's weight_bound {descriptor.weight_bound}, "
                f"got {weight}"
            )
        scaled = weight * descriptor.roster[self.index].scale
        vector = self.layout.empty()
        quantize(
            self.layout.words(vector),
            update,
            scaled,
            key=self.keys.rounding,
            noise_key=self.keys.noise,
            descriptor=descriptor,
        )
        return vector, scaled

    def _committed(self, vector: NDArray[np.uint8]) -> CommittedUpdate:
        if self._proofs is None:
            return _NOT_COMMITTED
        return self._proofs.commit(
            signed(self.layout.words(vector)),
            self.conversation.descriptor,
            proof_context(self.conversation, self.index),
        )

    def _masks(self) -> list[tuple[bytes, Literal[1, -1]]]:
        context, mask_key = self.conversation.context, self.keys.mask_key
        peers = set(self.graph.neighbours(self.index)) & set(self.sharers)
        return [
            (self.keys.self_mask, 1),
            *(
                (
                    pair_key(mask_key, self.advertisements[peer].mask_key, context),
                    pair_sign(self.index, peer),
                )
                for peer in peers
            ),
        ]

    # ------------------------------------------------------------- unmasking

    def hear_survivors(self, envelope: Envelope) -> Step:
        """Check who is in the sum; answer with a signature of all that was seen."""
        conversation, descriptor = self.conversation, self.conversation.descriptor
        entries = decode_body(envelope, Survivors).entries
        indices = {entry.index for entry in entries}
        self._verify_count("survivors", len(indices))
        if not indices <= set(self.sharers):
            raise SecureAggregationError("survivors must be of those who shared, got others")
        own = Survivor(self.index, conversation.input_digest(encode_body(self.input)))
        if own not in entries:
            raise SecureAggregationError(
                "survivors must hold this client with the input that it sent, got none or another"
            )
        near = indices & set(self.graph.holders[self.index])
        if len(near) < descriptor.threshold:
            raise SecureAggregationError(
                f"survivors must hold {descriptor.threshold} of this client's neighbours, "
                f"got {len(near)}"
            )
        self.survivors = entries
        self.agreement = conversation.agreement_digest(self.seen, self.sharers, entries)
        return Step(Agreement(self.agreement))

    def hear_agreements(self, envelope: Envelope) -> Step:
        """Check that enough neighbours saw the same; answer with one share of each neighbour."""
        self._verify_agreements(decode_body(envelope, Agreements).envelopes)
        survivors = {entry.index for entry in self.survivors}
        return Step(
            Unmasking(
                tuple(
                    pair.reveal(
                        author,
                        SecretKind.SELF_MASK if author in survivors else SecretKind.MASK_KEY,
                    )
                    for author, pair in sorted(self.held.items())
                )
            )
        )

    def _verify_agreements(self, listed: tuple[bytes, ...]) -> None:
        descriptor = self.conversation.descriptor
        opened = self.conversation.open_all(listed, Agreement)
        survivors = {entry.index for entry in self.survivors}
        near = survivors & set(self.graph.holders[self.index])
        others = [index for index, (_, each) in opened.items() if each.digest != self.agreement]
        if others:
            raise SecureAggregationError(
                f"{self.conversation.name(others[0])!r} must have agreed to the same survivors, "
                "got others; the coordinator tells different stories"
            )
        if len(near & set(opened)) < descriptor.threshold:
            raise SecureAggregationError(
                f"agreements must be of {descriptor.threshold} of this client's neighbours, "
                f"got {len(near & set(opened))}"
            )

    # ------------------------------------------------------------- verifying

    def hear_result(self, envelope: Envelope, vector: NDArray[np.uint8]) -> Step:
        """Check the sum against what all survivors committed to; answer with a signed word."""
        conversation = self.conversation
        body = decode_body(envelope, Result)
        if vector.nbytes != self.layout.size_bytes or vector_digest(vector) != body.sum_digest:
            raise SecureAggregationError(
                f"sum must be {self.layout.size_bytes} bytes with the digest that the coordinator "
                f"signed, got {vector.nbytes} bytes"
            )
        is_right = self._is_sum_of(vector, self._verified_inputs(body.inputs))
        self.sum_digest = body.sum_digest
        digest = conversation.result_digest(self.agreement, body.sum_digest)
        return Step(Confirmation(digest, is_right))

    def hear_own_confirmation(self, envelope: Envelope, drawn: bytes) -> None:
        """Remember from a record which sum was checked then; the sum itself is not kept."""
        self.sum_digest = decode_body(envelope, Result).sum_digest

    def _verified_inputs(self, listed: tuple[bytes, ...]) -> list[MaskedInput]:
        conversation = self.conversation
        opened = conversation.open_all(listed, MaskedInput)
        found = tuple(
            Survivor(index, conversation.input_digest(said.envelope.body))
            for index, (said, _) in opened.items()
        )
        if found != self.survivors:
            raise SecureAggregationError(
                "inputs must be those that the survivors agreed to, got others"
            )
        return [each for _, each in opened.values()]

    def _is_sum_of(self, vector: NDArray[np.uint8], inputs: list[MaskedInput]) -> bool:
        return is_sum_of(vector, inputs, layout=self.layout, proofs=self._proofs)

    def _verify_count(self, what: str, count: int) -> None:
        least = max(
            self.conversation.descriptor.minimum_survivors, self.conversation.descriptor.threshold
        )
        if count < least:
            raise SecureAggregationError(f"{what} must be of at least {least} clients, got {count}")


def verify_nonces(
    conversation: Conversation,
    advertisements: dict[int, Advertisement],
    nonces: dict[int, NonceReveal],
    seen: bytes,
) -> None:
    """Check revealed nonces.

    Raises:
        SecureAggregationError: one is not what its client had hidden, or its client has seen other
            advertisements; or one is missing that must not be.
    """
    missing = advertisements.keys() - nonces.keys()
    # Whoever sees the nonces and may then leave some out chooses among many graphs.
    if not nonces.keys() <= advertisements.keys() or (missing and conversation.is_malicious):
        raise SecureAggregationError(
            f"nonces must be of all {len(advertisements)} who advertised, got {len(nonces)}"
        )
    for index, body in nonces.items():
        hidden = advertisements[index].nonce_digest
        if nonce_digest_of(body.nonce, conversation.context) != hidden or body.seen != seen:
            raise SecureAggregationError(
                f"{conversation.name(index)!r} must reveal the nonce that it had hidden, after the "
                "same advertisements, got another"
            )


def proof_context(conversation: Conversation, index: int) -> bytes:
    """Return what a proof must be good for alone: this client in this round."""
    return conversation.digest("proof", conversation.name(index).encode())


def proof_digest(proof: bytes) -> bytes:
    """Return by what a `MaskedInput` names its proof; nothing for none."""
    return hashlib.sha256(_PROOF_DOMAIN + proof).digest() if proof else b""


def _verify_keys(found: dict[int, Advertisement], *, is_sparse: bool) -> None:
    keys = [key for each in found.values() for key in (each.mask_key, each.channel_key)]
    if len(set(keys)) < len(keys):
        raise SecureAggregationError("advertised keys must all differ, got one twice")
    for key in keys:
        verify_public_key(key)
    size = 32 if is_sparse else 0
    if any(len(each.nonce_digest) != size for each in found.values()):
        raise SecureAggregationError(f"nonce_digest must be {size} bytes in this round, got others")
