"""The loop, over an ensemble of seeds; it writes run directories and knows no interpretability."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import torch
from torch import Tensor

from interp_arith import models
from interp_arith.errors import RequestError, WorkError
from interp_arith.models.single import forget_questions
from interp_arith.storage import RunDirectory
from interp_arith.tasks.sampling import Limits
from interp_arith.training import ensemble, machine
from interp_arith.training import step as training_step
from interp_arith.training.batches import Given, make_batches, with_offsets
from interp_arith.training.checkpoints import check, create
from interp_arith.training.compiled import compiled_kernels
from interp_arith.training.config import RunConfig
from interp_arith.training.lanes import Lane, Status, common_step, fresh_weights, open_lanes
from interp_arith.training.measuring import check_metrics, live_columns, make_measuring
from interp_arith.training.optimizers import Number
from interp_arith.training.recorded import Recorded, Update
from interp_arith.training.signals import Interrupted, StopRequest, stop_requests
from interp_arith.training.sinks import Sink
from interp_arith.training.step import StepReport
from interp_arith.training.writer import (
    Log,
    Record,
    is_finite,
    keep_records,
    keep_states,
    keep_weights,
    make_writer,
)


class Trainer:
    """Trains several seeds or variants of one config at once, each in its own run directory.

    The live state is a dict of parameters stacked over the seeds that still run. A seed that stops leaves the
    stack; at that moment every seed saves its full state, so that a resumed ensemble is the same stack again.

    Args:
        configs: of one `stack_key`: they differ in seeds, rates and train share alone.
        directories: where each is kept.
        device: where to compute.
        open_sinks: total steps -> where metrics go besides the run directories; called once all is in order.
        resume: go on with runs that exist.
        initial_weights: config -> weights to start from.
        live: config, weights -> what else is logged at an evaluation, by name.
        notify: told what the user should know.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        directories: Sequence[RunDirectory],
        device: torch.device,
        *,
        open_sinks: Callable[[int], Sequence[Sink]] = lambda total_steps: (),
        resume: bool = False,
        initial_weights: Callable[[RunConfig], dict[str, Tensor]] = fresh_weights,
        live: Callable[[RunConfig, dict[str, Tensor]], dict[str, float]] = lambda config, weights: {},
        notify: Callable[[str], None] = print,
    ) -> None:
        self._configs, self._directories, self._device = configs, directories, device
        self._open_sinks, self._resume = open_sinks, resume
        self._initial_weights, self._live, self._notify = initial_weights, live, notify
        _check_stack(configs)
        self._config = configs[0]  # where seeds and rates play no part, one config speaks for all
        self._cores = torch.get_num_threads()  # that all seeds may use
        self._lanes: list[Lane] = []
        self._log = Log()
        self._sinks: Sequence[Sink] = ()
        self._failures: list[str] = []
        self._step, self._total = 0, 0
        self._saved: int | None = None

    def run(self) -> None:
        """Train until every seed has stopped or spent its budget.

        Raises:
            RequestError: a run exists, is being written by another process, or its config does not fit.
            Interrupted: SIGINT or SIGTERM; everything is saved.
            WorkError: a seed's loss is not finite (the others train on first), or the disk is full.
        """
        status: Status = "failed"
        self._open()
        self._check_places()
        with ExitStack() as stack:
            for directory in self._directories:
                stack.enter_context(directory.lock())
            self._check_places()  # again: another process may have been there in between
            if not self._lanes:
                return
            self._load()
            stack.enter_context(machine.prepared(self._device, self._threads()))
            stack.callback(forget_questions)
            self._sinks = self._open_sinks(self._total)
            request = stack.enter_context(stop_requests())
            self._writer = make_writer(self._device)
            try:
                self._begin()
                self._loop(request)
                status = "finished"
            except Interrupted:
                status = "interrupted"
                raise
            finally:
                self._writer.close()
                for sink in self._sinks:
                    sink.close(status)
                for lane in self._lanes:
                    if lane.directory.exists:
                        with suppress(WorkError):  # the disk is full: the error on its way says so
                            lane.write_info(status, self._step, self._total, self._device)

    # --- before the loop ---

    def _check_places(self) -> None:
        for config, directory in zip(self._configs, self._directories, strict=True):
            check(config, directory, self._resume)

    def _open(self) -> None:
        """The lanes of what is left to train; refuses what no run can be, before anything is written."""
        unfinished = open_lanes(self._configs, self._directories)
        self._failures = [_complaint(lane) for lane in unfinished if lane.failure is not None]
        self._lanes = [lane for lane in unfinished if lane.failure is None]
        for lane in self._lanes:
            lane.together = len(self._lanes)
        if self._lanes:
            source = self._lanes[0].source
            check_metrics(self._config, source)
            self._total = self._config.total_steps(source.steps_per_epoch)
            models.build_model(self._config.model, self._config.task)

    def _load(self) -> None:
        """Parameters and optimizer state: fresh, or from the newest step that all lanes share."""
        self._positions = self._config.task.answer_positions
        start = common_step((lane.directory for lane in self._lanes), self._notify)
        states = [lane.keeper.rewind(start) for lane in self._lanes]
        if start is None:
            each = [ensemble.stack([self._initial_weights(lane.config)]) for lane in self._lanes]
            each_state = [
                training_step.initial_state(lane.config, p) for lane, p in zip(self._lanes, each, strict=True)
            ]
            parameters, optimizer = ensemble.join(each), ensemble.join(each_state)
        else:
            whole = [state for state in states if state is not None]
            self._step = self._saved = start
            for lane, state in zip(self._lanes, whole, strict=True):
                lane.held, lane.seconds = state["held"], state["seconds"]
            parameters = ensemble.stack([state["parameters"] for state in whole])
            optimizer = ensemble.stack(
                [
                    lane.config.optimizer.completed(state["optimizer"])
                    for lane, state in zip(self._lanes, whole, strict=True)
                ]
            )
            self._notify(f"resumed from step {start}")
        self._parameters = {name: tensor.to(self._device) for name, tensor in parameters.items()}
        self._state = {name: tensor.to(self._device) for name, tensor in optimizer.items()}
        batches = make_batches([lane.source for lane in self._lanes], self._device)
        self._batches = with_offsets(batches, [lane.config for lane in self._lanes], self._device)
        self._make_update: Update | None = None
        on_cpu = self._device.type == "cpu"
        self._kernels = training_step.Kernels() if on_cpu else compiled_kernels(self._notify)
        self._finite = torch.ones(len(self._lanes), dtype=torch.bool, device=self._device)
        configs, sources = zip(*((lane.config, lane.source) for lane in self._lanes), strict=True)
        self._measuring = make_measuring(configs, sources, self._device, self._cores)

    def _threads(self) -> int:
        """Of each seed, to the end: those of its earlier process, so that a resume is bitwise, or its share."""
        earlier = self._lanes[0].directory.read_info().get("threads")
        if self._saved is not None and earlier is not None:
            return earlier
        size = sum(p[0].numel() for p in self._parameters.values())
        questions = self._config.batch_size or len(self._lanes[0].source.evaluation["train"].tokens)
        side_by_side = len(self._lanes) if self._device.type == "cpu" else 1
        return machine.threads_for(machine.operations_of(self._config, size, questions), side_by_side)

    def _begin(self) -> None:
        """From here on there is something on disk."""
        for lane in self._lanes:
            if not lane.directory.exists:
                create(lane.config, lane.directory)
            lane.log("started" if self._saved is None else f"resumed from step {self._saved}")
            lane.write_info("running", self._step, self._total, self._device)

    # --- the loop ---

    def _loop(self, request: StopRequest) -> None:
        self._clock = time.perf_counter()
        if self._saved is None:
            self._visit(None)
        else:
            self._retire()  # a state is saved at the end of its step's visit
        while self._lanes:
            if request.signal is not None:
                if self._saved != self._step:
                    self._save_states()
                self._writer.drain()
                raise Interrupted(request.signal, self._step)
            report = self._update()
            self._step += 1
            if self._lanes:
                self._visit(report)
        if self._failures:
            raise WorkError("; ".join(self._failures))

    def _update(self) -> StepReport:
        """One update of every seed; a seed whose loss is not finite leaves."""
        if self._make_update is None:
            self._make_update = self._updater()
        report = self._make_update(
            self._batches.given(self._step, self._limits(self._step)),
            step=self._step + 1,
            multiplier=self._config.schedule.multiplier(self._step, self._total),
        )
        self._finite &= report.loss.isfinite()
        # To look is to wait for the device: a GPU is asked only when there is something to do besides.
        if (self._writer.at_once or self._is_evaluated(self._step + 1)) and not self._finite.all():
            finite = self._finite
            self._fail(finite.tolist())
            report = report.rows(finite)
        return report

    def _updater(self) -> Update:
        """How to update the lanes that still run; on a GPU it is recorded and replayed, drawing included."""
        config, parameters, state, positions = self._config, self._parameters, self._state, self._positions
        batches, kernels, cores = self._batches, self._kernels, self._cores

        def update(given: Given, *, step: Number, multiplier: Number) -> StepReport:
            batch = batches.batch(given, step - 1)
            return training_step.update(
                config,
                parameters,
                state,
                batch,
                positions,
                step=step,
                multiplier=multiplier,
                kernels=kernels,
                cores=cores,
            )

        return update if self._device.type == "cpu" else Recorded(update, self._device, self._notify)

    def _limits(self, step: int) -> Limits | None:
        return self._config.limits(step, self._lanes[0].source.steps_per_epoch)

    def _visit(self, report: StepReport | None) -> None:
        """What is due at the current step, before the next update: measure, log, save, stop."""
        if not self._is_due(self._step):
            return
        evaluate = self._is_evaluated(self._step)
        self._log.add(self._step, self._measure(report, evaluate), self._live_columns() if evaluate else {})
        if not evaluate:
            if self._writer.at_once:
                self._read_log()
            return
        records = self._read_log()
        finite = [is_finite(record) for record in records]
        if not all(finite):
            self._fail(finite)
            records = [record for record, keep in zip(records, finite, strict=True) if keep]
        for lane, record in zip(self._lanes, records, strict=True):
            lane.count(record)
        checkpoint = self._config.checkpoints.is_due(self._step, self._total)
        if checkpoint or self._config.checkpoints.keep_best:
            weights = self._writer.snapshot(self._parameters)
            self._writer.submit(
                partial(
                    keep_weights, self._lanes, self._step, records, weights, checkpoint, self._writer.each
                )
            )
        waited = time.perf_counter() - self._clock >= self._writer.seconds_between_states
        if (waited and self._is_state_due(self._step)) or any(self._is_done(lane) for lane in self._lanes):
            self._save_states()
            self._retire()

    def _read_log(self) -> Sequence[Record]:
        """Hand what was logged to the writer and the sinks; the last step's records."""
        steps = self._log.take()
        for records in steps:
            self._writer.submit(partial(keep_records, self._lanes, records))
            for lane, record in zip(self._lanes, records, strict=True):
                for sink in self._sinks if is_finite(record) else ():
                    sink.log(lane.directory.name, record)
        return steps[-1] if steps else ()

    def _is_due(self, step: int) -> bool:
        """Whether a step is logged, evaluated or kept."""
        return step % self._config.log_every == 0 or self._is_evaluated(step)

    def _is_evaluated(self, step: int) -> bool:
        """Whether every set is scored at a step: regularly, and where something is kept."""
        kept = self._config.checkpoints.is_due(step, self._total) or self._is_state_due(step)
        return kept or step % self._config.evaluate_every == 0

    def _is_state_due(self, step: int) -> bool:
        return step == self._total or step % self._config.checkpoints.state_every == 0

    def _measure(self, report: StepReport | None, evaluate: bool) -> dict[str, Tensor]:
        """Metrics, each of every lane; on the device."""
        columns = {} if report is None else report.columns()
        columns["weight_norm"] = ensemble.weight_norm(self._parameters)
        latest = max(self._step - 1, 0)
        if evaluate:
            limits = self._limits(latest)
            columns |= self._measuring.scores(self._parameters, limits and limits.max_digits)
        multiplier = self._config.schedule.multiplier(latest, self._total)
        return {"learning_rate": self._state["learning_rate"] * multiplier} | columns

    def _live_columns(self) -> dict[str, Tensor]:
        return live_columns(self._live, [lane.config for lane in self._lanes], self._parameters)

    # --- saving and leaving ---

    def _is_done(self, lane: Lane) -> bool:
        return self._step >= self._total or lane.held >= self._config.stop.hold

    def _save_states(self) -> None:
        """A full state of every lane at this step."""
        self._read_log()
        now = time.perf_counter()
        for lane in self._lanes:
            lane.seconds += now - self._clock
        accounts = [{"held": lane.held, "seconds": lane.seconds} for lane in self._lanes]
        parts = [self._writer.snapshot(part) for part in (self._parameters, self._state)]
        self._writer.submit(
            partial(keep_states, self._lanes, self._step, accounts, *parts, self._writer.each)
        )
        self._clock, self._saved = now, self._step

    def _retire(self) -> None:
        """Finish the lanes that are done; the states of all are saved."""
        going_on = [not self._is_done(lane) for lane in self._lanes]
        if all(going_on):
            return
        self._writer.drain()
        for index, lane in enumerate(self._lanes):
            if not going_on[index]:
                trajectory = lane.directory.checkpoints()
                if not trajectory or trajectory[-1].step != self._step:
                    record = lane.directory.read_metrics()[-1]
                    weights = ensemble.member(self._parameters, index)
                    lane.keeper.write_checkpoint(self._step, weights, record)
                lane.keeper.finish()
                lane.log(f"finished at step {self._step}")
                lane.write_info("finished", self._step, self._total, self._device)
        self._keep(going_on)

    def _fail(self, finite: Sequence[bool]) -> None:
        """Give up the lanes whose loss is not finite; what they saved stays."""
        self._read_log()
        self._writer.drain()
        for lane, keep in zip(self._lanes, finite, strict=True):
            if not keep:
                lane.failure = f"the loss is not finite at step {self._step}"
                lane.keeper.flush()
                lane.log(lane.failure)
                lane.write_info("failed", self._step, self._total, self._device)
                self._failures.append(_complaint(lane))
        self._keep(finite)

    def _keep(self, flags: Sequence[bool]) -> None:
        """Go on with some of the lanes alone."""
        if all(flags):
            return
        self._lanes = [lane for lane, keep in zip(self._lanes, flags, strict=True) if keep]
        rows = torch.tensor(flags, device=self._device).nonzero().flatten()
        self._parameters = {name: tensor[rows] for name, tensor in self._parameters.items()}
        self._state = {name: tensor[rows] for name, tensor in self._state.items()}
        self._measuring = self._measuring.rows(rows)
        self._batches = self._batches.rows(rows)
        self._finite, self._make_update = self._finite[rows], None


def _check_stack(configs: Sequence[RunConfig]) -> None:
    if len({config.stack_key() for config in configs}) > 1:
        raise RequestError(
            "these configs cannot train in one stack: they may differ in name, seeds, "
            f"{', '.join(configs[0].optimizer.RATES)} and train share alone; train them one after the other"
        )
    if len({config.run_name for config in configs}) < len(configs):
        raise RequestError("two of these configs would be the same run; give each its own name or seed")


def _complaint(lane: Lane) -> str:
    return (
        f"{lane.directory.name}: {lane.failure}; the last good checkpoint is kept; "
        "try a lower optimizer.learning-rate"
    )
