"""Seeded draws: pure functions of seed, stream and counter."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_arith.tasks.sampling import (
    SPLITS,
    draw_split,
    drawn_triples,
    generator,
    in_split,
    shuffled_rows,
    torch_seed,
)


@given(
    n=st.integers(10, 400),
    train=st.floats(0.1, 0.6),
    val=st.floats(0, 0.4),
    seed=st.integers(0, 1000),
)
def test_a_drawn_split_is_a_partition_into_rounded_down_shares(n, train, val, seed):
    parts = draw_split(n, train, val, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(n))
    assert abs(len(parts["train"]) - n * train) < 1
    assert len(parts["train"]) <= n * train + 1e-6
    assert len(parts["val"]) <= n * val + 1e-6
    assert all((np.diff(part) > 0).all() for part in parts.values())


def test_a_share_that_is_a_whole_number_of_rows_is_exact():
    # 0.7 · 10 is 6.999… in floating point for some sums; the split must not lose a row.
    assert [len(part) for part in draw_split(10, 0.7, 0.3, 0).values()] == [7, 3, 0]
    assert [len(part) for part in draw_split(100, 0.29, 0.57, 0).values()] == [29, 57, 14]


@given(n=st.integers(2, 60), data=st.data())
def test_an_epoch_shows_each_row_at_most_once(n, data):
    batch_size = data.draw(st.integers(1, n))
    steps = n // batch_size
    epoch = [shuffled_rows(n, batch_size, 7, step) for step in range(steps)]
    seen = np.concatenate(epoch)
    assert all(len(batch) == batch_size for batch in epoch)
    assert len(set(seen.tolist())) == len(seen) == steps * batch_size
    assert set(seen.tolist()) <= set(range(n))


def test_every_epoch_and_every_seed_shuffles_anew():
    first, second = shuffled_rows(100, 100, 0, 0), shuffled_rows(100, 100, 0, 1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, shuffled_rows(100, 100, 1, 0))
    assert np.array_equal(first, shuffled_rows(100, 100, 0, 0))


def test_streams_and_counters_are_independent():
    draws = {
        (seed, stream, counter): generator(seed, stream, counter).integers(2**62)
        for seed in (0, 1)
        for stream in ("split", "shuffle", "train", "val", "test")
        for counter in (0, 1)
    }
    assert len(set(map(int, draws.values()))) == len(draws)
    assert torch_seed(0, "initialization") != torch_seed(1, "initialization")
    assert 0 <= torch_seed(0, "initialization") < 2**63


@given(st.lists(st.tuples(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1)), min_size=1))
def test_every_question_belongs_to_exactly_one_split(pairs):
    members = np.stack([in_split(np.array(pairs, dtype=np.int64), split) for split in SPLITS])
    assert (members.sum(axis=0) == 1).all()


@pytest.mark.parametrize(("split", "share"), [("train", 0.9), ("val", 0.05), ("test", 0.05)])
def test_five_percent_are_held_out_for_each_set(split, share):
    pairs = np.stack(np.divmod(np.arange(250_000), 500), axis=1)
    assert in_split(pairs, split).mean() == pytest.approx(share, abs=0.002)


def test_the_split_of_a_question_does_not_depend_on_the_others():
    pairs = np.array([[3, 4], [5, 6], [123456789, 987654321]])
    together = in_split(pairs, "train")
    assert [bool(in_split(pair[None], "train")[0]) for pair in pairs] == together.tolist()


@pytest.mark.parametrize("n", [3, 5, 59])
def test_drawn_triples_are_the_first_of_a_shuffled_list_of_all(n):
    triples = list(itertools.product(range(n), repeat=3))
    random.Random(42).shuffle(triples)
    assert drawn_triples(n).tolist() == [list(triple) for triple in triples[:100]]


def test_triples_of_a_long_list_are_drawn_without_making_it():
    triples = drawn_triples(10_007)
    assert triples.shape == (100, 3)
    assert len(np.unique(triples, axis=0)) == 100
    assert triples.min() >= 0
    assert triples.max() < 10_007
    assert (triples.max(axis=0) > 9_000).all()
