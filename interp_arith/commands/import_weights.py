"""Make a run of weights that others trained."""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.lib.format import MAGIC_PREFIX

from interp_arith.commands.parsing import parse
from interp_arith.errors import RequestError
from interp_arith.importing import import_weights
from interp_arith.models.imported import Layout
from interp_arith.overrides import base_config, finish_config
from interp_arith.run import Run
from interp_arith.tables import print_table
from interp_arith.tasks.pairs import PairTask
from interp_arith.training.config import RunConfig


def run(arguments: list[str]) -> None:
    """`interp-arith import`."""
    named, rest = _without_config(arguments)
    start, rest = base_config("import", [named, *rest])

    def command(
        file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
        config: Annotated[RunConfig, tyro.conf.FlagConversionOff, tyro.conf.arg(name="")] = start,
        split: Path | None = None,
        layout: Layout = "auto",
        ignore: tuple[str, ...] = (),
        vocabulary: str | None = None,
        out: Path = Path("runs"),
    ) -> None:
        """Import weights.

        Args:
            file: a state dict, by torch.save or safetensors.
            config: every field of the run.
            split: a .npy file, True at [a, b] where a question was trained on.
            layout: of the state dict; transposed is that of early grokking code.
            ignore: names of tensors to leave out.
            vocabulary: their tokens in the order of their ids, such as 0123456789+-=, with spaces between them where
                one has more than a letter.
            out: the folder of runs.
        """
        finished = finish_config(start, config, rest)
        mask = None if split is None else _read_mask(split)
        tokens = None if vocabulary is None else _tokens(vocabulary)
        found = import_weights(
            file, finished, out=out, split=mask, layout=layout, ignore=ignore, vocabulary=tokens
        )
        _tell(found)
        if mask is None and isinstance(found.task, PairTask):
            print(
                "train and test are this config's own split; if theirs was another, give it with --split MASK.npy"
            )

    parse(command, "import FILE --config PRESET|CONFIG.yaml", __doc__, rest)


def _without_config(arguments: list[str]) -> tuple[str, list[str]]:
    """What --config says, and the other arguments."""
    rest: list[str] = []
    named: list[str] = []
    words = iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        if option == "--config":
            named.append(value or next(words, ""))
        else:
            rest.append(word)
    if named and named[-1] and not named[-1].startswith("-"):
        return named[-1], rest
    if {"-h", "--help"} & set(rest):
        return "--help", []
    raise RequestError(
        "import: no config given; for example interp-arith import model.pt --config mod-add-113 --name theirs"
    )


def _tokens(vocabulary: str) -> list[str]:
    """ "0 1 + =" or "01+=", by token."""
    return vocabulary.split() if " " in vocabulary else list(vocabulary)


def _read_mask(file: Path) -> np.ndarray:
    complaint = RequestError(f"--split {file} is no NumPy array; numpy.save a boolean [p, p] array")
    try:
        data = file.read_bytes()
        if not data.startswith(MAGIC_PREFIX):  # NumPy opens other kinds of files too
            raise complaint
        return np.load(io.BytesIO(data), allow_pickle=False)
    except FileNotFoundError:
        raise RequestError(f"--split {file}: no such file") from None
    except (ValueError, EOFError, OSError):
        raise complaint from None


def _tell(run: Run) -> None:
    info = run.info
    parameters = sum(tensor.numel() for tensor in run.weights().values())
    print(f"{run.path}: {parameters:,} parameters from {info['source']} ({info['layout']} layout)")
    last = info["summary"]["last"]
    sets = [key.removesuffix("_loss") for key in last if key.endswith("_loss")]
    rows = [
        (name, *(last[f"{name}_{what}"] for what in ("loss", "accuracy", "exact_match"))) for name in sets
    ]
    print_table(("set", "loss", "accuracy", "exact match"), rows, numbers=range(1, 4))
