"""The command line: parse, call, print. Heavy imports wait inside the commands, so that --help is quick."""

import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from interp_arith.errors import RequestError, WorkError, unknown

if TYPE_CHECKING:
    from interp_arith.training.config import RunConfig

PROGRAM = "interp-arith"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 the work failed, 2 the request was wrong.

    A training that SIGINT or SIGTERM ended, everything saved, returns 128 + the signal's number.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"{PROGRAM}: {message}", file=sys.stderr)
            try:
                _dispatch(arguments)
            finally:
                sys.stdout.flush()
    except (RequestError, WorkError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2 if isinstance(error, RequestError) else error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has gone; Python's own last flush must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"{PROGRAM}: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
    elif arguments[0] == "--version":
        from interp_arith import __version__

        print(__version__)
    elif arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:])
    else:
        raise unknown("command", arguments[0], COMMANDS)


def _presets(arguments: list[str]) -> None:
    """List the presets; with a name, show its config and its parameters tensor by tensor."""
    import tyro

    from interp_arith.files import dump_yaml
    from interp_arith.models.transformer import build_model
    from interp_arith.presets import PRESETS, measured, preset
    from interp_arith.tables import print_table

    def parameters(config: "RunConfig") -> dict[str, Any]:
        return build_model(config.model, config.task).trained_parameters()

    def command(
        name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None,
    ) -> None:
        """List presets.

        Args:
            name: the preset to show.
        """
        if name is None:
            rows = [
                (
                    key,
                    f"{sum(p.numel() for p in parameters(entry.config).values()):,}",
                    entry.reaches,
                    measured(key),
                )
                for key, entry in PRESETS.items()
            ]
            print_table(("preset", "parameters", "should reach", "measured"), rows, numbers=(1,))
            return
        config = preset(name)
        tensors = parameters(config)
        total = sum(p.numel() for p in tensors.values())
        rows = [(key, " × ".join(map(str, p.shape)), f"{p.numel():,}") for key, p in tensors.items()]
        print(dump_yaml(config.plain()))
        print_table(("tensor", "shape", "parameters"), [*rows, ("in all", "", f"{total:,}")], numbers=(2,))

    _parse(command, "presets", arguments)


def _train(arguments: list[str]) -> None:
    """Train a preset or a config file, one seed or several together; any field can be overridden."""
    import tyro

    from interp_arith.generation import account
    from interp_arith.overrides import base_config, finish_config, kinds, parse_seeds
    from interp_arith.runs import train, train_seeds
    from interp_arith.training.config import RunConfig

    start, rest = base_config("train", arguments)

    def command(
        config: Annotated[RunConfig, tyro.conf.FlagConversionOff, tyro.conf.arg(name="")] = start,
        seeds: str | None = None,
        device: str = "auto",
        out: Path = Path("runs"),
        resume: tyro.conf.FlagCreatePairsOff[bool] = False,
        track: str | None = None,
    ) -> None:
        """Train.

        Args:
            config: every field of the run.
            seeds: several seeds together: 0..7, or 0,3,5; --seed takes one.
            device: auto, cpu or cuda.
            out: the folder of runs.
            resume: go on with a run that exists.
            track: log to wandb or tensorboard too.
        """
        config = finish_config(start, config, rest)
        common: dict[str, Any] = {
            "out": _folder(out),
            "device": device,
            "resume": resume,
            "track": track,
        }
        if seeds is None:
            print(account([train(config, **common)], _program()))
            return
        if given := {"--seed", "--task.seed"} & set(rest):
            raise RequestError(f"--seeds and {min(given)} are both given; --seeds sets every seed, give one")
        print(account(train_seeds(config, parse_seeds(seeds), **common), _program()))

    _parse(command, "train PRESET|CONFIG.yaml", rest, f"Choices that come in kinds:\n{kinds()}")


def _program() -> str:
    """How to call this command again: by its name, or by its path where the name is not on the PATH."""
    return PROGRAM if shutil.which(PROGRAM) else shlex.quote(os.path.relpath(sys.argv[0]))


def _evaluate(arguments: list[str]) -> None:
    """Score a run; the result, with the failures by question, is kept in the run."""
    import tyro

    from interp_arith.runs import evaluate, load_run
    from interp_arith.tables import print_table

    def command(
        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
        protocol: str = "test",
        step: str = "last",
        device: str = "auto",
    ) -> None:
        """Score a run.

        Args:
            run: a run directory, or the name of one.
            protocol: how; test is every split of the run.
            step: a step of the trajectory, best, or last.
            device: auto, cpu or cuda.
        """
        found = load_run(run)
        table = evaluate(found, protocol, step, device)
        rows = list(table.itertuples(index=False))
        print(f"{found.path}, step {table.attrs['step']}")
        print_table(tuple(table.columns), rows, numbers=range(1, len(table.columns)))
        print(f"kept, with the failures by question, in {table.attrs['file']}")

    _parse(command, "evaluate", arguments)


