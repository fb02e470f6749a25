"""What every entry of the table of measures keeps to."""

import numpy as np
import pytest
import torch
import xarray as xr
from interp_oracles import CYCLIC_TASKS
from oracles import example_model_configs, example_tasks, random_weights

from interp_arith.errors import RequestError
from interp_arith.interp.base import Subject
from interp_arith.interp.measures import MEASURES, measure
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.shapes import AXES
from interp_arith.tasks import ModularArithmetic, Text

SMALL = ModelConfig(d_model=8, n_heads=2, d_mlp=12)
TASK = ModularArithmetic(p=7, train_fraction=0.5, val_fraction=0.2, format="numbers-bare")
FIXED_KEYS = (1, 3)


def subject(config=SMALL, task=TASK, keys=FIXED_KEYS):
    return Subject(random_weights(build_model(config, task)).eval(), task, keys)


def applicable(config=SMALL, task=TASK):
    return [each for each in MEASURES.values() if each.why_not(task, config) is None and each.cost != "dear"]


@pytest.mark.parametrize("name", MEASURES)
class TestEveryMeasure:
    def test_says_what_it_is(self, name):
        entry = MEASURES[name]
        assert entry.name == name
        assert entry.definition.strip().endswith((".", ")"))
        assert entry.units
        assert entry.source
        assert entry.version >= 1
        assert set(entry.dims) <= set(AXES)
        assert entry.rests_on <= {"keys", "split"}

    def test_refuses_a_text_or_is_right_for_it(self, name):
        entry, text = MEASURES[name], Text(text_to_learn="carry")
        model = build_model(SMALL, text)
        reason = entry.why_not(text, model.config)
        if reason is None:
            assert name in ("train_loss", "train_accuracy", "softmax_collapse", "weight_norm")
        else:
            with pytest.raises(RequestError, match=f"^{name} does not apply: "):
                entry(Subject(model, text))


@pytest.mark.parametrize("name", [each.name for each in applicable()])
class TestEveryMeasureOfASmallModel:
    def test_is_labelled_float64_with_units_and_source(self, name):
        found = MEASURES[name](subject())
        assert found.name == name
        assert found.dims == MEASURES[name].dims
        assert set(found.dims) == set(found.coords)
        assert found.dtype == np.float64 or found.dtype.kind in "bU"
        assert found.attrs["units"] == MEASURES[name].units
        assert found.attrs["source"] == MEASURES[name].source

    def test_is_the_same_every_time(self, name):
        state = torch.random.get_rng_state()
        once, again = MEASURES[name](subject()), MEASURES[name](subject())
        xr.testing.assert_identical(once, again)
        assert torch.equal(state, torch.random.get_rng_state())

    @pytest.mark.parametrize("training", [True, False])
    def test_leaves_the_model_as_it_was(self, name, training):
        asked = subject()
        asked.model.train(training)
        weights = {key: value.clone() for key, value in asked.model.state_dict().items()}
        MEASURES[name](asked)
        assert asked.model.training is training
        assert not any(module._forward_hooks or module._backward_hooks for module in asked.model.modules())
        assert all(parameter.grad is None for parameter in asked.model.parameters())
        assert all(torch.equal(value, weights[key]) for key, value in asked.model.state_dict().items())

    def test_does_not_turn_gradients_on_or_off(self, name):
        asked = subject()
        MEASURES[name](asked)
        assert torch.is_grad_enabled()
        with torch.no_grad():
            MEASURES[name](subject())
            assert not torch.is_grad_enabled()


@pytest.mark.parametrize("config", example_model_configs().values(), ids=example_model_configs())
def test_every_kind_of_model_is_measured_or_refused(config):
    found = measure(subject(config).model, TASK, keys=FIXED_KEYS)
    assert set(found.data_vars) == {each.name for each in applicable(config)}
    assert ("neuron_clusters" in found) == (not config.attention_only)
    assert np.isfinite(found.excluded_loss.sel(variant=["sum", "cosine"])).all()
    for refused in set(MEASURES) - set(found.data_vars):
        if MEASURES[refused].cost != "dear":
            with pytest.raises(RequestError, match="does not apply: "):
                MEASURES[refused](subject(config))


@pytest.mark.parametrize(
    "task", [*example_tasks(), *CYCLIC_TASKS.values()], ids=lambda task: f"{task.kind}-{task.seed}"
)
def test_every_kind_of_task_is_measured_or_refused(task):
    if task.n_ctx > 40 or getattr(task, "p", 0) == 113:
        task = ModularArithmetic(p=13, operation="multiply", format="characters", mask_first_n=1)
    model = random_weights(build_model(SMALL, task)).eval()
    found = measure(model, task)
    assert set(found.data_vars) == {each.name for each in applicable(SMALL, task)}
    assert "weight_norm" in found


def test_measures_of_one_model_keep_their_types_and_values_side_by_side():
    together = measure(subject().model, TASK, keys=FIXED_KEYS)
    for name, found in together.data_vars.items():
        alone = MEASURES[str(name)](subject())
        assert found.dtype == alone.dtype
        xr.testing.assert_equal(found.sel(alone.coords), alone)
    for dim, coordinate in together.coords.items():
        assert coordinate.dtype.kind in "iU", dim


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
def test_the_smallest_modulus_is_measured(operation):
    task = ModularArithmetic(p=3, operation=operation, train_fraction=0.5)
    found = measure(subject(task=task).model, task)
    assert found.freq.values.tolist() == [1]
    assert np.isfinite(found.excluded_loss.sel(variant=["sum", "cosine"])).all()


def test_where_nothing_is_held_out_the_rest_is_measured():
    task = ModularArithmetic(p=7, train_fraction=1.0)
    found = measure(subject(task=task).model, task, keys=FIXED_KEYS)
    assert "test_loss" not in found
    assert found.cluster_ablation.isnull().all()
    assert found.plane_ablation.isnull().all()
    assert np.isfinite(found.train_loss)


def test_weights_of_a_diverged_training_give_no_number_and_no_keys():
    asked = subject(keys=None)
    with torch.no_grad():
        for parameter in asked.model.parameters():
            parameter.fill_(torch.nan)
    numbers = [
        "train_loss",
        "weight_norm",
        "embedding_spectrum",
        "gini_embedding",
        "embedding_singular_values",
    ]
    numbers += ["logit_variance_explained", "excluded_loss", "neuron_fractions", "cluster_ablation"]
    found = measure(asked.model, TASK, ["key_frequencies", *numbers])
    assert not found.key_frequencies.any()
    assert [name for name in numbers if not found[name].isnull().all()] == []


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(RequestError, match="no measure is called 'excluded_los'; did you mean excluded_loss"):
        measure(subject().model, TASK, ["excluded_los"])


def test_named_measures_alone_are_taken_and_refused_by_name():
    assert list(measure(subject().model, TASK, ["test_loss", "train_loss"])) == ["test_loss", "train_loss"]
    text = Text()
    with pytest.raises(RequestError, match="excluded_loss does not apply: the text task is no operation"):
        measure(build_model(SMALL, text), text, ["train_loss", "excluded_loss"])
