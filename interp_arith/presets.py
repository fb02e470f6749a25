"""Named RunConfigs: one table."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from interp_arith.errors import unknown
from interp_arith.models.config import ModelConfig
from interp_arith.models.positions import Learned, Rotary
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.modular import ModularArithmetic
from interp_arith.tasks.permutations import PermutationComposition
from interp_arith.tasks.text import Text
from interp_arith.training.config import Budget, CheckpointPlan, RunConfig, StopRule
from interp_arith.training.curricula import Everything, Phases
from interp_arith.training.optimizers import AdamW, Muon
from interp_arith.training.schedules import Constant, Cosine, Decay


@dataclass(frozen=True)
class Preset:
    """A named config, and what it should reach.

    Attributes:
        config: what `interp-arith train NAME` trains.
        reaches: the aim, in a few words.
    """

    config: RunConfig
    reaches: str


_WARM = Constant(warmup_steps=10)
_GENERALIZED = StopRule(metric="test_exact_match", threshold=1.0, hold=5)


def _modular(name: str, task: Task, reaches: str, **fields: Any) -> Preset:
    """A one-layer ReLU model without norms on number tokens, full batch: it groks."""
    defaults: dict[str, Any] = {
        "model": ModelConfig(),
        "optimizer": AdamW(learning_rate=1e-2, weight_decay=1.0),
        "schedule": _WARM,
        "budget": Budget(steps=1500),
        "stop": _GENERALIZED,
        "checkpoints": CheckpointPlan(every=25, best_metric="test_accuracy", state_every=100),
    }
    return Preset(RunConfig(name=name, task=task, **defaults | fields), reaches)


def _characters(operation: str, p: int, layers: int) -> Preset:
    name = {"add": "add", "subtract": "sub"}[operation]
    task = ModularArithmetic.model_validate(
        {"p": p, "operation": operation, "format": "characters", "train_fraction": 0.7, "val_fraction": 0.15}
    )
    config = RunConfig(
        name=f"char-{name}-{p}-{layers}l",
        task=task,
        model=_CHARACTER_MODEL.model_copy(update={"n_layers": layers}),
        optimizer=AdamW(learning_rate=1e-3, weight_decay=0.3),
        # At a constant rate the noise of small batches keeps the last few percent away.
        schedule=Cosine(warmup_steps=10, final_fraction=0.02),
        budget=Budget(steps=8_000),
        stop=StopRule(metric="test_exact_match", threshold=0.99),
        checkpoints=CheckpointPlan(every=500, best_metric="val_exact_match", state_every=500),
        batch_size=64,
        log_every=50,
        evaluate_every=250,
    )
    return Preset(config, "test exact match ≥ 0.99")


_CHARACTER_MODEL = ModelConfig(activation="gelu", normalization="layer", attention_bias=True)


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
# Rotary positions cost no parameters; one pair that turns once in 11 tokens meets both digits of a column.
_ADDER_TINY = _ADDER_763.model_copy(
    update={
        "d_model": 3,
        "d_head": 2,
        "d_mlp": 10,
        "n_ctx": None,
        "positions": Rotary(period=11),
        "init_scale": 1.0,
    }
)
_ADDER_RECIPE: dict[str, Any] = {
    "optimizer": AdamW(learning_rate=0.02, betas=(0.9, 0.99), weight_decay=0.01),
    "schedule": Cosine(warmup_fraction=0.05, final_fraction=0.02),
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
        schedule=Cosine(warmup_fraction=0.05, final_fraction=0.02),
        clip_norm=1.0,
        curriculum=Everything(),
        batch_size=64,
    )


_LOOKS_AHEAD = ModelConfig(d_model=64, n_heads=4, d_mlp=256, activation="gelu", normalization="layer")


def _sanity(name: str, mask_first_n: int) -> Preset:
    config = RunConfig(
        name=name,
        task=Text(text_to_learn="I know every carry by heart.", mask_first_n=mask_first_n),
        model=ModelConfig(d_model=64, n_heads=2, d_mlp=128, activation="gelu", normalization="layer"),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.0),
        schedule=_WARM,
        budget=Budget(steps=1000),
        stop=StopRule(metric="train_loss", threshold=1e-4),
        checkpoints=CheckpointPlan(every=100, best_metric="train_loss", state_every=100),
    )
    return Preset(config, "training loss 0 (below 1e-4) within 1,000 steps")


def _table() -> dict[str, Preset]:
    entries = [
        _modular(
            "mod-add-113",
            ModularArithmetic(p=113),
            "every test question right, most seeds within 600 steps",
            # At 1 one seed of ten keeps harmonics in its logits; at 2 memorizing and generalizing nearly meet.
            optimizer=AdamW(learning_rate=1e-2, weight_decay=1.5),
        ),
        _modular(
            "mod-add-113-fast",
            ModularArithmetic(p=113),
            "test accuracy ≥ 0.999 within 250 steps, for good",
            # A larger epsilon and clipping tame the spikes after memorization; the decay lets the weights settle.
            # Of the seeds 0 to 9 one ends just below with ReLU, none with GELU; with 512 neurons two of 10 to 13 do.
            model=ModelConfig(activation="gelu", d_mlp=1024, init_scale=0.5),
            optimizer=AdamW(learning_rate=1.4e-2, weight_decay=2.25, epsilon=3e-6),
            clip_norm=0.2,
            schedule=Decay(warmup_steps=10, start_fraction=0.75, final_fraction=0.02),
            budget=Budget(steps=250),
            stop=StopRule(),
            evaluate_every=5,
        ),
        _modular(
            "mod-add-113-canonical",
            ModularArithmetic(p=113),
            "Nanda et al. 2023: test loss < 1e-2 near 8,000 to 14,000 steps",
            optimizer=AdamW(learning_rate=1e-3, weight_decay=1.0),
            budget=Budget(steps=40_000),
            stop=StopRule(),
            checkpoints=CheckpointPlan(every=400, best_metric="test_accuracy", state_every=1000),
            log_every=100,
            evaluate_every=100,
        ),
    ]
    for short, operation in {"add": "add", "sub": "subtract", "mul": "multiply", "div": "divide"}.items():
        for p in (97, 113):
            if (short, p) == ("add", 113):
                continue
            task = ModularArithmetic.model_validate({"p": p, "operation": operation, "train_fraction": 0.5})
            entries.append(_modular(f"mod-{short}-{p}", task, "test accuracy ≥ 0.99 within 1,500 steps"))
    entries += [
        _characters(op, p, layers) for op in ("add", "subtract") for p in (97, 113) for layers in (1, 2)
    ]
    entries += [
        Preset(
            _characters("subtract", 97, 2).config.replace(
                name="char-div-97-2l",
                task=ModularArithmetic(
                    p=97, operation="divide", format="characters", train_fraction=0.7, val_fraction=0.15
                ),
                optimizer=AdamW(learning_rate=1e-3, weight_decay=1.0),
                batch_size=512,
            ),
            "test exact match ≥ 0.99",
        ),
        _modular(
            "mod-s5",
            PermutationComposition(train_fraction=0.5),
            "test accuracy ≥ 0.99",
            budget=Budget(steps=5000),
        ),
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
            "≥ 99.9 % of ten-digit sums; give it --init-from a run of add-10d-763-long",
            optimizer=AdamW(learning_rate=0.005, betas=(0.9, 0.99), weight_decay=0.01),
            schedule=Cosine(warmup_steps=100, final_fraction=0.02),
            clip_norm=1.0,
            curriculum=Everything(),
        ),
        _looks_ahead("add-5d-msb", 10_000, "≤ 10 errors in a million", n_digits=5),
        _looks_ahead("add-5d-msb-1l", 10_000, "the longer a cascade, the more errors", layers=1, n_digits=5),
        _looks_ahead(
            "sub-5d", 15_000, "≤ 10 errors in a million", layers=3, n_digits=5, operation="subtract"
        ),
        _looks_ahead("mixed-6d", 20_000, "≤ 10 errors in a million", layers=3, n_digits=6, operation="mixed"),
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
        _sanity("sanity", 0),
        _sanity("sanity-masked", 3),
    ]
    return {entry.config.name: entry for entry in entries}


PRESETS = _table()
_MEASURED = Path(__file__).with_name("measured.json")


def measured(name: str) -> str:
    """What runs of a preset reached and how long they took, as benchmarks/results.py found it; "" where none ran."""
    return json.loads(_MEASURED.read_text(encoding="utf-8")).get(name, "") if _MEASURED.is_file() else ""


def presets() -> list[str]:
    """The names of all presets."""
    return list(PRESETS)


def preset(name: str, /, **overrides: Any) -> RunConfig:
    """The config of a preset, with some fields replaced.

    >>> preset("mod-add-113", budget={"steps": 300}).budget.steps
    300

    Raises:
        RequestError: no such preset (with the nearest names), or a field is wrong.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name].config.replace(**overrides)


class _CallableModule(ModuleType):
    """`interp_arith.presets` is this module as well as a public function: called, it is the function."""

    def __call__(self) -> list[str]:
        return presets()


sys.modules[__name__].__class__ = _CallableModule
