"""What the command line says of a config: preset or file, choices of another kind, seeds; knows no command."""

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tyro

from interp_arith.errors import RequestError, unknown
from interp_arith.models.positions import POSITIONS
from interp_arith.presets import PRESETS, preset
from interp_arith.registry import Choice, Registry
from interp_arith.run import load_config
from interp_arith.storage import RunDirectory
from interp_arith.tasks import TASKS
from interp_arith.tasks.base import Task
from interp_arith.tasks.pairs import PairTask
from interp_arith.training.config import RunConfig
from interp_arith.training.curricula import CURRICULA
from interp_arith.training.optimizers import OPTIMIZERS
from interp_arith.training.schedules import SCHEDULES

TABLES: dict[str, Registry[Any]] = {
    "task": TASKS,
    "model.positions": POSITIONS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "curriculum": CURRICULA,
}


def base_config(command: str, arguments: list[str]) -> tuple[RunConfig, list[str]]:
    """The config that the first argument names, `--TABLE.kind` options already taken, and the other arguments.

    Where such an option is given the config is not checked yet: the options after it may be what it needs.
    """
    if not arguments:
        raise RequestError(f"{command}: no preset given; for example interp-arith {command} mod-add-113")
    if arguments[0] in ("-h", "--help"):
        return preset("mod-add-113"), arguments
    if arguments[0].startswith("-"):
        raise RequestError(
            f"{command}: the preset comes first; for example interp-arith {command} mod-add-113 {arguments[0]} …"
        )
    config, rest = _named(arguments[0]), [part for a in arguments[1:] for part in _with_separate_value(a)]
    options = [
        (option.removeprefix("--").replace("-", "_").split("."), value)
        for option, value in pairwise(rest)
        if option.startswith("--")
    ]
    for path, value in options:
        if path[-1] == "kind" and ".".join(path[:-1]) in TABLES:
            config = with_kind(config, ".".join(path[:-1]), value)
    for path, value in options:
        _check_name(config, path, value)
    return config, rest


def _named(name: str) -> RunConfig:
    if name.endswith((".yaml", ".yml")):
        return load_config(name)
    for place in (Path(name), Path("runs") / name):
        run = RunDirectory(place)
        if name not in PRESETS and run.exists:
            raise RequestError(
                f"{name} is a run, no preset; its config is {run.config_file}, which can be trained"
            )
    return preset(name)


def with_kind(config: RunConfig, where: str, kind: str) -> RunConfig:
    """The config with a choice of another kind, not checked: with_kind(config, "optimizer", "muon").

    Fields that both kinds define alike, default included, keep their values (AdamW's learning rate is none for
    Muon); one without a default becomes a required option.
    """
    new = TABLES[where][kind]
    *parent, last = where.split(".")
    owner = config.model if parent else config
    old = getattr(owner, last)
    if type(old) is new:
        return config
    fields: dict[str, Any] = {}
    for name, field in new.model_fields.items():
        same = type(old).model_fields.get(name)
        alike = same is not None and (same.annotation, same.default) == (field.annotation, field.default)
        if name != "kind" and alike:
            fields[name] = getattr(old, name)
        elif field.is_required():
            fields[name] = tyro.MISSING
    owner = owner.model_copy(update={last: new.model_construct(**fields)})
    return config.model_copy(update={"model": owner}) if parent else owner  # type: ignore[return-value]


def kinds() -> str:
    """Every choice of a config that comes in kinds, for --help."""
    return "\n".join(
        f"--{where.replace('_', '-')}.kind: {', '.join(table)}" for where, table in TABLES.items()
    )


def finish_config(start: RunConfig, config: RunConfig, arguments: list[str]) -> RunConfig:
    """What the parser cannot know: --seed sets the task's seed too, and a given split stays."""
    if "--seed" in arguments and "--task.seed" not in arguments:
        config = config.with_seed(config.seed)
    return config.replace(task=finish_task(start.task, config.task))


def finish_task(start: Task, task: Task) -> Task:
    """The task, with the split that was given to the one it started from."""
    if isinstance(start, PairTask) and isinstance(task, PairTask) and start.train_mask is not None:
        return task.with_split(start.train_mask)
    return task


def parse_seeds(text: str) -> list[int]:
    """ "0..7" or "0,3,5"."""
    try:
        if ".." in text:
            first, last = map(int, text.split(".."))
            seeds = list(range(first, last + 1))
        else:
            seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise RequestError(f"--seeds {text!r}; allowed: a range such as 0..7, or a list such as 0,3,5")
    return seeds


def _with_separate_value(argument: str) -> list[str]:
    return argument.split("=", 1) if argument.startswith("--") and "=" in argument else [argument]


def _check_name(config: RunConfig, path: list[str], value: str) -> None:
    """Refuse a word that a field of a few words does not know, with the nearest that it does."""
    owner: Any = config
    for part in path[:-1]:
        owner = getattr(owner, part, None)
    field = type(owner).model_fields.get(path[-1]) if isinstance(owner, Choice) else None
    if field is not None and get_origin(field.annotation) is Literal and path[-1] != "kind":
        allowed = get_args(field.annotation)
        if value not in allowed:
            raise unknown(path[-1], value, allowed)
