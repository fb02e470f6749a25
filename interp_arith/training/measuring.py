"""The sets that seeds are scored on, on the device: what each seed's questions are and how right it is on them.

Knows no loop and no files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Examples, Task
from interp_arith.tasks.lengths import val_examples
from interp_arith.tasks.sources import Source
from interp_arith.training import ensemble
from interp_arith.training.config import RunConfig

SCORES = ("loss", "accuracy", "exact_match")
CURRENT, GRID = "val_current", "grid"


def measured_sets(task: Task, source: Source) -> list[str]:
    """What is scored, by name: the source's sets; where there is a grid, its lengths, the curriculum's, the mean."""
    lengths = [f"val_{length}" for length in val_lengths(task)]
    return [*source.evaluation, *lengths, *((CURRENT, GRID) if lengths else ())]


def val_lengths(task: Task) -> tuple[int, ...]:
    """The operand lengths of the validation grid, where the task has one."""
    return task.val_lengths if isinstance(task, Addition) else ()


def check_metrics(config: RunConfig, source: Source) -> None:
    """Refuse a config that waits for a metric which is never measured."""
    plan, stop = config.checkpoints, config.stop
    measured = [f"{name}_{what}" for name in measured_sets(config.task, source) for what in SCORES]
    wanted = {
        "stop.metric": stop.metric,
        "checkpoints.best_metric": plan.best_metric if plan.keep_best else None,
    }
    for name, metric in wanted.items():
        if metric is not None and metric not in measured:
            there_are = f"there are: {', '.join(measured)}"
            if not measured:
                there_are = (
                    "nothing is; give it task.val_questions or task.test_questions, "
                    "or set checkpoints.keep_best to 0 and stop.metric to None"
                )
            raise RequestError(f"{name} = {metric!r} is not measured in this run; {there_are}")


@dataclass(frozen=True)
class ScoredSet:
    """Questions of every seed.

    Attributes:
        task: what they are of: the run's, or the same with longer operands.
        examples: with a leading seed axis.
    """

    task: Task
    examples: Examples

    def rows(self, kept: Int[Tensor, " rows"]) -> "ScoredSet":
        """The questions of some of the seeds."""
        return ScoredSet(self.task, self.examples.rows(kept))


@dataclass(frozen=True)
class Measuring:
    """What every seed is scored on.

    Attributes:
        model: of every seed.
        tasks: of each seed.
        device: where to compute.
        sets: by name.
        by_length: validation questions by operand length, of the grid and of the curriculum so far.
        cores: of a CPU, on which seeds are scored side by side.
    """

    model: ModelConfig
    tasks: Sequence[Task]
    device: torch.device
    sets: Mapping[str, ScoredSet]
    by_length: dict[int, ScoredSet]
    cores: int = 1

    def scores(
        self, parameters: Mapping[str, Float[Tensor, "seed ..."]], longest: int | None = None
    ) -> dict[str, Float[Tensor, " seed"]]:
        """Loss, token accuracy and exact match on every set, as logged metrics.

        Args:
            parameters: stacked.
            longest: digits of the longest numbers that the curriculum draws; needed where there is a grid.
        """
        columns = {}
        for name, asked in self.sets.items():
            columns |= _named(name, self._score(parameters, asked))
        return columns | self._grid_scores(parameters, longest)

    def _grid_scores(
        self, parameters: Mapping[str, Float[Tensor, "seed ..."]], longest: int | None
    ) -> dict[str, Float[Tensor, " seed"]]:
        """Those of each length, of the curriculum's longest, and the mean over the grid."""
        grid = val_lengths(self.tasks[0])
        if not grid:
            return {}
        assert longest is not None  # tasks with a grid are drawn within limits
        found = {
            length: self._score(parameters, self._of_length(length))
            for length in dict.fromkeys((*grid, longest))
        }
        columns = {}
        for length in grid:
            columns |= _named(f"val_{length}", found[length])
        mean = {
            what: ensemble.add_up([found[length][what] for length in grid]) / len(grid) for what in SCORES
        }
        digits = torch.full((len(self.tasks),), float(longest), device=self.device)
        return columns | _named(CURRENT, found[longest]) | _named(GRID, mean) | {"curriculum_digits": digits}

    def _score(
        self, parameters: Mapping[str, Float[Tensor, "seed ..."]], asked: ScoredSet
    ) -> dict[str, Float[Tensor, " seed"]]:
        ids = self.model.positions.ids(asked.task, asked.examples.tokens)
        task = asked.task
        return ensemble.score(
            self.model,
            parameters,
            asked.examples,
            task.answer_positions,
            ids,
            task.asking_token,
            self.cores,
        )

    def _of_length(self, length: int) -> ScoredSet:
        if length not in self.by_length:
            tasks = [task for task in self.tasks if isinstance(task, Addition)]
            examples = [val_examples(task, length) for task in tasks]
            stacked = ensemble.stack_examples(examples, self.device)
            self.by_length[length] = ScoredSet(tasks[0].reaching(length), stacked)
        return self.by_length[length]

    def rows(self, kept: Int[Tensor, " rows"]) -> "Measuring":
        """What some of the seeds are scored on."""
        return replace(
            self,
            tasks=[self.tasks[i] for i in kept.tolist()],
            sets={name: asked.rows(kept) for name, asked in self.sets.items()},
            by_length={length: asked.rows(kept) for length, asked in self.by_length.items()},
        )


def make_measuring(
    configs: Sequence[RunConfig], sources: Sequence[Source], device: torch.device, cores: int = 1
) -> Measuring:
    """The sets of sources that differ in seed and train share alone, with the validation grid of the task."""
    first = configs[0]
    sets = {
        name: ScoredSet(
            first.task, ensemble.stack_examples([source.evaluation[name] for source in sources], device)
        )
        for name in sources[0].evaluation
    }
    return Measuring(first.model, [config.task for config in configs], device, sets, {}, cores)


def live_columns(
    live: Callable[[RunConfig, dict[str, Tensor]], dict[str, float]],
    configs: Sequence[RunConfig],
    parameters: Mapping[str, Float[Tensor, "seed ..."]],
) -> dict[str, Float[Tensor, " seed"]]:
    """What else is logged of every seed, where its parameters are; NaN where a seed does not have it."""
    device = next(iter(parameters.values())).device
    found = [live(config, ensemble.member(parameters, index)) for index, config in enumerate(configs)]
    return {
        name: torch.tensor([each.get(name, torch.nan) for each in found], device=device)
        for name in dict.fromkeys(name for each in found for name in each)
    }


def _named(name: str, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}_{what}": values for what, values in scores.items()}
