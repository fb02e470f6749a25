"""What measures cost: every part is told once, and all are there."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import measures as costs

from interp_arith.interp.measures import MEASURES
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import ModularArithmetic


def inner(subject):
    begun = time.perf_counter()
    while time.perf_counter() < begun + 0.02:
        pass
    return 3


def outer(subject):
    return subject.get(inner) + subject.get(inner)


def test_a_part_is_timed_once_and_without_the_parts_that_it_asks_for():
    task = ModularArithmetic(p=5)
    subject = costs.TimedSubject(build_model(ModelConfig(d_model=8, n_heads=1, d_mlp=4), task), task, ())
    assert subject.timed("measure", lambda: subject.get(outer)) == 6
    told = dict(subject.seconds)
    assert told["· inner"] >= 0.02
    assert max(told["· outer"], told["measure"]) < told["· inner"]
    assert set(told) == {"· inner", "· outer", "measure"}


def test_every_measure_that_is_not_dear_is_timed_and_totals_are_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["measures.py", "--p", "11", "--checkpoints", "1", "2"])
    costs.main()
    told = capsys.readouterr().out
    chosen = MEASURES.chosen(None, ModularArithmetic(p=11), ModelConfig())
    assert f"{len(chosen)} measures" in told
    assert "key frequencies [4]" in told
    assert "1 checkpoints: " in told
    assert "2 checkpoints: " in told
    assert "peak memory: " in told


def test_random_weights_differ():
    model = build_model(ModelConfig(d_model=8, n_heads=1, d_mlp=4), ModularArithmetic(p=7))
    weights = costs.random_weights(model)
    first, second = (next(weights)["embed.W_E"] for _ in range(2))
    assert not (first == second).any()
