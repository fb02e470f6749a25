"""Runs as a user sees them: train, find, look into, evaluate, start from."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from chaos.small_runs import differences, same_weights, small_config

from interp_arith import comparison
from interp_arith import run as run_room
from interp_arith.errors import RequestError, WorkError
from interp_arith.models.transformer import ArithmeticTransformer
from interp_arith.runs import Run, evaluate, find_runs, load_config, load_run, train, train_seeds
from interp_arith.tasks import Addition, ModularArithmetic, scoring

QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of each of two seeds in runs/."""
    place = tmp_path_factory.mktemp("place")
    train_seeds(small_config(), seeds=[0, 1], out=place / "runs", **QUIET)
    return place


@pytest.fixture
def run(folder) -> Run:
    return load_run(folder / "runs" / "small-s0")


class TestTrain:
    def test_a_finished_run_has_its_files(self, run):
        present = {p.name for p in run.path.iterdir() if not p.name.startswith(".")}
        files = {"config.yaml", "run.json", "metrics.jsonl", "checkpoints.jsonl", "train.log", "curves.html"}
        assert present == files | {"weights", "best", "state"}
        assert "<script" in (run.path / "curves.html").read_text(encoding="utf-8")

    def test_seeds_together_are_each_the_run_of_that_seed_alone(self, folder, tmp_path):
        alone = train(small_config(), seed=1, out=tmp_path, **QUIET)
        assert differences(alone.path, folder / "runs" / "small-s1") == []

    def test_a_name_and_a_seed_give_the_directory_its_name(self, tmp_path):
        run = train(small_config(budget={"steps": 1}), seed=7, out=tmp_path, name="mine", **QUIET)
        assert run.path == tmp_path / "mine-s7"
        assert (run.config.seed, run.config.task.seed, run.config.name) == (7, 7, "mine")

    def test_without_a_seed_the_config_s_own_seeds_are_kept(self, tmp_path):
        config = small_config(seed=2, task=ModularArithmetic(p=7, seed=5), budget={"steps": 1})
        run = train(config, out=tmp_path, **QUIET)
        assert (run.name, run.config.seed, run.config.task.seed) == ("small-s2", 2, 5)

    def test_a_finished_run_is_returned_as_it_is(self, run):
        again = train(small_config(), out=run.path.parent, resume=True, **QUIET)
        assert differences(run.path, again.path) == []
        assert again.status == "finished"

    def test_a_run_that_exists_is_refused_without_resume(self, run):
        with pytest.raises(RequestError, match="exists already; add --resume"):
            train(small_config(), out=run.path.parent, **QUIET)

    @pytest.mark.parametrize("seeds", [[], [1, 1]])
    def test_seeds_must_be_different_and_some(self, seeds, tmp_path):
        with pytest.raises(RequestError, match="allowed: one or more different whole numbers"):
            train_seeds(small_config(), seeds=seeds, out=tmp_path, **QUIET)

    def test_its_config_file_repeats_the_run(self, run, tmp_path):
        again = train(load_config(run.path / "config.yaml"), out=tmp_path, **QUIET)
        assert differences(run.path, again.path) == []

    @pytest.mark.parametrize(
        ("device", "precision", "message"),
        [
            ("gpu", "fp32", "no device is called 'gpu'"),
            ("cuda", "fp32", "device cuda: this machine has none that torch can use; take --device cpu"),
            ("cpu", "fp16", "precision fp16 needs a GPU; on a CPU take bf16 or fp32"),
        ],
    )
    def test_a_device_that_is_not_there_is_refused(self, device, precision, message, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        config = small_config(precision=precision)
        with pytest.raises(RequestError, match=message):
            train(config, out=tmp_path, device=device, progress=False)
        assert list(tmp_path.iterdir()) == []


class TestRun:
    def test_it_says_what_it_is(self, run):
        assert repr(run) == f"Run({run.path}: finished, 7 checkpoints to step 24)"
        assert run.name == "small-s0"
        assert run.config == small_config()
        assert run.task == small_config().task

    def test_steps_and_metrics_are_what_was_kept_and_logged(self, run):
        assert run.steps == [0, 1, 2, 4, 8, 16, 24]
        assert isinstance(run.metrics, pd.DataFrame)
        assert list(run.metrics["step"]) == list(range(25))
        assert run.metrics["test_loss"].notna().sum() == 14

    def test_the_model_of_a_step_scores_what_was_logged_there(self, run):
        examples = run.task.examples(run.task.split("test"))
        for step in (0, 8, "last", "best"):
            model = run.model(step)
            assert isinstance(model, ArithmeticTransformer)
            assert not model.training
            logits = model(examples.tokens)[:, list(run.task.answer_positions)]
            loss = scoring.cross_entropy(logits, examples.targets, examples.mask).item()
            assert loss == pytest.approx(run.checkpoint(step).metrics["test_loss"], rel=1e-6)

    def test_best_is_the_least_of_the_preset_s_metric(self, run):
        assert run.checkpoint("best").metrics["test_loss"] == run.metrics["test_loss"].min()

    def test_a_step_that_was_not_kept_is_answered_with_the_nearest(self, run):
        with pytest.raises(RequestError, match="no checkpoint at step 9; the nearest are at 8, 4, 2, 16, 1"):
            run.model(9)

    def test_a_run_without_best_says_so(self, tmp_path):
        run = train(small_config(budget={"steps": 1}, checkpoints={"keep_best": 0}), out=tmp_path, **QUIET)
        with pytest.raises(RequestError, match="keeps no best checkpoint; ask for 'last', or for a step"):
            run.model("best")

    def test_a_run_that_was_just_begun_has_no_checkpoint(self, run, tmp_path):
        (tmp_path / "config.yaml").write_bytes((run.path / "config.yaml").read_bytes())
        new = Run(tmp_path)
        assert (new.steps, new.status, len(new.metrics)) == ([], "stopped", 0)
        assert repr(new).endswith("stopped, no checkpoint)")
        with pytest.raises(RequestError, match="has no checkpoint yet"):
            new.model("last")

    def test_a_run_that_says_running_and_has_no_writer_was_stopped(self, tmp_path):
        run = train(small_config(budget={"steps": 1}), out=tmp_path, **QUIET)
        run.directory.write_info({"status": "running"})
        assert run.status == "stopped"
        with run.directory.lock():
            assert run.status == "running"


class TestFinding:
    def test_a_run_is_found_by_its_path_or_its_name_in_runs(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        for name in ("small-s1", "runs/small-s1", folder / "runs" / "small-s1"):
            assert load_run(name).config.seed == 1

    def test_a_run_is_found_by_its_name_among_the_shipped_ones(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(run_room, "SHIPPED", folder / "runs")
        assert load_run("small-s0").path == folder / "runs" / "small-s0"

    def test_a_wrong_name_is_answered_with_the_nearest(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        with pytest.raises(
            RequestError, match="no run is called 'smal-s1'; did you mean small-s1 or small-s0"
        ):
            load_run("smal-s1")

    def test_where_there_are_none_it_says_how_to_train_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(run_room, "SHIPPED", tmp_path / "none")
        with pytest.raises(
            RequestError, match="no run at mine; train one with `interp-arith train mod-add-113`"
        ):
            load_run("mine")

    def test_a_folder_that_is_no_run_is_said_to_be_none(self, tmp_path):
        with pytest.raises(RequestError, match=re.escape(f"{tmp_path} is no run: it has no config.yaml")):
            load_run(tmp_path)

    def test_what_cannot_be_read_is_left_out_with_a_warning(self, folder, tmp_path):
        for name in ("good", "bad"):
            (tmp_path / name).mkdir()
            text = (folder / "runs" / "small-s0" / "config.yaml").read_text()
            (tmp_path / name / "config.yaml").write_text(text if name == "good" else "task: 3")
        with pytest.warns(UserWarning, match="bad is left out"):
            assert [run.name for run in find_runs(tmp_path)] == ["good"]


class TestEvaluate:
    def test_it_scores_every_split_as_the_trainer_did(self, run):
        table = evaluate(run, device="cpu").set_index("set")
        last = run.metrics.iloc[-1]
        assert list(table.index) == ["train", "test"]
        assert list(table["questions"]) == [24, 25]
        for name in table.index:
            for what in ("loss", "accuracy", "exact_match"):
                assert table.loc[name, what] == pytest.approx(last[f"{name}_{what}"], rel=1e-6)
            assert table.loc[name, "wrong"] == round(
                (1 - last[f"{name}_exact_match"]) * table.loc[name, "questions"]
            )

    def test_it_writes_the_result_and_the_failures_by_question(self, run):
        table = evaluate(run.path, step=8, device="cpu")
        found = json.loads((run.path / "evaluations" / "test-step-8.json").read_text(encoding="utf-8"))
        assert found["step"] == 8
        assert found["table"] == table.to_dict("records")
        assert len(found["failures"]) == table["wrong"].sum() > 0
        model = run.model(8)
        for failure in found["failures"]:
            assert failure["right"] == str(run.task.answer([failure["question"]])[0])
            logits = model(run.task.tokens([failure["question"]]))[0, -1]
            assert failure["given"] == str(int(logits.argmax())) != failure["right"]
            assert (
                run.task.parse([failure["question"]]).tolist()[0] in run.task.split(failure["set"]).tolist()
            )

    def test_best_and_a_step_in_words_are_understood(self, run):
        best = run.checkpoint("best")
        table = evaluate(run, step="best", device="cpu").set_index("set")
        assert table.loc["test", "loss"] == pytest.approx(best.metrics["test_loss"], rel=1e-6)
        assert evaluate(run, step="4", device="cpu").equals(evaluate(run, step=4, device="cpu"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"protocol": "tset"}, "no protocol is called 'tset'; did you mean test"),
            ({"step": "newest"}, "step 'newest'; allowed: a whole number, 'last' or 'best'"),
        ],
    )
    def test_what_is_wrong_is_said(self, run, arguments, message):
        with pytest.raises(RequestError, match=message):
            evaluate(run, **arguments)

    def test_several_answer_tokens_must_all_be_right(self, tmp_path):
        task = Addition(n_digits=1, val_questions=3, test_questions=3)
        run = train(small_config(task=task, budget={"steps": 2}), out=tmp_path, **QUIET)
        table = evaluate(run, device="cpu")
        assert list(table["set"]) == ["val", "test"]
        last = run.metrics.iloc[-1]
        assert table["exact_match"].tolist() == [last["val_exact_match"], last["test_exact_match"]]


class TestInitFrom:
    @pytest.mark.parametrize(("at", "step"), [("", 24), ("@8", 8), ("@best", None), ("@last", 24)])
    def test_a_second_pass_starts_from_those_weights_with_a_fresh_schedule(self, run, at, step, tmp_path):
        config = small_config(init_from=f"{run.path}{at}", name="second", budget={"steps": 2})
        second = train(config, out=tmp_path, **QUIET)
        expected = run.weights("best" if step is None else step)
        assert same_weights(second.weights(0), expected)
        assert not same_weights(second.weights("last"), expected)
        assert second.metrics["learning_rate"].iloc[1] == pytest.approx(0.03 / 3)  # the warm-up begins anew

    def test_weights_of_another_shape_are_refused_in_one_line(self, run, tmp_path):
        model = {"d_model": 8, "n_heads": 2, "d_mlp": 16}
        with pytest.raises(RequestError) as caught:
            train(small_config(init_from=str(run.path), model=model), out=tmp_path, **QUIET)
        assert str(caught.value) == (
            f"init_from {run.path}: blocks.0.mlp.W_in is (8, 12) there and (8, 16) here; "
            "give both runs the same model and task"
        )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("source", "message"),
        [("nowhere", "nowhere"), ("{}@9", "no checkpoint at step 9"), ("{}@x", "step 'x'")],
    )
    def test_a_source_that_is_not_there_is_refused(self, run, source, message, tmp_path):
        with pytest.raises(RequestError, match=message):
            train(small_config(init_from=source.format(run.path)), out=tmp_path, **QUIET)
        assert list(tmp_path.iterdir()) == []

    def test_a_run_outlives_the_run_that_it_came_from(self, tmp_path):
        source = train(small_config(budget={"steps": 1}, name="first"), out=tmp_path, **QUIET)
        config = small_config(init_from=str(source.path), budget={"steps": 2})
        train(config, out=tmp_path, **QUIET)
        (source.path / "config.yaml").unlink()
        assert train(config, out=tmp_path, resume=True, **QUIET).status == "finished"


class TestGivenSplit:
    MASK = np.random.default_rng(0).random((7, 7)) < 0.4

    def config(self):
        return small_config(task=ModularArithmetic(p=7).with_split(self.MASK), batch_size=4)

    def test_a_run_keeps_it_and_gives_it_back(self, tmp_path):
        run = train(self.config(), out=tmp_path, **QUIET)
        assert np.array_equal(np.load(run.path / "split.npy"), self.MASK)
        loaded = load_run(run.path)
        assert np.array_equal(loaded.task.train_mask, self.MASK)
        assert loaded.task.split("train").tolist() == np.argwhere(self.MASK).tolist()
        assert list(evaluate(loaded, device="cpu")["questions"]) == [self.MASK.sum(), (~self.MASK).sum()]

    def test_its_config_file_repeats_the_run_with_the_same_split(self, tmp_path):
        run = train(self.config(), out=tmp_path / "one", **QUIET)
        again = train(load_config(run.path / "config.yaml"), out=tmp_path / "two", **QUIET)
        assert differences(run.path, again.path) == []

    def test_it_is_resumed_with_it_and_refused_without(self, tmp_path):
        run = train(self.config(), out=tmp_path, **QUIET)
        assert (
            train(load_config(run.path / "config.yaml"), out=tmp_path, resume=True, **QUIET).status
            == "finished"
        )
        plain = small_config(task=ModularArithmetic(p=7), batch_size=4)
        with pytest.raises(RequestError, match=r"exists with another config \(another split\.npy\)"):
            train(plain, out=tmp_path, resume=True, **QUIET)


class TestTables:
    def test_a_row_a_run_and_mean_and_deviation_over_seeds(self, folder):
        table = comparison.runs_table(find_runs(folder / "runs"))
        assert list(table["run"]) == ["small-s0", "small-s1"]
        assert list(table["step"]) == [24, 24]
        for _, row in table.iterrows():
            last = load_run(folder / "runs" / row["run"]).metrics.iloc[-1]
            assert row["test_loss"] == last["test_loss"]
        (over_seeds,) = comparison.seeds_table(table).to_dict("records")
        values = table["test_loss"]
        assert over_seeds["runs"] == 2
        assert over_seeds["test_loss"] == f"{values.mean():.4g} ± {values.std(ddof=1):.3g}"
        assert over_seeds["steps_to_test_accuracy_0.95"] == "–"

    def test_seconds_of_seeds_that_trained_together_are_told_from_those_of_one(self, tmp_path):
        train_seeds(small_config(), seeds=[0, 1, 2], out=tmp_path, **QUIET)
        train_seeds(small_config(), seeds=[5], out=tmp_path, **QUIET)
        table = comparison.runs_table(find_runs(tmp_path)).set_index("run")
        assert list(table["together"].dropna()) == [3, 3, 3]
        assert table["seconds"][["small-s0", "small-s2"]].nunique() == 1
        assert np.isnan(table["together"]["small-s5"])


def test_a_failed_run_says_so_and_can_be_looked_into(tmp_path):
    config = small_config(optimizer={"kind": "adamw", "learning_rate": 1e30})
    with pytest.raises(WorkError, match="the loss is not finite"):
        train(config, out=tmp_path, **QUIET)
    run = load_run(tmp_path / "small-s0")
    assert run.status == "failed"
    assert run.model("last")
    assert run.model("best")
    assert "failed" in repr(run)
    assert "<title>small-s0</title>" in (run.path / "curves.html").read_text(encoding="utf-8")


def test_weights_trained_on_another_split_are_named(run, tmp_path):
    config = small_config(init_from=str(run.path), name="second", budget={"steps": 1}).with_seed(5)
    with pytest.warns(
        UserWarning, match=r"some of the test questions here were trained on there; --seed 0 takes"
    ):
        train(config, out=tmp_path, **QUIET)


def test_means_over_seeds_leave_out_what_is_not_finished():
    columns = {
        "run": ["a-s0", "a-s1"],
        "config": ["a", "a"],
        "seed": [0, 1],
        "status": ["finished", "interrupted"],
    }
    table = comparison.seeds_table(pd.DataFrame(columns | {"step": [10, 4]}))
    assert (table["runs"].tolist(), table["step"].tolist()) == ([1], ["10"])


def test_a_single_string_is_a_list_of_one_question():
    assert ModularArithmetic().tokens("23+45=").tolist() == [[23, 45, 113]]
    assert Addition(n_digits=2).answer("23+45=").tolist() == [68]
