"""Which cyclic group an operation is, and the logits of all questions re-indexed by its elements; knows no measure.

With `x`, `y`, `z` the elements of the two operands and of the answer, the right answer is z = x + y mod n for every
operation, so that what is written once for addition is right for all four:

    add: x, y, z = a, b, c                subtract: a, −b, c               (n = p)
    multiply: log a, log b, log c         divide: log a, −log b, log c     (n = p − 1, to the smallest primitive root)
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.interp.answers import answer_scores, masked_answers
from interp_arith.interp.base import Subject
from interp_arith.interp.forward import all_questions, device, row_of, split_rows
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.base import Task
from interp_arith.tasks.modular import ModularArithmetic

ADDITIVE, MULTIPLICATIVE = ("add", "subtract"), ("multiply", "divide")
INVERTED = ("subtract", "divide")


@dataclass(frozen=True)
class CyclicGroup:
    """The group that an operation is composition in.

    Attributes:
        numbers: the number that each element 0 … n−1 stands for, as operand a or answer c.
        second: the number that each element stands for as operand b; the inverses of `numbers` for subtract, divide.
    """

    numbers: Int[np.ndarray, " element"]
    second: Int[np.ndarray, " element"]

    @property
    def n(self) -> int:
        """How many elements there are."""
        return len(self.numbers)

    @property
    def frequencies(self) -> Int[np.ndarray, " freq"]:
        """1 … ⌊n/2⌋, the last one included."""
        return np.arange(1, self.n // 2 + 1)


@dataclass(frozen=True)
class CyclicTable:
    """Logits at the last position over all questions, by group element; the right answer is z = x + y mod n.

    Attributes:
        group: what the elements stand for.
        logits: float64; for a model that spells its answers, the log-probability of each answer string.
        splits: "all", "train", "test", and "val" where there is one: the questions that belong to it.
    """

    group: CyclicGroup
    logits: Float[Tensor, "x y z"]
    splits: dict[str, Bool[Tensor, "x y"]]


def no_cyclic_group(task: Task, model: ModelConfig | None = None) -> str | None:
    """Why a task has no cyclic group, whatever the model."""
    if not isinstance(task, ModularArithmetic):
        return f"the {task.kind} task is no operation of a cyclic group; add, subtract, multiply and divide mod p are"
    if task.operation not in ADDITIVE + MULTIPLICATIVE:
        return f"{task.operation} is no operation of a cyclic group; add, subtract, multiply and divide are"
    if task.operation in MULTIPLICATIVE and any(task.p % d == 0 for d in range(2, task.p)):
        return (
            f"{task.operation} mod {task.p} is no cyclic group, for {task.p} is not prime; try p = 97 or 113"
        )
    return None


def no_cyclic_table(task: Task, model: ModelConfig) -> str | None:
    """Why a model on a task has no cyclic table: no cyclic group, or answers that are scored in part."""
    return no_cyclic_group(task) or masked_answers(task)


def no_number_tokens(task: Task, model: ModelConfig) -> str | None:
    """Why there is no row of W_E for each group element, and no one position that answers."""
    if reason := no_cyclic_group(task):
        return reason
    if isinstance(task, ModularArithmetic) and task.format == "characters":
        return "numbers are spelled in characters, so that no token is a number"
    return None


def cyclic_group(task: Task) -> CyclicGroup:
    """The group of add, subtract, multiply or divide mod p.

    Raises:
        RequestError: the task's operation is that of no cyclic group.
    """
    if reason := no_cyclic_group(task):
        raise RequestError(f"cyclic group: {reason}")
    assert isinstance(task, ModularArithmetic)  # the others have none
    if task.operation in ADDITIVE:
        numbers = np.arange(task.p)
    else:
        root = smallest_primitive_root(task.p)
        numbers = np.array([pow(root, x, task.p) for x in range(task.p - 1)])
    second = numbers[-np.arange(len(numbers))] if task.operation in INVERTED else numbers
    return CyclicGroup(numbers, second)


def smallest_primitive_root(p: int) -> int:
    """The least g whose powers g⁰ … g^(p−2) are all the numbers 1 … p−1, for a prime p."""
    return next(g for g in range(1, p) if len({pow(g, x, p) for x in range(p - 1)}) == p - 1)


def group_of(subject: Subject) -> CyclicGroup:
    """The task's group."""
    return cyclic_group(subject.task)


def grid_rows(subject: Subject) -> Int[Tensor, "x y"]:
    """Which row of `all_questions` asks for x + y."""
    group = subject.get(group_of)
    pairs = np.stack(np.broadcast_arrays(group.numbers[:, None], group.second[None, :]), axis=-1)
    found = row_of(all_questions(subject), pairs.reshape(-1, 2)).reshape(group.n, group.n)
    return torch.from_numpy(found).to(device(subject))


def over_grid(subject: Subject, values: Float[Tensor, "batch unit"]) -> Float[Tensor, "x y unit"]:
    """What was found for each question, by group element."""
    rows = subject.get(grid_rows)
    return values.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def cyclic_table(subject: Subject) -> CyclicTable:
    """The table of all logits; see the module's docstring for what x, y and z are."""
    group = subject.get(group_of)
    classes = torch.from_numpy(group.numbers).to(device(subject))
    scores = subject.get(answer_scores).index_select(1, classes)
    rows = subject.get(grid_rows)
    splits = {
        name: torch.from_numpy(mask).to(rows.device)[rows] for name, mask in split_rows(subject).items()
    }
    return CyclicTable(group, over_grid(subject, scores).double(), splits)
