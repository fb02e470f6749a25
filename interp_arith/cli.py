"""The command line: find the command, say what went wrong. A command is imported when it is asked for."""

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from interp_arith.errors import RequestError, WorkError, unknown

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
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
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
        importlib.import_module(f"interp_arith.commands.{MODULES[arguments[0]]}").run(arguments[1:])
    else:
        raise unknown("command", arguments[0], COMMANDS)


COMMANDS = {
    "presets": "List the presets; with a name, show its config and its parameters tensor by tensor.",
    "train": "Train a preset or a config file, one seed or several together; any field can be overridden.",
    "evaluate": "Score a run; the result, with the failures by question, is kept in the run.",
    "generate": "Ask a trained model questions.",
    "data": "Write a preset's questions as train.jsonl, val.jsonl and test.jsonl.",
    "inspect-data": "Show questions as the model sees them: tokens, positions and loss mask.",
    "runs": "List the runs in a folder: steps to grok, final losses and accuracies, mean ± std over seeds.",
    "sweep": "Train a grid of configs; a file says which fields, values and seeds.",
    "import": "Make a run of weights that others trained.",
    "measure": "Take measures of a run over its trajectory; they are kept in the run.",
    "report": "Write an account of a run: what it learnt, when, and how, as one page.",
    "app": "Open the explorer in a browser: training, attention, logits, frequencies, carries, interventions.",
}
"""Each command and what it is for: the module of that name in commands/, and the first line of its docstring."""
MODULES = {name: name.replace("-", "_") for name in COMMANDS} | {"import": "import_weights"}


def _overview() -> str:
    lines = [f"  {name:<14}{about}" for name, about in COMMANDS.items()]
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


if __name__ == "__main__":
    sys.exit(main())
