"""Logits of one model on a CPU, where one layer without norms is all it has and the same token asks.

What `stacked` is on a GPU. Scores belong to tokens and positions, and so does what a head reads of one and passes on,
through the folded matrices, to neurons and logits. So that is a table too, and what enters the neurons of a question
is a weighted sum of a few of its rows: a product of every question with a matrix as wide as the heads takes several
times as long.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import fold_side_by_side
from interp_arith.models.layer import ACTIVATIONS, block_of, keys_and_values, queries_of
from interp_arith.models.lean import answer_logits, embedded_pairs, weights_of
from interp_arith.models.rounding import round_, rounded, rounds

_LARGEST = 20.0  # nats: what is multiplied by a share, e⁻²⁰ then, is still far from where float32 ends
_FAINT = 1e-33
"""Of a score's exponential: below, those of a question could add up to nothing."""
_KEPT_TOKENS = 1 << 15
"""Of more tokens it is not kept where they stand: that would take megabytes, and saves the less of a step."""
_KEPT_SETS = 1024
"""Sets of questions of which it is kept: those that 512 seeds train and are tested on; a megabyte each at most."""
_SLOPES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "relu": lambda g, x: torch.ops.aten.threshold_backward.grad_input(g, x, 0, grad_input=g),
    "gelu": lambda g, x: torch.ops.aten.gelu_backward.grad_input(g, x, grad_input=g),
    "silu": lambda g, x: torch.ops.aten.silu_backward.grad_input(g, x, grad_input=g),
}
"""Multiply a gradient, in place, by the slope of the activation at x; of relu, at its value likewise."""


def single_logits(
    config: ModelConfig, parameters: Mapping[str, Tensor], tokens: Int[Tensor, "batch pos"], asker: int
) -> Float[Tensor, "batch 1 d_vocab_out"]:
    """Logits of the last of these positions, where the token `asker` stands in every question.

    Args:
        config: a model that `is_foldable`.
        parameters: of one model.
        tokens: up to the position that is asked.
        asker: the token there.
    """
    last, block = tokens.shape[1] - 1, block_of(parameters, 0)
    embedded = embedded_pairs(config, parameters, tokens)
    asking, n_tokens = embedded[last, asker], embedded.shape[1]
    rows = torch.cat([embedded[:last].flatten(0, 1), asking[None]])[None]
    positions = torch.arange(rows.shape[1]) // n_tokens
    q = queries_of(config, block, rows[:, -1:], positions[-1:])
    q, k, v = (x[0].to(rows.dtype) for x in (q, *keys_and_values(config, block, rows, positions)))
    weights = weights_of(q[0], k, _LARGEST)
    if weights.detach().amin() < _FAINT:
        return answer_logits(config, parameters, tokens, (last,), asker=asker)
    values, weights = (_with_asker(x, n_tokens) for x in (weights[..., None] * v, weights))
    places = _places(tokens[:, :last] + n_tokens * torch.arange(last), len(values), config.n_heads)
    behind = fold_side_by_side(config, parameters, asking, config.n_heads)
    multiplied = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else values.dtype
    logits = _Logits.apply(values, weights, *behind, places, config.activation, multiplied)
    return logits[:, None]


def _with_asker(rows: Float[Tensor, "row_plus_1 ..."], n_tokens: int) -> Float[Tensor, "row ..."]:
    """Of summands, the asker's last: every question has it, so it is added to whatever stands before."""
    return torch.cat([rows[: -n_tokens - 1], rows[-n_tokens - 1 : -1] + rows[-1]])


