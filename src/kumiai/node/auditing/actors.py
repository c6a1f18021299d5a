"""How entries of the audit log name who calls and what they call about."""

import re
from typing import Final

from kumiai.identity import Principal
from kumiai.identity.audit import Actor

__all__ = ["actor_of", "said_by_stranger", "subject_of"]

_NAME: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,72}")
_UNFIT: Final = re.compile(r"[^\x20-\x7e]")
_SAID_CHARACTERS: Final = 120


def actor_of(caller: Principal) -> Actor:
    """Return who calls; behind a token it is whoever made it."""
    serial = 0 if caller.identity is None else caller.identity.serial
    return Actor(caller.role.value, caller.name, serial, caller.address[:64])


def subject_of(kind: str, name: str) -> str:
    """Return what is called about; a name that nothing can have is left out."""
    return f"{kind}/{name}" if _NAME.fullmatch(name) else f"{kind}/-"


def said_by_stranger(text: str) -> str:
    """Return a text that anybody may have chosen as it fits into an entry, whatever it is."""
    return _UNFIT.sub("?", text[:_SAID_CHARACTERS])
