"""What a measure is, and what it is taken of: one model on its task; knows no particular measure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import xarray as xr

from interp_arith.cards import card
from interp_arith.errors import RequestError, unknown
from interp_arith.models.config import ModelConfig
from interp_arith.shapes import AXES
from interp_arith.tasks.base import Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

T = TypeVar("T")
Cost = Literal["cheap", "ordinary", "dear"]


class Subject:
    """One model and its task, and what several measures need of them, each computed once.

    Args:
        model: in eval mode.
        task: all its questions, and its split.
        keys: the key frequencies to use, such as those of a trajectory's last model; this model's own unless given.
    """

    def __init__(self, model: "ArithmeticTransformer", task: Task, keys: Sequence[int] | None = None) -> None:
        self.model, self.task, self.keys = model, task, None if keys is None else tuple(keys)
        self._parts: dict[Callable[[Subject], Any], Any] = {}

    def get(self, part: Callable[["Subject"], T]) -> T:
        """What the function makes of this subject; made when it is first asked for."""
        if part not in self._parts:
            self._parts[part] = part(self)
        return self._parts[part]


@dataclass(frozen=True)
class Measure:
    """A number, or an array of them, that says something of a model; its definition is the docstring of `take`.

    Attributes:
        take: the measure of one subject, with the dims below and their coordinates.
        dims: named in shapes.AXES, in order; none for a number.
        units: "nats", "1" for a share or a cosine, "steps", …
        source: authors and year, with the section or equation.
        why_not: task, model config -> why it does not apply, or None where it does.
        rests_on: what else than the model and the questions decides it: "keys", "split".
        cost: "cheap" may be logged while a run trains; "dear" is taken only where it is named.
        version: counted up when its numbers change, so that what is kept is computed anew.
    """

    take: Callable[[Subject], xr.DataArray]
    dims: tuple[str, ...]
    units: str
    source: str
    why_not: Callable[[Task, ModelConfig], str | None]
    rests_on: frozenset[str] = frozenset()
    cost: Cost = "ordinary"
    version: int = 1

    @property
    def name(self) -> str:
        """The function's name."""
        return self.take.__name__

    @property
    def definition(self) -> str:
        """The function's docstring."""
        return self.take.__doc__ or ""

    def __repr__(self) -> str:
        dims = f"dims {', '.join(self.dims)}" if self.dims else "a number"
        return f"Measure({self.name}: {dims}; units {self.units}; {self.cost})"

    def _repr_html_(self) -> str:
        said = {
            "definition": " ".join(self.definition.split("\n\n")[0].split()),
            "dims": "; ".join(f"{dim}: {AXES[dim]}" for dim in self.dims) or "none, it is a number",
            "units": self.units,
            "source": self.source,
            "cost": self.cost,
            "rests on": ", ".join(sorted(self.rests_on)),
        }
        return card(self.name, "measure", said)

    def __call__(self, subject: Subject) -> xr.DataArray:
        """The measure, named, with its units, source and version.

        Raises:
            RequestError: it does not apply to this task or model.
        """
        if (reason := self.why_not(subject.task, subject.model.config)) is not None:
            raise RequestError(f"{self.name} does not apply: {reason}")
        found = subject.get(self.take)
        assert found.dims == self.dims, f"{self.name} has dims {found.dims}, and says {self.dims}"
        named = {"units": self.units, "source": self.source, "version": self.version}
        return found.rename(self.name).assign_attrs(named)


class Measures(Mapping[str, Measure]):
    """A visible table of measures, by name."""

    def __init__(self, *entries: Measure) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Measure:
        """The measure of that name; RequestError with the nearest names otherwise."""
        if name not in self._entries:
            raise unknown("measure", str(name), self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Measures({', '.join(self)})"

    def _repr_html_(self) -> str:
        firsts = {name: " ".join(m.definition.split("\n\n")[0].split()) for name, m in self.items()}
        return card(f"{len(self)} measures", "by name", firsts)

    def chosen(self, names: Iterable[str] | None, task: Task, model: ModelConfig) -> list[Measure]:
        """Those of these names, or all that apply and are not dear.

        Raises:
            RequestError: a name is unknown, or its measure does not apply.
        """
        if names is None:
            return [m for m in self.values() if m.cost != "dear" and m.why_not(task, model) is None]
        wanted = [self[name] for name in dict.fromkeys(names)]
        for each in wanted:
            if (reason := each.why_not(task, model)) is not None:
                raise RequestError(f"{each.name} does not apply: {reason}")
        return wanted
