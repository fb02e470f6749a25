"""What a sweep file says: axes of config fields, and the run of every point and seed; trains nothing."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import tyro
from pydantic import Field, model_validator

from interp_arith.errors import RequestError, unknown
from interp_arith.files import read_yaml
from interp_arith.overrides import TABLES, finish_task, parse_seeds, with_kind
from interp_arith.presets import PRESETS, preset
from interp_arith.registry import Choice
from interp_arith.run import load_config
from interp_arith.tasks.pairs import PairTask
from interp_arith.training.config import RunConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
TAKEN = ("run", "status", "step", "seconds")
Fields = dict[str, Any]
"""Dotted name of a config field -> value; "preset" is one of them."""


@dataclass(frozen=True)
class Axis:
    """One dimension of a sweep.

    Attributes:
        name: of the dimension: a dotted config field, or the name given to several that move together.
        points: the fields that each of its values sets.
        labels: what each value is called, in run names and where it is no number.
    """

    name: str
    points: tuple[Fields, ...]
    labels: tuple[str, ...]

    @property
    def fields(self) -> list[str]:
        """Every field that some value sets."""
        return list(dict.fromkeys(name for point in self.points for name in point))

    @property
    def coordinates(self) -> list[float] | list[str]:
        """The values along the dimension: numbers where the first field of all is one, labels otherwise."""
        values = [_number(next(iter(point.values()))) for point in self.points]
        numbers = [value for value in values if value is not None]
        return numbers if len(set(numbers)) == len(self.points) else list(self.labels)


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        config: what is trained; its name is made from the swept values.
        place: axis name -> coordinate.
    """

    config: RunConfig
    place: Mapping[str, float | str]


