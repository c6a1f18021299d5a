"""How a cache's keys are called in the store, and what may be a key or a tag."""

import re
import secrets
from collections.abc import Sequence

__all__ = ["Keyspace"]

_NAME_CHARS_MAX = 512
_TAGS_MAX = 32
_GLOB = re.compile(r"([*?\[\]\\^-])")


class Keyspace:
    """The names of a cache's entries, tags and leases.

    Args:
        namespace: what they all begin with.

    Raises:
        ValueError: the namespace is empty or too long.
    """

    def __init__(self, namespace: str) -> None:
        _verify(namespace, "namespace")
        self.namespace = namespace
        self._entry, self._tag = f"{namespace}:v:", f"{namespace}:t:"
        self._refresh = f"{namespace}:r:"

    def entry(self, key: str) -> str:
        """Return the name of an entry.

        Raises:
            ValueError: the key is empty or longer than 512 characters.
        """
        if not key or len(key) > _NAME_CHARS_MAX:
            _verify(key, "key")
        return self._entry + key

    def tag(self, tag: str) -> str:
        """Return the name of a tag's version."""
        return self._tag + tag

    def refresh(self, key: str) -> str:
        """Return the name of the lease of who loads a value early."""
        return self._refresh + key

    def pattern(self, pattern: str) -> str:
        """Return the glob for the names of entries whose keys fit a glob."""
        _verify(pattern, "pattern")
        return _GLOB.sub(r"\\\1", self._entry) + pattern

    def verified_tags(self, tags: Sequence[str]) -> tuple[str, ...]:
        """Return the tags, each once.

        Raises:
            ValueError: they are a text and no list, more than 32, or one is empty or too long.
        """
        if not tags:
            return ()
        if isinstance(tags, str):
            # A text is a sequence of texts, too: its letters would become tags.
            raise ValueError(f"tags must be a list of texts, got the text {tags!r}")  # noqa: TRY004
        if len(tags) > _TAGS_MAX:
            raise ValueError(f"tags must be at most {_TAGS_MAX}, got {len(tags)}")
        for tag in tags:
            _verify(tag, "tag")
        return tuple(dict.fromkeys(tags))

    @staticmethod
    def new_version() -> int:
        """Return where a tag's version begins: at random.

        A store may forget a version. Began it at 0 again, it would come by a number that entries
        still carry, and those would come back to life.
        """
        return secrets.randbits(62)

    @staticmethod
    def next_step() -> int:
        """Return by how much a tag's version grows: at random, for the same reason.

        An increment of a forgotten version begins at 0.
        """
        return secrets.randbelow(2**32) + 1

    @staticmethod
    def tag_seconds(expire_seconds_max: float) -> float:
        """Return how long a tag's version lives: longer than any entry that carries it."""
        return 2 * expire_seconds_max + 3600


def _verify(name: str, what: str) -> None:
    if not name or len(name) > _NAME_CHARS_MAX:
        raise ValueError(f"{what} must have 1 to {_NAME_CHARS_MAX} characters, got {len(name)}")
