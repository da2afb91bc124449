"""What the settings of every data set must fulfil."""

__all__ = ["check_counts", "check_noise"]


def check_counts(**counts: int) -> None:
    """Raise a ValueError unless every part holds at least one example."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1 example, got {count}.")


def check_noise(noise: float) -> None:
    """Raise a ValueError unless the share of flipped labels is in [0, 1]."""
    if not 0 <= noise <= 1:
        raise ValueError(f"noise must be in [0, 1], got {noise}.")