@dataclass(frozen=True)
class _Places:
    """Where the summands of what is read stand in a table of all; a summand is one position seen by one head.

    Of a question they are numbered position by position, and head by head within a position.

    Attributes:
        rows: the table's row, for each question and position.
        n_rows: of the table, for each head.
        n_heads: that read.
    """

    rows: Int[Tensor, "batch pos"]
    n_rows: int
    n_heads: int

    @cached_property
    def entries(self) -> Int[Tensor, "batch summand_plus_1"]:
        """Of each question's summands, in a table [head row] with one entry more; that is the last of each."""
        by_head = self.rows[..., None] + self.n_rows * torch.arange(self.n_heads)
        return functional.pad(by_head.flatten(1), (0, 1), value=self.n_rows * self.n_heads)

    @cached_property
    def starts(self) -> Int[Tensor, " batch"]:
        """Number of the first summand of each question."""
        return torch.arange(len(self.rows)) * (self.rows.shape[1] * self.n_heads)

    @cached_property
    def questions(self) -> Int[Tensor, " batch*summand"]:
        """To which each summand belongs."""
        return torch.arange(len(self.rows)).repeat_interleave(self.rows.shape[1] * self.n_heads)

    @cached_property
    def order(self) -> Int[Tensor, " batch*summand"]:
        """Numbers of the summands in the order of what they are, [row head]."""
        return self._kinds.argsort(stable=True)

    @cached_property
    def ordered_questions(self) -> Int[Tensor, " batch*summand"]:
        """To which they belong in that order."""
        return self.questions[self.order]

    @cached_property
    def ordered_starts(self) -> Int[Tensor, " row*head"]:
        """Where each kind begins in it."""
        counts = self._kinds.bincount(minlength=self.n_rows * self.n_heads)
        return counts.cumsum(0) - counts

    @property
    def _kinds(self) -> Int[Tensor, " batch*summand"]:
        return (self.rows[..., None] * self.n_heads + torch.arange(self.n_heads)).flatten()


def _places(rows: Int[Tensor, "batch pos"], n_rows: int, n_heads: int) -> _Places:
    """Kept, since most train on the same questions at every step, and sorting takes a while."""
    if rows.numel() > _KEPT_TOKENS:
        return _Places(rows, n_rows, n_heads)
    return _kept_places(rows.numpy().tobytes(), rows.shape, n_rows, n_heads)


@lru_cache(maxsize=_KEPT_SETS)
def _kept_places(rows: bytes, shape: tuple[int, int], n_rows: int, n_heads: int) -> _Places:
    """Of rows in int64."""
    found = np.frombuffer(rows, dtype=np.int64).reshape(shape).copy()
    return _Places(torch.from_numpy(found), n_rows, n_heads)


def forget_questions() -> None:
    """Give back the memory of what is kept of questions, when training on them is over."""
    _kept_places.cache_clear()


