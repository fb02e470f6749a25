"""Named RunConfigs of adders; the rest, and the table of all, are in presets."""

from dataclasses import dataclass
from typing import Any

from interp_arith.models.config import ModelConfig
from interp_arith.models.digit_positions import SegmentDigit
from interp_arith.models.positions import Learned, Rotary
from interp_arith.tasks.addition import Addition
from interp_arith.training.config import Budget, CheckpointPlan, RunConfig
from interp_arith.training.curricula import Everything, GrowDigits, Phases
from interp_arith.training.optimizers import AdamW, Muon
from interp_arith.training.schedules import Cosine


@dataclass(frozen=True)
class Preset:
    """A named config, and what it should reach.

    Attributes:
        config: what `interp-arith train NAME` trains.
        reaches: the aim, in a few words.
    """

    config: RunConfig
    reaches: str


_COSINE = Cosine(warmup_fraction=0.05, final_fraction=0.02)


def _adder(name: str, model: ModelConfig, steps: int, reaches: str, **fields: Any) -> Preset:
    """Ten digits in characters, units of the answer first, short operands before long ones."""
    defaults: dict[str, Any] = {
        "task": Addition(n_digits=10, carry_share=0.3),
        "curriculum": Phases(),
        "checkpoints": CheckpointPlan(every=1000, best_metric="val_exact_match", state_every=1000),
        "batch_size": 256,
        "log_every": 100,
        "evaluate_every": 500,
        "budget": Budget(steps=steps),
    }
    return Preset(RunConfig(name=name, model=model, **defaults | fields), reaches)


# From initial weights of full scale some seeds lock one answer digit's attention on the wrong column for good.
_SMALL_START = 0.3
_ADDER_763 = ModelConfig(
    d_model=7,
    n_heads=1,
    d_mlp=14,
    activation="gelu",
    normalization="layer",
    final_norm=False,
    mlp_bias=False,
    tied=True,
    n_ctx=35,
    init_scale=_SMALL_START,
)
# The operands are 11 positions apart: from draws alone many seeds never find the columns of some digit.
_ADDER_763_BY_COLUMN = _ADDER_763.model_copy(update={"positions": Learned(period=11)})
# Rotary positions cost no parameters; base 3 gives one wavelength near the distance between the operands.
_ADDER_TINY = _ADDER_763.model_copy(
    update={
        "d_model": 4,
        "d_head": 4,
        "d_mlp": 10,
        "n_ctx": None,
        "positions": Rotary(base=3),
        "init_scale": 1.0,
    }
)
_ADDER_RECIPE: dict[str, Any] = {
    "optimizer": AdamW(learning_rate=0.02, betas=(0.9, 0.99), weight_decay=0.01),
    "schedule": _COSINE,
    "clip_norm": 1.0,
}

# With AdamW some seeds of the narrow models leave a few answer digits wrong for good, from a circle too.
_NARROW_RECIPE: dict[str, Any] = _ADDER_RECIPE | {
    "optimizer": Muon(learning_rate=0.1, adamw_learning_rate=0.005, betas=(0.9, 0.99), weight_decay=0.01),
    "curriculum": Everything(),
}


def _plain_adder(name: str, layers: int, d_model: int, heads: int, d_mlp: int) -> Preset:
    """Sums of up to eight digits as people write them, with an end token."""
    model = ModelConfig(
        n_layers=layers,
        d_model=d_model,
        n_heads=heads,
        d_mlp=d_mlp,
        activation="gelu",
        normalization="layer",
        attention_bias=True,
    )
    task = Addition(n_digits=8, padded=False, end_token=True, answer_order="units-last", carry_share=0.3)
    return _adder(name, model, 60_000, "every test question right", task=task, **_LARGE_RECIPE)


_LARGE_RECIPE: dict[str, Any] = {
    "optimizer": AdamW(learning_rate=5e-4, betas=(0.9, 0.99), weight_decay=0.1),
    "schedule": Cosine(warmup_steps=500, final_fraction=0.02),
    "clip_norm": 1.0,
    "curriculum": Phases(max_digits=(2, 4), fractions=(0.1, 0.2)),
}
_COMPACT_ROPE = ModelConfig(
    n_layers=6,
    d_model=256,
    n_heads=8,
    d_mlp=768,
    activation="silu",
    gated=True,
    normalization="rms",
    positions=Rotary(),
    mlp_bias=False,
    tied=True,
)


def _looks_ahead(name: str, steps: int, reaches: str, layers: int = 2, **task: Any) -> Preset:
    """The highest digit of the answer comes first, so that it needs every carry."""
    return _adder(
        name,
        _LOOKS_AHEAD.model_copy(update={"n_layers": layers}),
        steps,
        reaches,
        task=Addition.model_validate({"answer_order": "units-last", "carry_share": 0.3} | task),
        optimizer=AdamW(learning_rate=3e-3, betas=(0.9, 0.99), weight_decay=0.01),
        schedule=_COSINE,
        clip_norm=1.0,
        curriculum=Everything(),
        batch_size=64,
    )


_LOOKS_AHEAD = ModelConfig(d_model=64, n_heads=4, d_mlp=256, activation="gelu", normalization="layer")


