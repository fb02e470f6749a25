"""Forward pass and loss trace as one graph, and compute the same; what cannot be compiled is computed as it is."""

from functools import partial

import pytest
import torch
from chaos.small_runs import small_config
from oracles import digit_model_configs, example_model_configs

from interp_arith.tasks import Addition
from interp_arith.tasks.sources import make_source
from interp_arith.training import ensemble, step
from interp_arith.training.batches import make_batches, with_offsets
from interp_arith.training.compiled import Compiled
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.optimizers import OPTIMIZERS

ADDER = Addition(n_digits=2, val_questions=4, test_questions=4)


def of_two_seeds(config):
    """Parameters, and a batch."""
    configs = [config.with_seed(seed) for seed in (0, 1)]
    sources = [make_source(c.task, c.batch_size, c.seed) for c in configs]
    cpu = torch.device("cpu")
    batches = with_offsets(make_batches(sources, cpu), configs, cpu)
    return ensemble.stack([fresh_weights(c) for c in configs]), batches.batch(batches.given(0, None), 0)


def with_gradients(forward, config):
    parameters, batch = of_two_seeds(config)
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    loss, largest = forward(config, leaves, batch, config.task.answer_positions)
    return loss.detach(), largest, *torch.autograd.grad(loss.sum(), list(leaves.values()))


@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # of Dynamo, tracing the loss
@pytest.mark.parametrize(
    ("model", "task"),
    [
        *((model, task) for model in ("nanda", "swiglu-rms") for task in ("modular", "addition")),
        ("sharper-with-length", "addition"),
        *((model, "addition") for model in ("segment-digit", "abacus", "coupled")),
    ],
)
def test_as_on_a_gpu_it_traces_without_a_break_and_is_the_same(model, task):
    models = example_model_configs() | digit_model_configs()
    config = small_config(model=models[model], **({"task": ADDER} if task == "addition" else {}))
    mapped = partial(step.losses, mapped=True)
    torch._dynamo.reset()
    compiled = torch.compile(mapped, fullgraph=True, backend="aot_eager")
    for found, expected in zip(with_gradients(compiled, config), with_gradients(mapped, config), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_what_cannot_be_compiled_is_computed_as_it_is_and_the_user_told_once():
    def no_compiler(graph, inputs):
        raise RuntimeError("no compiler\nmore")

    told: list[str] = []
    torch._dynamo.reset()
    compiled = Compiled(step.losses, "the forward pass", told.append, backend=no_compiler)
    config = small_config(task=ADDER)
    for _ in range(2):
        found, expected = with_gradients(compiled, config), with_gradients(step.losses, config)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(told) == 1
    assert told[0].startswith("the forward pass could not be compiled (")
    assert "no compiler" in told[0]
    assert "\n" not in told[0]


def made_twice(config, apply, *numbers):
    """Parameters and state behind two updates, and the norms, by `step.apply` or the same compiled."""
    parameters, batch = of_two_seeds(config)
    state = step.initial_state(config, parameters)
    kernels = step.Kernels(apply=apply)
    reports = [
        step.update(
            config,
            parameters,
            state,
            batch,
            config.task.answer_positions,
            step=number,
            multiplier=torch.tensor(0.5),
            kernels=kernels,
        )
        for number in numbers
    ]
    return [*parameters.values(), *state.values(), *(report.gradient_norm for report in reports)]


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize(
    "optimizer",
    [
        *({"kind": kind} for kind in OPTIMIZERS),
        {"kind": "muon", "matrices": "attention", "adamw_weight_decay": 2.0},
    ],
    ids=str,
)
def test_every_optimizer_traces_without_a_break_and_is_the_same(optimizer, clip_norm):
    config = small_config(task=ADDER, optimizer=optimizer, clip_norm=clip_norm)
    torch._dynamo.reset()
    compiled = torch.compile(step.apply, fullgraph=True, backend="aot_eager")
    numbers = [torch.tensor(2.0, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)]
    found, expected = (made_twice(config, apply, *numbers) for apply in (compiled, step.apply))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    uncompiled = made_twice(config, compiled, 2, 3)  # numbers would be compiled in, each anew
    assert all(
        torch.equal(a, b) for a, b in zip(uncompiled, made_twice(config, step.apply, 2, 3), strict=True)
    )
