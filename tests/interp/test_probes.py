"""Probes of planted features: they are found where they were planted, and nowhere else."""

from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import random_weights
from planted_columns import EQUALS, TASK, empty_model, generates, pair, plant
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from interp_arith.errors import RequestError
from interp_arith.interp.base import Subject
from interp_arith.interp.column_labels import column_labels
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.nodes import draw_full, node_names, passing
from interp_arith.interp.probes import linear_accuracy, probe
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic

SMALL = ModelConfig(d_model=16, n_heads=2, d_mlp=12, n_layers=2)
PLANTED = "blocks.0.hook_mlp_out"


@pytest.fixture(scope="module")
def planted() -> xr.Dataset:
    """Whether the tens generate, at "=" in what the MLP puts out."""
    model = plant(empty_model(more=2), PLANTED, EQUALS, generates(1))
    return probe(model, TASK, ["generate", "carry_out", "carry_in", "propagate", "base_add"])


def test_a_planted_feature_is_read_where_it_was_planted_and_after_it(planted):
    found = planted.probe_accuracy.sel(feature="generate", column=1)
    assert found.sel(hook=PLANTED, pos=EQUALS) == 1
    assert found.sel(hook="blocks.0.hook_resid_post", pos=EQUALS) == 1


def test_elsewhere_nothing_is_read_that_one_token_does_not_tell(planted):
    excess = planted.probe_accuracy - planted.single_digit_baseline
    told = {"feature": ["generate", "carry_out", "carry_in"], "hook": [PLANTED, "blocks.0.hook_resid_post"]}
    there = excess.sel(told).sel(pos=EQUALS)
    assert there.sel(feature="generate", column=1).min() > 0.2
    elsewhere = excess.drop_sel(pos=EQUALS)
    assert elsewhere.max() < 0.04
    assert excess.sel(hook=["blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid"]).max() < 0.04
    assert excess.sel(feature="generate", column=0).max() < 0.04


def test_a_planted_bit_is_selective_and_the_untrained_model_lacks_it(planted):
    at = {"feature": "generate", "column": 1, "hook": PLANTED, "pos": EQUALS}
    assert planted.selectivity.sel(at) > 0.35
    assert planted.gain_over_untrained.sel(at) > 0.35


def test_a_probe_that_sees_the_pair_itself_is_not_selective():
    model = plant(empty_model(more=100), PLANTED, EQUALS, pair(1))
    found = probe(model, TASK, ["generate", "base_add"], [1], [PLANTED]).sel(pos=EQUALS)
    np.testing.assert_array_equal(found.probe_accuracy, 1)
    np.testing.assert_array_equal(found.selectivity, 0)


def test_arrays_are_labelled_and_missing_where_there_is_no_feature(planted):
    assert planted.probe_accuracy.dims == ("feature", "column", "hook", "pos")
    assert planted.single_digit_baseline.dims == ("feature", "column", "pos")
    assert planted.feature.values.tolist() == ["generate", "carry_out", "carry_in", "propagate", "base_add"]
    assert planted.hook.values.tolist() == list(node_names(ModelConfig()))
    assert planted.sizes["pos"] == TASK.n_ctx
    missing = planted.probe_accuracy.isnull().all(dim=("hook", "pos"))
    assert missing.sel(feature="carry_in").values.tolist() == [True, False, False, False]
    assert missing.sel(feature="generate").values.tolist() == [False, False, False, True]
    assert bool(planted.probe_accuracy.where(~missing, 0).notnull().all())


def test_probes_are_those_of_scikit_learn_fitted_one_by_one():
    model = random_weights(build_model(SMALL, TASK)).eval()
    fit, held_out = (draw_full(TASK, split, 1500) for split in ("train", "test"))
    labels = column_labels(TASK, fit, held_out, ["generate", "carry_in", "base_add", "carry_kind"], [1])
    tokens = TASK.encode(fit).tokens, TASK.encode(held_out).tokens
    hooks = ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out")
    found = linear_accuracy(model, tokens, labels, hooks, shrinkage=0.0)
    for at, hook in enumerate(hooks):
        x, other = (next(iter(passing(model, each, hooks, 1500)))[hook].double().numpy() for each in tokens)
        for pos in (EQUALS, EQUALS + 2):
            for index, classes in enumerate(labels.n_classes):
                single = LinearDiscriminantAnalysis(priors=[1 / classes] * classes)
                single.fit(x[:, pos], labels.fit[:, index])
                truth, predicted = labels.held_out[:, index].numpy(), single.predict(other[:, pos])
                recall = np.mean([(predicted[truth == c] == c).mean() for c in range(classes)])
                assert found[at, pos, index].item() == pytest.approx(recall, abs=0.004)


