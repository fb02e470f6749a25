"""What a run leaves behind: its trajectory, best checkpoints, states, log, summary and information."""

from importlib.metadata import version

import numpy as np
import pytest
import torch
from chaos.small_runs import small_config, train_small

from interp_arith.storage import RunDirectory
from interp_arith.training import ensemble


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunDirectory:
    """A run that logs every step, evaluates every other one and keeps the best three."""
    config = small_config(checkpoints={"every": 5, "state_every": 6, "keep_best": 3})
    (run,) = train_small(config, tmp_path_factory.mktemp("finished"))
    return run


def test_the_trajectory_has_the_powers_of_two_then_every_so_many_steps_and_the_last(finished):
    steps = [c.step for c in finished.checkpoints()]
    assert steps == [0, 1, 2, 4, 5, 10, 15, 20, 24]


def test_a_checkpoint_has_the_metrics_of_its_step(finished):
    by_step = {record["step"]: record for record in finished.read_metrics()}
    for checkpoint in finished.checkpoints():
        assert checkpoint.metrics == by_step[checkpoint.step]


def test_the_best_are_the_k_best_evaluations(finished):
    evaluated = [r for r in finished.read_metrics() if "test_loss" in r]
    expected = sorted(evaluated, key=lambda r: r["test_loss"])[:3]
    assert [c.metrics for c in finished.best()] == expected
    files = {p.name for p in (finished.path / "best").iterdir()} - {"best.json"}
    assert files == {f"step-{int(r['step']):08d}.safetensors" for r in expected}


def test_the_best_weights_score_what_is_written_beside_them(finished):
    config = small_config()
    examples = config.task.examples(config.task.split("test"))
    for checkpoint in finished.best():
        scores = ensemble.score(
            config.model,
            ensemble.stack([finished.read_weights(checkpoint)]),
            ensemble.stack_examples([examples], torch.device("cpu")),
            config.task.answer_positions,
            asker=config.task.asking_token,
        )
        assert scores["loss"].item() == checkpoint.metrics["test_loss"]


def test_an_accuracy_is_best_when_greatest_and_the_earlier_wins_a_tie(tmp_path):
    plan = {"keep_best": 4, "best_metric": "test_accuracy", "state_every": 5}
    (run,) = train_small(small_config(checkpoints=plan), tmp_path)
    evaluated = [r for r in run.read_metrics() if "test_accuracy" in r]
    expected = sorted(evaluated, key=lambda r: (-r["test_accuracy"], r["step"]))[:4]
    assert [c.step for c in run.best()] == [r["step"] for r in expected]


def test_no_best_are_kept_where_none_are_wanted(tmp_path):
    (run,) = train_small(small_config(checkpoints={"keep_best": 0, "best_metric": "none"}), tmp_path)
    assert run.best() == []
    assert not (run.path / "best").exists()


def test_the_two_newest_states_are_left(finished):
    assert finished.state_steps() == [18, 24]


def test_every_step_is_logged_with_what_the_update_saw_and_every_evaluation_with_every_set(finished):
    records = finished.read_metrics()
    assert [r["step"] for r in records] == list(range(25))
    trained = {"batch_loss", "gradient_norm", "largest_logit"}
    always = {"step", "learning_rate", "weight_norm"}
    scores = {f"{s}_{what}" for s in ("train", "test") for what in ("loss", "accuracy", "exact_match")}
    for record in records:
        number = int(record["step"])
        due = number % 2 == 0 or number % 5 == 0 or number in (1, 2, 4)
        expected = always | (trained if number else set()) | (scores if due else set())
        assert record.keys() == expected, number


def test_the_logged_rate_is_that_of_the_update_just_made(finished):
    config = small_config()
    for record in finished.read_metrics()[1:]:
        multiplier = config.schedule.multiplier(int(record["step"]) - 1, 24)
        assert record["learning_rate"] == pytest.approx(0.03 * multiplier)


def test_the_logged_weight_norm_is_that_of_the_checkpoint(finished):
    for checkpoint in finished.checkpoints():
        weights = finished.read_weights(checkpoint)
        total = sum(float(np.square(w.double().numpy()).sum()) for w in weights.values())
        assert checkpoint.metrics["weight_norm"] == pytest.approx(total, rel=1e-9)


def test_intervals_of_logging_and_evaluation_are_apart(tmp_path):
    (run,) = train_small(
        small_config(log_every=4, evaluate_every=6, checkpoints={"state_every": 24}), tmp_path
    )
    kept = {0, 1, 2, 4, 8, 16, 24}
    evaluated = kept | {0, 6, 12, 18}
    records = run.read_metrics()
    assert {r["step"] for r in records} == evaluated | set(range(0, 25, 4))
    assert {r["step"] for r in records if "test_loss" in r} == evaluated


def test_the_summary_has_the_first_step_of_every_milestone(tmp_path):
    config = small_config(
        optimizer={"kind": "adamw", "learning_rate": 0.03, "weight_decay": 0.0},
        model={"d_model": 16, "n_heads": 2, "d_mlp": 64},
        batch_size=None,
        budget={"steps": 100},
        evaluate_every=1,
    )
    (run,) = train_small(config, tmp_path)
    reached = [r["step"] for r in run.read_metrics() if r["train_accuracy"] >= 1]
    summary = run.read_info()["summary"]
    assert summary["steps_to_train_accuracy_1"] == reached[0]
    assert summary["steps_to_test_accuracy_0.95"] is None
    assert summary["last"] == run.read_metrics()[-1]


def test_run_information_says_what_happened_where(finished):
    info = finished.read_info()
    assert (info["status"], info["step"], info["total_steps"]) == ("finished", 24, 24)
    assert info["failure"] is None
    assert info["versions"]["torch"] == version("torch")
    assert info["device"] == "cpu"
    assert info["threads"] == torch.get_num_threads()
    assert (info["products"], info["trained_together"]) == ("float32", 1)
    assert info["training_seconds"] > 0
    log = (finished.path / "train.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in log] == ["started", "finished at step 24"]
