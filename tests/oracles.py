"""Planted answers: plain-Python arithmetic, and small examples of every kind of task and model."""

import torch

from interp_arith.models.config import ModelConfig
from interp_arith.models.digit_positions import Abacus, Coupled, SegmentDigit
from interp_arith.models.positions import NoPositions, Rotary
from interp_arith.models.transformer import ArithmeticTransformer
from interp_arith.tasks import Addition, ModularArithmetic, PermutationComposition, Task, Text
from interp_arith.training.config import RunConfig


def plain_answer(operation: str, a: int, b: int, p: int) -> int:
    """a op b mod p by Python integers; a quotient is found by trying every candidate."""
    quotients = [c for c in range(p) if b * c % p == a]
    polynomial = {
        "add": a + b,
        "subtract": a - b,
        "multiply": a * b,
        "x^2+y^2": a**2 + b**2,
        "x^2+xy+y^2": a**2 + a * b + b**2,
        "x^2+xy+y^2+x": a**2 + a * b + b**2 + a,
        "x^3+xy": a**3 + a * b,
        "x^3+xy^2+y": a**3 + a * b**2 + b,
    }
    if operation in polynomial:
        return polynomial[operation] % p
    if operation == "parity-mixed" and b % 2 == 0:
        return (a - b) % p
    (quotient,) = quotients
    return quotient


def example_tasks() -> list[Task]:
    """Several variants of each kind, small enough to list or to draw in a moment."""
    return [
        ModularArithmetic(p=11, train_fraction=0.5),
        ModularArithmetic(p=7, operation="divide", train_fraction=0.5, val_fraction=0.2, seed=3),
        ModularArithmetic(p=7, operation="parity-mixed", format="numbers-with-operation", train_fraction=0.6),
        ModularArithmetic(p=11, operation="x^3+xy^2+y", format="numbers-bare", train_fraction=0.6),
        ModularArithmetic(p=13, operation="subtract", format="characters", train_fraction=0.5),
        ModularArithmetic(
            p=113, operation="multiply", format="characters", mask_first_n=1, val_fraction=0.15
        ),
        PermutationComposition(train_fraction=0.5),
        PermutationComposition(operation="xyx^-1", train_fraction=0.5, val_fraction=0.1),
        PermutationComposition(operation="xyx", train_fraction=0.5, seed=1),
        Addition(n_digits=3, val_questions=20, test_questions=40),
        Addition(n_digits=10, val_questions=20, test_questions=40, carry_share=0.5),
        Addition(n_digits=2, val_questions=0, test_questions=5, mask_first_n=1),
        Addition(
            n_digits=3, operation="subtract", val_questions=20, test_questions=40, answer_order="units-last"
        ),
        Addition(
            n_digits=3, operation="mixed", padded=False, end_token=True, val_questions=20, test_questions=40
        ),
        Addition(n_digits=4, operands=3, operand_order="units-first", val_questions=20, test_questions=40),
        Addition(n_digits=2, scratchpad=True, supervision="mask_steps", val_questions=20, test_questions=40),
        Addition(n_digits=20, sample_by="value", val_questions=20, test_questions=40),
        Text(),
        Text(text_to_learn="carry, carry on", mask_first_n=3),
    ]


def is_large(config: RunConfig) -> bool:
    """Whether a model has millions of parameters, so that a test of every preset gives it fewer questions."""
    return config.model.d_model >= 256