@pytest.mark.parametrize(
    "task",
    [
        Addition(n_digits=2, operation="subtract", answer_order="units-last"),
        Addition(n_digits=2, operation="mixed", padded=False, end_token=True),
        Addition(n_digits=2, operands=3, operand_order="units-first"),
        Addition(n_digits=2, scratchpad=True),
    ],
    ids=["subtract", "mixed", "three", "scratchpad"],
)
def test_every_layout_and_operation_is_probed(task):
    config = SMALL.model_copy(update={"n_layers": 1})
    model = random_weights(build_model(config, task)).eval()
    found = probe(model, task, hooks=["blocks.0.hook_resid_post"], questions=800)
    accuracy = found.probe_accuracy
    assert accuracy.sizes["pos"] == task.n_ctx
    known = accuracy.values[~np.isnan(accuracy.values)]
    assert known.size
    assert 0 <= known.min() <= known.max() <= 1
    wanted = "borrow_in" if task.operation == "subtract" else "carry_in"
    assert bool(accuracy.sel(feature=wanted, column=1).notnull().all())


def test_an_attention_only_model_has_fewer_nodes():
    model = build_model(SMALL.model_copy(update={"attention_only": True}), TASK)
    found = probe(model, TASK, ["generate"], questions=500)
    assert found.hook.values.tolist() == [
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_attn_out",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_resid_post",
    ]


def test_many_hooks_are_looked_at_in_several_passes(monkeypatch):
    model = random_weights(build_model(SMALL, TASK)).eval()
    whole = probe(model, TASK, ["generate"], [1], questions=500)
    monkeypatch.setattr("interp_arith.interp.probes._MOST_SUMS", 20_000)
    monkeypatch.setattr("interp_arith.interp.nodes._MOST_NUMBERS", 100_000)
    parts = probe(model, TASK, ["generate"], [1], questions=500)
    xr.testing.assert_allclose(parts, whole, atol=0.01)  # a batch of another size rounds otherwise


def test_the_measures_are_its_four_arrays_and_leave_nothing_behind(monkeypatch):
    few = partial(probe, hooks=["blocks.1.hook_resid_post"], questions=600)
    monkeypatch.setattr("interp_arith.interp.probes.probe", few)
    model, again = (random_weights(build_model(SMALL, TASK)) for _ in range(2))
    model.train()
    subject, state = Subject(model, TASK), torch.random.get_rng_state()
    for name in ("probe_accuracy", "single_digit_baseline", "selectivity", "gain_over_untrained"):
        found = MEASURES[name](subject)
        assert (found.name, found.dims, found.dtype) == (name, MEASURES[name].dims, np.float64)
        assert set(found.dims) == set(found.coords)
        xr.testing.assert_identical(found, MEASURES[name](Subject(again, TASK)))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.is_grad_enabled()


def test_what_cannot_be_probed_is_refused_in_one_line():
    model = build_model(SMALL, TASK)
    with pytest.raises(
        RequestError, match=r"no hook is called 'blocks.0.hook_mlp_outs'; did you mean blocks.0"
    ):
        probe(model, TASK, hooks=["blocks.0.hook_mlp_outs"])
    with pytest.raises(RequestError, match=r"hook blocks.0.attn.hook_z: .* passes there; a probe reads"):
        probe(model, TASK, hooks=["blocks.0.attn.hook_z"], questions=500)
    with pytest.raises(RequestError, match="carry_in of column 0: its one label is 0"):
        probe(model, TASK, ["carry_in"], [0])
    with pytest.raises(RequestError, match=r"label virtual is too rare, .* questions of 100"):
        probe(model, TASK, ["carry_kind"], [1], questions=100)
    with pytest.raises(RequestError, match="questions = 0; allowed: 1 or more, 4096 unless given"):
        probe(model, TASK, questions=0)
    short = Addition(n_digits=1)
    with pytest.raises(
        RequestError, match="probe_accuracy does not apply: numbers of one digit have too few"
    ):
        MEASURES["probe_accuracy"](Subject(build_model(SMALL, short), short))
    table = ModularArithmetic(p=7)
    with pytest.raises(
        RequestError, match="selectivity does not apply: the modular task has no digit columns"
    ):
        MEASURES["selectivity"](Subject(build_model(SMALL, table), table))