def _grows(
    name: str, model: ModelConfig, digits: int, steps: int, steps_per_epoch: int, reaches: str, **fields: Any
) -> Preset:
    """Sums without leading zeros, one more digit every epoch, validated up to 30 digits.

    Where a longer sum is read than in training, attention sharpens with the logarithm of what it sees.
    """
    read = 3 * digits + 3  # two numbers, their signs, the answer
    model = model.model_copy(update={"attention_scale_from": read})
    task = {"n_digits": digits, "padded": False, "end_token": True, "carry_share": 0.3}
    grid = {"val_step": 5, "val_max_digits": 30, "val_grid_questions": 100} | fields.pop("grid", {})
    recipe = {"schedule": _COSINE, "clip_norm": 1.0, "curriculum": GrowDigits()} | fields
    budget = Budget(steps=steps, steps_per_epoch=steps_per_epoch)
    return _adder(name, model, steps, reaches, task=Addition(**task | grid), budget=budget, **recipe)


# Gaps bring places together in training that are further apart than its numbers are long.
_GROWS = ModelConfig(
    d_model=64,
    n_heads=4,
    d_head=32,
    d_mlp=256,
    activation="gelu",
    normalization="layer",
    positions=SegmentDigit(max_place=32, gap=32),
)


ADDER_PRESETS = (
    _adder(
        "add-10d-763",
        _ADDER_763_BY_COLUMN,
        24_000,
        "≥ 99.9 % of ten-digit sums",
        **_NARROW_RECIPE,
    ),
    _adder(
        "add-10d-777",
        _ADDER_763_BY_COLUMN.model_copy(update={"final_norm": True}),
        24_000,
        "≥ 99.9 % of ten-digit sums",
        **_NARROW_RECIPE,
    ),
    _adder(
        "add-10d-4k",
        ModelConfig(
            d_model=16,
            n_heads=2,
            d_mlp=64,
            activation="gelu",
            normalization="layer",
            init_scale=_SMALL_START,
        ),
        4_500,
        "every one of 2,000 ten-digit sums",
        **_ADDER_RECIPE | {"optimizer": AdamW(learning_rate=0.01, betas=(0.9, 0.99), weight_decay=0.01)},
    ),
    _adder(
        "add-10d-tiny",
        _ADDER_TINY,
        27_000,
        "≥ 99.9 % of ten-digit sums",
        # Each digit of the answer stands at the same distances from the digits that it needs.
        task=Addition(n_digits=10, operand_order="units-first", carry_share=0.3),
        **_NARROW_RECIPE
        | {
            "optimizer": Muon(
                learning_rate=0.1, adamw_learning_rate=0.02, betas=(0.9, 0.99), weight_decay=0.01
            )
        },
    ),
    # The two passes of the published recipe: a plateau, then a new start from its last weights.
    _adder(
        "add-10d-763-long",
        _ADDER_763,
        400_000,
        "a plateau, for the second pass to leave",
        optimizer=AdamW(learning_rate=0.02, betas=(0.9, 0.99), weight_decay=0.1),
        schedule=Cosine(warmup_fraction=0.05, final_fraction=0.02),
        clip_norm=1.0,
        batch_size=128,
        checkpoints=CheckpointPlan(every=10_000, best_metric="val_exact_match", state_every=5_000),
        log_every=1000,
        evaluate_every=2500,
    ),
    _adder(
        "add-10d-763-second",
        _ADDER_763,
        50_000,
        "≥ 99.9 % of ten-digit sums, from the last weights of add-10d-763-long",
        init_from="add-10d-763-long-s0",
        optimizer=AdamW(learning_rate=0.005, betas=(0.9, 0.99), weight_decay=0.01),
        schedule=Cosine(warmup_steps=100, final_fraction=0.02),
        clip_norm=1.0,
        curriculum=Everything(),
    ),
    _looks_ahead("add-5d-msb", 10_000, "≤ 10 errors in a million", n_digits=5),
    _looks_ahead("add-5d-msb-1l", 10_000, "the longer a cascade, the more errors", layers=1, n_digits=5),
    _looks_ahead("sub-5d", 15_000, "≤ 10 errors in a million", layers=3, n_digits=5, operation="subtract"),
    _looks_ahead("mixed-6d", 30_000, "≤ 10 errors in a million", layers=3, n_digits=6, operation="mixed"),
    _grows(
        "add-2d-small",
        _GROWS,
        10,
        15_000,
        200,
        "≥ 99 % at 20 digits, trained on 10",
        optimizer=AdamW(learning_rate=3e-3, betas=(0.9, 0.99), weight_decay=0.1),
        batch_size=128,
        checkpoints=CheckpointPlan(every=500, best_metric="grid_exact_match", state_every=500),
    ),
    _grows(
        "add-2d",
        _GROWS.model_copy(
            update={
                "n_layers": 6,
                "n_heads": 6,
                "d_model": 384,
                "d_head": None,
                "d_mlp": 1536,
            }
        ),
        15,
        50_000,
        2_000,
        "≥ 99 % at 30 digits, trained on 15",
        grid={"val_step": 4},
        optimizer=AdamW(learning_rate=6e-4, betas=(0.9, 0.99), weight_decay=0.1),
        curriculum=GrowDigits(start=3),
        checkpoints=CheckpointPlan(every=2_000, best_metric="grid_exact_match", state_every=1_000),
    ),
    _plain_adder("math-llm-small", 4, 256, 4, 512),
    _plain_adder("math-llm-medium", 6, 512, 8, 1024),
    _plain_adder("math-llm-large", 8, 512, 8, 2048),
    _adder(
        "compact-rope",
        _COMPACT_ROPE,
        60_000,
        "every test question right",
        task=Addition(
            n_digits=8,
            padded=False,
            end_token=True,
            answer_order="units-last",
            scratchpad=True,
            carry_share=0.3,
        ),
        **_LARGE_RECIPE,
    ),
)
