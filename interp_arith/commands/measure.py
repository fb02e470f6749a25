"""Take measures of a run over its trajectory; they are kept in the run."""

import re
import sys
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import tyro
import xarray as xr

from interp_arith.commands.parsing import parse
from interp_arith.errors import RequestError
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.phases import CONDITIONS, phases
from interp_arith.run import load_run
from interp_arith.tables import print_table

SHOWN_STEPS = 12
SHOWN_COLUMNS = 7
HEADLINES = {
    "restricted_loss": {"variant": "sum", "split": "all"},
    "excluded_loss": {"variant": "sum", "removed": "all"},
    "distance_irrelevance": {"variant": "correct"},
    "weight_norm": {"parameter": "total"},
}
"""Of a measure with many numbers, the one that a table shows."""


def run(arguments: list[str]) -> None:
    """`interp-arith measure`."""

    def command(
        run: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None,
        names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME …]")] = (),
        step: tuple[int, ...] = (),
        device: str = "auto",
        list: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Measure a run.

        Args:
            run: a run directory, or the name of one.
            names: of measures, or phases; all that apply and are not dear, unless given.
            step: steps of the trajectory; all, unless given.
            device: auto, cpu or cuda.
            list: say what measures there are, and measure nothing.
        """
        if list:
            rows = [(m.name, m.units, m.cost, _first_sentence(m.definition)) for m in MEASURES.values()]
            rows.append(("phases", "steps", "ordinary", _first_sentence(phases.__doc__ or "")))
            print_table(("measure", "units", "cost", "what it is"), rows)
            return
        if run is None:
            raise RequestError("measure: no run given; for example interp-arith measure runs/mod-add-113-s0")
        found = load_run(run)
        MEASURES.chosen([name for name in names if name != "phases"], found.task, found.config.model)
        print(f"{found.path}: measuring what is not kept yet, if anything …", file=sys.stderr)
        try:
            dataset = found.measure(names or None, step or None, device)
        except KeyboardInterrupt:
            print(f"{found.path}: what was measured is kept; the same command goes on", file=sys.stderr)
            raise
        _show(dataset)
        print(f"kept in {found.path}; in Python: ia.load_run({str(found.path)!r}).measure()")

    parse(command, "measure", __doc__, arguments)


def _first_sentence(text: str) -> str:
    return re.split(r"\.\s|:\n|$", text.strip(), maxsplit=1)[0].replace("\n", " ")


def _show(dataset: xr.Dataset) -> None:
    """What is one number a step as a table over steps; of all else, what it is at the last step."""
    columns = dict(_columns(dataset))
    steps = dataset["step"].to_numpy() if "step" in dataset.coords else np.array([])
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), SHOWN_STEPS)).round().astype(int))
    titles = [*columns]
    for start in range(0, len(titles), SHOWN_COLUMNS):
        part = titles[start : start + SHOWN_COLUMNS]
        rows = [(steps[i], *(_text(columns[title][i]) for title in part)) for i in chosen]
        print_table(("step", *part), rows, numbers=range(len(part) + 1))
    if len(chosen) < len(steps):
        print(f"{len(chosen)} of {len(steps)} steps are shown")
    if "phases" in dataset:
        marks = dataset["phases"]
        told = [
            f"{name} ({CONDITIONS[name]}) not reached" if np.isnan(value) else f"{name} at step {value:,.0f}"
            for name, value in zip(marks["mark"].to_numpy(), marks.to_numpy(), strict=True)
        ]
        print("phases: " + ", ".join(told))
    if "key_frequencies" in dataset:
        is_key = dataset["key_frequencies"].isel(step=-1)
        keys = is_key["freq"].to_numpy()[is_key.to_numpy().astype(bool)]
        print(f"key frequencies, of the last checkpoint: {', '.join(map(str, keys)) or 'none'}")
    shaped = [str(name) for name, array in dataset.items() if _is_wide(array)]
    if shaped:
        print("arrays: " + ", ".join(f"{n} [{' '.join(map(str, dataset[n].dims))}]" for n in shaped))


def _columns(dataset: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Each number a step: a measure without other dims, or with a few named choices."""
    for name, whole in dataset.items():
        choice = HEADLINES.get(str(name), {})
        array = whole.sel(choice, drop=True)
        if "step" not in array.dims or _is_wide(array):
            continue
        others = [dim for dim in array.dims if dim != "step"]
        if not others:
            yield f"{name}[{', '.join(choice.values())}]" if choice else str(name), array.to_numpy()
            continue
        flat = array.stack(choice=others).transpose("step", "choice")
        for index, labels in enumerate(flat["choice"].to_numpy()):
            labels = labels if isinstance(labels, tuple) else (labels,)
            yield f"{name}[{', '.join(map(str, labels))}]", flat.to_numpy()[:, index]


def _is_wide(array: xr.DataArray) -> bool:
    others = [dim for dim in array.dims if dim != "step"]
    if "step" not in array.dims:
        return False
    return any(array[dim].dtype.kind not in "UO" for dim in others) or array[0].size > 4


def _text(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "–" if np.isnan(value) else f"{value:.4g}"
    return str(value)
