"""Keys for tests: short ones for laws, since arithmetic does not care, and one of real size.

The primes are fixed, so that a failure can be repeated.
"""

from functools import cache

from kumiai.crypto.paillier import PaillierPrivateKey, PaillierPublicKey

__all__ = [
    "OTHER_SMALL_KEY",
    "SMALL_KEY",
    "SMALL_KEY_NOT_BLUM",
    "SMALL_SAFE_KEY",
    "SmallPrivateKey",
    "SmallPublicKey",
    "real_key",
    "real_safe_key",
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
SMALL_SAFE_KEY = SmallPrivateKey(
    0xE006C17C00AA4DCF537DBFF942BA619B, 0xFB83B826BB18D9AFAD4E903D22CE23FB
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
_SAFE_P = """
    d2b6d0c6bfa948c93337354611bf4176722994d4b1b6af9ee5d048cfed3e7b800f74091ec048efd7540b1d2c34e1d8d4
    4d00d995f435bb368436f512f7b8513ea3dbe2cb166c60c118eceeba50a2719406ab29276c867ed075b92f3a14a1801d
    b3807dc3c04284e9692c19879f0ffa6755dd594105ea12d22e51cb08a22dac3b
"""
_SAFE_Q = """
    dc870266e23bdb979ff283bb72091443b1958629083a57c8500bc316e5adc78134b354038db48312578c9a9fbbeea418
    c6afa2556d0e803884f8ecafcd94d4edf578bf5b1aa74bddd0061b8841bcf246be715710007a17fa10fc2f77a305486e
    f4e13cffe1b57d9db42c92e35bc346b895317800abecf88c519ec7b649ce198b
"""


@cache
def real_key() -> PaillierPrivateKey:
    """Return a key of 2048 bits."""
    return PaillierPrivateKey(_number(_REAL_P), _number(_REAL_Q))


@cache
def real_safe_key() -> PaillierPrivateKey:
    """Return a key of 2048 bits whose primes are safe ones."""
    return PaillierPrivateKey(_number(_SAFE_P), _number(_SAFE_Q))


def _number(text: str) -> int:
    return int("".join(text.split()), 16)
