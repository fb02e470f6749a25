"""Parameters of many seeds stacked on a leading axis, and what can be computed with them; knows no files.

One run is an ensemble of one.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import is_foldable
from interp_arith.models.lean import answer_logits
from interp_arith.models.position_scheme import Ids
from interp_arith.models.single import single_logits
from interp_arith.models.stacked import stacked_logits
from interp_arith.tasks import scoring
from interp_arith.tasks.base import Examples
from interp_arith.training.side_by_side import side_by_side, workers_on

_ROWS_AT_ONCE = 8192  # of each seed, however many there are: sums in other parts would differ in the last bit
_ALIGNMENT = 64  # bytes: PyTorch's new memory on a CPU begins at a multiple


def stack(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Dicts of tensors -> one dict with a leading seed axis."""
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def join(stacks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks one after the other, as one."""
    return {name: torch.cat([each[name] for each in stacks]) for name in stacks[0]}


def member(stacked: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """One seed's tensors, copied to the CPU."""
    return {name: tensor[index].detach().cpu().clone() for name, tensor in stacked.items()}


def alone(stacked: Mapping[str, Float[Tensor, "seed ..."]], seed: int) -> dict[str, Tensor]:
    """One seed as an ensemble of one, whose products round as those of the seed alone."""
    here = slice(seed, seed + 1)
    return {name: x[here] if _is_apart(x) else x[here].clone() for name, x in stacked.items()}


def _members_apart(stacked: Mapping[str, Float[Tensor, "seed ..."]]) -> list[dict[str, Tensor]]:
    """Each seed's tensors, `_apart`."""
    parts = zip(*(_apart(tensor) for tensor in stacked.values()), strict=True)
    return [dict(zip(stacked, own, strict=True)) for own in parts]


def stack_examples(members: Sequence[Examples], device: torch.device) -> Examples:
    """Examples of every seed, with a leading seed axis; where one has fewer, rows that count nowhere."""
    longest = max(len(m.tokens) for m in members)

    def stacked(field: str) -> Tensor:
        rows = (getattr(m, field) for m in members)
        return torch.stack([functional.pad(x, (0, 0, 0, longest - len(x))) for x in rows]).to(device)

    return Examples(stacked("tokens"), stacked("targets"), stacked("mask"))


def logits(
    config: ModelConfig,
    parameters: Mapping[str, Float[Tensor, "seed ..."]],
    tokens: Tensor,
    answer_positions: Sequence[int],
    mapped: bool | None = None,
    ids: Ids | None = None,
    asker: int | None = None,
) -> Float[Tensor, "seed batch answer d_vocab_out"]:
    """Answer logits of every seed on its own tokens [seed, batch, pos].

    A GPU maps over the seeds, one kernel for all. A CPU takes them one after the other: its batched matrix products
    are several times slower than single ones, and so a seed in an ensemble follows the seed alone to the bit, where
    all have as many questions.
    `mapped` chooses otherwise. `ids` are those of `answer_logits`, [seed, batch, pos]; so is `asker`.
    """
    mapped = tokens.device.type != "cpu" if mapped is None else mapped
    foldable = is_foldable(config, len(answer_positions))

    def one(parameters: Mapping[str, Tensor], tokens: Tensor, ids: Ids) -> Tensor:
        if foldable and asker is not None and not mapped:
            return single_logits(config, parameters, tokens[:, : answer_positions[0] + 1], asker)
        return answer_logits(
            config, parameters, tokens, answer_positions, mapped=mapped, ids=ids, asker=asker
        )

    if mapped and foldable and asker is not None:
        return stacked_logits(config, parameters, tokens[..., : answer_positions[0] + 1], asker)
    ids = dict(ids or {})
    if mapped:
        return torch.vmap(one)(dict(parameters), tokens, ids)
    members = _members_apart(parameters)
    each_ids = ({name: rows[index] for name, rows in ids.items()} for index in range(len(members)))
    each = [one(*each) for each in zip(members, tokens, each_ids, strict=True)]
    return each[0][None] if len(each) == 1 else _Stacked.apply(*each)


def _apart(stacked: Float[Tensor, "seed ..."]) -> tuple[Tensor, ...]:
    """Each seed's part, copied unless it begins where new memory may begin; of one seed, which is whole, as it is.

    How a product of matrices rounds can depend on that: MKL adds in another order where an operand does not begin at
    a multiple of 16 bytes.
    """
    if len(stacked) == 1:
        return (stacked.squeeze(0),)  # the gradient of this is no copy
    parts = stacked.unbind()
    return parts if _is_apart(stacked) else tuple(part.clone() for part in parts)


def _is_apart(stacked: Float[Tensor, "seed ..."]) -> bool:
    """Whether each seed's part begins where new memory may begin."""
    return len(stacked) == 1 or stacked.stride(0) * stacked.element_size() % _ALIGNMENT == 0


class _Stacked(torch.autograd.Function):
    """`torch.stack`, whose gradient is taken `_apart`."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return _apart(gradients[0])


@torch.no_grad()
def score(
    config: ModelConfig,
    parameters: Mapping[str, Float[Tensor, "seed ..."]],
    examples: Examples,
    answer_positions: Sequence[int],
    ids: Ids | None = None,
    asker: int | None = None,
    cores: int = 1,
) -> dict[str, Float[Tensor, " seed"]]:
    """Loss (softmax, nats per answer token), token accuracy and exact match of every seed on its own examples.

    On a CPU of each seed by itself, as many side by side as its `cores` have room for: then it holds the logits of
    those, and rounds as for the seed alone.
    """
    n_seeds = len(examples.tokens)
    if n_seeds > 1 and examples.tokens.device.type == "cpu":

        def scored(seed: int) -> dict[str, Float[Tensor, " seed"]]:
            own_ids = {name: rows[seed, None] for name, rows in (ids or {}).items()}
            own_examples = examples.rows(slice(seed, seed + 1))
            return score(config, alone(parameters, seed), own_examples, answer_positions, own_ids, asker)

        each = side_by_side(scored, range(n_seeds), workers_on(cores))
        return {what: torch.cat([found[what] for found in each]) for what in each[0]}
    loss, hits = [], []
    for start in range(0, examples.tokens.shape[1], _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        ids_here = {name: rows[:, part] for name, rows in (ids or {}).items()}
        out = logits(
            config, parameters, examples.tokens[:, part], answer_positions, ids=ids_here, asker=asker
        )
        targets, mask = examples.targets[:, part], examples.mask[:, part]
        loss.append(scoring.total_cross_entropy(out, targets, mask))
        hits.append(scoring.token_hits(out, targets))
    all_hits = torch.cat(hits, dim=1)
    return {
        "loss": add_up(loss) / examples.mask.sum(dim=(-2, -1)),
        "accuracy": scoring.accuracy(all_hits, examples.mask),
        "exact_match": scoring.exact_match(all_hits, examples.mask),
    }


def weight_norm(parameters: Mapping[str, Float[Tensor, "seed ..."]]) -> Float[Tensor, " seed"]:
    """Σ w² over the trained parameters of each seed."""
    squares = [p.detach().flatten(1).double().square().sum(dim=1) for p in parameters.values()]
    return add_up(squares)


def add_up(parts: Sequence[Float[Tensor, " seed"]]) -> Float[Tensor, " seed"]:
    """Their sum, one after the other: the order in which `torch.sum` adds depends on the number of seeds."""
    return reduce(torch.add, parts)
