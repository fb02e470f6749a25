"""Which nodes are enough for each digit of an answer, all others held at their means; and what each of them brings.

Sources: Wang et al. 2023, "Interpretability in the wild", section 4 (faithfulness); Conmy et al. 2023, "Towards
automated circuit discovery" (elimination); Michel et al. 2019, "Are sixteen heads really better than one?", section
4.1 (the order in which heads are dropped, by the gradient at their masks).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.errors import RequestError
from interp_arith.interp.ablation import RANDOM_CIRCUITS, USEFUL, Asked, ablations, by_class
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.forward import Hook, in_eval_mode
from interp_arith.interp.interventions import Activations, Node, all_nodes
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
from interp_arith.models.transformer import ArithmeticTransformer
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.sampling import shuffled_rows

FLOOR = 0.98
"""Of the questions of every class, so many keep the digit right while nodes are dropped."""
SEARCHED, CHECKED, BY_CHANCE = 100, 1000, 200  # questions a class; the last for random circuits
_AT_ONCE = 1000  # questions


@dataclass(frozen=True)
class MeanHeld:
    """A model whose nodes are held at their means over uniform questions, wholly or in part.

    Attributes:
        model: in any mode.
        means: of every node, [block pos head d_head] and [block pos d_model].
        nodes: in the order of masks.
        positions: that are read.
    """

    model: ArithmeticTransformer
    means: Activations
    nodes: tuple[Node, ...]
    positions: int

    @classmethod
    def of(cls, model: ArithmeticTransformer, asked: Asked) -> "MeanHeld":
        """The model, with means over the run that was asked with it."""
        mlps = asked.run.mlps
        means = Activations(asked.run.heads.mean(dim=1), None if mlps is None else mlps.mean(dim=1))
        return cls(model, means, tuple(all_nodes(model.config, asked.positions)), asked.positions)

    def mask(self, kept: Sequence[Node]) -> Float[Tensor, " node"]:
        """1 for those nodes, 0 for all others."""
        keeps = set(kept)
        return torch.tensor([float(node in keeps) for node in self.nodes], device=self.means.heads.device)

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Float[Tensor, " node"]
    ) -> Float[Tensor, "batch pos d_vocab_out"]:
        """mean + mask · (activation − mean) at every node; positions beyond the tokens are left out."""
        config, n_pos = self.model.config, tokens.shape[1]
        by_place = rearrange(
            mask, "(block part pos) -> block pos part", block=config.n_layers, pos=self.positions
        )[:, :n_pos]
        hooks: list[Hook] = []
        for block, parts in enumerate(by_place):
            heads, mlp = parts[:, : config.n_heads, None], parts[:, config.n_heads :]
            hooks.append((f"blocks.{block}.attn.hook_z", _pull(self.means.heads[block, :n_pos], heads)))
            if self.means.mlps is not None:
                hooks.append((f"blocks.{block}.hook_mlp_out", _pull(self.means.mlps[block, :n_pos], mlp)))
        with in_eval_mode(self.model), self.model.hooks(fwd_hooks=hooks):  # pyright: ignore[reportArgumentType]
            return self.model(tokens)


def _pull(mean: Tensor, mask: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda x, hook: torch.lerp(mean, x, mask.expand_as(x))


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
        parts = [self.held.logits(part, mask)[:, -1] for part in self.tokens.split(_AT_ONCE)]
        logits = torch.cat(parts)
        right = (logits.argmax(dim=-1) == self.target).view(self.classes, -1).double().mean(dim=1)
        return right.cpu().numpy(), functional.cross_entropy(logits, self.target).item()

    def by_gradient(self, kept: Sequence[Node]) -> list[Node]:
        """The nodes that are kept, first those whose loss would cost least, to first order."""
        mask = self.held.mask(kept).requires_grad_()
        loss = functional.cross_entropy(self.held.logits(self.tokens, mask)[:, -1], self.target)
        (slope,) = torch.autograd.grad(loss, mask)
        cost = dict(zip(self.held.nodes, (-slope).tolist(), strict=True))
        return sorted(kept, key=lambda node: cost[node])


def digit_circuit(digit: Digit, floor: float = FLOOR) -> list[Node]:
    """Nodes that are enough for one digit, none of which can go.

    Backward elimination: from all nodes, as many as possible are dropped at once in the order of the gradient at
    their masks, by halves, as long as the digit stays right in the floor's share of every class. When no more can
    go so, each is tried alone, and those that can go are dropped in the order of their loss, again by halves; until
    every one that is left is needed. It is one such set; where nodes stand in for each other there are more.

    Raises:
        RequestError: the model itself does not reach the floor.
    """
    kept = digit.nodes
    if (least := digit.tried(kept)[0].min()) < floor:
        raise RequestError(
            f"the model is right in {least:.1%} of a class, less than the floor of {floor:.1%}; take a later step "
            "of its training, or a lower floor"
        )
    while dropped := _most(digit, kept, digit.by_gradient(kept), floor):
        kept = [node for node in kept if node not in dropped]
    while True:
        alone = {node: digit.tried([other for other in kept if other != node]) for node in kept}
        can_go = [node for node, (right, _) in alone.items() if right.min() >= floor]
        can_go.sort(key=lambda node: alone[node][1])
        dropped = _most(digit, kept, can_go, floor)
        if not dropped:
            return kept
        kept = [node for node in kept if node not in dropped]


def _most(digit: Digit, kept: Sequence[Node], order: Sequence[Node], floor: float) -> set[Node]:
    """The first of the nodes in an order, all or half or a quarter …, that can be dropped together; {} if none."""
    count = len(order)
    while count:
        dropped = set(order[:count])
        if digit.tried([node for node in kept if node not in dropped])[0].min() >= floor:
            return dropped
        count //= 2
    return set()


def digit_circuits(
    model: ArithmeticTransformer,
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
    held = MeanHeld.of(model, seen)
    rows: dict[str, list] = {name: [] for name in ("named", "right", "whole", "random", "lost")}
    circuits: list[list[Node]] = []
    width = seen.answers.shape[1]
    for index in range(width):
        circuit = digit_circuit(Digit.of(held, seen, index), floor)
        circuits.append(circuit)
        digit, rough = Digit.of(held, other, index), Digit.of(held, other.first(BY_CHANCE), index)
        right = digit.tried(circuit)[0]
        lost = dict.fromkeys(held.nodes, float("nan"))
        for node in circuit:
            left = [kept for kept in circuit if kept != node]
            lost[node] = (right - digit.tried(left)[0]).max()
        chance = [rough.tried(nodes)[0] for nodes in _random(digit.nodes, len(circuit), seed)]
        rows["named"].append([node in set(circuit) for node in held.nodes])
        rows["right"].append(right)
        rows["whole"].append(digit.tried(digit.nodes)[0])
        rows["random"].append(np.median(chance, axis=0))
        rows["lost"].append(list(lost.values()))
    union = [node for node in held.nodes if any(node in circuit for circuit in circuits)]
    useful = (ablations(model, by_class(model, task, seed=seed)).lost > USEFUL).any("complexity")
    chance = [
        exact_match(held, other.first(BY_CHANCE), nodes) for nodes in _random(held.nodes, len(union), seed)
    ]
    dims = {"named": "node", "lost": "node"}
    return xr.Dataset(
        {name: (("answer", dims.get(name, "complexity")), np.array(found)) for name, found in rows.items()}
        | {
            "useful": ("node", useful.to_numpy()),
            "exact_match": ("complexity", exact_match(held, other, union)),
            "random_exact_match": ("complexity", np.median(chance, axis=0)),
        },
        coords={
            "answer": np.arange(width),
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


@torch.no_grad()
def exact_match(held: MeanHeld, asked: Asked, kept: Sequence[Node]) -> Float[np.ndarray, " complexity"]:
    """Share of answers that a model writes wholly right, by class, with all other nodes at their means.

    It is that of free decoding: the first token that is wrong stays wrong.
    """
    tokens = torch.cat([asked.prompts, asked.answers[:, :-1]], dim=1)
    mask, first = held.mask(kept), asked.prompts.shape[1] - 1
    said = torch.cat([held.logits(part, mask)[:, first:].argmax(dim=-1) for part in tokens.split(_AT_ONCE)])
    right: Bool[Tensor, " batch"] = (said == asked.answers).all(dim=-1)
    return right.view(len(asked.names), -1).double().mean(dim=1).cpu().numpy()


def brought(
    model: ArithmeticTransformer,
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
    ),
    Measure(
        circuit_node_loss,
        dims=("answer", "block", "part", "pos"),
        units="1",
        source=_SOURCE,
        why_not=no_digit_circuits,
        cost="dear",
    ),
    Measure(
        circuit_exact_match,
        dims=("complexity", "circuit"),
        units="1",
        source=_SOURCE,
        why_not=no_digit_circuits,
        cost="dear",
    ),
)
