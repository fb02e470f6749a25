"""A small adder, shipped: what comes along, and what its card says."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from chaos.small_runs import small_config, train_small

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rounds import with_adamw
from ship import card, ship

import interp_arith as ia
from interp_arith.errors import RequestError
from interp_arith.models.positions import Learned
from interp_arith.presets import preset
from interp_arith.tasks.addition import Addition
from interp_arith.training.optimizers import AdamW


@pytest.fixture
def adder(tmp_path):
    task = Addition(n_digits=3, val_questions=4, test_questions=50)
    (run,) = train_small(small_config(task=task), tmp_path / "runs")
    run = ia.load_run(run.path)
    ia.evaluate(run)
    ia.evaluate(run, protocol="complexity")
    return run


def test_a_shipped_adder_answers_and_keeps_its_evaluations_but_no_state(adder, tmp_path):
    shipped = ship(adder, tmp_path / "shipped", 8)
    assert shipped.steps[0] == adder.steps[0]
    assert shipped.steps[-1] == adder.steps[-1]
    assert shipped.add(12, 34) == adder.add(12, 34)
    assert not (shipped.path / "state").exists()
    kept, copied = (sorted(f.name for f in (r.path / "evaluations").iterdir()) for r in (adder, shipped))
    assert copied == kept
    assert f"complexity-step-{adder.steps[-1]}.json" in copied


def test_a_second_pass_names_the_run_that_it_starts_from_and_not_its_place(adder, tmp_path):
    config = adder.config.replace(name="second", init_from=str(adder.path))
    run = ia.train(config, out=tmp_path / "runs", device="cpu", progress=False)
    ia.evaluate(run, protocol="complexity")
    shipped = ship(run, tmp_path / "shipped", 8)
    assert shipped.config == config.replace(init_from=adder.name)
    assert f"from the weights of `{adder.name}`" in card(shipped)


def test_an_adders_card_says_what_its_evaluations_say(adder, tmp_path):
    shipped = ship(adder, tmp_path / "shipped", 8)
    file = shipped.path / "evaluations" / f"complexity-step-{adder.steps[-1]}.json"
    text = card(shipped)
    for row in json.loads(file.read_text())["table"]:
        assert f"| complexity, {row['set']} | {row['right']:,} of {row['questions']:,} right" in text
    assert shipped.checkpoint("last").sha256 in text
    assert "is written `023+045=`" in text
    assert "parameters, positions learned; the config" in text


def test_an_adders_card_says_on_which_circle_its_positions_start(adder):
    model = adder.config.model.model_copy(update={"positions": Learned(period=4)})
    run = ia.train(adder.config.replace(name="circle", model=model), out=adder.path.parent, progress=False)
    ia.evaluate(run, protocol="complexity")
    assert "positions learned (period 4)" in card(run)


def write_protocol(run: ia.Run, name: str, rows: list[tuple[str, int, int]]) -> None:
    """An evaluation of the last step by hand: set, questions, wrong."""
    table = [{"set": s, "questions": n, "right": n - w, "wrong": w} for s, n, w in rows]
    file = run.path / "evaluations" / f"{name}-step-{run.steps[-1]}.json"
    file.write_text(json.dumps({"step": run.steps[-1], "parameters": 1, "table": table}))


def test_an_adders_card_counts_errors_by_class_and_over_all_cascades(adder, tmp_path):
    write_protocol(
        adder, "ten-digit", [("ten_digit", 10_010, 0), ("cascade_1", 1000, 2), ("cascade_2", 1000, 3)]
    )
    write_protocol(adder, "million", [("S1", 646_782, 757), ("all", 1_000_000, 757)])
    shipped = ship(adder, tmp_path / "shipped", 8)
    rows = [line for line in card(shipped).splitlines() if line.startswith(("| ten-digit", "| million"))]
    assert rows == [
        "| ten-digit, edge and random pairs | 10,010 of 10,010 right |",
        "| ten-digit, cascade 1 | 998 of 1,000 right, 2 wrong |",
        "| ten-digit, cascade 2 | 997 of 1,000 right, 3 wrong |",
        "| ten-digit, all cascades | 1,995 of 2,000 right, 5 wrong |",
        "| million, S1 | 646,025 of 646,782 right, 757 wrong |",
        "| million, all | 999,243 of 1,000,000 right, 757 wrong |",
    ]


def test_an_adder_without_evaluations_is_not_shipped(adder, tmp_path):
    shutil.rmtree(adder.path / "evaluations")
    with pytest.raises(RequestError, match="has no evaluation of its last step, 24, for the card to tell"):
        ship(adder, tmp_path / "shipped", 8)


def test_shipping_deletes_nothing_but_what_was_shipped_before(adder, tmp_path):
    ship(adder, tmp_path / "checkpoints" / "adder", 8)
    ship(adder, tmp_path / "checkpoints" / "adder", 8)
    with pytest.raises(RequestError, match="checkpoints is there and no run"):
        ship(adder, tmp_path / "checkpoints", 8)
    with pytest.raises(RequestError, match="is the run itself"):
        ship(adder, adder.path, 8)
    assert ia.load_run(adder.path).add(1, 2) == ia.load_run(tmp_path / "checkpoints" / "adder").add(1, 2)


def test_the_benchmark_gives_every_competitor_adamw():
    assert with_adamw(preset("add-10d-763")).optimizer == AdamW()
    canonical = preset("mod-add-113-canonical")
    assert with_adamw(canonical) is canonical
