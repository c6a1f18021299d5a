"""Cryptography: the mathematics that secure aggregation stands on.

Fields, shares, key agreement, masks, signatures, commitments, proofs and Paillier. Everything here
is pure and synchronous: bytes and numbers in, bytes and numbers out; no files, threads, sockets or
clocks. Randomness comes from ``secrets``, and only in the outermost function.
"""

from kumiai.crypto.paillier import PaillierCrypto

__all__ = ["PaillierCrypto"]
