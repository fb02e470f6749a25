"""Presets: what the table promises, and how one is changed."""

import json

import pytest

from interp_arith import presets as room
from interp_arith.errors import RequestError
from interp_arith.models.transformer import build_model
from interp_arith.presets import PRESETS, measured, preset, presets
from interp_arith.runs import train
from interp_arith.tasks import ModularArithmetic
from interp_arith.training.optimizers import Muon


def test_the_presets_that_users_rely_on_are_there():
    modular = {f"mod-{op}-{p}" for op in ("add", "sub", "mul", "div") for p in (97, 113)}
    characters = {f"char-{op}-{p}-{n}l" for op in ("add", "sub") for p in (97, 113) for n in (1, 2)}
    others = {"mod-add-113-fast", "mod-add-113-canonical", "char-div-97-2l", "mod-s5"}
    adders = {"add-10d-763", "add-10d-777", "add-10d-4k", "add-10d-763-long", "add-10d-763-second"}
    adders |= {
        "add-10d-tiny",
        "add-5d-msb",
        "add-5d-msb-1l",
        "sub-5d",
        "mixed-6d",
        "add-2d-small",
        "add-2d",
        "math-llm-small",
        "math-llm-medium",
        "math-llm-large",
        "compact-rope",
    }
    assert set(presets()) == modular | characters | others | adders | {"sanity", "sanity-masked"}
    assert presets()[0] == "mod-add-113"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("char-add-97-1l", (6586, 1411, 1412)),
        ("char-sub-97-2l", (6586, 1411, 1412)),
        ("char-div-97-2l", (6518, 1396, 1398)),
        ("char-add-113-1l", (8938, 1915, 1916)),
        ("mod-add-113", (3830, 0, 8939)),
    ],
)
def test_split_sizes_are_the_published_ones(name, sizes):
    task = PRESETS[name].config.task
    assert tuple(len(task.split(split)) for split in ("train", "val", "test")) == sizes


def test_the_narrow_adders_start_each_column_at_one_place():
    for name in ("add-10d-763", "add-10d-777"):
        config = preset(name)
        tokens = config.task.examples(["1111111111+1111111111="]).tokens[0].tolist()
        assert config.model.positions.period == 1 + tokens.index(config.task.vocabulary.id("+"))


def test_character_presets_have_the_published_shape():
    for name in ("char-add-97-1l", "char-sub-113-2l", "char-div-97-2l"):
        config = preset(name)
        assert (config.model.d_model, config.model.n_heads) == (128, 4)
        assert config.model.n_layers == int(name[-2])
        assert config.batch_size == (512 if name == "char-div-97-2l" else 64)
        assert config.optimizer.learning_rate == 1e-3
    assert preset("char-div-97-2l").optimizer.weight_decay == 1.0


def test_the_canonical_model_has_the_parameters_of_nanda_et_al():
    config = preset("mod-add-113-canonical")
    # embeddings 114·128 + 3·128, attention 4·128·128, MLP 2·128·512 + 512 + 128, unembedding 128·113
    by_hand = 114 * 128 + 3 * 128 + 4 * 128 * 128 + 2 * 128 * 512 + 512 + 128 + 128 * 113
    counted = sum(p.numel() for p in build_model(config.model, config.task).trained_parameters().values())
    assert counted == by_hand == 226_688


def test_the_tiny_adder_has_216_parameters():
    config = preset("add-10d-tiny")
    # embedding 14·4, four attention matrices of one head 4·4, MLP 2·4·10, two layer norms 2·4
    by_hand = 14 * 4 + 4 * 4 * 4 + 2 * 4 * 10 + 2 * 2 * 4
    counted = sum(p.numel() for p in build_model(config.model, config.task).trained_parameters().values())
    assert counted == by_hand == 216


def test_the_second_pass_starts_from_the_first_unless_told_otherwise():
    assert preset("add-10d-763-second").init_from == preset("add-10d-763-long").run_name


