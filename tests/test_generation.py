"""Questions and answers as text, from a model whose answers are planted."""

from pathlib import Path

import pytest
import torch

from interp_arith.errors import RequestError
from interp_arith.generation import Asker, example_question, output_symbols, token_rows
from interp_arith.models.config import ModelConfig
from interp_arith.models.digit_positions import SegmentDigit
from interp_arith.models.transformer import build_model
from interp_arith.run import load_run
from interp_arith.tasks import Addition, ModularArithmetic, Text

MODULAR = ModularArithmetic(p=7, train_fraction=0.5)
ADDITION = Addition(n_digits=2, val_questions=0, test_questions=5)


class PlantedRun:
    """What Asker needs of a run: a task, and a model that always writes the same logits."""

    def __init__(self, task, logits):
        self.task, self.logits = task, logits

    @torch.no_grad()
    def model(self, step):
        model = build_model(ModelConfig(d_model=4, n_heads=1, d_mlp=4, unembed_bias=True), self.task)
        for parameter in model.parameters():
            parameter.zero_()
        model.unembed.b_U.copy_(torch.tensor(self.logits))
        return model.eval()


def asker(task=MODULAR, logits=(0.0, 1.0, 0.0, 2.0, 0.0, -1.0, 0.0), temperature=0.0, top_k=None, seed=0):
    return Asker(PlantedRun(task, logits), "last", temperature, top_k, seed)


def test_a_right_answer_is_called_right():
    assert asker().tell("1+2=") == "1+2=3   right"


def test_a_wrong_answer_comes_with_the_right_one():
    assert asker().tell("2+3=") == "2+3=3   wrong, it is 5"


def test_a_question_is_shown_as_it_was_understood():
    assert asker().tell(" 001 + 2 = ") == "1+2=3   right"


def test_steps_show_the_likeliest_tokens_with_logit_and_probability():
    head, title, *lines = asker().tell("2+3=", steps=True).splitlines()
    assert head == "2+3=3   wrong, it is 5"
    assert title.split() == ["token", "1", "logit", "probability"]
    probabilities = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0, -1.0, 0.0]).double().softmax(0)
    assert lines[0].split() == ["'3'", "2.000", f"{probabilities[3]:.6f}", "chosen"]
    assert lines[1].split() == ["'1'", "1.000", f"{probabilities[1]:.6f}"]
    assert lines[-1].split() == ["'5'", "-1.000", f"{probabilities[5]:.6f}", "right"]
    assert len(lines) == 6  # five candidates, and the right one that is not among them


def test_a_chosen_token_that_is_right_is_marked_as_both():
    assert asker().tell("1+2=", steps=True).splitlines()[2].endswith("chosen, right")


def test_steps_show_every_token_of_a_longer_answer():
    logits = [0.0] * 14
    logits[1] = 3.0
    shown = asker(ADDITION, logits).tell("55+56=", steps=True).splitlines()
    assert shown[0] == "55+56=111   right"
    assert [line.split()[1] for line in shown if line.strip().startswith("token")] == ["1", "2", "3"]


def test_an_answer_that_is_no_number_is_shown_as_it_stands():
    logits = [0.0] * 14
    logits[10] = 3.0
    assert asker(ADDITION, logits).tell("1+2=") == "1+2=+++   wrong, it is 3"


def test_the_same_seed_draws_the_same_answers():
    questions = [f"{a}+{b}=" for a in range(7) for b in range(7)]
    told = [[a.tell(q) for q in questions] for a in (asker(temperature=3.0, seed=s) for s in (1, 1, 2))]
    assert told[0] == told[1]
    assert told[0] != told[2]


