"""The loop: what is logged, evaluated, kept and stopped is what was due."""

import json
import math
from itertools import pairwise

import pytest
import torch
from chaos.small_runs import differences, same_weights, small_config, train_small

from interp_arith.errors import RequestError, WorkError
from interp_arith.models import single
from interp_arith.storage import RunDirectory
from interp_arith.tasks import Addition, sources
from interp_arith.training import step, trainer
from interp_arith.training.batches import Drawn
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.optimizers import OPTIMIZERS

EARLY_STOP = {"metric": "train_loss", "threshold": 1.84, "hold": 2}
"""Of the seeds 0, 1, 2 of the small run the last meets it, at step 14."""


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


class TestTraining:
    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_every_optimizer_learns(self, kind, tmp_path):
        config = small_config(optimizer={"kind": kind}, batch_size=None, checkpoints={"keep_best": 0})
        config = config.replace(optimizer={"learning_rate": 0.03, "weight_decay": 0.0}, budget={"steps": 60})
        (run,) = train_small(config, tmp_path)
        losses = [record["train_loss"] for record in run.read_metrics() if "train_loss" in record]
        assert losses[-1] < 0.8 * losses[0]
        assert run.read_info()["status"] == "finished"

    def test_bf16_learns_and_keeps_its_weights_in_fp32(self, tmp_path):
        fields = {"optimizer": {"kind": "adamw", "learning_rate": 0.03, "weight_decay": 0.0}}
        (rough,) = train_small(small_config(precision="bf16", **fields), tmp_path / "bf16")
        (exact,) = train_small(small_config(**fields), tmp_path / "fp32")
        weights = [run.read_weights(run.checkpoints()[-1]) for run in (rough, exact)]
        assert all(tensor.dtype == torch.float32 for tensor in weights[0].values())
        assert not same_weights(*weights)
        losses = [run.read_metrics()[-1]["train_loss"] for run in (rough, exact)]
        assert losses[0] == pytest.approx(losses[1], abs=0.05)
        assert losses[0] < rough.read_metrics()[0]["train_loss"]

    def test_fp16_skips_the_steps_whose_gradients_overflow_and_goes_on(self, tmp_path, monkeypatch):
        original = step.initial_state

        def too_large(config, parameters):
            state = original(config, parameters)
            state["loss_scale"] *= 2.0**9
            return state

        monkeypatch.setattr(step, "initial_state", too_large)
        (run,) = train_small(small_config(precision="fp16", checkpoints={"every": 1}), tmp_path)
        norms = [record["gradient_norm"] for record in run.read_metrics()[1:]]
        skipped = [not math.isfinite(norm) for norm in norms]
        assert skipped[0]
        assert not skipped[-1]
        weights = [run.read_weights(c) for c in run.checkpoints()]
        unchanged = [same_weights(*pair) for pair in pairwise(weights)]
        assert unchanged == skipped

    def test_the_whole_training_set_at_every_step_reports_its_loss_as_it_was_before_the_update(
        self, tmp_path
    ):
        (run,) = train_small(small_config(batch_size=None, evaluate_every=1), tmp_path)
        records = run.read_metrics()
        for before, after in pairwise(records):
            assert after["batch_loss"] == pytest.approx(before["train_loss"], rel=1e-9)

    def test_mini_batches_of_an_epoch_are_the_training_set_once(self, tmp_path, monkeypatch):
        seen = []
        original = step.update

        def recording(config, parameters, state, batch, *arguments, **options):
            seen.extend(map(tuple, batch.tokens[0, :, :2].tolist()))
            return original(config, parameters, state, batch, *arguments, **options)

        monkeypatch.setattr(step, "update", recording)
        config = small_config(budget={"epochs": 2})
        train_small(config, tmp_path)
        first, second = seen[:24], seen[24:]
        everything = sorted(map(tuple, config.task.split("train").tolist()))
        assert sorted(first) == sorted(second) == everything
        assert first != second

    @pytest.mark.parametrize(
        ("budget", "steps"),
        [({"epochs": 4}, 12), ({"epochs": 4, "steps_per_epoch": 2}, 8), ({"steps": 5}, 5)],
    )
    def test_a_budget_counts_steps_or_epochs(self, budget, steps, tmp_path):
        (run,) = train_small(small_config(budget=budget), tmp_path)
        assert run.read_metrics()[-1]["step"] == steps
        assert run.read_info()["total_steps"] == steps

    def test_a_stop_rule_waits_for_as_many_evaluations_in_a_row_as_it_says(self, tmp_path):
        for hold in (1, 2, 3):
            rule = {"metric": "test_accuracy", "threshold": 0.16, "hold": hold}
            config = small_config(stop=rule, name=f"hold-{hold}", evaluate_every=1)
            (run,) = train_small(config, tmp_path)
            (free,) = train_small(small_config(name=f"free-{hold}", evaluate_every=1), tmp_path)
            records, row = free.read_metrics(), 0
            for record in records:
                row = row + 1 if record["test_accuracy"] >= 0.16 else 0
                if row == hold:
                    break
            assert run.read_metrics() == records[: records.index(record) + 1]
            assert run.checkpoints()[-1].step == record["step"]
            assert run.read_info()["status"] == "finished"

    def test_a_stop_rule_on_a_loss_waits_for_it_to_fall(self, tmp_path):
        (run,) = train_small(small_config(stop=EARLY_STOP), tmp_path, [2])
        losses = [r["train_loss"] for r in run.read_metrics() if "train_loss" in r]
        assert [loss <= 1.84 for loss in losses] == [False] * (len(losses) - 2) + [True, True]

    def test_a_run_can_start_from_given_weights(self, tmp_path):
        given = fresh_weights(small_config(seed=9))
        (run,) = train_small(small_config(), tmp_path, initial_weights=lambda config: given)
        assert same_weights(run.read_weights(run.checkpoints()[0]), given)

    def test_data_files_take_the_place_of_the_splits(self, tmp_path, monkeypatch):
        task = Addition(n_digits=2, val_questions=10, test_questions=12)
        sources.write_data(task, tmp_path / "data", n=30)
        seen = set()
        original = step.update

        def recording(config, parameters, state, batch, *arguments, **options):
            seen.update(map(tuple, batch.tokens[0].tolist()))
            return original(config, parameters, state, batch, *arguments, **options)

        monkeypatch.setattr(step, "update", recording)
        config = small_config(task=task, data_dir=tmp_path / "data", batch_size=10)
        (run,) = train_small(config, tmp_path)
        lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines()
        questions = [json.loads(line)["question"] for line in lines]
        assert seen == set(map(tuple, task.examples(questions).tokens.tolist()))
        last = run.read_metrics()[-1]
        assert {"train_loss", "val_loss", "test_loss"} <= last.keys()
        assert last["test_accuracy"] * 12 * 3 == pytest.approx(round(last["test_accuracy"] * 36))
        assert list(run.read_info()["data_sha256"]) == ["test.jsonl", "train.jsonl", "val.jsonl"]

    def test_a_curriculum_limits_what_is_drawn(self, tmp_path, monkeypatch):
        digits = []
        original = Drawn.batch

        def recording(drawn, given, step):
            batch = original(drawn, given, step)
            operands = batch.tokens[..., :12].unflatten(-1, (2, 6))[..., :5]  # five digits and a sign, twice
            digits.append(5 - int(operands.flatten(0, -2).any(dim=0).nonzero().min()))
            return batch

        monkeypatch.setattr(Drawn, "batch", recording)
        config = small_config(
            task=Addition(n_digits=5, val_questions=4, test_questions=4),
            curriculum={"kind": "phases", "max_digits": (1, 3), "fractions": (0.25, 0.5)},
            batch_size=200,
        )
        train_small(config, tmp_path)
        assert digits == [1] * 6 + [3] * 12 + [5] * 6
        digits.clear()
        growing = config.replace(
            name="grow",
            curriculum={"kind": "grow-digits", "start": 2},
            budget={"steps": 12, "steps_per_epoch": 3},
        )
        train_small(growing, tmp_path)
        assert digits == [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3

    def test_what_was_kept_of_questions_is_forgotten_at_the_end(self, tmp_path, monkeypatch):
        kept = []

        def watched():
            kept.append(single._kept_places.cache_info().currsize)
            single.forget_questions()

        monkeypatch.setattr(trainer, "forget_questions", watched)
        train_small(small_config(), tmp_path)
        assert len(kept) == 1
        assert kept[0] > 0
        assert single._kept_places.cache_info().currsize == 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"stop": {"metric": "val_loss"}},
                r"stop\.metric = 'val_loss' is not measured in this run; there are",
            ),
            (
                {"checkpoints": {"best_metric": "tset_loss"}},
                r"checkpoints\.best_metric = 'tset_loss' is not measured in this run; there are: train_loss",
            ),
            (
                {"task": Addition(n_digits=2), "budget": {"epochs": 2}},
                r"draws its questions without end; give budget\.steps_per_epoch",
            ),
            (
                {"task": Addition(n_digits=2), "curriculum": {"kind": "grow-digits"}},
                r"grow-digits counts epochs; give budget\.steps_per_epoch",
            ),
            (
                {
                    "task": Addition(n_digits=5),
                    "curriculum": {"kind": "grow-digits", "start": 2},
                    "budget": {"steps": 9, "steps_per_epoch": 3},
                },
                "the last of 9 steps draws numbers of at most 4 digits, and the task asks for 5",
            ),
            (
                {"task": Addition(n_digits=2), "stop": {"metric": "grid_exact_match"}},
                "'grid_exact_match' is not measured in this run; there are: val_loss",
            ),
            (
                {
                    "task": Addition(n_digits=2, val_questions=0, test_questions=0),
                    "checkpoints": {"best_metric": "val_loss"},
                },
                "'val_loss' is not measured in this run; nothing is; give it task.val_questions",
            ),
            (
                {"task": Addition(n_digits=4, val_step=2), "stop": {"metric": "val_3_loss"}},
                "'val_3_loss' is not measured in this run; there are: .*val_2_loss.*val_current_loss.*grid_loss",
            ),
        ],
        ids=[
            "stop-metric",
            "best-metric",
            "endless-epochs",
            "growth-without-epochs",
            "growth-too-slow",
            "no-grid",
            "nothing-held-out",
            "not-on-the-grid",
        ],
    )
    def test_what_no_run_can_be_is_refused_before_anything_is_written(self, fields, message, tmp_path):
        with pytest.raises(RequestError, match=message):
            train_small(small_config(**fields), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_model_too_short_for_the_task_leaves_no_run_behind(self, tmp_path):
        model = {"d_model": 8, "n_heads": 2, "d_mlp": 12, "n_ctx": 2}
        with pytest.raises(RequestError, match="needs 3 positions"):
            train_small(small_config(model=model), tmp_path)
        assert not RunDirectory(tmp_path / "small-s0").exists
        train_small(small_config(), tmp_path)


class TestLossThatIsNotFinite:
    def test_it_stops_the_run_and_keeps_the_last_good_checkpoint(self, tmp_path):
        with pytest.raises(WorkError, match="small-s0: the loss is not finite at step") as caught:
            train_small(small_config(optimizer={"kind": "adamw", "learning_rate": 1e30}), tmp_path)
        assert "the last good checkpoint is kept; try a lower optimizer.learning-rate" in str(caught.value)
        assert caught.value.exit_status == 1
        run = RunDirectory(tmp_path / "small-s0")
        info = run.read_info()
        assert info["status"] == "failed"
        assert info["failure"].startswith("the loss is not finite at step")
        for checkpoint in run.checkpoints():
            weights = run.read_weights(checkpoint)
            assert all(tensor.isfinite().all() for tensor in weights.values())
        assert run.checkpoints()[-1].metrics["test_loss"] < math.inf
        assert not (run.path / "train.log").read_text().endswith("finished")

    @staticmethod
    def poisoned(seed: int):
        """Initial weights whose logits overflow, for one of the seeds."""

        def weights(config):
            parameters = fresh_weights(config)
            if config.seed == seed:
                parameters["unembed.W_U"] *= 1e38
                parameters["blocks.0.mlp.W_out"] *= 1e38
            return parameters

        return weights

    def test_the_other_seeds_train_on_as_if_alone(self, tmp_path):
        config = small_config(optimizer={"kind": "adamw", "learning_rate": 0.03})
        with pytest.raises(WorkError, match=r"^small-s1: the loss is not finite") as caught:
            train_small(config, tmp_path / "three", [0, 1, 2], initial_weights=self.poisoned(1))
        assert "small-s0" not in str(caught.value)
        statuses = [
            RunDirectory(tmp_path / "three" / f"small-s{seed}").read_info()["status"] for seed in range(3)
        ]
        assert statuses == ["finished", "failed", "finished"]
        for seed in (0, 2):
            (alone,) = train_small(config, tmp_path / "alone", [seed])
            assert differences(alone.path, tmp_path / "three" / f"small-s{seed}") == []
