"""Measures kept in a run: taken once, extended by new checkpoints, taken anew where what they rest on has changed."""

import dataclasses
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr

from interp_arith import run as run_room
from interp_arith.cli import main
from interp_arith.comparison import measure_seeds
from interp_arith.errors import RequestError, WorkError
from interp_arith.interp import trajectory
from interp_arith.interp.base import Measures, Subject
from interp_arith.interp.measures import MEASURES, measure
from interp_arith.kept import keep_keys, split_digest
from interp_arith.presets import preset
from interp_arith.run import Run
from interp_arith.runs import train, train_seeds
from interp_arith.tasks import Addition, Text

QUIET = {"device": "cpu", "progress": False}
CHEAP = ["train_loss", "weight_norm"]


def tiny(steps: int = 8, **fields):
    """Addition mod 11: milliseconds a step."""
    small = {
        "name": "tiny",
        "task": {"p": 11, "train_fraction": 0.6},
        "model": {"d_model": 16, "n_heads": 2, "d_mlp": 24},
        "budget": {"steps": steps},
    }
    return preset("mod-add-113", **(small | fields))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    return train(tiny(), out=tmp_path_factory.mktemp("runs"), **QUIET)


@pytest.fixture
def run(trained, tmp_path) -> Run:
    shutil.copytree(trained.path, tmp_path / "tiny-s0")
    return Run(tmp_path / "tiny-s0")


@pytest.fixture
def taken(monkeypatch) -> list[tuple[str, int]]:
    """Every (measure, step) that is really taken from here on."""
    log: list[tuple[str, int]] = []
    steps = trajectory.measure_steps

    def noting(weights, model, task, measures, keys, found):
        def noted():
            for step, tensors in weights:
                log.extend((m.name, step) for m in measures)
                yield step, tensors

        return steps(noted(), model, task, measures, keys, found)

    monkeypatch.setattr("interp_arith.kept.measure_steps", noting)
    return log


def test_a_trajectory_is_what_measure_gives_at_each_step(run):
    names = ["train_loss", "restricted_loss", "logit_cosines", "key_frequencies", "neuron_clusters"]
    found = run.measure(names)
    assert found["step"].to_numpy().tolist() == run.steps
    keys = trajectory.fixed_keys(run.model(), run.task)
    for step in run.steps:
        alone = measure(run.model(step), run.task, names, keys=keys)
        xr.testing.assert_allclose(found.sel(step=step, drop=True), alone, rtol=1e-6)


def test_every_measure_that_applies_has_units_and_a_source(run):
    found = run.measure(steps=run.steps[-1:])
    assert {"restricted_loss", "excluded_loss", "algorithm", "attention_to", "phases"} <= set(found)
    assert all(found[name].attrs["units"] and found[name].attrs["source"] for name in found)


def test_what_is_kept_is_not_taken_again(run, taken):
    first = run.measure(CHEAP)
    assert sorted(taken) == sorted((name, step) for name in CHEAP for step in run.steps)
    taken.clear()
    xr.testing.assert_identical(Run(run.path).measure(CHEAP), first)
    assert taken == []
    assert {file.name for file in (run.path / "measures").iterdir()} == {"train_loss.nc", "weight_norm.nc"}


def test_a_file_of_measures_opens_in_xarray_alone(run):
    run.measure(["restricted_loss"])
    with xr.open_dataarray(run.path / "measures" / "restricted_loss.nc", engine="h5netcdf") as kept:
        assert kept.dims == ("step", "variant", "split")
        assert kept.attrs["units"] == "nats"
        assert kept["variant"].to_numpy().tolist() == ["sum", "block", "cosine"]


