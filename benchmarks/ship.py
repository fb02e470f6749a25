"""A trained run made small enough to come with the repository: some of its trajectory, what it reached, and a card.

    python benchmarks/ship.py RUN checkpoints/NAME [--checkpoints 32]

The steps kept are those of a geometric and an even spacing together, the first and the last among them. What only a
resume needs (full states, best weights) stays behind. A modular run is measured; an adder brings the evaluations that
`interp-arith evaluate --protocol` left in it. A run that it started from (`--init-from`) becomes that run's name.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from interp_arith.errors import RequestError
from interp_arith.files import dump_yaml, write_atomically
from interp_arith.run import Run
from interp_arith.storage import RunDirectory
from interp_arith.tasks.addition import Addition

_WORDS = {"ten_digit": "edge and random pairs"}
PROTOCOLS = ("ten-digit", "million", "length-grid", "complexity")
RECIPE = ("optimizer", "schedule", "curriculum", "budget", "batch_size", "clip_norm")
COPIED = ("config.yaml", "run.json", "metrics.jsonl", "train.log", "split.npy")


def chosen(steps: list[int], n: int) -> list[int]:
    """About n of the steps, evenly in number and in logarithm; the first and the last are among them."""
    positive = [step for step in steps if step > 0]
    wanted = [
        0.0,
        *np.linspace(positive[0], positive[-1], n // 2),
        *np.geomspace(positive[0], positive[-1], n // 2),
    ]
    return sorted({min(steps, key=lambda step: abs(step - x)) for x in wanted})


def ship(run: Run, folder: Path, n: int) -> Run:
    """Copy the run's account and some of its checkpoints; the weights' hashes are checked on the way.

    What was shipped to the folder before goes.

    Raises:
        RequestError: see `check`.
    """
    shipped = RunDirectory(folder)
    check(run, shipped)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in COPIED:
        if (run.path / name).is_file():
            shutil.copyfile(run.path / name, folder / name)
    if run.config.init_from is not None:  # found by name in runs/ or checkpoints/, wherever it lay
        config = run.config.replace(init_from=Path(run.config.init_from).name)
        write_atomically(folder / "config.yaml", dump_yaml(config.plain()).encode())
    for step in chosen(run.steps, n):
        checkpoint, weights = run.whole_checkpoint(step)
        shipped.write_checkpoint(step, weights, checkpoint.metrics)
    if (run.path / "evaluations").is_dir():
        shutil.copytree(run.path / "evaluations", folder / "evaluations")
    return Run(folder)


def check(run: Run, shipped: RunDirectory) -> None:
    """Whether there is something to ship, and where to.

    Raises:
        RequestError: the run is not finished, or an adder that was not evaluated at its last step; or the folder is
            the run's own, or holds something else than a run.
    """
    if run.status != "finished":
        raise RequestError(f"{run.path} is {run.status}; ship a finished run")
    if isinstance(run.task, Addition) and not evaluations(run):
        raise RequestError(
            f"{run.path} has no evaluation of its last step, {run.steps[-1]:,}, for the card to tell; "
            f"`interp-arith evaluate {run.path} --protocol million`, and ten-digit and complexity"
        )
    if shipped.path.resolve() == run.path.resolve():
        raise RequestError(f"{run.path} is the run itself; name another folder")
    if shipped.path.exists() and not shipped.exists:
        raise RequestError(
            f"{shipped.path} is there and no run; name a new folder, as checkpoints/{run.name}"
        )


def evaluations(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Protocol -> the table that it left of the last step."""
    files = {name: run.path / "evaluations" / f"{name}-step-{run.steps[-1]}.json" for name in PROTOCOLS}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))["table"]
        for name, file in files.items()
        if file.is_file()
    }


def modular_data(run: Run) -> str:
    """Which questions a modular model was trained on."""
    task = run.task
    return (
        f"{task.operation} mod {task.p}: {len(task.split('train')):,} of all "  # type: ignore[attr-defined]
        f"{len(task.all_questions()):,} questions, drawn with seed {task.seed}."  # type: ignore[attr-defined]
    )


def adder_data(run: Run) -> str:
    """Which questions an adder was trained on, and how they are written."""
    task = run.task
    assert isinstance(task, Addition)
    example = "".join(task.vocabulary.decode(task.tokens(["23+45="])[0].tolist()))
    return (
        f"{task.operation}, numbers of at most {task.n_digits} digits, {run.config.batch_size} new questions at "
        f"every update, {task.carry_share:.0%} of them with long carries; those of val and test are held out by a "
        f"hash of their numbers. 23+45= is written `{example}`, the answer {task.answer_order}."
    )


