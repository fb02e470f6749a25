"""run.activations: the numbers of run_with_cache, by step; large ones kept in the run, never those of others."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

from interp_arith import kept_activations
from interp_arith.errors import RequestError
from interp_arith.files import DamagedFileError, sha256
from interp_arith.interp import activations
from interp_arith.kept_activations import in_words
from interp_arith.presets import preset
from interp_arith.run import Run, load_run
from interp_arith.runs import train
from interp_arith.storage import RunDirectory

PATTERN, NEURONS = "blocks.0.attn.hook_pattern", "blocks.0.mlp.hook_post"
QUESTIONS = [f"{a}+{b}=" for a in range(11) for b in (3, 7)]
KEEP = {"in_memory": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    """Addition mod 11 for 8 steps: milliseconds a step."""
    small = preset(
        "mod-add-113",
        name="tiny",
        task={"p": 11, "train_fraction": 0.6},
        model={"d_model": 16, "n_heads": 2, "d_mlp": 24},
        budget={"steps": 8},
    )
    return train(small, out=tmp_path_factory.mktemp("runs"), device="cpu", progress=False)


@pytest.fixture
def run(trained, tmp_path) -> Run:
    shutil.copytree(trained.path, tmp_path / "tiny-s0")
    return Run(tmp_path / "tiny-s0")


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    """So small that these 22 questions take four batches: one fills 3,156 bytes."""
    monkeypatch.setattr(activations, "_AT_ONCE", 6 * 3_156)


@pytest.fixture
def taken(monkeypatch) -> list[tuple[str, ...]]:
    """The hooks of every pass over the questions that is really made from here on, one entry a step."""
    log: list[tuple[str, ...]] = []
    take = kept_activations.take

    def noted(model, tokens, into, batch):
        log.append(tuple(into))
        take(model, tokens, into, batch)

    monkeypatch.setattr(kept_activations, "take", noted)
    return log


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    xr.testing.assert_identical(found.load(), expected.load())


def test_every_number_is_that_of_run_with_cache(run):
    found = run.activations(QUESTIONS, "*")
    tokens = run.task.tokens(QUESTIONS)
    assert found["step"].to_numpy().tolist() == run.steps
    for step in run.steps:
        cache = run.model(step).run_with_cache(tokens)[1]
        assert set(cache) == set(found.data_vars)
        for hook, values in cache.items():
            np.testing.assert_allclose(found[hook].sel(step=step), values, rtol=1e-5, atol=1e-6)


def test_axes_are_named_and_say_what_stands_there(run):
    found = run.activations(["4+7=", "10+3="], [PATTERN, NEURONS], steps=[0, "last"])
    assert found[PATTERN].dims == ("step", "question", "head", "query", "key")
    assert found[NEURONS].dims == ("step", "question", "position", "neuron")
    assert found["token"].sel(question="10+3=").to_numpy().tolist() == ["10", "3", "="]
    assert found["query"].to_numpy().tolist() == [0, 1, 2]
    assert found["step"].to_numpy().tolist() == [0, 8]
    assert found.attrs == {"run": "tiny-s0", "seed": 0}
    assert str(run.path) not in repr(found) + found._repr_html_()


def test_a_request_is_read_up_to_its_question_or_its_answer():
    run = load_run("add-5d-msb-s1")
    short = run.activations(["12+34="], "blocks.*.hook_resid_post", steps="last")
    long = run.activations(["12+34="], "blocks.*.hook_resid_post", steps="last", upto="answer")
    assert "".join(long["token"].to_numpy()[0]) == "00012+00034=00004"  # 000046 less its last digit
    together = long.sel(position=short["position"])
    for hook in short.data_vars:
        np.testing.assert_allclose(together[hook], short[hook], rtol=1e-4, atol=1e-5)
    with pytest.raises(RequestError, match="no end of what is read is called 'anser'; did you mean answer"):
        run.activations(["12+34="], "hook_embed", upto="anser")  # pyright: ignore[reportArgumentType]


def test_what_is_read_from_the_run_is_what_is_held_in_memory(run):
    kept = run.activations(QUESTIONS, [PATTERN, NEURONS], **KEEP)
    assert not any(variable._in_memory for variable in (kept[PATTERN].variable, kept[NEURONS].variable))
    some = {"step": [8, 1], "question": ["5+7=", "0+3="]}
    held = run.activations(QUESTIONS, [PATTERN, NEURONS])
    assert held[NEURONS].variable._in_memory
    assert_same(kept.sel(some), held.sel(some))
    assert_same(pickle.loads(pickle.dumps(kept)), held)


def test_small_requests_leave_nothing_in_the_run(run):
    before = sorted(run.path.rglob("*"))
    run.activations(QUESTIONS, NEURONS)
    assert sorted(run.path.rglob("*")) == before


def test_a_known_request_is_not_taken_again(run, taken):
    run.activations(QUESTIONS, NEURONS, steps=[0, 8], **KEEP)
    assert taken == [(NEURONS,)] * 2
    run.activations(QUESTIONS, NEURONS, steps=[8], **KEEP)
    run.activations(run.task.parse(QUESTIONS), NEURONS, steps=["last", 0], **KEEP)
    assert taken == [(NEURONS,)] * 2


def test_new_steps_and_hooks_extend_what_is_kept_to_what_a_fresh_request_gives(run, trained, taken):
    run.activations(QUESTIONS, NEURONS, steps=[4], **KEEP)
    run.activations(QUESTIONS, [NEURONS, PATTERN], steps=[1, 4], **KEEP)
    assert taken == [(NEURONS,), (PATTERN, NEURONS), (PATTERN,)]
    found = run.activations(QUESTIONS, [NEURONS, PATTERN], **KEEP)
    assert taken[3:] == [(PATTERN, NEURONS)] * (len(run.steps) - 2)
    assert_same(found, trained.activations(QUESTIONS, [NEURONS, PATTERN]))


def test_other_questions_are_kept_apart(run):
    first = run.activations(QUESTIONS, NEURONS, **KEEP)
    second = run.activations(QUESTIONS[::-1], NEURONS, **KEEP)
    assert_same(second.sel(question=QUESTIONS), first)


def retrain(run: Run, step: int) -> None:
    """Other weights at a step, as if it had been trained anew."""
    directory, lines = RunDirectory(run.path), []
    for checkpoint in directory.checkpoints():
        file = run.path / checkpoint.file
        if checkpoint.step == step:
            save_file({name: 2 * x for name, x in load_file(file).items()}, file)
        digest = sha256(file.read_bytes())
        lines.append(json.dumps(dataclasses.asdict(checkpoint) | {"sha256": digest}) + "\n")
    (run.path / "checkpoints.jsonl").write_text("".join(lines))


def test_a_checkpoint_that_changed_has_its_new_numbers(run, taken):
    old = run.activations(QUESTIONS, NEURONS, **KEEP).load()
    retrain(run, 4)
    new = run.activations(QUESTIONS, NEURONS, **KEEP)
    assert len(taken) == len(run.steps) + 1
    assert_same(new, run.activations(QUESTIONS, NEURONS))
    changed = [step for step in run.steps if not new.sel(step=step).equals(old.sel(step=step))]
    assert changed == [4]


def test_a_damaged_checkpoint_is_named_and_not_served_from_what_is_kept(run):
    run.activations(QUESTIONS, NEURONS, **KEEP)
    file = run.path / run.checkpoint(4).file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match=r"step-00000004.* is damaged"):
        run.activations(QUESTIONS, NEURONS, steps=[4], **KEEP)
    with pytest.warns(UserWarning, match=r"is damaged.*; step 4 is left out"):
        found = run.activations(QUESTIONS, NEURONS, **KEEP)
    assert found["step"].to_numpy().tolist() == [step for step in run.steps if step != 4]


def test_a_damaged_array_is_taken_anew(run, taken):
    run.activations(QUESTIONS, NEURONS, steps=[0, 8], **KEEP)
    next((run.path / "activations").glob(f"*/{NEURONS}/c/1/*/0/0")).unlink()
    found = run.activations(QUESTIONS, NEURONS, steps=[0, 8], **KEEP)
    assert len(taken) == 3
    assert_same(found, run.activations(QUESTIONS, NEURONS, steps=[0, 8]))


KILLED = """
import os, signal, sys
from interp_arith import kept_activations, load_run
from interp_arith.arrays import OpenRow

