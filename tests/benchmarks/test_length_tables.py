"""The tables of length generalization, by length grids written by hand."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from lengths import curves, grids_of, positions_of, scheme_rows, trajectory_rows

from interp_arith.models import Abacus, ModelConfig, SegmentDigit


def run_with(folder: Path, grids: dict[str, dict[int, float]], **fields) -> SimpleNamespace:
    """What the tables read of a run of two checkpoints, at steps 5 and 10."""
    (folder / "evaluations").mkdir(parents=True)
    for name, by_length in grids.items():
        rows = [{"set": f"length_{n}", "exact_match": share} for n, share in by_length.items()]
        (folder / "evaluations" / f"length-grid{name}.json").write_text(json.dumps({"table": rows}))
    seed = int(folder.name.rpartition("-s")[2])
    config = SimpleNamespace(name="positions", seed=seed, model=ModelConfig(**fields))
    return SimpleNamespace(path=folder, name=folder.name, steps=[5, 10], config=config)


@pytest.fixture
def runs(tmp_path) -> list[SimpleNamespace]:
    return [
        run_with(
            tmp_path / f"a-s{seed}",
            {
                "-step-10": {10: 1.0, 20: 0.5 + seed / 5},
                "-sharpened-1.5-step-10": {10: 1.0, 20: 0.98 + seed / 100},
                "-sharpened-1.5-200-each-step-5": {15: 0.9, 20: 0.7},
                "-sharpened-1.5-200-each-step-10": {15: 0.8, 20: 0.75},
            },
        )
        for seed in (0, 1)
    ]


def test_files_say_how_much_attention_was_sharpened_and_how_many_were_asked(runs):
    (first, *_) = [g for g in grids_of(runs[0]) if g.step == 5]
    assert (first.sharpen, first.is_sample, first.at(15), first.at(30)) == (1.5, True, 0.9, 0.0)
    assert len(grids_of(runs[0])) == 4


def test_a_scheme_has_the_mean_over_seeds_and_how_many_reach_the_goal(runs):
    plain, sharpened = scheme_rows({"2-D": runs})
    #        seeds  10 …                20               reach the goal
    assert plain[:3] == ["2-D", "2", "100"]
    assert plain[6] == "60"
    assert plain[-1] == "0 of 2"
    assert sharpened[0] == "2-D, sharpened 1.5 ×"
    assert sharpened[6] == "98.5"
    assert sharpened[-1] == "1 of 2"


def test_a_trajectory_has_its_best_step_and_its_last(runs):
    row = trajectory_rows(runs, 1.5)[1]
    assert row[0] == "`a-s1`"
    assert row[2] == "90 (5), 80"
    assert row[3] == "75 (10), 75"


def test_curves_have_every_seed_of_the_last_step_alone(runs):
    found = curves(runs)
    assert list(found) == ["as it is", "attention sharpened 1.5 ×"]
    table = found["as it is"].pivot(index="length", columns="seed", values="exact_match")
    assert table.loc[20].tolist() == [0.5, 0.7]


def test_schemes_are_told_by_their_gaps(tmp_path):
    gaps = [SegmentDigit(gap=5), SegmentDigit(), Abacus(gap=1)]
    runs = [run_with(tmp_path / f"b-s{i}", {}, positions=scheme) for i, scheme in enumerate(gaps)]
    assert [positions_of(run) for run in runs] == ["2-D", "2-D, without gaps", "Abacus"]
