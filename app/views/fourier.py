"""How a modular model computes: spectra, circles, neurons, logits over a × b, losses by frequency."""

import streamlit as st
from charts import chart
from state import View

from interp_arith.figures.frequencies import frequency_bars, key_circles
from interp_arith.figures.questions import pair_grid
from interp_arith.interp.one_question import over_grid_of_pairs

SPECTRA = {
    "embedding_spectrum": "spectrum of the embedding",
    "unembedding_spectrum": "spectrum of the neuron-to-logit map",
}


def draw(view: View) -> None:
    """The page."""
    found = view.at_step(
        "key_frequencies", *SPECTRA, "embedding_circles", "restricted_loss", "excluded_loss",
        "logit_variance_explained", "neuron_frequencies", "test_loss", "train_loss",
    )  # fmt: skip
    if "key_frequencies" not in found:
        return
    is_key = found["key_frequencies"].to_numpy().astype(bool)
    keys = [
        int(k) for k in found["freq" if "freq" in found else "key_frequencies"]["freq"].to_numpy()[is_key]
    ]
    st.markdown(f"At step {view.step:,} the key frequencies are **{', '.join(map(str, keys)) or 'none'}**.")
    _losses(found)
    for name, title in SPECTRA.items():
        if name in found:
            figure = frequency_bars(found[name], keys, title)
            chart(figure, f"{view.run.name}-{name}", found[name], view.key(name))
    if "embedding_circles" in found and keys:
        figure = key_circles(
            found["embedding_circles"], keys, "where the numbers' embeddings lie, by key frequency"
        )
        chart(figure, f"{view.run.name}-circles", found["embedding_circles"], view.key("circles"))
    _neurons(view, found)
    _logits(view)


def _losses(found) -> None:
    """The losses that tell memory from circuit, at the slider."""
    shown = {
        "train loss": found.get("train_loss"),
        "test loss": found.get("test_loss"),
        "restricted loss (sum, all)": _chosen(found, "restricted_loss", split="all"),
        "excluded loss (sum, all keys)": _chosen(found, "excluded_loss", removed="all"),
    }
    there = {name: value for name, value in shown.items() if value is not None}
    for column, (name, value) in zip(st.columns(len(there) + 1), there.items(), strict=False):
        column.metric(f"{name}, nats", f"{float(value):.3g}")


def _chosen(found, name: str, **choice: str):
    return None if name not in found else found[name].sel(variant="sum", **choice)


def _neurons(view: View, found) -> None:
    """One neuron over all questions, and its frequency."""
    config = view.run.config.model
    if config.attention_only:
        return
    st.subheader("Neuron by neuron")
    most = config.d_mlp - 1
    neuron = int(st.number_input(f"Neuron, 0 to {most}", 0, most, 0, **view.keyed("neuron")))
    block = config.n_layers - 1
    grid = over_grid_of_pairs(view.model, view.run.task, f"blocks.{block}.mlp.hook_post", neuron)
    tuned = found.get("neuron_frequencies")
    frequency = "" if tuned is None else _tuned(float(tuned.sel(neuron=neuron)))
    title = f"neuron {neuron} of block {block}{frequency}"
    chart(
        pair_grid(grid, title, "activation"),
        f"{view.run.name}-neuron-{neuron}",
        grid,
        view.key("neuron grid"),
    )


def _tuned(frequency: float) -> str:
    return ", silent" if frequency != frequency else f", tuned to frequency {frequency:.0f}"


def _logits(view: View) -> None:
    """One answer's logit over all questions."""
    st.subheader("Logits over a and b")
    most = view.run.task.d_vocab_out - 1
    token = int(st.number_input(f"Answer, 0 to {most}", 0, most, 0, **view.keyed("logit")))
    grid = over_grid_of_pairs(view.model, view.run.task, "logits", token)
    chart(
        pair_grid(grid, f"logit of the answer {token}", "logit"),
        f"{view.run.name}-logit-{token}",
        grid,
        view.key("logit grid"),
    )
