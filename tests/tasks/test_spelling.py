"""Every layout against a speller that works on strings, and back."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_arith.errors import RequestError
from interp_arith.tasks import Addition

ORDERS = ("units-first", "units-last")
LAYOUTS = [
    {"operation": operation, "operand_order": asked, "answer_order": answered, **ends, "scratchpad": worked}
    for operation, asked, answered, ends, worked in itertools.product(
        ("add", "subtract", "mixed"),
        ORDERS,
        ORDERS,
        ({"padded": True}, {"padded": True, "end_token": True}, {"padded": False, "end_token": True}),
        (False, True),
    )
]
IDS = ["-".join(str(value) for value in layout.values()) for layout in LAYOUTS]


def sequence(task: Addition, questions: list[str]) -> list[str]:
    """Prompts and answers in symbols, padding as "_" and the end as "."."""
    ids = torch.cat([task.tokens(questions), task.answer_tokens(questions)], dim=1)
    short = {"<pad>": "_", "<end>": "."}
    symbols = [short.get(symbol, symbol) for symbol in task.vocabulary.symbols]
    return ["".join(symbols[i] for i in row) for row in ids.tolist()]


def written(number: int, width: int, order: str) -> str:
    text = str(number).zfill(width)
    return text if order == "units-last" else text[::-1]


def steps(x: int, y: int, minus: bool, columns: int) -> str:
    """Column after column, on Python's integers."""
    out, carry = "", 0
    big, small = (max(x, y), min(x, y)) if minus else (x, y)
    for column in range(columns):
        a, b = big // 10**column % 10, small // 10**column % 10
        value = a - b - carry if minus else a + b + carry
        after = int(value < 0) if minus else value // 10
        out += f"{a}{b}{carry}{value % 10}{after};"
        carry = after
    return out


def spelt(task: Addition, x: int, y: int, minus: bool) -> str:
    n, answer = task.n_digits, x - y if minus else x + y
    sign = "-" if answer < 0 else "+"
    width = n if task.padded else 0
    prompt = f"{written(x, width, task.operand_order)}{'-' if minus else '+'}{written(y, width, task.operand_order)}="
    columns = n if task.padded else max(len(str(x)), len(str(y)))
    digits = written(
        abs(answer), 0 if not task.padded else n + (task.operation != "subtract"), task.answer_order
    )
    sign_shown = "" if task.operation == "add" or (not task.padded and sign == "+") else sign
    body = digits + sign_shown if task.answer_order == "units-first" else sign_shown + digits
    work = ""
    if task.scratchpad:
        work = ("" if task.operation == "add" else sign) + steps(x, y, minus, columns) + "="
    target = work + body + ("." if task.end_token else "")
    total = task.n_ctx + 1
    asked = 2 * (n + 1)
    return prompt.rjust(asked, "_") + target.ljust(total - asked, "_")


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_every_layout_is_what_a_speller_of_strings_writes_and_is_read_back(layout, data):
    n = data.draw(st.integers(1, 20))
    task = Addition(n_digits=n, **layout)
    number = st.integers(0, 10**n - 1) | st.integers(0, 99).map(lambda x: x % 10**n)
    signs = {"add": "+", "subtract": "-", "mixed": "+-"}[task.operation]
    cases = [(data.draw(number), data.draw(number), data.draw(st.sampled_from(signs))) for _ in range(4)]
    questions = [f"{x}{sign}{y}=" for x, y, sign in cases]
    assert sequence(task, questions) == [spelt(task, x, y, sign == "-") for x, y, sign in cases]
    answers = [x - y if sign == "-" else x + y for x, y, sign in cases]
    assert task.read_answer(task.answer_tokens(questions)) == [str(answer) for answer in answers]
    assert task.answer(questions).tolist() == answers
    assert task.text(task.parse(questions)) == questions
    assert np.array_equal(task.questions(task.drawn(task.parse(questions))), task.parse(questions))
    assert [task.sequence_length(question) for question in questions] == [task.n_ctx + 1] * 4


@pytest.mark.parametrize(
    ("fields", "question", "expected"),
    [
        ({}, "23+45=", "023+045=8600"),
        ({"answer_order": "units-last"}, "23+45=", "023+045=0068"),
        ({"operand_order": "units-first"}, "23+45=", "320+540=8600"),
        ({"end_token": True}, "23+45=", "023+045=8600."),
        ({"padded": False, "end_token": True}, "23+45=", "__23+45=86.__"),
        ({"padded": False, "end_token": True}, "0+0=", "____0+0=0.___"),
        ({"operation": "subtract"}, "7-12=", "007-012=500-"),
        ({"operation": "subtract", "answer_order": "units-last"}, "7-12=", "007-012=-005"),
        ({"operation": "subtract", "padded": False, "end_token": True}, "12-7=", "___12-7=5.___"),
        ({"operation": "mixed"}, "7-12=", "007-012=5000-"),
        ({"operation": "mixed"}, "7+12=", "007+012=9100+"),
        ({"operands": 3}, "999+999+999=", "999+999+999=7992"),
        (
            {"scratchpad": True, "padded": False, "end_token": True},
            "23+45=",
            "__23+45=35080;24060;=86.________",
        ),
        (
            {"scratchpad": True, "operation": "subtract", "padded": False, "end_token": True},
            "23-45=",
            "__23-45=-53020;42020;=22-._______",
        ),
    ],
)
def test_layouts_worked_by_hand(fields, question, expected):
    assert sequence(Addition(n_digits=3, **fields), [question]) == [expected]


