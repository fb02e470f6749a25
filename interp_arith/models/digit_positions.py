"""Positions that follow digits, each the same for the digits of one column; knows no arithmetic.

A task tells of each token which number it belongs to and its place there; a scheme turns these into rows of trained
tables, where row 0 is that of tokens that are no digit. In training the places of a question are all moved up by the
same random offset, so that rows are trained which its own digits would never reach, and longer numbers find them.
With a gap, those from a random place on are moved further, so that attention meets rows that are far from each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from interp_arith.errors import RequestError
from interp_arith.models.position_scheme import Find, HookMaker, Ids, PositionScheme, by_index
from interp_arith.tasks.base import Places, Task
from interp_arith.tasks.sampling import Moves


class DigitScheme(PositionScheme, ABC):
    """A trained vector for every place of a digit, and what else a scheme adds to it."""

    max_place: int = Field(default=100, ge=1)
    """Places that have rows: the longest number with the largest offset fits into them."""
    offset: int | None = Field(default=None, ge=0)
    """The largest offset that training draws, 0 for none; as far as the places go unless given."""
    gap: int = Field(default=0, ge=0)
    """The largest gap that training draws, as far as the places go: digits from a random place on move up by it too.

    Without one, the scores between places further apart than the longest numbers of training are never trained, and
    longer numbers stumble over them. Related: Ruoss et al. 2023, "Randomized positional encodings boost length
    generalization of transformers", where every place is drawn.
    """
    reads_digits: ClassVar[bool] = True

    @property
    def units_row(self) -> int:
        """The row of units that are not moved."""
        return 1

    @model_validator(mode="after")
    def _check_offset(self) -> Self:
        if self.offset is not None and self.offset >= self.max_place:
            raise RequestError(
                f"offset = {self.offset} leaves digits no place of max_place = {self.max_place}; "
                f"allowed: 0 to {self.max_place - 1}"
            )
        return self

    def check(self, task: Task) -> None:
        """See PositionScheme.check."""
        task.places(torch.zeros(1, 1, dtype=torch.int64))  # the task says why, where it cannot tell them
        longest, offset = max(task.number_lengths), self.offset or 0
        needed = longest + offset
        if needed > self.max_place:
            moved = f", moved by up to {offset}" if offset else ""
            n_digits = getattr(task, "n_digits", 0) - (needed - self.max_place)
            shorter = f", or task.n_digits to {n_digits}" if n_digits > 0 else ""
            raise RequestError(
                f"positions.max_place = {self.max_place}: numbers of this {task.kind} task have up to {longest} "
                f"digits{moved}; set max_place to {needed} or more{shorter}"
            )

    @property
    def most_places(self) -> int:
        """See PositionScheme.most_places."""
        return self.max_place

    def moves(self, task: Task) -> Moves:
        """See PositionScheme.moves."""
        places = max(task.number_lengths)
        free = self.max_place - places
        return Moves(free if self.offset is None else self.offset, min(self.gap, free), free, places)

    def hooked_arguments(self, d_head: int) -> dict[str, Any]:
        """The standard type, whose table is replaced."""
        return {"positional_embedding_type": "standard"}

    def module(self, learned: Any, task: Task | None, hook_point: HookMaker) -> nn.Module:
        """The tables, each with its hook point."""
        if task is None:
            raise RequestError(
                f"positions {self.kind} follow the digits of a task, and none is given; use build_model(config, task)"
            )
        return DigitPositions(self, task, learned.cfg.d_model, hook_point)

    def tables(self, task: Task) -> dict[str, int]:
        """Name -> rows of each trained table."""
        return {"place": self.max_place + self.units_row}

    def ids(
        self,
        task: Task | None,
        tokens: Int[Tensor, "*axes pos"],
        offset: Int[Tensor, "*axes place"] | None = None,
    ) -> Ids:
        """See PositionScheme.ids."""
        assert task is not None  # `module` has said so
        places = task.places(tokens)
        return self.ids_at(places, torch.zeros_like(places.place[..., :1]) if offset is None else offset)

    def moved(
        self, place: Int[Tensor, "*axes pos"], offset: Int[Tensor, "*axes place"]
    ) -> Int[Tensor, "*axes pos"]:
        """The row of each place, moved by its offset."""
        place_of_offset = place.clamp(min=0, max=offset.shape[-1] - 1)
        return place + offset.gather(-1, place_of_offset) + self.units_row

    @abstractmethod
    def ids_at(
        self, places: Places, offset: Int[Tensor, "*axes place"]
    ) -> dict[str, Int[Tensor, "*axes pos"]]:
        """Which rows tokens at these places read, by table."""

    def parts(
        self, parameters: Mapping[str, Tensor], ids: Ids, find: Find = by_index
    ) -> dict[str, Float[Tensor, "batch pos d_model"]]:
        """What each table adds; places beyond the last row share it."""
        tables = {name: parameters[f"pos_embed.W_{name}"] for name in ids}
        return {name: find(table, ids[name].clamp(max=len(table) - 1)) for name, table in tables.items()}

    def embed(
        self,
        parameters: Mapping[str, Tensor],
        tokens: Int[Tensor, "batch pos"],
        ids: Ids | None = None,
        find: Find = by_index,
    ) -> Tensor | float:
        """The sum of what the tables add."""
        assert ids is not None  # whoever calls has asked `reads_digits`
        return reduce(torch.add, self.parts(parameters, ids, find).values())


class Abacus(DigitScheme):
    """A trained vector for the place of a digit in its number, whichever number that is.

    The source counts places from the number's first digit and writes numbers units first; here units have place 0 in
    every layout.

    Source: McLeish et al. 2024, "Transformers can do arithmetic with the right embeddings".
    """

    kind: Literal["abacus"] = "abacus"

    def ids_at(
        self, places: Places, offset: Int[Tensor, "*axes place"]
    ) -> dict[str, Int[Tensor, "*axes pos"]]:
        """1 + place + offset; 0 for what is no digit."""
        return {"place": torch.where(places.place >= 0, self.moved(places.place, offset), 0)}


class Coupled(DigitScheme):
    """One trained vector for everything that belongs together: the digits of a column, in operands and answer.

    A sign that follows a number is coupled too, one place below the units, so that "+" and "=" share a row, and they
    move with the digits; padding has row 0.

    Source: Cho et al. 2024, "Position coupling: improving length generalization of arithmetic transformers using task
    structure", and the code that comes with it.
    """

    kind: Literal["coupled"] = "coupled"

    @property
    def units_row(self) -> int:
        """Behind that of signs."""
        return 2

    def ids_at(
        self, places: Places, offset: Int[Tensor, "*axes place"]
    ) -> dict[str, Int[Tensor, "*axes pos"]]:
        """The row of its place; of one place below the units for a sign that follows a digit; 0 for the rest."""
        is_digit = places.place >= 0
        follows = functional.pad(is_digit[..., :-1], (1, 0), value=False)
        # A sign has place −1 already.
        return {"place": torch.where(is_digit | follows, self.moved(places.place, offset), 0)}


class SegmentDigit(Coupled):
    """Two trained vectors, one for the number that a token belongs to and one for its place there.

    The places are those of Coupled: where they are moved, "=" could not tell the units without one.
    """

    kind: Literal["segment-digit"] = "segment-digit"

    def tables(self, task: Task) -> dict[str, int]:
        """One more: a row for each number, and row 0."""
        return {"segment": len(task.number_lengths) + 1} | super().tables(task)

    def ids_at(
        self, places: Places, offset: Int[Tensor, "*axes place"]
    ) -> dict[str, Int[Tensor, "*axes pos"]]:
        """1 + segment, 0 for what is no digit; and the place."""
        segment = torch.where(places.place >= 0, places.segment + 1, 0)
        return {"segment": segment} | super().ids_at(places, offset)


class DigitPositions(nn.Module):
    """The tables of a scheme at `pos_embed`: parameter W_NAME and hook point hook_NAME for each.

    Args:
        scheme: which rows are read.
        task: tells the places of tokens.
        d_model: width of a row.
        hook_point: makes one.
    """

    def __init__(self, scheme: DigitScheme, task: Task, d_model: int, hook_point: HookMaker) -> None:
        super().__init__()
        self._scheme, self._task = scheme, task
        for name, rows in scheme.tables(task).items():
            setattr(self, f"W_{name}", nn.Parameter(torch.empty(rows, d_model)))
            setattr(self, f"hook_{name}", hook_point())  # [batch, pos, d_model]

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        past_kv_pos_offset: int = 0,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The sum of what the tables add, without an offset; padding changes nothing."""
        if past_kv_pos_offset:
            raise RequestError(
                f"positions {self._scheme.kind} need the whole question, and a cache of keys holds "
                f"{past_kv_pos_offset} of its tokens; give all tokens and no past_kv_cache"
            )
        parameters = {f"pos_embed.{name}": parameter for name, parameter in self.named_parameters()}
        parts = self._scheme.parts(parameters, self._scheme.ids(self._task, tokens))
        return reduce(torch.add, (getattr(self, f"hook_{name}")(part) for name, part in parts.items()))
