"""Two places where an authority's keys may lie: a token that is made up, and one of SoftHSM."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from kumiai.identity.pkcs11 import KeyTokens
from kumiai.identity.pkcs11_uri import KeyURI
from kumiai.testing.fake_tokens import FakeKey, FakeToken, FakeTokenLibrary
from kumiai.testing.softhsm import SoftHSM, softhsm_library

__all__ = ["FakePlace", "Place", "SoftHSMPlace", "softhsm_or_skip"]

_MADE: dict[Path, SoftHSM] = {}


class Place(Protocol):
    """Tokens, and a way to make a key in one."""

    tokens: KeyTokens

    def new_key(self, name: str) -> KeyURI: ...


@dataclass
class FakePlace:
    """A token that is made up."""

    token: FakeToken = field(default_factory=FakeToken)

    def __post_init__(self) -> None:
        self.tokens = KeyTokens(
            Path("/opt/vendor/pkcs11.so"),
            lambda _: self.token.pin,
            load=FakeTokenLibrary([self.token]),
        )

    def new_key(self, name: str) -> KeyURI:
        key = FakeKey(f"{name}-{len(self.token.keys)}", id=bytes([len(self.token.keys)]))
        self.token.keys.append(key)
        return KeyURI(token=self.token.label, object=key.label)


class SoftHSMPlace:
    """The token of SoftHSM in this process."""

    def __init__(self, hsm: SoftHSM) -> None:
        self.hsm = hsm
        self.tokens = KeyTokens(hsm.module, lambda _: hsm.pin)

    def new_key(self, name: str) -> KeyURI:
        return self.hsm.new_key(name)


def softhsm_or_skip(new_directory: Callable[[], Path]) -> SoftHSM:
    """Return this process's token of SoftHSM; skip the test where that is not installed."""
    module = softhsm_library()
    if module is None:
        pytest.skip("SoftHSM2 is not installed: apt-get install softhsm2, or brew install softhsm")
    if module not in _MADE:
        _MADE[module] = SoftHSM(module, new_directory())
    return _MADE[module]