@pytest.mark.parametrize("name", ["add-5d-msb", "sub-5d", "mixed-6d"])
def test_adders_that_look_ahead_write_the_highest_digit_first(name):
    task = preset(name).task
    answer = task.answer_tokens(["23+45=" if task.operation != "subtract" else "68-0="])[0].tolist()
    assert answer[-2:] == [6, 8]


def test_the_one_layer_twin_differs_in_layers_alone():
    two, one = preset("add-5d-msb"), preset("add-5d-msb-1l")
    assert one.model.n_layers == 1
    assert two.replace(name=one.name, model={"n_layers": 1}) == one


def test_the_large_2_d_adder_has_the_shape_and_recipe_that_was_asked_for():
    config = preset("add-2d")
    sizes = (config.model.n_layers, config.model.n_heads, config.model.d_model, config.batch_size)
    assert sizes == (6, 6, 384, 256)
    counted = sum(p.numel() for p in build_model(config.model, config.task).trained_parameters().values())
    assert 10e6 < counted < 11e6
    assert config.task.val_lengths == (4, 8, 12, 16, 20, 24, 28)
    assert [config.limits(step, None).max_digits for step in (0, 1_999, 2_000, 23_999, 24_000)] == [
        3,
        3,
        4,
        14,
        15,
    ]


def test_a_preset_s_name_can_be_overridden_too():
    assert preset("mod-add-113", name="other").run_name == "other-s0"


def test_an_override_changes_its_field_and_leaves_the_preset_alone():
    config = preset("mod-add-113", budget={"steps": 3}, optimizer={"learning_rate": 0.5}, seed=4)
    assert (config.budget.steps, config.optimizer.learning_rate, config.seed) == (3, 0.5, 4)
    assert config.optimizer.weight_decay == preset("mod-add-113").optimizer.weight_decay
    assert preset("mod-add-113").budget.steps != 3


def test_an_override_can_be_a_choice_or_name_another_kind():
    assert preset("mod-add-113", optimizer=Muon()).optimizer == Muon()
    assert preset("mod-add-113", optimizer={"kind": "muon"}).optimizer == Muon()
    assert preset("mod-add-113", task=ModularArithmetic(p=7)).task.p == 7


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"colour": 3}, "no config field is called 'colour'"),
        ({"budget": {"step": 3}}, "no field of Budget is called 'step'; did you mean steps"),
        ({"task": {"p": 2}}, "p = 2"),
        ({"model": {"d_model": 30}}, "d_model = 30 is not divisible by n_heads = 4; try d_model = 28"),
        ({"optimizer": {"kind": "mun"}}, "no optimizer is called 'mun'; did you mean muon"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(overrides, complaint):
    with pytest.raises(RequestError) as caught:
        preset("mod-add-113", **overrides)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(RequestError, match=r"no preset is called 'mod-ad-113'; did you mean mod-add-113 or"):
        preset("mod-ad-113")


def test_measured_results_are_read_from_the_file_beside(tmp_path, monkeypatch):
    (tmp_path / "measured.json").write_text(json.dumps({"sanity": "loss 0 in 2 s"}), encoding="utf-8")
    monkeypatch.setattr(room, "_MEASURED", tmp_path / "measured.json")
    assert measured("sanity") == "loss 0 in 2 s"
    assert measured("mod-add-113") == ""
    monkeypatch.setattr(room, "_MEASURED", tmp_path / "nowhere.json")
    assert measured("sanity") == ""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_fast_recipe_is_right_on_every_question_that_it_has_not_seen(precision, tmp_path):
    """As on each of 74 seeds in README: 0.999 at step 140 at the latest, never less after it, and 1 in the end."""
    config = preset("mod-add-113-fast", precision=precision)
    run = train(config, seed=0, out=tmp_path, device="cpu", progress=False)
    accuracy = run.metrics.set_index("step")["test_accuracy"].dropna()
    assert accuracy.loc[140:].min() >= 0.999
    assert accuracy.loc[200] == 1.0
    assert accuracy.loc[:50].max() < 0.9
