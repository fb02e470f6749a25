"""The same blocks without hooks, answers only: the forward pass that training uses.

A pure function of a parameter dict, with the names and shapes of the hooked model, so that it can be differentiated
and mapped over seeds. What enters the first attention depends on a token and its position alone, so it is computed
once for each pair of the two and looked up; not so where positions follow the digits of a question. In the last layer
only the answer positions ask and pass through the MLP; every position is still attended to. On a GPU, where a step
waits for memory, less still is written for each question if one known token asks. Held equal to the hooked model by
tests.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.models.config import ModelConfig
from interp_arith.models.layer import (
    ACTIVATIONS,
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
    ALIGNED,
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
    one_answer = len(answer_positions) == 1 and config.attention_coefficient == 1
    if mapped and asker is not None and one_answer and is_linear_but_for_neurons(config):
        return _folded(config, parameters, tokens[:, : answer_positions[0] + 1], asker)
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
    table, q, k, v = _tables(config, parameters, block_of(parameters, 0), tokens, range(last, last + 1))
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
    table, q, k, v = _tables(config, parameters, block, tokens, queries)
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


def _tables(
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
    W_E = parameters["embed.W_E"]
    positions = config.positions.embed(parameters, tokens)
    table = W_E + (positions[:, None] if isinstance(positions, Tensor) else positions)
    table = table.expand(tokens.shape[1], *W_E.shape)
    by_token = rearrange(table, "pos token d_model -> token pos d_model")
    q, k, v = (
        rearrange(x, "token pos head d_head -> pos token head d_head").to(W_E.dtype)
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
    n_pos, (n_heads, d_head) = tokens.shape[1], q.shape
    scores = (q * k[:n_pos]).sum(dim=-1) / math.sqrt(d_head)
    weights = (scores - (scores.detach().amax(dim=(0, 1)) - _HEADROOM)).exp()
    sums = torch.cat([(weights[..., None] * v[:n_pos]).flatten(2), weights], dim=-1)
    found = one_hot_sums(sums[:-1], tokens[:, :-1]) + sums[-1, asker]
    read, total = found.split([n_heads * d_head, n_heads], dim=-1)
    return read.unflatten(-1, (n_heads, d_head)) / total[..., None]


def is_linear_but_for_neurons(config: ModelConfig) -> bool:
    """Whether one layer of attention and one of neurons is all that a model has, with nothing normed."""
    plain_neurons = not (config.attention_only or config.gated) and config.mlp_depth == 2
    one_layer = config.n_layers == 1 and not config.positions.reads_digits
    return one_layer and plain_neurons and config.normalization == "none"


def _folded(
    config: ModelConfig, parameters: Parameters, tokens: Int[Tensor, "batch pos"], asker: int
) -> Float[Tensor, "batch 1 d_vocab_out"]:
    """`answer_logits` where `_one_asker` and `_behind_heads` hold: on a GPU, where the same token always asks."""
    block, last = block_of(parameters, 0), tokens.shape[1] - 1
    table, q, k, v = _tables(config, parameters, block, tokens, range(last, last + 1))
    z = _one_asker(q[0, asker], k, v, tokens, asker)
    return _behind_heads(config, parameters, z, block["attn.W_O"], table[last, asker])[:, None]


def narrow_logits(
    config: ModelConfig, parameters: Parameters, tokens: Int[Tensor, "batch pos"], asker: int
) -> Float[Tensor, "batch d_vocab_out"]:
    """Logits of the last position where all that a head can read spans few dimensions; without gradients.

    So it does where numbers stand on one circle. Then a head is as narrow as that, and so is the product that enters
    the neurons. For a CPU, where `is_linear_but_for_neurons` holds and the same token always stands last.
    """
    block, last = block_of(parameters, 0), tokens.shape[1] - 1
    table, q, k, v = _tables(config, parameters, block, tokens, range(last, last + 1))
    v, W_O = _narrowed(v, block["attn.W_O"])
    z = _one_query(config, table[last], q[0], k, v, tokens).read[:, 0]
    return _behind_heads(config, parameters, z, W_O, table[last, asker])


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


def _behind_heads(
    config: ModelConfig,
    parameters: Parameters,
    z: Float[Tensor, "batch head d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    asking: Float[Tensor, " d_model"],
) -> Float[Tensor, "batch d_vocab_out"]:
    """Logits from what the heads read, where `is_linear_but_for_neurons` holds.

    What lies between heads, neurons and logits is linear. So the products are of matrices, once for all questions,
    and the residual stream of a single question is never written:

        neurons = act(read · (W W_in)),   logits = read · (W W_U) + neurons · (W_out W_U)

    where `read` is what the heads read and a 1, and the rows of W are what each adds to the residual stream: W_O, and
    the asking token's embedding with the biases. Rows are padded with zeros, as in `one_hot_sums`.
    """
    block, z = block_of(parameters, 0), z.flatten(1)
    width = z.shape[1]
    padding = -(width + 1) % ALIGNED
    read = functional.pad(functional.pad(z, (0, 1), value=1.0), (0, padding))
    start = asking + block.get("attn.b_O", 0.0)
    W = functional.pad(torch.cat([W_O.flatten(0, 1), start[None]]), (0, 0, 0, padding))
    W_U = parameters["embed.W_E"].mT if config.tied else parameters["unembed.W_U"]
    n_logits = W_U.shape[1]
    W_U = functional.pad(W_U, (0, -n_logits % ALIGNED))

    def with_bias(product: Tensor, bias: Tensor | None) -> Tensor:
        return product if bias is None else product + functional.pad(bias[None], (0, 0, width, padding))

    W_fire = with_bias(W @ block["mlp.W_in"], block.get("mlp.b_in"))
    fired = ACTIVATIONS[config.activation](read @ W_fire)
    b_U, b_out = parameters.get("unembed.b_U"), block.get("mlp.b_out")
    into_logits = with_bias(W @ W_U, None if b_out is None else b_out @ W_U)
    into_logits = with_bias(
        into_logits, None if b_U is None else functional.pad(b_U, (0, -n_logits % ALIGNED))
    )
    return (read @ into_logits + fired @ (block["mlp.W_out"] @ W_U))[:, :n_logits]


def _together(
    find: Callable[[Tensor, Tensor], Tensor], tables: Sequence[Tensor], tokens: Int[Tensor, "batch pos"]
) -> list[Tensor]:
    """The same rows of several tables, [pos token *row] each, found at once: a look-up costs by the row."""
    found = find(torch.cat([table.flatten(2) for table in tables], dim=-1), tokens)
    parts = found.split([table.shape[2:].numel() for table in tables], dim=-1)
    return [part.unflatten(-1, table.shape[2:]) for part, table in zip(parts, tables, strict=True)]
