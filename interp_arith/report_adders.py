"""What a report says of an adder: by class, where it looks, where carries are read and used, which nodes it needs."""

import html
import math
from collections.abc import Callable, Iterator, Sequence

import plotly.graph_objects as go
import xarray as xr

from interp_arith.errors import RequestError
from interp_arith.figures.adders import class_curves, place_maps, use_curves
from interp_arith.figures.circuits import circuit_diagram
from interp_arith.interp.carry_use import DECODABLE, USED, first_steps
from interp_arith.interp.measures import MEASURES
from interp_arith.run import Run
from interp_arith.tasks.addition import Addition

DEAR = (
    ("carry_decodable", "carry_used"),
    ("probe_accuracy", "single_digit_baseline"),
    ("patch_effect",),
    ("ablation_effect",),
    ("carry_route",),
)
"""Measures that are taken at the last step, together; where the run keeps more steps of them, all are shown."""
KEPT = ("circuit_nodes", "circuit_node_loss", "circuit_exact_match")
"""Those that take minutes, and are shown only where the run keeps them."""
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def adder_measures(run: Run, step: int, device: str) -> tuple[dict[str, xr.DataArray], list[str]]:
    """What the sections below need besides the measures that are not dear, each with a `step` dim.

    A measure that cannot be taken of this model is left out, and its section with it: a sentence says why.
    """

    def apply(names: Sequence[str]) -> bool:
        return all(MEASURES[name].why_not(run.task, run.config.model) is None for name in names)

    found: dict[str, xr.DataArray] = {}
    left_out: list[str] = []
    for names in filter(apply, DEAR):
        try:
            found |= run.measure(names, [step], device).data_vars  # pyright: ignore[reportOperatorIssue]
        except RequestError as error:  # such as a model that answers no question of a kind right
            left_out.append(f"{' and '.join(names)}: {error}")
    kept = run.kept([name for names in (*DEAR, KEPT) if apply(names) for name in names])
    return found | {name: x for name, x in kept.items() if step in x["step"].to_numpy()}, left_out


def adder_sections(
    run: Run,
    measures: xr.Dataset,
    dear: dict[str, xr.DataArray],
    left_out: Sequence[str],
    figure: Callable[[go.Figure], str],
    table: Table,
    definitions: Callable[..., str],
) -> Iterator[str]:
    """The sections, as HTML.

    Args:
        run: of an adder.
        measures: that are not dear, over the trajectory.
        dear: what adder_measures gives.
        left_out: why some of it is not there.
        figure: draws a figure.
        table: a table of a header and rows.
        definitions: folds of the measures of these names.
    """
    task = run.task
    assert isinstance(task, Addition)
    now = measures.isel(step=-1)
    step = int(now["step"])
    at = {name: found.sel(step=step) for name, found in dear.items()}
    answers = task.answer_names if task.padded else None
    positions = task.position_names if task.padded else None
    yield from _by_class(measures, now, figure, table, definitions)
    yield from _carries(dear, at, positions, figure, table, definitions)
    yield from _nodes(at, positions, answers, figure, table, definitions)
    yield from _looks(now, answers, figure, definitions)
    if left_out:
        yield "<h2>What could not be measured</h2>"
        yield f"<ul>{''.join(f'<li>{html.escape(reason)}</li>' for reason in left_out)}</ul>"


def _by_class(
    measures: xr.Dataset, now: xr.Dataset, figure: Callable, table: Table, definitions: Callable
) -> Iterator[str]:
    if "class_exact_match" not in now:
        return
    yield "<h2>Which questions it answers</h2>"
    yield (
        "<p>S0 has no carry; S1 has carries that go no further than one column; in S2 a carry runs on through a "
        "column that adds up to nine, and so on. M and N are differences by their borrows, those of N negative.</p>"
    )
    found = now["class_exact_match"]
    names = found["complexity"].to_numpy().tolist()
    yield table(["class", *names], [["exact match", *(f"{float(share):.3f}" for share in found)]])
    if measures.sizes["step"] > 1:
        yield figure(
            class_curves(measures["class_exact_match"], "exact match by complexity class, over training")
        )
    yield definitions("class_exact_match")