def _generate(arguments: list[str]) -> None:
    """Ask a trained model questions."""
    import tyro

    from interp_arith.generation import Asker, example_question
    from interp_arith.runs import load_run

    def command(
        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
        questions: Annotated[
            tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[QUESTION …]")
        ] = (),
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        step: str = "last",
        steps: tyro.conf.FlagCreatePairsOff[bool] = False,
        interactive: tyro.conf.FlagCreatePairsOff[bool] = False,
    ) -> None:
        """Ask a trained model.

        Args:
            run: a run directory, or the name of one.
            questions: such as "23+45=".
            temperature: 0 is greedy, 1 the model's own distribution.
            top_k: draw among the k likeliest tokens only.
            seed: of the draws.
            step: a step of the trajectory, best, or last.
            steps: show every generated token's top logits and probabilities.
            interactive: read questions from the keyboard until an empty line.
        """
        asker = Asker(load_run(run), step, temperature, top_k, seed)
        example = example_question(asker.task)
        if not questions and not interactive:
            raise RequestError(f"no question given; for example {example!r}, or --interactive")
        for question in questions:
            asker.task.parse([question])
        for question in questions:
            print(asker.tell(question, steps))
        if interactive:
            print(f"a question such as {example!r}; an empty line ends")
        while interactive:
            try:
                question = input("question> ").strip()
            except EOFError:
                print()
                break
            if not question:
                break
            try:
                print(asker.tell(question, steps))
            except RequestError as error:
                print(error)

    _parse(command, "generate", arguments)


def _data(arguments: list[str]) -> None:
    """Write a preset's questions as train.jsonl, val.jsonl and test.jsonl."""
    import tyro

    from interp_arith.overrides import base_config, finish_task
    from interp_arith.tasks.base import Task
    from interp_arith.tasks.sources import write_data
    from interp_arith.training.curricula import Everything

    start, rest = base_config("data", arguments)

    def command(
        out: Path,
        n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None,
        task: Annotated[Task, tyro.conf.FlagConversionOff] = start.task,
    ) -> None:
        """Write data files.

        Args:
            out: the folder to write to.
            n: training questions, where the task draws them (10,000 unless given).
            task: what is asked.
        """
        counts = write_data(finish_task(start.task, task), _folder(out), n)
        for split, count in counts.items():
            print(f"{out / split}.jsonl: {count:,} questions")
        same = [part for pair in pairwise(rest) if pair[0].startswith("--task.") for part in pair]
        if not isinstance(start.curriculum, Everything):  # it limits what is drawn, and files are not
            same += ["--curriculum.kind", "everything"]
        print("\nNext: ", _program(), shlex.join(["train", arguments[0], *same, "--data-dir", str(out)]))

    _parse(command, "data PRESET|CONFIG.yaml", rest)


def _inspect_data(arguments: list[str]) -> None:
    """Show questions as the model sees them: tokens, positions and loss mask."""
    import tyro

    from interp_arith.generation import token_rows
    from interp_arith.overrides import base_config, finish_task
    from interp_arith.tables import print_table
    from interp_arith.tasks.base import Task

    start, rest = base_config("inspect-data", arguments)

    def command(
        n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None,
        min_digits: int | None = None,
        max_digits: int | None = None,
        split: str = "train",
        task: Annotated[Task, tyro.conf.FlagConversionOff] = start.task,
    ) -> None:
        """Show questions.

        Args:
            n: how many (5, or as many as there are, unless given).
            min_digits: the shortest operands, where questions are drawn.
            max_digits: the longest.
            split: train, val or test.
            task: what is asked.
        """
        for title, rows in token_rows(finish_task(start.task, task), split, n, min_digits, max_digits):
            print(title)
            print_table(("position", "token", "id", "target", "loss"), rows, numbers=(0, 2))

    _parse(command, "inspect-data PRESET|CONFIG.yaml", rest)


def _runs(arguments: list[str]) -> None:
    """List the runs in a folder: steps to grok, final losses and accuracies, mean ± std over seeds."""
    import tyro

    from interp_arith.comparison import runs_table, seeds_table
    from interp_arith.runs import find_runs
    from interp_arith.tables import print_table

    def command(
        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = Path("runs"),
    ) -> None:
        """List runs.

        Args:
            folder: where they are.
        """
        found = find_runs(folder)
        if not found:
            raise RequestError(f"no runs in {folder}; train one with `{PROGRAM} train mod-add-113`")
        table = runs_table(found).dropna(axis="columns", how="all")
        for frame, first_number in ((table.drop(columns=["config", "seed"]), 2), (seeds_table(table), 1)):
            rows = list(frame.itertuples(index=False))
            print_table(tuple(frame.columns), rows, numbers=range(first_number, len(frame.columns)))

    _parse(command, "runs", arguments)


def _sweep(arguments: list[str]) -> None:
    """Train a grid of configs; a file says which fields, values and seeds."""
    from interp_arith.sweep import sweep_command

    _parse(sweep_command, "sweep FILE.yaml", arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "presets": _presets,
    "train": _train,
    "evaluate": _evaluate,
    "generate": _generate,
    "data": _data,
    "inspect-data": _inspect_data,
    "runs": _runs,
    "sweep": _sweep,
}


def _overview() -> str:
    lines = [f"  {name:<14}{(function.__doc__ or '').strip()}" for name, function in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND …",
            "",
            "Train small transformers on arithmetic, keep their trajectory, and see how they compute.",
            "",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` says more; `{PROGRAM} train PRESET --help` lists every field of a config.",
        ]
    )


def _folder(path: Path) -> Path:
    """The path, unless a file stands there."""
    if path.exists() and not path.is_dir():
        raise RequestError(f"--out {path} is a file; give a folder, which is made if there is none")
    return path


def _parse(command: Callable[..., None], usage: str, arguments: list[str], more: str = "") -> None:
    """Let tyro read the arguments and call the command; it answers --help, and wrong options with exit status 2."""
    import tyro

    tyro.cli(
        command,
        args=arguments,
        prog=f"{PROGRAM} {usage}",
        description="\n\n".join(filter(None, [COMMANDS[usage.split()[0]].__doc__, more])),
        config=(tyro.conf.AvoidSubcommands,),
    )


if __name__ == "__main__":
    sys.exit(main())
