"""A trained run made small enough to come with the repository: some of its trajectory, its measures, and a card.

    python benchmarks/ship.py RUN checkpoints/NAME [--checkpoints 32]

The steps kept are those of a geometric and an even spacing together, the first and the last among them. What only a
resume needs (full states, best weights) stays behind.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from interp_arith.files import dump_yaml, write_atomically
from interp_arith.run import Run
from interp_arith.storage import RunDirectory
from interp_arith.tasks.addition import Addition

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
    """Copy the run's account and some of its checkpoints; the weights' hashes are checked on the way."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in COPIED:
        if (run.path / name).is_file():
            shutil.copyfile(run.path / name, folder / name)
    if run.config.init_from is not None:  # the name of a run in checkpoints/, wherever it lay
        config = run.config.replace(init_from=Path(run.config.init_from).name)
        write_atomically(folder / "config.yaml", dump_yaml(config.plain()).encode())
    shipped = RunDirectory(folder)
    for step in chosen(run.steps, n):
        checkpoint, weights = run.whole_checkpoint(step)
        shipped.write_checkpoint(step, weights, checkpoint.metrics)
    if (run.path / "evaluations").is_dir():
        shutil.copytree(run.path / "evaluations", folder / "evaluations")
    return Run(folder)


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
    for file in sorted((run.path / "evaluations").glob(f"*-step-{run.steps[-1]}.json")):
        protocol = file.name.removesuffix(f"-step-{run.steps[-1]}.json")
        for row in json.loads(file.read_text(encoding="utf-8"))["table"]:
            name = f"{protocol}, {row['set'].replace('_', ' ')}"
            rows[name] = f"{row['right']:,} of {row['questions']:,} right"
    return rows, "Questions that it failed are in `evaluations/`."


def card(run: Run) -> str:
    """What it is, how it came about, what it reaches, and how to repeat it."""
    is_adder = isinstance(run.task, Addition)
    data = adder_data(run) if is_adder else modular_data(run)
    rows, remark = adder_results(run) if is_adder else modular_results(run)
    info = run.info
    last = run.checkpoint("last")
    size = sum(tensor.numel() for tensor in run.weights().values())
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    return "\n".join(
        [
            f"# {run.name}",
            "",
            f"**Data.** {data}",
            "",
            f"**Model.** {size:,} parameters; the config is in `config.yaml`.",
            "",
            f"**Recipe.** {info['step']:,} updates on {info['device']}, {info['threads']} thread(s), seed "
            f"{run.config.seed}; optimizer, schedule and budget:",
            "",
            "```yaml",
            dump_yaml(
                {
                    k: v
                    for k, v in run.config.plain().items()
                    if k in ("optimizer", "schedule", "budget", "batch_size")
                }
            ).rstrip(),
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
            f"**To repeat it.** `interp-arith train checkpoints/{run.name}/config.yaml --out runs`. With {versions}, "
            "and the same number of threads on the same kind of processor, the weights are the same to the bit.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", type=int, default=32)
    arguments = parser.parse_args()
    shipped = ship(Run(arguments.run), arguments.folder, arguments.checkpoints)
    write_atomically(shipped.path / "CARD.md", card(shipped).encode())
    size = sum(file.stat().st_size for file in shipped.path.rglob("*") if file.is_file())
    print(json.dumps({"steps": shipped.steps, "megabytes": round(size / 1e6, 1)}))


if __name__ == "__main__":
    main()
