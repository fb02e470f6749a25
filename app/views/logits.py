"""The answer token by token: what was weighed, what was right, at which depth it formed, and which part added it."""

from functools import partial

import streamlit as st
from charts import chart
from choice import plain
from view import View, draws

from interp_arith.figures.adders import place_maps
from interp_arith.figures.questions import weighed_tokens
from interp_arith.interp.one_question import (
    attribution_of_question,
    carries_of_question,
    lens_of_question,
    next_tokens,
)


def draw(view: View) -> None:
    """The page."""
    asked = view.question()
    if asked is None:
        return
    temperature, top_k, seed = 0.0, None, 0
    if not view.side:
        first, second, third = st.columns(3)
        temperature = first.slider(
            "Temperature (0: the likeliest)", 0.0, 2.0, 0.0, 0.1, **view.keyed("temperature")
        )
        most = view.run.task.d_vocab_out
        top_k = second.number_input(
            f"Among the k likeliest, 1 to {most} (empty: all)", 1, most, None, **view.keyed("top_k")
        )
        seed = int(third.number_input("Seed of the draws", 0, 2**31 - 1, 0, **view.keyed("draw_seed")))
    found = next_tokens(view.model, asked, temperature, None if top_k is None else int(top_k), draws(seed))
    chosen = found[found["chosen"]]
    right = str(view.run.task.answer([asked.text])[0])
    verdict = "right" if bool(chosen["right"].all()) else f"wrong; it is **{right}**"
    written = plain(" ".join(chosen["token"]))
    st.markdown(f"**{plain(asked.text)}** {written} as it is written: {verdict}")
    chart(
        weighed_tokens(found, f"what is weighed at every token, step {view.step:,}"),
        f"{view.run.name}-logits",
        found,
        view.key("weighed"),
    )
    st.caption("✓ the right token, ▸ the one that was written; the likeliest on top")
    if (columns := carries_of_question(asked)) is not None:
        st.markdown("**What truly happens in each column**")
        st.dataframe(columns, key=view.key("columns"))
    lens = lens_of_question(view.model, asked)
    maps = partial(place_maps, x="answer", x_title="token of the right answer")
    chart(
        maps(lens, y="hook", title="logit lens: probability of the right token by depth"),
        f"{view.run.name}-lens",
        lens,
        view.key("lens"),
    )
    added = attribution_of_question(view.model, asked)
    most = max(float(abs(added).max()), 1e-6)
    title = "what each part adds directly to the right token's logit (less the mean of all)"
    chart(
        maps(added, y="term", title=title, span=(-most, most)),
        f"{view.run.name}-attribution",
        added,
        view.key("attribution"),
    )
    with st.expander("Every candidate"):
        st.dataframe(found, hide_index=True, key=view.key("candidates"))
