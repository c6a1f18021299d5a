"""A site's part in secure aggregation: its signing key, its memory of the others, its rounds."""

__all__: list[str] = []
