"""The optimizers against torch's own, against numbers worked by hand, and seed by seed."""

import math

import pytest
import torch
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.training import optimizers
from interp_arith.training.optimizers import (
    OPTIMIZERS,
    AdamW,
    Grokfast,
    Muon,
    Optimizer,
    OrthoGrad,
    clip_by_norm,
    global_norm,
    orthogonal_gradient,
    orthogonalize,
    split_matrices,
)

SEEDS, STEPS = 3, 6
SHAPES = {
    "embed.W_E": (7, 8),
    "pos_embed.W_pos": (4, 8),
    "blocks.0.attn.W_Q": (2, 8, 4),
    "blocks.0.attn.W_O": (2, 4, 8),
    "blocks.0.attn.b_Q": (2, 4),
    "blocks.0.mlp.W_in": (8, 16),
    "blocks.0.mlp.W_out": (16, 8),
    "blocks.0.mlp.hidden.0.W_hidden": (16, 16),
    "blocks.0.ln1.w": (8,),
    "unembed.W_U": (8, 7),
}
MATRICES = {
    "blocks.0.attn.W_Q",
    "blocks.0.attn.W_O",
    "blocks.0.mlp.W_in",
    "blocks.0.mlp.W_out",
    "blocks.0.mlp.hidden.0.W_hidden",
}


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(SEEDS, *shape, generator=generator) for name, shape in SHAPES.items()}


def train(choice: Optimizer, parameters: dict[str, Tensor], gradients: list[dict[str, Tensor]], rates=None):
    """The parameters and state after one update per gradient."""
    parameters = {name: value.clone() for name, value in parameters.items()}
    state = choice.initial_state(parameters)
    for step, gradient in enumerate(gradients, start=1):
        multiplier = rates[step - 1] if rates else 1.0
        choice.update(parameters, gradient, state, step=step, multiplier=multiplier)
    return parameters, state


def train_torch(optimizer, parameter: Tensor, gradients: list[Tensor], rates=None) -> Tensor:
    """One parameter tensor under a torch optimizer class already bound to its settings."""
    weight = torch.nn.Parameter(parameter.clone())
    stepper = optimizer([weight])
    peak = stepper.param_groups[0]["lr"]
    for step, gradient in enumerate(gradients):
        stepper.param_groups[0]["lr"] = peak * (rates[step] if rates else 1.0)
        weight.grad = gradient.clone()
        stepper.step()
    return weight.detach()


@pytest.fixture
def gradients() -> list[dict[str, Tensor]]:
    return [draw(100 + step) for step in range(STEPS)]


RATES = [0.25, 0.5, 1.0, 1.0, 0.6, 0.1]


