"""Score a run; the result, with the failures by question, is kept in the run."""

from typing import Annotated

import pandas as pd
import tyro

from interp_arith.commands.parsing import parse
from interp_arith.evaluation.protocols import PROTOCOLS
from interp_arith.runs import evaluate, load_run
from interp_arith.tables import print_table


def run(arguments: list[str]) -> None:
    """`interp-arith evaluate`."""

    def command(
        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
        protocol: str = "test",
        step: str = "last",
        questions: int | None = None,
        max_digits: int | None = None,
        sharpen: float | None = None,
        device: str = "auto",
    ) -> None:
        """Score a run.

        Args:
            run: a run directory, or the name of one.
            protocol: how; test is every split of the run, and the others are for adders: ten-digit, million,
                length-grid, complexity.
            step: a step of the trajectory, best, or last; all is the whole trajectory, best and last of each set.
            questions: how many; of each length or class, where the protocol has any.
            max_digits: of length-grid, the last length.
            sharpen: of length-grid, what multiplies the model's attention scores.
            device: auto, cpu or cuda.
        """
        given = {"questions": questions, "max_digits": max_digits, "sharpen": sharpen}
        how = PROTOCOLS.make(protocol, **{name: value for name, value in given.items() if value is not None})
        found = load_run(run)
        table = evaluate(found, how, step, device)
        attrs = table.attrs
        print(f"{found.path}, " + ("all steps" if attrs["step"] == "all" else f"step {attrs['step']}"))
        print(f"{attrs['parameters']:,} trained parameters")
        shown = best_and_last(table) if attrs["step"] == "all" else table
        print_table(tuple(shown.columns), list(shown.itertuples(index=False)), range(1, len(shown.columns)))
        for note in attrs["notes"]:
            print(note)
        print(f"kept, with the failures by question, in {attrs['file']}")

    parse(command, "evaluate", __doc__, arguments)


def best_and_last(table: pd.DataFrame) -> pd.DataFrame:
    """Of every set, the best exact match over the steps, the first step that has it, and that of the last step."""
    rows = []
    for name, of_set in table.groupby("set", sort=False):
        shares, steps = of_set["exact_match"].tolist(), of_set["step"].tolist()
        best = max(range(len(shares)), key=lambda at: -1 if shares[at] != shares[at] else shares[at])
        rows.append(
            {
                "set": name,
                "questions": of_set["questions"].iloc[-1],
                "best_exact_match": shares[best],
                "at_step": steps[best],
                "last_exact_match": shares[-1],
            }
        )
    return pd.DataFrame(rows)
