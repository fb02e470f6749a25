"""What a position scheme is: how a model knows where a token stands; knows no scheme."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_arith.registry import Choice
from interp_arith.tasks.base import Task
from interp_arith.tasks.sampling import Moves

Ids = Mapping[str, Int[Tensor, "*axes pos"]]
"""Name of a position table -> which of its rows each token reads."""
Find = Callable[[Tensor, Tensor], Tensor]
"""A table and row numbers -> the rows."""
HookMaker = Callable[[], nn.Module]
"""Makes a hook point of TransformerLens."""


def by_index(
    table: Float[Tensor, "row d_model"], ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """The rows, by indexing."""
    return table[ids]


class PositionScheme(Choice, ABC):
    """A choice of positions. What it adds to the embedding is `embed`; what it does to a query or key is `rotate`."""

    kind: str
    reads_digits: ClassVar[bool] = False
    """Whether what is added follows the digits of the question, and not the position alone."""
    ends_with_context: ClassVar[bool] = False
    """Whether there are parameters for as many positions as the context has, and nothing beyond it."""

    def objection(self, d_head: int) -> str | None:
        """Why this scheme does not fit heads of that width, if it does not."""

    def check(self, task: Task) -> None:
        """Refuse a task whose questions the scheme cannot number.

        Raises:
            RequestError: it has no digits, or more of them than the scheme has rows, or their columns cannot be told.
        """

    @property
    def most_places(self) -> int | None:
        """Digits of the longest number whose digits all have positions of their own; None where any length does."""
        return None

    def moves(self, task: Task) -> Moves:
        """How far training moves the places of digits; not at all, unless a scheme follows them."""
        return Moves()

    @abstractmethod
    def hooked_arguments(self, d_head: int) -> dict[str, Any]:
        """What TransformerLens is told."""

    def module(self, learned: Any, task: Task | None, hook_point: HookMaker) -> nn.Module:
        """What stands at `pos_embed` of the hooked model, in place of the learned table.

        Args:
            learned: that table.
            task: what is learnt.
            hook_point: makes one.
        """
        return learned

    def start(self, parameters: Mapping[str, Tensor]) -> None:
        """Change the initial weights in place, after they were drawn; most schemes leave them as they are."""

    def ids(
        self,
        task: Task | None,
        tokens: Int[Tensor, "*axes pos"],
        offset: Int[Tensor, "*axes place"] | None = None,
    ) -> Ids:
        """Which rows each token reads of the tables that follow digits, by table.

        The offset says how far each place is moved; its last value holds for the places above too.
        """
        return {}

    def embed(
        self,
        parameters: Mapping[str, Tensor],
        tokens: Int[Tensor, "batch pos"],
        ids: Ids | None = None,
        find: Find = by_index,
    ) -> Tensor | float:
        """What is added to the token embeddings: [pos d_model], [batch pos d_model] where `reads_digits`, or 0.

        Args:
            parameters: the model's, by name.
            tokens: the input.
            ids: of `ids`, where the scheme reads digits.
            find: how rows are looked up.
        """
        return 0.0

    def rotate(
        self, x: Float[Tensor, "batch query head d_head"], positions: Int[Tensor, " query"]
    ) -> Float[Tensor, "batch query head d_head"]:
        """Queries or keys as attention compares them."""
        return x
