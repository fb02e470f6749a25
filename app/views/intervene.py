"""Switch parts of a model off, hold them, patch them, sharpen attention; beside it the model as it is."""

import streamlit as st
from charts import chart
from choice import plain
from torch import Tensor
from view import View

from interp_arith.errors import RequestError
from interp_arith.figures.questions import weighed_tokens
from interp_arith.interp.one_question import OneQuestion, next_tokens
from interp_arith.interp.switches import Switches, Way, changed_scores, held_out_examples, switched

WAYS: dict[Way, str] = {
    "zero": "switched off (zero)",
    "mean": "held at its mean",
    "patch": "taken from another question",
}


def draw(view: View) -> None:
    """The page."""
    asked = view.question()
    if asked is None:
        return
    switches, other = _switches(view, asked)
    if switches is None:
        return
    model = view.model
    before = next_tokens(model, asked)
    with switched(model, switches, other):
        after = next_tokens(model, asked)
    left, right = st.columns(2)
    with left:
        title = f"{asked.text} as it is: {_said(before)}"
        chart(weighed_tokens(before, title, 3), "untouched", before, view.key("before"))
    with right:
        title = f"{asked.text} changed: {_said(after)}"
        chart(weighed_tokens(after, title, 3), "changed", after, view.key("after"))
    if switches.way == "patch":
        st.caption(
            "Scores of many questions are of what is switched off or held; a patch is of one question."
        )
        return
    st.subheader("Of many questions")
    scores = changed_scores(model, view.run.task, switches)
    st.dataframe(scores.round(4), hide_index=True, key=view.key("scores"))
    st.caption("shares of whole answers that are right; loss in nats an answer token")


def _switches(view: View, asked: OneQuestion) -> tuple[Switches | None, Tensor | None]:
    """What is chosen on the page, and the questions that values are taken from."""
    config = view.run.config.model
    heads = [(block, head) for block in range(config.n_layers) for head in range(config.n_heads)]
    first, second, third = st.columns(3)
    chosen = first.multiselect(
        "Heads", heads, format_func=lambda head: f"{head[0]}.{head[1]}", **view.keyed("heads_off")
    )
    mlps, neurons = [], []
    if not config.attention_only:
        mlps = second.multiselect("MLPs (blocks)", list(range(config.n_layers)), **view.keyed("mlps_off"))
        neurons = _neurons(view, second)
    way = third.radio("They are", list(WAYS), format_func=WAYS.__getitem__, **view.keyed("way")) or "zero"
    scale = third.slider("Attention scores ×", 0.0, 3.0, 1.0, 0.1, **view.keyed("scale"))
    switches = Switches(tuple(chosen), tuple(mlps), tuple(neurons), scale, way)
    if way == "mean":
        return switches, held_out_examples(view.run.task, 300).tokens
    if way == "patch":
        typed = st.text_input(
            "The other question", "", placeholder="of the same length", **view.keyed("source")
        )
        try:
            source = OneQuestion.of(view.run.task, typed.strip() or asked.text)
        except RequestError as error:
            st.warning(plain(str(error)))
            return None, None
        if source.examples.tokens.shape != asked.examples.tokens.shape:
            st.warning(plain(f"{source.text} is not as long as {asked.text}; positions would not match"))
            return None, None
        return switches, source.examples.tokens
    return switches, None


def _neurons(view: View, where) -> list[tuple[int, int]]:
    """Those of the last block that are tuned to the chosen frequencies, in a modular model."""
    if "Fourier" in view.left_out:
        return []
    tuned = view.at_step("neuron_frequencies").get("neuron_frequencies")
    if tuned is None:
        return []
    values = tuned.to_numpy()
    counts = {int(k): int((values == k).sum()) for k in sorted({v for v in values.tolist() if v == v})}
    chosen = where.multiselect(
        "Neurons of frequency",
        list(counts),
        format_func=lambda k: f"{k} ({counts[k]} neurons)",
        **view.keyed("frequencies_off"),
    )
    block = view.run.config.model.n_layers - 1
    return [(block, index) for index, value in enumerate(values.tolist()) if value in chosen]


def _said(found) -> str:
    chosen = found[found["chosen"]]
    return f"{' '.join(chosen['token'])} ({'right' if chosen['right'].all() else 'wrong'})"
