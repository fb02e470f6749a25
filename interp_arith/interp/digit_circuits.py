"""Which nodes are enough for each digit of an answer, all others held at their means; and what each of them brings.

Sources: Wang et al. 2023, "Interpretability in the wild", section 4 (faithfulness); Conmy et al. 2023, "Towards
automated circuit discovery" (elimination).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.errors import RequestError
from interp_arith.interp.ablation import RANDOM_CIRCUITS, USEFUL, Asked, ablations, by_class
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.interventions import Node
from interp_arith.interp.mean_held import AT_ONCE, MeanHeld, exact_match
from interp_arith.interp.pairs import (
    PAIR_FEATURES,
    Signed,
    feature_columns,
    matched_pairs,
    no_two_numbers,
    of_two,
)
from interp_arith.interp.patching import PAIRS_A_COLUMN, by_place, patch_effects
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.sampling import shuffled_rows

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

FLOOR = 0.98
"""Of the questions of every class, so many keep the digit right while nodes are dropped."""
SEARCHED, CHECKED, BY_CHANCE = 100, 1000, 200  # questions a class; the last for random circuits


@dataclass(frozen=True)
class Digit:
    """Questions of every class, read up to where one token of their right answer is predicted.

    Attributes:
        held: the model.
        tokens: that are read; the last position predicts.
        target: what is right there.
        classes: how many there are, one after the other, each of as many questions.
    """

    held: MeanHeld
    tokens: Int[Tensor, "batch pos"]
    target: Int[Tensor, " batch"]
    classes: int

    @classmethod
    def of(cls, held: MeanHeld, asked: Asked, index: int) -> "Digit":
        """The answer token of that index."""
        read = torch.cat([asked.prompts, asked.answers[:, :index]], dim=1)
        return cls(held, read, asked.answers[:, index], len(asked.names))

    @property
    def nodes(self) -> list[Node]:
        """Those that can matter: no later position does."""
        return [node for node in self.held.nodes if node.position < self.tokens.shape[1]]

    @torch.no_grad()
    def tried(self, kept: Sequence[Node]) -> tuple[Float[np.ndarray, " complexity"], float]:
        """With all other nodes at their means: the share that is right, by class, and the mean loss of all."""
        mask = self.held.mask(kept)
        parts = [self.held.logits(part, mask)[:, -1] for part in self.tokens.split(AT_ONCE)]
        logits = torch.cat(parts)
        right = (logits.argmax(dim=-1) == self.target).view(self.classes, -1).double().mean(dim=1)
        return right.cpu().numpy(), functional.cross_entropy(logits, self.target).item()


def digit_circuit(digit: Digit, floor: float = FLOOR) -> list[Node]:
    """Nodes that are enough for one digit, none of which can go.

    Backward elimination: each node is dropped alone; those without which the digit stays right in the floor's share
    of every class are then dropped together, from the one whose loss costs least, by halves where they cannot all
    go. This is repeated until every node that is left is needed. It is one such set; where nodes stand in for each
    other there are more.

    Raises:
        RequestError: the model itself does not reach the floor.
    """
    kept = digit.nodes
    if (least := digit.tried(kept)[0].min()) < floor:
        raise RequestError(
            f"the model is right in {least:.1%} of a class, less than the floor of {floor:.1%}; take a later step "
            "of its training, or a lower floor"
        )
    while True:
        alone = {node: digit.tried([other for other in kept if other != node]) for node in kept}
        can_go = [node for node, (right, _) in alone.items() if right.min() >= floor]
        left = _without(digit, kept, sorted(can_go, key=lambda node: alone[node][1]), floor)
        if len(left) == len(kept):
            return kept
        kept = left


def _without(digit: Digit, kept: list[Node], order: list[Node], floor: float) -> list[Node]:
    """What is kept without those of an order that can go: all of them, or of its halves, the first half first."""
    gone = set(order)
    left = [node for node in kept if node not in gone]
    if digit.tried(left)[0].min() >= floor:
        return left
    if len(order) < 2:
        return kept
    half = len(order) // 2
    return _without(digit, _without(digit, kept, order[:half], floor), order[half:], floor)


@dataclass(frozen=True)
class Found:
    """The circuit of one digit, on questions that the search did not see.

    Attributes:
        nodes: that it names.
        right: share of questions of each class whose digit is right with them alone.
        whole: with all nodes.
        random: the median of random circuits of the same size.
        lost: what dropping a node that is named costs in the class that needs it most.
    """

    nodes: list[Node]
    right: Float[np.ndarray, " complexity"]
    whole: Float[np.ndarray, " complexity"]
    random: Float[np.ndarray, " complexity"]
    lost: dict[Node, float]

    @classmethod
    def of(cls, seen: Digit, other: Digit, rough: Digit, floor: float, seed: int) -> "Found":
        """Search on some questions, look at others, and at few of them for random circuits."""
        nodes = digit_circuit(seen, floor)
        right = other.tried(nodes)[0]
        lost = {
            node: (right - other.tried([kept for kept in nodes if kept != node])[0]).max() for node in nodes
        }
        chance = [rough.tried(drawn)[0] for drawn in _random(other.nodes, len(nodes), seed)]
        return cls(nodes, right, other.tried(other.nodes)[0], np.median(chance, axis=0), lost)


def digit_circuits(
    model: "ArithmeticTransformer",
    task: Task,
    floor: float = FLOOR,
    searched: int = SEARCHED,
    checked: int = CHECKED,
    seed: int = 0,
) -> xr.Dataset:
    """A circuit for every token of the answer, and how faithful it is on questions that the search did not see.

    The right tokens stand before the digit. Everything that a circuit does not name is held at its mean over uniform
    questions.

    Args:
        model: in any mode.
        task: of two numbers, padded so that columns have one place.
        floor: share of every class that stays right in the search.
        searched: questions of each class that the search sees.
        checked: others of each class, for what is returned.
        seed: of all draws.

    Returns:
        named [answer, node]: whether the digit's circuit names it; right, whole, random [answer, complexity]: share
        of questions whose digit is right with the circuit alone, with all nodes, and the median of 20 random circuits
        of its size, of nodes that the digit can see (on 200 questions of a class); lost [answer, node]: what dropping
        a named node costs in the class that needs it most; useful [node]: whether its mean ablation alone costs more
        than 1 % of some class; exact_match, random_exact_match [complexity]: whole answers by all circuits together,
        and by as many random nodes. Coordinates `column` (−1: a sign or an end), and `block`, `part`, `position` of
        nodes.

    Raises:
        RequestError: the task is of another kind, or the model does not reach the floor.
    """
    task = of_two(task)
    if (reason := no_digit_circuits(task, model.config)) is not None:
        raise RequestError(f"digit circuits: {reason}")
    seen, other = (by_class(model, task, n=n, seed=2 * seed + i) for i, n in enumerate((searched, checked)))
    held, rough = MeanHeld.of(model, seen), other.first(BY_CHANCE)
    found = [
        Found.of(Digit.of(held, seen, i), Digit.of(held, other, i), Digit.of(held, rough, i), floor, seed)
        for i in range(seen.answers.shape[1])
    ]
    union = [node for node in held.nodes if any(node in one.lost for one in found)]
    chance = [exact_match(held, rough, nodes) for nodes in _random(held.nodes, len(union), seed)]
    useful = (ablations(model, by_class(model, task, seed=seed)).lost > USEFUL).any("complexity")
    by_node, by_class_ = ("answer", "node"), ("answer", "complexity")
    return xr.Dataset(
        {
            "named": (by_node, [[node in one.lost for node in held.nodes] for one in found]),
            "lost": (by_node, [[one.lost.get(node, np.nan) for node in held.nodes] for one in found]),
            "right": (by_class_, [one.right for one in found]),
            "whole": (by_class_, [one.whole for one in found]),
            "random": (by_class_, [one.random for one in found]),
            "useful": ("node", useful.to_numpy()),
            "exact_match": ("complexity", exact_match(held, other, union)),
            "random_exact_match": ("complexity", np.median(chance, axis=0)),
        },
        coords={
            "answer": np.arange(len(found)),
            "column": ("answer", list(seen.column)),
            "complexity": list(seen.names),
            "node": [str(node) for node in held.nodes],
            "block": ("node", [node.block for node in held.nodes]),
            "part": ("node", [node.part for node in held.nodes]),
            "position": ("node", [node.position for node in held.nodes]),
        },
    )


def _random(nodes: Sequence[Node], size: int, seed: int) -> list[list[Node]]:
    """20 random circuits."""
    each = len(nodes) // size
    return [
        [nodes[row] for row in shuffled_rows(len(nodes), size, seed, i * each)]
        for i in range(RANDOM_CIRCUITS)
    ]


def brought(
    model: "ArithmeticTransformer",
    task: Task,
    nodes: Sequence[Node],
    n: int = PAIRS_A_COLUMN,
    seed: int = 0,
    operation: Signed | None = None,
) -> xr.DataArray:
    """What each node brings to the answer: interchange of one feature of one column at a time, [feature, node].

    Features are named as "base_add 3", "generate 2" (the carry, or borrow, out of column 2) and "propagate 2" (its
    tri-case). Values are the shares of matched pairs whose whole answer becomes that with the feature replaced, the
    larger of noising and denoising; see patching.patch_effects. Nodes that share a feature score low one by one.

    Raises:
        RequestError: a node does not exist, or the model answers no pair right.
    """
    task = of_two(task)
    found = {}
    for feature in PAIR_FEATURES[:3]:
        for column in feature_columns(task, feature, operation):
            pairs = matched_pairs(task, feature, column, n, seed, operation)
            effects = patch_effects(model, pairs, nodes).sel(effect="strong").max("direction")
            found[f"{feature} {column}"] = effects.to_numpy()
    return xr.DataArray(
        np.array(list(found.values())),
        coords={"feature": list(found), "node": [str(node) for node in nodes]},
        dims=("feature", "node"),
    )


def no_digit_circuits(task: Task, model: ModelConfig) -> str | None:
    """Why digits have no circuits: columns do not have one place each."""
    if (reason := no_two_numbers(task)) is not None:
        return reason
    assert isinstance(task, Addition)
    return None if task.padded else "every column must be at one position; choose padded = True"


def circuits_found(subject: Subject) -> xr.Dataset:
    """Of every digit, with the standard numbers of questions."""
    return digit_circuits(subject.model, subject.task)


def circuit_nodes(subject: Subject) -> xr.DataArray:
    """Which nodes are enough for each token of the answer, all others held at their means: 1 where a node is named.

    Found by backward elimination on 100 questions of each complexity class, the token being right in 98 % of each;
    none that is named can go. It is one such set; nodes that stand in for each other are named once. The coordinate
    `column` says which digit a token is (−1: a sign or an end).
    """
    found = subject.get(circuits_found)
    return by_place(found["named"].astype(float), subject.model.config).assign_coords(
        column=("answer", found["column"].to_numpy())
    )


def circuit_node_loss(subject: Subject) -> xr.DataArray:
    """What dropping a named node from a digit's circuit costs in the complexity class that needs it most; in [−1, 1].

    Share of 1,000 questions of a class that the search did not see. NaN where a node is not named: see circuit_nodes.
    """
    found = subject.get(circuits_found)
    return by_place(found["lost"], subject.model.config).assign_coords(
        column=("answer", found["column"].to_numpy())
    )


def circuit_exact_match(subject: Subject) -> xr.DataArray:
    """Whole answers that are right with the circuits of all digits together, all other nodes held at their means.

    By complexity class, on 1,000 questions of each that the search did not see. `circuit`: "named", that of
    circuit_nodes; "random", the median of 20 sets of as many random nodes, on 200 questions of each class.
    """
    found = subject.get(circuits_found)
    both = [found["exact_match"], found["random_exact_match"]]
    return xr.concat(both, dim=xr.Variable("circuit", ["named", "random"])).transpose("complexity", "circuit")


_SOURCE = "Wang et al. 2023, section 4; Conmy et al. 2023"
CIRCUIT_MEASURES = (
    Measure(
        circuit_nodes,
        dims=("answer", "block", "part", "pos"),
        units="1",
        source=_SOURCE,
        why_not=no_digit_circuits,
        cost="dear",
        version=2,
    ),
    Measure(
        circuit_node_loss,
        dims=("answer", "block", "part", "pos"),
        units="1",
        source=_SOURCE,
        why_not=no_digit_circuits,
        cost="dear",
        version=2,
    ),
    Measure(
        circuit_exact_match,
        dims=("complexity", "circuit"),
        units="1",
        source=_SOURCE,
        why_not=no_digit_circuits,
        cost="dear",
        version=2,
    ),
)
