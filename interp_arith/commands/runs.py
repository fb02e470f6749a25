"""List the runs in a folder: steps to grok, final losses and accuracies, mean ± std over seeds."""

from pathlib import Path
from typing import Annotated

import tyro

from interp_arith.commands.parsing import PROGRAM, parse
from interp_arith.comparison import runs_table, seeds_table
from interp_arith.errors import RequestError
from interp_arith.runs import find_runs
from interp_arith.sweep_results import SweepFolder
from interp_arith.tables import print_table


def run(arguments: list[str]) -> None:
    """`interp-arith runs`."""

    def command(
        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = Path("runs"),
    ) -> None:
        """List runs.

        Args:
            folder: where they are; a sweep's folder too.
        """
        of_sweep = SweepFolder(folder)
        found = find_runs(of_sweep.runs if of_sweep.file.exists() else folder)
        if not found:
            raise RequestError(f"no runs in {folder}; train one with `{PROGRAM} train mod-add-113`")
        table = runs_table(found).dropna(axis="columns", how="all")
        for frame, first_number in ((table.drop(columns=["config", "seed"]), 2), (seeds_table(table), 1)):
            rows = list(frame.itertuples(index=False))
            print_table(tuple(frame.columns), rows, numbers=range(first_number, len(frame.columns)))

    parse(command, "runs", __doc__, arguments)
