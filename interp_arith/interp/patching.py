"""Which nodes carry a feature from one question to another: interchange, its gradient, and paths between two nodes.

Sources: Geiger et al. 2021, "Causal abstractions of neural networks" (interchange); Nanda 2023, "Attribution
patching"; Wang et al. 2023, "Interpretability in the wild", section 3.1 (paths).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.forward import device, in_eval_mode
from interp_arith.interp.interventions import (
    Activations,
    Node,
    all_nodes,
    check_nodes,
    greedy,
    intervened,
    patch,
    recorded,
)
from interp_arith.interp.pairs import Pairs, feature_columns, matched_pairs, no_two_numbers, of_two
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.base import Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

DIRECTIONS = ("noising", "denoising")
EFFECTS = ("strong", "weak")
PAIRS_A_COLUMN = 24


@dataclass(frozen=True)
class Interchange:
    """Pairs that a model answers right, both of them, and what its nodes put out for each.

    Attributes:
        model: that was run.
        pairs: those that are left.
        base: its nodes, the base and its own answer read.
        source: its nodes, the source and its own answer read.
    """

    model: "ArithmeticTransformer"
    pairs: Pairs
    base: Activations
    source: Activations

    @property
    def positions(self) -> int:
        """That are read: of the question, and of the answer all but its last token."""
        return self.pairs.base.shape[1] + self.pairs.answer.shape[1] - 1

    def turned(self) -> "Interchange":
        """Base and source with their parts exchanged: what was noising is denoising."""
        return Interchange(self.model, self.pairs.turned(), self.source, self.base)

    def effects(self, nodes: Sequence[Node]) -> tuple[float, float]:
        """Strong and weak effect of patching some nodes together; see patch_effects."""
        return self.effects_of([patch(node, self.source) for node in nodes])

    def effects_of(self, interventions: Sequence) -> tuple[float, float]:
        """Strong and weak effect of any interventions."""
        pairs = self.pairs
        written = greedy(self.model, pairs.base, pairs.answer.shape[1], interventions, guess=pairs.answer)
        strong = (written == pairs.replaced).all(dim=-1)
        weak = (written != pairs.answer).any(dim=-1)
        return strong.double().mean().item(), weak.double().mean().item()


def interchange(model: "ArithmeticTransformer", pairs: Pairs) -> Interchange:
    """The pairs that a model answers right, run once each.

    Raises:
        RequestError: there are none.
    """
    pairs = pairs.each(lambda x: x.to(model.W_E.device))
    width = pairs.answer.shape[1]
    right = (greedy(model, pairs.base, width, guess=pairs.answer) == pairs.answer).all(dim=-1)
    right &= (greedy(model, pairs.source, width, guess=pairs.source_answer) == pairs.source_answer).all(
        dim=-1
    )
    if not right.any():
        raise RequestError(
            f"{pairs.feature} in column {pairs.column}: of {len(pairs)} pairs of questions the model answers none "
            "right, both of them; take a later step of its training, or more pairs"
        )
    pairs = pairs.each(lambda x: x[right])
    return Interchange(model, pairs, recorded(model, _read(pairs)), recorded(model, _read(pairs.turned())))


def patch_effects(
    model: "ArithmeticTransformer", pairs: Pairs, nodes: Sequence[Node] | None = None
) -> xr.DataArray:
    """How often one node, as it was for the other question, changes what the model writes; [direction, effect, node].

    The model decodes freely, and the patch stays. "noising" puts the source's activation, with the carry, into the
    base's run; "denoising" puts the base's into the source's. "strong": the whole answer becomes that question's own
    with the feature replaced. "weak": it changes at all. Shares of the pairs that the model answers right without,
    both of them; attribute `pairs` says how many.

    Args:
        model: in any mode.
        pairs: matched; see pairs.matched_pairs.
        nodes: to patch, one at a time; all unless given.

    Raises:
        RequestError: a node does not exist, or the model answers no pair right.
    """
    ready = interchange(model, pairs)
    if nodes is None:
        nodes = all_nodes(model.config, ready.positions)
    check_nodes(model.config, ready.positions, nodes)
    found = [[each.effects([node]) for node in nodes] for each in (ready, ready.turned())]
    return _labelled(found, [str(node) for node in nodes], ready)


def pair_effects(
    model: "ArithmeticTransformer", pairs: Pairs, positions: Iterable[int] | None = None
) -> xr.DataArray:
    """As patch_effects, of every two heads of one block at one position: "0.H1@5 + 0.H2@5".

    Raises:
        RequestError: a position does not exist, or the model answers no pair right.
    """
    ready, config = interchange(model, pairs), model.config
    wanted = range(ready.positions) if positions is None else list(positions)
    together = [
        (Node(block, first, at), Node(block, second, at))
        for block in range(config.n_layers)
        for first, second in combinations(range(config.n_heads), 2)
        for at in wanted
    ]
    check_nodes(config, ready.positions, [node for two in together for node in two])
    found = [[each.effects(two) for two in together] for each in (ready, ready.turned())]
    return _labelled(found, [f"{first} + {second}" for first, second in together], ready)


def attribution_patching(model: "ArithmeticTransformer", pairs: Pairs) -> xr.DataArray:
    """What patching each node would do to the answer, to first order; [node], in nats, all nodes in one pass.

    (source − base) · ∂m/∂activation, the mean over pairs, where m is the logit of the replaced answer's token less
    that of the base's own, summed over the answer tokens in which they differ, the base's answer before each. It is
    `logit_effect` where m is linear in the node.
    """
    ready = interchange(model, pairs)
    config, kept = model.config, {}

    def keep(x: Tensor, hook) -> Tensor:
        kept[hook.name] = x.detach().requires_grad_() if not x.requires_grad else x
        return kept[hook.name]

    nodes = all_nodes(config, ready.positions)
    names = list(dict.fromkeys(node.site.hook for node in nodes))
    with torch.enable_grad(), in_eval_mode(model), model.hooks(fwd_hooks=[(name, keep) for name in names]):
        score = _replaced_logit(model(_read(ready.pairs)), ready.pairs).sum()
        gradients = torch.autograd.grad(score, [kept[name] for name in names], allow_unused=True)
    slopes = dict(zip(names, gradients, strict=True))
    found = []
    for node in nodes:
        slope, change = slopes[node.site.hook], ready.source.at(node) - ready.base.at(node)
        share = 0.0 if slope is None else (node.site.read(slope) * change).sum(dim=-1).mean().item()
        found.append(share)
    return xr.DataArray(found, coords={"node": [str(node) for node in nodes]}, attrs={"units": "nats"})


@torch.no_grad()
def logit_effect(
    model: "ArithmeticTransformer", pairs: Pairs, nodes: Sequence[Node] | None = None
) -> xr.DataArray:
    """What patching each node does to the answer's logits, truly; [node], in nats; see attribution_patching."""
    ready = interchange(model, pairs)
    nodes = all_nodes(model.config, ready.positions) if nodes is None else nodes
    check_nodes(model.config, ready.positions, nodes)
    tokens, found = _read(ready.pairs), []
    with in_eval_mode(model):
        before = _replaced_logit(model(tokens), ready.pairs)
        for node in nodes:
            with intervened(model, [patch(node, ready.source)]):
                found.append((_replaced_logit(model(tokens), ready.pairs) - before).mean().item())
    return xr.DataArray(found, coords={"node": [str(node) for node in nodes]}, attrs={"units": "nats"})


