"""Every notebook of analyses/ is stored as it should be, and runs from top to bottom on a short run."""

import os
import re
import shutil
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
FIRST_HOUR = ROOT / "analyses" / "00_first_hour.ipynb"
GROKKING = ROOT / "analyses" / "01_grokking.ipynb"
CARRIES = ROOT / "analyses" / "02_carries.ipynb"
ARGUMENTS = (GROKKING, CARRIES)
"""Those that state claims and check each of them."""
SHOWN = (FIRST_HOUR, CARRIES)
"""Those that are stored with what they show."""
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
def adder(tmp_path_factory) -> Run:
    """Sums of two digits, highest first: half learnt in a few seconds."""
    config = preset(
        "add-5d-msb",
        task={"n_digits": 2, "val_questions": 50, "test_questions": 100},
        model={"n_heads": 2, "d_model": 32, "d_mlp": 64},
        batch_size=128,
        budget={"steps": 300},
        checkpoints={"every": 150},
    )
    return train(config, out=tmp_path_factory.mktemp("adders"), device="cpu", progress=False)


@pytest.fixture(scope="module")
def shipped_adder(tmp_path_factory) -> Run:
    """The run that comes along, in a folder of its own: a notebook may keep measures in it."""
    name = "add-5d-msb-s1"
    return Run(shutil.copytree(ROOT / "checkpoints" / name, tmp_path_factory.mktemp("shipped") / name))


@pytest.fixture(scope="module")
def subject(run, adder) -> Callable[[Path], Run]:
    """A short run that a notebook can be executed on."""
    return lambda file: adder if file == CARRIES else run


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
def executed(request, execute, subject) -> NotebookNode:
    return execute(request.param, subject(request.param))


def printed(cell: NotebookNode) -> str:
    return "".join(
        out.text for out in cell.get("outputs", []) if out.output_type == "stream" and out.name == "stdout"
    )


def all_printed(notebook: NotebookNode) -> str:
    return "".join(printed(cell) for cell in notebook.cells)


def text_of(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_notebooks_are_numbered_from_0():
    assert [int(re.fullmatch(r"(\d\d)_[a-z_]+", file.stem)[1]) for file in NOTEBOOKS] == [
        *range(len(NOTEBOOKS))
    ]
    assert NOTEBOOKS


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_stored_is_valid_and_its_cells_have_names(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.metadata.kernelspec.name) == (4, "python3")
    names = [cell["id"] for cell in notebook.cells]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+(-[a-z]+)*", name)] == []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_stored_whole_or_not_at_all(file):
    code = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    ran = [cell.execution_count for cell in code]
    if file in SHOWN:
        assert ran == [*range(1, len(code) + 1)]
        assert [out for cell in code for out in cell.outputs if out.get("name") == "stderr"] == []
        stored = "".join(str(cell.outputs) for cell in code)
        assert re.findall(r"(?<![\w/.])/(?:home|tmp|usr|work|root|Users)/", stored) == []
    else:
        assert {*ran} == {None}
        assert [cell["id"] for cell in code if cell.outputs] == []


@pytest.mark.parametrize("file", ARGUMENTS, ids=lambda file: file.stem)
def test_every_claim_of_the_text_is_checked_once_and_in_order(file, execute, subject):
    executed = execute(file, subject(file))
    stated = CLAIM.findall(text_of(executed))
    checked = [number for _, number in VERDICT.findall(all_printed(executed))]
    assert stated
    assert checked == stated


@pytest.mark.parametrize("file", ARGUMENTS, ids=lambda file: file.stem)
def test_the_conclusion_counts_what_was_printed(file, execute, subject):
    executed = execute(file, subject(file))
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


def test_the_first_hour_says_what_a_forward_pass_says(execute, run):
    text, task = all_printed(execute(FIRST_HOUR, run)), run.task
    asked = re.findall(r"^(\S+=) +right answer (\d+) +tokens \[(.*)\]$", text, re.MULTILINE)
    assert len(asked) == 3
    questions = [question for question, _, _ in asked]
    assert [str(answer) for answer in task.answer(questions)] == [answer for _, answer, _ in asked]
    tokens = task.tokens(questions)
    assert [", ".join(map(str, row)) for row in tokens.tolist()] == [row for _, _, row in asked]
    logits, attention = run.model().forward_analysis(tokens)
    assert f"logits    {tuple(logits.shape)}" in text
    for head, pattern in enumerate(attention[0][0, :, -1]):
        assert f"  head {head}: {pattern[0]:.0%} on " in text
    for question, row in zip(questions, logits[:, -1].softmax(dim=-1), strict=True):
        token = int(row.argmax())
        assert re.search(
            rf"^{re.escape(question)} +{token}   with probability {row[token]:.4f}$", text, re.MULTILINE
        )


def test_the_first_hour_takes_the_trajectory_there_and_back(execute, run):
    notebook = execute(FIRST_HOUR, run)
    assert "ActivationCache of step " in all_printed(notebook)
    assert "the same as from run_with_cache: True" in all_printed(notebook)
    (figure,) = (
        out.data["application/vnd.plotly.v1+json"]
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "application/vnd.plotly.v1+json" in out.get("data", {})
    )
    assert all(len(trace["x"]) for trace in figure["data"])


def test_without_a_head_the_first_hour_counts_fewer_right_answers(execute, run):
    text = all_printed(execute(FIRST_HOUR, run))
    untouched = float(re.search(r"^untouched +([\d.]+) right$", text, re.MULTILINE)[1])
    without = [float(share) for share in re.findall(r"^without head \d +([\d.]+) right$", text, re.MULTILINE)]
    assert len(without) == run.config.model.n_heads
    assert untouched > 0.95
    assert min(without) < untouched - 0.1


def test_the_adder_that_comes_along_holds_every_claim_about_its_carries(execute, shipped_adder):
    assert set(verdicts(execute(CARRIES, shipped_adder)).values()) == {"HELD"}


def test_the_carries_notebook_says_what_the_measures_say(execute, shipped_adder):
    text = all_printed(execute(CARRIES, shipped_adder))
    now = shipped_adder.measure(["class_exact_match", "carry_used"], steps=[10_000]).isel(step=0)
    for name, share in now["class_exact_match"].to_series().items():
        assert f"{name} {share:.3f}" in text
    whole = now["carry_used"].sel(way="whole").max("hook")
    for column in whole["column"].to_numpy():
        assert f"{float(whole.sel(column=column)):.2f} in column {column}" in text
