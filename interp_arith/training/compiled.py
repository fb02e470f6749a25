"""Forward pass and loss compiled to a few kernels; knows no optimizer and no loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_arith.tasks.base import Examples
from interp_arith.training import step as training_step
from interp_arith.training.config import RunConfig


class Compiled:
    """`step.losses` through `torch.compile`; where that fails, as it is.

    Args:
        notify: told why it failed, once.
        options: of `torch.compile`.
    """

    def __init__(self, notify: Callable[[str], None], **options: Any) -> None:
        self._notify = notify
        self._forward: training_step.Forward = torch.compile(training_step.losses, fullgraph=True, **options)

    def __call__(
        self,
        config: RunConfig,
        parameters: Mapping[str, Float[Tensor, "seed ..."]],
        batch: Examples,
        answer_positions: Sequence[int],
    ) -> tuple[Float[Tensor, " seed"], Float[Tensor, " seed"]]:
        """See `step.losses`."""
        try:
            return self._forward(config, parameters, batch, answer_positions)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self._forward is training_step.losses:
                raise
            reason = " ".join(
                str(error).split("\n")[:2]
            ).strip()  # the second line says what the first announces
            self._notify(f"the forward pass could not be compiled ({reason}); it is computed as it is")
            self._forward = training_step.losses
            return self._forward(config, parameters, batch, answer_positions)
