"""Bytes of a form with something else at one place, to see which limits are held there."""

__all__ = ["changed_at", "size"]


def changed_at(data: bytes, place: int, content: bytes) -> bytes:
    """Return the bytes with other ones from a place on, as many as these."""
    return data[:place] + content + data[place + len(content) :]


def size(count: int) -> bytes:
    """Return how the length of something is written."""
    return count.to_bytes(4, "little")
