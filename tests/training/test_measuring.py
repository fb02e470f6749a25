"""The validation grid: exact numbers for every length, of every seed as of that seed alone."""

import pytest
import torch
from chaos.small_runs import small_config, train_small
from oracles import random_weights

from interp_arith.errors import RequestError
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic
from interp_arith.tasks.lengths import val_examples
from interp_arith.tasks.scoring import cross_entropy
from interp_arith.tasks.sources import make_source
from interp_arith.training import ensemble
from interp_arith.training.measuring import make_measuring, measured_sets

SCORES = ("loss", "accuracy", "exact_match")
GRID = Addition(
    n_digits=5, val_step=2, val_max_digits=8, val_grid_questions=25, val_questions=9, test_questions=9
)
NARROW = {"d_model": 8, "n_heads": 2, "d_mlp": 12}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def config_of(task, positions="rotary", **fields):
    return small_config(task=task, model=NARROW | {"positions": {"kind": positions}}, **fields)


def measuring_of(*configs):
    sources = [make_source(c.task, c.batch_size, c.seed) for c in configs]
    return make_measuring(configs, sources, torch.device("cpu"))


def parameters_of(config):
    model = random_weights(build_model(config.model, config.task), seed=2)
    return {name: p.detach() for name, p in model.trained_parameters().items()}


@pytest.mark.parametrize("positions", ["rotary", "none", "segment-digit", "abacus", "coupled"])
def test_every_length_is_scored_as_by_the_hooked_model(positions):
    config = config_of(GRID, positions)
    parameters = parameters_of(config)
    found = measuring_of(config).scores(ensemble.stack([parameters]), 5)
    hooked_config = config.model.model_copy(update={"n_ctx": 26})
    hooked = build_model(hooked_config, GRID).eval()
    hooked.load_state_dict(parameters, strict=False)
    for name, length in (("2", 2), ("4", 4), ("6", 6), ("8", 8), ("current", 5)):
        examples = val_examples(GRID, length)
        with torch.no_grad():
            logits = hooked(examples.tokens)[:, -examples.targets.shape[-1] :]
        hits = logits.argmax(dim=-1) == examples.targets
        assert found[f"val_{name}_accuracy"].item() == pytest.approx(hits.double().mean().item(), abs=1e-12)
        assert found[f"val_{name}_exact_match"].item() == hits.all(dim=-1).double().mean().item()
        loss = cross_entropy(logits, examples.targets, examples.mask).item()
        assert found[f"val_{name}_loss"].item() == pytest.approx(loss, rel=1e-5)


def test_the_mean_is_over_the_grid_and_not_over_where_the_curriculum_is():
    config = config_of(GRID)
    found = measuring_of(config).scores(ensemble.stack([parameters_of(config)]), 3)
    for what in SCORES:
        each = [found[f"val_{length}_{what}"].item() for length in (2, 4, 6, 8)]
        assert found[f"grid_{what}"].item() == pytest.approx(sum(each) / 4, rel=1e-12)
    assert found["curriculum_digits"].tolist() == [3]
    assert "val_3_loss" not in found


def test_a_length_on_the_grid_is_the_current_one_too():
    config = config_of(GRID)
    found = measuring_of(config).scores(ensemble.stack([parameters_of(config)]), 4)
    assert all(torch.equal(found[f"val_current_{what}"], found[f"val_4_{what}"]) for what in SCORES)


def test_what_is_measured_has_the_names_that_are_said():
    for task in (GRID, Addition(n_digits=2), ModularArithmetic(p=7, train_fraction=0.5)):
        config = config_of(task)
        source = make_source(task, config.batch_size, config.seed)
        found = measuring_of(config).scores(ensemble.stack([parameters_of(config)]), 2)
        names = [f"{name}_{what}" for name in measured_sets(task, source) for what in SCORES]
        assert sorted(names) == sorted(found.keys() - {"curriculum_digits"})
    assert measured_sets(ModularArithmetic(p=7, train_fraction=0.5), source) == ["train", "test"]


def test_some_seeds_keep_their_own_questions():
    configs = [config_of(GRID).with_seed(seed) for seed in (0, 1, 2)]
    parameters = ensemble.stack([parameters_of(config) for config in configs])
    whole = measuring_of(*configs)
    before = whole.scores(parameters, 3)
    kept = torch.tensor([0, 2])
    after = whole.rows(kept).scores({name: p[kept] for name, p in parameters.items()}, 3)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name][kept]) for name in after)
    later = whole.rows(kept).scores({name: p[kept] for name, p in parameters.items()}, 5)
    alone = measuring_of(configs[2]).scores(ensemble.stack([parameters_of(configs[2])]), 5)
    assert all(torch.equal(later[name][1:], alone[name]) for name in alone)


def test_a_seed_in_an_ensemble_is_measured_as_alone_while_its_numbers_grow(tmp_path):
    config = config_of(
        GRID,
        "segment-digit",
        curriculum={"kind": "grow-digits", "start": 2},
        budget={"steps": 12, "steps_per_epoch": 3},
        checkpoints={"every": 4, "state_every": 6, "keep_best": 3, "best_metric": "grid_loss"},
        stop={"metric": "grid_exact_match"},
    )
    together = train_small(config, tmp_path / "both", [0, 1])
    for seed, run in enumerate(together):
        (alone,) = train_small(config.with_seed(seed), tmp_path / "alone")
        assert run.read_metrics() == alone.read_metrics()
    records = [record for record in together[1].read_metrics() if "grid_loss" in record]
    digits = {int(record["step"]): record["curriculum_digits"] for record in records}
    assert digits == {0: 2, 1: 2, 2: 2, 4: 3, 6: 3, 8: 4, 10: 5, 12: 5}
    ranked = sorted(records, key=lambda record: record["grid_loss"])[:3]
    assert [kept.step for kept in together[1].best()] == [record["step"] for record in ranked]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"val_max_digits": 8},
            "val_max_digits = 8 without val_step: there is no grid of lengths; set val_step",
        ),
        ({"val_step": 6}, "val_step = 6 is beyond the longest numbers that are asked for; allowed: 1 to 5"),
        ({"val_step": 9, "val_max_digits": 8}, "allowed: 1 to 8"),
    ],
)
def test_a_grid_without_lengths_is_refused(fields, message):
    with pytest.raises(RequestError, match=message):
        Addition(n_digits=5, **fields)
