"""Offsets of places in training: every seed its own, the same whoever trains beside it, and none in evaluation."""

from pathlib import Path

import pytest
import torch
from chaos.small_runs import SignalAt, differences, small_config, train_small
from oracles import digit_model_configs

from interp_arith.models import build_model
from interp_arith.run import load_config
from interp_arith.tasks import Addition, scoring
from interp_arith.tasks.sampling import Moves, draw_offsets, key, later
from interp_arith.tasks.sources import make_source, write_data
from interp_arith.training import ensemble, step
from interp_arith.training.batches import Offset, make_batches, with_offsets
from interp_arith.training.config import RunConfig
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.signals import Interrupted

CPU = torch.device("cpu")
ADDER = Addition(n_digits=2, val_questions=4, test_questions=6)
CONFIGS = digit_model_configs()
MOVES = Moves(50, gap=4, free=54, places=7)
MOVED = {"positions": {"kind": "segment-digit", "max_place": 8}, "d_model": 8, "n_heads": 2, "d_mlp": 12}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def adder_config(**fields) -> RunConfig:
    return small_config(**{"task": ADDER, "model": MOVED} | fields)


def batches_of(config, seeds=(0, 1, 5)):
    configs = [config.with_seed(seed) for seed in seeds]
    sources = [make_source(c.task, c.batch_size, c.seed, c.data_dir) for c in configs]
    return with_offsets(make_batches(sources, CPU), configs, CPU)


def test_offsets_are_uniform_from_0_to_the_largest():
    drawn = draw_offsets(40_000, Moves(3), key(0, "offset"))
    assert drawn.shape == (40_000, 1)
    assert_uniform(drawn, 4)


def assert_uniform(drawn, n):
    counts = torch.bincount(drawn.flatten(), minlength=n)
    assert len(counts) == n
    expected = len(drawn) / n
    assert (counts - expected).abs().max() < 5 * (expected * (1 - 1 / n)) ** 0.5


def test_a_gap_moves_all_places_from_a_random_one_on():
    drawn = draw_offsets(40_000, Moves(3, gap=2, free=5, places=5), key(0, "offset"))
    below, gap = drawn[:, 0], drawn[:, -1] - drawn[:, 0]
    assert_uniform(below, 4)
    assert_uniform(gap, 3)
    first = (drawn == below[:, None]).sum(dim=1)[gap > 0]
    assert_uniform(first - 1, 4)  # the units are below, the highest place is above
    steps = drawn.diff(dim=1)
    assert torch.equal(steps.sum(dim=1), gap)
    assert torch.equal((steps > 0).sum(dim=1), (gap > 0).long())


def test_offset_and_gap_together_go_no_further_than_there_is_room():
    drawn = draw_offsets(40_000, Moves(5, gap=9, free=5, places=5), key(0, "offset"))
    assert drawn[:, -1].max() == 5
    assert_uniform(drawn[:, 0], 6)
    assert_uniform(drawn[drawn[:, 0] == 3, -1] - 3, 3)


def test_offsets_of_many_keys_are_those_of_each():
    keys = torch.stack([key(seed, "offset") for seed in (3, 8)])
    together = draw_offsets(20, MOVES, later(keys, 4))
    for row, alone in zip(together, keys, strict=True):
        assert torch.equal(row, draw_offsets(20, MOVES, later(alone, 4)))
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, draw_offsets(20, MOVES, later(keys, 5)))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_each_seed_sees_the_offsets_that_it_sees_alone_and_the_same_questions(as_tensor):
    together, without = batches_of(adder_config()), batches_of(adder_config(model={}))
    alone, left = batches_of(adder_config(), [5]), together.rows(torch.tensor([0, 2]))
    assert isinstance(together, Offset)
    seen = []
    for number in range(4):
        at = torch.tensor(number, dtype=torch.float64) if as_tensor else number
        batch = together.batch(None, at)
        assert torch.equal(batch.tokens, without.batch(None, at).tokens)
        assert torch.equal(batch.offset[2], alone.batch(None, at).offset[0])
        assert torch.equal(batch.offset[[0, 2]], left.batch(None, at).offset)
        assert batch.offset.max() <= 5  # eight places, three digits in an answer
        seen.append(batch.offset)
    assert len({tuple(offset.flatten().tolist()) for offset in seen}) == 4


def test_listed_questions_are_moved_too_and_otherwise_at_every_step(tmp_path):
    write_data(ADDER, tmp_path, 20)
    for batch_size in (None, 8):
        batches = batches_of(adder_config(data_dir=tmp_path, batch_size=batch_size))
        first, second = (batches.batch(batches.given(at, None), at) for at in (0, 1))
        assert first.offset.shape == (*first.tokens.shape[:2], 1)
        assert not torch.equal(first.offset, second.offset)


@pytest.mark.parametrize(
    "fields", [{"model": {}}, {"model": MOVED | {"positions": {"kind": "abacus", "offset": 0}}}]
)
def test_where_no_offset_can_be_drawn_none_is(fields):
    assert batches_of(adder_config(**fields)).batch(None, 0).offset is None


