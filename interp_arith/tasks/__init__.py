"""WHAT is learnt. One line a task."""

from interp_arith.registry import Registry
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.modular import ModularArithmetic
from interp_arith.tasks.permutations import PermutationComposition
from interp_arith.tasks.text import Text

TASKS: Registry[Task] = Registry(
    "task",
    ModularArithmetic,
    PermutationComposition,
    Addition,
    Text,
)