class Sweep(Choice):
    """A grid over config fields, times seeds; what a sweep file holds.

    >>> sweep = Sweep(name="sizes", preset="mod-add-113", grid={"model.d_model": [64, 128]}, seeds="0..1")
    >>> [run.config.run_name for run in sweep.runs()]
    ['d-model-64-s0', 'd-model-64-s1', 'd-model-128-s0', 'd-model-128-s1']
    """

    name: str = Field(min_length=1, pattern=NAME)
    """The folder that it is kept in."""
    preset: str | None = None
    """What every run starts from; or give config, or sweep over preset."""
    config: Path | dict[str, Any] | None = None
    """A YAML file of a config, or the config itself."""
    overrides: dict[str, Any] = Field(default={})
    """Fields of every run: {"budget.steps": 2000}."""
    grid: dict[str, list[Any]]
    """Axis -> its values. An axis is a config field, or any other name for mappings of several fields."""
    seeds: tuple[int, ...]
    """One run each; in a file also a range such as 0..7."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        for name in data:
            if name not in cls.model_fields:  # before a field that is missing, which this one may be
                raise unknown("field of a sweep", str(name), cls.model_fields)
        seeds = data.get("seeds")
        if isinstance(seeds, int | float):
            raise RequestError(f"seeds = {seeds}; allowed: a list such as [0, 1], or a range such as 0..7")
        try:
            return {**data, "seeds": parse_seeds(seeds)} if isinstance(seeds, str) else data
        except RequestError as error:
            raise RequestError(f"{error}".replace("--seeds", "seeds")) from None

    @model_validator(mode="after")
    def _check(self) -> "Sweep":
        if not self.grid:
            raise RequestError(
                "grid: empty; give at least one field with a list of values, such as task.p: [97, 113]"
            )
        for axis, values in self.grid.items():
            if not values:
                raise RequestError(f"grid: {axis} has no values; give a list with at least one")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise RequestError(
                f"seeds: given {list(self.seeds)}; allowed: one or more different whole numbers from 0 on"
            )
        swept = [axis.name for axis in self.axes() if "preset" in axis.fields]
        sources = [f"grid {axis}" for axis in swept]
        sources += [name for name in ("preset", "config") if getattr(self, name) is not None]
        if len(sources) != 1:
            given = " and ".join(sources) or "none"
            raise RequestError(
                f"what the runs start from: given {given}; allowed: one of preset, config, grid preset"
            )
        return self

    def axes(self) -> list[Axis]:
        """The dimensions, in the file's order, every field known.

        Raises:
            RequestError: a field that no config has, a value that is given twice, a field on two axes.
        """
        axes = [_axis(name, values) for name, values in self.grid.items()]
        fixed = flat(self.overrides)
        for name in fixed:
            check_field(name)
        seen: dict[str, str] = dict.fromkeys(fixed, "overrides")
        for axis in axes:
            for name in axis.fields:
                if name in seen:
                    raise RequestError(
                        f"{name} is set by {seen[name]} and by grid {axis.name}; leave one out"
                    )
                seen[name] = f"grid {axis.name}"
        return axes

    def runs(self) -> list[SweptRun]:
        """Every run, the seeds of a point one after the other.

        Raises:
            RequestError: a value that its field does not take.
        """
        axes, fixed = self.axes(), flat(self.overrides)
        short = _short_names(axes)
        base = self._base()
        runs = []
        for indices in product(*(range(len(axis.points)) for axis in axes)):
            chosen = list(zip(axes, indices, strict=True))
            fields = fixed | {name: v for axis, i in chosen for name, v in axis.points[i].items()}
            start = base or preset(str(fields.pop("preset")))
            parts = [_part(short[axis.name], axis.labels[i]) for axis, i in chosen]
            place = {axis.name: axis.coordinates[i] for axis, i in chosen}
            for seed in self.seeds:
                try:
                    config = with_fields(start.with_seed(seed), {**fields, "name": "_".join(parts)})
                except RequestError as error:
                    at = ", ".join(f"{axis.name} = {axis.labels[i]}" for axis, i in chosen)
                    raise RequestError(f"{error} (grid point: {at})" if at else str(error)) from None
                runs.append(SweptRun(config, place))
        return runs

    def resolved(self) -> dict[str, Any]:
        """The sweep as plain data, a config file's content in the place of its path where that says all."""
        plain = self.model_dump(mode="json", exclude_none=True)
        if isinstance(self.config, Path):
            config = load_config(self.config)
            has_split = isinstance(config.task, PairTask) and config.task.train_mask is not None
            plain["config"] = str(self.config.resolve()) if has_split else config.plain()
        return plain

    def _base(self) -> RunConfig | None:
        if self.preset is not None:
            return preset(self.preset)
        if isinstance(self.config, Path):
            return load_config(self.config)
        return None if self.config is None else RunConfig.model_validate(self.config)


def read_sweep(source: str | Path | Mapping[str, Any] | Sweep) -> Sweep:
    """A sweep from its YAML file, or from a mapping that says the same.

    Raises:
        RequestError: no such file, no YAML, or a field is wrong.
    """
    if isinstance(source, Sweep):
        return source
    return Sweep.model_validate(source if isinstance(source, Mapping) else read_yaml(Path(source)))


@cache
def config_fields() -> tuple[str, ...]:
    """Every dotted name of a config field that a sweep can set, of choices of every kind."""
    return ("preset", *_names_below("", next(iter(PRESETS.values())).config))


def _names_below(prefix: str, choice: Choice) -> Iterator[str]:
    for name in type(choice).model_fields:
        where, value = f"{prefix}{name}", getattr(choice, name)
        if where in ("name", "seed"):
            continue
        yield where
        if where in TABLES:
            kinds = [kind.model_fields for kind in TABLES[where].values()]
            yield from (f"{where}.{field}" for field in dict.fromkeys(f for kind in kinds for f in kind))
        elif isinstance(value, Choice):
            yield from _names_below(f"{where}.", value)


