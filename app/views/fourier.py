"""How a modular model computes: spectra, circles, neurons, logits over a × b, losses by frequency."""

import streamlit as st
from charts import chart
from view import View

from interp_arith.figures.frequencies import frequency_bars, key_circles
from interp_arith.figures.questions import pair_grid
from interp_arith.interp.one_question import units_over_pairs

SPECTRA = {
    "embedding_spectrum": "spectrum of the embedding",
    "unembedding_spectrum": "spectrum of the neuron-to-logit map",
}


def draw(view: View) -> None:
    """The page."""
    found = view.at_step(
        "key_frequencies", *SPECTRA, "restricted_loss", "excluded_loss", "neuron_frequencies",
        "test_loss", "train_loss",
    )  # fmt: skip
    if "key_frequencies" not in found:
        return
    is_key = found["key_frequencies"].astype(bool)
    keys = [int(k) for k in is_key["freq"].to_numpy()[is_key.to_numpy()]]
    st.markdown(f"At step {view.step:,} the key frequencies are **{', '.join(map(str, keys)) or 'none'}**.")
    _losses(found)
    for name, title in SPECTRA.items():
        if name in found:
            figure = frequency_bars(found[name], keys, title)
            chart(figure, f"{view.run.name}-{name}", found[name], view.key(name))
    if keys and view.applies("embedding_circles"):
        circles = view.picture("embedding_circles")
        figure = key_circles(circles, keys, "where the numbers' embeddings lie, by key frequency")
        chart(figure, f"{view.run.name}-circles", circles, view.key("circles"))
    _over_pairs(view, found)


def _losses(found) -> None:
    """The losses that tell memory from circuit, at the slider."""
    shown = {
        "train loss": (found.get("train_loss"), "of the training questions"),
        "test loss": (found.get("test_loss"), "of the test questions"),
        "restricted loss": (
            _chosen(found, "restricted_loss", split="all"),
            "of all questions, from the key frequencies of the logits alone (of x + y: sum)",
        ),
        "excluded loss": (
            _chosen(found, "excluded_loss", removed="all"),
            "of the training questions, without any key frequency (of x + y: sum)",
        ),
    }
    there = {name: pair for name, pair in shown.items() if pair[0] is not None}
    for column, (name, (value, words)) in zip(st.columns(len(there)), there.items(), strict=True):
        column.metric(f"{name} (nats)", f"{float(value):.3g}", help=words)


def _chosen(found, name: str, **choice: str):
    return None if name not in found else found[name].sel(variant="sum", **choice)


def _over_pairs(view: View, found) -> None:
    """One neuron, with its frequency, and one answer's logit over all questions."""
    config = view.run.config.model
    st.subheader("Over all questions")
    left, right = st.columns(2)
    most = config.d_mlp - 1
    neuron = None
    if not config.attention_only:
        neuron = int(left.number_input(f"Neuron, 0 to {most}", 0, most, 0, **view.keyed("neuron")))
    most = view.run.task.d_vocab_out - 1
    token = int(right.number_input(f"Logit of the answer, 0 to {most}", 0, most, 0, **view.keyed("logit")))
    units = units_over_pairs(view.model, view.run.task, token, neuron)
    if neuron is not None:
        tuned = found.get("neuron_frequencies")
        frequency = "" if tuned is None else _tuned(float(tuned.sel(neuron=neuron)))
        title = f"neuron {neuron} of block {config.n_layers - 1}{frequency}"
        _pairs(view, left, units["activation"], title, f"neuron-{neuron}")
    _pairs(view, right, units["logit"], f"logit of the answer {token}", f"logit-{token}")


def _pairs(view: View, where, grid, title: str, name: str) -> None:
    with where:
        figure = pair_grid(grid, title, str(grid.name))
        chart(figure, f"{view.run.name}-{name}", grid, view.key(f"{grid.name} grid"))


def _tuned(frequency: float) -> str:
    return ", silent" if frequency != frequency else f", tuned to frequency {frequency:.0f}"
