"""WHO learns. Only this room names TransformerLens."""

from interp_arith.models.config import ModelConfig
from interp_arith.models.positions import POSITIONS, Learned, NoPositions, PositionScheme, Rotary
from interp_arith.models.transformer import ArithmeticTransformer, build_model

__all__ = [
    "POSITIONS",
    "ArithmeticTransformer",
    "Learned",
    "ModelConfig",
    "NoPositions",
    "PositionScheme",
    "Rotary",
    "build_model",
]