def in_other_order(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, the last axis of each tensor first in memory."""
    return {name: tensor.movedim(-1, 0).contiguous().movedim(0, -1) for name, tensor in tensors.items()}


@pytest.mark.parametrize("number", [int, torch.tensor], ids=["plain", "recorded"])
@pytest.mark.parametrize("layout_of_weights", [dict, in_other_order])
@pytest.mark.parametrize("layout_of_gradients", [dict, in_other_order])
def test_adamw_is_torch_adamw_on_every_seed(gradients, layout_of_gradients, layout_of_weights, number):
    choice = AdamW(learning_rate=0.01, weight_decay=0.5, betas=(0.8, 0.95), epsilon=1e-6)
    trained = layout_of_weights(draw(0))
    state = choice.initial_state(trained)
    for step, (slopes, rate) in enumerate(zip(gradients, RATES, strict=True), start=1):
        choice.update(trained, layout_of_gradients(slopes), state, step=number(step), multiplier=rate)
    for name, start in draw(0).items():
        for seed in range(SEEDS):
            expected = train_torch(
                lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, betas=(0.8, 0.95), eps=1e-6),
                start[seed],
                [gradient[name][seed] for gradient in gradients],
                RATES,
            )
            torch.testing.assert_close(trained[name][seed], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torch_muon_on_every_matrix_of_every_seed(gradients, nesterov, dtype, monkeypatch):
    if dtype == torch.float32:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # in which torch's multiplies
    monkeypatch.setattr(optimizers, "product_dtype", lambda device: dtype)
    choice = Muon(learning_rate=0.02, momentum=0.9, nesterov=nesterov, weight_decay=0.3)
    trained, _ = train(choice, draw(0), gradients, RATES)
    for name in MATRICES:
        start = draw(0)[name].flatten(0, -3)
        slopes = [gradient[name].flatten(0, -3) for gradient in gradients]
        for index, matrix in enumerate(start):
            expected = train_torch(
                lambda p: torch.optim.Muon(p, lr=0.02, momentum=0.9, nesterov=nesterov, weight_decay=0.3),
                matrix,
                [slope[index] for slope in slopes],
                RATES,
            )
            # a batched product may round an entry in bfloat16 otherwise
            near = 1e-6 if dtype == torch.float32 else 0.02 * (expected - matrix).abs().max().item()
            torch.testing.assert_close(trained[name].flatten(0, -3)[index], expected, rtol=0, atol=near)


@pytest.mark.parametrize("decay", [None, 0.0, 2.0])
@pytest.mark.parametrize("which", ["all", "attention", "mlp"])
def test_muon_gives_adamw_to_everything_that_is_no_matrix_of_those_blocks(gradients, which, decay):
    wanted = {"all": ("attn", "mlp"), "attention": ("attn",), "mlp": ("mlp",)}[which]
    chosen = {name for name in MATRICES if name.split(".")[2] in wanted}
    choice = Muon(
        weight_decay=0.3,
        adamw_learning_rate=0.004,
        adamw_weight_decay=decay,
        betas=(0.8, 0.9),
        matrices=which,
    )
    trained, state = train(choice, draw(0), gradients)
    adamw, _ = train(
        AdamW(learning_rate=0.004, weight_decay=0.3 if decay is None else decay, betas=(0.8, 0.9)),
        draw(0),
        gradients,
    )
    everywhere, _ = train(choice.model_copy(update={"matrices": "all"}), draw(0), gradients)
    for name in SHAPES:
        assert torch.equal(trained[name], (everywhere if name in chosen else adamw)[name])
        assert not torch.equal(everywhere[name], adamw[name]) or name not in MATRICES
    assert set(split_matrices(draw(0), which)[0]) == chosen
    assert {key.split("/")[1] for key in state if key.startswith("momentum/")} == chosen
    assert {key.split("/")[1] for key in state if key.startswith("exp_avg_sq/")} == SHAPES.keys() - chosen


def test_a_state_is_completed_by_the_rates_that_it_has_not_and_by_no_other():
    state = {key: value[1] for key, value in Muon(weight_decay=0.3).initial_state(draw(0)).items()}
    older = {key: value for key, value in state.items() if key != "adamw_weight_decay"}
    assert Muon(weight_decay=0.7).completed(older)["weight_decay"] == 0.3
    completed = Muon(weight_decay=0.3).completed(older)
    assert list(completed) == list(state)
    assert all(torch.equal(completed[key], state[key]) for key in state)
    assert completed["adamw_weight_decay"].dtype == torch.float64
    assert Muon(weight_decay=0.3, adamw_weight_decay=2.0).completed(older)["adamw_weight_decay"] == 2


def test_muon_without_matrices_is_adamw():
    start, slope = {"embed.W_E": torch.ones(2, 3, 3)}, {"embed.W_E": torch.ones(2, 3, 3)}
    muon, _ = train(Muon(adamw_learning_rate=0.1), start, [slope])
    adamw, _ = train(AdamW(learning_rate=0.1, weight_decay=0.1), start, [slope])
    assert torch.equal(muon["embed.W_E"], adamw["embed.W_E"])


def test_orthogonalized_singular_values_lie_near_one():
    values = torch.linalg.svdvals(orthogonalize(draw(0)["blocks.0.mlp.W_in"], 5).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


def one(value: float) -> dict[str, Tensor]:
    return {"w": torch.tensor([[value]], dtype=torch.float64)}


def test_grokfast_agrees_with_numbers_worked_by_hand():
    # alpha 0.5, amplification 2: m = 1, then 0.5 + 0.5·3 = 2, then 1 − 0.5 = 0.5; g' = 3, 7, 0.
    choice = Grokfast(alpha=0.5, amplification=2, learning_rate=0.1, betas=(0.5, 0.5), weight_decay=0)
    slopes = [one(1.0), one(3.0), one(-1.0)]
    after, average, moments = [], [], []
    for count in (1, 2, 3):
        parameters, state = train(choice, one(0.0), slopes[:count])
        after.append(parameters["w"].item())
        average.append(state["gradient_average/w"].item())
        moments.append((state["exp_avg/w"].item(), state["exp_avg_sq/w"].item()))
    assert average == [1.0, 2.0, 0.5]
    assert moments == [(1.5, 4.5), (4.25, 26.75), (2.125, 13.375)]
    steps = [1.0, (4.25 / 0.75) / math.sqrt(26.75 / 0.75), (2.125 / 0.875) / math.sqrt(13.375 / 0.875)]
    assert after == pytest.approx([-0.1 * sum(steps[:count]) for count in (1, 2, 3)], rel=1e-7)


def test_grokfast_without_amplification_is_adamw(gradients):
    plain, _ = train(AdamW(), draw(0), gradients)
    filtered, _ = train(Grokfast(amplification=0), draw(0), gradients)
    assert all(torch.equal(plain[name], filtered[name]) for name in SHAPES)


def test_orthogonal_gradient_is_orthogonal_and_keeps_its_norm():
    for name, weight in draw(0).items():
        gradient = draw(1)[name]
        projected = orthogonal_gradient(weight, gradient)
        for seed in range(SEEDS):
            size = weight[seed].norm() * gradient[seed].norm()
            assert (weight[seed] * projected[seed]).sum().abs() < 1e-5 * size
            torch.testing.assert_close(projected[seed].norm(), gradient[seed].norm())


def test_orthogonal_gradient_of_zero_weights_is_the_gradient():
    gradient = draw(1)["blocks.0.attn.b_Q"]
    torch.testing.assert_close(orthogonal_gradient(torch.zeros_like(gradient), gradient), gradient)


def test_orthogonal_gradient_agrees_with_numbers_worked_by_hand():
    projected = orthogonal_gradient(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(projected, torch.tensor([[0.0, 5.0]]))


def test_orthograd_is_adamw_on_orthogonal_gradients():
    start, slope = draw(0), draw(1)
    projected = {name: orthogonal_gradient(start[name], slope[name]) for name in SHAPES}
    trained, _ = train(OrthoGrad(), start, [slope])
    expected, _ = train(AdamW(), start, [projected])
    assert all(torch.equal(trained[name], expected[name]) for name in SHAPES)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_seeds_are_independent(kind, gradients):
    choice = OPTIMIZERS[kind]()
    changed = [{name: value.clone() for name, value in gradient.items()} for gradient in gradients]
    for gradient in changed:
        for value in gradient.values():
            value[1] = -3 * value[1] + 1
    before, state_before = train(choice, draw(0), gradients)
    after, state_after = train(choice, draw(0), changed)
    for first, second in ((before, after), (state_before, state_after)):
        for name in first:
            assert torch.equal(first[name][[0, 2]], second[name][[0, 2]])
    assert not any(torch.equal(before[name][1], after[name][1]) for name in SHAPES)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_update_works_in_place_and_leaves_gradients_alone(kind):
    choice, parameters, gradients = OPTIMIZERS[kind](), draw(0), draw(1)
    for value in parameters.values():
        value.requires_grad_()
    addresses = {name: value.data_ptr() for name, value in parameters.items()}
    state = choice.initial_state(parameters)
    held = dict(state)
    choice.update(parameters, gradients, state, step=1, multiplier=0.5)
    assert addresses == {name: value.data_ptr() for name, value in parameters.items()}
    assert all(state[key] is held[key] for key in held)
    assert all(torch.equal(gradients[name], draw(1)[name]) for name in SHAPES)
    assert not any(torch.equal(parameters[name], draw(0)[name]) for name in SHAPES)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_sliced_state_continues_one_seed(kind, gradients):
    choice = OPTIMIZERS[kind]()
    whole, _ = train(choice, draw(0), gradients)
    halfway, state = train(choice, draw(0), gradients[:3])
    assert all(value.shape[0] == SEEDS for value in state.values())
    alone = {name: value[1:2].clone() for name, value in halfway.items()}
    state = {key: value[1:2].clone() for key, value in state.items()}
    for step, gradient in enumerate(gradients[3:], start=4):
        slopes = {name: value[1:2] for name, value in gradient.items()}
        choice.update(alone, slopes, state, step=step, multiplier=1.0)
    for name in SHAPES:
        torch.testing.assert_close(alone[name], whole[name][1:2], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_multiplier_of_zero_moves_no_parameter(kind):
    parameters, _ = train(OPTIMIZERS[kind](), draw(0), [draw(1)], rates=[0.0])
    assert all(torch.equal(parameters[name], draw(0)[name]) for name in SHAPES)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_round_trips_through_plain_data(kind):
    choice = OPTIMIZERS[kind](learning_rate=0.003)
    assert OPTIMIZERS.parse(choice.model_dump(mode="json")) == choice


def test_global_norm_spans_all_tensors_of_a_seed():
    tensors = {"a": torch.tensor([[3.0, 0.0], [0.0, 0.0]]), "b": torch.tensor([4.0, 2.0])}
    assert global_norm(tensors).tolist() == [5.0, 2.0]


def test_clipping_scales_only_the_seeds_above_the_bound():
    gradients = {"a": torch.tensor([[30.0, 0.0], [0.3, 0.0]]), "b": torch.tensor([[[40.0]], [[0.4]]])}
    small = {name: value[1].clone() for name, value in gradients.items()}
    norms = clip_by_norm(gradients, 1.0)
    assert norms.tolist() == pytest.approx([50.0, 0.5])
    assert global_norm(gradients).tolist() == pytest.approx([1.0, 0.5])
    assert gradients["a"][0].tolist() == pytest.approx([0.6, 0.0])
    assert all(torch.equal(gradients[name][1], small[name]) for name in small)


def test_a_seed_without_finite_gradients_spoils_no_other():
    gradients = {"a": torch.tensor([[math.nan, 1.0], [6.0, 8.0]])}
    clip_by_norm(gradients, 5.0)
    assert gradients["a"][1].tolist() == pytest.approx([3.0, 4.0])


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_clipping_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(RequestError, match=r"max_norm is .*; it must be positive"):
        clip_by_norm(draw(0), bound)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_unknown_field_is_refused(kind):
    with pytest.raises(RequestError, match="lr"):
        OPTIMIZERS[kind](lr=0.1)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("adamw", {"learning_rate": 0}),
        ("adamw", {"weight_decay": -1}),
        ("adamw", {"betas": (0.9, 1.0)}),
        ("muon", {"momentum": 1.0}),
        ("muon", {"newton_schulz_steps": 0}),
        ("grokfast", {"alpha": -0.1}),
        ("orthograd", {"epsilon": 0}),
    ],
)
def test_a_value_out_of_range_is_refused(kind, wrong):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        OPTIMIZERS[kind](**wrong)


def test_a_misspelt_optimizer_is_answered_with_the_nearest():
    with pytest.raises(RequestError, match="no optimizer is called 'adam'; did you mean adamw"):
        OPTIMIZERS["adam"]
