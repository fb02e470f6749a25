"""Models of one layer where one token asks, many at once or one by one, against the hooked models."""

import pytest
import torch
from oracles import random_weights

from interp_arith.models import build_model
from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import is_foldable
from interp_arith.presets import preset, presets
from interp_arith.tasks import ModularArithmetic
from interp_arith.tasks.scoring import cross_entropy
from interp_arith.training import ensemble

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


def foldable_presets():
    """The presets that are computed so."""
    return [
        name
        for name in presets()
        if preset(name).task.asking_token is not None
        and is_foldable(preset(name).model, len(preset(name).task.answer_positions))
    ]


def two_of(config, task, dtype=torch.float32, share=1.0):
    """Two models with planted weights, or a share of them, each with questions of its own; and all of it stacked."""
    models = [random_weights(build_model(config, task), seed).to(dtype) for seed in range(2)]
    for model in models:
        model.cfg.dtype = dtype
        for parameter in model.parameters():
            parameter.data.mul_(share)
    members = [model.trained_parameters() for model in models]
    questions = task.split("train")
    batch = ensemble.stack_examples(
        [task.examples(questions[start : start + 20]) for start in (0, 7)], torch.device("cpu")
    )
    parameters = {name: p.detach().requires_grad_() for name, p in ensemble.stack(members).items()}
    return models, members, parameters, batch


def hold_equal(config, task, mapped, tolerance=1e-5, dtype=torch.float32, share=1.0):
    """Logits to the tolerance relative to the largest, gradients to that of each parameter's largest."""
    models, members, parameters, batch = two_of(config, task, dtype, share)
    asker = task.asking_token
    found = ensemble.logits(config, parameters, batch.tokens, task.answer_positions, mapped, None, asker)
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


@pytest.mark.parametrize("mapped", [True, False], ids=["stacked", "single"])
@pytest.mark.parametrize("name", foldable_presets())
def test_presets_are_the_hooked_models(name, mapped):
    """Of mod-add-113-fast at half the planted weights, where its logits reach 47 nats.

    At the whole they reach 4,000. The last bit of float32 is 5e-4 of a nat there, and the gradients of the hooked
    model itself are 1.1e-5 from those of float64.
    """
    share = 0.5 if name == "mod-add-113-fast" else 1.0
    hold_equal(preset(name).model, preset(name).task, mapped, share=share)


@pytest.mark.parametrize("mapped", [True, False], ids=["stacked", "single"])
@pytest.mark.parametrize("name", foldable_presets())
def test_presets_are_the_hooked_models_in_float64(name, mapped):
    hold_equal(preset(name).model, preset(name).task, mapped, 1e-7, torch.float64)


@pytest.mark.parametrize("mapped", [True, False], ids=["stacked", "single"])
@pytest.mark.parametrize("format_", ["numbers", "numbers-with-operation"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_configs_are_the_hooked_models(config, format_, mapped):
    hold_equal(config, ModularArithmetic(p=11, format=format_), mapped, 1e-7, torch.float64)


@pytest.mark.parametrize(
    "changes",
    [{"n_layers": 2}, {"normalization": "layer"}, {"activation": "silu", "gated": True}, {"mlp_depth": 3}],
)
def test_what_is_not_linear_but_for_neurons_is_not_folded(changes):
    assert is_foldable(SMALL, 1)
    assert not is_foldable(SMALL, 2)
    assert not is_foldable(ModelConfig.model_validate(SMALL.model_dump() | changes), 1)
