"""A small adder, shipped: what comes along, and what its card says."""

import json
import sys
from pathlib import Path

import pytest
from chaos.small_runs import small_config, train_small

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from ship import card, ship
from speed import with_adamw

import interp_arith as ia
from interp_arith.presets import preset
from interp_arith.tasks.addition import Addition
from interp_arith.training.optimizers import AdamW


@pytest.fixture
def adder(tmp_path):
    task = Addition(n_digits=3, val_questions=4, test_questions=50)
    (run,) = train_small(small_config(task=task), tmp_path / "runs")
    run = ia.load_run(run.path)
    ia.evaluate(run, protocol="complexity")
    return run


def test_a_shipped_adder_answers_and_keeps_its_evaluations_but_no_state(adder, tmp_path):
    shipped = ship(adder, tmp_path / "shipped", 8)
    assert shipped.steps[0] == adder.steps[0]
    assert shipped.steps[-1] == adder.steps[-1]
    assert shipped.add(12, 34) == adder.add(12, 34)
    assert not (shipped.path / "state").exists()
    assert [f.name for f in (shipped.path / "evaluations").iterdir()] == [
        f"complexity-step-{adder.steps[-1]}.json"
    ]


def test_a_second_pass_names_the_run_that_it_starts_from_and_not_its_place(adder, tmp_path):
    config = adder.config.replace(name="second", init_from=str(adder.path))
    run = ia.train(config, out=tmp_path / "runs", device="cpu", progress=False)
    shipped = ship(run, tmp_path / "shipped", 8)
    assert shipped.config == config.replace(init_from=adder.name)


def test_an_adders_card_says_what_its_evaluations_say(adder, tmp_path):
    shipped = ship(adder, tmp_path / "shipped", 8)
    file = shipped.path / "evaluations" / f"complexity-step-{adder.steps[-1]}.json"
    text = card(shipped)
    for row in json.loads(file.read_text())["table"]:
        assert f"| complexity, {row['set']} | {row['right']:,} of {row['questions']:,} right |" in text
    assert shipped.checkpoint("last").sha256 in text
    assert "is written `023+045=`" in text


def test_the_benchmark_gives_every_competitor_adamw():
    assert with_adamw(preset("add-10d-763")).optimizer == AdamW()
    canonical = preset("mod-add-113-canonical")
    assert with_adamw(canonical) is canonical
