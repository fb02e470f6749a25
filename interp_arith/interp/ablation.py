"""What breaks when nodes are silenced, whether a named circuit is enough, and by which route a carry comes.

Sources: Quirke & Barez 2023 and Quirke et al. 2024 (ablation by class); Wang et al. 2023, "Interpretability in the
wild", section 4 (faithfulness).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.forward import in_eval_mode
from interp_arith.interp.interventions import (
    Activations,
    Node,
    Put,
    all_nodes,
    check_nodes,
    greedy,
    mean,
    recorded,
    resample,
    zero,
)
from interp_arith.interp.pairs import adding, as_rows, no_sums_of_two, no_two_numbers, of_two
from interp_arith.interp.patching import by_place
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.class_draws import draw_class, draw_sides
from interp_arith.tasks.columns import classes
from interp_arith.tasks.sampling import Limits, key, later, shuffled_rows

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

How = Literal["mean", "zero", "resample"]
QUESTIONS_A_CLASS = 48
RANDOM_CIRCUITS = 20
USEFUL = 0.01
"""A node is useful if its mean ablation costs more than this share of the questions of some class."""
_ROUTE_QUESTIONS = 200


@dataclass(frozen=True)
class Asked:
    """The same number of questions of every complexity class, and what a model's nodes put out for uniform ones.

    Attributes:
        names: the classes.
        prompts: questions, one class after the other.
        answers: the right ones.
        run: nodes for as many other questions, uniform ones, each before its right answer; means are taken over it.
        column: which column of the sum each answer token is; −1 for an end.
    """

    names: tuple[str, ...]
    prompts: Int[Tensor, "batch pos"]
    answers: Int[Tensor, "batch answer"]
    run: Activations
    column: tuple[int, ...]

    @property
    def positions(self) -> int:
        """That are read."""
        return self.prompts.shape[1] + self.answers.shape[1] - 1

    def first(self, n: int) -> "Asked":
        """The first n questions of each class, or all where there are fewer."""
        prompts, answers = (
            x.unflatten(0, (len(self.names), -1))[:, :n].flatten(0, 1) for x in (self.prompts, self.answers)
        )
        return replace(self, prompts=prompts, answers=answers)

    def right(
        self, model: "ArithmeticTransformer", changes: Sequence[Put] = ()
    ) -> Bool[Tensor, "name batch answer"]:
        """Which answer tokens are right, by class, decoding freely under interventions."""
        written = greedy(model, self.prompts, self.answers.shape[1], changes, guess=self.answers)
        return (written == self.answers).unflatten(0, (len(self.names), -1))

    def exact_match(
        self, model: "ArithmeticTransformer", changes: Sequence[Put] = ()
    ) -> Float[np.ndarray, " complexity"]:
        """Share of whole answers that are right, by class."""
        return self.right(model, changes).all(dim=-1).double().mean(dim=-1).cpu().numpy()


def by_class(
    model: "ArithmeticTransformer",
    task: Task,
    names: Sequence[str] | None = None,
    n: int = QUESTIONS_A_CLASS,
    seed: int = 0,
) -> Asked:
    """Questions of every class, or of those that are named, and one run of the model over them.

    Raises:
        RequestError: the task is not of two numbers, or there is no class of that name, or hardly a question.
    """
    task = of_two(task)
    names = classes(task.n_digits, task.operation) if names is None else tuple(names)
    draws = [
        draw_class(name, n, task.n_digits, later(key(seed, "pairs"), i + 1)) for i, name in enumerate(names)
    ]
    drawn = [
        task.drawn_from(pairs, subtracts=not name.startswith("S"))
        for pairs, name in zip(draws, names, strict=True)
    ]
    questions = task.questions(torch.cat(drawn))
    where = model.W_E.device
    prompts, answers = task.tokens(questions).to(where), task.answer_tokens(questions).to(where)
    limits = Limits(task.n_digits, task.n_digits, 0.0)
    uniform = task.questions(task.sample("train", len(questions), key(seed, "pairs"), limits))
    run = recorded(model, task.examples(uniform).tokens.to(where))
    return Asked(names, prompts, answers, run, answer_columns(task))


def answer_columns(task: Addition) -> tuple[int, ...]:
    """The column of each answer token; −1 for a sign, an end, and where it depends on the length of the answer."""
    if not task.padded and task.answer_order == "units-last":
        return (-1,) * task.spelling.target_width
    digits = list(range(task.spelling.answer_digits))
    if task.answer_order == "units-last":
        digits.reverse()
    signs = [-1] * (task.spelling.has_sign and task.padded)  # a sum has none unless it is padded
    written = [*digits, *signs] if task.answer_order == "units-first" else [*signs, *digits]
    return (*written, *[-1] * (task.spelling.target_width - len(written)))


def silenced(node: Node, how: How, asked: Asked, seed: int = 0) -> Put:
    """The intervention that ablates a node.

    Raises:
        RequestError: there is no such way.
    """
    if how == "mean":
        return mean(node, asked.run)
    if how == "zero":
        return zero(node, asked.run)
    if how == "resample":
        n = len(asked.prompts)
        order = torch.from_numpy(shuffled_rows(n, n, seed, 0)).to(asked.prompts.device)
        return resample(node, asked.run, order)
    raise RequestError(f"ablation by {how!r}: choose mean, zero or resample")


def ablations(
    model: "ArithmeticTransformer",
    asked: Asked,
    nodes: Sequence[Node] | None = None,
    how: How = "mean",
    seed: int = 0,
) -> xr.Dataset:
    """What silencing each node, alone, does to answers that are decoded freely.

    Args:
        model: in any mode.
        asked: questions, and the run over which means and other values are taken.
        nodes: all unless given.
        how: "mean" over uniform questions, "zero", or "resample": another question's.
        seed: which other question.

    Returns:
        lost [complexity, node]: exact match before less after; broken [column, node]: share of all questions whose
        digit of that column is wrong after and was right before.

    Raises:
        RequestError: a node does not exist, or there is no such way.
    """
    nodes = all_nodes(model.config, asked.positions) if nodes is None else nodes
    check_nodes(model.config, asked.positions, nodes)
    before = asked.right(model)
    columns = sorted(column for column in asked.column if column >= 0)  # none where lengths differ
    lost, broken = [], []
    for node in nodes:
        after = asked.right(model, [silenced(node, how, asked, seed)])
        whole = before.all(dim=-1).double() - after.all(dim=-1).double()
        lost.append(whole.mean(dim=-1).cpu().numpy())
        digits = (before & ~after).double().mean(dim=(0, 1)).cpu().numpy()
        broken.append([digits[asked.column.index(column)] for column in columns])
    labels = [str(node) for node in nodes]
    return xr.Dataset(
        {
            "lost": (("complexity", "node"), np.array(lost).reshape(len(labels), -1).T),
            "broken": (("column", "node"), np.array(broken).reshape(len(labels), -1).T),
        },
        coords={"complexity": list(asked.names), "column": columns, "node": labels},
    )


def faithfulness(
    model: "ArithmeticTransformer", asked: Asked, circuit: Sequence[Node], seed: int = 0
) -> xr.Dataset:
    """Whether a circuit is enough: exact match by class with every node that it does not name at its mean.

    Returns:
        exact_match [complexity], of the circuit; whole [complexity], of the model as it is; random [complexity], the
        median of 20 random circuits of the same size; share, the circuit's of all useful nodes (whose mean ablation
        alone costs more than 1 % of some class; NaN without any); lost [complexity, node], what dropping each named
        node from the circuit costs.

    Raises:
        RequestError: a node does not exist, or none is named.
    """
    nodes, named = all_nodes(model.config, asked.positions), list(dict.fromkeys(circuit))
    check_nodes(model.config, asked.positions, named)
    if not named:
        raise RequestError(
            "the circuit names no node: nothing would be left; name those of all_nodes that it needs"
        )
    means = {node: mean(node, asked.run) for node in nodes}

    def left(kept: Sequence[Node]) -> Float[np.ndarray, " complexity"]:
        keeps = set(kept)
        return asked.exact_match(model, [put for node, put in means.items() if node not in keeps])

    found = left(named)
    per_shuffle = len(nodes) // len(named)
    chance = [
        left([nodes[row] for row in shuffled_rows(len(nodes), len(named), seed, i * per_shuffle)])
        for i in range(RANDOM_CIRCUITS)
    ]
    alone = ablations(model, asked, nodes).lost
    useful = {
        node for node, is_useful in zip(nodes, (alone > USEFUL).any("complexity"), strict=True) if is_useful
    }
    share = len(useful & set(named)) / len(useful) if useful else float("nan")
    dropped = [found - left([other for other in named if other != node]) for node in named]
    return xr.Dataset(
        {
            "exact_match": ("complexity", found),
            "whole": ("complexity", asked.exact_match(model)),
            "random": ("complexity", np.median(chance, axis=0)),
            "share": share,
            "lost": (("complexity", "node"), np.array(dropped).T),
        },
        coords={"complexity": list(asked.names), "node": [str(node) for node in named]},
    )


def route_of_carries(
    model: "ArithmeticTransformer", task: Addition, n: int = _ROUTE_QUESTIONS
) -> xr.DataArray:
    """Share of questions in which digit k follows a changed digit k−1 of the model's own answer; [column].

    Questions have r = 9 and a carry into column k−1, so that its digit is 0. In the input that digit is replaced by
    the 9 that it would be without the carry, and digit k follows if it becomes what it would be without one.
    """
    task, columns = adding(task), range(2, task.n_digits + 1)
    generates, nines = (
        torch.tensor([((x, y),) for x in range(10) for y in range(10) if wanted(x + y)])
        for wanted in (lambda r: r >= 10, lambda r: r == 9)
    )
    found = []
    for column in columns:
        drawn = draw_sides(
            n, task.n_digits, key(column, "pairs"), {column - 2: generates, column - 1: nines}
        )[0]
        rows = as_rows(task, task.questions(drawn))
        tokens = task.examples(rows).tokens.clone().to(model.W_E.device)
        first = task.answer_positions[0]
        tokens[:, first + column] = 9
        r = drawn.sum(dim=1)[:, column] if column < task.n_digits else torch.zeros(n, dtype=torch.int64)
        with torch.no_grad(), in_eval_mode(model):
            said = model(tokens)[:, first + column].argmax(dim=-1).cpu()
        found.append((said == r % 10).double().mean().item())
    return xr.DataArray(found, coords={"column": np.array(columns)})


def carry_route(subject: Subject) -> xr.DataArray:
    """By which route a carry reaches each column: near 1 the model reads its own output, near 0 the operands; [0, 1].

    See route_of_carries, of 200 questions a column; all other columns are uniform. In column 2 and above: below, no
    carry can come through a column of 9.
    """
    return route_of_carries(subject.model, adding(subject.task))


def no_route(task: Task, model: ModelConfig) -> str | None:
    """Why the route of carries cannot be told: no digit is written before the one that its carry enters."""
    if (reason := no_sums_of_two(task)) is not None:
        return reason
    assert isinstance(task, Addition)
    if task.answer_order != "units-first":
        return (
            "the answer begins with its highest digit, before its carries; it is of answer_order units-first"
        )
    if not task.padded or task.n_digits < 2:
        return "it is of numbers of a fixed length of 2 digits or more; choose padded = True and n_digits = 2"
    return None


def no_classes(task: Task, model: ModelConfig) -> str | None:
    """Why nodes cannot be ablated by class: questions are not of two numbers."""
    return no_two_numbers(task)


def no_digits(task: Task, model: ModelConfig) -> str | None:
    """Why nodes cannot be ablated by digit: besides, the columns of an answer cannot be told by its tokens."""
    if (reason := no_two_numbers(task)) is not None:
        return reason
    assert isinstance(task, Addition)
    if not task.padded and task.answer_order == "units-last":
        return "an answer begins at another column where it is shorter; choose padded = True"
    return None


def measured_ablations(subject: Subject) -> xr.Dataset:
    """Every node at its mean, alone."""
    return ablations(subject.model, by_class(subject.model, subject.task))


def ablation_effect(subject: Subject) -> xr.DataArray:
    """Exact match lost, by complexity class, when a node is held at its mean over uniform questions; in [−1, 1].

    48 questions of each class; answers are decoded freely. See ablations for other ways
    to ablate.
    """
    return by_place(subject.get(measured_ablations).lost, subject.model.config)


def ablation_digits(subject: Subject) -> xr.DataArray:
    """Which digits of the answer break when a node is held at its mean: share of questions; see ablation_effect."""
    return by_place(subject.get(measured_ablations).broken, subject.model.config)


_SOURCE = "Quirke & Barez 2023, section 4"
ABLATION_MEASURES = (
    Measure(
        ablation_effect,
        dims=("complexity", "block", "part", "pos"),
        units="1",
        source=_SOURCE,
        why_not=no_classes,
        cost="dear",
    ),
    Measure(
        ablation_digits,
        dims=("column", "block", "part", "pos"),
        units="1",
        source=_SOURCE,
        why_not=no_digits,
        cost="dear",
    ),
    Measure(
        carry_route,
        dims=("column",),
        units="1",
        source="Quirke et al. 2024",
        why_not=no_route,
        cost="dear",
    ),
)
