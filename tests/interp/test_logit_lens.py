"""The right token's logit by depth and by part: the parts add up to it, and a planted part is found."""

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import digit_model_configs, example_model_configs, example_tasks, random_weights
from planted_columns import EQUALS, TASK, TOKENS, empty_model, plant

from interp_arith.errors import RequestError
from interp_arith.interp.base import Subject
from interp_arith.interp.logit_lens import contributions, stream_names, term_names, terms
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.nodes import shown_examples
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic

SMALL = ModelConfig(d_model=8, n_heads=2, d_mlp=12, n_layers=2, normalization="layer", unembed_bias=True)
CONFIGS = {**example_model_configs(), **digit_model_configs()}


def right_logits(subject):
    """Logits of the right tokens, and less the mean of all, for each question and answer position."""
    examples = subject.get(shown_examples)
    logits, _ = subject.model.forward_analysis(examples.tokens)
    logits = logits[:, list(subject.task.answer_positions)].double()
    right = logits.gather(-1, examples.targets[..., None])[..., 0]
    return logits, right, right - logits.mean(dim=-1)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parts_add_up_to_the_logit_of_every_question(config):
    task = Addition(n_digits=2)
    subject = Subject(random_weights(build_model(config, task)).eval(), task)
    examples = subject.get(shown_examples)
    _, *wanted = right_logits(subject)
    parts, streams = map(torch.cat, zip(*terms(subject.model, task, examples), strict=True))
    total = contributions(subject.model, parts, streams, examples.targets).sum(dim=2)
    for variant, logit in enumerate(wanted):
        torch.testing.assert_close(total[:, variant], logit, rtol=1e-4, atol=1e-4)
    measured = MEASURES["logit_attribution"](subject)
    assert measured.term.values.tolist() == list(term_names(config))
    for variant, logit in zip(("right", "centred"), wanted, strict=True):
        np.testing.assert_allclose(
            measured.sel(variant=variant).sum("term"), logit.mean(dim=0), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_last_lens_is_what_the_model_says(config):
    task = Addition(n_digits=2, answer_order="units-last")
    subject = Subject(random_weights(build_model(config, task)).eval(), task)
    logits, _, centred = right_logits(subject)
    found, share = (MEASURES[name](subject) for name in ("logit_lens", "logit_lens_accuracy"))
    assert found.hook.values.tolist() == list(stream_names(config))
    np.testing.assert_allclose(found.isel(hook=-1), centred.mean(dim=0), rtol=1e-4, atol=1e-4)
    right = logits.argmax(dim=-1) == subject.get(shown_examples).targets
    np.testing.assert_allclose(share.isel(hook=-1), right.double().mean(dim=0), atol=0.003)


def planted_answer(n_layers=2):
    """The second MLP writes the right digit, as the unembedding reads it, where the first one is predicted."""
    model = empty_model(more=TOKENS, n_layers=n_layers)
    with torch.no_grad():
        model.unembed.W_U[TOKENS:] = torch.eye(TOKENS)

    def answer(tokens):
        a, b = (tokens[:, i : i + 3] @ torch.tensor([100, 10, 1]) for i in (0, 4))
        return 10 * torch.eye(TOKENS)[(a + b) // 1000]

    return plant(model, "blocks.1.hook_mlp_out", EQUALS, answer)


def test_an_answer_that_is_planted_at_one_node_is_attributed_to_it_and_readable_after_it():
    subject = Subject(planted_answer(), TASK)
    found = MEASURES["logit_attribution"](subject)
    right = found.sel(variant="right", answer=0)
    assert right.sel(term="mlp 1") == pytest.approx(10)
    assert float(abs(right.drop_sel(term="mlp 1")).max()) == 0
    assert found.sel(variant="centred", answer=0, term="mlp 1") == pytest.approx(10 - 10 / TOKENS)
    assert float(abs(found.sel(answer=[1, 2, 3])).max()) == 0
    share = MEASURES["logit_lens_accuracy"](subject).sel(answer=0)
    assert share.sel(hook="blocks.1.hook_resid_post") == 1
    assert (
        share.sel(hook="blocks.1.hook_resid_mid") < 0.6
    )  # all logits are 0, and 0 is the right digit in half
    lens = MEASURES["logit_lens"](subject).sel(answer=0)
    assert lens.values.tolist() == pytest.approx([0, 0, 0, 0, 10 - 10 / TOKENS])


@pytest.mark.parametrize(
    "task",
    [t for t in example_tasks() if isinstance(t, Addition) and t.n_ctx <= 40],
    ids=lambda task: repr(task)[:80],
)
def test_every_layout_is_read_and_tokens_that_do_not_count_are_missing(task):
    subject = Subject(random_weights(build_model(SMALL, task)), task)
    counted = subject.get(shown_examples).mask.any(dim=0).numpy()
    for name in ("logit_lens", "logit_lens_accuracy", "logit_attribution"):
        found = MEASURES[name](subject)
        assert found.sizes["answer"] == len(task.answer_positions)
        assert bool(found.sel(answer=counted).notnull().all())
        assert bool(found.sel(answer=~counted).isnull().all())


def test_batches_add_up(monkeypatch):
    model = random_weights(build_model(SMALL, TASK)).eval()
    names = ("logit_lens", "logit_attribution")
    whole = [MEASURES[name](Subject(model, TASK)) for name in names]
    monkeypatch.setattr("interp_arith.interp.nodes._MOST_NUMBERS", 100_000)
    for name, found in zip(names, whole, strict=True):
        xr.testing.assert_allclose(MEASURES[name](Subject(model, TASK)), found, rtol=1e-4, atol=1e-6)


def test_measures_are_labelled_and_the_same_every_time():
    model = random_weights(build_model(SMALL, TASK))
    model.train()
    for name in ("logit_lens", "logit_lens_accuracy", "logit_attribution"):
        found = MEASURES[name](Subject(model, TASK))
        assert (found.name, found.dims, found.dtype) == (name, MEASURES[name].dims, np.float64)
        assert set(found.dims) == set(found.coords)
        xr.testing.assert_identical(found, MEASURES[name](Subject(model, TASK)))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_task_without_columns_is_refused():
    task = ModularArithmetic(p=7)
    with pytest.raises(
        RequestError, match="logit_lens does not apply: the modular task has no digit columns"
    ):
        MEASURES["logit_lens"](Subject(build_model(SMALL, task), task))
