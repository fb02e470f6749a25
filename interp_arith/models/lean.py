"""The same blocks without hooks, answers only: the forward pass that training uses.

A pure function of a parameter dict, with the names and shapes of the hooked model, so that it can be differentiated
and mapped over seeds. What enters the first attention depends on a token and its position alone, so it is computed
once for each pair of the two and looked up; not so where positions follow the digits of a question. In the last layer
only the answer positions ask and pass through the MLP; every position is still attended to. Where one known token
asks, less still is written for each question: here on a GPU; of one layer without norms by `single` and `stacked`.
Held equal to the hooked model by tests.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import fold, logits_of
from interp_arith.models.layer import (
    Parameters,
    at,
    attend,
    block_of,
    linear,
    mlp,
    norm,
    output,
    project,
)
from interp_arith.models.lookup import (
    entries,
    one_hot_entries,
    one_hot_rows,
    one_hot_sums,
    pair_rows,
    row_sums,
    rows,
)
from interp_arith.models.patterns import mixed_pattern
from interp_arith.models.position_scheme import Ids

_HEADROOM = 40.0  # nats: scores lie up to this far above zero and 87 below, the range of a float32
_NO_SIZE = 1e-6  # of a dimension, relative to the largest: what rounding to float32 leaves


def answer_logits(
    config: ModelConfig,
    parameters: Parameters,
    tokens: Int[Tensor, "batch pos"],
    answer_positions: Sequence[int],
    *,
    mapped: bool = False,
    ids: Ids | None = None,
    asker: int | None = None,
) -> Float[Tensor, "batch answer d_vocab_out"]:
    """Logits at the answer positions.

    Args:
        config: the model's.
        parameters: trained parameters by name; biases that are not among them are zero.
        tokens: the input.
        answer_positions: where to read, ascending.
        mapped: under `torch.vmap`, or on a GPU: look up by matrix products.
        ids: what `config.positions.ids` gives; needed where positions follow digits.
        asker: the token at the first answer position, where it is the same in every question.
    """
    residual, block = before_last_mlp(
        config, parameters, tokens, answer_positions, mapped=mapped, ids=ids, asker=asker
    )
    if not config.attention_only:
        residual = residual + mlp(config, block, norm(config, block, "ln2", residual))
    return unembed(config, parameters, residual)


def before_last_mlp(
    config: ModelConfig,
    parameters: Parameters,
    tokens: Int[Tensor, "batch pos"],
    answer_positions: Sequence[int],
    *,
    mapped: bool = False,
    ids: Ids | None = None,
    asker: int | None = None,
) -> tuple[Float[Tensor, "batch answer d_model"], Parameters]:
    """The residual stream behind the last attention, at the answer positions; and the last layer's parameters.

    Args: as of answer_logits.
    """
    everywhere, answers = range(tokens.shape[-1]), range(answer_positions[0], answer_positions[-1] + 1)
    residual = _embedded(config, parameters, tokens, ids, mapped) if config.positions.reads_digits else None
    block: Parameters = {}
    for layer in range(config.n_layers):
        if residual is not None and layer and not config.attention_only:
            residual = residual + mlp(config, block, norm(config, block, "ln2", residual))
        queries = answers if layer == config.n_layers - 1 else everywhere
        block = block_of(parameters, layer)
        if residual is None:
            residual, z = _first_attention(config, parameters, block, tokens, queries, mapped, asker)
        else:
            z = attend(config, *project(config, block, residual, queries), queries)
            residual = at(residual, queries)
        residual = residual + output(block, z)
    assert residual is not None  # there is a layer
    return residual, block


@dataclass(frozen=True)
class LastQuery:
    """The first attention where the last position alone asks.

    Attributes:
        residual: what is embedded there.
        scores: before the softmax, scaled.
        pattern: attention as it is used.
        read: what the heads read.
    """

    residual: Float[Tensor, "batch 1 d_model"]
    scores: Float[Tensor, "batch pos head"]
    pattern: Float[Tensor, "batch pos head"]
    read: Float[Tensor, "batch 1 head d_head"]


def last_query(config: ModelConfig, parameters: Parameters, tokens: Int[Tensor, "batch pos"]) -> LastQuery:
    """What the last position asks of the first layer; on a CPU, and not where positions follow digits."""
    last = tokens.shape[1] - 1
    table, q, k, v = tables(config, parameters, block_of(parameters, 0), tokens, range(last, last + 1))
    return _one_query(config, table[last], q[0], k, v, tokens)


def unembed(
    config: ModelConfig, parameters: Parameters, residual: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits of what the last layer leaves."""
    if config.final_norm:
        residual = norm(config, parameters, "ln_final", residual)
    W_U = parameters["embed.W_E"] if config.tied else parameters["unembed.W_U"].mT
    return linear(residual, W_U, parameters.get("unembed.b_U"))