def check_field(name: str) -> None:
    """Refuse a name that is no config field, or one that the sweep itself sets."""
    if name in ("name", "seed"):
        where = "it is made from the swept values" if name == "name" else "list them under seeds"
        raise RequestError(f"{name} is no field to sweep; {where}")
    if name not in (fields := config_fields()):
        raise unknown("config field", name, fields)


def flat(fields: Mapping[str, Any], prefix: str = "") -> Fields:
    """Nested mappings as dotted names: {"optimizer": {"kind": "muon"}} is {"optimizer.kind": "muon"}."""
    found: Fields = {}
    for name, value in fields.items():
        where = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{where}.")
        else:
            found[where] = value
    return found


def with_fields(config: RunConfig, fields: Mapping[str, Any]) -> RunConfig:
    """The config with some fields set by their dotted names, choices of another kind first, and checked.

    Raises:
        RequestError: a field that its choice does not have, or a value that it does not take.
    """
    changed = config
    for name, value in fields.items():
        where, _, last = name.rpartition(".")
        if last == "kind" and where in TABLES:
            changed = with_kind(changed, where, str(value))
    plain = _plain(changed)
    for name, value in fields.items():
        *parents, last = name.split(".")
        owner = plain
        for parent in parents:
            owner = owner[parent]
        if isinstance(owner.get(last), dict) and not isinstance(value, Mapping):
            raise RequestError(
                f"{name} = {value!r}; allowed: a mapping of its fields, or one of them by {name}.FIELD"
            )
        owner[last] = value
    checked = RunConfig.model_validate(plain)
    return checked.replace(task=finish_task(config.task, checked.task))


def _plain(choice: Choice) -> dict[str, Any]:
    """A choice as nested dicts; what another kind still needs is left out."""
    values = {name: getattr(choice, name, tyro.MISSING) for name in type(choice).model_fields}
    return {
        name: _plain(value) if isinstance(value, Choice) else value
        for name, value in values.items()
        if value is not tyro.MISSING
    }


def _axis(name: str, values: Sequence[Any]) -> Axis:
    if name in TAKEN:
        raise RequestError(
            f"grid: an axis cannot be called {name!r}, a column of the results is; give another name"
        )
    if name in ("name", "seed"):
        check_field(name)
    if name in config_fields():
        points = tuple(flat({name: value}) for value in values)
    elif all(isinstance(value, Mapping) and value for value in values):
        points = tuple(flat(value) for value in values)
    else:
        check_field(name)
        raise AssertionError("check_field raises where the name is no field")
    for point in points:
        for field in point:
            check_field(field)
    for index, point in enumerate(points):
        if point in points[:index]:
            raise RequestError(f"grid: {name} has the value {values[index]} twice; leave one out")
    firsts = [_text(next(iter(point.values()))) for point in points]
    whole = ["-".join(map(_text, point.values())) for point in points]
    labels = firsts if len(set(firsts)) == len(points) else whole
    if len(set(labels)) < len(points):
        labels = [f"{label}-{index}" for index, label in enumerate(labels)]
    return Axis(name, points, tuple(labels))


def _short_names(axes: Sequence[Axis]) -> dict[str, str]:
    """Axis name -> what run names call it: its last word ("kind" gives way to the one before), if no other has it."""
    last = {a.name: a.name.removesuffix(".kind").split(".")[-1] for a in axes}
    words = list(last.values())
    short = {name: word if words.count(word) == 1 else name for name, word in last.items()}
    return {name: re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-.") or "axis" for name, word in short.items()}


def _part(axis: str, label: str) -> str:
    return label if axis == "preset" else f"{axis}-{label}"


def _text(value: Any) -> str:
    """A value as a part of a file name."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(map(_text, value))
    number = _number(value)
    if number is not None:
        return f"{number:.12g}".replace("+", "")
    return re.sub(r"[^A-Za-z0-9._]+", "-", "none" if value is None else str(value)).strip("-") or "x"


def _number(value: Any) -> float | None:
    """A number, also as YAML 1.1 leaves 1e-3: as text."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return value
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
