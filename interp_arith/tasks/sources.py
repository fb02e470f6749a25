"""Where a run's questions come from, step by step: a split, a sampler, or data files; knows no model."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.tasks.base import Examples, SampledTask, Task
from interp_arith.tasks.sampling import SPLITS, Limits, SplitName, generator, key, later, shuffled_rows


class Source(ABC):
    """The questions of one seed.

    Attributes:
        evaluation: the sets that are scored, by name.
        constant: whether every step sees the same batch.
    """

    evaluation: dict[str, Examples]
    constant: bool

    @abstractmethod
    def batch(self, step: int, limits: Limits | None) -> Examples:
        """The batch of the update from `step` to `step` + 1: a pure function of the step."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int | None:
        """Batches in one pass over the training questions; None where they are drawn without end."""


class Rows(Source):
    """A finite set of training questions: all of them at every step, or shuffled batches."""

    def __init__(self, splits: dict[str, Examples], batch_size: int | None, seed: int) -> None:
        self.train = splits["train"]
        self._batch_size = min(batch_size or len(self.train), len(self.train))
        self._seed = seed
        self.constant = self._batch_size == len(self.train)
        self.evaluation = dict(splits)

    def batch(self, step: int, limits: Limits | None) -> Examples:
        """The whole set, or the rows of this epoch's shuffle."""
        return self.train if self.constant else self.train.rows(self.rows(step))

    def rows(self, step: int) -> Int[Tensor, " batch"]:
        """Which of the training questions a step sees."""
        if self.constant:
            return torch.arange(len(self.train))
        return torch.from_numpy(shuffled_rows(len(self.train), self._batch_size, self._seed, step))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training set."""
        return len(self.train) // self._batch_size


class Draws(Source):
    """New training questions at every step."""

    constant = False

    def __init__(self, task: SampledTask, held_out: dict[str, Examples], batch_size: int, seed: int) -> None:
        self._task, self._batch_size, self.key = task, batch_size, key(seed, "train")
        self.evaluation = dict(held_out)

    def batch(self, step: int, limits: Limits | None) -> Examples:
        """Questions drawn for this step alone."""
        return self.draw(self.key, step, limits)

    def draw(
        self, keys: Int[Tensor, "*seed"], step: int | Int[Tensor, "..."], limits: Limits | None
    ) -> Examples:
        """The batches that the sources of these keys give, drawn together where the keys are.

        Steps [step, 1] give the batches of many steps: [step seed batch …].
        """
        return self._task.encode(self._task.sample("train", self._batch_size, later(keys, step), limits))

    @property
    def steps_per_epoch(self) -> None:
        """There is no end."""
        return


def make_source(task: Task, batch_size: int | None, seed: int, data_dir: Path | None = None) -> Source:
    """The questions that a run trains on and is scored on.

    Args:
        task: what is learnt; its own splits serve unless data files are given.
        batch_size: questions a step; None is all of them.
        seed: of the shuffles and draws.
        data_dir: a folder of train.jsonl, val.jsonl and test.jsonl.
    """
    sets = {name: task.examples(questions) for name, questions in question_sets(task, data_dir).items()}
    if data_dir is not None or not isinstance(task, SampledTask):
        return Rows(sets, batch_size, seed)
    if batch_size is None:
        raise RequestError(f"batch_size: none given; the {task.kind} task draws its questions, so give one")
    return Draws(task, sets, batch_size, seed)


def question_sets(
    task: Task, data_dir: Path | None = None
) -> dict[str, Shaped[np.ndarray, "batch operands"]]:
    """The sets of questions that a run is scored on: its splits, or its data files; empty ones are left out."""
    if data_dir is not None:
        sets = read_data(task, data_dir)
    else:
        names = SPLITS[1:] if isinstance(task, SampledTask) else SPLITS
        sets = {name: task.split(name) for name in names}
    return {name: questions for name, questions in sets.items() if len(questions)}


def split_questions(
    task: Task, split: SplitName, n: int | None = None, limits: Limits | None = None
) -> Shaped[np.ndarray, "batch operands"]:
    """n questions of a split to look at or to write down.

    Listed questions come in a random order that is fixed by the task's seed, and n of None gives all in their own
    order; sampled questions are drawn, and n of None gives the fixed held-out sets and 10,000 training questions.
    """
    if n is not None and n < 1:
        raise RequestError(f"-n {n}: allowed: 1 or more")
    if isinstance(task, SampledTask) and (n is not None or split == "train" or limits is not None):
        start = later(key(task.seed, "example"), SPLITS.index(split))
        return task.questions(task.sample(split, 10_000 if n is None else n, start, limits))
    questions = task.split(split)
    if n is None:
        return questions
    if n > len(questions):
        raise RequestError(
            f"-n {n}: the {split} split has {len(questions)} questions; give at most that many"
        )
    return questions[generator(task.seed, "example").permutation(len(questions))[:n]]


def write_data(task: Task, folder: Path, n: int | None = None) -> dict[str, int]:
    """Write train.jsonl, val.jsonl and test.jsonl, one object a question; returns how many lines each has.

    Args:
        task: what is asked.
        folder: where to; made if it is missing.
        n: training questions to draw where questions are sampled.
    """
    if n is not None and not isinstance(task, SampledTask):
        raise RequestError(f"-n {n}: the {task.kind} task lists its questions, all are written; leave -n out")
    sets = {split: split_questions(task, split, n if split == "train" else None) for split in SPLITS}
    folder.mkdir(parents=True, exist_ok=True)
    for split, questions in sets.items():
        lines = (
            json.dumps({"question": question, "answer": str(answer)}, ensure_ascii=False)
            for question, answer in zip(_texts(task, questions), _answers(task, questions), strict=True)
        )
        (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return {split: len(questions) for split, questions in sets.items()}


def read_data(task: Task, folder: Path) -> dict[str, Shaped[np.ndarray, "batch operands"]]:
    """The questions of data files that write_data or somebody else wrote.

    Raises:
        RequestError: no train.jsonl or an empty one, a malformed line (its number is named), an answer that the
            task does not give, sequences over the context length (with their count), or a question to train on
            that is held out too.
    """
    if not (folder / "train.jsonl").is_file():
        raise RequestError(
            f"data folder {folder}: no train.jsonl; write one with `interp-arith data PRESET --out DIR`"
        )
    splits = {split: _read_file(task, folder / f"{split}.jsonl") for split in SPLITS}
    if not len(splits["train"]):
        raise RequestError(
            f"{folder / 'train.jsonl'} has no questions; "
            'a line looks like {"question": "23+45=", "answer": "68"}'
        )
    trained = set(map(tuple, splits["train"].tolist()))
    for split in SPLITS[1:]:
        both = [row for row in splits[split] if tuple(row.tolist()) in trained]
        if both:
            raise RequestError(
                f"{folder / f'{split}.jsonl'}: {len(both)} of {len(splits[split])} questions are in train.jsonl too, "
                f"{task.text(np.stack(both[:1]))[0]} the first; leave them out of one of the files"
            )
    return splits


def _read_file(task: Task, file: Path) -> Shaped[np.ndarray, "batch operands"]:
    if not file.is_file():
        return task.parse([])
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise RequestError(f"{file} is no UTF-8 text; write it anew with `interp-arith data`") from None
    rows = [
        (number, *_read_line(file, number, line))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    longest = [task.sequence_length(question) for _, question, _ in rows]
    over = sum(length > task.n_ctx + 1 for length in longest)
    if over:
        raise RequestError(
            f"{file}: {over} of {len(rows)} sequences are over the context length of {task.n_ctx + 1} tokens "
            f"(the longest has {max(longest)}); drop them or widen the task"
        )
    parsed = []
    for number, question, answer in rows:
        try:
            row = task.parse([question])
        except RequestError as error:
            raise RequestError(f"{file}, line {number}: {error}") from None
        if str(task.answer(row)[0]) != answer:
            raise RequestError(
                f"{file}, line {number}: {question}{answer} is wrong; right is {task.answer(row)[0]}"
            )
        parsed.append(row)
    return np.concatenate(parsed) if parsed else task.parse([])


def _read_line(file: Path, number: int, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        return str(row["question"]), str(row["answer"])
    except (json.JSONDecodeError, KeyError, TypeError):
        raise RequestError(
            f"{file}, line {number}: {line[:60]!r} is no question; "
            'a line looks like {"question": "23+45=", "answer": "68"}'
        ) from None


def _texts(task: Task, questions: np.ndarray) -> list[str]:
    return task.text(questions) if len(questions) else []


def _answers(task: Task, questions: np.ndarray) -> list[object]:
    return list(task.answer(questions)) if len(questions) else []
