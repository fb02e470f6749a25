"""The batches of all seeds together are those of each seed alone."""

import pytest
import torch

from interp_arith.tasks import Addition, ModularArithmetic
from interp_arith.tasks.base import Examples
from interp_arith.tasks.sampling import Limits
from interp_arith.tasks.sources import make_source
from interp_arith.training.batches import Drawn, Shuffled, Whole, make_batches

CPU = torch.device("cpu")
ADDER = Addition(n_digits=3, val_questions=4, test_questions=4)
MODULAR = ModularArithmetic(p=7, train_fraction=0.5)


def parts(examples: Examples) -> tuple[torch.Tensor, ...]:
    return examples.tokens, examples.targets, examples.mask


def sources(task, batch_size, seeds=(0, 1, 5)):
    return [make_source(task.with_seed(seed), batch_size, seed) for seed in seeds]


@pytest.mark.parametrize(
    ("task", "batch_size", "kind"),
    [(ADDER, 20, Drawn), (MODULAR, 8, Shuffled), (MODULAR, None, Whole), (MODULAR, 100, Whole)],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_each_seed_sees_the_batches_that_it_sees_alone(task, batch_size, kind, as_tensor):
    limits = Limits(1, 2, 0.5) if task is ADDER else None
    each, batches = sources(task, batch_size), make_batches(sources(task, batch_size), CPU)
    assert isinstance(batches, kind)
    for step in range(7):
        number = torch.tensor(step, dtype=torch.float64) if as_tensor else step
        together = batches.batch(batches.given(step, limits), number)
        for row, source in enumerate(each):
            alone = source.batch(step, limits)
            assert all(torch.equal(a[row], b) for a, b in zip(parts(together), parts(alone), strict=True))


def test_questions_follow_the_step_and_the_limits_in_whatever_order_they_are_asked_for():
    (source,) = sources(ADDER, 20, seeds=[4])
    batches = make_batches([source], CPU)
    for step, longest in ((6, 2), (7, 3), (8, 3), (7, 2), (100_003, 1)):
        limits = Limits(1, longest, 0.5)
        batch, alone = batches.batch(limits, step), source.batch(step, limits)
        assert all(torch.equal(a[0], b) for a, b in zip(parts(batch), parts(alone), strict=True))


@pytest.mark.parametrize(("task", "batch_size"), [(ADDER, 20), (MODULAR, 8), (MODULAR, None)])
def test_those_that_go_on_see_what_they_would_have_seen(task, batch_size):
    batches = make_batches(sources(task, batch_size), CPU)
    left = batches.rows(torch.tensor([0, 2]))
    for step in (0, 4):
        before = batches.batch(batches.given(step, None), step)
        after = left.batch(left.given(step, None), step)
        assert all(torch.equal(a[[0, 2]], b) for a, b in zip(parts(before), parts(after), strict=True))


def test_a_seed_with_fewer_questions_than_the_batch_is_filled_with_rows_that_count_nowhere():
    few, many = (ModularArithmetic(p=7, train_fraction=share) for share in (0.2, 0.9))
    each = [make_source(few, 20, 0), make_source(many, 20, 1)]
    batches = make_batches(each, CPU)
    for step in range(4):
        batch = batches.batch(batches.given(step, None), step)
        assert batch.mask.sum(dim=(-2, -1)).tolist() == [9, 20]
        small, large = (source.batch(step, None) for source in each)
        assert torch.equal(batch.tokens[0, :9], small.tokens)
        assert torch.equal(batch.tokens[1], large.tokens)
