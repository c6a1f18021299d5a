"""Keys for tests: short ones for laws, since arithmetic does not care, and one of real size.

The primes are fixed, so that a failure can be repeated.
"""

from functools import cache

from kumiai.crypto.paillier import PaillierPrivateKey, PaillierPublicKey

__all__ = [
    "OTHER_SMALL_KEY",
    "SMALL_KEY",
    "SMALL_KEY_NOT_BLUM",
    "SmallPrivateKey",
    "SmallPublicKey",
    "real_key",
]


class SmallPublicKey(PaillierPublicKey):
    """A key that protects nothing."""

    __slots__ = ()
    _key_size_min = 16


class SmallPrivateKey(PaillierPrivateKey):
    """The private half of one."""

    __slots__ = ()
    _public_key_class = SmallPublicKey


SMALL_KEY = SmallPrivateKey(0xC7916280788C3590DF2DD05F21566387, 0xEA2ED82F264F60C20F4C4462DCF1B3C3)
SMALL_KEY_NOT_BLUM = SmallPrivateKey(
    0xEA5B3E8FCD2B50CF6D4B356C36DB11F9, 0xCBF4ED3A56EC6A5F0F1F0A90847DFF95
)
OTHER_SMALL_KEY = SmallPrivateKey(
    0xDD805D7371E53E41DB84E6A8426C18F7D8C2B4DA0B84AB5BF10C59C92AEA720F,
    0xCACD7B31246955EDF6A1FA26687CCB179314074BE93A5CC9377B62F593605CC7,
)

_REAL_P = """
    ebbba080eb2dbfbab881df0368890746ed8c5daf9b3236d8075079133ca32ff2aa7866cdc4d79edfab16abe6a7699814
    b323db966950600d78963956d9fef93c3a309dc6e5f564b21811a731a1e8e3681e6ef984a69460684b5ccf797a1747ed
    163299f76a178d30f7f8fa2f8f1965ef2d2d784692338bdf53fa9c4b4b631ee3
"""
_REAL_Q = """
    ea285051c0018418a72d35304e0540ef11420cf4f0320df6fb2ee1dd17e01508a33a5ee0c5ac0a2a0476bb87a2592ab1
    98890a0ff2b35d7b7f144c7213c973104deded3edcfd62815e80624f48a7627a67505c4e932893ee93f8f56a4048cb09
    9f584c8a9fb4301549b0cb4d0581700718af9b42759bf58effb63049f676fbab
"""


@cache
def real_key() -> PaillierPrivateKey:
    """Return a key of 2048 bits."""
    return PaillierPrivateKey(*(int("".join(text.split()), 16) for text in (_REAL_P, _REAL_Q)))
