"""RunConfig: task + model + optimizer + schedule + curriculum + budget; what a run is, before it runs."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from interp_arith.errors import RequestError
from interp_arith.models.config import ModelConfig
from interp_arith.registry import Choice
from interp_arith.tasks import TASKS
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import SampledTask, Task
from interp_arith.tasks.sampling import Limits
from interp_arith.tasks.scoring import LossName
from interp_arith.training.curricula import CURRICULA, Curriculum, Everything
from interp_arith.training.optimizers import OPTIMIZERS, AdamW, Optimizer
from interp_arith.training.schedules import SCHEDULES, Constant, Schedule


class Budget(Choice):
    """How long a run lasts: updates, or passes over the training questions."""

    steps: int | None = Field(default=None, ge=1)
    """Updates; give these or epochs."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes."""
    steps_per_epoch: int | None = Field(default=None, ge=1)
    """Updates in a pass; needed where questions are drawn without end."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise RequestError("give either budget.steps or budget.epochs")
        return self

    def total_steps(self, natural: int | None) -> int:
        """Updates in all; `natural` is the number of batches in the training set, if it has an end."""
        if self.steps is not None:
            return self.steps
        per_epoch = self.steps_per_epoch or natural
        if per_epoch is None:
            raise RequestError(
                "budget.epochs: the task draws its questions without end; give budget.steps_per_epoch"
            )
        assert self.epochs is not None
        return self.epochs * per_epoch


class StopRule(Choice):
    """When to stop before the budget is spent: a loss at or below, or anything else at or above, a threshold."""

    metric: str | None = None
    """A logged metric ("test_accuracy"); None never stops early."""
    threshold: float = 1.0
    """The value that counts as reached."""
    hold: int = Field(default=1, ge=1)
    """Evaluations in a row that must reach it."""

    def is_met(self, value: float) -> bool:
        """Whether one evaluation reaches the threshold."""
        return value <= self.threshold if is_lower_better(self.metric or "") else value >= self.threshold


class CheckpointPlan(Choice):
    """Which steps to keep. The trajectory has steps 0, 1, 2, 4, 8 … up to `every`, then every `every` steps."""

    every: int = Field(default=100, ge=1)
    """Linear spacing of the trajectory."""
    keep_best: int = Field(default=1, ge=0)
    """How many of the best evaluations to keep."""
    best_metric: str = "test_loss"
    """What makes one the best: the least for a loss, the greatest for anything else."""
    state_every: int = Field(default=100, ge=1)
    """Steps between full states to resume from; on a GPU none within 10 seconds of the last, or the start."""

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether the trajectory keeps this step."""
        is_power_of_two = step & (step - 1) == 0
        return step % self.every == 0 or step == total_steps or (step < self.every and is_power_of_two)


