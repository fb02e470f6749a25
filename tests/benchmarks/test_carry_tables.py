"""The tables of carries, from measures written by hand."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from carries import circuit_row, class_row, mark_rows, with_interval

STEPS = [0, 10, 100]


class KnownRun:
    """A run whose measures are known."""

    def __init__(self, **measures: xr.DataArray) -> None:
        self.measures, self.steps = measures, STEPS

    def kept(self, names):
        return {name: self.measures[name] for name in names if name in self.measures}

    def measure(self, names, steps, device):
        return xr.Dataset({name: self.measures[name].sel(step=steps) for name in names})


def over(values, **coords) -> xr.DataArray:
    return xr.DataArray(np.array(values, dtype=float), coords={"step": STEPS, **coords})


def carries(read, along, whole) -> KnownRun:
    hook, column = {"hook": ["here"]}, {"column": [1]}
    used = np.stack([along, whole], axis=-1)[:, None, None]
    return KnownRun(
        carry_decodable=over(np.array(read)[:, None, None], **column, **hook),
        carry_used=over(used, **column, **hook, way=["direction", "whole"]),
    )


def test_marks_are_means_over_seeds_and_of_those_that_got_there():
    runs = [
        carries([0.5, 0.95, 1.0], [0, 0, 0], [0, 0.2, 0.8]),
        carries([0.5, 0.60, 0.8], [0, 0, 1], [0, 0.0, 1.0]),
    ]
    (row,) = mark_rows("add-5d-msb", runs)
    assert row[:2] == ["`add-5d-msb: 1`", "2"]
    assert row[2] == "10 (1 of 2)"
    assert row[3] == "100 [100, 100]"
    assert row[4].startswith("0.90 [0.80, 1.00]")
    assert row[5].startswith("0.50 [0.00, 1.00]")


def test_a_class_is_learnt_from_the_step_on_from_which_it_stays():
    classes = {"complexity": [f"S{n}" for n in range(6)]}
    shares = [[0.0] * 6, [1.0, 1.0, 0.5, 0.5, 0.5, 0.5], [1.0, 0.5, 1.0, 1.0, 1.0, 0.9]]
    row = class_row(
        "add-5d-msb", [KnownRun(class_exact_match=over(shares, **classes), carry_used=over([0, 0, 0]))]
    )
    assert row == ["`add-5d-msb`", "1", "10", "not reached", "100", "100", "100", "not reached"]


def test_a_circuit_is_counted_by_digit_and_as_a_whole():
    place = {"block": [0], "part": ["H0", "MLP"], "pos": [0, 1, 2]}
    nodes = np.zeros((3, 2, 1, 2, 3))
    nodes[-1, 0, 0, 0, 1] = nodes[-1, 0, 0, 1, 1] = nodes[-1, 1, 0, 0, 1] = 1
    loss = np.where(nodes == 1, 0.25, np.nan)
    match = np.zeros((3, 2, 2))
    match[-1] = [[0.97, 0.1], [0.99, 0.05]]
    lost = np.zeros((3, 2, 1, 2, 3))
    lost[-1, 1, 0, :, 1] = 0.5
    complexity = {"complexity": ["S0", "S1"]}
    row = circuit_row(
        "mixed-6d",
        [
            KnownRun(
                circuit_nodes=over(nodes, answer=[0, 1], **place),
                circuit_node_loss=over(loss, answer=[0, 1], **place),
                circuit_exact_match=over(match, **complexity, circuit=["named", "random"]),
                ablation_effect=over(lost, **complexity, **place),
            ),
            SimpleNamespace(kept=lambda names: {}),
        ],
    )
    assert row == ["`mixed-6d`", "1", "1–2", "2", "2", "6", "0.970", "0.100", "0.250"]


def test_an_interval_needs_two_seeds():
    assert with_interval([1234.0]) == "1,234"
    assert with_interval([float("nan")]) == "not reached"
