"""The picture of README on passes of one model after another, each with a fresh schedule.

    python benchmarks/passes.py RUN [RUN …] docs/second-pass

Every run but the first starts from the one before (`--init-from`). DOCS/NAME.html and .png.
"""

import argparse
from pathlib import Path

from plots import photograph

from interp_arith.figures.curves import pass_curves, write_html
from interp_arith.run import Run

WIDTH, HEIGHT = 1000, 580


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    runs = [Run(path) for path in arguments.runs]
    title = f"{sum(tensor.numel() for tensor in runs[0].weights().values()):,} parameters, ten digits: a second pass"
    page = arguments.picture.with_suffix(".html")
    write_html(pass_curves({run.name: run.metrics for run in runs}, title), page)
    photograph(page, page.with_suffix(".png"), WIDTH, HEIGHT)
    page.unlink()


if __name__ == "__main__":
    main()
