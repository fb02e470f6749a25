"""`folded.logits_of` for many models in bfloat16 as GPU kernels that never write a neuron; differentiable.

A GPU computes 128 models of 512 neurons in less time than it takes to write and read their neurons. So the kernels
compute them where they are needed, forward and backward.
"""

from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp_arith.lazy import Lazy
from interp_arith.models.folded import Folded, sum_of_rows

kernels = Lazy("interp_arith.models.neuron_kernels")  # needs Triton, which not every build of PyTorch brings

_NARROWEST, _WIDEST = 16, 128  # numbers in a row of a block
_ROOM = 200_000  # bytes of shared memory: those of an H100 or later
_NEURONS = 128  # a model's are a multiple of this
_BLOCKS_WANTED = 128  # at work at once: about as many as a large GPU has multiprocessors
_BY_ROWS = {"ROWS": 128, "NEURONS": 64, "num_warps": 8, "num_stages": 3}
_BY_NEURONS = {"ROWS": 64, "NEURONS": _NEURONS, "num_warps": 8, "num_stages": 3}


def fits(folded: Folded, read: Float[Tensor, "seed batch width"]) -> bool:
    """Whether the kernels compute this: bfloat16, sizes that they hold, a GPU with room for their blocks.

    Only where the step is compiled: what could not be compiled is computed without Triton.
    """
    width, d_mlp = folded.W_fire.shape[-2:]
    whole = width == _padded(width) and d_mlp % _NEURONS == 0
    narrow = max(width, folded.W_out.shape[-1]) <= _WIDEST
    wanted = torch.compiler.is_compiling() and folded.W_fire.dtype == torch.bfloat16
    return wanted and whole and narrow and _room(read.device) >= _ROOM


@torch.compiler.assume_constant_result
def _room(device: torch.device) -> int:
    """Bytes of shared memory that one block can have on an NVIDIA GPU; 0 elsewhere, and without Triton."""
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return 0
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def logits_of(
    folded: Folded, read: Float[Tensor, "seed batch width"], activation: str
) -> Float[Tensor, "seed batch d_vocab_out"]:
    """Logits of what the heads read, in float32, where `fits` holds."""
    n_logits = folded.W_out.shape[-1]
    missing = _padded(n_logits) - n_logits
    W_direct, b_direct, W_out = (
        functional.pad(x, (0, missing)) for x in (folded.W_direct, folded.b_direct, folded.W_out)
    )
    padded = _logits(
        read, folded.W_fire, folded.b_fire.float(), W_direct, b_direct.float(), W_out, activation
    )
    return padded[..., :n_logits]


def _padded(n: int) -> int:
    """The power of 2 that blocks are wide."""
    return max(_NARROWEST, 1 << (n - 1).bit_length())


@torch.library.custom_op("interp_arith::folded_logits", mutates_args=())
def _logits(
    read: Tensor,
    W_fire: Tensor,
    b_fire: Tensor,
    W_direct: Tensor,
    b_direct: Tensor,
    W_out: Tensor,
    activation: str,
) -> Tensor:
    read, W_fire, W_direct, W_out = (x.contiguous() for x in (read, W_fire, W_direct, W_out))
    n_seeds, n_rows, _ = read.shape
    logits = read.new_empty((n_seeds, n_rows, W_out.shape[2]), dtype=torch.float32)
    grid = (-(-n_rows // _BY_ROWS["ROWS"]), n_seeds)
    sizes = _sizes(W_fire, W_out, activation)
    kernels.logits_kernel[grid](
        read,
        W_fire,
        b_fire.contiguous(),
        W_direct,
        b_direct.contiguous(),
        W_out,
        logits,
        n_rows,
        **sizes,
        **_BY_ROWS,
    )
    return logits


@_logits.register_fake
def _(
    read: Tensor,
    W_fire: Tensor,
    b_fire: Tensor,
    W_direct: Tensor,
    b_direct: Tensor,
    W_out: Tensor,
    activation: str,
):
    return read.new_empty((*read.shape[:2], W_out.shape[2]), dtype=torch.float32)


@torch.library.custom_op("interp_arith::folded_slopes", mutates_args=())
def _slopes(
    read: Tensor,
    slopes: Tensor,
    W_fire: Tensor,
    b_fire: Tensor,
    W_direct: Tensor,
    W_out: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of read, W_fire (transposed), b_fire and W_out, all but the first in float32."""
    read, slopes, W_fire, b_fire, W_direct, W_out = (
        x.contiguous() for x in (read, slopes, W_fire, b_fire, W_direct, W_out)
    )
    n_seeds, n_rows, width = read.shape
    d_mlp, n_logits = W_out.shape[1:]
    sizes = _sizes(W_fire, W_out, activation)
    d_read = torch.empty_like(read)
    grid = (-(-n_rows // _BY_ROWS["ROWS"]), n_seeds)
    kernels.reads_kernel[grid](
        read, slopes, W_fire, b_fire, W_direct, W_out, d_read, n_rows, **sizes, **_BY_ROWS
    )
    blocks = d_mlp // _BY_NEURONS["NEURONS"]
    parts = max(1, min(_BLOCKS_WANTED // (blocks * n_seeds), -(-n_rows // _BY_NEURONS["ROWS"])))
    d_fire, d_bias, d_out = (
        read.new_empty((parts, n_seeds, d_mlp, *wide), dtype=torch.float32)
        for wide in ((width,), (), (n_logits,))
    )
    kernels.weights_kernel[blocks, n_seeds, parts](
        read,
        slopes,
        W_fire,
        b_fire,
        W_out,
        d_fire,
        d_bias,
        d_out,
        n_rows,
        n_seeds,
        **sizes,
        **_BY_NEURONS,
        PARTS=parts,
    )
    if parts == 1:
        return d_read, d_fire[0], d_bias[0], d_out[0]
    return d_read, d_fire.sum(dim=0), d_bias.sum(dim=0), d_out.sum(dim=0)


@_slopes.register_fake
def _(
    read: Tensor,
    slopes: Tensor,
    W_fire: Tensor,
    b_fire: Tensor,
    W_direct: Tensor,
    W_out: Tensor,
    activation: str,
):
    fire, bias, out = (x.new_empty(x.shape, dtype=torch.float32) for x in (W_fire.mT, b_fire, W_out))
    return read.new_empty(read.shape), fire, bias, out


def _sizes(W_fire: Tensor, W_out: Tensor, activation: str) -> dict[str, Any]:
    return {
        "D_MLP": W_fire.shape[2],
        "WIDTH": W_fire.shape[1],
        "N_LOGITS": W_out.shape[2],
        "ACTIVATION": activation,
    }


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    read, W_fire, b_fire, W_direct, _, W_out = ctx.saved_tensors
    slopes = gradient.to(read.dtype)
    d_read, d_fire, d_bias, d_out = _slopes(read, slopes, W_fire, b_fire, W_direct, W_out, ctx.activation)
    d_direct = (read.mT @ slopes).to(W_direct.dtype)
    return (
        d_read,
        d_fire.mT.to(W_fire.dtype),
        d_bias,
        d_direct,
        sum_of_rows(slopes).float(),
        d_out.to(W_out.dtype),
        None,
    )


_logits.register_autograd(_backward, setup_context=_keep)
