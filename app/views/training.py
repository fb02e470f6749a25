"""How a run was trained: losses, accuracies, progress measures with phases; several runs side by side."""

import pandas as pd
import streamlit as st
import xarray as xr
from charts import chart
from choice import run_paths
from view import View

from interp_arith.figures.adders import class_curves
from interp_arith.figures.curves import with_cursor
from interp_arith.figures.progress import SHARES, progress_curves
from interp_arith.figures.questions import run_curves
from interp_arith.interp.phases import phases
from interp_arith.storage import RunDirectory
from views import logged

LOSSES = ("train_loss", "test_loss", "restricted_loss", "excluded_loss", "train_accuracy", "test_accuracy")


def draw(view: View) -> None:
    """The page."""
    if not logged.draw(view):
        return
    if "Fourier" not in view.left_out:
        _progress(view)
    if "Carries" not in view.left_out:
        _classes(view)
    if not view.side:
        _beside(view)


def _metrics(directory: RunDirectory) -> pd.DataFrame:
    return pd.DataFrame(directory.read_metrics())


def _progress(view: View) -> None:
    """The signature figure of grokking, with its phases and a line at the slider."""
    st.subheader("Progress measures and phases")
    kept = view.kept(*LOSSES, *SHARES)
    needed = [name for name in LOSSES if view.applies(name)]
    if any(name not in kept or kept[name].sizes["step"] < len(view.run.steps) for name in needed):
        st.info("These are not kept in the run for every checkpoint yet.")
        view.offer_to_take(needed, "Take them (seconds a checkpoint)")
        return
    whole = xr.Dataset(kept)
    restricted = whole["restricted_loss"].sel(variant="sum", split="all", drop=True)
    marks = phases(whole["train_accuracy"], whole["test_loss"], restricted)
    figure = with_cursor(progress_curves(whole, marks, "losses and progress measures"), view.step)
    chart(figure, f"{view.run.name}-progress", whole[["train_loss", "test_loss"]], view.key("progress"))
    said = [
        f"{name.replace('_', ' ')}: {'not reached' if step != step else f'step {step:,.0f}'}"
        for name, step in zip(marks["mark"].to_numpy().tolist(), marks.to_numpy().tolist(), strict=True)
    ]
    st.caption(" · ".join(said))


def _classes(view: View) -> None:
    st.subheader("By class of question")
    found = view.kept("class_exact_match").get("class_exact_match")
    if found is None or found.sizes["step"] < 2:
        st.info("Exact match by complexity class is not kept in the run yet.")
        view.offer_to_take(["class_exact_match"], "Take it at every checkpoint")
        return
    figure = with_cursor(class_curves(found, "exact match by complexity class"), view.step)
    chart(figure, f"{view.run.name}-classes", found, view.key("classes"))


def _beside(view: View) -> None:
    """Other runs on the same axes."""
    st.subheader("Several runs")
    paths = run_paths()
    others = st.multiselect(
        "Beside it", [name for name in paths if name != view.run.name], **view.keyed("with")
    )
    own = _metrics(view.directory)
    found = {view.run.name: own} | {name: _metrics(RunDirectory(paths[name])) for name in others}
    names = [c for c in own.columns if c.endswith(("_loss", "_accuracy", "_exact_match"))]
    metric = st.selectbox(
        "Metric", names, index=names.index("test_loss") if "test_loss" in names else 0, **view.keyed("metric")
    )
    figure = run_curves(found, metric, metric.replace("_", " "), view.step)
    rows = [frame[["step", metric]].assign(run=name) for name, frame in found.items() if metric in frame]
    chart(figure, f"{metric}-of-runs", pd.concat(rows), view.key("runs"))
