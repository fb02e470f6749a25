"""Decoding with keys and values kept against the hooked model, which reads everything anew for each token."""

import pytest
import torch
from oracles import example_model_configs, is_large, random_weights

from interp_arith.models import ModelConfig, build_model
from interp_arith.models.cached import greedy_tokens
from interp_arith.models.positions import POSITIONS
from interp_arith.presets import preset, presets
from interp_arith.tasks import Addition, ModularArithmetic, Text
from interp_arith.tasks.sources import split_questions

CONFIGS = example_model_configs()
TASK = Addition(n_digits=3)
QUESTIONS = split_questions(TASK, "train", 40)


def planted(config, task):
    """A hooked model in float64, so that no two tokens tie, that says different things to different prompts."""
    model = random_weights(build_model(config, task), seed=3).double()
    model.cfg.dtype = torch.float64
    with torch.no_grad():
        for name, parameter in model.trained_parameters().items():
            if ".W_" in name:
                parameter.mul_(3)
    return model.eval()


def cached(model, prompts, new):
    return greedy_tokens(model.config, model.trained_parameters(), prompts, new, model.position_ids)


def generated(model, prompts, new):
    return model.generate(prompts, new, temperature=0)[:, -new:]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_config_writes_what_the_hooked_model_writes(config):
    model, prompts = planted(config, TASK), TASK.tokens(QUESTIONS)
    written = cached(model, prompts, 4)
    assert torch.equal(written, generated(model, prompts, 4))
    assert len(written.unique(dim=0)) > 1


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_every_position_scheme_writes_what_the_hooked_model_writes(positions, n_layers):
    config = ModelConfig.model_validate(
        {"positions": {"kind": positions}, "n_layers": n_layers, "d_model": 16, "d_mlp": 8}
    )
    model, prompts = planted(config, TASK), TASK.tokens(QUESTIONS)
    written = cached(model, prompts, 4)
    assert torch.equal(written, generated(model, prompts, 4))
    assert len(written.unique(dim=0)) > 1


@pytest.mark.parametrize("name", presets())
def test_every_preset_writes_what_the_hooked_model_writes(name):
    config = preset(name)
    task, model = config.task, planted(config.model, config.task)
    n = 1 if isinstance(task, Text) else 4 if is_large(config) else 20
    prompts = task.tokens(split_questions(task, "train", n))
    new = len(task.answer_positions)
    assert torch.equal(cached(model, prompts, new), generated(model, prompts, new))


def test_the_last_token_needs_no_position_of_its_own():
    model = planted(CONFIGS["two-layers"], TASK)
    prompts = TASK.tokens(QUESTIONS)
    assert prompts.shape[1] + 4 - 1 == model.cfg.n_ctx
    assert torch.equal(cached(model, prompts, 4), generated(model, prompts, 4))


def test_one_token_of_one_prompt():
    task = ModularArithmetic(p=11)
    model = planted(CONFIGS["rotary"], task)
    prompt = task.tokens(["3+5="])
    assert torch.equal(cached(model, prompt, 1), generated(model, prompt, 1))


def test_it_leaves_the_prompts_as_they_are_and_wants_no_gradient():
    model, prompts = planted(CONFIGS["nanda"], TASK), TASK.tokens(QUESTIONS)
    before = prompts.clone()
    written = cached(model, prompts, 4)
    assert torch.equal(prompts, before)
    assert not written.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_it_is_as_good_in_float32():
    model = random_weights(build_model(CONFIGS["layer-norm"], TASK)).eval()
    prompts = TASK.tokens(QUESTIONS)
    assert torch.equal(cached(model, prompts, 4), generated(model, prompts, 4))