def example_model_configs() -> dict[str, ModelConfig]:
    """Small models that cover every part at least once, and the combinations that interact."""
    small = {"d_model": 8, "n_heads": 2, "d_mlp": 12}
    biases = {"attention_bias": True, "unembed_bias": True}
    variants = {
        "nanda": {},
        "no-biases": {"mlp_bias": False},
        "all-biases": {**biases, "normalization": "layer"},
        "two-layers": {"n_layers": 2},
        "wide-heads": {"d_head": 6, "n_heads": 3},
        "layer-norm": {"normalization": "layer", "n_layers": 2},
        "layer-norm-no-final": {"normalization": "layer", "final_norm": False, "mlp_bias": False},
        "rms-norm": {"normalization": "rms", **biases},
        "rms-norm-no-final": {"normalization": "rms", "final_norm": False, "n_layers": 2},
        "rotary": {"positions": Rotary(base=3), "n_layers": 2},
        "rotary-period": {"positions": Rotary(base=3, period=11), "n_layers": 2},
        "rotary-layer-norm-biases": {"positions": Rotary(), "normalization": "layer", **biases},
        "no-positions": {"positions": NoPositions(), "n_layers": 2, "normalization": "rms"},
        "half-attention": {"attention_coefficient": 0.5},
        "little-attention-deep": {
            "attention_coefficient": 0.2,
            "n_layers": 2,
            "normalization": "layer",
            "positions": Rotary(base=3),
            **biases,
        },
        "geglu": {"gated": True, "activation": "gelu"},
        "swiglu-rms": {"gated": True, "activation": "silu", "normalization": "rms", "mlp_bias": False},
        "deep-mlp": {"mlp_depth": 4},
        "deep-gated-mlp": {"mlp_depth": 4, "gated": True, "activation": "silu", "normalization": "layer"},
        "deep-mlp-no-biases": {"mlp_depth": 3, "mlp_bias": False, "activation": "gelu"},
        "attention-only": {"attention_only": True, "n_layers": 2},
        "attention-only-norm": {"attention_only": True, "normalization": "layer", "attention_bias": True},
        "tied": {"tied": True},
        "tied-norm-rotary": {
            "tied": True,
            "normalization": "layer",
            "final_norm": False,
            "positions": Rotary(base=3),
            "n_layers": 2,
            "unembed_bias": True,
        },
    }
    variants |= {
        "sharp-attention": {"attention_scale": 1.5},
        "sharper-with-length": {
            "attention_scale": 0.8,
            "attention_scale_from": 3,
            "n_layers": 2,
            "positions": Rotary(base=3),
        },
        "sharp-half-attention": {
            "attention_coefficient": 0.5,
            "attention_scale": 2.0,
            "attention_scale_from": 2,
            "n_layers": 2,
        },
    }
    return {name: ModelConfig(**{**small, **fields}) for name, fields in variants.items()}


def digit_model_configs() -> dict[str, ModelConfig]:
    """Small models whose positions follow the digits of a question; they fit an addition of two digits."""
    small = {"d_model": 8, "n_heads": 2, "d_mlp": 12}
    variants = {
        "segment-digit": {"positions": SegmentDigit(max_place=5)},
        "abacus": {"positions": Abacus(max_place=4), "n_layers": 2, "normalization": "layer"},
        "coupled": {"positions": Coupled(max_place=9, offset=2), "normalization": "rms"},
        "coupled-swiglu-sharp-tied": {
            "positions": Coupled(max_place=3),
            "gated": True,
            "activation": "silu",
            "attention_scale": 1.2,
            "attention_scale_from": 4,
            "tied": True,
            "n_layers": 2,
        },
        "segment-digit-geglu-half-attention": {
            "positions": SegmentDigit(max_place=3),
            "gated": True,
            "activation": "gelu",
            "attention_coefficient": 0.5,
            "attention_bias": True,
            "normalization": "rms",
        },
    }
    return {name: ModelConfig(**{**small, **fields}) for name, fields in variants.items()}


def published_config(final_norm: bool) -> ModelConfig:
    """The published ten-digit adders: 763 parameters without a final norm, 777 with one."""
    return ModelConfig(
        d_model=7,
        n_heads=1,
        d_mlp=14,
        activation="gelu",
        mlp_bias=False,
        normalization="layer",
        final_norm=final_norm,
        tied=True,
        n_ctx=35,
    )


def random_weights(model: ArithmeticTransformer, seed: int = 0) -> ArithmeticTransformer:
    """The model with every trained parameter drawn anew, biases and norms among them, so that each one matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.trained_parameters().items():
            center = 1.0 if name.endswith(".w") else 0.0
            parameter.copy_(center + 0.4 * torch.randn(parameter.shape, generator=generator))
    return model
