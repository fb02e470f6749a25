"""An adder's run, scored and asked: what a user sees, and what is kept."""

import json

import pytest
import torch
from chaos.small_runs import small_config
from planted_adders import Writer

from interp_arith import bars
from interp_arith.cli import main
from interp_arith.errors import RequestError, WorkError
from interp_arith.evaluation.protocols import LengthGrid, Million
from interp_arith.run import load_run
from interp_arith.runs import evaluate, train
from interp_arith.tasks import Addition, ModularArithmetic

TASK = Addition(n_digits=3, val_questions=5, test_questions=10)


def adder(folder, **fields):
    """A run of one step that adds."""
    config = {
        "name": "adder",
        "task": TASK,
        "budget": {"steps": 1},
        "schedule": {"kind": "constant"},
        **fields,
    }
    return train(small_config(**config), out=folder, device="cpu", progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return adder(tmp_path_factory.mktemp("adder"))


@pytest.fixture
def planted(monkeypatch):
    """Decoding is right but for sums that begin with 7."""
    writer = Writer(TASK, lambda row: str(row[0]).startswith("7"))
    monkeypatch.setattr("interp_arith.evaluation.asking.greedy_continuation", writer)
    return writer


def test_a_protocol_is_kept_with_parameters_notes_and_failures(run, planted):
    table = evaluate(run, "length-grid", device="cpu")
    kept = json.loads((run.path / "evaluations/length-grid-step-1.json").read_text(encoding="utf-8"))
    parameters = sum(p.numel() for p in run.model().trained_parameters().values())
    assert table.attrs["parameters"] == kept["parameters"] == parameters
    assert kept["table"] == table.to_dict("records")
    assert kept["notes"] == list(table.attrs["notes"])
    assert kept["notes"][0].startswith("the model has positions for operands of at most 3 digits")
    assert len(kept["failures"]) == table["wrong"].sum() > 0
    assert all(failure["question"].startswith("7") for failure in kept["failures"])


def test_a_small_model_answers_with_one_thread_and_threads_are_set_back(run, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    before, used = torch.get_num_threads(), []
    torch.set_num_threads(2)
    monkeypatch.setattr(
        "interp_arith.evaluation.asking.greedy_continuation",
        lambda *asked: used.append(torch.get_num_threads()) or Writer(TASK)(*asked),
    )
    try:
        evaluate(run, "length-grid", device="cpu")
        assert set(used) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_tied_matrix_counts_once(tmp_path):
    model = {"d_model": 4, "n_heads": 1, "attention_only": True, "tied": True, "n_ctx": 11}
    run = adder(tmp_path, model=model)
    tokens, positions, attention = 14 * 4, 11 * 4, 4 * 4 * 4
    assert evaluate(run, device="cpu").attrs["parameters"] == tokens + positions + attention


def test_the_command_prints_the_table_the_parameters_and_the_notes(run, planted, capsys):
    assert main(["evaluate", str(run.path), "--protocol", "length-grid", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    parameters = evaluate(run, "length-grid", device="cpu").attrs["parameters"]
    assert lines[:2] == [f"{run.path}, step 1", f"{parameters:,} trained parameters"]
    assert [line.split()[0] for line in lines if "length_" in line] == [
        "length_1",
        "length_2",
        "length_3",
    ]
    assert "the model has positions for operands of at most 3 digits; twice" in printed.out


def test_fields_of_a_protocol_are_given_on_the_command_line(run, planted, capsys):
    protocol = ["--protocol", "length-grid", "--questions", "4", "--max-digits", "2", "--sharpen", "1.5"]
    assert main(["evaluate", str(run.path), *protocol, "--device", "cpu"]) == 0
    file = run.path / "evaluations/length-grid-sharpened-1.5-4-each-step-1.json"
    assert capsys.readouterr().out.endswith(f"in {file}\n")
    kept = json.loads(file.read_text(encoding="utf-8"))["table"]
    assert [(row["set"], row["questions"]) for row in kept] == [("length_1", 4), ("length_2", 4)]


def test_a_field_that_the_protocol_does_not_have_is_one_line(run, capsys):
    assert main(["evaluate", str(run.path), "--protocol", "million", "--max-digits", "2"]) == 2
    message = "no field of million is called 'max_digits'"
    assert capsys.readouterr().err.startswith(f"interp-arith: {message}")


def test_all_steps_are_shown_as_best_and_last(tmp_path, monkeypatch, capsys):
    run = adder(tmp_path, budget={"steps": 2})
    assert run.steps == [0, 1, 2]
    wrong = iter([lambda row: True, lambda row: False, lambda row: row[0] % 2 == 0])
    protocol = LengthGrid(max_digits=2, questions=30)

    def evaluated(self, model, task, sets, progress):
        monkeypatch.setattr("interp_arith.evaluation.asking.greedy_continuation", Writer(TASK, next(wrong)))
        return plain(self, model, task, sets, progress)

    plain = LengthGrid.evaluate
    monkeypatch.setattr(LengthGrid, "evaluate", evaluated)
    table = evaluate(run, protocol, "all", device="cpu")
    assert table["step"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["exact_match"].tolist()[:4] == [0, 0, 1, 1]
    assert 0 < table["exact_match"].iloc[-1] < 1
    files = {file.name for file in (run.path / "evaluations").iterdir()}
    assert files == {f"length-grid-30-each-step-{step}.json" for step in run.steps}
    wrong = iter([lambda row: True, lambda row: False, lambda row: row[0] % 2 == 0])
    command = ["evaluate", str(run.path), "--protocol", "length-grid", "--step", "all", "--questions", "30"]
    assert main([*command, "--max-digits", "2", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert f"{run.path}, all steps" in shown
    last = table["exact_match"].iloc[-1]
    assert ["length_2", "30", "1", "1", f"{last:.4g}"] in [line.split() for line in shown.splitlines()]


def test_a_protocol_that_the_model_is_too_small_for_is_one_line(run, capsys):
    assert main(["evaluate", str(run.path), "--protocol", "ten-digit", "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "interp-arith: operands of 10 digits: the model has positions for 3; train with task.n_digits = 10, "
        "or with model.n_ctx = 32\n"
    )


def test_ctrl_c_is_one_line_and_keeps_nothing(run, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Million, "evaluate", interrupted)
    assert main(["evaluate", str(run.path), "--protocol", "million", "--device", "cpu"]) == 130
    assert capsys.readouterr() == ("", "interp-arith: interrupted\n")
    assert not (run.path / "evaluations/million-step-1.json").exists()


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch, capsys):
    for terminal, is_shown, drawn in ((True, True, True), (False, True, False), (True, False, False)):
        with monkeypatch.context() as patch:
            if terminal:
                patch.setenv("FORCE_COLOR", "1")
            with bars.bar("million", is_shown) as told:
                told(5, 10)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert ("million" in shown.err) is drawn


class TestAdd:
    def test_it_answers_as_the_model_does(self, run, monkeypatch):
        task, asked = run.task, []

        def answers(model, task, questions):
            asked.extend(questions)
            return task.answer_tokens(["100+23="])

        monkeypatch.setattr("interp_arith.run.greedy_answers", answers)
        assert run.add(4, 5) == 123
        assert asked == ["4+5="]
        assert task.text(asked) == ["4+5="]

    def test_a_real_answer_is_that_of_generate(self, tmp_path):
        run = adder(tmp_path, budget={"steps": 40})
        prompt = run.task.tokens(["12+34="])
        written = run.task.read_answer(run.model().generate(prompt, 4)[:, -4:])[0]
        if written.isdigit():
            assert run.add(12, 34) == int(written)
        else:
            with pytest.raises(WorkError, match="which is no number"):
                run.add(12, 34)

    def test_an_answer_that_is_no_number_is_said(self, run, monkeypatch):
        written = torch.tensor([[1, 10, 3, 0]])
        monkeypatch.setattr("interp_arith.run.greedy_answers", lambda *_: written)
        with pytest.raises(WorkError) as raised:
            run.add(1, 2)
        assert str(raised.value) == (
            "1+2= is answered '03+1', which is no number; a model of a later step may have learnt it"
        )

    @pytest.mark.parametrize(
        ("numbers", "complaint"),
        [
            ((1000, 1), "question 1000+1=: numbers must be from 0 to 999 (3 digits)"),
            ((-1, 2), "question '-1+2=' is not of the form a+b="),
            ((1.5, 2), "question '1.5+2=' is not of the form a+b="),
        ],
    )
    def test_numbers_that_the_task_does_not_know_are_refused(self, run, numbers, complaint):
        with pytest.raises(RequestError) as raised:
            run.add(*numbers)
        assert str(raised.value).startswith(complaint)

    @pytest.mark.parametrize(
        "task",
        [
            ModularArithmetic(p=7, train_fraction=0.5),
            TASK.model_copy(update={"operation": "subtract"}),
            TASK.model_copy(update={"operands": 3}),
        ],
        ids=["modular", "subtract", "three"],
    )
    def test_a_task_that_does_not_add_two_numbers_is_refused(self, tmp_path, task):
        run = adder(tmp_path, task=task)
        with pytest.raises(RequestError) as raised:
            run.add(1, 2)
        assert str(raised.value) == (
            f"{run.path}: its task does not add two whole numbers; ask it with `interp-arith generate`"
        )

    def test_sums_of_a_mixed_task_are_asked_with_plus(self, tmp_path, monkeypatch):
        run = adder(tmp_path, task=TASK.model_copy(update={"operation": "mixed"}))
        monkeypatch.setattr(
            "interp_arith.run.greedy_answers", lambda model, task, questions: task.answer_tokens(questions)
        )
        assert run.add(120, 30) == 150


class TestTheShippedAdder:
    @pytest.mark.parametrize(
        ("a", "b"),
        [(0, 0), (0, 1), (9_999_999_999, 1), (1_234_567_890, 9_876_543_210), (1_111_111_111, 8_888_888_889)],
    )
    def test_it_adds(self, a, b):
        assert load_run("add-10d-tiny-s0").add(a, b) == a + b

    def test_its_evaluations_are_those_of_its_card(self):
        run = load_run("add-10d-tiny-s0")
        card = (run.path / "CARD.md").read_text()
        for protocol in ("ten-digit", "million", "complexity"):
            file = run.path / "evaluations" / f"{protocol}-step-{run.steps[-1]}.json"
            for row in json.loads(file.read_text())["table"]:
                assert f"{row['right']:,} of {row['questions']:,} right" in card
