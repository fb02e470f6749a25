"""Mechanistic interpretability for transformers that do arithmetic.

The public names, and nothing else; each is imported when it is first asked for, so that `import interp_arith`
stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp_arith.comparison import measure_seeds, runs_table
    from interp_arith.errors import RequestError, WorkError
    from interp_arith.importing import import_weights
    from interp_arith.interp.bootstrap import mean_over_seeds
    from interp_arith.interp.measures import measure
    from interp_arith.models.config import ModelConfig
    from interp_arith.models.transformer import ArithmeticTransformer, build_model
    from interp_arith.presets import preset, presets
    from interp_arith.report import write_report
    from interp_arith.runs import (
        Run,
        evaluate,
        find_runs,
        load_config,
        load_run,
        train,
        train_configs,
        train_seeds,
    )
    from interp_arith.sweep import sweep
    from interp_arith.sweep_results import load_sweep
    from interp_arith.tasks.addition import Addition, complexity
    from interp_arith.tasks.modular import ModularArithmetic
    from interp_arith.tasks.permutations import PermutationComposition
    from interp_arith.tasks.text import Text
    from interp_arith.training.config import RunConfig

__version__ = "0.1.0"

_HOMES = {
    "Addition": "tasks.addition",
    "ArithmeticTransformer": "models.transformer",
    "ModelConfig": "models.config",
    "ModularArithmetic": "tasks.modular",
    "PermutationComposition": "tasks.permutations",
    "RequestError": "errors",
    "Run": "run",
    "RunConfig": "training.config",
    "Text": "tasks.text",
    "WorkError": "errors",
    "build_model": "models.transformer",
    "complexity": "tasks.addition",
    "evaluate": "runs",
    "find_runs": "run",
    "import_weights": "importing",
    "load_config": "run",
    "load_run": "run",
    "load_sweep": "sweep_results",
    "mean_over_seeds": "interp.bootstrap",
    "measure": "interp.measures",
    "measure_seeds": "comparison",
    "preset": "presets",
    "presets": "presets",
    "runs_table": "comparison",
    "sweep": "sweep",
    "train": "runs",
    "train_configs": "runs",
    "train_seeds": "runs",
    "write_report": "report",
}

__all__ = [
    "Addition",
    "ArithmeticTransformer",
    "ModelConfig",
    "ModularArithmetic",
    "PermutationComposition",
    "RequestError",
    "Run",
    "RunConfig",
    "Text",
    "WorkError",
    "build_model",
    "complexity",
    "evaluate",
    "find_runs",
    "import_weights",
    "load_config",
    "load_run",
    "load_sweep",
    "mean_over_seeds",
    "measure",
    "measure_seeds",
    "preset",
    "presets",
    "runs_table",
    "sweep",
    "train",
    "train_configs",
    "train_seeds",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"interp_arith.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
