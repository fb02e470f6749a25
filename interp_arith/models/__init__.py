"""WHO learns. Only this room names TransformerLens."""

from interp_arith.models.config import ModelConfig
from interp_arith.models.digit_positions import Abacus, Coupled, SegmentDigit
from interp_arith.models.position_scheme import PositionScheme
from interp_arith.models.positions import POSITIONS, Learned, NoPositions, Rotary
from interp_arith.models.transformer import ArithmeticTransformer, build_model

__all__ = [
    "POSITIONS",
    "Abacus",
    "ArithmeticTransformer",
    "Coupled",
    "Learned",
    "ModelConfig",
    "NoPositions",
    "PositionScheme",
    "Rotary",
    "SegmentDigit",
    "build_model",
]