def modular_results(run: Run) -> tuple[dict[str, str], str]:
    """What the measures find at the last checkpoint, and the phases."""
    measures = run.measure(device="cpu")
    now = measures.isel(step=-1)
    is_key = now["key_frequencies"]
    keys = ", ".join(str(int(k)) for k in is_key["freq"].to_numpy()[is_key.to_numpy().astype(bool)])
    marks = "; ".join(
        f"{name.replace('_', ' ')}: {'not reached' if np.isnan(step) else f'step {step:,.0f}'}"
        for name, step in zip(measures["mark"].to_numpy(), measures["phases"].to_numpy(), strict=True)
    )
    kept = float(now["restricted_loss"].sel(variant="sum", split="all"))
    gone = float(now["excluded_loss"].sel(variant="sum", removed="all"))
    rows = {
        "train loss": f"{float(now['train_loss']):.3e} nats",
        "test loss": f"{float(now['test_loss']):.3e} nats",
        "test accuracy": f"{float(now['test_accuracy']):.5f}",
        "key frequencies": keys,
        "logit variance explained": f"{float(now['logit_variance_explained']):.4f}",
        "restricted loss, sum, all questions": f"{kept:.3e} nats",
        "excluded loss, sum, all key frequencies": f"{gone:.3f} nats",
        "neurons in a cluster": f"{float(now['clustered_share']):.1%}",
        "verdict": str(now["algorithm"].item()),
    }
    return rows, f"Phases, at the steps that are kept: {marks}."


def adder_results(run: Run) -> tuple[dict[str, str], str]:
    """What the protocols found at the last checkpoint: right of asked, set by set."""
    rows = {}
    for protocol, table in evaluations(run).items():
        for row in table:
            which = _WORDS.get(row["set"], row["set"].replace("_", " "))
            rows[f"{protocol}, {which}"] = _right(row["right"], row["questions"])
        cascades = [row for row in table if row["set"].startswith("cascade_")]
        if cascades:
            right, asked = (sum(row[key] for row in cascades) for key in ("right", "questions"))
            rows[f"{protocol}, all cascades"] = _right(right, asked)
    return rows, "Questions that it failed are in `evaluations/`."


def _right(right: int, asked: int) -> str:
    return f"{right:,} of {asked:,} right" + (f", {asked - right:,} wrong" if right < asked else "")


def positions(run: Run) -> str:
    """The position scheme with the fields that are set."""
    fields = run.config.model.positions.model_dump(exclude_none=True)
    kind = fields.pop("kind")
    return " ".join([f"positions {kind}", *(f"({name} {value:g})" for name, value in fields.items())])


def card(run: Run) -> str:
    """What it is, how it came about, what it reaches, and how to repeat it."""
    is_adder = isinstance(run.task, Addition)
    data = adder_data(run) if is_adder else modular_data(run)
    rows, remark = adder_results(run) if is_adder else modular_results(run)
    info, source = run.info, run.config.init_from
    start = "" if source is None else f", from the weights of `{source}`"
    first = "" if source is None else f" once `runs/` or `checkpoints/` has `{source}`"
    last = run.checkpoint("last")
    size = sum(tensor.numel() for tensor in run.weights().values())
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    return "\n".join(
        [
            f"# {run.name}",
            "",
            f"**Data.** {data}",
            "",
            f"**Model.** {size:,} parameters, {positions(run)}; the config is in `config.yaml`.",
            "",
            f"**Recipe.** {info['step']:,} updates in {info['training_seconds']:,.0f} seconds on {info['device']}, "
            f"{info['threads']} thread(s), seed {run.config.seed}{start}; of the config:",
            "",
            "```yaml",
            dump_yaml({k: v for k, v in run.config.plain().items() if k in RECIPE}).rstrip(),
            "```",
            "",
            f"**Trajectory.** {len(run.steps)} checkpoints, from step {run.steps[0]} to {run.steps[-1]:,}.",
            "",
            "**Results** at the last checkpoint, measured by this package:",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            remark,
            "",
            f"**Hash.** sha256 of `{last.file}`: `{last.sha256}`.",
            "",
            f"**To repeat it.** `interp-arith train checkpoints/{run.name}/config.yaml --out runs`{first}. With "
            f"{versions}, and the same number of threads on the same kind of processor, the weights are the same "
            "to the bit.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", type=int, default=32)
    arguments = parser.parse_args()
    try:
        shipped = ship(Run(arguments.run), arguments.folder, arguments.checkpoints)
    except RequestError as error:
        parser.error(str(error))
    write_atomically(shipped.path / "CARD.md", card(shipped).encode())
    size = sum(file.stat().st_size for file in shipped.path.rglob("*") if file.is_file())
    print(json.dumps({"steps": shipped.steps, "megabytes": round(size / 1e6, 1)}))


if __name__ == "__main__":
    main()
