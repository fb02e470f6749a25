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


def rows_of(readme: Path, name: str) -> dict[str, str]:
    """What the first column has in backquotes -> the row, of the table between the marks."""
    text = readme.read_text(encoding="utf-8")
    return _by_name(text.split(f"<!-- {name}: begin -->")[-1].split(f"<!-- {name}: end -->")[0].splitlines())


def _by_name(lines: Iterable[str]) -> dict[str, str]:
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def replace_rows(readme: Path, name: str, lines: Sequence[str], order: Iterable[str]) -> list[str]:
    """A table between the marks: rows that are not among the new ones stay; all in the given order.

    Args:
        readme: the file.
        name: of the marks.
        lines: the new table, its two lines of heading first; a row starts with its preset in backquotes.
        order: presets.
    """
    rows = rows_of(readme, name) | _by_name(lines[2:])
    whole = [*lines[:2], *(rows[preset] for preset in order if preset in rows)]
    replace_block(readme, name, whole)
    return whole