def path_effect(model: "ArithmeticTransformer", pairs: Pairs, sender: Node, receiver: Node) -> xr.DataArray:
    """As patch_effects, of the direct path from one node to a later one; [direction, effect].

    The receiver gets what it would put out if the sender alone were the source's: every other node is held at what it
    was for the base, so that nothing else between them passes the change on.

    Args:
        model: in any mode.
        pairs: matched.
        sender: a head or an MLP.
        receiver: of a later block, or the MLP of a head's own block; at the sender's position or later.

    Raises:
        RequestError: a node does not exist, there is no such path, or the model answers no pair right.
    """
    ready = interchange(model, pairs)
    check_nodes(model.config, ready.positions, [sender, receiver])
    later = sender.block < receiver.block
    beside = sender.block == receiver.block and sender.head is not None and receiver.head is None
    reaches = sender.position == receiver.position
    if receiver.head is not None:
        reaches = sender.position <= receiver.position
    if not ((later or beside) and reaches):
        raise RequestError(
            f"there is no direct path from {sender} to {receiver}: a head reads earlier blocks up to its position, "
            "an MLP earlier blocks and the heads of its own, at its position; choose another receiver"
        )
    found = []
    for each in (ready, ready.turned()):
        others = [node for node in all_nodes(model.config, ready.positions) if node not in (sender, receiver)]
        held = [patch(node, each.base) for node in others]
        with intervened(model, [patch(sender, each.source), *held]):
            reached = recorded(model, _read(each.pairs))
        found.append(each.effects_of([patch(receiver, reached)]))
    coords = {"direction": list(DIRECTIONS), "effect": list(EFFECTS)}
    return xr.DataArray(found, coords=coords, attrs={"pairs": len(ready.pairs)})


