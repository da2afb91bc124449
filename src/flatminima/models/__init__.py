"""What the studies train: small networks, each with its settings beside it."""

from flatminima.models.mlp import MLP, mlp
from flatminima.models.small_conv import SmallConv, small_conv

__all__ = ["MLP", "SmallConv", "mlp", "small_conv"]
