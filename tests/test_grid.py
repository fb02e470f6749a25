"""Sweep files: axes, points, names, and what is refused."""

import numpy as np
import pytest
from chaos.small_runs import small_config
from small_sweeps import small_sweep

from interp_arith.errors import RequestError
from interp_arith.files import dump_yaml
from interp_arith.grid import Sweep, config_fields, flat, read_sweep, with_fields
from interp_arith.presets import preset
from interp_arith.storage import RunDirectory
from interp_arith.tasks import ModularArithmetic
from interp_arith.training.optimizers import Muon


def names(**fields):
    return [run.config.run_name for run in Sweep.model_validate(small_sweep(**fields)).runs()]


def test_a_grid_is_every_combination_with_every_seed_the_last_axis_first():
    runs = Sweep.model_validate(small_sweep(seeds=[3, 1])).runs()
    assert [run.config.run_name for run in runs] == [
        "operation-add_batch-8-s3",
        "operation-add_batch-8-s1",
        "operation-add_batch-12-s3",
        "operation-add_batch-12-s1",
        "operation-subtract_batch-8-s3",
        "operation-subtract_batch-8-s1",
        "operation-subtract_batch-12-s3",
        "operation-subtract_batch-12-s1",
    ]
    last = runs[-1].config
    assert (last.task.operation, last.batch_size, last.optimizer.learning_rate) == ("subtract", 12, 0.02)
    assert (last.seed, last.task.seed) == (1, 1)
    assert runs[-1].place == {"task.operation": "subtract", "batch": 12}


def test_what_is_not_swept_is_the_base_s_and_overrides_hold_for_all():
    sweep = Sweep.model_validate(
        small_sweep(overrides={"budget": {"steps": 5}, "model.d_mlp": 20}, seeds="0..1")
    )
    base = small_config()
    for run in sweep.runs():
        assert run.config.budget.steps == 5
        assert run.config.model == base.model.model_copy(update={"d_mlp": 20})
        assert run.config.schedule == base.schedule
    assert sweep.seeds == (0, 1)


def test_presets_are_an_axis_and_name_the_runs():
    sweep = Sweep.model_validate(
        {"name": "q", "grid": {"preset": ["mod-add-97", "mod-mul-97"], "task.p": [7, 11]}, "seeds": [0]}
    )
    runs = sweep.runs()
    assert [r.config.run_name for r in runs] == [
        "mod-add-97_p-7-s0",
        "mod-add-97_p-11-s0",
        "mod-mul-97_p-7-s0",
        "mod-mul-97_p-11-s0",
    ]
    assert runs[3].config == preset("mod-mul-97", task={"p": 11}).replace(name="mod-mul-97_p-11")


def test_a_choice_of_another_kind_by_its_kind_or_by_a_mapping():
    kinds = Sweep.model_validate(small_sweep(grid={"optimizer.kind": ["adamw", "muon"]}, seeds=[0])).runs()
    assert [run.config.run_name for run in kinds] == ["optimizer-adamw-s0", "optimizer-muon-s0"]
    assert kinds[0].config.optimizer == small_config().optimizer
    assert kinds[1].config.optimizer == Muon()
    whole = Sweep.model_validate(
        small_sweep(grid={"optimizer": [{"kind": "adamw"}, {"kind": "muon", "momentum": 0.5}]}, seeds=[0])
    )
    assert [run.config.name for run in whole.runs()] == ["optimizer-adamw", "optimizer-muon"]
    assert whole.runs()[1].config.optimizer == Muon(momentum=0.5)
    assert whole.axes()[0].coordinates == ["adamw", "muon"]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"task.train_fraction": [0.5, 0.25]}, ["train-fraction-0.5-s0", "train-fraction-0.25-s0"]),
        ({"optimizer.weight_decay": [0, "1e-3"]}, ["weight-decay-0-s0", "weight-decay-0.001-s0"]),
        ({"optimizer.betas": [[0.9, 0.98], [0.9, 0.99]]}, ["betas-0.9-0.98-s0", "betas-0.9-0.99-s0"]),
        ({"batch_size": [None, 8]}, ["batch-size-none-s0", "batch-size-8-s0"]),
        (
            {"optimizer.kind": ["adamw"], "schedule.kind": ["constant"]},
            ["optimizer-adamw_schedule-constant-s0"],
        ),
        ({"task.seed": [5]}, ["seed-5-s0"]),
        ({"my rates": [{"optimizer.learning_rate": 1, "log_every": 2}]}, ["my-rates-1-s0"]),
        (
            {"two": [{"log_every": 2, "task.p": 7}, {"log_every": 2, "task.p": 11}]},
            ["two-2-7-s0", "two-2-11-s0"],
        ),
    ],
)
def test_names_are_made_from_the_values(grid, expected):
    assert names(grid=grid, seeds=[0]) == expected


def test_values_that_look_alike_in_a_file_name_are_told_apart():
    axes = Sweep.model_validate(small_sweep(grid={"init_from": ["a/b", "a b"]})).axes()
    assert axes[0].labels == ("a-b-0", "a-b-1")


def test_a_given_split_stays_with_every_run(tmp_path):
    mask = np.eye(7, dtype=bool)
    config = small_config(task=ModularArithmetic(p=7))
    (tmp_path / "config.yaml").write_text(dump_yaml(config.plain()), encoding="utf-8")
    RunDirectory(tmp_path).write_split(mask)
    sweep = Sweep.model_validate(small_sweep(config=tmp_path / "config.yaml"))
    assert all((run.config.task.train_mask == mask).all() for run in sweep.runs())
    assert read_sweep(sweep.resolved()).runs() == sweep.runs()


