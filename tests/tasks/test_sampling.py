"""Seeded draws: pure functions of seed, stream and counter."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp_arith.tasks import sampling
from interp_arith.tasks.columns import Operation
from interp_arith.tasks.digits import digits_of, numbers_of
from interp_arith.tasks.sampling import (
    SPLITS,
    Limits,
    draw_digits,
    draw_of_split,
    draw_pair_labels,
    draw_split,
    drawn_triples,
    generator,
    in_split,
    key,
    later,
    shuffled_rows,
    ten_digit_pairs,
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


SHORT = st.integers(0, 10**18 - 1)
NUMBERS = st.one_of(SHORT, st.integers(0, 10**40 - 1), SHORT.map(lambda number: number * 10**20))
MASK = 2**64 - 1
PROTOCOL = {(a, b) for a, b in ten_digit_pairs().tolist()}


def splitmix64(state: int) -> int:
    """The finalizer, by Python's integers (Steele et al. 2014, figure 15, with the variant 13 of its constants)."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
    return state ^ state >> 31


def plain_hash(*numbers: int) -> int:
    state = 0
    for number in numbers:
        state = splitmix64(state + number + 0x9E3779B97F4A7C15 & MASK)
    return state


def plain_parts(number: int) -> list[int]:
    """In base 10^18, lowest first, without the zeros among the higher ones."""
    lowest, rest = number % 10**18, number // 10**18
    return [lowest, *([part for part in plain_parts(rest) if part] if rest else [])]


def plain_split(*numbers: int) -> str:
    """By the hash as a fraction in float64."""
    if numbers in PROTOCOL:
        return "test"
    share = float(plain_hash(*(part for number in numbers for part in plain_parts(number)))) / 2.0**64
    return "test" if share < 0.05 else "val" if share < 0.1 else "train"


def plain_candidate(
    start: int, row: int, n_digits: int, limits: Limits, operands: int = 2, operation: Operation = "add"
) -> tuple[int, ...]:
    """A drawn question, digit by digit: three parts of 21 bits are used of each random number."""
    per_column = operands // 3 + 1

    def parts(at: int) -> list[float]:
        counter = row * (n_digits * per_column + 1) + at + 1
        number = splitmix64(start + counter * 0x9E3779B97F4A7C15 & MASK)
        return [(number >> 21 * part & 2**21 - 1) / 2**21 for part in range(3)]

    length, heavy, sign = parts(n_digits * per_column)
    subtracts = {"add": False, "subtract": True, "mixed": sign >= 0.5}[operation]
    numbers = [0] * operands
    for column in range(limits.min_digits + int(length * (limits.max_digits - limits.min_digits + 1))):
        drawn = [part for i in range(per_column) for part in parts(column * per_column + i)]
        digits = [int(10 * part) for part in drawn[:operands]]
        if heavy < limits.carry_share and drawn[operands] < 0.6:
            digits[-1] = digits[0] if subtracts else (9 - sum(digits[:-1])) % 10
        numbers = [number + digit * 10**column for number, digit in zip(numbers, digits, strict=True)]
    return (*numbers, int(subtracts)) if operation == "mixed" else tuple(numbers)


def test_splitmix64_gives_the_published_numbers():
    # The first outputs of the generator that starts at 1234567, as listed on Rosetta Code.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567 + i * 0x9E3779B97F4A7C15 & MASK) for i in range(1, 5)] == published


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("limits", [Limits(1, 4, 0.3), Limits(2, 2, 0.0), Limits(1, 3, 1.0)])
def test_what_is_drawn_is_what_plain_integers_give(seed, limits):
    start = plain_hash(seed, 2) + 7 * 0x9E3779B97F4A7C15 * 2**32 & MASK
    plain = (plain_candidate(start, row, 4, limits) for row in range(100))
    expected = [pair for pair in plain if plain_split(*pair) == "train"][:20]
    drawn = draw_of_split("train", 20, 4, limits, later(key(seed, "train"), 7))
    assert list(map(tuple, numbers_of(drawn).tolist())) == expected


@pytest.mark.parametrize(
    ("operands", "operation"), [(2, "subtract"), (2, "mixed"), (3, "add"), (5, "add"), (10, "add")]
)
@pytest.mark.parametrize("n_digits", [3, 20])
def test_every_operation_is_drawn_as_plain_integers_give(operands, operation, n_digits):
    limits = Limits(1, n_digits, 0.5)
    start = plain_hash(6, 2)
    expected = [plain_candidate(start, row, n_digits, limits, operands, operation) for row in range(60)]
    drawn = draw_digits(60, n_digits, limits, key(6, "train"), operands, operation)
    assert list(map(tuple, numbers_of(drawn).tolist())) == expected
    kept = draw_of_split("train", 20, n_digits, limits, key(6, "train"), operands, operation)
    of_split = [question for question in expected if plain_split(*question[:operands]) == "train"]
    assert list(map(tuple, numbers_of(kept).tolist())) == of_split[:20]


def test_keys_drawn_together_draw_what_each_draws_alone():
    keys = key(torch.tensor([0, 3, 8]), "train")
    step, limits = torch.tensor(40), Limits(1, 6, 0.5)
    together = draw_of_split("train", 50, 6, limits, later(keys, step))
    for row, seed in enumerate((0, 3, 8)):
        alone = draw_of_split("train", 50, 6, limits, later(key(seed, "train"), 40))
        assert torch.equal(together[row], alone)


