"""The kernels that compute the neurons of many models, against the plain formula; and when they are used."""

import sys
from functools import partial

import pytest
import torch

from interp_arith.models import fused
from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import Folded, logits_of
from interp_arith.presets import preset
from interp_arith.tasks import ModularArithmetic
from interp_arith.tasks.sources import make_source
from interp_arith.training import ensemble
from interp_arith.training import step as training_step
from interp_arith.training.batches import make_batches
from interp_arith.training.lanes import fresh_weights

if sys.platform != "linux":
    pytest.skip("Triton is for Linux", allow_module_level=True)

from interp_arith.models import neuron_kernels

ON_GPU = torch.cuda.is_available()
"""Elsewhere Triton's interpreter runs the kernels, in float32 (conftest.py)."""


def random_folded(n_seeds, width, d_mlp, n_logits):
    """Matrices of many models, and what their heads read for some questions."""
    generator = torch.Generator().manual_seed(width + d_mlp)

    def normal(*shape):
        return 0.3 * torch.randn(n_seeds, *shape, generator=generator)

    folded = Folded(
        normal(width, d_mlp),
        normal(d_mlp),
        normal(width, n_logits),
        normal(n_logits),
        normal(d_mlp, n_logits),
    )
    return folded, normal(150, width)  # the last block of rows is not whole


def with_gradients(way, folded, read, activation, dtype, device):
    """Logits, and the gradients of a sum in which each bears its own weight; in float64."""
    inputs = [x.to(device, dtype).requires_grad_() for x in (read, *folded)]
    logits = way(Folded(*inputs[1:]), inputs[0], activation)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype, device=device).reshape(logits.shape)
    found = logits.detach(), *torch.autograd.grad((logits * weights).sum(), inputs)
    return [x.double().cpu() for x in found]


@pytest.mark.parametrize(("n_seeds", "width", "d_mlp", "n_logits"), [(2, 32, 128, 13), (1, 128, 256, 113)])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("blocks_wanted", [1, 4, 128], ids=["one-sum", "a-few", "a-sum-a-block"])
def test_the_kernels_compute_logits_and_gradients(
    monkeypatch, blocks_wanted, activation, n_seeds, width, d_mlp, n_logits
):
    monkeypatch.setattr(fused, "_BLOCKS_WANTED", blocks_wanted)
    folded, read = random_folded(n_seeds, width, d_mlp, n_logits)
    dtype, device, tolerance = (torch.bfloat16, "cuda", 1e-2) if ON_GPU else (torch.float32, "cpu", 1e-5)
    found = with_gradients(fused.logits_of, folded, read, activation, dtype, device)
    wanted = with_gradients(logits_of, folded, read, activation, torch.float64, "cpu")
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def test_a_neuron_that_is_no_number_leaves_no_number():
    folded, read = random_folded(1, 32, 128, 13)
    folded.b_fire[0, 5] = torch.nan
    dtype, device = (torch.bfloat16, "cuda") if ON_GPU else (torch.float32, "cpu")
    logits, *_ = with_gradients(fused.logits_of, folded, read, "relu", dtype, device)
    assert logits.isnan().all()


class Noted:
    """A kernel that notes the grids it was launched on."""

    def __init__(self, kernel, grids):
        self._kernel, self._grids = kernel, grids

    def __getitem__(self, grid):
        self._grids.append(grid)
        return self._kernel[grid]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of Dynamo
@pytest.mark.skipif(ON_GPU, reason="the kernels are not interpreted there, and want bfloat16")
def test_a_compiled_step_runs_through_the_kernels(monkeypatch):
    task, model = ModularArithmetic(p=11), ModelConfig(d_model=32, n_heads=2, d_head=16, d_mlp=128)
    config = preset("mod-add-113-canonical").replace(task=task, model=model)
    weights = ensemble.stack([fresh_weights(config.with_seed(seed)) for seed in (0, 1)])
    parameters = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    sources = [make_source(task, None, seed) for seed in (0, 1)]
    batch = make_batches(sources, torch.device("cpu")).batch(None, 0)
    losses = partial(training_step.losses, config, parameters, batch, task.answer_positions, mapped=True)
    plain, largest = losses()
    wanted = torch.autograd.grad(plain.sum(), list(parameters.values()))
    grids = []
    monkeypatch.setattr(fused, "fits", lambda folded, read: True)
    monkeypatch.setattr(neuron_kernels, "weights_kernel", Noted(neuron_kernels.weights_kernel, grids))
    torch._dynamo.reset()
    compiled, found_largest = torch.compile(losses, fullgraph=True, backend="aot_eager")()
    found = torch.autograd.grad(compiled.sum(), list(parameters.values()))
    torch.testing.assert_close(compiled, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(found_largest, largest)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
    assert grids == [(1, 2, 1)]  # blocks of neurons, models, parts of the questions


def halved(x):
    """In bfloat16, as what autocast gives."""
    return Folded(*(y.bfloat16() for y in x)) if isinstance(x, Folded) else x.bfloat16()


@pytest.mark.parametrize(
    ("sizes", "dtype", "room", "expected"),
    [
        ((128, 512, 113), "bf16", 232_448, True),
        ((32, 128, 2), "bf16", 232_448, True),
        ((128, 512, 113), "fp32", 232_448, False),
        ((128, 512, 113), "bf16", 166_912, False),
        ((96, 512, 113), "bf16", 232_448, False),
        ((256, 512, 113), "bf16", 232_448, False),
        ((128, 192, 113), "bf16", 232_448, False),
        ((128, 512, 129), "bf16", 232_448, False),
    ],
)
def test_the_kernels_are_for_bfloat16_sizes_they_hold_and_gpus_with_room(
    monkeypatch, sizes, dtype, room, expected
):
    folded, read = random_folded(1, *sizes)
    if dtype == "bf16":
        folded, read = halved(folded), halved(read)
    assert fused._room(read.device) == 0  # a CPU
    monkeypatch.setattr(fused, "_room", torch.compiler.assume_constant_result(lambda device: room))
    assert not fused.fits(folded, read)  # where nothing is compiled

    def flagged(x):
        return x + 1 if fused.fits(folded, read) else x - 1

    torch._dynamo.reset()
    compiled = torch.compile(flagged, fullgraph=True, backend="aot_eager")  # as within a compiled step
    assert compiled(torch.zeros(())) == (1 if expected else -1)
