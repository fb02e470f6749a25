"""Which transformer a ModelConfig stands for, and what it refuses."""

import math
import random

import numpy as np
import pytest
import torch
from oracles import example_model_configs, published_config

from interp_arith.errors import RequestError
from interp_arith.models import ModelConfig, build_model
from interp_arith.models.hooked_parts import hooked_config
from interp_arith.models.positions import NoPositions, Rotary
from interp_arith.tasks import Addition, ModularArithmetic

CONFIGS = example_model_configs()


def parameter_count(config, task) -> int:
    return sum(p.numel() for p in build_model(config, task).trained_parameters().values())


def test_the_hooked_config_has_no_seed():
    hooked = hooked_config(ModelConfig(), 114, 113, 3)
    assert hooked.seed is None
    assert hooked.init_weights is False


def test_building_a_model_leaves_every_global_generator_alone():
    random.seed(1)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    build_model(ModelConfig(d_model=8, d_mlp=8), ModularArithmetic(p=7))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@pytest.mark.parametrize(("final_norm", "count"), [(False, 763), (True, 777)])
def test_the_published_adders_have_their_published_parameter_count(final_norm, count):
    # 14·7 embeds (and unembeds), 35·7 positions, 4·7·7 attention, 2·7·14 MLP, 14 for each layer norm.
    assert 14 * 7 + 35 * 7 + 4 * 49 + 2 * 98 + 2 * 14 + final_norm * 14 == count
    config = published_config(final_norm)
    assert parameter_count(config, Addition(n_digits=10)) == count


def test_the_canonical_model_has_226688_parameters():
    # 114·128 + 3·128 + 4·128·128 + 2·128·512 + 512 + 128 + 128·113
    assert parameter_count(ModelConfig(), ModularArithmetic(p=113)) == 226_688


def test_a_gate_costs_one_more_matrix_and_depth_one_more_square():
    task, small = ModularArithmetic(p=7), {"d_model": 8, "n_heads": 2, "d_mlp": 12}
    plain = parameter_count(ModelConfig(**small), task)
    assert parameter_count(ModelConfig(**small, gated=True), task) == plain + 8 * 12
    assert parameter_count(ModelConfig(**small, mlp_depth=4), task) == plain + 2 * (12 * 12 + 12)
    assert parameter_count(ModelConfig(**small, mlp_bias=False), task) == plain - 12 - 8
    assert parameter_count(ModelConfig(**small, attention_bias=True), task) == plain + 3 * 8 + 8
    assert parameter_count(ModelConfig(**small, unembed_bias=True), task) == plain + 7
    assert parameter_count(ModelConfig(**small, attention_only=True), task) == plain - 2 * 96 - 20
    assert parameter_count(ModelConfig(**small, normalization="layer"), task) == plain + 3 * 16
    assert parameter_count(ModelConfig(**small, normalization="rms"), task) == plain + 3 * 8
    for positions in (NoPositions(), Rotary()):
        assert parameter_count(ModelConfig(**small, positions=positions), task) == plain - 3 * 8


def test_a_width_that_heads_do_not_divide_is_refused_with_one_that_they_do():
    with pytest.raises(
        RequestError, match="d_model = 130 is not divisible by n_heads = 4; try d_model = 128"
    ):
        ModelConfig(d_model=130)
    assert ModelConfig(d_model=130, d_head=16).head_width == 16
    with pytest.raises(RequestError, match="d_model = 2 is not divisible by n_heads = 4; try d_model = 4"):
        ModelConfig(d_model=2)


def test_rotary_positions_need_heads_of_even_width():
    with pytest.raises(
        RequestError, match="d_head = 7 is odd, and rotary positions turn coordinates in pairs"
    ):
        ModelConfig(d_model=7, n_heads=1, positions=Rotary())


def test_an_unknown_position_scheme_names_the_nearest():
    with pytest.raises(RequestError, match=r"no position scheme is called 'rotery'; did you mean rotary\?"):
        ModelConfig(positions={"kind": "rotery"})
    with pytest.raises(RequestError, match="no kind given; there are: learned, rotary, none, seg"):
        ModelConfig(positions={})


@pytest.mark.parametrize(
    "wrong",
    [{"n_layers": 0}, {"mlp_depth": 1}, {"activation": "tanh"}, {"normalization": "batch"}, {"d_modle": 8}],
)
def test_values_out_of_range_and_unknown_fields_are_refused(wrong):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        ModelConfig(**wrong)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_config_round_trips_through_plain_data(config):
    assert ModelConfig.model_validate(config.model_dump()) == config
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_weights_start_normal_biases_at_zero_and_norms_at_one():
    config = ModelConfig(normalization="layer", attention_bias=True, unembed_bias=True, init_scale=0.5)
    model = build_model(config, ModularArithmetic(p=113))
    for name, parameter in model.trained_parameters().items():
        last = name.rsplit(".", 1)[-1]
        if last == "b" or last.startswith("b_"):
            assert not parameter.any(), name
        elif last == "w":
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.5 / math.sqrt(128), rel=0.15), name
            assert abs(parameter.mean().item()) < 0.1 * 0.5 / math.sqrt(128), name


def test_initial_weights_follow_the_generator_alone():
    model = build_model(ModelConfig(d_model=8, d_mlp=8), ModularArithmetic(p=7))
    drawn = []
    for seed in (0, 0, 1):
        model.initialize(torch.Generator().manual_seed(seed))
        drawn.append(model.blocks[0].attn.W_Q.detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_context_shorter_than_the_task_is_refused():
    with pytest.raises(
        RequestError, match=r"n_ctx = 31, and .* needs 32 positions; .*n_digits that fits is 9$"
    ):
        build_model(ModelConfig(n_ctx=31), Addition(n_digits=10))


def test_tied_embeddings_need_as_many_outputs_as_inputs():
    with pytest.raises(
        RequestError, match=r"given 114 and 113; set model\.tied to False, or choose a task in char"
    ):
        build_model(ModelConfig(tied=True), ModularArithmetic(p=113))
