"""Tables on the screen: headings, cells, widths; knows no run."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

HEADINGS = {
    "steps_to_train_accuracy_1": "train acc.\n1 at",
    "steps_to_test_accuracy_0.95": "test acc.\n0.95 at",
    "steps_to_test_accuracy_0.99": "test acc.\n0.99 at",
    "train_exact_match": "train\nexact",
    "val_exact_match": "val\nexact",
    "test_exact_match": "test\nexact",
}
WIDEST_UNBROKEN = 24
"""A column with a longer cell is text, and wraps where the screen is narrow."""


def heading(name: str) -> str:
    """A column's name in words, the set that it is about on a line of its own."""
    words = name.replace("accuracy", "acc.").replace("_", " ")
    first, _, rest = words.partition(" ")
    is_score = first in ("train", "val", "test") and rest in ("loss", "acc.")
    return HEADINGS.get(name, f"{first}\n{rest}" if is_score else words)


def cell(value: Any) -> str:
    """A value in few characters: four digits of a number, its spread below it, a dash for what there is not."""
    if isinstance(value, str):
        return value.replace(" ± ", "\n± ")
    if value is None or value != value:
        return "–"
    return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4g}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> None:
    """Print rows under their headings, those of `numbers` to the right; never narrower than what they hold."""
    texts, to_the_right = [[cell(value) for value in row] for row in rows], set(numbers)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, name in enumerate(header):
        widest = max((len(line) for row in texts for line in row[index].split("\n")), default=0)
        justify = "right" if index in to_the_right else "left"
        table.add_column(heading(name), justify=justify, no_wrap=widest <= WIDEST_UNBROKEN, overflow="fold")
    for row in texts:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    needed = console.measure(table, options=console.options.update(max_width=400))
    if not console.is_terminal:
        console.width = needed.maximum
    else:
        console.width = max(console.width, needed.minimum)
    console.print(table)
