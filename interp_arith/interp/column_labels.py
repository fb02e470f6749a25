"""What probes are asked of each question: column features as classes, and controls; knows no activation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from interp_arith.errors import RequestError, unknown
from interp_arith.interp.discriminants import balanced, hits, moments, one_hot
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.columns import FEATURES
from interp_arith.tasks.sampling import draw_pair_labels, key, later

LEAST = 20
"""Questions of every label that a probe needs, both to be fitted on and to be scored on."""
NUMBERS = ("column_sum",)
"""Features that are no classes: what matters of the sum is its last digit and its case."""
FROM_BELOW = ("carry_in", "cascade_length", "borrow_in", "borrow_cascade_length")
"""Features that the columns below decide."""


@dataclass(frozen=True)
class Labels:
    """Labels of two sets of questions, those that probes are fitted on and those that they are scored on.

    Attributes:
        names: feature and column of each probe.
        n_classes: how many labels each probe has.
        fit: class of each question, −1 where the question has no label.
        held_out: likewise.
        left_out: feature and column -> why it has no probe.
    """

    names: tuple[tuple[str, int], ...]
    n_classes: tuple[int, ...]
    fit: Int[Tensor, "batch probe"]
    held_out: Int[Tensor, "batch probe"]
    left_out: dict[tuple[str, int], str]

    @property
    def most_classes(self) -> int:
        """Of any probe."""
        return max(self.n_classes)


def column_labels(
    task: Addition,
    fit: Int[Tensor, "batch operand column"],
    held_out: Int[Tensor, "batch operand column"],
    features: Sequence[str] | None = None,
    columns: Sequence[int] | None = None,
) -> Labels:
    """Labels of every feature in every column, or of some.

    A feature has no probe in a column where it has one label, or one that is too rare. Where only features are named,
    some column must have a probe of each; where columns are named too, each of them.

    Raises:
        RequestError: the task has no such feature or column, or what is named has no probe.
    """
    first, second = (task.columns(task.questions(drawn)) for drawn in (fit, held_out))
    chosen = [name for name in first if name not in NUMBERS] if features is None else _known(features, first)
    wanted = first["column"].to_numpy().tolist() if columns is None else _in_range(columns, first)
    kept: dict[tuple[str, int], tuple[np.ndarray, np.ndarray, int]] = {}
    left_out: dict[tuple[str, int], str] = {}
    for probe in ((str(name), int(column)) for name in chosen for column in wanted):
        pair = [found[probe[0]].sel(column=probe[1]).to_numpy() for found in (first, second)]
        classes = np.unique(np.concatenate([values[_is_there(values)] for values in pair]))
        codes = [_codes(values, classes) for values in pair]
        if (reason := _no_probe(classes, codes)) is not None:
            left_out[probe] = reason
        else:
            kept[probe] = codes[0], codes[1], len(classes)
    for name in chosen if features is not None else ():
        missing = [probe for probe in left_out if probe[0] == name]
        if len(missing) == len(wanted) or (columns is not None and missing):
            raise RequestError(f"{name} of column {missing[0][1]}: {left_out[missing[0]]}")
    if not kept:
        raise RequestError(
            f"no feature of {task.n_digits}-digit questions has a probe: {next(iter(left_out.values()))}"
        )
    codes = [torch.from_numpy(np.stack([found[i] for found in kept.values()], axis=1)) for i in (0, 1)]
    return Labels(tuple(kept), tuple(n for _, _, n in kept.values()), codes[0], codes[1], left_out)


def control_labels(
    labels: Labels,
    fit: Int[Tensor, "batch operand column"],
    held_out: Int[Tensor, "batch operand column"],
    seed: int = 0,
) -> tuple[Labels, Int[Tensor, " probe"]]:
    """A control for every probe: as many labels, given at random to the pairs of digits of its column.

    Of a feature that comes from below, and of the column beyond the operands', it is the column below. (Of more than
    two operands it is the first two.) Probes of as many labels and the same column share one.

    Returns:
        the controls, and which of them is whose.
    """
    wanted = [
        (n, _pair_column(probe, fit.shape[-1]))
        for n, probe in zip(labels.n_classes, labels.names, strict=True)
    ]
    distinct = sorted(set(wanted))

    def given(drawn: Int[Tensor, "batch operand column"]) -> Int[Tensor, "batch probe"]:
        tables = {
            n: draw_pair_labels(n, drawn.shape[-1], later(key(seed, "control"), n)) for n, _ in distinct
        }
        return torch.stack([tables[n][k][drawn[:, 0, k], drawn[:, 1, k]] for n, k in distinct], dim=1)

    names = tuple((f"control of {n} labels", column) for n, column in distinct)
    whose = torch.tensor([distinct.index(each) for each in wanted])
    return Labels(names, tuple(n for n, _ in distinct), given(fit), given(held_out), {}), whose


def single_token_baseline(
    fit: Int[Tensor, "batch pos"], held_out: Int[Tensor, "batch pos"], labels: Labels, d_vocab: int
) -> torch.Tensor:
    """How well one token alone tells each label: balanced accuracy [pos, probe] on the held-out questions.

    The predictor of a token is the label under which it is the most frequent, by its count among the questions to
    fit on. At each position it is that of the token, there or before, which is best among the questions to fit on.
    """
    n = labels.most_classes
    none = torch.zeros(1, dtype=torch.int64)
    frequent = moments(one_hot(fit, d_vocab), labels.fit, n, none)
    counts = frequent.counts[..., None]
    likelihood = frequent.sums / counts.where(counts > 0, 1.0) - (counts == 0).double()
    accuracy = []
    for tokens, of in ((fit, labels.fit), (held_out, labels.held_out)):
        found = torch.stack(
            [hits(likelihood[pos].movedim(-1, 0)[tokens[:, pos]], of) for pos in range(tokens.shape[1])]
        )
        accuracy.append(balanced(found, one_hot(of, n).sum(dim=0)))
    best = accuracy[0].cummax(dim=0).indices
    return accuracy[1].gather(0, best)


def groups(labels: Int[Tensor, "batch probe"]) -> tuple[Int[Tensor, " probe"], Int[Tensor, " group"]]:
    """Which probes have labels for the same questions: the group of each, and the first probe of each group."""
    patterns, group = (labels >= 0).unique(dim=1, return_inverse=True)
    first = [int((group == i).nonzero()[0]) for i in range(patterns.shape[1])]
    return group, torch.tensor(first)


def _known(features: Sequence[str], there: xr.Dataset) -> list[str]:
    for name in features:
        if name not in FEATURES:
            raise unknown("feature", name, FEATURES)
        if name not in there:
            raise RequestError(f"feature {name}: questions of this task have {', '.join(map(str, there))}")
    return list(dict.fromkeys(features))


def _in_range(columns: Sequence[int], there: xr.Dataset) -> list[int]:
    for column in columns:
        if not 0 <= column < there.sizes["column"]:
            raise RequestError(
                f"column {column}: questions of this task have columns 0 to {there.sizes['column'] - 1}"
            )
    return list(dict.fromkeys(columns))


def _is_there(values: np.ndarray) -> np.ndarray:
    return values != "" if values.dtype.kind == "U" else ~np.isnan(values)


def _codes(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    codes = np.searchsorted(classes, values) if len(classes) else np.zeros(len(values), dtype=np.int64)
    return np.where(_is_there(values), codes, -1)


def _no_probe(classes: np.ndarray, codes: list[np.ndarray]) -> str | None:
    """Why there is none."""
    if not len(classes):
        return "no question has it there; choose another column"
    names = classes.tolist() if classes.dtype.kind == "U" else [f"{value:g}" for value in classes]
    if len(classes) == 1:
        return f"its one label is {names[0]}, and a probe needs two; choose another column"
    least = np.min([np.bincount(each[each >= 0], minlength=len(classes)) for each in codes], axis=0)
    if least.min() < LEAST:
        rare = int(least.argmin())
        return (
            f"label {names[rare]} is too rare, {least[rare]} questions of {len(codes[0])}; a probe needs {LEAST}: "
            "ask more questions, or raise carry_share"
        )
    return None


def _pair_column(probe: tuple[str, int], n_digits: int) -> int:
    name, column = probe
    return max(0, min(column - (name in FROM_BELOW), n_digits - 1))
