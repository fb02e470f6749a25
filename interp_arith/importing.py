"""Runs of weights that others trained: a run directory with one checkpoint."""

import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.evaluation.protocols import PROTOCOLS
from interp_arith.models.imported import Layout, imported_model, layout_of, read_tensors
from interp_arith.models.transformer import ArithmeticTransformer
from interp_arith.presets import preset
from interp_arith.run import Run, load_config
from interp_arith.storage import RunDirectory
from interp_arith.tasks.base import Task
from interp_arith.tasks.pairs import PairTask
from interp_arith.tasks.sources import question_sets
from interp_arith.training.checkpoints import create
from interp_arith.training.config import RunConfig
from interp_arith.training.lanes import environment

STATUS = "imported"
STEP = 0
"""Of the one checkpoint: how long others trained is not known."""


def import_weights(
    weights: str | Path | Mapping[str, Tensor],
    config: RunConfig | str | Path,
    name: str | None = None,
    out: str | Path = "runs",
    split: np.ndarray | None = None,
    layout: Layout = "auto",
    ignore: Sequence[str] = (),
    vocabulary: Sequence[str] | None = None,
) -> Run:
    """A run of somebody else's weights, with one checkpoint, at step 0, and its status "imported".

    Of the config its task and its model matter; the rest says how such a run would be trained here.

    Args:
        weights: a file that `torch.save` or safetensors wrote, or a state dict; pickled code is never run.
        config: a RunConfig, a preset's name or a YAML file.
        name: of the run directory, which has no seed in its name; the config's own name if None.
        out: the folder of runs.
        split: True at [a, b] where a question was trained on; the task's own split if None.
        layout: "transformer-lens", "transposed" as in early grokking code, or "auto".
        ignore: names of tensors to leave out.
        vocabulary: their tokens in the order of their ids, where it is another than the task's:
            `list("0123456789+-=")`. A token for padding, or an end that is not written, may be missing: it gets the
            vectors of "=", which answers nothing.

    Raises:
        RequestError: the file, the weights or the split do not fit, or the run exists; nothing is written.
    """
    config = _finished(config, name, split)
    source, digest = "a state dict", None
    if isinstance(weights, str | Path):
        file = Path(weights)
        weights, source = read_tensors(file), str(file)
        digest = sha256(file.read_bytes()).hexdigest()
    model = imported_model(weights, config.model, config.task, layout, ignore, vocabulary)
    found = scores(model, config)
    metrics = {
        f"{row['set']}_{what}": float(row[what])
        for row in found.to_dict("records")
        for what in ("loss", "accuracy", "exact_match")
    }
    info = {
        "status": STATUS,
        "source": source,
        "source_sha256": digest,
        "layout": layout_of(weights) if layout == "auto" else layout,
        "vocabulary": None if vocabulary is None else list(vocabulary),
        "step": STEP,
        "summary": {"last": {"step": STEP, **metrics}},
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **environment(),
    }
    trained = {key: parameter.detach().clone() for key, parameter in model.trained_parameters().items()}
    return _write(RunDirectory(Path(out) / config.name), config, trained, metrics, info)


def scores(model: ArithmeticTransformer, config: RunConfig) -> pd.DataFrame:
    """Loss and accuracy on every split, which show whether the weights were read as they were meant."""
    sets = question_sets(config.task, config.data_dir)
    return PROTOCOLS.make("test").evaluate(model, config.task, sets).table


def _finished(config: RunConfig | str | Path, name: str | None, split: np.ndarray | None) -> RunConfig:
    if not isinstance(config, RunConfig):
        is_file = str(config).endswith((".yaml", ".yml"))
        config = load_config(config) if is_file else preset(str(config))
    if split is not None:
        config = config.replace(task=_with_split(config.task, split))
    return config if name is None else config.replace(name=name)


def _with_split(task: Task, split: np.ndarray) -> Task:
    if not isinstance(task, PairTask):
        raise RequestError(f"split mask: the {task.kind} task draws its questions; leave the mask out")
    return task.with_split(split)


def _write(
    directory: RunDirectory,
    config: RunConfig,
    weights: Mapping[str, Tensor],
    metrics: Mapping[str, float],
    info: Mapping[str, Any],
) -> Run:
    """The run directory; it is a run from the moment that its config stands, so that comes last."""
    if directory.path.exists() and not directory.path.is_dir():
        raise RequestError(f"{directory.path} is a file; give another --name or --out")
    with directory.lock():
        if any(not file.name.startswith(".") for file in directory.path.iterdir()):
            raise RequestError(f"{directory.path} exists already; give another --name or --out")
        directory.write_checkpoint(STEP, weights, metrics)
        directory.append_metrics([{"step": STEP, **metrics}])
        directory.write_info(info)
        create(config, directory)
    return Run(directory.path)
