"""Questions and answers of a trained model as text: what the command line prints; knows no arguments."""

import shlex
from collections.abc import Iterator
from dataclasses import replace

import torch

from interp_arith.errors import RequestError, unknown
from interp_arith.evaluation.asking import lengthened, with_digits_of
from interp_arith.models.position_scheme import PositionScheme
from interp_arith.models.positions import Learned
from interp_arith.run import Run, parse_step
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Questions, SampledTask, Task
from interp_arith.tasks.sampling import SPLITS
from interp_arith.tasks.sources import split_questions

TOP = 5
"""Candidates that are shown for a token."""
SHOWN = 5
"""Questions that are shown unless a number is given."""


class Asker:
    """A model that answers questions in words.

    Args:
        run: whose model.
        step: "last", "best" or a number.
        temperature: 0 is greedy.
        top_k: draw among the k likeliest tokens only.
        seed: of the draws.
    """

    def __init__(self, run: Run, step: str, temperature: float, top_k: int | None, seed: int) -> None:
        self.task = run.task
        self.model = run.model(parse_step(step))
        self._temperature, self._top_k = temperature, top_k
        if not 0 <= seed < 2**63:
            raise RequestError(f"seed {seed}; allowed: 0 to 2**63 - 1")
        self._generator = torch.Generator().manual_seed(seed)
        # A wrong temperature or top_k is refused now, not at the first question.
        first = self.task.tokens([example_question(self.task)])
        self.model.generate_next_token(first, temperature, top_k, generator=torch.Generator())

    def task_of(self, question: str) -> Task:
        """The task that reads the question: with longer numbers than those of training, where positions go on.

        Raises:
            RequestError: no task does.
        """
        task = with_digits_of(self.model, self.task, question)
        task.parse([question])
        return task

    def tell(self, question: str, steps: bool = False) -> str:
        """The answer, whether it is right, and with `steps` what the model considered at every token."""
        task, model = self.task_of(question), self.model
        if isinstance(task, Addition) and task != self.task:
            model = lengthened(model, task)
        right = task.answer_tokens([question])
        tokens, lines = task.tokens([question]), []
        asked = tokens.shape[1]
        symbols = output_symbols(task)
        for place in range(right.shape[1]):
            new, logits = model.generate_next_token(
                tokens, self._temperature, self._top_k, generator=self._generator
            )
            lines.append(_consideration(place, symbols, logits[0], int(new), int(right[0, place])))
            tokens = torch.cat([tokens, new], dim=1)
            if int(new) == task.end_token_id:
                break
        answer, wanted = (task.read_answer(written)[0] for written in (tokens[:, asked:], right))
        verdict = "right" if answer == wanted else f"wrong, it is {wanted}"
        head = f"{task.text([question])[0]}{answer}   {verdict}"
        return "\n".join([head, *lines]) if steps else head


def example_question(task: Task) -> str:
    """A question that the task understands; one that was not trained on where there is one."""
    split = "test" if isinstance(task, SampledTask) or len(task.split("test")) else "train"
    return task.text(split_questions(task, split, 1))[0]


def account(runs: list[Run], program: str) -> str:
    """Where the runs are, why they stopped, what they reached, and what to do next with `program`."""
    lines = []
    for run in runs:
        info, stop = run.info, run.config.stop
        why = ""
        if info["step"] < info["total_steps"] and stop.metric is not None:
            why = f" ({stop.metric.replace('_', ' ')} reached {stop.threshold:g})"
        last = info["summary"]["last"]
        figures = "  ".join(
            f"{name.replace('_', ' ')} {last[name]:.4g}"
            for name in ("train_accuracy", "test_accuracy", "train_loss", "test_loss")
            if name in last
        )
        took = f"{info['training_seconds']:.0f} s"
        lines.append(f"{run.path}: {run.status} at step {info['step']}{why}, {took}   {figures}")
    path = shlex.quote(str(runs[0].path))
    return "\n".join(
        [
            *lines,
            "",
            f"Next:  open {path}/curves.html in a browser",
            f"       {program} evaluate {path}",
            f"       {program} generate {path} '{example_question(runs[0].task)}' --steps",
        ]
    )


