"""Train a preset or a config file, one seed or several together; any field can be overridden."""

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro

from interp_arith.commands.parsing import output_folder, parse, program
from interp_arith.errors import RequestError
from interp_arith.generation import account
from interp_arith.overrides import base_config, finish_config, kinds, parse_seeds
from interp_arith.runs import train, train_seeds
from interp_arith.training.config import RunConfig


def run(arguments: list[str]) -> None:
    """`interp-arith train`."""
    start, rest = base_config("train", arguments)
    _check_seeds(rest)

    def command(
        config: Annotated[RunConfig, tyro.conf.FlagConversionOff, tyro.conf.arg(name="")] = start,
        seeds: str | None = None,
        device: str = "auto",
        out: Path = Path("runs"),
        resume: tyro.conf.FlagCreatePairsOff[bool] = False,
        track: str | None = None,
    ) -> None:
        """Train.

        Args:
            config: every field of the run.
            seeds: several seeds together: 0..7, or 0,3,5; --seed takes one.
            device: auto, cpu or cuda.
            out: the folder of runs.
            resume: go on with a run that exists.
            track: log to wandb or tensorboard too.
        """
        config = finish_config(start, config, rest)
        common: dict[str, Any] = {
            "out": output_folder(out),
            "device": device,
            "resume": resume,
            "track": track,
        }
        if seeds is None:
            print(account([train(config, **common)], program()))
            return
        if given := {"--seed", "--task.seed"} & set(rest):
            raise RequestError(f"--seeds and {min(given)} are both given; --seeds sets every seed, give one")
        print(account(train_seeds(config, parse_seeds(seeds), **common), program()))

    parse(command, "train PRESET|CONFIG.yaml", __doc__, rest, f"Choices that come in kinds:\n{kinds()}")


def _check_seeds(arguments: list[str]) -> None:
    """Refuse seeds with spaces between them: the parser would take the first alone."""
    if "--seeds" not in arguments:
        return
    given = list(
        takewhile(lambda word: not word.startswith("-"), arguments[arguments.index("--seeds") + 1 :])
    )
    if len(given) > 1:
        together = ",".join(word.strip(",") for word in given)
        raise RequestError(f"--seeds {' '.join(given)}: seeds are one word; write --seeds {together}")