def test_ten_numbers_of_a_hundred_digits_are_exact():
    task = Addition(n_digits=100, operands=10)
    question = "+".join(["9" * 100] * 10) + "="
    assert task.answer([question]).tolist() == [10 * (10**100 - 1)]
    assert task.read_answer(task.answer_tokens([question])) == [str(10 * (10**100 - 1))]


@pytest.mark.parametrize(
    ("supervision", "steps_count", "answer_counts"),
    [("none", True, True), ("mask_steps", False, True), ("mask_answer", True, False)],
)
def test_supervision_leaves_out_the_steps_or_the_answer(supervision, steps_count, answer_counts):
    task = Addition(n_digits=2, scratchpad=True, supervision=supervision, padded=False, end_token=True)
    # "3+4=" has one step "34070;", "=", "7", the end, and padding, which never counts.
    mask = task.examples(["3+4="]).mask[0].tolist()
    assert mask == [steps_count] * 7 + [answer_counts] * 2 + [False] * (len(mask) - 9)


def columns_of(task: Addition, question: str) -> tuple[str, str]:
    """The segment and the column of every token, "." for none."""
    ids = torch.cat([task.tokens([question]), task.answer_tokens([question])], dim=1)
    places = task.places(ids)
    column = "".join("." if place < 0 else str(place) for place in places.place[0].tolist())
    return "".join(map(str, places.segment[0].tolist())), column


@pytest.mark.parametrize(
    ("fields", "question", "segment", "column"),
    [
        ({}, "23+45=", "000011112222", "210.210.0123"),
        ({"answer_order": "units-last"}, "23+45=", "000011112222", "210.210.3210"),
        ({"operand_order": "units-first"}, "23+45=", "000011112222", "012.012.0123"),
        ({"operands": 3}, "1+2+3=", "0000111122223333", "210.210.210.0123"),
        ({"operation": "subtract"}, "7-12=", "000011112222", "210.210.012."),
        ({"operation": "subtract", "answer_order": "units-last"}, "7-12=", "000011112222", "210.210..210"),
        ({"padded": False, "end_token": True}, "23+145=", "000111122222", "10.210.012.."),
    ],
)
def test_columns_of_tokens_worked_by_hand(fields, question, segment, column):
    found = columns_of(Addition(n_digits=3, **fields), question)
    if not fields.get("padded", True):
        found = tuple(part[1:] for part in found)  # one token of padding before
        assert found == (segment, column)
    assert found == (segment, column)


def test_the_columns_of_worked_steps_are_those_they_are_about():
    task = Addition(n_digits=2, scratchpad=True)
    # 23+45=  35080;24060;  =860
    assert columns_of(task, "23+45=") == (
        "000111" + "3" * 13 + "222",
        "10.10." + "00000.11111." + "." + "012",
    )


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(
        [layout for layout in LAYOUTS if layout["padded"] or layout["answer_order"] == "units-first"]
    ),
    st.data(),
)
def test_what_a_token_is_does_not_change_as_the_answer_grows(layout, data):
    task = Addition(n_digits=3, **layout)
    sign = data.draw(st.sampled_from({"add": "+", "subtract": "-", "mixed": "+-"}[task.operation]))
    question = f"{data.draw(st.integers(0, 999))}{sign}{data.draw(st.integers(0, 999))}="
    ids = torch.cat([task.tokens([question]), task.answer_tokens([question])], dim=1)
    whole = task.places(ids)
    for length in range(task.answer_positions[0] + 1, ids.shape[1]):
        part = task.places(ids[:, :length])
        assert torch.equal(part.segment, whole.segment[:, :length])
        assert torch.equal(part.place, whole.place[:, :length])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"operation": "subtract", "operands": 3},
            "operands = 3 with operation = subtract; a difference has 2: set operands to 2",
        ),
        (
            {"padded": False},
            "padded = False without end_token: answers have many lengths; set end_token to True",
        ),
        (
            {"supervision": "mask_steps"},
            "supervision = mask_steps without scratchpad: there are no steps; set scratchpad to True",
        ),
    ],
)
def test_layouts_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(RequestError) as caught:
        Addition(**fields)
    assert str(caught.value) == message


def test_columns_of_an_answer_that_ends_anywhere_cannot_be_told():
    task = Addition(padded=False, end_token=True, answer_order="units-last")
    with pytest.raises(RequestError, match="set answer_order to units-first, or padded to True"):
        task.places(task.tokens(["1+2="]))


@pytest.mark.parametrize(
    ("fields", "question", "message"),
    [
        (
            {"operation": "subtract"},
            "1+2=",
            "question '1+2=' is not of the form a-b= with two whole numbers; for example '23-45='",
        ),
        (
            {"operation": "mixed"},
            "1*2=",
            "question '1*2=' is not of the form a+b= or a-b= with two whole numbers; for example '23+45='",
        ),
        (
            {"operands": 3},
            "1+2=",
            "question '1+2=' is not of the form a+b+c= with 3 whole numbers; for example '23+45+6='",
        ),
    ],
)
def test_a_question_of_another_form_is_refused(fields, question, message):
    with pytest.raises(RequestError) as caught:
        Addition(**fields).parse([question])
    assert str(caught.value) == message


def test_mixed_questions_are_rows_with_a_sign():
    task = Addition(n_digits=3, operation="mixed")
    assert task.parse(["7+12=", "7-12="]).tolist() == [[7, 12, 0], [7, 12, 1]]
    assert task.text(np.array([[7, 12, 0], [7, 12, 1]])) == ["7+12=", "7-12="]
    with pytest.raises(RequestError, match="the last entry of a row is 0 for"):
        task.parse(np.array([[7, 12, 2]]))
