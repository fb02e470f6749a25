"""How an adder carries: accuracy by class with what fails, probes, use, the nodes of every digit."""

import streamlit as st
from charts import chart
from choice import plain
from view import View

from interp_arith.errors import RequestError
from interp_arith.figures.adders import place_maps, use_curves
from interp_arith.figures.circuits import circuit_diagram
from interp_arith.figures.curves import with_cursor
from interp_arith.figures.questions import weighed_tokens
from interp_arith.interp.one_question import OneQuestion, next_tokens
from interp_arith.interp.switches import failing_questions

PROBES = ("probe_accuracy", "single_digit_baseline", "selectivity", "gain_over_untrained")
USE = ("carry_decodable", "carry_used")
CIRCUIT = ("circuit_nodes", "circuit_node_loss", "circuit_exact_match")


def draw(view: View) -> None:
    """The page."""
    _by_class(view)
    _used(view)
    _probes(view)
    _circuit(view)


def _by_class(view: View) -> None:
    """Shares right, and questions that fail; a click shows how."""
    st.subheader("By class of question")
    found = view.at_step("class_exact_match").get("class_exact_match")
    if found is None:
        return
    names = found["complexity"].to_numpy().tolist()
    st.dataframe(
        {name: [f"{float(found.sel(complexity=name)):.3f}"] for name in names},
        key=view.key("classes"),
        hide_index=True,
    )
    st.caption(
        "exact match, 200 questions of each class; S: sums, M and N: differences without and with a minus"
    )
    failed = failing_questions(view.model, view.run.task, 100)
    if failed.empty:
        st.markdown("None of 100 questions of each class fails.")
        return
    st.markdown(
        f"**{len(failed)} of {100 * len(names)} questions fail** (100 of each class). Click one to see it written:"
    )
    clicked = st.dataframe(
        failed,
        hide_index=True,
        height=220,
        on_select="rerun",
        selection_mode="single-row",
        key=view.key("failed"),
    )
    if rows := clicked["selection"]["rows"]:
        question = failed["question"].iloc[rows[0]]
        weighed = next_tokens(view.model, OneQuestion.of(view.run.task, question))
        figure = weighed_tokens(weighed, f"{question} it writes {failed['said'].iloc[rows[0]]}")
        chart(figure, "failed", weighed, view.key("failed one"))


def _used(view: View) -> None:
    """Decodable and used, over training."""
    if not view.applies(*USE):
        return
    st.subheader("Decodable, and used")
    kept = view.kept(*USE)
    if len(kept) < len(USE):
        st.info("Where carries are read and used is not kept in the run yet.")
        view.offer_to_take(USE, "Take it at every checkpoint (some seconds each)")
        return
    steps = sorted(
        set(kept[USE[0]]["step"].to_numpy().tolist()) & set(kept[USE[1]]["step"].to_numpy().tolist())
    )
    decodable, used = (kept[name].sel(step=steps) for name in USE)
    figure = use_curves(decodable, used, "carries over training: read, and used (the best hook at each step)")
    chart(with_cursor(figure, view.step), f"{view.run.name}-use", used, view.key("use"))


def _probes(view: View) -> None:
    """The map of one feature, at the checkpoint."""
    if not view.applies("probe_accuracy"):
        return
    st.subheader("Probes")
    kept = view.kept(*PROBES)
    there = {name: x.sel(step=view.step) for name, x in kept.items() if view.step in x["step"]}
    if "probe_accuracy" not in there:
        others = (
            sorted(kept["probe_accuracy"]["step"].to_numpy().tolist()) if "probe_accuracy" in kept else []
        )
        st.info(
            "Probes of this checkpoint are not kept yet."
            + (f" They are of steps {', '.join(f'{step:,}' for step in others)}." if others else "")
        )
        if st.button("Probe this checkpoint (up to a minute)", key=view.key("probe")):
            with st.spinner("probing every feature, column, hook and position …"):
                try:
                    view.run.measure(PROBES, [view.step])
                except RequestError as error:
                    st.info(plain(str(error)))
                    return
            st.rerun()
        return
    found = there["probe_accuracy"]
    features = [str(name) for name in found["feature"].to_numpy()]
    start = next((i for i, name in enumerate(features) if name in ("carry_in", "borrow_in")), 0)
    feature = st.selectbox("Feature", features, index=start, **view.keyed("feature"))
    values = found.sel(feature=feature)
    values = values.isel(column=values.notnull().any(["hook", "pos"]).to_numpy()).rename("balanced accuracy")
    names = view.adder.position_names if view.adder.padded else None
    figure = place_maps(
        values, "pos", "hook", f"{feature.replace('_', ' ')}, decoded", "column", names, "position"
    )
    chart(figure, f"{view.run.name}-probes", values, view.key("probes"))
    if "single_digit_baseline" in there:
        alone = there["single_digit_baseline"].sel(feature=feature).max("pos")
        st.caption(
            "best single token alone: "
            + ", ".join(
                f"column {int(c)} {float(x):.2f}"
                for c, x in zip(alone["column"], alone, strict=True)
                if x == x
            )
        )


def _circuit(view: View) -> None:
    """Which nodes each digit needs, where the run keeps it."""
    if not view.applies(*CIRCUIT):
        return
    st.subheader("The nodes of every digit")
    kept = view.kept(*CIRCUIT)
    steps = kept["circuit_nodes"]["step"].to_numpy().tolist() if len(kept) == len(CIRCUIT) else []
    if not steps:
        st.info(
            "The search takes minutes, and the run keeps none yet: "
            f"`interp-arith measure {view.run.path.name} circuit_nodes circuit_node_loss circuit_exact_match`"
        )
        return
    step = min(steps, key=lambda kept_step: abs(kept_step - view.step))
    nodes, loss, match = (kept[name].sel(step=step) for name in CIRCUIT)
    task = view.adder
    title = f"which nodes each token of the answer needs, step {step:,}"
    figure = circuit_diagram(nodes, loss, task.position_names, task.answer_names, title)
    chart(figure, f"{view.run.name}-circuit", nodes, view.key("circuit"))
    named, random = (match.sel(circuit=which) for which in ("named", "random"))
    st.caption(
        f"These nodes alone, all others at their means: {float(named.min()):.1%} or more of every class right; "
        f"as many random nodes: {float(random.max()):.1%} or less."
    )
