"""Train a grid of configs; a file says which fields, values and seeds."""

from pathlib import Path
from typing import Annotated

import tyro

from interp_arith.commands.parsing import output_folder, parse
from interp_arith.errors import WorkError
from interp_arith.grid import Sweep, read_sweep
from interp_arith.sweep import sweep
from interp_arith.sweep_results import SweepFolder, results_table, summary_table
from interp_arith.tables import print_table


def run(arguments: list[str]) -> None:
    """`interp-arith sweep`."""

    def command(
        file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.yaml")],
        out: Path = Path("runs"),
        device: str = "auto",
        workers: int | None = None,
        ray: str | None = None,
        gpus_per_worker: float = 0.5,
        retries: int = 2,
    ) -> None:
        """Train a sweep.

        Args:
            file: a grid of config fields, and seeds.
            out: the folder in which the sweep's own folder is made.
            device: auto, cpu or cuda.
            workers: processes at once; a CPU core each unless given, one on a GPU.
            ray: the address of a Ray cluster, HOST:PORT, or auto.
            gpus_per_worker: the share of a GPU that a worker takes on Ray.
            retries: how often a job that failed or died is tried again.
        """
        plan, out = read_sweep(file), output_folder(out)
        try:
            sweep(plan, out, device, workers, ray, gpus_per_worker, retries)
        except WorkError:
            _show(plan, SweepFolder(out / plan.name))
            raise
        _show(plan, SweepFolder(out / plan.name))

    parse(command, "sweep FILE.yaml", __doc__, arguments)


def _show(plan: Sweep, folder: SweepFolder) -> None:
    """The mean over seeds of every point that has finished, and where the results are."""
    if not folder.table.is_file():
        return
    swept = plan.runs()
    means = summary_table(plan, swept, results_table(plan, swept, folder.runs))
    if not means.empty:
        first_number = len(plan.grid)
        print_table(
            tuple(means.columns), means.itertuples(index=False), range(first_number, len(means.columns))
        )
    print(f"a row a run: {folder.table}; in Python: ia.load_sweep({str(folder.path)!r})")
