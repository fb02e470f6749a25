"""Protocols for adders against planted answers, so that every number of a table is known."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from planted_adders import Writer, cascade, plain_class, small_model

from interp_arith.errors import RequestError
from interp_arith.evaluation.adders import Complexity, LengthGrid, Million, TenDigit
from interp_arith.evaluation.asking import Asked
from interp_arith.evaluation.protocols import PROTOCOLS
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic, Text
from interp_arith.tasks.digits import digits_of
from interp_arith.tasks.sampling import in_split, ten_digit_pairs

ADDERS = ("ten-digit", "million", "length-grid", "complexity")


@pytest.fixture
def planted(monkeypatch):
    """Run a protocol on a writer; what it found, by set."""

    def planted(protocol, writer, n_ctx=None, progress=lambda done, total: None):
        monkeypatch.setattr("interp_arith.evaluation.asking.greedy_continuation", writer)
        found = protocol.evaluate(small_model(writer.task, n_ctx), writer.task, {}, progress)
        return found, {row["set"]: row for row in found.table.to_dict("records")}

    return planted


def counts(rows):
    return {name: (row["questions"], row["wrong"]) for name, row in rows.items()}


def are_test_questions(asked, n_digits):
    return bool(in_split(digits_of(np.array([row[:2] for row in asked]), n_digits), "test").all())


def test_the_table_of_protocols():
    assert list(PROTOCOLS) == ["test", *ADDERS]


@pytest.mark.parametrize("name", ADDERS)
@pytest.mark.parametrize("task", [ModularArithmetic(p=7), Text()], ids=lambda task: task.kind)
def test_protocols_for_adders_refuse_other_tasks_in_one_line(name, task):
    with pytest.raises(RequestError) as raised:
        PROTOCOLS.make(name).evaluate(small_model(task), task, {})
    assert str(raised.value) == (
        f"protocol {name} asks for sums of whole numbers, and the run's task is {task.kind}; take test"
    )


class TestTenDigit:
    def test_it_asks_the_pairs_of_the_protocol_in_order_then_the_cascades(self, planted):
        writer = Writer(Addition(n_digits=10))
        planted(TenDigit(cascades=30), writer)
        assert writer.asked[:10_010] == list(map(tuple, ten_digit_pairs().tolist()))
        assert [cascade(row) for row in writer.asked[10_010:]] == [n for n in range(1, 10) for _ in range(30)]

    def test_none_of_its_questions_is_drawn_for_training(self, planted):
        writer = Writer(Addition(n_digits=10))
        planted(TenDigit(cascades=30), writer)
        assert are_test_questions(writer.asked, 10)

    def test_every_number_of_a_model_that_fails_where_the_first_number_is_all_nines(self, planted):
        found, rows = planted(TenDigit(cascades=0), Writer(Addition(), lambda row: row[0] == 9_999_999_999))
        assert counts(rows) == {
            "edge_pairs": (10, 4),
            "random_pairs": (10_000, 0),
            "ten_digit": (10_010, 4),
        }
        assert rows["ten_digit"]["right"] == 10_006
        assert rows["ten_digit"]["exact_match"] == 10_006 / 10_010
        assert found.failures[1] == {
            "set": "edge_pairs",
            "question": "9999999999+1=",
            "right": "10000000000",
            "given": "10000000001",
        }
        assert len(found.failures) == 4

    def test_a_model_that_loses_long_carries_fails_by_cascade(self, planted):
        _, rows = planted(TenDigit(cascades=40), Writer(Addition(), lambda row: cascade(row) >= 7))
        assert {name: wrong for name, (_, wrong) in counts(rows).items() if name.startswith("cascade")} == {
            f"cascade_{length}": 40 if length >= 7 else 0 for length in range(1, 10)
        }

    def test_a_task_of_more_digits_and_one_of_both_signs_are_asked_too(self, planted):
        for task in (Addition(n_digits=12), Addition(operation="mixed")):
            writer = Writer(task)
            _, rows = planted(TenDigit(cascades=3), writer)
            assert rows["ten_digit"]["right"] == 10_010
            assert [row[:2] for row in writer.asked[:10_010]] == list(map(tuple, ten_digit_pairs().tolist()))

    def test_a_short_task_is_asked_if_the_model_has_positions(self, planted):
        _, rows = planted(TenDigit(cascades=0), Writer(Addition(n_digits=4)), n_ctx=32)
        assert rows["ten_digit"]["questions"] == 10_010
        with pytest.raises(RequestError) as raised:
            planted(TenDigit(), Writer(Addition(n_digits=4)), n_ctx=31)
        assert str(raised.value) == (
            "operands of 10 digits: the model has positions for 9; train with task.n_digits = 10, "
            "or with model.n_ctx = 32"
        )

    @pytest.mark.parametrize(
        ("fields", "what"), [({"operation": "subtract"}, "subtracts"), ({"operands": 3}, "adds 3 numbers")]
    )
    def test_what_asks_other_questions_is_refused(self, fields, what):
        task = Addition(**fields)
        with pytest.raises(RequestError) as raised:
            TenDigit().evaluate(small_model(task), task, {})
        assert str(raised.value) == (
            f"protocol ten-digit asks for sums of two numbers, and the run's task {what}; take million"
        )


class TestMillion:
    def test_errors_are_counted_by_class(self, planted):
        writer = Writer(Addition(n_digits=5), lambda row: plain_class(row, False) in ("S2", "S4"))
        found, rows = planted(Million(questions=20_000), writer)
        classes = Counter(plain_class(row, False) for row in writer.asked)
        expected = {name: (n, n if name in ("S2", "S4") else 0) for name, n in classes.items()}
        wrong = classes["S2"] + classes["S4"]
        assert counts(rows) == {"S5": (0, 0)} | expected | {"all": (20_000, wrong)}
        assert list(rows) == ["S0", "S1", "S2", "S3", "S4", "S5", "all"]
        assert len(found.failures) == min(classes["S2"], 1000) + classes["S4"]
        assert {failure["set"] for failure in found.failures} == {"S2", "S4"}

    def test_it_asks_different_test_questions_of_every_length_of_value(self, planted):
        writer = Writer(Addition(n_digits=10))
        planted(Million(questions=15_000), writer)
        assert len(set(writer.asked)) == len(writer.asked) == 15_000
        assert are_test_questions(writer.asked, 10)
        share = np.mean([min(row) >= 10**9 for row in writer.asked])
        assert share == pytest.approx(0.81, abs=0.02)

    def test_its_seed_decides_what_is_asked(self, planted):
        asked = []
        for seed in (1, 1, 2):
            writer = Writer(Addition(n_digits=6))
            planted(Million(questions=50, seed=seed), writer)
            asked.append(writer.asked)
        assert asked[0] == asked[1]
        assert not set(asked[0]) & set(asked[2])

    @pytest.mark.parametrize("operation", ["subtract", "mixed"])
    def test_differences_have_classes_of_their_own(self, planted, operation):
        def subtracts(row):
            return operation == "subtract" or row[2] == 1

        writer = Writer(Addition(n_digits=3, operation=operation))
        _, rows = planted(Million(questions=3000), writer)
        classes = Counter(plain_class(row, subtracts(row)) for row in writer.asked)
        assert {name: n for name, (n, _) in counts(rows).items() if n and name != "all"} == classes
        assert 0.45 < sum(row[0] < row[1] for row in writer.asked) / 3000 < 0.55
        if operation == "mixed":
            assert 0.45 < sum(map(subtracts, writer.asked)) / 3000 < 0.55

    def test_sums_of_more_numbers_have_one_row(self, planted):
        writer = Writer(Addition(n_digits=3, operands=4), lambda row: row[3] % 2)
        _, rows = planted(Million(questions=1000), writer)
        assert counts(rows) == {"all": (1000, sum(row[3] % 2 for row in writer.asked))}

    def test_long_numbers_are_drawn_by_their_digits(self, planted):
        writer = Writer(Addition(n_digits=30))
        _, rows = planted(Million(questions=60), writer)
        assert rows["all"]["right"] == 60
        assert max(max(row) for row in writer.asked) >= 10**29

    def test_where_questions_come_again_it_says_so(self, planted):
        found, _ = planted(Million(questions=1000), Writer(Addition(n_digits=2)))
        assert found.notes == ("the test split has about 500 questions; they come more than once",)
        found, _ = planted(Million(questions=1000), Writer(Addition(n_digits=3)))
        assert found.notes == ()

    def test_progress_is_told_to_the_end(self, planted):
        told = []
        planted(
            Million(questions=20_000), Writer(Addition(n_digits=4)), progress=lambda *now: told.append(now)
        )
        assert told[-1] == (20_000, 20_000)
        assert [done for done, _ in told] == sorted({done for done, _ in told})
        assert len(told) == 2

    def test_a_class_that_was_not_asked_has_no_score(self, planted):
        found, rows = planted(Million(questions=10), Writer(Addition(n_digits=10)))
        assert np.isnan(rows["S5"]["exact_match"])
        plain = found.plain()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert plain["table"][5] == {
            "set": "S5",
            "questions": 0,
            "right": 0,
            "wrong": 0,
            "exact_match": None,
        }


class TestLengthGrid:
    def test_every_length_to_twice_that_of_training(self, planted):
        writer = Writer(Addition(n_digits=3), lambda row: min(row) >= 10**3)
        found, rows = planted(LengthGrid(questions=50), writer, n_ctx=100)
        assert list(rows) == [f"length_{n}" for n in range(1, 7)]
        assert [rows[f"length_{n}"]["exact_match"] for n in range(1, 7)] == [1, 1, 1, 0, 0, 0]
        lengths = Counter((len(str(a)), len(str(b))) for a, b in writer.asked)
        assert lengths == {(n, n): rows[f"length_{n}"]["questions"] for n in range(1, 7)}
        assert [rows[f"length_{n}"]["questions"] for n in range(2, 7)] == [50] * 5
        assert len(set(writer.asked)) == len(writer.asked)
        assert are_test_questions(writer.asked, 6)
        assert found.notes == ()

    def test_where_the_test_split_has_fewer_all_are_asked(self, planted):
        writer = Writer(Addition(n_digits=1))
        planted(LengthGrid(questions=500), writer, n_ctx=8)
        every = {
            (a, b)
            for low, high in ((0, 10), (10, 100))
            for a in range(low, high)
            for b in range(low, high)
            if are_test_questions([(a, b)], 2)
        }
        assert set(writer.asked) == every
        assert len(writer.asked) == len(every)

    def test_it_stops_where_positions_end_and_says_so(self, planted):
        found, rows = planted(LengthGrid(questions=5), Writer(Addition(n_digits=3)), n_ctx=14)
        assert list(rows) == ["length_1", "length_2", "length_3", "length_4"]
        assert found.notes == (
            "the model has positions for operands of at most 4 digits; twice the longest of training would be 6",
        )

    def test_the_last_length_can_be_chosen(self, planted):
        for most, n_ctx, lengths, notes in (
            (2, 100, 2, ()),
            (5, 100, 5, ()),
            (9, 14, 4, ("the model has positions for operands of at most 4 digits; 9 were asked for",)),
        ):
            protocol = LengthGrid(questions=5, max_digits=most)
            found, rows = planted(protocol, Writer(Addition(n_digits=3)), n_ctx=n_ctx)
            assert list(rows) == [f"length_{n}" for n in range(1, lengths + 1)]
            assert found.notes == notes

    def test_a_sharpened_model_is_asked_and_the_model_stays_as_it_is(self, monkeypatch):
        task, asked = Addition(n_digits=2), []

        def ask(model, task, drawn):
            asked.append(model)
            return Asked(task, drawn, torch.zeros(len(drawn), 3), torch.ones(len(drawn), dtype=torch.bool))

        monkeypatch.setattr("interp_arith.evaluation.adders.ask", ask)
        model = build_model(ModelConfig(d_model=8, n_heads=2, d_mlp=4, attention_scale=1.5), task)
        protocol = LengthGrid(questions=5, max_digits=1, sharpen=2)
        protocol.evaluate(model, task, {})
        assert [other.config.attention_scale for other in asked] == [3.0]
        assert model.config.attention_scale == 1.5
        assert (protocol.label, LengthGrid().label) == ("length-grid-sharpened-2-5-each", "length-grid")

    def test_differences_and_sums_of_more_numbers_have_lengths_too(self, planted):
        for task in (Addition(n_digits=2, operation="mixed"), Addition(n_digits=2, operands=3)):
            writer = Writer(task)
            _, rows = planted(LengthGrid(questions=20), writer)
            assert list(rows) == ["length_1", "length_2"]
            assert all(number >= 10 for row in writer.asked[-20:] for number in row[: task.operands])


class TestComplexity:
    @pytest.mark.parametrize("operation", ["add", "subtract", "mixed"])
    def test_every_class_is_asked_its_own_questions(self, planted, operation):
        def class_of(row):
            return plain_class(row, operation == "subtract" or (operation == "mixed" and row[2] == 1))

        writer = Writer(Addition(n_digits=6, operation=operation), lambda row: class_of(row)[1] == "2")
        _, rows = planted(Complexity(questions=40), writer)
        sums = ["S0", "S1", "S2", "S3", "S4", "S5"]
        differences = ["M0", "M1", "M2", "M3", "M4", "N1", "N2", "N3", "N4"]
        names = {"add": sums, "subtract": differences, "mixed": sums + differences}[operation]
        assert list(rows) == [*names, "all"]
        assert Counter(map(class_of, writer.asked)) == dict.fromkeys(names, 40)
        wrong = {name: 40 if name[1] == "2" else 0 for name in names}
        assert counts(rows) == {name: (40, wrong[name]) for name in names} | {
            "all": (40 * len(names), sum(wrong.values()))
        }
        assert len(set(writer.asked)) == len(writer.asked)
        assert are_test_questions(writer.asked, 6)

    def test_of_a_small_class_all_test_questions_are_asked(self, planted):
        writer = Writer(Addition(n_digits=1))
        _, rows = planted(Complexity(questions=30), writer)
        every = [(a, b) for a in range(10) for b in range(10) if are_test_questions([(a, b)], 1)]
        assert sorted(writer.asked) == every
        assert sum(n for n, _ in counts(rows).values()) == 2 * len(every)

    def test_more_than_two_numbers_have_no_classes(self):
        task = Addition(n_digits=3, operands=3)
        with pytest.raises(RequestError, match="about two numbers, and the run's task has 3; take million"):
            Complexity().evaluate(small_model(task), task, {})


@pytest.mark.parametrize("name", ADDERS)
def test_a_run_that_trained_on_test_questions_from_files_is_noted(name):
    task = Addition(n_digits=10)
    fields = {"ten-digit": {"cascades": 1}}.get(name, {"questions": 5})
    pairs = ten_digit_pairs()[-3:]

    def notes(trained):
        return PROTOCOLS.make(name, **fields).evaluate(small_model(task), task, trained).notes

    (note,) = set(notes({"train": np.concatenate([pairs, task.split("val")[:4]])})) - set(notes({}))
    assert note == (
        "3 of the 7 questions in the run's data files for training belong to the split that is asked here; "
        "the model may have seen what it is asked"
    )
    assert notes({"train": task.split("val")}) == notes({})


@pytest.mark.parametrize("name", ADDERS)
def test_a_real_model_is_asked_greedily(name):
    task = Addition(n_digits=10)
    fields = {"ten-digit": {"cascades": 5}}.get(name, {"questions": 30})
    model = small_model(task)
    found = PROTOCOLS.make(name, **fields).evaluate(model, task, {})
    failure = found.failures[-1]
    written = model.generate(task.tokens([failure["question"]]), 11)[:, -11:]
    assert task.read_answer(written) == [failure["given"]]
    assert failure["given"] != failure["right"] == str(task.answer([failure["question"]])[0])
    assert torch.is_inference_mode_enabled() is False
