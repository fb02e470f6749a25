"""Hooks by name or pattern, the axes that follow from a name, and TransformerLens' cache back."""

import numpy as np
import pytest
import torch
import xarray as xr

from interp_arith.errors import RequestError
from interp_arith.interp import activations
from interp_arith.interp.activations import (
    Asked,
    Passage,
    batch_of,
    chosen_hooks,
    dims_of,
    passages,
    take,
)
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import ArithmeticTransformer, build_model
from interp_arith.shapes import AXES
from interp_arith.tasks import Addition, ModularArithmetic

HOOKS = ["hook_embed", *(f"blocks.{b}.{name}" for b in (0, 1) for name in ("attn.hook_z", "mlp.hook_post"))]
SHAPE = {"d_model": 12, "n_heads": 3, "d_head": 5, "d_mlp": 20}
MODELS = {
    "modular": (ModularArithmetic(p=7), ModelConfig(**SHAPE)),
    "norms": (Addition(n_digits=3), ModelConfig(n_layers=2, normalization="layer", **SHAPE)),
    "gated": (Addition(n_digits=3), ModelConfig(gated=True, mlp_depth=3, normalization="rms", **SHAPE)),
    "rotary": (
        Addition(n_digits=2, padded=False, end_token=True),
        ModelConfig(positions={"kind": "rotary"}, **(SHAPE | {"d_head": 4})),
    ),
    "segments": (Addition(n_digits=2), ModelConfig(positions={"kind": "segment-digit"}, **SHAPE)),
    "attention only": (ModularArithmetic(p=5), ModelConfig(attention_only=True, **SHAPE)),
}


def made(name: str) -> tuple[ArithmeticTransformer, torch.Tensor]:
    task, config = MODELS[name]
    questions = task.split("test")[:3]
    return build_model(config, task), task.tokens(questions)


@pytest.mark.parametrize("name", MODELS)
def test_every_hook_has_the_axes_of_its_name(name):
    model, tokens = made(name)
    cfg, n_pos = model.cfg, tokens.shape[1]
    lengths = {
        "position": n_pos,
        "query": n_pos,
        "key": n_pos,
        "head": cfg.n_heads,
        "d_head": cfg.d_head,
        "neuron": cfg.d_mlp,
        "d_model": cfg.d_model,
        "d_vocab_out": cfg.d_vocab_out,
        "norm": 1,
    }
    found = passages(model, tokens)
    assert set(lengths) <= set(AXES)
    assert {hook: each.shape for hook, each in found.items()} == {
        hook: tuple(lengths[dim] for dim in each.dims) for hook, each in found.items()
    }
    assert {each.dtype for each in found.values()} == {"float32"}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_taken_in_batches_is_what_run_with_cache_gives(name):
    model, tokens = made(name)
    found = passages(model, tokens)
    taken = {hook: np.full((len(tokens), *each.shape), np.nan, each.dtype) for hook, each in found.items()}
    take(model, tokens, taken, batch=2)
    _, cache = model.run_with_cache(tokens)
    assert set(taken) == set(cache)
    for hook, values in taken.items():
        torch.testing.assert_close(torch.from_numpy(values), cache[hook], rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ("hook_embed", HOOKS[:1]),
        (["blocks.1.mlp.hook_post", "hook_embed"], [HOOKS[0], HOOKS[4]]),
        ("blocks.*.attn.hook_z", [HOOKS[1], HOOKS[3]]),
        (["*", "hook_embed"], HOOKS),
    ],
)
def test_hooks_are_chosen_by_name_or_pattern_in_the_order_of_the_model(patterns, chosen):
    assert chosen_hooks(patterns, HOOKS) == chosen


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([], "hooks: none given; name some"),
        ("hook_embeded", "no hook is called 'hook_embeded'; did you mean hook_embed"),
        (["*", "blocks.*.atn.hook_z"], "did you mean blocks.[01].attn.hook_z"),
        ("blocks.*.attn.hook_result", "nothing passes at hook 'blocks.*.attn.hook_result' of this model"),
    ],
)
def test_a_wrong_hook_is_named_in_one_line(patterns, message):
    with pytest.raises(RequestError) as raised:
        chosen_hooks(patterns, HOOKS, [*HOOKS, "blocks.0.attn.hook_result"])
    assert "\n" not in str(raised.value)
    assert raised.match(message.replace("(", r"\(").replace("*.", r"\*."))


def test_a_batch_holds_so_many_bytes_and_at_least_one_question(monkeypatch):
    passage = Passage(("position", "neuron"), (3, 100), "float32")
    assert passage.bytes == 1200
    monkeypatch.setattr(activations, "_AT_ONCE", 5000)
    assert batch_of([passage]) == 4
    assert batch_of([passage] * 9) == 1


def test_tokens_stand_at_every_position_as_symbols():
    task = ModularArithmetic(p=7)
    found = Asked(task, np.array([[5, 3], [0, 6]])).coordinates({"position", "query", "neuron"})
    assert set(found) == {"question", "position", "query", "token"}
    assert found["question"].tolist() == ["5+3=", "0+6="]
    assert found["query"].tolist() == [0, 1, 2]
    dims, symbols = found["token"]
    assert (dims, symbols.tolist()) == (("question", "position"), [["5", "3", "="], ["0", "6", "="]])


def dataset(model: ArithmeticTransformer, tokens: torch.Tensor, with_model: bool = True) -> xr.Dataset:
    _, cache = model.run_with_cache(tokens)
    made = xr.Dataset(
        {name: (("step", "question", *dims_of(name)), x.detach().numpy()[None]) for name, x in cache.items()},
        {"step": [4], "question": list("abc")},
    )
    if with_model:
        made.encoding[activations.MODEL] = {4: model}.__getitem__
    return made


def test_the_cache_is_that_of_run_with_cache():
    model, tokens = made("norms")
    whole, (_, expected) = dataset(model, tokens), model.run_with_cache(tokens)
    for cache in (whole.to_cache(), whole.to_cache(4), whole.sel(step=4).to_cache()):
        assert type(cache) is type(expected)
        assert list(cache) == list(expected)
        assert all(torch.equal(cache[name], expected[name]) for name in expected)
    torch.testing.assert_close(cache.decompose_resid(), expected.decompose_resid())  # needs the model
    assert cache["pattern", 1].shape == (3, 3, 8, 8)


def test_a_part_has_its_cache():
    model, tokens = made("norms")
    part = dataset(model, tokens)[["blocks.0.attn.hook_pattern"]].sel(question=["c", "a"])
    expected = model.run_with_cache(tokens[[2, 0]])[1]["pattern", 0]
    torch.testing.assert_close(part.to_cache()["pattern", 0], expected)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda whole: whole.to_cache(7), "to_cache: step 7; there are: 4"),
        (lambda whole: whole.drop_vars("step").to_cache(), "to_cache: step None; there are: none"),
        (lambda whole: whole.isel(head=0).to_cache(), "hook_q has dims question, position, d_head; a cache"),
        (lambda whole: whole.isel(question=0).to_cache(), "select with lists to keep a dim"),
    ],
)
def test_a_cache_that_cannot_be_made_says_why(broken, message):
    with pytest.raises(RequestError, match=message):
        broken(dataset(*made("modular")))


def test_activations_of_no_run_need_a_model():
    model, tokens = made("modular")
    loose = dataset(model, tokens, with_model=False)
    with pytest.raises(RequestError, match=r"give the model: to_cache\(4, model=run.model\(4\)\)"):
        loose.to_cache()
    assert loose.to_cache(model=model).model is model