def _carries(
    dear: dict[str, xr.DataArray],
    at: dict[str, xr.DataArray],
    positions: Sequence[str] | None,
    figure: Callable,
    table: Table,
    definitions: Callable,
) -> Iterator[str]:
    if "carry_used" in at:
        yield "<h2>Where carries are, and whether they are used</h2>"
        yield (
            "<p>That a carry can be read from a model does not say that the model uses it. So beside how well the "
            "carry into a digit is read where that digit is written stands how often the digit follows when the "
            "carry of another question is put in: along the very direction that reads it, or the whole activation "
            "(one more way that a carry may be there: not along one direction).</p>"
        )
        best = {way: at["carry_used"].sel(way=way) for way in ("direction", "whole")}
        hooks = at["carry_decodable"]["hook"].to_numpy().tolist()
        rows = []
        for column in at["carry_used"]["column"].to_numpy().tolist():
            row = [f"into column {column}"]
            for hook in hooks:
                read = float(at["carry_decodable"].sel(column=column, hook=hook))
                used = [float(values.sel(column=column, hook=hook)) for values in best.values()]
                row.append(f"{read:.2f} · {used[0]:.2f} · {used[1]:.2f}")
            rows.append(row)
        yield table(["carry", *(hook.replace("blocks.", "").replace("hook_", "") for hook in hooks)], rows)
        yield "<p class=quiet>Each cell: decodable · used along the direction · used as a whole.</p>"
        shared = _same_steps(dear["carry_decodable"], dear["carry_used"])
        if shared[0].sizes["step"] > 1:
            yield figure(
                use_curves(*shared, "carries over training: decodable, and used (the best hook at each step)")
            )
            yield table(["carry", "decodable from step", "used from step"], _marks(*shared))
        yield definitions("carry_decodable", "carry_used")
    if "probe_accuracy" in at:
        found = at["probe_accuracy"]
        feature = "carry_in" if "carry_in" in found["feature"].to_numpy() else "borrow_in"
        chosen = found.sel(feature=feature).rename("probe_accuracy")
        there = chosen.notnull().any(["hook", "pos"]).to_numpy()
        yield figure(
            place_maps(
                chosen.isel(column=there),
                "pos",
                "hook",
                f"{feature.replace('_', ' ')} of each column, decoded at every place",
                panels="column",
                x_names=positions,
                x_title="position",
                span=(0.5, 1),
            )
        )
        alone = at["single_digit_baseline"].sel(feature=feature).max("pos").isel(column=there)
        said = ", ".join(
            f"{float(x):.2f} (column {c})" for c, x in zip(alone["column"].to_numpy(), alone, strict=True)
        )
        yield f"<p class=quiet>The best single token alone gives {said}.</p>"
        yield definitions("probe_accuracy", "single_digit_baseline")