def test_some_steps_now_and_the_rest_later(run, taken):
    some = run.steps[1:3]
    assert run.measure(CHEAP, steps=some)["step"].to_numpy().tolist() == some
    taken.clear()
    assert run.measure(CHEAP)["step"].to_numpy().tolist() == run.steps
    assert {step for _, step in taken} == set(run.steps) - set(some)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_was_taken_before_an_interrupt_or_an_error_is_kept(run, taken, error):
    read = run.directory.read_weights

    def ends_at_the_fourth(checkpoint):
        if checkpoint.step == run.steps[3]:
            raise error
        return read(checkpoint)

    with pytest.MonkeyPatch.context() as end:
        end.setattr(run.directory, "read_weights", ends_at_the_fourth)
        with pytest.raises(error):
            run.measure(CHEAP)
    taken.clear()
    assert run.measure(CHEAP)["step"].to_numpy().tolist() == run.steps
    anew = {step for _, step in taken}
    assert set(run.steps[3:]) <= anew <= set(run.steps[2:])  # the third had begun, or not


def test_measures_are_written_while_others_are_still_to_be_taken(run, monkeypatch):
    monkeypatch.setattr("interp_arith.kept.SECONDS_AT_RISK", 0.0)
    read, kept = run.directory.read_weights, []

    def noting(checkpoint):
        found = run.directory.read_measure("train_loss")
        kept.append([] if found is None else found["step"].to_numpy().tolist())
        return read(checkpoint)

    monkeypatch.setattr(run.directory, "read_weights", noting)
    run.measure(["train_loss"])
    reads = kept[-len(run.steps) :]  # the last one is read first, for the keys
    assert reads == [run.steps[:n] for n in range(len(run.steps))]


def test_a_bar_counts_the_checkpoints_that_are_measured_and_no_others(run, monkeypatch):
    told: list[tuple[int, int]] = []
    shown: list[bool] = []

    @contextmanager
    def noting(title, is_shown):
        shown.append(is_shown)
        yield lambda done, total: told.append((done, total))

    run.measure(["train_loss"], steps=run.steps[:2])
    monkeypatch.setattr("interp_arith.kept.bar", noting)
    run.measure(["train_loss", "weight_norm"])  # two steps less of the one than of the other
    n = len(run.steps)
    assert told == [(done, 2 * n - 2) for done in range(2 * n - 2)]
    run.measure(["train_loss", "weight_norm"])
    assert len(told) == 2 * n - 2
    assert shown == [True, False]


def test_new_checkpoints_extend_what_is_kept(tmp_path, taken):
    config = tiny(4, checkpoints={"every": 2})
    run = train(config, out=tmp_path, **QUIET)
    run.measure(CHEAP)
    taken.clear()
    run.directory.write_checkpoint(99, run.weights(), {})
    assert run.measure(CHEAP)["step"].to_numpy().tolist()[-1] == 99
    assert {step for _, step in taken} == {99}


def test_a_new_version_of_a_measure_is_taken_anew(run, taken, monkeypatch):
    run.measure(CHEAP)
    taken.clear()
    newer = Measures(
        *(dataclasses.replace(m, version=m.version + (m.name == "train_loss")) for m in MEASURES.values())
    )
    monkeypatch.setattr(run_room, "MEASURES", newer)
    run.measure(CHEAP)
    assert {name for name, _ in taken} == {"train_loss"}


def test_other_key_frequencies_take_anew_what_rests_on_them_alone(run, taken, monkeypatch):
    names = ["restricted_loss", "logit_cosines"]
    run.measure(names)
    taken.clear()
    keep_keys(run.directory, run.checkpoint(), (2, 5))
    found = run.measure([*names, "excluded_loss"], steps=run.steps[-1:])
    assert {name for name, _ in taken} == {"restricted_loss", "excluded_loss"}
    assert set(found["removed"].to_numpy().tolist()) >= {"all"}
    expected = measure(run.model(), run.task, ["restricted_loss"], keys=(2, 5))["restricted_loss"]
    xr.testing.assert_allclose(
        found["restricted_loss"][0].drop_vars("step").sel(expected.coords), expected, rtol=1e-6
    )


