"""When a goal was reached, by runs whose metrics are written by hand."""

import json
import sys
from pathlib import Path

import pytest
from chaos.small_runs import small_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from readme import replace_rows
from results import reaching

from interp_arith.files import dump_yaml
from interp_arith.runs import Run


def run_with(folder: Path, metric: str, values: list[float]) -> Run:
    """A run whose metric has these values at steps 0, 5, 10 …; between them it is not evaluated."""
    (folder / "config.yaml").write_text(dump_yaml(small_config().plain()))
    lines = [{"step": 5 * i, metric: value} for i, value in enumerate(values)]
    between = [{"step": 5 * i + 1, "batch_loss": 1.0} for i in range(len(values))]
    records = sorted([*lines, *between], key=lambda record: record["step"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return Run(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.9, 1.0, 1.0], (10, 10)),
        ([0.1, 1.0, 0.9, 1.0], (5, 15)),
        ([0.1, 1.0, 1.0, 0.9], (5, None)),
        ([0.1, 0.2, 0.3, 0.9], (None, None)),
        ([0.999, 0.999, 0.999, 0.999], (0, 0)),
    ],
)
def test_an_accuracy_is_reached_first_and_for_good(values, expected, tmp_path):
    run = run_with(tmp_path, "test_accuracy", values)
    assert reaching(run, "test_accuracy", 0.999) == expected
    assert reaching(run, "val_accuracy", 0.999) == (None, None)


def test_a_loss_is_reached_from_above(tmp_path):
    run = run_with(tmp_path, "train_loss", [2.0, 1e-4, 5e-4, 9e-5])
    assert reaching(run, "train_loss", 1e-4) == (5, 15)


def test_a_table_keeps_the_rows_that_are_not_written_anew(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "a\n<!-- t: begin -->\n| old |\n|---|\n| `x` | 1 |\n| `z` | 2 |\n<!-- t: end -->\nb `y`\n"
    )
    replace_rows(readme, "t", ["| new |", "|---|", "| `z` | 3 |", "| `y` | 4 |"], ["x", "y", "z"])
    assert readme.read_text() == (
        "a\n<!-- t: begin -->\n| new |\n|---|\n| `x` | 1 |\n| `y` | 4 |\n| `z` | 3 |\n<!-- t: end -->\nb `y`\n"
    )
