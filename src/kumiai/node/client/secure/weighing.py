"""What an update weighs in a sum: a whole number, so that the sum is exact."""

from kumiai.core.errors import ConfigError

__all__ = ["weight_of"]


def weight_of(examples: int, examples_per_weight: int, weight_bound: int) -> int:
    """Return an update's weight.

    Args:
        examples: how many it was trained on, > 0.
        examples_per_weight: how many count as one; 0: all updates weigh the same.
        weight_bound: the most that the round can add up.

    Raises:
        ConfigError: it weighs more.
    """
    if examples_per_weight == 0:
        return 1
    weight = max(1, round(examples / examples_per_weight))
    if weight > weight_bound:
        raise ConfigError(
            f"secure_aggregation.examples_per_weight must be at least "
            f"{-(-examples // weight_bound)} for {examples} examples, got {examples_per_weight}; "
            "raise it, or use ring_bits = 64"
        )
    return weight
