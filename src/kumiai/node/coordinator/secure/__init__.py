"""The coordinator's part in secure aggregation: from a job to a sum that it could not look into."""

__all__: list[str] = []
