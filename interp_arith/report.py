"""An account of a run as one page: what it learnt, when, by which frequencies, and the evidence; computes nothing.

The page carries everything it shows, plotly's script too, and opens without a network.
"""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.offline import get_plotlyjs

from interp_arith.errors import RequestError
from interp_arith.figures.attention_grids import attention_grids
from interp_arith.figures.curves import PAGE_OPTIONS, training_curves
from interp_arith.figures.frequencies import (
    frequencies_over_steps,
    frequency_bars,
    key_circles,
    neuron_clusters,
    transform_map,
)
from interp_arith.figures.progress import progress_curves
from interp_arith.files import dump_yaml, write_atomically
from interp_arith.interp.keys import KEY_COSINE
from interp_arith.interp.measures import MEASURES
from interp_arith.report_adders import adder_measures, adder_sections
from interp_arith.run import Run
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import SampledTask
from interp_arith.tasks.modular import ModularArithmetic

PICTURES = ("embedding_circles", "logit_transform", "attention_grid")
"""Measures that only figures need, taken at the last step."""
STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2430; max-width: 60rem; margin: 2.5rem auto; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { margin-top: 2.6rem; border-top: 1px solid #dde2e8; padding-top: 1.2rem; }
.lead { font-size: 1.1rem; } .quiet { color: #5b6675; font-size: .92rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } tr + tr td { border-top: 1px solid #eceff3; }
details { margin: .3rem 0; } td details { margin: 0; } summary { cursor: pointer; color: #2f5d8a; }
pre { background: #f5f7f9; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
"""


def write_report(run: Run, file: str | Path, device: str = "auto") -> Path:
    """Write the account of a run; what it needs is measured first where it is not kept in the run yet.

    Args:
        run: with a checkpoint.
        file: the page.
        device: as in train.

    Raises:
        RequestError: the run has no checkpoint, or a folder stands where the page should.
    """
    file = Path(file)
    if file.is_dir():
        raise RequestError(f"{file} is a folder; give the name of a page, such as {file / 'report.html'}")
    write_atomically(file, page(run, device).encode())
    return file


def page(run: Run, device: str = "auto") -> str:
    """The account as HTML."""
    measures = run.measure(device=device)
    last = int(measures["step"].max())
    now = measures.sel(step=last)
    pictures = _pictures(run, last, device)
    parts = [*_summary(run, measures, now), *_when(run, measures)]
    if "key_frequencies" in now:
        parts += [*_frequencies(measures, now, pictures), *_evidence(now), *_algorithm(now)]
    if isinstance(run.task, Addition):
        dear, left_out = adder_measures(run, last, device)
        parts += adder_sections(run, measures, dear, left_out, _figure, _table, _definitions)
        now = now.merge(
            {name: found.sel(step=last) for name, found in dear.items()}, compat="override", join="outer"
        )
    parts += [*_attention(now, pictures), *_numbers(now), *_recipe(run)]
    return "\n".join(
        [
            f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{_safe(run.name)}</title>",
            f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>",
            *parts,
            "</body></html>",
        ]
    )


def _pictures(run: Run, step: int, device: str) -> xr.Dataset:
    config = run.config.model
    names = [name for name in PICTURES if MEASURES[name].why_not(run.task, config) is None]
    return run.measure(names, [step], device).isel(step=0) if names else xr.Dataset()


# --- the parts ---


def _summary(run: Run, measures: xr.Dataset, now: xr.Dataset) -> Iterator[str]:
    yield f"<h1>{_safe(run.name)}</h1>"
    yield f"<p class=quiet>{_safe(_what_it_is(run))}</p>"
    sentence = f"After {int(now['step']):,} updates "
    if "test_accuracy" in now:
        right = np.floor(1e4 * float(now["test_accuracy"])) / 1e4  # 100 % is said of all, not of nearly all
        sentence += (
            f"it gets {right:.2%} of the answer tokens right on questions that it was not trained on "
            f"(loss {_loss(now, 'test')} nats)."
        )
    else:
        sentence += f"its training loss is {_loss(now, 'train')} nats."
    if "algorithm" in now:
        keys = _keys(now)
        share = float(now["logit_variance_explained"])
        name = str(now["algorithm"].item())
        by = f"by the frequencies {_listed(keys)}" if keys else "by no frequency that stands out"
        sentence += (
            f" What it does is called <b>{_safe(name)}</b> here: {by}; waves of the answer explain {share:.1%} "
            "of the variance of its logits."
        )
    yield f"<p class=lead>{sentence}</p>"
    yield _sentence_of_phases(measures)


def _when(run: Run, measures: xr.Dataset) -> Iterator[str]:
    yield "<h2>What it learnt, and when</h2>"
    if measures.sizes["step"] < 2:
        yield "<p>There is one checkpoint alone, so nothing is known of the way there.</p>"
    elif "restricted_loss" in measures:
        marks = measures.get("phases")
        yield _figure(progress_curves(measures, marks, "losses and progress measures"))
        yield (
            "<p>The restricted loss is that of the logits with nothing left but the key frequencies: it falls when "
            "the circuit forms. The excluded loss, on the training questions, is that of the logits without them: "
            "it rises when the training answers, too, come from the circuit and no longer from memory. The key "
            "frequencies are those of the last checkpoint, at every step.</p>"
        )
        yield _definitions("train_loss", "test_loss", "restricted_loss", "excluded_loss")
    else:
        yield _figure(training_curves(run.metrics, "losses and accuracies"))


def _frequencies(measures: xr.Dataset, now: xr.Dataset, pictures: xr.Dataset) -> Iterator[str]:
    keys = _keys(now)
    yield "<h2>By which frequencies</h2>"
    yield f"<p>Key frequencies: <b>{_listed(keys) or 'none'}</b>.</p>"
    yield _figure(
        frequency_bars(now["logit_cosines"], keys, "cosine of the logits with each wave", KEY_COSINE)
    )
    for name, words in (
        ("embedding_spectrum", "the embedding"),
        ("unembedding_spectrum", "the neuron-to-logit map"),
    ):
        if name in now:
            yield _figure(frequency_bars(now[name], keys, f"spectrum of {words}"))
    if "embedding_spectrum" in measures and measures.sizes["step"] > 1:
        yield _figure(
            frequencies_over_steps(
                measures["embedding_spectrum"], keys, "spectrum of the embedding over training"
            )
        )
    if "embedding_circles" in pictures and keys:
        yield _figure(key_circles(pictures["embedding_circles"], keys, "where the numbers' embeddings lie"))
    if "logit_transform" in pictures:
        yield _figure(transform_map(pictures["logit_transform"], keys, "2-D Fourier transform of the logits"))
    if "neuron_fractions" in now:
        yield _figure(
            neuron_clusters(now["neuron_fractions"], now["neuron_frequencies"], "neurons by frequency")
        )
    yield _definitions(
        "key_frequencies", "logit_cosines", "embedding_spectrum", "unembedding_spectrum", *PICTURES[:2]
    )


def _evidence(now: xr.Dataset) -> Iterator[str]:
    yield "<h2>The evidence</h2>"
    rows = []
    if "restricted_loss" in now:
        for variant in ("sum", "block", "cosine"):
            kept = now["restricted_loss"].sel(variant=variant, split="all")
            rows.append((f"restricted loss, {variant}, all questions", f"{float(kept):.3g} nats"))
    if "excluded_loss" in now:
        for variant in ("sum", "cosine"):
            gone = now["excluded_loss"].sel(variant=variant, removed="all")
            rows.append((f"excluded loss, {variant}, all key frequencies", f"{float(gone):.3g} nats"))
    if "trig_fraction" in now:
        for layer in now["layer"].to_numpy():
            share = float(now["trig_fraction"].sel(layer=layer))
            rows.append((f"share of the variance of the {layer} on the key frequencies", f"{share:.1%}"))
    if "clustered_share" in now:
        rows.append(("neurons that belong to one frequency", f"{float(now['clustered_share']):.1%}"))
    yield _table(("", "at the last checkpoint"), rows)
    keys = _keys(now)
    if keys and "excluded_loss" in now:
        yield "<p>One frequency at a time:</p>"
        yield _table(("frequency", *_per_key_titles(now)), [(str(k), *_per_key(now, k)) for k in keys])
    yield _definitions(
        "restricted_loss", "excluded_loss", "trig_fraction", "cluster_ablation", "plane_ablation"
    )


_PER_KEY = {
    "logit_cosines": ("cosine of the logits", {}),
    "excluded_loss": ("excluded loss, sum", {"variant": "sum"}),
    "cluster_ablation": ("test loss without its neurons", {}),
    "plane_ablation": ("test loss without its plane", {}),
    "clock_fit": ("clock fit", {}),
    "pizza_fit": ("pizza fit", {}),
}


def _per_key_titles(now: xr.Dataset) -> list[str]:
    return [title for name, (title, _) in _PER_KEY.items() if name in now]


def _per_key(now: xr.Dataset, key: int) -> list[str]:
    found = []
    for name, (_, choice) in _PER_KEY.items():
        if name in now:
            array = now[name].sel(choice)
            dim = "freq" if "freq" in array.dims else "removed"
            labels = [str(label) for label in array[dim].to_numpy()]
            value = float(array[labels.index(str(key))]) if str(key) in labels else np.nan
            found.append("–" if np.isnan(value) else f"{value:.4g}")
    return found


def _algorithm(now: xr.Dataset) -> Iterator[str]:
    if "algorithm" not in now:
        return
    yield "<h2>Clock or pizza</h2>"
    yield (
        f"<p>Verdict: <b>{_safe(str(now['algorithm'].item()))}</b>. Not Fourier: logit variance explained below 0.5. "
        "Else pizza: distance irrelevance (correct) below 0.4 and gradient symmetricity above 0.9. Clock: above 0.6 "
        "and below 0.7. Else mixed. The other numbers do not decide.</p>"
    )
    rows = [("logit variance explained", f"{float(now['logit_variance_explained']):.4f}")]
    if "distance_irrelevance" in now:
        for variant in ("correct", "top_wrong"):
            value = float(now["distance_irrelevance"].sel(variant=variant))
            rows.append((f"distance irrelevance, {variant}", f"{value:.4f}"))
    rows += [
        (name.replace("_", " "), f"{float(now[name]):.4f}")
        for name in ("gradient_symmetricity", "circularity")
        if name in now
    ]
    yield _table(("", "at the last checkpoint"), rows)
    yield _definitions(
        "algorithm", "distance_irrelevance", "gradient_symmetricity", "circularity", "clock_fit", "pizza_fit"
    )


def _attention(now: xr.Dataset, pictures: xr.Dataset) -> Iterator[str]:
    if "attention_grid" not in pictures:
        return
    yield "<h2>Where it looks</h2>"
    grid = pictures["attention_grid"]
    yield _figure(attention_grids(grid, "a", "attention of the last position to a"))
    yield _definitions("attention_to", "attention_periodicity", "attention_frequency", "attention_grid")


def _numbers(now: xr.Dataset) -> Iterator[str]:
    yield "<h2>Every number</h2>"
    yield "<p class=quiet>At the last checkpoint; arrays by their range. A definition is behind each name.</p>"
    rows = []
    for name in now.data_vars:
        if str(name) in MEASURES:
            measure = MEASURES[str(name)]
            units = "" if measure.units in ("1", "name") else f" {measure.units}"
            rows.append((_definition(str(name)), f"{_value(now[name])}{units}"))
    yield _table(("measure", ""), rows, safe=True)


def _recipe(run: Run) -> Iterator[str]:
    info = run.info
    yield "<h2>How to repeat it</h2>"
    yield (
        f"<p>Save the config below as <code>config.yaml</code>, then <code>interp-arith train config.yaml</code>. "
        f"It was trained on {_safe(str(info.get('device', '?')))} with {_safe(str(info.get('threads', '?')))} "
        f"threads in {float(info.get('training_seconds', 0)):,.0f} seconds.</p>"
    )
    yield f"<details open><summary>config.yaml</summary><pre>{_safe(dump_yaml(run.config.plain()))}</pre></details>"
    versions = dump_yaml(
        {k: v for k, v in info.items() if k in ("versions", "platform", "git_commit", "written")}
    )
    yield f"<details><summary>versions</summary><pre>{_safe(versions)}</pre></details>"


# --- words and tables ---


def _what_it_is(run: Run) -> str:
    task, config = run.task, run.config
    size = sum(tensor.numel() for tensor in run.weights().values())
    layers = f"{config.model.n_layers} layer{'s' if config.model.n_layers > 1 else ''}"
    model = f"{layers}, {size:,} parameters, seed {config.seed}"
    if isinstance(task, ModularArithmetic):
        n_train, n_all = len(task.split("train")), len(task.all_questions())
        return f"{task.operation} mod {task.p}, trained on {n_train:,} of all {n_all:,} questions; {model}"
    drawn = ", questions drawn anew at every step" if isinstance(task, SampledTask) else ""
    return f"{task.kind}{drawn}; {model}"


def _sentence_of_phases(measures: xr.Dataset) -> str:
    """What the marks say, in the order of the steps; nothing where there is one checkpoint alone."""
    if "phases" not in measures or measures.sizes["step"] < 2:
        return ""
    marks = zip(measures["mark"].to_numpy().tolist(), measures["phases"].to_numpy().tolist(), strict=True)
    reached = sorted(((step, name) for name, step in marks if not np.isnan(step)), key=lambda pair: pair[0])
    told = [f"at step {step:,.0f} {_MARKS[name][0]}" for step, name in reached]
    missing = [_MARKS[name][1] for name in _MARKS if name not in {found for _, found in reached}]
    order = [name for _, name in reached]
    overlap = order != [name for name in _MARKS if name in order]
    sentences = [f"At the checkpoints: {', '.join(told)}."] if told else []
    sentences += [f"Within these steps {', and '.join(missing)}."] if missing else []
    sentences += ["The phases overlap: this recipe is quick."] if overlap else []
    return f"<p>{' '.join(sentences)}</p>"


_MARKS = {
    "memorized": (
        "it knew its training questions by heart",
        "it did not get to know its training questions by heart",
    ),
    "circuit_onset": ("its circuit had begun to form", "no circuit formed"),
    "cleanup_onset": ("cleanup began", "no cleanup began"),
    "grokked": ("its test loss was below 0.01 nats", "its test loss did not fall below 0.01 nats"),
}
"""Of each mark, what is said where it is reached, and where it is not."""


def _keys(now: xr.Dataset) -> list[int]:
    is_key = now["key_frequencies"].to_numpy().astype(bool)
    return [int(k) for k in now["freq"].to_numpy()[is_key]]


def _listed(keys: Sequence[int]) -> str:
    return ", ".join(map(str, keys))


def _loss(now: xr.Dataset, split: str) -> str:
    return f"{float(now[f'{split}_loss']):.2g}"


def _value(array: xr.DataArray) -> str:
    if array.dtype.kind in "UO":
        return _safe(str(array.item())) if not array.ndim else f"{array.size} values"
    values = array.to_numpy().astype(float)
    values = values[np.isfinite(values)]
    if not values.size:
        return "–"
    return f"{values[0]:.4g}" if values.size == 1 else f"{values.min():.3g} … {values.max():.3g}"


def _definition(name: str) -> str:
    measure = MEASURES[name]
    text = f"{_safe(measure.definition.strip())}\n\nSource: {_safe(measure.source)}"
    return f"<details><summary>{_safe(name.replace('_', ' '))}</summary><pre>{text}</pre></details>"


def _definitions(*names: str) -> str:
    return "\n".join(_definition(name) for name in names if name in MEASURES)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], safe: bool = False) -> str:
    """A table of text; `safe` where the first column is HTML already."""
    head = "".join(f"<th>{_safe(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><td>{row[0] if safe else _safe(row[0])}</td>"
        + "".join(f"<td class=n>{_safe(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _figure(figure: go.Figure) -> str:
    return figure.to_html(full_html=False, include_plotlyjs=False, config=PAGE_OPTIONS)


def _safe(text: str) -> str:
    return html.escape(text)