def test_a_resolved_sweep_needs_no_other_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(dump_yaml(small_config().plain()), encoding="utf-8")
    sweep = Sweep.model_validate(small_sweep(config=tmp_path / "mine.yaml", seeds="0..1"))
    runs, resolved = sweep.runs(), sweep.resolved()
    (tmp_path / "mine.yaml").unlink()
    assert read_sweep(resolved).runs() == runs


def test_a_split_of_its_own_stays_when_the_seeds_change():
    runs = Sweep.model_validate(small_sweep(overrides={"task.seed": 9})).runs()
    assert {(run.config.seed, run.config.task.seed) for run in runs} == {(0, 9), (1, 9)}


def test_flat_names():
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e.f": 3}) == {"a.b": 1, "a.c.d": 2, "e.f": 3}


def test_every_field_of_every_kind_is_known_but_those_that_a_sweep_sets():
    fields = config_fields()
    for name in (
        "preset",
        "task.p",
        "task.n_digits",
        "model.positions.base",
        "optimizer.momentum",
        "stop.hold",
    ):
        assert name in fields
    assert not {"name", "seed"} & set(fields)
    assert len(set(fields)) == len(fields)


def test_with_fields_leaves_the_config_as_it_was():
    config = small_config()
    assert with_fields(config, {"task.p": 11}).task.p == 11
    assert config.task.p == 7


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"grid": {}},
            "grid: empty; give at least one field with a list of values, such as task.p: [97, 113]",
        ),
        ({"grid": {"task.p": []}}, "grid: task.p has no values; give a list with at least one"),
        ({"grid": {"task.p": 97}}, "grid.task.p = 97: Input should be a valid list"),
        (
            {"grid": {"task.oprtion": ["add"]}},
            "no config field is called 'task.oprtion'; did you mean task.operation",
        ),
        (
            {"grid": {"modle.n_layers": [1]}},
            "no config field is called 'modle.n_layers'; did you mean model.n_layers",
        ),
        ({"grid": {"budget.steps.x": [1]}}, "no config field is called 'budget.steps.x'"),
        (
            {"grid": {"batch": [{"batch_sise": 3}]}},
            "no config field is called 'batch_sise'; did you mean batch_size?",
        ),
        ({"grid": {"task.p": [7, 11, 7]}}, "grid: task.p has the value 7 twice; leave one out"),
        ({"grid": {"seed": [1]}}, "seed is no field to sweep; list them under seeds"),
        ({"grid": {"seed": [{"task.p": 7}]}}, "seed is no field to sweep; list them under seeds"),
        (
            {"grid": {"run": [{"task.p": 7}]}},
            "grid: an axis cannot be called 'run', a column of the results is",
        ),
        ({"grid": {"name": ["a"]}}, "name is no field to sweep; it is made from the swept values"),
        (
            {"grid": {"preset": ["mod-add-97"]}},
            "given grid preset and config; allowed: one of preset, config, grid",
        ),
        (
            {"config": None},
            "what the runs start from: given none; allowed: one of preset, config, grid preset",
        ),
        ({"preset": "mod-add-97"}, "given preset and config; allowed: one of"),
        ({"config": None, "preset": "mod-ad-97"}, "no preset is called 'mod-ad-97'; did you mean mod-add-97"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        (
            {"overrides": {"budgt.steps": 3}},
            "no config field is called 'budgt.steps'; did you mean budget.steps",
        ),
        ({"overrides": {"batch_size": 3}}, "batch_size is set by overrides and by grid batch; leave one out"),
        (
            {"overrides": {"task": 3}},
            "task = 3; allowed: a mapping of its fields, or one of them by task.FIELD",
        ),
        ({"overrides": {"task.p": 2}}, "modular: p = 2: Input should be greater than or equal to 3"),
        ({"overrides": {"budget.steps": "abc"}}, "Budget: steps = 'abc': Input should be a valid integer"),
        ({"overrides": {"schedule.kind": "restarts"}}, "restarts: period: Field required"),
        ({"grid": {"optimizer": [{"kind": "mun"}]}}, "no optimizer is called 'mun'; did you mean muon?"),
        ({"grid": {"optimizer.momentum": [0.5]}}, "no field of adamw is called 'momentum'"),
        ({"grid": {"task.operation": ["ad"]}}, "no operation is called 'ad'; did you mean add?"),
        ({"seeds": []}, "seeds: given []; allowed: one or more different whole numbers from 0 on"),
        ({"seeds": [1, 1]}, "seeds: given [1, 1]; allowed"),
        ({"seeds": [-1]}, "seeds: given [-1]; allowed"),
        ({"seeds": "0..x"}, "seeds '0..x'; allowed: a range such as 0..7, or a list such as 0,3,5"),
        ({"seeds": 3}, "seeds = 3; allowed: a list such as [0, 1], or a range such as 0..7"),
        ({"seeds": 0.5}, "seeds = 0.5; allowed: a list such as [0, 1], or a range such as 0..7"),
        ({"name": "a/b"}, "name = 'a/b': String should match pattern"),
        ({"grdi": {}}, "no field of a sweep is called 'grdi'; did you mean grid?"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_line(fields, complaint):
    given = {name: value for name, value in small_sweep(**fields).items() if value is not None}
    with pytest.raises(RequestError) as error:
        read_sweep(given).runs()
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