class RunConfig(Choice):
    """Everything that a run depends on. It round-trips through config.yaml."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What runs are called; the seed is added."""
    seed: int = Field(default=0, ge=0)
    """Of initial weights, shuffles and draws; the task has its own for the split, and --seed sets both."""
    task: Annotated[SerializeAsAny[Task], BeforeValidator(TASKS.parse)]
    """What is learnt."""
    model: ModelConfig = ModelConfig()
    """Who learns it."""
    optimizer: Annotated[SerializeAsAny[Optimizer], BeforeValidator(OPTIMIZERS.parse)] = AdamW()
    """How gradients become updates."""
    schedule: Annotated[SerializeAsAny[Schedule], BeforeValidator(SCHEDULES.parse)] = Constant()
    """How the learning rate goes over the run."""
    curriculum: Annotated[SerializeAsAny[Curriculum], BeforeValidator(CURRICULA.parse)] = Everything()
    """What may be sampled when."""
    budget: Budget
    """How long."""
    stop: StopRule = StopRule()
    """When to stop early."""
    checkpoints: CheckpointPlan = CheckpointPlan()
    """Which steps to keep."""
    batch_size: int | None = Field(default=None, ge=1)
    """Questions a step; None is the whole training set."""
    accumulation: int = Field(default=1, ge=1)
    """Parts that a batch is computed in, their gradients added up."""
    loss: LossName = "softmax"
    """Cross-entropy through softmax or StableMax, in float64."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest gradient norm, for each seed by itself."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of matrix products; weights and optimizer stay fp32, the loss float64. tf32 and fp16 need a GPU."""
    log_every: int = Field(default=10, ge=1)
    """Steps between logged training metrics."""
    evaluate_every: int = Field(default=10, ge=1)
    """Steps between evaluations of every set."""
    measure: tuple[str, ...] = ()
    """Measures logged at every evaluation; see `interp-arith measure --list`."""
    data_dir: Path | None = None
    """A folder of train.jsonl, val.jsonl and test.jsonl to use in place of the task's own questions."""
    init_from: str | None = None
    """A run, or RUN@STEP, whose weights this one starts from."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        sampled = isinstance(self.task, SampledTask) and self.data_dir is None
        if sampled and self.batch_size is None:
            raise RequestError(
                f"batch_size: the {self.task.kind} task draws its questions; say how many a step"
            )
        if not sampled and self.curriculum != Everything():
            raise RequestError(
                f"curriculum {self.curriculum.kind!r} limits what is drawn, and this run draws nothing; "
                "set curriculum.kind to everything"
                + (", and leave carries_end out" if self.curriculum.carries_end is not None else "")
            )
        if self.curriculum.carries_end is not None and not _carry_share(self.task):
            raise RequestError(
                "curriculum.carries_end fades the carry-heavy share, and task.carry_share is 0; "
                "set task.carry_share, or leave carries_end out"
            )
        self._check_grid()
        if self.batch_size is not None and self.accumulation > self.batch_size:
            raise RequestError(
                f"accumulation = {self.accumulation} parts of a batch of {self.batch_size}; give fewer parts"
            )
        return self

    def _check_grid(self) -> None:
        """Refuse a validation grid that the model has no positions for, or that data files would not hold out."""
        task, model = self.task, self.model
        if not isinstance(task, Addition) or not task.val_lengths:
            return
        if self.data_dir is not None:
            raise RequestError(
                "task.val_step asks questions of the task's own split, and data_dir gives others to train on; "
                "leave one of them out"
            )
        n_ctx = model.n_ctx or task.n_ctx
        longer = task.reaching(task.val_lengths[-1])
        if longer.n_digits > task.n_digits and not model.has_positions_for(longer, n_ctx):
            needed = f"positions.max_place to {max(longer.number_lengths)}"
            if model.positions.ends_with_context:
                needed = f"n_ctx to {longer.n_ctx}, or positions.kind to another than {model.positions.kind}"
            raise RequestError(
                f"task.val_max_digits: the model has no positions for numbers of {longer.n_digits} digits; "
                f"set model.{needed}"
            )

    @property
    def run_name(self) -> str:
        """The name of the run directory: NAME-sSEED."""
        return f"{self.name}-s{self.seed}"

    def total_steps(self, natural: int | None) -> int:
        """Updates in all; `natural` is the number of batches in the training set, if it has an end.

        Raises:
            RequestError: the length of an epoch is wanted, or the curriculum needs more updates.
        """
        total = self.budget.total_steps(natural)
        if isinstance(self.task, SampledTask):
            self.curriculum.check(total, self.budget.steps_per_epoch or natural, self.task.limits)
        return total

    def limits(self, step: int, natural: int | None) -> Limits | None:
        """What may be drawn for the update from `step` to `step` + 1; None of a task that lists its questions."""
        if not isinstance(self.task, SampledTask):
            return None
        total, per_epoch = self.budget.total_steps(natural), self.budget.steps_per_epoch or natural
        return self.curriculum.limits(step, total, per_epoch, self.task.limits)

    def with_seed(self, seed: int) -> "RunConfig":
        """The same run with another seed: other weights, other split, other draws."""
        return self.replace(seed=seed, task=self.task.with_seed(seed))

    def stack_key(self) -> str:
        """What runs must share to train together in one stack: all but name, seeds, rates and train share."""
        free = dict.fromkeys(self.optimizer.RATES, 0.0)
        plain = self.plain() | {"name": "", "seed": 0}
        plain["optimizer"] |= free
        plain["task"] |= {name: 0 for name in ("seed", "train_fraction") if name in plain["task"]}
        if self.budget.epochs is not None:  # then the share says how many steps there are
            plain["task"]["train_fraction"] = getattr(self.task, "train_fraction", None)
        if "train_fraction" in plain["task"]:  # all must be evaluated on the same sets
            plain["splits"] = [name for name in ("val", "test") if len(self.task.split(name))]
        return json.dumps(plain, sort_keys=True)

    def replace(self, **fields: Any) -> "RunConfig":
        """A copy with other fields, checked again; nested ones are given as mappings or as choices."""
        plain = {name: getattr(self, name) for name in type(self).model_fields}
        for name, value in fields.items():
            if name not in plain:
                raise RequestError(f"no config field is called {name!r}; there are: {', '.join(plain)}")
            nested = plain[name]
            if isinstance(value, dict) and isinstance(nested, Choice) and "kind" not in value:
                value = nested.model_dump() | value
            plain[name] = value
        return RunConfig.model_validate(plain)

    def _title(self) -> str:
        return self.run_name

    def plain(self) -> dict[str, Any]:
        """The config as plain data, for config.yaml."""
        return self.model_dump(mode="json")


def _carry_share(task: Task) -> float:
    return task.limits.carry_share if isinstance(task, SampledTask) else 0.0


def is_lower_better(metric: str) -> bool:
    """Losses want to be small, accuracies large."""
    return metric.endswith("loss")