def output_symbols(task: Task) -> tuple[str, ...]:
    """The symbols that the model can write."""
    return task.vocabulary.symbols[: task.d_vocab_out]


def _consideration(
    place: int, symbols: tuple[str, ...], logits: torch.Tensor, chosen: int, right: int
) -> str:
    """One token: the likeliest candidates with logit and probability, the chosen and the right one marked."""
    probabilities = logits.double().softmax(dim=-1)
    top = logits.topk(min(TOP, len(symbols))).indices.tolist()
    shown = top + [index for index in (chosen, right) if index not in top]
    lines = [f"  token {place + 1}      logit   probability"]
    for index in dict.fromkeys(shown):
        marks = [mark for mark, at in (("chosen", chosen), ("right", right)) if at == index]
        line = f"    {symbols[index]!r:>6} {logits[index]:>10.3f} {probabilities[index]:>13.6f}  "
        lines.append((line + ", ".join(marks)).rstrip())
    return "\n".join(lines)


Rows = list[dict[str, str]]
"""Of a table: what stands in each column, by name."""


def token_rows(
    task: Task,
    split: str,
    n: int | None,
    min_digits: int | None,
    max_digits: int | None,
    positions: PositionScheme | None = None,
) -> Iterator[tuple[str, Rows]]:
    """Each question with a row a position: position, token, id, the target there, and whether the loss counts.

    Positions that follow digits add which rows of their tables a token reads. An n of None shows 5, or as many as
    there are.

    Raises:
        RequestError: there is no such split, not so many questions, no such lengths, or the scheme does not fit.
    """
    positions = Learned() if positions is None else positions
    positions.check(task)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    limits = None
    if min_digits is not None or max_digits is not None:
        if not isinstance(task, SampledTask):
            raise RequestError(
                f"--min-digits and --max-digits: the {task.kind} task lists its questions; leave them out"
            )
        widest = task.limits
        low = widest.min_digits if min_digits is None else min_digits
        high = widest.max_digits if max_digits is None else max_digits
        if not widest.min_digits <= low <= high <= widest.max_digits:
            raise RequestError(
                f"--min-digits {low} --max-digits {high}; "
                f"allowed: {widest.min_digits} to {widest.max_digits}, in order"
            )
        limits = replace(widest, min_digits=low, max_digits=high)
    if not isinstance(task, SampledTask):
        there_are = len(task.split(split))
        if not there_are:
            raise RequestError(
                f"the {split} split of this {task.kind} task has no questions; take another --split"
            )
        n = min(SHOWN, there_are) if n is None else n
    n = SHOWN if n is None else n
    if isinstance(task, Addition) and limits is not None and limits.min_digits > 1 and n > 0:
        # One drawn number in ten begins with a zero; of ten numbers none does in a third of the questions.
        drawn = split_questions(task, split, 8 * n + 100, limits)
        is_long = (drawn[:, : task.operands] >= 10 ** (limits.min_digits - 1)).all(axis=1)
        questions = drawn[is_long][:n]
    else:
        questions = split_questions(task, split, n, limits)
    for row in range(len(questions)):
        question = questions[row : row + 1]
        yield (
            f"{task.text(question)[0]} {task.answer(question)[0]}",
            rows_of_question(task, question, positions),
        )


def rows_of_question(task: Task, question: Questions, positions: PositionScheme) -> Rows:
    """One question, a row a position; see token_rows.

    Raises:
        RequestError: it is none of the task's.
    """
    symbols, targets = task.vocabulary.symbols, output_symbols(task)
    examples = task.examples(question)
    at = {p: i for i, p in enumerate(task.answer_positions[-examples.targets.shape[1] :])}
    ids = {name: rows[0].tolist() for name, rows in positions.ids(task, examples.tokens).items()}
    rows = []
    for position, token in enumerate(examples.tokens[0].tolist()):
        place = at.get(position)
        rows.append(
            {
                "position": str(position),
                **{name: str(each[position]) for name, each in ids.items()},
                "token": symbols[token],
                "id": str(token),
                "target": "" if place is None else targets[int(examples.targets[0, place])],
                "loss": "" if place is None else ("yes" if examples.mask[0, place] else "masked"),
            }
        )
    return rows
