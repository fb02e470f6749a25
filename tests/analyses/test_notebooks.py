"""Every notebook of analyses/ is stored without outputs, and runs from top to bottom on a short run."""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from interp_arith.presets import preset
from interp_arith.run import Run
from interp_arith.runs import train
from interp_arith.training.config import RunConfig

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "analyses").glob("*.ipynb"))
GROKKING = ROOT / "analyses" / "01_grokking.ipynb"
LINES_OF_A_SCREEN = 40
CLAIM = re.compile(r"^\*\*Claim ([\d.]+)\.\*\*", re.MULTILINE)
VERDICT = re.compile(r"^(HELD|DID NOT HOLD): ([\d.]+) .+\.\n  .*\d.*\.$", re.MULTILINE)

Execute = Callable[[Path, Run], NotebookNode]


def small(name: str, steps: int) -> RunConfig:
    """Addition mod 31: by heart in some 100 steps, in general in some 300."""
    return preset(
        "mod-add-113",
        name=name,
        task={"p": 31, "train_fraction": 0.5},
        model={"d_model": 48, "n_heads": 2, "d_mlp": 128},
        optimizer={"weight_decay": 2.0},
        budget={"steps": steps},
        stop={"metric": None},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return train(small("grokked", 500), out=tmp_path_factory.mktemp("runs"), device="cpu", progress=False)


@pytest.fixture(scope="module")
def execute(tmp_path_factory) -> Execute:
    """A notebook on a run, in a kernel that sees this package; the first error of a cell is raised."""

    @cache
    def executed(file: Path, on: Run) -> NotebookNode:
        notebook = nbformat.read(file, as_version=4)
        kernel = {
            **os.environ,
            "RUN": str(on.path),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython")),
        }
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
        return client.execute(env=kernel)

    return executed


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda file: file.stem)
def executed(request, execute, run) -> NotebookNode:
    return execute(request.param, run)


def printed(cell: NotebookNode) -> str:
    return "".join(
        out.text for out in cell.get("outputs", []) if out.output_type == "stream" and out.name == "stdout"
    )


def all_printed(notebook: NotebookNode) -> str:
    return "".join(printed(cell) for cell in notebook.cells)


def text_of(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_notebooks_are_numbered_from_1():
    assert [int(re.fullmatch(r"(\d\d)_[a-z_]+", file.stem)[1]) for file in NOTEBOOKS] == [
        *range(1, len(NOTEBOOKS) + 1)
    ]
    assert NOTEBOOKS


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_stored_is_valid_has_named_cells_and_no_outputs(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.metadata.kernelspec.name) == (4, "python3")
    names = [cell["id"] for cell in notebook.cells]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+(-[a-z]+)*", name)] == []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell["id"] for cell in code if cell.outputs or cell.execution_count is not None] == []


def test_every_claim_of_the_text_is_checked_once_and_in_order(executed):
    stated = CLAIM.findall(text_of(executed))
    checked = [number for _, number in VERDICT.findall(all_printed(executed))]
    assert stated
    assert checked == stated


def test_the_conclusion_counts_what_was_printed(executed):
    verdicts = [verdict for verdict, _ in VERDICT.findall(all_printed(executed))]
    counted = re.search(r"(\d+) of (\d+) claims held", all_printed(executed))
    assert counted is not None
    assert [int(number) for number in counted.groups()] == [verdicts.count("HELD"), len(verdicts)]


def test_no_cell_prints_more_than_a_screen_or_shows_more_than_one_thing(executed):
    assert [cell["id"] for cell in executed.cells if printed(cell).count("\n") > LINES_OF_A_SCREEN] == []
    shown = {cell["id"]: [o for o in cell.get("outputs", []) if "data" in o] for cell in executed.cells}
    assert [name for name, things in shown.items() if len(things) > 1] == []


def verdicts(notebook: NotebookNode) -> dict[str, str]:
    return {number: verdict for verdict, number in VERDICT.findall(all_printed(notebook))}


def test_the_grokking_notebook_says_what_the_measures_say(execute, run):
    text, now = all_printed(execute(GROKKING, run)), run.measure(device="cpu").isel(step=-1)
    keys = now["freq"].to_numpy()[now["key_frequencies"].to_numpy()]
    assert f"Key frequencies: {', '.join(map(str, keys))}." in text
    accuracy, loss = float(now["test_accuracy"]), float(now["test_loss"])
    assert f"test accuracy is {accuracy:.4f}, test loss {loss:.2g} nats" in text
    without = float(now["excluded_loss"].sel(variant="sum", removed="all"))
    assert f"train loss without them {without:.3g} nats" in text
    assert f"verdict: {now['algorithm'].item()};" in text


def test_a_run_that_grokked_shows_the_order_the_waves_and_their_use(execute, run):
    found = verdicts(execute(GROKKING, run))
    assert {found[claim] for claim in ("2.1", "3.1", "4.2", "6.2", "6.3")} == {"HELD"}


def test_a_run_that_learnt_nothing_shows_nothing_and_breaks_no_cell(execute, tmp_path):
    run = train(small("untrained", 2), out=tmp_path, device="cpu", progress=False)
    text = all_printed(execute(GROKKING, run))
    assert "Key frequencies: none." in text
    assert re.findall(r"^HELD: ([\d.]+) ", text, re.MULTILINE) == ["1"]
