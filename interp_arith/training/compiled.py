"""The two halves of an update compiled to a few kernels; knows no optimizer and no loop."""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

from interp_arith.training import step as training_step

P = ParamSpec("P")
R = TypeVar("R")


class Compiled(Generic[P, R]):
    """A function through `torch.compile`; where that fails, as it is.

    Args:
        function: traced whole.
        what: it computes, in words.
        notify: told why it failed, once.
        options: of `torch.compile`.
    """

    def __init__(
        self, function: Callable[P, R], what: str, notify: Callable[[str], None], **options: Any
    ) -> None:
        self._function, self._what, self._notify = function, what, notify
        self._compiled: Callable[P, R] = torch.compile(function, fullgraph=True, **options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """See the function."""
        try:
            return self._compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self._compiled is self._function:
                raise
            first, *rest = str(error).split("\n")
            reason = " ".join([first, *rest[:1]]).strip()  # the second line says what the first announces
            self._notify(f"{self._what} could not be compiled ({reason}); it is computed as it is")
            self._compiled = self._function
            return self._function(*args, **kwargs)


def compiled_kernels(notify: Callable[[str], None], **options: Any) -> training_step.Kernels:
    """Both halves of an update, compiled at their first call."""
    return training_step.Kernels(
        Compiled(training_step.losses, "the forward pass", notify, **options),
        Compiled(training_step.apply, "the update of the weights", notify, **options),
    )
