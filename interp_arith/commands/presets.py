"""List the presets; with a name, show its config and its parameters tensor by tensor."""

from typing import Annotated, Any

import tyro

from interp_arith import models
from interp_arith.commands.parsing import parse
from interp_arith.files import dump_yaml
from interp_arith.presets import PRESETS, measured, preset
from interp_arith.tables import print_table
from interp_arith.training.config import RunConfig


def run(arguments: list[str]) -> None:
    """`interp-arith presets`."""

    def parameters(config: RunConfig) -> dict[str, Any]:
        return models.build_model(config.model, config.task).trained_parameters()

    def command(
        name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None,
    ) -> None:
        """List presets.

        Args:
            name: the preset to show.
        """
        if name is None:
            rows = [
                (
                    key,
                    f"{sum(p.numel() for p in parameters(entry.config).values()):,}",
                    entry.reaches,
                    measured(key),
                )
                for key, entry in PRESETS.items()
            ]
            print_table(("preset", "parameters", "should reach", "measured"), rows, numbers=(1,))
            return
        config = preset(name)
        tensors = parameters(config)
        total = sum(p.numel() for p in tensors.values())
        rows = [(key, " × ".join(map(str, p.shape)), f"{p.numel():,}") for key, p in tensors.items()]
        print(dump_yaml(config.plain()))
        print_table(("tensor", "shape", "parameters"), [*rows, ("in all", "", f"{total:,}")], numbers=(2,))

    parse(command, "presets", __doc__, arguments)
