"""The tables of adders, by evaluations written by hand."""

import json
import sys
from pathlib import Path

import pytest
from chaos.small_runs import small_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from adders import scores_of, seed_row, summary_row

from interp_arith.files import dump_yaml
from interp_arith.run import Run


def run_with(folder: Path, right: int, wrong_of_million: int, protocols=("ten-digit", "million")) -> Run:
    """A run of one checkpoint, at step 5, that answered so many of 10,010, and missed so many S2 in a million."""
    (folder / "evaluations").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(small_config().plain()))
    (folder / "run.json").write_text(json.dumps({"format": 1, "training_seconds": 61.4}))
    checkpoint = {"step": 5, "file": "weights/step-5.safetensors", "sha256": "0", "metrics": {}}
    (folder / "checkpoints.jsonl").write_text(json.dumps(checkpoint) + "\n")
    rows = {
        "ten-digit": [
            ("random_pairs", 10_000, 10_000 - right + 10),
            ("ten_digit", 10_010, 10_010 - right),
            ("cascade_1", 1000, 3),
            ("cascade_9", 1000, 4),
        ],
        "million": [("S2", 400_000, wrong_of_million), ("all", 1_000_000, wrong_of_million)],
    }
    for name in protocols:
        lines = [{"set": s, "questions": n, "right": n - w, "wrong": w} for s, n, w in rows[name]]
        text = json.dumps({"step": 5, "parameters": 763, "table": lines})
        (folder / "evaluations" / f"{name}-step-5.json").write_text(text)
    return Run(folder)


def test_a_row_of_a_seed_says_what_each_protocol_found(tmp_path):
    scores = scores_of(run_with(tmp_path / "a-s0", 10_004, 21))
    assert scores is not None
    assert seed_row(scores) == [
        "`a-s0`",
        "5",
        "61",
        "10,004",
        "7 of 2,000",
        "21",
        "–",
        "–",
        "21 of 400,000",
        "–",
        "–",
        "–",
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "is_good"),
    [(10_000, 1000, True), (9_999, 0, False), (10_010, 1001, False)],
)
def test_good_is_99_9_percent_of_both_protocols(right, wrong, is_good, tmp_path):
    scores = scores_of(run_with(tmp_path / "a-s0", right, wrong))
    assert scores is not None
    assert scores.is_good == is_good


def test_a_run_that_was_not_asked_both_has_no_row(tmp_path):
    assert scores_of(run_with(tmp_path / "a-s0", 10_010, 0, protocols=["million"])) is None


def test_a_row_of_a_preset_counts_its_seeds(tmp_path):
    found = [
        scores_of(run_with(tmp_path / f"a-s{i}", right, wrong))
        for i, (right, wrong) in enumerate([(10_010, 0), (10_010, 12), (3, 900_000)])
    ]
    assert summary_row("a", [each for each in found if each is not None]) == [
        "`a`",
        "763",
        "3",
        "2 of 3",
        "1 of 3",
        "12 (0–900,000)",
        "61 (61–61)",
    ]