def _read(pairs: Pairs) -> Int[Tensor, "batch pos"]:
    """What the model reads of the base: its question and its right answer but for the last token."""
    return torch.cat([pairs.base, pairs.answer[:, :-1]], dim=1)


def _replaced_logit(logits: Float[Tensor, "batch pos d_vocab_out"], pairs: Pairs) -> Float[Tensor, " batch"]:
    said = logits[:, pairs.base.shape[1] - 1 :]
    differs: Bool[Tensor, "batch answer"] = pairs.replaced != pairs.answer
    gain = said.gather(-1, pairs.replaced[..., None]) - said.gather(-1, pairs.answer[..., None])
    return (gain[..., 0] * differs).sum(dim=-1)


def _labelled(found: list[list[tuple[float, float]]], nodes: list[str], ready: Interchange) -> xr.DataArray:
    array = np.array(found, dtype=np.float64).reshape(len(DIRECTIONS), len(nodes), len(EFFECTS))
    coords = {"direction": list(DIRECTIONS), "node": nodes, "effect": list(EFFECTS)}
    whole = xr.DataArray(array, coords=coords, attrs={"pairs": len(ready.pairs)})
    return whole.transpose("direction", "effect", "node")


def by_place(found: xr.DataArray, config: ModelConfig) -> xr.DataArray:
    """What was found of all nodes, its dim `node` unfolded into block, part and pos."""
    n_parts = config.n_heads + (not config.attention_only)
    n_pos = found.sizes["node"] // (n_parts * config.n_layers)
    shape = (*found.shape[:-1], config.n_layers, n_parts, n_pos)
    assert found.dims[-1] == "node"
    nodes = all_nodes(config, n_pos)
    coords = {name: found[name].to_numpy() for name in found.dims[:-1]}
    coords |= {"block": np.arange(config.n_layers), "part": list(dict.fromkeys(node.part for node in nodes))}
    return xr.DataArray(
        found.to_numpy().reshape(shape), coords={**coords, "pos": np.arange(n_pos)}, attrs=found.attrs
    )


def patch_effect(subject: Subject) -> xr.DataArray:
    """How often a node, patched alone, carries `generate` of a column from one question to another; in [0, 1].

    Base and source differ in whether the column's digits sum to 10 or more (of a task that only subtracts, in
    whether they borrow); base_add and all other columns are the
    same (see pairs.matched_pairs), and the node's activation of one is put into the other's run, which then decodes
    freely. See patch_effects for direction and effect. Of 24 pairs a column, those that the model answers right:
    the coordinate `pairs` says how many.
    """
    task = of_two(subject.task)
    columns = feature_columns(task, "generate")
    where = device(subject)
    parts = [
        patch_effects(
            subject.model,
            matched_pairs(task, "generate", column, PAIRS_A_COLUMN).each(lambda x: x.to(where)),
        )
        for column in columns
    ]
    found = xr.concat(
        [by_place(part, subject.model.config) for part in parts],
        dim=xr.Variable("column", np.array(columns)),
        combine_attrs="drop",
    )
    return found.assign_coords(pairs=("column", [part.attrs["pairs"] for part in parts]))


def no_patching(task: Task, model: ModelConfig) -> str | None:
    """Why there are no matched pairs of questions."""
    return no_two_numbers(task)


PATCHING_MEASURES = (
    Measure(
        patch_effect,
        dims=("column", "direction", "effect", "block", "part", "pos"),
        units="1",
        source="Geiger et al. 2021, section 3",
        why_not=no_patching,
        cost="dear",
    ),
)
