"""Many models of one layer at once, as a GPU computes them, against the hooked models; and its kernels."""

from functools import partial

import pytest
import torch
from oracles import random_weights

from interp_arith.models import build_model, fused
from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import Folded, logits_of
from interp_arith.models.stacked import is_stackable
from interp_arith.presets import preset, presets
from interp_arith.tasks import ModularArithmetic
from interp_arith.tasks.scoring import cross_entropy
from interp_arith.training import ensemble
from interp_arith.training import step as training_step

neuron_kernels = pytest.importorskip("interp_arith.models.neuron_kernels", reason="there is no Triton")
ON_GPU = torch.cuda.is_available()
"""Elsewhere Triton's interpreter runs the kernels, in float32 (conftest.py)."""
SMALL = ModelConfig(d_model=32, n_heads=2, d_head=16, d_mlp=128)
CONFIGS = {
    "relu": SMALL,
    "gelu": SMALL.model_copy(update={"activation": "gelu"}),
    "silu": SMALL.model_copy(update={"activation": "silu"}),
    "biases": SMALL.model_copy(update={"attention_bias": True, "mlp_bias": True, "unembed_bias": True}),
    "no biases": SMALL.model_copy(update={"attention_bias": False, "mlp_bias": False, "unembed_bias": False}),
    "no positions": ModelConfig.model_validate(SMALL.model_dump() | {"positions": {"kind": "none"}}),
    "rotary": ModelConfig.model_validate(SMALL.model_dump() | {"positions": {"kind": "rotary"}}),
}


def stackable_presets():
    """The presets that a GPU computes so."""
    return [
        name
        for name in presets()
        if preset(name).task.asking_token is not None
        and is_stackable(preset(name).model, len(preset(name).task.answer_positions))
    ]


def two_of(config, task, dtype=torch.float32):
    """Two models with planted weights, each with questions of its own: the models, and all of it stacked."""
    models = [random_weights(build_model(config, task), seed).to(dtype) for seed in range(2)]
    for model in models:
        model.cfg.dtype = dtype
    members = [model.trained_parameters() for model in models]
    questions = task.split("train")
    batch = ensemble.stack_examples(
        [task.examples(questions[start : start + 20]) for start in (0, 7)], torch.device("cpu")
    )
    parameters = {name: p.detach().requires_grad_() for name, p in ensemble.stack(members).items()}
    return models, members, parameters, batch


def hold_equal(config, task, tolerance=1e-5, dtype=torch.float32):
    """Logits to the tolerance relative to the largest, gradients to that of each parameter's largest."""
    models, members, parameters, batch = two_of(config, task, dtype)
    asker = task.asking_token
    found = ensemble.logits(config, parameters, batch.tokens, task.answer_positions, True, None, asker)
    loss = cross_entropy(found, batch.targets, batch.mask)
    gradients = torch.autograd.grad(loss.sum(), list(parameters.values()))
    for index, (model, member) in enumerate(zip(models, members, strict=True)):
        hooked = model(batch.tokens[index])[:, list(task.answer_positions)]
        assert (found[index] - hooked).abs().max() <= tolerance * hooked.abs().max()
        one = cross_entropy(hooked, batch.targets[index], batch.mask[index])
        wanted = torch.autograd.grad(one, list(member.values()))
        largest = max(float(g.abs().max()) for g in wanted)
        for name, ours, theirs in zip(member, gradients, wanted, strict=True):
            # Without rotation a key bias has no gradient, but for rounding.
            scale = largest if name.endswith("b_K") else float(theirs.abs().max())
            assert scale > 0, name
            assert (ours[index] - theirs).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("name", stackable_presets())
def test_presets_stacked_are_the_hooked_models(name):
    hold_equal(preset(name).model, preset(name).task)


@pytest.mark.parametrize("format_", ["numbers", "numbers-with-operation"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_configs_stacked_are_the_hooked_models(config, format_):
    hold_equal(config, ModularArithmetic(p=11, format=format_), 1e-7, torch.float64)


@pytest.mark.parametrize(
    "changes",
    [{"n_layers": 2}, {"normalization": "layer"}, {"activation": "silu", "gated": True}, {"mlp_depth": 3}],
)
def test_what_is_not_linear_but_for_neurons_is_not_stacked(changes):
    assert is_stackable(SMALL, 1)
    assert not is_stackable(SMALL, 2)
    assert not is_stackable(ModelConfig.model_validate(SMALL.model_dump() | changes), 1)


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
@pytest.mark.parametrize(
    "blocks_wanted", [1, 4, 128]
)  # one sum over all rows, two, one for each block of them
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
    task = ModularArithmetic(p=11)
    config = preset("mod-add-113-canonical").replace(task=task, model=SMALL)
    _, _, parameters, batch = two_of(SMALL, task)
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
