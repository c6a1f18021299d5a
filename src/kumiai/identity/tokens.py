"""Tokens for people and automation: what they look like, and what is kept of them.

A token is ``kumiai_<identifier>_<secret>``: the identifier finds the row, the secret proves it.
Of the secret only a SHA-256 hash is kept. A slow password hash would buy nothing: it slows down
guessing among likely secrets, and this one is drawn from 2^256 equally likely ones (NIST SP
800-63B, section 5.1.2.2, asks for salt and stretching below 112 bits). It would cost every
request, though, and hand a flood of bad tokens our CPU.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from kumiai.identity.check import PeerRefusedError, Refusal

__all__ = ["APITokenSecret", "new_api_token", "parse_api_token"]

SECRET_BYTES: Final = 32
ID_BYTES: Final = 10

_DOMAIN: Final = b"kumiai/identity/api-token/v1\x00"
_TOKEN: Final = re.compile(r"kumiai_([0-9a-f]{20})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class APITokenSecret:
    """A token as its owner has it.

    Attributes:
        token_id: finds the row; no secret.
        text: the whole token; shown once, never stored and never logged.
    """

    token_id: str
    text: str = field(repr=False)

    def __reduce__(self) -> str:
        """Refuse to be pickled: a secret does not travel by accident."""
        raise TypeError("a token must not be pickled or copied")

    @property
    def secret_hash(self) -> str:
        """What is stored: SHA-256 in hexadecimal, bound to the identifier."""
        return hashlib.sha256(_DOMAIN + self.text.encode()).hexdigest()

    def is_proved_by(self, secret_hash: str) -> bool:
        """Whether this is the token of which that hash is kept; in constant time."""
        return hmac.compare_digest(self.secret_hash, secret_hash)


def new_api_token() -> APITokenSecret:
    """Return a fresh token, drawn from the operating system's randomness."""
    token_id = secrets.token_hex(ID_BYTES)
    return APITokenSecret(token_id, f"kumiai_{token_id}_{secrets.token_urlsafe(SECRET_BYTES)}")


def parse_api_token(text: str) -> APITokenSecret:
    """Return the token that somebody presents, not proved yet.

    Raises:
        PeerRefusedError: it is no token of ours; the message does not repeat it.
    """
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise PeerRefusedError(
            Refusal.BAD_TOKEN,
            f"token must be kumiai_<identifier>_<secret>, got {len(text)} characters of another "
            "form; make one with `kumiai token create`",
        )
    return APITokenSecret(match[1], text)
