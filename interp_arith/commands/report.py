"""Write an account of a run: what it learnt, when, and how, as one page."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from interp_arith.commands.parsing import parse
from interp_arith.report import write_report
from interp_arith.run import load_run


def run(arguments: list[str]) -> None:
    """`interp-arith report`."""

    def command(
        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
        output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html"),
        device: str = "auto",
    ) -> None:
        """Write a report.

        Args:
            run: a run directory, or the name of one.
            output: the page.
            device: auto, cpu or cuda.
        """
        found = load_run(run)
        print(f"{found.path}: measuring what is not kept yet, if anything …", file=sys.stderr)
        file = write_report(found, output, device)
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB; open it in a browser")

    parse(command, "report", __doc__, arguments)
