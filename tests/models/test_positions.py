"""Position schemes against TransformerLens and against what they mean."""

import math

import pytest
import torch
from oracles import random_weights
from transformer_lens import HookedTransformer

from interp_arith.models import ModelConfig, build_model
from interp_arith.models.hooked_parts import hooked_config
from interp_arith.models.positions import POSITIONS, Learned, NoPositions, Rotary
from interp_arith.tasks import Addition

SMALL = {"d_model": 8, "n_heads": 2, "d_mlp": 12}
TASK = Addition(n_digits=2)
TOKENS = TASK.examples(["23+45=", "99+1="]).tokens


def test_the_table_of_schemes():
    assert list(POSITIONS) == ["learned", "rotary", "none", "segment-digit", "abacus", "coupled"]


def test_learned_positions_are_the_first_rows_of_the_table():
    table = torch.arange(20.0).reshape(5, 4)
    added = Learned().embed({"pos_embed.W_pos": table}, torch.zeros(2, 3, dtype=torch.long))
    assert torch.equal(added, table[:3])


def test_learned_positions_may_start_on_a_circle_of_the_period():
    drawn, started = (
        random_start(ModelConfig(**SMALL, positions=positions))
        for positions in (Learned(), Learned(period=4))
    )
    circle = started.pop("pos_embed.W_pos") - drawn.pop("pos_embed.W_pos")
    turn = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    assert torch.allclose(circle[:8, :2], turn.repeat(2, 1), atol=1e-5)
    assert not circle[:, 2:].any()
    assert all(torch.equal(drawn[name], started[name]) for name in drawn)


def random_start(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Initial weights of one seed."""
    model = build_model(config, TASK)
    model.initialize(torch.Generator().manual_seed(0))
    return {name: p.detach().clone() for name, p in model.trained_parameters().items()}


@pytest.mark.parametrize("base", [3, 10_000])
def test_rotary_queries_are_those_of_transformer_lens(base):
    config = ModelConfig(**SMALL, positions=Rotary(base=base))
    attention = random_weights(build_model(config, TASK)).blocks[0].attn
    x = torch.randn(2, 7, 2, 4, generator=torch.Generator().manual_seed(0))
    ours = config.positions.rotate(x, torch.arange(7))
    assert torch.allclose(ours, attention.apply_rotary(x), atol=1e-6)


def test_rotation_worked_by_hand():
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 1, 4)
    turned = Rotary(base=100).rotate(x, torch.tensor([2])).flatten()
    # Pair 0 turns by 2 · 100^0, pair 1 by 2 · 100^(−1/2) = 0.2.
    expected = [math.cos(2), math.sin(2), -math.sin(0.2), math.cos(0.2)]
    assert turned.tolist() == pytest.approx(expected, abs=1e-6)


def test_rotated_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).double()
    rotary = Rotary(base=3)

    def score(i: int, j: int) -> float:
        return float((rotary.rotate(q, torch.tensor([i])) * rotary.rotate(k, torch.tensor([j]))).sum())

    assert score(5, 2) == pytest.approx(score(13, 10), rel=1e-5)
    assert score(5, 2) != pytest.approx(score(5, 3), rel=1e-2)


def test_without_positions_the_order_of_earlier_tokens_does_not_matter():
    one = torch.tensor([[1, 2, 3, 10]])
    other = torch.tensor([[3, 1, 2, 10]])
    for positions, same in ((NoPositions(), True), (Learned(), False), (Rotary(), False)):
        model = random_weights(build_model(ModelConfig(**SMALL, positions=positions), TASK))
        assert torch.allclose(model(one)[:, -1], model(other)[:, -1], atol=1e-5) is same


def test_without_positions_the_position_hook_is_live_and_zero():
    model = random_weights(build_model(ModelConfig(**SMALL, positions=NoPositions()), TASK))
    _, cache = model.run_with_cache(TOKENS)
    assert cache["hook_pos_embed"].shape == (2, TASK.n_ctx, 8)
    assert not cache["hook_pos_embed"].any()
    assert torch.equal(cache["blocks.0.hook_resid_pre"], cache["hook_embed"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TransformerLens announces its version 4
@pytest.mark.parametrize("positions", [Learned(), Rotary(), Rotary(base=3)])
def test_a_plain_hooked_transformer_gives_the_same_logits(positions):
    config = ModelConfig(**SMALL, n_layers=2, positions=positions, normalization="layer")
    model = random_weights(build_model(config, TASK))
    plain = HookedTransformer(hooked_config(config, len(TASK.vocabulary), TASK.d_vocab_out, TASK.n_ctx))
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(TOKENS), model(TOKENS))
