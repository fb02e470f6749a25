"""Labels that probes are asked for, their controls, and what one token alone tells."""

import numpy as np
import pytest
import torch

from interp_arith.errors import RequestError
from interp_arith.interp.column_labels import column_labels, control_labels, single_token_baseline
from interp_arith.interp.nodes import draw_full
from interp_arith.tasks import Addition

TASK = Addition(n_digits=3)


def drawn(task=TASK, n=4000, carry_share=0.0):
    return [draw_full(task, split, n, carry_share) for split in ("train", "test")]


def baseline(task, features, columns, n=20_000):
    fit, held_out = drawn(task, n)
    labels = column_labels(task, fit, held_out, features, columns)
    tokens = [task.encode(each).tokens for each in (fit, held_out)]
    return labels, single_token_baseline(*tokens, labels, len(task.vocabulary))


def test_labels_are_the_features_and_classes_are_counted():
    fit, held_out = drawn()
    found = column_labels(TASK, fit, held_out, ["generate", "base_add", "carry_kind"], [1])
    assert found.names == (("generate", 1), ("base_add", 1), ("carry_kind", 1))
    assert found.n_classes == (2, 10, 3)
    assert not found.left_out
    r = held_out.sum(dim=1)[:, 1]
    assert torch.equal(found.held_out[:, 0], (r >= 10).long())
    assert torch.equal(found.held_out[:, 1], r % 10)
    carry = held_out[:, :, 0].sum(dim=1) >= 10
    kinds = np.where(r >= 10, "direct", np.where((r == 9) & carry, "virtual", "none"))
    assert (np.array(["direct", "none", "virtual"])[found.held_out[:, 2]] == kinds).all()


def test_questions_to_fit_on_and_to_score_on_are_disjoint():
    fit, held_out = ({tuple(row) for row in TASK.questions(each).tolist()} for each in drawn())
    assert not fit & held_out


def test_what_a_column_does_not_have_is_left_out_and_said():
    found = column_labels(TASK, *drawn())
    assert ("carry_in", 3) in found.names
    assert ("answer_digit", 3) in found.names
    assert "its one label is 0, and a probe needs two" in found.left_out["carry_in", 0]
    assert "no question has it there" in found.left_out["generate", 3]
    assert "label 2 is too rare" in found.left_out["cascade_length", 3]
    assert "column_sum" not in dict(found.names)


def test_a_share_of_long_carries_makes_rare_labels_common():
    found = column_labels(TASK, *drawn(carry_share=0.5), ["cascade_length"], [3])
    assert found.n_classes == (3,)


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        (["generat"], None, "no feature is called 'generat'; did you mean generate"),
        (
            ["borrow_in"],
            None,
            "feature borrow_in: questions of this task have column_sum, base_add, generate",
        ),
        (["generate"], [4], "column 4: questions of this task have columns 0 to 3"),
        (
            ["carry_in"],
            [0],
            "carry_in of column 0: its one label is 0, and a probe needs two; choose another",
        ),
        (["generate"], [1, 3], "generate of column 3: no question has it there; choose another column"),
        (
            ["cascade_length"],
            [3],
            r"cascade_length of column 3: label 2 is too rare, \d+ questions of 4000; a probe needs 20: ask more "
            "questions, or raise carry_share",
        ),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(features, columns, message):
    with pytest.raises(RequestError, match=message) as refusal:
        column_labels(TASK, *drawn(), features, columns)
    assert "\n" not in str(refusal.value)


def test_a_task_of_which_nothing_can_be_probed_says_so():
    with pytest.raises(
        RequestError, match="no feature of 3-digit questions has a probe: label 9 is too rare"
    ):
        column_labels(TASK, *drawn(n=30))


def test_subtraction_has_borrows_and_mixed_questions_lack_labels():
    task = Addition(n_digits=3, operation="subtract")
    found = column_labels(task, *drawn(task))
    assert ("borrow_in", 1) in found.names
    assert ("borrow_case", 2) in found.names
    assert "generate" not in dict(found.names)
    task = Addition(n_digits=3, operation="mixed")
    found = column_labels(task, *drawn(task))
    missing = {name: float((found.fit[:, i] < 0).double().mean()) for i, name in enumerate(found.names)}
    assert missing["answer_digit", 0] == 0
    assert missing["generate", 1] == pytest.approx(0.5, abs=0.03)
    assert missing["borrow_in", 1] == pytest.approx(0.5, abs=0.03)


def test_controls_are_functions_of_the_pair_and_balanced():
    fit, held_out = drawn()
    labels = column_labels(TASK, fit, held_out, ["generate", "propagate", "carry_in", "base_add"], [1])
    controls, whose = control_labels(labels, fit, held_out)
    assert (
        len(controls.names) == 3
    )  # generate and propagate share one; that of carry_in is of the column below
    assert whose[0] == whose[1]
    assert [controls.names[i] for i in whose] == [
        ("control of 2 labels", 1),
        ("control of 2 labels", 1),
        ("control of 2 labels", 0),
        ("control of 10 labels", 1),
    ]
    for index, (_, column) in enumerate(controls.names):
        by_pair = {}
        for digits, of in ((fit, controls.fit), (held_out, controls.held_out)):
            for x, y, label in zip(*digits[:, :, column].T.tolist(), of[:, index].tolist(), strict=True):
                assert by_pair.setdefault((x, y), label) == label
        counts = np.bincount(list(by_pair.values()))
        assert len(by_pair) == 100
        assert set(counts) == {100 // controls.n_classes[index]}


def test_one_operand_digit_tells_generate_at_three_quarters():
    """Guess yes from 5 on: right for (5+6+7+8+9)/45 of those that generate, (10+9+8+7+6)/55 of the others."""
    _, found = baseline(TASK, ["generate"], [1])
    at_first_digit = 1  # 0 hundreds, 1 tens, 2 units
    assert found[at_first_digit, 0].item() == pytest.approx((35 / 45 + 40 / 55) / 2, abs=0.015)
    assert found[0, 0].item() == pytest.approx(0.5, abs=0.015)
    assert (found[1:8, 0] >= found[1, 0] - 0.01).all()


def test_a_digit_of_the_answer_that_is_the_feature_tells_it():
    labels, found = baseline(Addition(n_digits=3, answer_order="units-last"), None, None, 4000)
    top = labels.names.index(("carry_in", 3))
    assert found[7, top] == pytest.approx(
        0.75, abs=0.02
    )  # 123+456=, and the answer's first digit is not yet seen
    assert found[8, top] == 1
