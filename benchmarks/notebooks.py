"""Run notebooks from top to bottom and keep what they show in them: python benchmarks/notebooks.py FILE.ipynb …"""

import argparse
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
SECONDS_A_CELL = 1800


def executed(notebook: NotebookNode, environment: dict[str, str]) -> NotebookNode:
    """The notebook with its outputs, in a kernel of this package; what a library says on stderr is left out.

    Raises:
        CellExecutionError: a cell failed.
    """
    with tempfile.TemporaryDirectory() as profile:
        client = NotebookClient(
            notebook, timeout=SECONDS_A_CELL, record_timing=False, resources={"metadata": {"path": str(ROOT)}}
        )
        done = client.execute(env=environment | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": profile})
    for cell in done.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined([out for out in cell.outputs if out.get("name") != "stderr"])
    done.metadata = {name: done.metadata[name] for name in ("kernelspec",)}
    return done


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Pieces of stdout that follow each other as one; where a kernel cuts them is chance."""
    joined: list[NotebookNode] = []
    for out in outputs:
        if joined and out.output_type == joined[-1].output_type == "stream":
            joined[-1].text += out.text
        else:
            joined.append(out)
    return joined


def main() -> None:
    """Read the arguments, run each notebook and write it where it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    for file in parser.parse_args().files:
        nbformat.write(executed(nbformat.read(file, as_version=4), dict(os.environ)), file)


if __name__ == "__main__":
    main()