def test_top_k_draws_among_the_likeliest_alone():
    drawing = asker(temperature=100.0, top_k=2)
    assert {drawing.tell("1+2=").split()[0] for _ in range(40)} == {"1+2=3", "1+2=1"}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"temperature": -1.0}, "temperature = -1.0; allowed: 0"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_k": 0}, "top_k = 0; allowed: 1 to 7"),
        ({"seed": -1}, "seed -1; allowed: 0 to"),
        ({"seed": 2**70}, "allowed: 0 to"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_first_question(wrong, complaint):
    with pytest.raises(RequestError, match=complaint):
        asker(**wrong)


@pytest.mark.parametrize("task", [MODULAR, ADDITION, Text(), ModularArithmetic(p=5, train_fraction=1.0)])
def test_the_example_is_a_question_that_the_task_understands(task):
    assert task.text([example_question(task)]) == [example_question(task)]


def test_the_example_was_not_trained_on():
    assert MODULAR.parse([example_question(MODULAR)])[0].tolist() in MODULAR.split("test").tolist()


def test_output_symbols_are_the_answers():
    assert output_symbols(MODULAR) == tuple("0123456")
    assert output_symbols(ADDITION)[:12] == (*"0123456789", "+", "=")


def rows_of(task, n=1, split="train", low=None, high=None):
    return list(token_rows(task, split, n, low, high))


def test_token_rows_show_position_token_id_target_and_loss():
    ((title, rows),) = rows_of(MODULAR)
    a, b = MODULAR.parse([title.split()[0]])[0].tolist()
    assert title == f"{a}+{b}= {(a + b) % 7}"
    assert list(rows[0]) == ["position", "token", "id", "target", "loss"]
    assert [tuple(row.values()) for row in rows] == [
        ("0", str(a), str(a), "", ""),
        ("1", str(b), str(b), "", ""),
        ("2", "=", "7", str((a + b) % 7), "yes"),
    ]


def test_token_rows_say_where_the_loss_is_masked():
    ((_, rows),) = rows_of(Text(text_to_learn="12+34=46", mask_first_n=3))
    assert [row["loss"] for row in rows] == ["masked"] * 3 + ["yes"] * 4
    assert [row["target"] for row in rows] == list("2+34=46")
    assert [row["token"] for row in rows] == list("12+34=4")


def test_token_rows_of_an_addition_end_with_the_answer_units_first():
    ((title, rows),) = rows_of(ADDITION)
    answer = int(title.split()[1])
    assert [row["target"] for row in rows if row["target"]] == list(f"{answer:03d}"[::-1])
    assert [row["position"] for row in rows] == [str(i) for i in range(8)]


def test_token_rows_show_the_rows_of_position_tables():
    ((_, rows),) = token_rows(ADDITION, "train", 1, None, None, SegmentDigit())
    assert list(rows[0]) == ["position", "segment", "place", "token", "id", "target", "loss"]
    assert "".join(row["segment"] for row in rows) == "11022033"
    assert "".join(row["place"] for row in rows) == "32132123"
    with pytest.raises(RequestError, match="the modular task has no digits; choose positions learned"):
        next(token_rows(MODULAR, "train", 1, None, None, SegmentDigit()))


def test_the_length_of_drawn_operands_can_be_chosen():
    task = Addition(n_digits=6)
    for title, _ in rows_of(task, n=30, low=2, high=3):
        assert all(2 <= len(number) <= 3 for number in title.split("=")[0].split("+"))
    longest = Addition(n_digits=20, operands=10)
    shown = rows_of(longest, n=20, low=20)
    assert len(shown) == 20
    assert all(len(number) == 20 for title, _ in shown for number in title.split("=")[0].split("+"))


def test_as_many_as_there_are_stand_for_no_number_given():
    assert len(rows_of(Text(), n=None)) == 1
    assert len(rows_of(MODULAR, n=None)) == len(rows_of(ADDITION, n=None)) == 5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"task": MODULAR, "n": 0}, "-n 0: allowed: 1 or more"),
        ({"task": MODULAR, "n": 1000}, "-n 1000: the train split has 24 questions"),
        ({"task": MODULAR, "split": "tets"}, "no split is called 'tets'; did you mean test"),
        ({"task": MODULAR, "split": "val"}, "the val split of this modular task has no questions"),
        ({"task": MODULAR, "low": 2}, "the modular task lists its questions; leave them out"),
        ({"task": ADDITION, "low": 2, "high": 1}, "--min-digits 2 --max-digits 1; allowed: 1 to 2, in order"),
        ({"task": ADDITION, "low": 0}, "--min-digits 0 --max-digits 2; allowed: 1 to 2"),
        ({"task": ADDITION, "high": 3}, "--min-digits 1 --max-digits 3; allowed: 1 to 2"),
    ],
)
def test_a_wrong_request_for_rows_is_refused_in_one_line(arguments, complaint):
    with pytest.raises(RequestError) as caught:
        rows_of(**arguments)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


SHIPPED = Path(__file__).parent.parent / "checkpoints" / "add-2d-small-s0"


def test_a_model_whose_positions_go_on_answers_numbers_longer_than_those_of_training():
    run = load_run(SHIPPED)
    longer = 10**20 - 1
    assert run.task.n_digits == 10
    assert run.add(longer, 1) == longer + 1
    assert Asker(run, "last", 0.0, None, 0).tell(f"{longer}+1=") == f"{longer}+1={longer + 1}   right"
    message = (
        r"^operands of 40 digits: the model has positions for 31; train with task.n_digits = 40, or with"
    )
    for ask in (lambda: run.add(10**39, 1), lambda: Asker(run, "last", 0.0, None, 0).task_of(f"{10**39}+1=")):
        with pytest.raises(RequestError, match=message):
            ask()


def test_padded_numbers_are_no_longer_than_those_of_training():
    with pytest.raises(RequestError, match=r"^question 100\+1=: numbers must be from 0 to 99 \(2 digits\)"):
        asker(ADDITION, [0.0] * 14).task_of("100+1=")
