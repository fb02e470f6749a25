"""WHO learns. Only this room names TransformerLens.

Importing TransformerLens takes seconds, so `ArithmeticTransformer` and `build_model` are imported when they are first
asked for: `models.build_model(…)`. What has no model, such as a config, a measure's name, or a figure, does without.
"""

import importlib
from typing import TYPE_CHECKING, Any

from interp_arith.models.config import ModelConfig
from interp_arith.models.digit_positions import Abacus, Coupled, SegmentDigit
from interp_arith.models.position_scheme import PositionScheme
from interp_arith.models.positions import POSITIONS, Learned, NoPositions, Rotary

if TYPE_CHECKING:
    from interp_arith.models.transformer import ActivationCache, ArithmeticTransformer, build_model

__all__ = [
    "POSITIONS",
    "Abacus",
    "ActivationCache",
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("interp_arith.models.transformer"), name)