def test_the_keys_are_kept_with_the_weights_that_they_are_of(run, monkeypatch):
    keep_keys(run.directory, run.checkpoint(), (2, 5))
    expected = run.measure(["restricted_loss"])["restricted_loss"]
    with monkeypatch.context() as without_models:
        without_models.setattr("interp_arith.kept.fixed_keys", None)
        xr.testing.assert_equal(run.kept(["restricted_loss"])["restricted_loss"], expected)
    run.directory.write_checkpoint(run.steps[-1] + 1, run.weights(0), {})
    assert run.kept(["restricted_loss"]) == {}  # (2, 5) are the keys of other weights
    run.measure(["restricted_loss"])
    assert run.directory.read_keys()["keys"] == list(trajectory.fixed_keys(run.model(), run.task))


def test_what_is_kept_is_read_where_nothing_can_be_written(run, monkeypatch):
    expected = run.measure(["restricted_loss"])
    (run.path / "measures" / "keys.json").unlink()  # as in a run that was measured before keys were kept
    monkeypatch.setattr("interp_arith.storage.write_atomically", None)
    xr.testing.assert_identical(run.measure(["restricted_loss"]), expected)


def test_another_split_takes_anew_what_rests_on_it_alone(run, taken, monkeypatch):
    run.measure(CHEAP)
    taken.clear()
    other = Run(run.path)
    other.config = other.config.replace(task=other.task.with_seed(7))
    other.measure(CHEAP)
    assert {name for name, _ in taken} == {"train_loss"}


def test_altered_weights_are_measured_anew_at_their_step(run, taken):
    run.measure(CHEAP)
    taken.clear()
    kept = run.directory.checkpoints()
    lines = (run.path / "checkpoints.jsonl").read_text().splitlines()
    (run.path / "checkpoints.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    run.directory.write_checkpoint(kept[-1].step, {k: 2 * w for k, w in run.weights(0).items()}, {})
    run.measure(CHEAP)
    assert {step for _, step in taken} == {kept[-1].step}


def test_a_damaged_checkpoint_is_left_out_and_named(run):
    bad = run.steps[2]
    file = run.path / run.checkpoint(bad).file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"{file.name} is damaged: .*; step {bad} is left out"):
        found = run.measure(CHEAP)
    assert found["step"].to_numpy().tolist() == [step for step in run.steps if step != bad]