writes, write = 0, OpenRow.__setitem__

def dying(self, places, values):
    global writes
    write(self, places, values)
    writes += 1
    if self.index == 2 and places.start > 0:
        os.kill(os.getpid(), signal.SIGKILL)

OpenRow.__setitem__ = dying
from interp_arith.interp import activations
activations._AT_ONCE = 6 * 3_156
load_run(sys.argv[1]).activations(sys.argv[2:], "blocks.0.mlp.hook_post", in_memory=0)
"""


def test_a_process_killed_while_it_writes_loses_the_step_that_it_was_at_and_no_other(run, taken):
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", KILLED, str(run.path), *QUESTIONS], env=here, check=False)
    assert done.returncode == -signal.SIGKILL
    found = run.activations(QUESTIONS, NEURONS, **KEEP)
    assert len(taken) == len(run.steps) - 2
    assert_same(found, run.activations(QUESTIONS, NEURONS))


def test_the_cache_of_a_step_is_that_of_run_with_cache(run):
    tokens = run.task.tokens(QUESTIONS)
    for found in (run.activations(QUESTIONS, "*"), run.activations(QUESTIONS, "*", **KEEP)):
        cache, expected = found.to_cache(4), run.model(4).run_with_cache(tokens)[1]
        assert type(cache) is type(expected)
        assert list(cache) == list(expected)
        for hook, values in expected.items():
            torch.testing.assert_close(cache[hook], values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(cache.stack_head_results(), expected.stack_head_results())


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"hooks": "blocks.*.atn.hook_pattern"},
            "no hook is called .*; did you mean blocks.0.attn.hook_pattern",
        ),
        ({"hooks": "blocks.0.attn.hook_result"}, "nothing passes at hook"),
        ({"hooks": []}, "hooks: none given"),
        ({"steps": [3]}, "has no checkpoint at step 3; the nearest are at 2, 4"),
        ({"steps": ["first"]}, "step 'first'; allowed: a whole number, 'last' or 'best'"),
        ({"steps": []}, "steps: none given"),
        ({"questions": ["4+x="]}, "question '4.x=' is not of the form"),
        ({"questions": ["4+70="]}, "numbers must be from 0 to 10"),
        ({"questions": []}, "questions: none given"),
    ],
)
def test_a_wrong_request_is_one_line(run, request_, message):
    with pytest.raises(RequestError, match=message) as raised:
        run.activations(**({"questions": QUESTIONS, "hooks": NEURONS} | request_))
    assert "\n" not in str(raised.value)
    assert not (run.path / "activations").exists()


def test_a_request_too_large_for_memory_says_its_size_and_how_to_stream_it(run, monkeypatch):
    monkeypatch.setattr(kept_activations, "_memory", lambda: 10_000)
    size = len(QUESTIONS) * len(run.steps) * 3 * 24 * 4
    said = (
        f"these activations are {in_words(size)} and the machine's memory is 10 kB; leave in_memory out: then"
    )
    with pytest.raises(RequestError, match=said):
        run.activations(QUESTIONS, NEURONS, in_memory=10**9)


def test_a_request_too_large_for_the_disk_says_its_size_and_how_to_go_through_it(run, monkeypatch):
    size = len(QUESTIONS) * len(run.steps) * 3 * 24 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, size - 1))
    with pytest.raises(
        RequestError, match=f"these activations take {in_words(size)} and .* for step in run.steps"
    ):
        run.activations(QUESTIONS, NEURONS, **KEEP)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (50_688, "50.7 kB"),
        (2.04e9, "2.04 GB"),
        (3e12, "3.0 TB"),
        (2**28, "268 MB"),
    ],
)
def test_bytes_are_told_in_words(size, words):
    assert in_words(size) == words