def _nodes(
    at: dict[str, xr.DataArray],
    positions: Sequence[str] | None,
    answers: Sequence[str] | None,
    figure: Callable,
    table: Table,
    definitions: Callable,
) -> Iterator[str]:
    yield "<h2>Which nodes it needs</h2>"
    if "circuit_nodes" in at and positions is not None and answers is not None:
        nodes = at["circuit_nodes"]
        union = int((nodes > 0).any("answer").sum())
        match = at["circuit_exact_match"]
        yield (
            f"<p>With {union} of {nodes.isel(answer=0).size} nodes left, all others at their means, it answers "
            f"{float(match.sel(circuit='named').min()):.1%} or more of every class right; with as many random nodes "
            f"{float(match.sel(circuit='random').max()):.1%} or less.</p>"
        )
        yield figure(
            circuit_diagram(
                nodes,
                at["circuit_node_loss"],
                positions,
                answers,
                "the nodes that each token of the answer needs",
            )
        )
        yield definitions(*KEPT)
    if "patch_effect" in at:
        strong = at["patch_effect"].sel(effect="strong").max("direction").rename("patch_effect")
        yield figure(
            place_maps(
                _by_part(strong),
                "pos",
                "part",
                "patching: how often one node alone carries `generate` of a column",
                panels="column",
                x_names=positions,
                x_title="position",
            )
        )
        yield definitions("patch_effect")
    if "ablation_effect" in at:
        yield figure(
            place_maps(
                _by_part(at["ablation_effect"]),
                "pos",
                "part",
                "exact match lost when a node is held at its mean, by class",
                panels="complexity",
                x_names=positions,
                x_title="position",
            )
        )
        yield definitions("ablation_effect")
    if "carry_route" in at:
        route = at["carry_route"]
        rows = [["digit follows", *(f"{float(share):.2f}" for share in route)]]
        yield (
            "<p>Where the digit written last is changed to what it would be without its carry, the next one follows "
            "in this share: near 1 the model reads its own answer, near 0 it looks the carry up in the question.</p>"
        )
        yield table(["column", *(str(c) for c in route["column"].to_numpy())], rows)
        yield definitions("carry_route")


def _looks(
    now: xr.Dataset, answers: Sequence[str] | None, figure: Callable, definitions: Callable
) -> Iterator[str]:
    yield "<h2>Where it looks, and where the answer forms</h2>"
    if "attention_roles" in now:
        found = now["attention_roles"].stack(place=("block", "head"))
        labels = [f"head {block}.{head}" for block, head in found["place"].to_numpy().tolist()]
        flat = found.drop_vars(("place", "block", "head")).assign_coords(place=labels)
        yield figure(
            place_maps(
                flat.rename("attention"),
                "answer",
                "role",
                "attention by role",
                "place",
                answers,
                "token that is written",
            )
        )
        yield definitions("attention_roles", "answer_attention_entropy")
    if "logit_lens_accuracy" in now:
        yield figure(
            place_maps(
                now["logit_lens_accuracy"],
                "answer",
                "hook",
                "share right, if the answer were read off the stream at each depth",
                x_names=answers,
                x_title="token that is written",
            )
        )
    if "logit_attribution" in now:
        centred = now["logit_attribution"].sel(variant="centred")
        most = float(abs(centred).max())
        yield figure(
            place_maps(
                centred,
                "answer",
                "term",
                "what each part adds directly to the right token's logit (less the mean of all)",
                x_names=answers,
                x_title="token that is written",
                span=(-most, most),
            )
        )
    yield definitions("logit_lens_accuracy", "logit_attribution")


def _by_part(found: xr.DataArray) -> xr.DataArray:
    """Block and part as one dim, `part`: "0.H1"."""
    flat = found.stack(place=("block", "part"))
    labels = [f"{block}.{part}" for block, part in flat["place"].to_numpy().tolist()]
    return flat.drop_vars(("place", "block", "part")).assign_coords(place=labels).rename(place="part")


def _same_steps(first: xr.DataArray, second: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    steps = sorted({*first["step"].to_numpy().tolist()} & {*second["step"].to_numpy().tolist()})
    return first.sel(step=steps), second.sel(step=steps)


def _marks(decodable: xr.DataArray, used: xr.DataArray) -> list[list[str]]:
    """From which step on each carry is decodable, and used along the direction or as a whole, at its best hook."""
    read = first_steps(decodable.max("hook"), DECODABLE)
    follows = first_steps(used.max("hook").max("way"), USED)
    return [
        [f"into column {column}", *(_step(float(marks.sel(column=column))) for marks in (read, follows))]
        for column in decodable["column"].to_numpy().tolist()
    ]


def _step(mark: float) -> str:
    return "not reached" if math.isnan(mark) else f"{mark:,.0f}"