def test_a_phase_that_is_not_reached_says_what_it_waits_for(run, capsys):
    assert main(["measure", str(run.path)]) == 0
    assert "grokked (test loss < 0.01) not reached" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_where_no_checkpoint_is_whole_that_is_said(run, capsys):
    bad = run.steps[2]
    (run.path / run.checkpoint(bad).file).write_bytes(b"")
    with pytest.raises(WorkError, match="no checkpoint at these steps is whole"):
        run.measure(CHEAP, steps=[bad])
    assert main(["measure", str(run.path), "train_loss", "--step", str(bad)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == f"interp-arith: {run.path}: no checkpoint at these steps is whole; measure others"


def test_the_command_says_that_an_interrupt_loses_nothing(run, monkeypatch, capsys):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("interp_arith.kept.measure_steps", interrupted)
    assert main(["measure", str(run.path), "train_loss"]) == 130
    assert "what was measured is kept; the same command goes on" in capsys.readouterr().err


def test_one_name_needs_no_list(run):
    assert list(run.measure("train_loss")) == ["train_loss"]


def test_a_damaged_file_of_measures_is_written_anew(run):
    expected = run.measure(["train_loss"])
    (run.path / "measures" / "train_loss.nc").write_bytes(b"no NetCDF")
    xr.testing.assert_identical(run.measure(["train_loss"]), expected)


def test_phases_are_read_from_the_whole_trajectory_whatever_steps_are_asked_for(run):
    marks = run.measure(["phases"], steps=run.steps[:1])["phases"]
    assert marks["mark"].to_numpy().tolist() == ["memorized", "circuit_onset", "cleanup_onset", "grokked"]
    xr.testing.assert_identical(marks, run.measure()["phases"])


def test_a_wrong_name_and_a_measure_that_does_not_apply_are_refused(run, tmp_path):
    with pytest.raises(RequestError, match="no measure is called 'test_los'; did you mean test_loss"):
        run.measure(["test_los"])
    with pytest.raises(RequestError, match="has no checkpoint at step 77; the nearest are at"):
        run.measure(CHEAP, steps=[77])
    text = train(preset("sanity", budget={"steps": 2}), out=tmp_path, **QUIET)
    assert isinstance(text.task, Text)
    assert "train_loss" in text.measure()
    for name in ("restricted_loss", "phases"):
        with pytest.raises(RequestError, match=f"{name} does not apply: "):
            text.measure([name])


def test_the_keys_of_a_trajectory_are_those_of_its_last_model(run):
    keys = trajectory.fixed_keys(run.model(), run.task)
    is_key = MEASURES["key_frequencies"](Subject(run.model(), run.task))
    assert keys == tuple(is_key["freq"].to_numpy()[is_key.to_numpy()].tolist())
    at_start = run.measure(["key_frequencies"])["key_frequencies"].sel(step=0)
    assert tuple(at_start["freq"].to_numpy()[at_start.to_numpy()].tolist()) == keys


def test_seeds_stand_side_by_side_and_steps_that_one_does_not_have_are_nan(tmp_path):
    runs = train_seeds(tiny(), seeds=[3, 4], out=tmp_path, **QUIET)
    runs[1].directory.write_checkpoint(50, runs[1].weights(), {})
    found = measure_seeds(runs, CHEAP)
    assert found["seed"].to_numpy().tolist() == [3, 4]
    assert found["step"].to_numpy().tolist() == [*runs[0].steps, 50]
    assert np.isnan(found["train_loss"].sel(seed=3, step=50))
    np.testing.assert_array_equal(found["train_loss"].sel(seed=4), runs[1].measure(CHEAP)["train_loss"])
    with pytest.raises(
        RequestError, match=r"given runs of seeds \[3, 3\]; allowed: one or more, each of another seed"
    ):
        measure_seeds([runs[0], runs[0]])


def test_measures_of_an_adder_are_kept_and_rest_on_its_fixed_questions():
    task = Addition(n_digits=20, val_questions=5, test_questions=5)
    assert split_digest(task) == split_digest(task.model_copy())
    assert split_digest(task) != split_digest(task.with_seed(1))
    assert split_digest(task) != split_digest(task.model_copy(update={"test_questions": 6}))


def test_an_adder_is_measured_without_names(tmp_path, taken):
    config = preset("add-10d-4k", name="adder", budget={"steps": 4}, model={"d_model": 8, "d_mlp": 8})
    config = config.model_copy(update={"task": Addition(n_digits=2, val_questions=20, test_questions=20)})
    run = train(config, out=tmp_path, **QUIET)
    found = run.measure()
    assert {"test_loss", "attention_roles", "logit_lens", "logit_attribution"} <= set(found)
    assert "probe_accuracy" not in found
    asked = len(taken)
    xr.testing.assert_identical(run.measure(), found)
    assert len(taken) == asked


def test_what_is_kept_is_given_without_taking_any(run, taken):
    assert run.kept(CHEAP) == {}
    steps = run.steps[-2:]
    whole = run.measure(["train_loss"], steps=steps)["train_loss"]
    taken.clear()
    found = run.kept(CHEAP)
    assert list(found) == ["train_loss"]
    xr.testing.assert_equal(found["train_loss"], whole)
    assert taken == []


def test_what_is_kept_of_other_weights_is_not_given(run):
    run.measure(["train_loss"], steps=run.steps[-1:])
    kept = run.directory.read_measure("train_loss")
    assert kept is not None
    altered = kept.assign_coords(checkpoint=("step", ["0" * 64]))
    run.directory.write_measure("train_loss", bytes(altered.to_dataset().to_netcdf(engine="h5netcdf")))
    assert run.kept(["train_loss"]) == {}
