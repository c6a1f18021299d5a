"""Paillier's cryptosystem: encrypted numbers and vectors that anybody can add.

Begin with ``PaillierCrypto``. Safe against who only looks: a coordinator that adds honestly, and
reads whatever passes. It is not made for clients that cheat; that is what masking with proofs is
for.
"""

from kumiai.crypto.paillier.blobs import (
    number_from_bytes,
    number_to_bytes,
    private_key_from_bytes,
    private_key_to_bytes,
    public_key_from_bytes,
    public_key_to_bytes,
    vector_from_bytes,
    vector_to_bytes,
)
from kumiai.crypto.paillier.crypto import PaillierCrypto
from kumiai.crypto.paillier.keys import PaillierPrivateKey, PaillierPublicKey
from kumiai.crypto.paillier.number import EncryptedNumber
from kumiai.crypto.paillier.phe_format import (
    number_from_phe,
    number_to_phe,
    private_key_from_phe,
    private_key_to_phe,
    public_key_from_phe,
    public_key_to_phe,
)
from kumiai.crypto.paillier.pool import RandomiserPool
from kumiai.crypto.paillier.randomisers import Exponents
from kumiai.crypto.paillier.slots import SlotLayout
from kumiai.crypto.paillier.threshold import (
    DecryptionShare,
    ThresholdKey,
    ThresholdKeyShare,
    deal_threshold_key,
)
from kumiai.crypto.paillier.threshold_blobs import (
    decryption_share_from_bytes,
    decryption_share_to_bytes,
    key_share_from_bytes,
    key_share_to_bytes,
    threshold_key_from_bytes,
    threshold_key_to_bytes,
)
from kumiai.crypto.paillier.vector import EncryptedVector, sum_of_vectors

__all__ = [
    "DecryptionShare",
    "EncryptedNumber",
    "EncryptedVector",
    "Exponents",
    "PaillierCrypto",
    "PaillierPrivateKey",
    "PaillierPublicKey",
    "RandomiserPool",
    "SlotLayout",
    "ThresholdKey",
    "ThresholdKeyShare",
    "deal_threshold_key",
    "decryption_share_from_bytes",
    "decryption_share_to_bytes",
    "key_share_from_bytes",
    "key_share_to_bytes",
    "number_from_bytes",
    "number_from_phe",
    "number_to_bytes",
    "number_to_phe",
    "private_key_from_bytes",
    "private_key_from_phe",
    "private_key_to_bytes",
    "private_key_to_phe",
    "public_key_from_bytes",
    "public_key_from_phe",
    "public_key_to_bytes",
    "public_key_to_phe",
    "sum_of_vectors",
    "threshold_key_from_bytes",
    "threshold_key_to_bytes",
    "vector_from_bytes",
    "vector_to_bytes",
]