def test_keys_of_streams_seeds_and_moments_are_apart():
    keys = {
        int(later(key(seed, stream), counter))
        for seed in range(20)
        for stream in ("train", "val", "test", "example")
        for counter in range(20)
    }
    assert len(keys) == 20 * 4 * 20


def test_a_draw_asks_nothing_of_the_device():
    # A tensor on "meta" has no values: whatever would wait for one fails, as it would in a CUDA graph.
    keys, step = torch.empty(3, dtype=torch.int64, device="meta"), torch.empty((), device="meta").long()
    assert draw_of_split("train", 50, 6, Limits(1, 6, 0.5), later(keys, step)).shape == (3, 50, 2, 6)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("carry_share", [0.0, 1.0])
def test_the_narrowest_limits_leave_enough_of_every_split(split, carry_share):
    # Of the 100 one-digit questions 89 belong to train, 3 to val and 8 to test: 0+0 and 0+1 are of the protocol.
    drawn = draw_of_split(split, 256, 2, Limits(1, 1, carry_share), key(torch.arange(300), "train"))
    assert in_split(drawn, split).all()
    assert len({tuple(map(tuple, rows)) for rows in numbers_of(drawn).tolist()}) == 300


def test_where_too_few_belong_those_come_again(monkeypatch):
    monkeypatch.setitem(sampling._CANDIDATES, "val", 10)  # about two of 42
    start = key(1, "val")
    drawn = draw_of_split("val", 10, 10, Limits(10, 10, 0.0), start)
    assert in_split(drawn, "val").all()
    kept = drawn.unique(dim=0)
    assert 1 <= len(kept) < 10
    assert torch.equal(drawn, drawn[torch.arange(10) % len(kept)])


def test_without_any_that_belongs_there_is_no_draw(monkeypatch):
    monkeypatch.setitem(sampling._CANDIDATES, "val", 1)  # three, and none belongs
    with pytest.raises(RuntimeError, match="out of bounds"):
        draw_of_split("val", 1, 10, Limits(10, 10, 0.0), key(0, "val"))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1))
def test_every_question_belongs_to_exactly_one_split(pairs):
    digits = digits_of(np.array(pairs, dtype=object), 40)
    members = torch.stack([in_split(digits, split) for split in SPLITS])
    assert (members.sum(dim=0) == 1).all()


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1), st.integers(40, 60))
def test_the_split_of_a_question_is_the_hash_as_a_fraction_in_every_layout(pairs, n_digits):
    digits = digits_of(np.array(pairs, dtype=object), n_digits)
    for split in SPLITS:
        assert in_split(digits, split).tolist() == [plain_split(*pair) == split for pair in pairs]


@given(st.lists(st.tuples(SHORT, SHORT), min_size=1), st.integers(18, 60))
def test_columns_that_a_layout_has_to_spare_do_not_move_a_question(pairs, n_digits):
    numbers = np.array(pairs)
    for split in SPLITS:
        narrow, wide = (in_split(digits_of(numbers, columns), split) for columns in (18, n_digits))
        assert torch.equal(narrow, wide)


def test_the_questions_of_the_ten_digit_protocol_are_for_test_alone():
    pairs = ten_digit_pairs()
    assert pairs.shape == (10_010, 2)
    assert pairs[[0, 7, 9, 10]].tolist() == [
        [0, 0],
        [1234567890, 9876543210],
        [1, 9999999999],
        list(map(random.Random(2025).randint, [0, 0], [9999999999, 9999999999])),
    ]
    digits = digits_of(pairs, 12)
    assert in_split(digits, "test").all()
    assert not in_split(digits, "train").any()


def test_ends_of_splits_are_those_of_the_fraction_in_float64():
    for end, share in ((sampling._TEST_END, 0.05), (sampling._VAL_END, 0.1)):
        first = end + 2**63
        assert float(first) / 2.0**64 >= share > float(first - 1) / 2.0**64


@pytest.mark.parametrize(("split", "share"), [("train", 0.9), ("val", 0.05), ("test", 0.05)])
def test_five_percent_are_held_out_for_each_set(split, share):
    rows = torch.arange(250_000)
    digits = digits_of(torch.stack([rows // 500, rows % 500], dim=1).numpy(), 3)
    assert float(in_split(digits, split).double().mean()) == pytest.approx(share, abs=0.002)


def test_the_split_of_a_question_does_not_depend_on_the_others():
    digits = digits_of(np.array([[3, 4], [5, 6], [123456789, 987654321]]), 9)
    together = in_split(digits, "train")
    assert [bool(in_split(question, "train")) for question in digits] == together.tolist()


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


@pytest.mark.parametrize("n_classes", [2, 3, 10, 100])
def test_labels_of_pairs_are_random_and_balanced(n_classes):
    tables = draw_pair_labels(n_classes, 4, key(0, "control"))
    assert tables.shape == (4, 10, 10)
    for table in tables:
        counts = np.bincount(table.flatten(), minlength=n_classes)
        assert counts.max() - counts.min() <= 1
        assert len(counts) == n_classes
    assert not torch.equal(tables[0], tables[1])
    assert torch.equal(tables, draw_pair_labels(n_classes, 4, key(0, "control")))
    assert not torch.equal(tables, draw_pair_labels(n_classes, 4, key(1, "control")))
