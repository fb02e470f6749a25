"""Scaled attention scores: the scores that hooks see are those in use, and grow with the keys that a query sees."""

import math

import pytest
import torch
from oracles import example_model_configs, random_weights

from interp_arith.errors import RequestError
from interp_arith.models import ModelConfig, build_model
from interp_arith.models.lean import answer_logits
from interp_arith.models.patterns import score_scale
from interp_arith.tasks import Addition

CONFIGS = example_model_configs()
TASK = Addition(n_digits=2)
TOKENS = TASK.examples(["23+45=", "99+1=", "7+8="]).tokens
SCORES, PATTERN = "blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_pattern"


def make(name="nanda", **fields):
    return random_weights(build_model(CONFIGS[name].model_copy(update=fields), TASK))


def lower(x: torch.Tensor) -> torch.Tensor:
    """The scores that are not masked, [batch head pair]."""
    return x[..., torch.ones(x.shape[-2:]).tril().bool()]


def test_the_scale_by_hand():
    seen = torch.tensor([0, 1, 2, 4, 8, 16])
    assert score_scale(1.5, None, seen).tolist() == [1.5] * 6
    # From 4 keys on: ln 8 / ln 4 = 3/2, ln 16 / ln 4 = 2.
    assert score_scale(0.5, 4, seen).tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.75, 1.0])


def test_hooks_see_scaled_scores_and_the_pattern_is_their_softmax():
    plain, scaled = (make(**fields).run_with_cache(TOKENS)[1] for fields in ({}, {"attention_scale": 1.5}))
    assert torch.allclose(lower(scaled[SCORES]), 1.5 * lower(plain[SCORES]), rtol=1e-6)
    assert torch.equal(scaled[SCORES] == -torch.inf, plain[SCORES] == -torch.inf)
    assert torch.allclose(scaled[PATTERN], scaled[SCORES].softmax(dim=-1))
    assert not torch.allclose(scaled[PATTERN], plain[PATTERN], atol=0.01)


def test_scores_grow_with_the_keys_that_a_query_sees():
    plain, grown = (make(**fields).run_with_cache(TOKENS)[1] for fields in ({}, {"attention_scale_from": 3}))
    ratio = torch.tensor([max(1.0, math.log(n) / math.log(3)) for n in range(1, TASK.n_ctx + 1)])
    expected = plain[SCORES] * ratio[:, None]
    assert torch.allclose(lower(grown[SCORES]), lower(expected), rtol=1e-5)


@pytest.mark.parametrize("name", ["sharp-attention", "sharper-with-length", "sharp-half-attention"])
def test_keys_that_are_padding_are_not_seen(name):
    model = make(name, n_ctx=TASK.n_ctx + 4)
    padding = torch.full((3, 4), 12)
    mask = torch.cat([torch.zeros_like(padding), torch.ones_like(TOKENS)], dim=1)
    padded, attention = model.forward_analysis(torch.cat([padding, TOKENS], dim=1), mask)
    assert torch.allclose(padded[:, 4:], model(TOKENS), atol=1e-4)
    assert all(layer.isfinite().all() for layer in attention)


def test_the_constant_part_of_a_pattern_is_not_scaled():
    _, cache = make("sharp-half-attention").run_with_cache(TOKENS)
    seen = torch.ones(TASK.n_ctx, TASK.n_ctx).tril()
    assert torch.allclose(cache[PATTERN], 0.5 * cache[SCORES].softmax(dim=-1) + 0.5 * seen, atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"attention_scale_from": 100}])
def test_where_nothing_is_scaled_everything_is_the_same_to_the_bit(fields):
    config = CONFIGS["two-layers"].model_copy(update=fields)
    model, plain = make("two-layers", **fields), make("two-layers")
    assert torch.equal(model(TOKENS), plain(TOKENS))
    lean, plain_lean = (
        answer_logits(c, plain.trained_parameters(), TOKENS, TASK.answer_positions)
        for c in (config, CONFIGS["two-layers"])
    )
    assert torch.equal(lean, plain_lean)
    assert type(make().blocks[0].attn).__name__ == "Attention"


def test_a_trained_model_can_be_sharpened_afterwards():
    model, sharp = make(), make(attention_scale=3.0)
    sharp.load_state_dict(model.state_dict())
    assert list(sharp.state_dict()) == list(model.state_dict())
    assert list(sharp.hook_dict) == list(model.hook_dict)
    entropies = [
        torch.special.entr(m.forward_analysis(TOKENS)[1][0][:, :, 1:]).sum(dim=-1).mean()
        for m in (model, sharp)
    ]
    assert entropies[1] < entropies[0]


@pytest.mark.parametrize(
    "fields", [{"attention_scale": 0.0}, {"attention_scale": -1.0}, {"attention_scale_from": 1}]
)
def test_a_scale_of_nothing_is_refused(fields):
    (name,) = fields
    with pytest.raises(RequestError, match=f"{name} = "):
        ModelConfig(**fields)