class _Logits(torch.autograd.Function):
    """`folded.logits_of` what the heads read, from a table of what each summand of it enters.

    An entry times its weight, both as in the sum over all, is divided by the sum of the head's weights. In bfloat16
    the table is a product of rounded factors in float32. Its gradient is not rounded: that of a weight is a small
    difference, between what the weight adds to the sum and what it takes from all others.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any,
        values: Float[Tensor, "row head d_head"],
        weights: Float[Tensor, "row head"],
        W_behind: Float[Tensor, "head d_head col"],
        b_behind: Float[Tensor, " col"],
        W_out: Float[Tensor, "d_mlp d_vocab_out"],
        places: _Places,
        activation: str,
        multiplied: torch.dtype,
    ) -> Float[Tensor, "batch d_vocab_out"]:
        ctx.rounds, ctx.dtype, ctx.activation, ctx.places = rounds(), multiplied, activation, places
        is_low = ctx.rounds or ctx.dtype != weights.dtype
        values, W_behind = (rounded(x) if is_low else x for x in (values.transpose(0, 1), W_behind))
        table = weights.new_empty(weights.numel() + 1, len(b_behind))
        torch.bmm(values, W_behind, out=table[:-1].unflatten(0, values.shape[:2]))
        table[-1] = b_behind
        inverse = 1 / functional.embedding_bag(places.rows, weights.detach().contiguous(), mode="sum")
        shares = _of_summands(inverse, places)
        one = inverse.new_ones(len(inverse), 1)
        into = functional.embedding_bag(
            places.entries, table, mode="sum", per_sample_weights=torch.cat([shares, one], dim=1)
        )
        W_out = _factor(ctx, W_out)
        neurons, direct, _ = into.tensor_split(_columns(W_out), dim=1)
        fired = _fired(ctx, neurons)
        ctx.save_for_backward(table, inverse, values, weights, W_behind, W_out, neurons, fired)
        if fired.dtype == direct.dtype:
            parts = _halves(fired)
            return torch.bmm(parts, W_out.expand(len(parts), -1, -1)).flatten(0, 1).add_(direct)
        return direct + fired @ W_out

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        table, inverse, values, weights, W_behind, W_out, neurons, fired = ctx.saved_tensors
        places, of_logits = ctx.places, _factor(ctx, gradients[0])
        of_into = table.new_empty(len(inverse), table.shape[1])
        of_neurons, of_direct, of_zeros = of_into.tensor_split(_columns(W_out), dim=1)
        if of_logits.dtype == of_neurons.dtype:
            torch.mm(of_logits, W_out.T.contiguous(), out=of_neurons)
        else:
            of_neurons.copy_(of_logits @ W_out.T)
        _SLOPES[ctx.activation](of_neurons, neurons)
        of_direct.copy_(gradients[0])
        of_zeros.zero_()
        of_shares = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            of_into, table, places.entries[:, :-1].flatten(), places.starts, places.questions, 0
        ).view(len(inverse), -1)
        n_heads = inverse.shape[1]
        of_inverse = reduce(torch.add, of_shares.split(n_heads, dim=1))
        # The same pass adds up the gradients of totals, in columns of their own: −of_inverse · inverse², and it
        # multiplies by inverse once.
        of_totals = of_zeros[:, :n_heads]
        torch.mul(of_inverse, inverse, out=of_totals).neg_()
        of_table = functional.embedding_bag(
            places.ordered_questions,
            of_into,
            offsets=places.ordered_starts,
            mode="sum",
            per_sample_weights=_of_summands(inverse, places).take(places.order),
        ).unflatten(0, (-1, n_heads))
        first_zero = _columns(W_out)[1]
        of_entries = of_table.transpose(0, 1)
        return (
            (of_entries @ W_behind.mT).transpose(0, 1),
            of_table[..., first_zero : first_zero + n_heads].diagonal(dim1=1, dim2=2),
            values.mT @ of_entries,
            weights[:, 0] @ of_table[:, 0],  # the shares of a head add up to one
            (_halves(of_logits).mT @ _halves(fired)).sum(dim=0).T,
            None,
            None,
            None,
        )


def _of_summands(by_head: Float[Tensor, "batch head"], places: _Places) -> Float[Tensor, "batch summand"]:
    """The same for each position."""
    return torch.cat([by_head] * places.rows.shape[1], dim=1)


def _halves(x: Float[Tensor, "batch col"]) -> Float[Tensor, "part row col"]:
    """Rows in two parts, where their number is even: MKL is quicker with two products than where it splits one."""
    n_parts = 2 - len(x) % 2
    return x.unflatten(0, (n_parts, len(x) // n_parts))


def _columns(W_out: Float[Tensor, "d_mlp d_vocab_out"]) -> tuple[int, int]:
    """Where neurons and logits end in a row of the table."""
    return len(W_out), sum(W_out.shape)


def _fired(ctx: Any, neurons: Float[Tensor, "batch d_mlp"]) -> Float[Tensor, "batch d_mlp"]:
    """What neurons put out, as a factor; of relu written over what entered them."""
    if ctx.activation != "relu":
        return _factor(ctx, ACTIVATIONS[ctx.activation](neurons))
    if ctx.rounds:
        return round_(neurons.relu_())
    return _factor(ctx, neurons.relu_())


def _factor(ctx: Any, x: Tensor) -> Tensor:
    """x as products of every question take it: rounded, or in the dtype of autocast."""
    return rounded(x) if ctx.rounds else x.to(ctx.dtype)
