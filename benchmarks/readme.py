"""Puts what a script measured between two marks of README."""

import re
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
