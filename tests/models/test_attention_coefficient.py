"""Attention that is part softmax and part constant: the pattern in use is the one that hooks see."""

import copy

import pytest
import torch
from oracles import example_model_configs, random_weights
from torch.func import functional_call, vmap

from interp_arith.errors import RequestError
from interp_arith.models import ModelConfig, build_model
from interp_arith.models.patterns import mixed_pattern
from interp_arith.tasks import Addition

CONFIGS = example_model_configs()
TASK = Addition(n_digits=2)
TOKENS = TASK.examples(["23+45=", "99+1=", "7+8="]).tokens
PATTERN = "blocks.0.attn.hook_pattern"
MIXED = ["half-attention", "little-attention-deep"]


def make(name="half-attention", **fields):
    return random_weights(build_model(CONFIGS[name].model_copy(update=fields), TASK))


def test_half_a_softmax_and_half_a_constant_by_hand():
    softmax = torch.tensor([[0.25, 0.75, 0.0]])
    attended = torch.tensor([[True, True, False]])
    assert torch.equal(mixed_pattern(softmax, 0.5, attended), torch.tensor([[0.625, 0.875, 0.0]]))
    assert torch.equal(mixed_pattern(softmax, 0.0, attended), torch.tensor([[1.0, 1.0, 0.0]]))
    assert torch.equal(mixed_pattern(softmax[:, :2], 0.5), torch.tensor([[0.625, 0.875]]))


def test_a_coefficient_of_one_is_plain_attention():
    assert type(make(attention_coefficient=1.0).blocks[0].attn.hook_pattern).__name__ == "HookPoint"


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_coefficient_outside_zero_to_one_is_refused(alpha):
    with pytest.raises(RequestError, match=f"attention_coefficient = {alpha}"):
        ModelConfig(attention_coefficient=alpha)


@pytest.mark.parametrize("name", MIXED)
def test_the_cached_pattern_is_the_one_that_is_used(name):
    _, cache = make(name).run_with_cache(TOKENS)
    alpha = CONFIGS[name].attention_coefficient
    seen = torch.ones(TASK.n_ctx, TASK.n_ctx).tril()
    for layer in range(CONFIGS[name].n_layers):
        scores, pattern, v, z = (
            cache[f"blocks.{layer}.attn.hook_{what}"] for what in ("attn_scores", "pattern", "v", "z")
        )
        assert torch.allclose(pattern, alpha * scores.softmax(dim=-1) + (1 - alpha) * seen, atol=1e-6)
        assert torch.allclose(z, torch.einsum("bhqk,bkhd->bqhd", pattern, v), atol=1e-5)


def test_with_a_coefficient_of_zero_queries_and_keys_do_not_matter():
    model = make(attention_coefficient=0.0)
    before = model(TOKENS)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.mul_(7)
    assert torch.equal(model(TOKENS), before)
    assert torch.equal(model.forward_analysis(TOKENS)[1][0][0, 0], torch.ones(TASK.n_ctx, TASK.n_ctx).tril())


def test_a_position_with_a_very_low_score_still_gets_the_constant():
    model = make(attention_coefficient=0.5)
    with torch.no_grad():  # scores of thousands: the softmax of all but one position is exactly 0 in float32
        model.blocks[0].attn.W_Q.mul_(1e4)
    last = model.forward_analysis(TOKENS)[1][0][:, :, -1]
    assert (last == 0.5).any()
    assert last.min() == 0.5


def test_a_hook_replaces_the_pattern_and_reset_hooks_brings_it_back():
    model = make()
    plain, cache = model.run_with_cache(TOKENS)
    model.add_hook(PATTERN, lambda pattern, hook: torch.zeros_like(pattern))
    changed, changed_cache = model.run_with_cache(TOKENS)
    assert not changed_cache["blocks.0.attn.hook_z"].any()
    assert not torch.allclose(changed, plain)
    model.reset_hooks()
    assert torch.equal(model(TOKENS), plain)
    assert torch.equal(model.run_with_cache(TOKENS)[1][PATTERN], cache[PATTERN])


def test_patching_the_pattern_of_another_question_patches_what_is_used():
    model = make()
    _, source = model.run_with_cache(TOKENS[1:2])
    patched, cache = None, {}
    with model.hooks(
        fwd_hooks=[
            (PATTERN, lambda pattern, hook: source[PATTERN]),
            ("blocks.0.attn.hook_z", lambda z, hook: cache.update(z=z)),
        ]
    ):
        patched = model(TOKENS[:1])
    v = model.run_with_cache(TOKENS[:1])[1]["blocks.0.attn.hook_v"]
    assert torch.allclose(cache["z"], torch.einsum("bhqk,bkhd->bqhd", source[PATTERN], v), atol=1e-6)
    assert not torch.allclose(patched, model(TOKENS[:1]))


@pytest.mark.parametrize("name", MIXED)
def test_padding_gets_no_constant_and_leaves_the_logits_alone(name):
    model = random_weights(build_model(CONFIGS[name].model_copy(update={"n_ctx": TASK.n_ctx + 4}), TASK))
    padding = torch.full((3, 4), 12)
    mask = torch.cat([torch.zeros_like(padding), torch.ones_like(TOKENS)], dim=1)
    padded, attention = model.forward_analysis(torch.cat([padding, TOKENS], dim=1), mask)
    plain, _ = model.forward_analysis(TOKENS)
    assert torch.allclose(padded[:, 4:], plain, atol=1e-4)
    assert not any(layer[:, :, 4:, :4].any() for layer in attention)


def test_two_thirds_of_a_gradient_of_the_pattern_reach_the_softmax():
    softmax = torch.tensor([[0.25, 0.75]], requires_grad=True)
    (mixed_pattern(softmax, 2 / 3) * torch.tensor([[3.0, 6.0]])).sum().backward()
    assert torch.allclose(softmax.grad, torch.tensor([[2.0, 4.0]]))


@pytest.mark.parametrize("name", MIXED)
def test_it_maps_over_stacked_parameters_and_keeps_nothing_behind(name):
    model = build_model(CONFIGS[name], TASK)
    members = [random_weights(build_model(CONFIGS[name], TASK), seed).state_dict() for seed in range(2)]
    stacked = {key: torch.stack([m[key] for m in members]) for key in model.trained_parameters()}
    together = vmap(lambda p: functional_call(model, p, (TOKENS,)))(stacked)
    assert all(block.attn.hook_pattern.attended is None for block in model.blocks)
    for index, member in enumerate(members):
        model.load_state_dict(member)
        assert torch.allclose(together[index], model(TOKENS), rtol=1e-4, atol=1e-4)


def test_a_copy_computes_the_same():
    model = make("little-attention-deep")
    assert torch.equal(copy.deepcopy(model)(TOKENS), model(TOKENS))


def test_its_weights_have_the_names_of_plain_attention():
    plain, mixed = make(attention_coefficient=1.0), make()
    assert list(plain.state_dict()) == list(mixed.state_dict())
    assert list(plain.hook_dict) == list(mixed.hook_dict)
