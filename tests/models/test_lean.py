"""The lean forward pass against the hooked model, in float64, for every example config."""

import pytest
import torch
from oracles import digit_model_configs, example_model_configs, is_large, random_weights
from torch.func import functional_call, grad, vmap

from interp_arith.models import ArithmeticTransformer, build_model
from interp_arith.models.config import ModelConfig
from interp_arith.models.lean import answer_logits
from interp_arith.models.positions import POSITIONS
from interp_arith.presets import preset, presets
from interp_arith.tasks import Addition, ModularArithmetic, Text
from interp_arith.tasks.base import SampledTask
from interp_arith.tasks.scoring import cross_entropy
from interp_arith.tasks.sources import make_source

DIGITS = digit_model_configs()
CONFIGS = example_model_configs() | DIGITS
TASK = Addition(n_digits=2)
TOKENS = TASK.examples(["23+45=", "99+1=", "7+8=", "60+6="]).tokens


def double_model(config, task=TASK) -> ArithmeticTransformer:
    """A hooked model with planted weights that computes in float64."""
    model = random_weights(build_model(config, task)).double()
    model.cfg.dtype = torch.float64
    return model


def lean_logits(
    model, tokens, positions=TASK.answer_positions, parameters=None, mapped=False, asker=None
) -> torch.Tensor:
    """What the lean forward pass gives for a hooked model, or for other parameters of it."""
    parameters = model.trained_parameters() if parameters is None else parameters
    ids = model.position_ids(tokens)
    return answer_logits(model.config, parameters, tokens, positions, mapped=mapped, ids=ids, asker=asker)


def scalar(logits: torch.Tensor) -> torch.Tensor:
    """A loss that every logit bears on, each in its own way."""
    weights = torch.linspace(-1, 1, logits[0].numel(), dtype=logits.dtype).reshape(logits.shape[1:])
    return (logits.log_softmax(dim=-1) * weights).sum()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_lean_logits_are_the_hooked_ones_at_the_answer_positions(config):
    model = double_model(config)
    hooked = model(TOKENS)[:, list(TASK.answer_positions)]
    lean = lean_logits(model, TOKENS)
    assert lean.shape == hooked.shape
    assert (lean - hooked).abs().max() <= 1e-5 * hooked.abs().max()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_lean_gradients_are_the_hooked_ones(config):
    model = double_model(config)
    names, parameters = zip(*model.trained_parameters().items(), strict=True)
    hooked_loss = scalar(model(TOKENS)[:, list(TASK.answer_positions)])
    hooked = torch.autograd.grad(hooked_loss, parameters)
    lean_loss = scalar(lean_logits(model, TOKENS, parameters=dict(zip(names, parameters, strict=True))))
    lean = torch.autograd.grad(lean_loss, parameters)
    largest = max(float(gradient.abs().max()) for gradient in hooked)
    for name, ours, theirs in zip(names, lean, hooked, strict=True):
        # Without rotation a key bias shifts a query's scores alike, and its gradient is zero but for rounding.
        zero = name.endswith("b_K") and config.positions.kind != "rotary"
        scale = largest if zero else float(theirs.abs().max())
        assert scale > 1e-4, name  # every trained parameter matters
        assert (ours - theirs).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_stacked_parameters_give_what_each_member_gives_alone(config):
    members = [random_weights(build_model(config, TASK), seed).trained_parameters() for seed in range(3)]
    stacked = {name: torch.stack([member[name].detach() for member in members]) for name in members[0]}

    model = build_model(config, TASK)

    def logits(parameters, tokens):
        return lean_logits(model, tokens, parameters=parameters, mapped=True)

    together = vmap(logits, in_dims=(0, None))(stacked, TOKENS)
    each_its_own = vmap(logits)(stacked, torch.stack([TOKENS, TOKENS.flip(0), TOKENS]))
    gradients = vmap(grad(lambda p, t: scalar(logits(p, t))), in_dims=(0, None))(stacked, TOKENS)
    for index, member in enumerate(members):
        alone = logits(member, TOKENS)
        assert torch.allclose(together[index], alone, rtol=1e-4, atol=1e-4)
        wanted = alone.flip(0) if index == 1 else alone
        assert torch.allclose(each_its_own[index], wanted, rtol=1e-4, atol=1e-4)
        for name, gradient in zip(
            member, torch.autograd.grad(scalar(alone), list(member.values())), strict=True
        ):
            assert torch.allclose(gradients[name][index], gradient, rtol=1e-3, atol=1e-3), name


def hold_equal(model, examples, positions, mapped, asker):
    """Logits to 1e-5 of the largest, and gradients of the loss to 1e-5 of each parameter's largest."""
    names, parameters = zip(*model.trained_parameters().items(), strict=True)
    by_name = dict(zip(names, parameters, strict=True))
    lean = lean_logits(model, examples.tokens, positions, by_name, mapped, asker)
    hooked = model(examples.tokens)[:, list(positions)]
    assert (lean - hooked).abs().max() <= 1e-5 * hooked.abs().max()
    losses = (cross_entropy(out, examples.targets, examples.mask) for out in (lean, hooked))
    lean_gradients, hooked_gradients = (torch.autograd.grad(loss, parameters) for loss in losses)
    largest = max(float(gradient.abs().max()) for gradient in hooked_gradients)
    for parameter, ours, theirs in zip(names, lean_gradients, hooked_gradients, strict=True):
        # Without rotation a key bias has no gradient, but for rounding.
        scale = largest if parameter.endswith("b_K") else float(theirs.abs().max())
        assert (ours - theirs).abs().max() <= 1e-5 * scale, parameter


