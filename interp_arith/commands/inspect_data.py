"""Show questions as the model sees them: tokens, positions and loss mask."""

from typing import Annotated

import tyro

from interp_arith.commands.parsing import parse
from interp_arith.generation import token_rows
from interp_arith.models.config import ModelConfig
from interp_arith.overrides import base_config, finish_task
from interp_arith.tables import print_table
from interp_arith.tasks.base import Task


def run(arguments: list[str]) -> None:
    """`interp-arith inspect-data`."""
    start, rest = base_config("inspect-data", arguments)

    def command(
        n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None,
        min_digits: int | None = None,
        max_digits: int | None = None,
        split: str = "train",
        task: Annotated[Task, tyro.conf.FlagConversionOff] = start.task,
        model: Annotated[ModelConfig, tyro.conf.FlagConversionOff] = start.model,
    ) -> None:
        """Show questions.

        Args:
            n: how many (5, or as many as there are, unless given).
            min_digits: the shortest operands, where questions are drawn.
            max_digits: the longest.
            split: train, val or test.
            task: what is asked.
            model: whose positions are shown.
        """
        task = finish_task(start.task, task)
        for title, rows in token_rows(task, split, n, min_digits, max_digits, model.positions):
            columns = tuple(rows[0])
            numbers = [i for i, name in enumerate(columns) if name not in ("token", "target", "loss")]
            print(title)
            print_table(columns, [tuple(row.values()) for row in rows], numbers=numbers)
        moves = model.positions.moves(task)
        if moves.offset:
            print(
                "in training the places of each question are moved up by the same random offset, "
                f"0 to {moves.offset}"
            )
        if moves.gap:
            print(f"in training those from a random place on move up by a random gap too, 0 to {moves.gap}")

    parse(command, "inspect-data PRESET|CONFIG.yaml", __doc__, rest)
