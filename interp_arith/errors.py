"""What goes wrong, said in one line; knows nothing of what the package does."""

import difflib
from collections.abc import Iterable


class RequestError(Exception):
    """The request was wrong: what was given, what is allowed, the next step. Exit status 2.

    Not a ValueError, which pydantic and the command-line parser would catch and rephrase.
    """


class WorkError(Exception):
    """The request was right and the work failed: what happened, what is kept. Exit status 1."""

    exit_status = 1


FEW = 6
"""Names that a message lists even where some of them are near to what was given."""


def unknown(noun: str, given: str, allowed: Iterable[str]) -> RequestError:
    """An error for a name that is in no table, with the nearest names that are, and with all where they are few."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hints = [f"did you mean {' or '.join(near)}?"] if near else []
    if len(near) < len(names) <= FEW or not near:
        hints.append(f"there are: {', '.join(names)}")
    return RequestError(f"no {noun} is called {given!r}; {' '.join(hints)}")
