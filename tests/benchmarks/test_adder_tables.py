"""The tables of adders, by evaluations written by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from chaos.small_runs import small_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from adders import class_row, scores_in, scores_of, seed_row, summary_row, write_tables

from interp_arith.errors import RequestError
from interp_arith.files import dump_yaml
from interp_arith.run import Run
from interp_arith.tasks.addition import Addition


def run_with(
    folder: Path,
    right: int,
    wrong_of_million: int,
    protocols=("ten-digit", "million"),
    status="finished",
    asked=10**6,
    **task,
) -> Run:
    """A run of one checkpoint, at step 5, that answered so many of 10,010, and missed so many S2 in a million."""
    (folder / "evaluations").mkdir(parents=True)
    name, _, seed = folder.name.rpartition("-s")
    config = small_config(
        name=name,
        seed=int(seed),
        task=Addition(**{"n_digits": 10, "val_questions": 4, "test_questions": 4} | task),
    )
    (folder / "config.yaml").write_text(dump_yaml(config.plain()))
    (folder / "run.json").write_text(json.dumps({"format": 1, "status": status, "training_seconds": 61.4}))
    checkpoint = {"step": 5, "file": "weights/step-5.safetensors", "sha256": "0", "metrics": {}}
    (folder / "checkpoints.jsonl").write_text(json.dumps(checkpoint) + "\n")
    rows = {
        "ten-digit": [
            ("random_pairs", 10_000, 10_000 - right + 10),
            ("ten_digit", 10_010, 10_010 - right),
            ("cascade_1", 1000, 3),
            ("cascade_9", 1000, 4),
        ],
        "million": [("S2", 400_000, wrong_of_million), ("all", asked, wrong_of_million)],
        "complexity": [("S0", 1000, 1), ("S5", 1000, 15)],
    }
    for name in protocols:
        lines = [
            {"set": s, "questions": n, "right": n - w, "wrong": w, "exact_match": (n - w) / n}
            for s, n, w in rows[name]
        ]
        text = json.dumps({"step": 5, "parameters": 763, "table": lines})
        (folder / "evaluations" / f"{name}-step-5.json").write_text(text)
    return Run(folder)


def test_a_row_of_a_seed_says_what_each_protocol_found(tmp_path):
    scores = scores_of(run_with(tmp_path / "a-s0", 10_004, 21))
    assert seed_row(scores) == [
        "`a-s0`",
        "5",
        "61",
        "10,004",
        "7 of 2,000",
        "21",
        "S2: 21 of 400,000",
    ]
    assert seed_row(scores_of(run_with(tmp_path / "b-s0", 10_010, 0)))[-1] == "none"


def test_differences_are_asked_the_million_alone(tmp_path):
    run = run_with(tmp_path / "a-s0", 0, 3, protocols=["million"], operation="subtract")
    scores = scores_of(run)
    assert seed_row(scores)[3:] == ["–", "–", "3", "S2: 3 of 400,000"]
    assert scores.is_good
    short = run_with(tmp_path / "b-s0", 0, 3, protocols=["million"], n_digits=5)
    assert scores_of(short).ten_digit is None


def test_a_row_by_class_is_the_mean_of_the_seeds_that_were_asked(tmp_path):
    found = [
        scores_of(run_with(tmp_path / f"a-s{i}", 10_010, 0, protocols=["ten-digit", "million", "complexity"]))
        for i in range(2)
    ]
    halves = replace(found[0], exact_match={"S0": 0.5, "S5": None})
    assert class_row("a", [found[0], halves])[:4] == ["`a`", "2", "74.95", "–"]
    assert class_row("a", [found[0], halves])[7] == "98.5"  # of S5 one seed was asked none


@pytest.mark.parametrize(
    ("right", "wrong", "is_good"),
    [(10_000, 1000, True), (9_999, 0, False), (10_010, 1001, False)],
)
def test_good_is_99_9_percent_of_both_protocols(right, wrong, is_good, tmp_path):
    scores = scores_of(run_with(tmp_path / "a-s0", right, wrong))
    assert scores.is_good == is_good


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"protocols": ["million"]},
            "a-s0 was not asked ten-digit at its last step, 5: `interp-arith evaluate .*`",
        ),
        ({"status": "failed"}, "a-s0 is failed, not finished"),
        ({"asked": 500_000}, "a-s0 was asked 500,000 questions by million; the table is of 1,000,000"),
    ],
)
def test_a_run_that_cannot_be_counted_says_why(fields, reason, tmp_path):
    with pytest.raises(RequestError, match=reason):
        scores_of(run_with(tmp_path / "a-s0", 10_010, 0, **fields))


def test_a_row_of_a_preset_counts_its_seeds(tmp_path):
    found = [
        scores_of(run_with(tmp_path / f"a-s{i}", right, wrong))
        for i, (right, wrong) in enumerate([(10_010, 0), (10_010, 12), (3, 900_000)])
    ]
    assert summary_row("a", found) == [
        "`a`",
        "763",
        "3",
        "2",
        "1",
        "1",
        "12 (0–900,000)",
        "61 (61–61)",
    ]


def test_the_median_of_an_even_number_of_seeds_may_end_in_a_half(tmp_path):
    found = [scores_of(run_with(tmp_path / f"a-s{i}", 10_010, i)) for i in range(2)]
    assert summary_row("a", found)[6] == "0.5 (0–1)"


def test_the_tables_replace_a_preset_with_all_its_seeds_and_keep_the_others(tmp_path, capsys):
    for seed, wrong in ((2, 5), (10, 7), (123, 0)):
        run_with(tmp_path / "runs" / f"add-10d-763-s{seed}", 10_010, wrong)
    run_with(tmp_path / "runs" / "add-10d-763-s3", 10_010, 0, status="interrupted")
    run_with(tmp_path / "runs" / "add-10d-4k-s0", 10_010, 0, protocols=["million"])
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- adders: begin -->\n| h |\n|---|\n| `add-10d-4k` | old |\n| `add-10d-763` | old |\n"
        "<!-- adders: end -->\n"
        "<!-- adder-seeds: begin -->\n| h |\n|---|\n| `add-10d-763-s4` | old |\n| `add-10d-763-long-s0` | old |\n"
        "<!-- adder-seeds: end -->\n"
        "<!-- adder-classes: begin -->\n| h |\n|---|\n| `add-10d-4k` | old |\n<!-- adder-classes: end -->\n"
    )
    write_tables(readme, scores_in(tmp_path / "runs"))
    rows = [line for line in readme.read_text().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [
        "add-10d-763",
        "add-10d-4k",
        "add-10d-763-s2",
        "add-10d-763-s10",
        "add-10d-763-s123",
        "add-10d-763-long-s0",
        "add-10d-4k",
    ]
    assert rows[0] == "| `add-10d-763` | 763 | 3 | 3 | 3 | 1 | 5 (0–7) | 61 (61–61) |"
    assert rows[1] == "| `add-10d-4k` | old |"
    assert "left out: add-10d-763-s3 is interrupted, not finished" in capsys.readouterr().err
