"""Greedy decoding with keys and values kept: each token passes through the model once.

The blocks are those of `lean`. Unless positions follow digits, what the first layer asks, offers and gives is a table
over positions and tokens, computed once. Held equal to `generate` of the hooked model by
tests.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.models.config import ModelConfig
from interp_arith.models.layer import Parameters, attend, block_of, mlp, norm, output, project
from interp_arith.models.lean import unembed
from interp_arith.models.position_scheme import Ids

Tell = Callable[[Int[Tensor, "batch pos"]], Ids]
"""Tokens -> which rows of the position tables they read."""
Enter = Callable[[Int[Tensor, "batch pos"], int, range], tuple[Tensor, Tensor, Tensor, Tensor]]
"""Tokens, the first new one, new ones that ask -> their residual stream and queries, keys and values of all new."""
Kept = tuple[Float[Tensor, "batch pos head d_head"], Float[Tensor, "batch pos head d_head"]]
"""Keys and values of one layer; those of tokens to come are still unset."""


@torch.no_grad()
def greedy_tokens(
    config: ModelConfig,
    parameters: Parameters,
    prompts: Int[Tensor, "batch pos"],
    new: int,
    ids: Tell | None = None,
) -> Int[Tensor, "batch new"]:
    """The tokens that follow, each the likeliest after those before it.

    Questions of a batch are worked on side by side, so it should fit into the processor's cache.

    Args:
        config: the model's.
        parameters: trained parameters by name; biases that are not among them are zero.
        prompts: what stands before.
        new: how many tokens to write, at least 1.
        ids: what `config.positions.ids` gives of a task; needed where positions follow digits.
    """
    known, end = prompts.shape[1], prompts.shape[1] + new
    tokens = functional.pad(prompts, (0, new))
    blocks = [block_of(parameters, layer) for layer in range(config.n_layers)]
    kept = [_unset(config, parameters["embed.W_E"], len(tokens), end - 1) for _ in blocks]
    if config.positions.reads_digits:
        assert ids is not None  # the scheme has asked for a task
        enter = partial(_embedded, config, parameters, blocks[0], ids)
    else:
        enter = partial(_looked_up, config, _first_table(config, parameters, blocks[0], tokens[:, :-1]))
    for start, stop in zip((0, *range(known, end - 1)), range(known, end), strict=True):
        residual = _last_residual(config, blocks, enter, tokens[:, :stop], start, kept)
        tokens[:, stop] = unembed(config, parameters, residual)[:, 0].argmax(dim=-1)
    return tokens[:, known:]


def _last_residual(
    config: ModelConfig,
    blocks: Sequence[Parameters],
    enter: Enter,
    tokens: Int[Tensor, "batch pos"],
    start: int,
    kept: Sequence[Kept],
) -> Float[Tensor, "batch 1 d_model"]:
    """What the last layer leaves at the last position; the tokens before `start` have passed already."""
    stop = tokens.shape[1]
    residual = None
    for layer, (block, (keys, values)) in enumerate(zip(blocks, kept, strict=True)):
        queries = range(stop - 1 if layer == config.n_layers - 1 else start, stop)
        rows = range(queries.start - start, stop - start)
        if residual is None:
            residual, q, k, v = enter(tokens, start, rows)
        else:
            q, k, v = project(config, block, residual, rows, start)
            residual = residual[:, rows.start :]
        keys[:, start:stop], values[:, start:stop] = k, v
        z = attend(config, q, keys[:, :stop], values[:, :stop], queries)
        residual = residual + output(block, z)
        if not config.attention_only:
            residual = residual + mlp(config, block, norm(config, block, "ln2", residual))
    assert residual is not None  # there is a layer
    return residual


def _unset(config: ModelConfig, like: Tensor, batch: int, positions: int) -> Kept:
    shape = (batch, positions, config.n_heads, config.head_width)
    return like.new_empty(shape), like.new_empty(shape)


def _embedded(
    config: ModelConfig,
    parameters: Parameters,
    block: Parameters,
    ids: Tell,
    tokens: Int[Tensor, "batch pos"],
    start: int,
    rows: range,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_looked_up`, where positions follow the digits of all tokens so far."""
    new, told = tokens[:, start:], {name: index[:, start:] for name, index in ids(tokens).items()}
    residual = parameters["embed.W_E"][new] + config.positions.embed(parameters, new, told)
    return residual[:, rows.start :], *project(config, block, residual, rows, start)


def _first_table(
    config: ModelConfig, parameters: Parameters, block: Parameters, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "pos token row"]:
    """What enters the first layer, its query, key and value, for each pair of position and token."""
    W_E = parameters["embed.W_E"]
    positions = config.positions.embed(parameters, tokens)
    n_pos = tokens.shape[1]
    table = W_E + (positions[:, None] if isinstance(positions, Tensor) else positions)
    table = table.expand(n_pos, *W_E.shape)
    by_token = rearrange(table, "pos token d_model -> token pos d_model")
    projected = (
        rearrange(x, "token pos head d_head -> pos token (head d_head)")
        for x in project(config, block, by_token, range(n_pos))
    )
    return torch.cat([table, *projected], dim=-1)


def _looked_up(
    config: ModelConfig,
    table: Float[Tensor, "pos token row"],
    tokens: Int[Tensor, "batch pos"],
    start: int,
    rows: range,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The residual stream and queries where the first layer asks, keys and values from `start` on."""
    n_pos, n_tokens, width = table.shape
    ids = tokens[:, start:] + n_tokens * torch.arange(start, tokens.shape[1], device=tokens.device)
    heads = config.n_heads * config.head_width
    found = functional.embedding(ids, table.reshape(n_pos * n_tokens, width))
    residual, q, k, v = found.split([width - 3 * heads, heads, heads, heads], dim=-1)
    q, k, v = (x.unflatten(-1, (config.n_heads, config.head_width)) for x in (q, k, v))
    return residual[:, rows.start :], q[:, rows.start :], k, v
