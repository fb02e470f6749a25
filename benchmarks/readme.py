"""Puts what a script measured between two marks of README."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from interp_arith.files import write_atomically


def replace_block(readme: Path, name: str, lines: list[str]) -> None:
    """Everything between `<!-- NAME: begin -->` and `<!-- NAME: end -->` becomes the lines."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = readme.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise SystemExit(f"{readme} has no marks {begin} and {end}")
    block = "\n".join([begin, *lines, end])
    new = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, text, flags=re.DOTALL)
    write_atomically(readme, new.encode())


def replace_rows(readme: Path, name: str, lines: Sequence[str], order: Iterable[str]) -> list[str]:
    """A table between the marks: rows that are not among the new ones stay; all in the given order.

    Args:
        readme: the file.
        name: of the marks.
        lines: the new table, its two lines of heading first; a row starts with its preset in backquotes.
        order: presets.
    """
    old = (
        readme.read_text(encoding="utf-8").split(f"<!-- {name}: begin -->")[-1].split(f"<!-- {name}: end -->")
    )
    rows = {row.split("`")[1]: row for row in (*old[0].splitlines(), *lines[2:]) if row.startswith("| `")}
    whole = [*lines[:2], *(rows[preset] for preset in order if preset in rows)]
    replace_block(readme, name, whole)
    return whole