def stacked(config) -> tuple[dict[str, torch.Tensor], list[RunConfig]]:
    configs = [config.with_seed(seed) for seed in (0, 1)]
    return ensemble.stack([fresh_weights(c) for c in configs]), configs


@pytest.mark.parametrize("name", CONFIGS)
def test_a_moved_question_is_learnt_at_its_moved_places(name):
    """The loss is that of the hooked model whose tables are shifted the other way."""
    config = adder_config(
        model=CONFIGS[name].model_copy(update={"positions": moved(CONFIGS[name].positions)})
    )
    parameters, configs = stacked(config)
    batch = with_offsets(
        make_batches([make_source(c.task, 8, c.seed) for c in configs], CPU), configs, CPU
    ).batch(None, 0)
    found, _ = step.losses(config, parameters, batch, ADDER.answer_positions)
    for seed in range(2):
        total = 0.0
        for row in range(8):
            model = build_model(config.model, ADDER)
            model.load_state_dict(ensemble.member(parameters, seed))
            offset, table = int(batch.offset[seed, row]), model.pos_embed.W_place
            with torch.no_grad():
                table[1:] = table[1:].roll(-offset, dims=0)
            one = batch.each(lambda x, seed=seed, row=row: x[seed, row : row + 1])
            logits = model(one.tokens)[:, list(ADDER.answer_positions)]
            total += scoring.total_cross_entropy(logits, one.targets, one.mask).item()
        assert found[seed].item() == pytest.approx(total, rel=1e-5)


def moved(scheme):
    return scheme.model_copy(update={"max_place": 9, "offset": 6})


def test_accumulated_gradients_are_those_of_the_whole_batch():
    config = adder_config()
    parameters, configs = stacked(config)
    batch = with_offsets(
        make_batches([make_source(c.task, 8, c.seed) for c in configs], CPU), configs, CPU
    ).batch(None, 3)
    positions = ADDER.answer_positions
    loss, _, gradients = step._gradients(config, parameters, batch, positions, None)
    in_parts = step._gradients(config.replace(accumulation=3), parameters, batch, positions, None)
    assert torch.allclose(in_parts[0], loss, rtol=1e-6)
    assert all(torch.allclose(in_parts[2][name], g, atol=1e-7) for name, g in gradients.items())


@pytest.mark.parametrize("name", ["coupled-swiglu-sharp-tied", "segment-digit-geglu-half-attention"])
def test_on_a_gpu_all_seeds_at_once_give_the_loss_of_the_loop(name):
    config = adder_config(
        model=CONFIGS[name].model_copy(update={"positions": moved(CONFIGS[name].positions)})
    )
    parameters, _ = stacked(config)
    batch = batches_of(config, (0, 1)).batch(None, 2)
    loop, mapped = (
        step.losses(config, parameters, batch, ADDER.answer_positions, mapped=mapped)[0]
        for mapped in (False, True)
    )
    assert torch.allclose(loop, mapped, rtol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_seed_among_others_is_bitwise_the_seed_alone(accumulation, tmp_path):
    config = adder_config(accumulation=accumulation)
    together = train_small(config, tmp_path / "together", [3, 1])
    for run, seed in zip(together, [3, 1], strict=True):
        (alone,) = train_small(config, tmp_path / "alone", [seed])
        assert differences(alone.path, run.path) == []


@pytest.mark.parametrize("fields", [{"kind": "coupled"}, {"kind": "abacus", "gap": 2}])
def test_a_run_stopped_goes_on_bitwise(fields, tmp_path):
    config = adder_config(model=MOVED | {"positions": fields | {"max_place": 6}})
    (expected,) = train_small(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_small(config, tmp_path / "cut", sink=SignalAt(7))
    (found,) = train_small(config, tmp_path / "cut", resume=True)
    assert differences(expected.path, found.path) == []


def test_what_is_logged_is_measured_without_an_offset(tmp_path):
    config = adder_config(task=ADDER.model_copy(update={"test_questions": 50}))
    (run,) = train_small(config, tmp_path)
    model = build_model(config.model, config.task)
    model.load_state_dict(run.read_weights(run.checkpoints()[-1]))
    examples = config.task.examples(config.task.split("test"))
    logits = model(examples.tokens)[:, list(ADDER.answer_positions)]
    expected = scoring.cross_entropy(logits, examples.targets, examples.mask).item()
    assert run.read_metrics()[-1]["test_loss"] == pytest.approx(expected, rel=1e-5)
    assert load_config(Path(run.config_file)).model.positions == config.model.positions


def test_offsets_train_rows_that_short_numbers_never_reach(tmp_path):
    rows = {}
    for offset in (0, None):
        positions = {"kind": "abacus", "max_place": 8, "offset": offset}
        config = adder_config(
            model=MOVED | {"positions": positions}, optimizer={"kind": "adamw", "weight_decay": 0.0}
        )
        (run,) = train_small(config, tmp_path / str(offset))
        steps = run.checkpoints()
        first, last = (run.read_weights(steps[i])["pos_embed.W_place"] for i in (0, -1))
        rows[offset] = (first != last).any(dim=1).tolist()
    assert rows[0] == [True] * 3 + [False] * 6
    # The last answer digit is never read: place 1, moved by 5 at most, has row 7.
    assert rows[None] == [True] * 8 + [False]
