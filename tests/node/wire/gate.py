"""A gate over a federation of one member, without files and without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kumiai.core.clock import Clock, SystemClock
from kumiai.identity import (
    Admission,
    AsyncMTLSAuthenticator,
    CallGate,
    Denial,
    Identity,
    RefusedCall,
    TrustBundle,
    WatchedFiles,
)
from tests.identity.forge import FEDERATION, forge, forge_authority

ROOT = forge_authority()
MEMBER = forge(by=ROOT)
OPERATOR = forge(by=ROOT, uris=[f"kumiai://{FEDERATION}/operator/olivia"], serial=8)
TRUST = TrustBundle((ROOT.certificate,))


class Suspensions:
    """Denies whom a test names."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def is_denied(self, identity: Identity) -> Denial | None:
        return Denial.SUSPENDED if identity.name in self.names else None


def new_gate(
    *,
    clock: Clock | None = None,
    denials: Any = None,
    on_refused: Callable[[RefusedCall], None] = lambda _: None,
    **parts: Any,
) -> CallGate:
    """Return a gate that trusts ``ROOT``."""
    clock = clock or SystemClock()
    admission = Admission(
        federation=FEDERATION,
        trust=WatchedFiles[TrustBundle]((Path("never-there"),), lambda: TRUST, clock),
        clock=clock,
        denials=denials,
        limits=parts.pop("limits", None),
    )
    return CallGate(AsyncMTLSAuthenticator(admission), on_refused=on_refused, **parts)
