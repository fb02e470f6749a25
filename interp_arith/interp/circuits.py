"""Which nodes bring the carry into each digit of the answer: a filter, then strong interchange, of one node or two.

Source: Quirke et al. 2024, "Understanding addition and subtraction in transformers", section 4, for the filter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from interp_arith.interp.ablation import USEFUL, Asked, ablations, by_class
from interp_arith.interp.forward import in_eval_mode
from interp_arith.interp.interventions import Node, all_nodes
from interp_arith.interp.pairs import feature_columns, matched_pairs, of_two
from interp_arith.interp.patching import PAIRS_A_COLUMN, interchange
from interp_arith.tasks.addition import Addition

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

STRONG = 0.9
ATTENDS = 0.1


@dataclass(frozen=True)
class Found:
    """Nodes that together carry a feature of one column into the answer.

    Attributes:
        column: of the answer digit that the carry enters.
        nodes: one, or two heads of one block at one position.
        noising: share of base questions that get the carry with the source's activations.
        denoising: share of source questions that lose it with the base's.
    """

    column: int
    nodes: tuple[Node, ...]
    noising: float
    denoising: float


def carry_nodes(
    model: "ArithmeticTransformer",
    task: Addition,
    columns: Sequence[int] | None = None,
    n: int = PAIRS_A_COLUMN,
    seed: int = 0,
) -> list[Found]:
    """The nodes that bring `generate` of a column to the answer digit above it.

    Candidates are silenced alone: their mean ablation breaks that digit in more than 1 % of the questions. Heads
    also give the column's digits a tenth of their attention, or more, at that position. A candidate is found where
    patching it is strong in 0.9 of the pairs, in both directions. Where no single one is, all pairs of candidate
    heads of one block at one position are tried.

    Args:
        model: in any mode.
        task: of two numbers, padded so that columns have one place.
        columns: in which a carry is generated; all unless given.
        n: pairs of questions a column.
        seed: of their draw.

    Raises:
        RequestError: the task has no such sums, or the model answers no pair right.
    """
    task = of_two(task)
    asked = by_class(model, task)
    nodes = all_nodes(model.config, asked.positions)
    broken = ablations(model, asked, nodes).broken
    pattern = mean_attention(model, asked)
    found = []
    for column in feature_columns(task, "generate") if columns is None else columns:
        ready = interchange(model, matched_pairs(task, "generate", column, n, seed))
        attends = attention_to_column(pattern, task, asked, column)
        breaks = broken.sel(column=column + 1).to_numpy() > USEFUL
        candidates = [
            node
            for node, affects in zip(nodes, breaks, strict=True)
            if affects and (node.head is None or attends[node.block, node.head, node.position])
        ]
        singles: list[tuple[Node, ...]] = [(node,) for node in candidates]
        tried = [(each, ready.effects(each)[0], ready.turned().effects(each)[0]) for each in singles]
        if not any(min(effects) >= STRONG for _, *effects in tried):
            two = [each for each in combinations(candidates, 2) if are_heads_of_one_place(*each)]
            tried = [(each, ready.effects(each)[0], ready.turned().effects(each)[0]) for each in two]
        found += [Found(column + 1, *each) for each in tried if min(each[1:]) >= STRONG]
    return found


def are_heads_of_one_place(first: Node, second: Node) -> bool:
    """Whether both are heads of one block at one position."""
    places = {(node.block, node.position) for node in (first, second)}
    return len(places) == 1 and first.head is not None and second.head is not None


@torch.no_grad()
def mean_attention(model: "ArithmeticTransformer", asked: Asked) -> Tensor:
    """The mean pattern over questions and their right answers, [block, head, query, key]."""
    tokens = torch.cat([asked.prompts, asked.answers[:, :-1]], dim=1)
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(model.config.n_layers)]
    with in_eval_mode(model):
        _, cache = model.run_with_cache(tokens, names_filter=names)
    return torch.stack([cache[name].mean(dim=0) for name in names])


def attention_to_column(
    pattern: Tensor, task: Addition, asked: Asked, column: int
) -> Bool[Tensor, "block head query"]:
    """Where a head gives the operands' digits of a column a tenth of its attention, or more."""
    places = task.places(asked.prompts[:1])
    is_digit = (places.place[0] == column) & (places.segment[0] < task.operands)
    return pattern[..., : len(is_digit)][..., is_digit].sum(dim=-1) >= ATTENDS
