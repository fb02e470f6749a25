"""Write a preset's questions as train.jsonl, val.jsonl and test.jsonl."""

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro

from interp_arith.commands.parsing import output_folder, parse, program
from interp_arith.overrides import base_config, finish_task
from interp_arith.tasks.base import Task
from interp_arith.tasks.sources import write_data
from interp_arith.training.curricula import Everything


def run(arguments: list[str]) -> None:
    """`interp-arith data`."""
    start, rest = base_config("data", arguments)

    def command(
        out: Path,
        n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None,
        task: Annotated[Task, tyro.conf.FlagConversionOff] = start.task,
    ) -> None:
        """Write data files.

        Args:
            out: the folder to write to.
            n: training questions, where the task draws them (10,000 unless given).
            task: what is asked.
        """
        counts = write_data(finish_task(start.task, task), output_folder(out), n)
        for split, count in counts.items():
            print(f"{out / split}.jsonl: {count:,} questions")
        same = [part for pair in pairwise(rest) if pair[0].startswith("--task.") for part in pair]
        if not isinstance(start.curriculum, Everything):  # it limits what is drawn, and files are not
            same += ["--curriculum.kind", "everything"]
        print("\nNext: ", program(), shlex.join(["train", arguments[0], *same, "--data-dir", str(out)]))

    parse(command, "data PRESET|CONFIG.yaml", __doc__, rest)