def with_an_asker():
    """The presets whose questions are all asked by the same token."""
    return [name for name in presets() if preset(name).task.asking_token is not None]


WAYS = [
    *((name, mapped, False) for name in presets() for mapped in (False, True)),
    *((name, True, True) for name in with_an_asker()),
]
"""Preset, mapped, and whether who asks is known."""


@pytest.mark.parametrize(("name", "mapped", "known"), WAYS)
def test_every_preset_is_lean_to_within_rounding_in_float32(name, mapped, known):
    config = preset(name)
    limits = config.task.limits if isinstance(config.task, SampledTask) else None
    examples = make_source(config.task, 8 if is_large(config) else 32, seed=0).batch(0, limits)
    model = build_model(config.model, config.task)
    model.initialize(torch.Generator().manual_seed(0))
    asker = config.task.asking_token if known else None
    hold_equal(model, examples, config.task.answer_positions, mapped, asker)


@pytest.mark.parametrize("positions", POSITIONS)
def test_every_position_scheme_is_lean_with_one_query_and_with_many(positions):
    config = ModelConfig.model_validate(
        {"positions": {"kind": positions}, "n_layers": 2, "normalization": "layer"}
    )
    tasks = (TASK,) if config.positions.reads_digits else (TASK, ModularArithmetic(p=11))
    for task in tasks:
        model = double_model(config, task)
        tokens = task.examples(["3+5=", "7+8="]).tokens
        hooked = model(tokens)
        for asking in (task.answer_positions, task.answer_positions[-1:]):
            for mapped in (False, True):
                lean = lean_logits(model, tokens, asking, mapped=mapped)
                expected = hooked[:, list(asking)]
                assert (lean - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("format_", ["numbers", "numbers-with-operation"])
@pytest.mark.parametrize("config", [c for c in CONFIGS.values() if not (c.positions.reads_digits or c.tied)])
def test_one_known_asker_reads_what_the_hooked_model_reads(config, format_):
    task = ModularArithmetic(p=11, format=format_)
    model = double_model(config, task)
    examples = task.examples(task.split("train")[:20])
    hold_equal(model, examples, task.answer_positions, True, task.asking_token)


def test_one_known_asker_whose_scores_lie_far_apart_reads_without_overflow():
    config, task = ModelConfig(n_heads=1, d_model=16, d_mlp=8), ModularArithmetic(p=11)
    model = random_weights(build_model(config, task))
    weights = {name: w.detach().clone() for name, w in model.trained_parameters().items()}
    weights["blocks.0.attn.W_Q"] *= 40
    tokens = task.examples(task.split("train")).tokens
    found, wanted = (
        answer_logits(config, weights, tokens, task.answer_positions, mapped=True, asker=asker)
        for asker in (task.asking_token, None)
    )
    model.load_state_dict(weights, strict=False)
    _, cache = model.run_with_cache(tokens)
    scores = cache["attn_scores", 0][:, 0, -1]
    assert scores.max() - scores.min() > 60  # nats, so that the range is put to the test
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_members_of_an_ensemble_differ():
    config = CONFIGS["nanda"]
    one, other = (
        answer_logits(
            config,
            random_weights(build_model(config, TASK), s).trained_parameters(),
            TOKENS,
            TASK.answer_positions,
        )
        for s in (0, 1)
    )
    assert not torch.allclose(one, other, atol=0.1)


@pytest.mark.parametrize("name", ["two-layers", "rotary", "tied-norm-rotary"])
@pytest.mark.parametrize("task", [ModularArithmetic(p=11, format="characters"), Text()])
def test_lean_agrees_where_answers_are_read_elsewhere(name, task):
    config = CONFIGS[name]
    model = double_model(config, task)
    tokens = task.examples(task.split("train")[:5]).tokens
    hooked = model(tokens)[:, list(task.answer_positions)]
    lean = answer_logits(config, model.trained_parameters(), tokens, task.answer_positions)
    assert (lean - hooked).abs().max() <= 1e-5 * hooked.abs().max()


def test_one_answer_position_in_the_middle_can_be_read_alone():
    config = CONFIGS["layer-norm"]
    model = double_model(config)
    lean = answer_logits(config, model.trained_parameters(), TOKENS, (4,))
    assert lean.shape[1] == 1
    assert torch.allclose(lean, model(TOKENS)[:, 4:5], rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["nanda", "tied-norm-rotary", "deep-gated-mlp", "no-positions", "sharper-with-length", *DIGITS]
)
def test_the_hooked_model_too_maps_over_stacked_parameters(name):
    config = CONFIGS[name]
    model = build_model(config, TASK)
    members = [random_weights(build_model(config, TASK), seed).state_dict() for seed in range(2)]
    trained = model.trained_parameters()
    stacked = {key: torch.stack([member[key] for member in members]) for key in trained}
    together = vmap(lambda p: functional_call(model, p, (TOKENS,)))(stacked)
    for index, member in enumerate(members):
        model.load_state_dict(member)
        assert torch.allclose(together[index], model(TOKENS), rtol=1e-4, atol=1e-4)
