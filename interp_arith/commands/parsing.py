"""How every command reads its arguments; knows none of them."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import tyro

from interp_arith.errors import RequestError

PROGRAM = "interp-arith"


def parse(
    command: Callable[..., None], usage: str, about: str | None, arguments: list[str], more: str = ""
) -> None:
    """Let tyro read the arguments and call the command; it answers --help, and wrong options with exit status 2.

    Args:
        command: with the options as its parameters, explained in its docstring.
        usage: its name, and what comes before the options.
        about: what it is for.
        arguments: those after the command's name.
        more: a last paragraph of --help.
    """
    tyro.cli(
        command,
        args=arguments,
        prog=f"{PROGRAM} {usage}",
        description="\n\n".join(filter(None, [about, more])),
        config=(tyro.conf.AvoidSubcommands,),
    )


def program() -> str:
    """How to call this command again: by its name, or by its path where the name is not on the PATH."""
    return PROGRAM if shutil.which(PROGRAM) else shlex.quote(os.path.relpath(sys.argv[0]))


def output_folder(path: Path) -> Path:
    """The path, unless a file stands there.

    Raises:
        RequestError: it does.
    """
    if path.exists() and not path.is_dir():
        raise RequestError(f"--out {path} is a file; give a folder, which is made if there is none")
    return path
