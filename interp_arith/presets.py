"""Named RunConfigs: one table."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from interp_arith.adder_presets import ADDER_PRESETS, Preset
from interp_arith.errors import unknown
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.base import Task
from interp_arith.tasks.modular import ModularArithmetic
from interp_arith.tasks.permutations import PermutationComposition
from interp_arith.tasks.text import Text
from interp_arith.training.config import Budget, CheckpointPlan, RunConfig, StopRule
from interp_arith.training.optimizers import AdamW, Muon
from interp_arith.training.schedules import Constant, Cosine, Decay

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


def _division(name: str, task: Task) -> Preset:
    """Smooth neurons, twice as many, at a lower rate, and for a while after every test question is right.

    With 512 ReLU neurons, as elsewhere, the key frequencies explained less than 0.7 of the logits' variance on three
    of five seeds: harmonics stay. Spikes after memorization leave more of them: clipping and epsilon tame those.
    """
    return _modular(
        name,
        task,
        "test accuracy ≥ 0.99 within 1,500 steps, most seeds",
        model=ModelConfig(activation="silu", d_mlp=1024),
        optimizer=AdamW(learning_rate=7e-3, weight_decay=1.5, epsilon=1e-5),
        clip_norm=0.2,
        stop=StopRule(metric="test_exact_match", threshold=1.0, hold=10),
    )


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
            "test accuracy ≥ 0.999 within 200 steps, for good",
            # With AdamW on the attention too, 12 of 12 seeds end right on all as well, but reach 0.999 at 140 steps;
            # with Muon in the MLP as well, 2 of 12 reach it. Chosen on other seeds than 0 to 73.
            model=ModelConfig(activation="gelu", d_mlp=320),
            optimizer=Muon(
                matrices="attention",
                learning_rate=0.1,
                momentum=0.9,
                weight_decay=0.3,
                adamw_learning_rate=2.8e-2,
                adamw_weight_decay=2.25,
                epsilon=8e-6,
            ),
            clip_norm=0.25,
            schedule=Decay(warmup_steps=10, start_fraction=0.5),
            budget=Budget(steps=200),
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
            name = f"mod-{short}-{p}"
            entries.append(
                _division(name, task)
                if short == "div"
                else _modular(name, task, "test accuracy ≥ 0.99 within 1,500 steps")
            )
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
        *ADDER_PRESETS,
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
