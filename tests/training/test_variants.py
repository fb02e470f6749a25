"""Variants in one stack: each follows itself alone, and what cannot be stacked is refused."""

import warnings

import pytest
import torch
from chaos.small_runs import small_config

from interp_arith.errors import RequestError, WorkError
from interp_arith.runs import train_configs
from interp_arith.tasks import ModularArithmetic
from interp_arith.training import step
from interp_arith.training.optimizers import OPTIMIZERS


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def quiet(configs, out, **options):
    return train_configs(configs, out, "cpu", progress=False, **options)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_variants_of_every_rate_follow_themselves_alone(kind, tmp_path):
    base = small_config(optimizer={"kind": kind}, schedule={"kind": "constant"})
    configs = [
        base.replace(name=f"{rate.replace('_', '-')}-{scale}", optimizer={rate: scale * value})
        for rate, value in base.optimizer.rates().items()
        for scale in (1, 3)
    ]
    together = quiet(configs, tmp_path / "together")
    losses = set()
    for config, run in zip(configs, together, strict=True):
        (alone,) = quiet([config], tmp_path / "alone")
        assert run.metrics["train_loss"].dropna().tolist() == pytest.approx(
            alone.metrics["train_loss"].dropna().tolist(), rel=1e-6
        )
        assert run.metrics["learning_rate"].iloc[-1] == pytest.approx(config.optimizer.learning_rate)
        losses.add(round(run.metrics["train_loss"].dropna().iloc[-1], 6))
    assert len(losses) == 1 + len(base.optimizer.RATES)  # each rate matters, and scale 1 is the same run


def test_variants_of_the_train_share_follow_themselves_alone(tmp_path):
    configs = [
        small_config(name=f"share-{share}", batch_size=None).replace(
            task=ModularArithmetic(p=7, train_fraction=share)
        )
        for share in (0.3, 0.5, 0.7)
    ]
    together = quiet(configs, tmp_path / "together")
    for config, run in zip(configs, together, strict=True):
        (alone,) = quiet([config], tmp_path / "alone")
        assert list(run.metrics) == list(alone.metrics)
        for name in ("train_loss", "test_loss", "train_accuracy", "test_exact_match", "batch_loss"):
            assert run.metrics[name].dropna().tolist() == pytest.approx(
                alone.metrics[name].dropna().tolist(), rel=1e-6
            ), name


def test_what_cannot_be_stacked_is_refused_before_anything_is_written(tmp_path):
    configs = [small_config(name="one"), small_config(name="two", model={"d_mlp": 8})]
    with pytest.raises(RequestError, match=r"cannot train in one stack.*learning_rate"):
        quiet(configs, tmp_path)
    with pytest.raises(RequestError, match="the same run; give each its own name or seed"):
        quiet([small_config(), small_config()], tmp_path)
    with pytest.raises(RequestError, match="no config is given"):
        quiet([], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_share_is_not_free_where_it_says_how_many_steps_there_are():
    few, many = (
        small_config(task=ModularArithmetic(p=7, train_fraction=share), budget={"steps": None, "epochs": 2})
        for share in (0.3, 0.6)
    )
    assert few.stack_key() != many.stack_key()
    assert few.stack_key() == few.with_seed(5).replace(name="other").stack_key()


def test_a_share_that_leaves_nothing_to_test_is_a_stack_of_its_own():
    half, whole = (small_config(task=ModularArithmetic(p=7, train_fraction=share)) for share in (0.5, 1.0))
    assert half.stack_key() != whole.stack_key()
    assert half.stack_key() == half.replace(task={"train_fraction": 0.7}).stack_key()


class TestMemory:
    @pytest.fixture
    def small_memory(self, monkeypatch):
        """A step of more than two seeds does not fit."""
        original = step.update

        def update(config, parameters, *rest, **options):
            if len(next(iter(parameters.values()))) > 2:
                raise torch.OutOfMemoryError("no room")
            return original(config, parameters, *rest, **options)

        monkeypatch.setattr(step, "update", update)

    def test_too_many_for_the_memory_train_half_by_half_to_the_same_end(
        self, small_memory, tmp_path, monkeypatch
    ):
        configs = [small_config().with_seed(seed) for seed in range(5)]
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            runs = quiet(configs, tmp_path / "halves")
        assert [str(w.message) for w in told if "memory" in str(w.message)] == [
            "5 runs do not fit into memory together; 3 train first, then the rest",
            "3 runs do not fit into memory together; 2 train first, then the rest",
        ]
        assert [run.config.seed for run in runs] == [0, 1, 2, 3, 4]
        for run in runs:
            (alone,) = quiet([run.config], tmp_path / "alone")
            assert run.status == "finished"
            last, last_alone = run.weights(), alone.weights()
            assert all(torch.equal(last[name], last_alone[name]) for name in last)

    def test_one_that_does_not_fit_by_itself_fails_in_one_line(self, tmp_path, monkeypatch):
        def update(*_, **__):
            raise torch.OutOfMemoryError("no room")

        monkeypatch.setattr(step, "update", update)
        with pytest.raises(WorkError, match="does not fit into memory by itself; give a batch_size"):
            quiet([small_config()], tmp_path)
