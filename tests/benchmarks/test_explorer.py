"""What the explorer's benchmark says of what it measured."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import explorer

MODULAR, ADDER = explorer.RUNS


def test_medians_and_longest_moves_stand_by_page_and_run():
    found = {
        "first page": [5.0, 4.0, 4.5],
        "moves": {MODULAR: {"training": [0.1, 0.3, 0.2]}, ADDER: {"training": [1.0], "carries": [2.0, 4.0]}},
        "sessions": {
            "sessions": 10,
            "moves": 70,
            "failed": 1,
            "megabytes before": 100.0,
            "megabytes at most": 130.4,
        },
    }
    said, table = explorer.lines(found)[:2], explorer.lines(found)[-4:]
    assert said[0].startswith(
        "The first figure is there 4.50 s (5.00) after the command. 10 sessions made 70 moves, 1 failed"
    )
    assert "the server grew by 30 MB" in " ".join(said)
    assert table == [
        f"| a move of the slider | `{MODULAR}` | `{ADDER}` |",
        "| --- | ---: | ---: |",
        "| Training | 0.20 s (0.30) | 1.00 s (1.00) |",
        "| Carries | – | 3.00 s (4.00) |",
    ]
