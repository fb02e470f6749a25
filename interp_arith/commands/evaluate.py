"""Score a run; the result, with the failures by question, is kept in the run."""

from typing import Annotated

import tyro

from interp_arith.commands.parsing import parse
from interp_arith.runs import evaluate, load_run
from interp_arith.tables import print_table


def run(arguments: list[str]) -> None:
    """`interp-arith evaluate`."""

    def command(
        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
        protocol: str = "test",
        step: str = "last",
        device: str = "auto",
    ) -> None:
        """Score a run.

        Args:
            run: a run directory, or the name of one.
            protocol: how; test is every split of the run, and the others are for adders: ten-digit, million,
                length-grid, complexity.
            step: a step of the trajectory, best, or last.
            device: auto, cpu or cuda.
        """
        found = load_run(run)
        table = evaluate(found, protocol, step, device)
        rows = list(table.itertuples(index=False))
        print(f"{found.path}, step {table.attrs['step']}")
        print(f"{table.attrs['parameters']:,} trained parameters")
        print_table(tuple(table.columns), rows, numbers=range(1, len(table.columns)))
        for note in table.attrs["notes"]:
            print(note)
        print(f"kept, with the failures by question, in {table.attrs['file']}")

    parse(command, "evaluate", __doc__, arguments)