def _embedded(
    config: ModelConfig,
    parameters: Parameters,
    tokens: Int[Tensor, "batch pos"],
    ids: Ids | None,
    mapped: bool,
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream before the first layer."""
    find = one_hot_entries if mapped else entries
    return find(parameters["embed.W_E"], tokens) + config.positions.embed(parameters, tokens, ids, find)


def _first_attention(
    config: ModelConfig,
    parameters: Parameters,
    block: Parameters,
    tokens: Int[Tensor, "batch pos"],
    queries: range,
    mapped: bool,
    asker: int | None,
) -> tuple[Float[Tensor, "batch query d_model"], Float[Tensor, "batch query head d_head"]]:
    """The residual stream where the first layer asks, and what its heads read."""
    table, q, k, v = tables(config, parameters, block, tokens, queries)
    if len(queries) == 1:
        asking, seen = at(table, queries, axis=0)[0], tokens[:, : queries.stop]
        if not mapped:
            found = _one_query(config, asking, q[0], k, v, seen)
            return found.residual, found.read
        if asker is not None and config.attention_coefficient == 1:
            z = _one_asker(q[0, asker], k, v, seen, asker)
            return asking[asker].expand(len(tokens), 1, -1), z[:, None]
    find = one_hot_rows if mapped else rows
    residual, q = _together(find, [at(table, queries, axis=0), q], at(tokens, queries))
    k, v = _together(find, [k, v], tokens)
    return residual, attend(config, q, k, v, queries)


def embedded_pairs(
    config: ModelConfig, parameters: Parameters, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "pos token d_model"]:
    """What is embedded of each pair of position and token."""
    W_E = parameters["embed.W_E"]
    positions = config.positions.embed(parameters, tokens)
    table = W_E + (positions[:, None] if isinstance(positions, Tensor) else positions)
    return table.expand(tokens.shape[1], *W_E.shape)


def tables(
    config: ModelConfig,
    parameters: Parameters,
    block: Parameters,
    tokens: Int[Tensor, "batch pos"],
    queries: range,
) -> tuple[
    Float[Tensor, "pos token d_model"],
    Float[Tensor, "query token head d_head"],
    Float[Tensor, "pos token head d_head"],
    Float[Tensor, "pos token head d_head"],
]:
    """Embeddings, and the first layer's queries, keys and values: a row for each pair of position and token."""
    table = embedded_pairs(config, parameters, tokens)
    by_token = rearrange(table, "pos token d_model -> token pos d_model")
    q, k, v = (
        rearrange(x, "token pos head d_head -> pos token head d_head").to(table.dtype)
        for x in project(config, block, by_token, queries)
    )
    return table, q, k, v


def _one_query(
    config: ModelConfig,
    table: Float[Tensor, "token d_model"],
    q: Float[Tensor, "token head d_head"],
    k: Float[Tensor, "all_pos token head d_head"],
    v: Float[Tensor, "all_pos token head d_head"],
    tokens: Int[Tensor, "batch pos"],
) -> LastQuery:
    """`_first_attention` where the last of these positions alone asks.

    Few tokens stand there, often one ("="). So scores are a table too, over who asks and who is asked.
    """
    k, v = k[: tokens.shape[1]], v[: tokens.shape[1]]
    present, askers = tokens[:, -1].unique(return_inverse=True)
    scores = torch.einsum("ahd,pthd->apth", q[present], k).to(q.dtype) / math.sqrt(q.shape[-1])
    scores = pair_rows(scores, askers, tokens)
    pattern = mixed_pattern(scores.softmax(dim=1), config.attention_coefficient)
    residual = table[present] if len(present) == 1 else rows(table[None], tokens[:, -1:])
    read = row_sums(pattern, v, tokens)[:, None]
    return LastQuery(residual.expand(len(tokens), 1, -1), scores, pattern, read)


def _one_asker(
    q: Float[Tensor, "head d_head"],
    k: Float[Tensor, "all_pos token head d_head"],
    v: Float[Tensor, "all_pos token head d_head"],
    tokens: Int[Tensor, "batch pos"],
    asker: int,
) -> Float[Tensor, "batch head d_head"]:
    """What heads read where the last of these positions alone asks, and always the same token stands there.

    Then a score belongs to a token and its position, whoever else is in the question: softmax attention is
    Σ_p eˢ v / Σ_p eˢ, two sums of rows of a table, and no key or value of a single question is ever written. Were
    all scores of a question more than 127 below the largest of the table, both sums would be zero and the loss NaN.
    """
    n_pos = tokens.shape[1]
    sums = summands(q, k[:n_pos], v[:n_pos])
    found = one_hot_sums(sums[:-1], tokens[:, :-1]) + sums[-1, asker]
    read, total = found.split([q.numel(), len(q)], dim=-1)
    return read.unflatten(-1, q.shape) / total[..., None]


def summands(
    q: Float[Tensor, "head d_head"],
    k: Float[Tensor, "pos token head d_head"],
    v: Float[Tensor, "pos token head d_head"],
) -> Float[Tensor, "pos token col"]:
    """eˢ v and eˢ of every head, for each pair of position and token."""
    weights = weights_of(q, k, _HEADROOM)
    return torch.cat([(weights[..., None] * v).flatten(2), weights], dim=-1)


def weights_of(
    q: Float[Tensor, "head d_head"], k: Float[Tensor, "*row head d_head"], largest: float
) -> Float[Tensor, "*row head"]:
    """eˢ of every head, for each row; scaled so that the largest is e to that number."""
    scores = (q * k).sum(dim=-1) / math.sqrt(q.shape[-1])
    return (scores - (scores.detach().amax(dim=tuple(range(scores.ndim - 1))) - largest)).exp()


def narrow_logits(
    config: ModelConfig, parameters: Parameters, tokens: Int[Tensor, "batch pos"], asker: int
) -> Float[Tensor, "batch d_vocab_out"]:
    """Logits of the last position where all that a head can read spans few dimensions; without gradients.

    So it does where numbers stand on one circle. Then a head is as narrow as that, and so is the product that enters
    the neurons. For a CPU, where `is_linear_but_for_neurons` holds and the same token always stands last.
    """
    block, last = block_of(parameters, 0), tokens.shape[1] - 1
    table, q, k, v = tables(config, parameters, block, tokens, range(last, last + 1))
    v, W_O = _narrowed(v, block["attn.W_O"])
    read = _one_query(config, table[last], q[0], k, v, tokens).read[:, 0]
    return logits_of(fold(config, parameters, W_O, table[last, asker]), read.flatten(1), config.activation)


def _narrowed(
    v: Float[Tensor, "pos token head d_head"], W_O: Float[Tensor, "head d_head d_model"]
) -> tuple[Float[Tensor, "pos token head rank"], Float[Tensor, "head rank d_model"]]:
    """Values in as few columns as the head with the most dimensions needs, and what each column writes."""
    by_head = rearrange(v, "pos token head d_head -> head (pos token) d_head").double()
    along, sizes, directions = torch.linalg.svd(by_head, full_matrices=False)
    rank = int((sizes > _NO_SIZE * sizes[:, :1]).sum(dim=1).amax())
    columns = (along * sizes[:, None])[..., :rank].to(v.dtype)
    narrow = rearrange(columns, "head (pos token) rank -> pos token head rank", pos=len(v))
    return narrow.contiguous(), directions[:, :rank].to(W_O.dtype) @ W_O


def _together(
    find: Callable[[Tensor, Tensor], Tensor], tables: Sequence[Tensor], tokens: Int[Tensor, "batch pos"]
) -> list[Tensor]:
    """The same rows of several tables, [pos token *row] each, found at once: a look-up costs by the row."""
    found = find(torch.cat([table.flatten(2) for table in tables], dim=-1), tokens)
    parts = found.split([table.shape[2:].numel() for table in tables], dim=-1)
    return [part.unflatten(-1, table.shape[2:]) for part, table in zip(parts, tables, strict=True)]
