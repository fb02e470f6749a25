"""What a run is before it runs: it round-trips, and says in one line what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from chaos.small_runs import small_config

from interp_arith.errors import RequestError
from interp_arith.files import dump_yaml
from interp_arith.tasks import Addition, ModularArithmetic
from interp_arith.training.config import Budget, CheckpointPlan, RunConfig, StopRule
from interp_arith.training.optimizers import OPTIMIZERS, Muon
from interp_arith.training.schedules import SCHEDULES

SAMPLED = {"task": Addition(n_digits=3), "batch_size": 4}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**SAMPLED, "curriculum": {"kind": "phases"}},
        {
            "task": Addition(n_digits=3, carry_share=0.2, val_step=2),
            "curriculum": {"kind": "phases", "carries_end": 0.3},
        },
        {**SAMPLED, "curriculum": {"kind": "grow-digits"}, "budget": {"epochs": 3, "steps_per_epoch": 7}},
        {"stop": {"metric": "test_loss", "threshold": 1e-5, "hold": 3}, "clip_norm": 1e-7},
        {"data_dir": Path("some/where"), "init_from": "other@12", "precision": "bf16", "loss": "stablemax"},
        *({"optimizer": {"kind": kind}} for kind in OPTIMIZERS),
        *({"schedule": {"kind": kind} | ({"period": 9} if kind == "restarts" else {})} for kind in SCHEDULES),
    ],
)
def test_a_config_round_trips_through_yaml(fields):
    config = small_config(**fields)
    assert RunConfig.model_validate(yaml.safe_load(dump_yaml(config.plain()))) == config


class TestBudget:
    def test_steps_are_steps(self):
        assert Budget(steps=12).total_steps(5) == Budget(steps=12).total_steps(None) == 12

    def test_epochs_are_passes_of_the_data_s_own_length_or_a_given_one(self):
        assert Budget(epochs=3).total_steps(5) == 15
        assert Budget(epochs=3, steps_per_epoch=7).total_steps(5) == 21
        assert Budget(epochs=3, steps_per_epoch=7).total_steps(None) == 21

    def test_endless_data_need_the_length_of_an_epoch(self):
        with pytest.raises(
            RequestError, match=r"draws its questions without end; give budget\.steps_per_epoch"
        ):
            Budget(epochs=3).total_steps(None)

    @pytest.mark.parametrize("fields", [{}, {"steps": 1, "epochs": 1}])
    def test_one_of_the_two_is_given(self, fields):
        with pytest.raises(RequestError, match=r"give either budget\.steps or budget\.epochs"):
            Budget(**fields)


class TestStopRule:
    def test_a_loss_must_fall_to_the_threshold_and_anything_else_rise_to_it(self):
        loss, accuracy = (
            StopRule(metric="test_loss", threshold=0.5),
            StopRule(metric="test_accuracy", threshold=0.5),
        )
        assert [loss.is_met(x) for x in (0.4, 0.5, 0.6)] == [True, True, False]
        assert [accuracy.is_met(x) for x in (0.4, 0.5, 0.6)] == [False, True, True]


class TestCheckpointPlan:
    def test_the_trajectory_is_log_spaced_then_linear_and_has_the_last_step(self):
        plan = CheckpointPlan(every=10)
        assert [s for s in range(38) if plan.is_due(s, 37)] == [0, 1, 2, 4, 8, 10, 20, 30, 37]

    def test_every_step_can_be_kept(self):
        assert all(CheckpointPlan(every=1).is_due(step, 9) for step in range(10))


class TestSeeds:
    def test_a_seed_sets_weights_draws_and_split(self):
        config = small_config().with_seed(5)
        assert (config.seed, config.task.seed, config.run_name) == (5, 5, "small-s5")

    def test_a_given_split_stays_for_every_seed(self):
        mask = np.zeros((7, 7), dtype=bool)
        mask[2] = True
        config = small_config(task=ModularArithmetic(p=7).with_split(mask)).with_seed(5)
        assert np.array_equal(config.task.train_mask, mask)


class TestReplacing:
    def test_nested_fields_are_replaced_one_by_one(self):
        config = small_config().replace(optimizer={"weight_decay": 0.5}, name="other")
        assert (config.optimizer.weight_decay, config.optimizer.learning_rate) == (0.5, 0.03)
        assert config.name == "other"
        assert small_config().replace(optimizer={"kind": "muon"}).optimizer == Muon()

    def test_what_is_replaced_is_checked(self):
        with pytest.raises(
            RequestError, match="no config field is called 'modle'; there are: name, seed, task"
        ):
            small_config().replace(modle=1)
        with pytest.raises(RequestError, match="d_model = 9 is not divisible by n_heads = 2"):
            small_config().replace(model={"d_model": 9})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": Addition(n_digits=2), "batch_size": None}, "draws its questions; say how many a step"),
        (
            {"curriculum": {"kind": "phases"}},
            "curriculum 'phases' limits what is drawn, and this run draws nothing",
        ),
        ({"accumulation": 9}, "accumulation = 9 parts of a batch of 8; give fewer parts"),
        ({"optimizer": {"kind": "adamv"}}, "no optimizer is called 'adamv'; did you mean adamw"),
        ({"schedule": {}}, "schedule: no kind given; there are: constant, cosine, decay, restarts"),
        ({"batchsize": 3}, "no field of RunConfig is called 'batchsize'; did you mean batch_size"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"name": "../evil"}, "name = '../evil'"),
        ({"precision": "fp8"}, "precision = 'fp8'"),
        ({"checkpoints": {"keep_best": -1}}, "keep_best = -1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fields, message):
    with pytest.raises(RequestError) as caught:
        small_config(**fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class TestCarriesAndLengths:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {**SAMPLED, "curriculum": {"kind": "everything", "carries_end": 0.5}},
                "curriculum.carries_end fades the carry-heavy share, and task.carry_share is 0; "
                "set task.carry_share, or leave carries_end out",
            ),
            (
                {"curriculum": {"kind": "everything", "carries_end": 0.5}},
                "curriculum 'everything' limits what is drawn, and this run draws nothing; "
                "set curriculum.kind to everything, and leave carries_end out",
            ),
            (
                {"task": Addition(n_digits=3, val_step=1), "data_dir": Path("some/where")},
                "task.val_step asks questions of the task's own split, and data_dir gives others to train on; "
                "leave one of them out",
            ),
            (
                {"task": Addition(n_digits=3, val_step=2, val_max_digits=7)},
                "task.val_max_digits: the model has no positions for numbers of 6 digits; "
                "set model.n_ctx to 20, or positions.kind to another than learned",
            ),
            (
                {
                    "task": Addition(n_digits=3, val_step=2, val_max_digits=7),
                    "model": {"positions": {"kind": "abacus", "max_place": 6}},
                },
                "task.val_max_digits: the model has no positions for numbers of 6 digits; "
                "set model.positions.max_place to 7",
            ),
        ],
    )
    def test_what_cannot_be_drawn_or_read_is_refused(self, fields, message):
        with pytest.raises(RequestError) as raised:
            small_config(**fields)
        assert str(raised.value) == message

    @pytest.mark.parametrize(
        "model",
        [
            {"n_ctx": 20},
            {"positions": {"kind": "rotary"}},
            {"positions": {"kind": "none"}},
            {"positions": {"kind": "segment-digit", "max_place": 7}},
        ],
    )
    def test_a_grid_goes_as_far_as_positions(self, model):
        task = Addition(n_digits=3, val_step=2, val_max_digits=7)
        assert small_config(task=task, model={"n_heads": 2, **model}).task.val_lengths == (2, 4, 6)
