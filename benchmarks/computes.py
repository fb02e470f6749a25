"""The table of README on how trained models compute, from run directories: every seed, with bootstrap intervals.

    python benchmarks/computes.py RUNS README.md

RUNS holds runs of presets below, all their seeds; measures are kept in them. The others keep their row.
"""

import argparse
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import xarray as xr
from readme import replace_rows
from results import finished
from tables import table

from interp_arith.interp.bootstrap import mean_over_seeds
from interp_arith.interp.measures import measure
from interp_arith.run import Run
from interp_arith.tasks.modular import ModularArithmetic

PRESETS = ("mod-add-113", "mod-add-113-fast", "mod-sub-97", "mod-mul-97", "mod-div-97")
NAMES = (
    "logit_variance_explained",
    "key_frequencies",
    "restricted_loss",
    "excluded_loss",
    "clustered_share",
    "gini_embedding",
    "distance_irrelevance",
    "circularity",
)
HEADER = [
    "preset",
    "seeds",
    "logit variance explained",
    "least",
    "key frequencies",
    "excluded / restricted loss, least",
    "neurons in a cluster",
    "Gini of the embedding",
    "in additive characters: variance explained",
    "Gini",
    "distance irrelevance",
    "verdict",
]


def measures_of(runs: list[Run]) -> xr.Dataset:
    """The last checkpoint of every seed, along `seed`; all frequencies of a task are there for each."""
    found = []
    for run in runs:
        names = [*NAMES, "algorithm"] if run.task.operation in ("add", "multiply") else [*NAMES]  # type: ignore[attr-defined]
        last = run.measure(names, steps=[run.steps[-1]], device="cpu").isel(step=0, drop=True)
        small = xr.Dataset(
            {
                "explained": last["logit_variance_explained"],
                "keys": last["key_frequencies"].sum(),
                "restricted": last["restricted_loss"].sel(variant="sum", split="all", drop=True),
                "excluded": last["excluded_loss"].sel(variant="sum", removed="all", drop=True),
                "clustered": last["clustered_share"],
                "gini": last["gini_embedding"],
                "irrelevance": last["distance_irrelevance"].sel(variant="correct", drop=True),
                "algorithm": last.get("algorithm", xr.DataArray("–")),
                **additive(run),
            }
        )
        found.append(small.expand_dims(seed=[run.config.seed]))
    whole = xr.concat(found, dim="seed")
    assert isinstance(whole, xr.Dataset)
    return whole


def additive(run: Run) -> dict[str, xr.DataArray]:
    """The same model seen in the characters of addition, which are not its own if it multiplies or divides."""
    plain = ModularArithmetic(p=run.task.p)  # type: ignore[attr-defined]
    names = ["logit_variance_explained", "gini_embedding"]
    found = measure(run.model(), plain, names)
    return {"additive_explained": found[names[0]], "additive_gini": found[names[1]]}


def row(name: str, seeds: xr.Dataset) -> list[str]:
    """A line of the table: means with 95 % intervals, least values, counts of verdicts."""
    means = mean_over_seeds(seeds.drop_vars("algorithm"))

    def interval(which: str) -> str:
        mean, low, high = (float(means[which].sel(statistic=s)) for s in ("mean", "low", "high"))
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]"

    keys = seeds["keys"].to_numpy().astype(int)
    ratio = float((seeds["excluded"] / seeds["restricted"]).min())
    verdicts = Counter(map(str, seeds["algorithm"].to_numpy()))
    return [
        f"`{name}`",
        str(seeds.sizes["seed"]),
        interval("explained"),
        f"{float(seeds['explained'].min()):.3f}",
        f"{keys.min()}–{keys.max()}" if np.ptp(keys) else str(keys[0]),
        f"{ratio:,.0f}",
        interval("clustered"),
        interval("gini"),
        interval("additive_explained"),
        interval("additive_gini"),
        interval("irrelevance"),
        ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
        if set(verdicts) != {"–"}
        else "–",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("readme", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    groups = finished(arguments.runs)
    lines = table(HEADER, [row(name, measures_of(groups[name])) for name in PRESETS if name in groups])
    print("\n".join(replace_rows(arguments.readme, "computes", lines, PRESETS)))


if __name__ == "__main__":
    main()
